//! The answer of an introspection endpoint (RFC 7662 section 2.2), read strictly and judged.
//!
//! Reading tells a no from nonsense: `active` is exactly `true` or exactly `false`, in one strict object, under status
//! 200; whatever else comes is no answer, and not the token's fault. Judging an active token's members is done by the same
//! rules as judging a JWT's claims, where they are there: the endpoint may leave all of them out but `active`.

use http::StatusCode;
use serde_json::{Map, Value};
use sluice_vocabulary::{Identity, IssuerName};

use crate::claims::{self, Rules};
use crate::client::Answer;
use crate::error::TokenFault;
use crate::pointer::ClaimPath;
use crate::remote::RemoteFault;
use crate::strict_json;

/// What an active token stands for, as told; `None` for one that is not active.
pub(crate) type Told = Option<Map<String, Value>>;

/// Reads an answer.
pub(crate) fn read(answer: &Answer) -> Result<Told, RemoteFault> {
    if answer.status != StatusCode::OK {
        // Also where it does not know our credentials: the token was not looked at.
        return Err(RemoteFault::Status(answer.status, "200"));
    }
    read_body(&answer.body)
}

/// Reads an answer's body.
pub(crate) fn read_body(body: &[u8]) -> Result<Told, RemoteFault> {
    let mut members = strict_json::object(body).map_err(|bad| RemoteFault::Malformed(bad.to_string().into()))?;
    match members.remove("active") {
        Some(Value::Bool(true)) => Ok(Some(members)),
        Some(Value::Bool(false)) => Ok(None),
        Some(_) => Err(RemoteFault::Malformed("active is neither true nor false".into())),
        None => Err(RemoteFault::Malformed("it has no active".into())),
    }
}

/// What an issuer's active tokens must be like.
#[derive(Debug)]
pub(crate) struct Judge {
    pub(crate) issuer: IssuerName,
    /// The value of `iss`, where it is told.
    pub(crate) iss: Box<str>,
    pub(crate) rules: Rules,
    /// Where its tokens have their scopes, if not in the usual claim.
    pub(crate) scope_claim: Option<ClaimPath>,
    /// For how many seconds a token without `exp` is believed in; at least one.
    pub(crate) belief: u64,
}

impl Judge {
    /// Judges what was told of an active token at `now`.
    pub(crate) fn judge(&self, mut told: Map<String, Value>, now: u64) -> Result<Identity, TokenFault> {
        match told.get("iss") {
            None => {}
            Some(Value::String(iss)) if **iss == *self.iss => {}
            Some(Value::String(_)) => return Err(TokenFault::Issuer),
            Some(_) => return Err(TokenFault::ClaimForm("iss")),
        }
        judge_kind(&told)?;
        let forever = !told.contains_key("exp");
        if forever {
            told.insert("exp".into(), now.saturating_add(self.belief).into());
        }
        let expires_at = self.rules.judge(&told.clone().into(), now)?;
        if forever {
            told.remove("exp");
        }
        Ok(claims::identity(&self.issuer, self.scope_claim.as_ref(), told.into(), expires_at))
    }
}

/// Whether it is an access token. An endpoint calls refresh tokens active too, whatever it was given as a hint; and one
/// for DPoP must name the key it is bound to, since it would pass for a bearer's otherwise.
fn judge_kind(told: &Map<String, Value>) -> Result<(), TokenFault> {
    let is_one_of = |name: &'static str, expected: &[&str]| match told.get(name) {
        None => Ok(()),
        Some(Value::String(kind)) if expected.iter().any(|known| known.eq_ignore_ascii_case(kind)) => Ok(()),
        Some(Value::String(_)) => Err(TokenFault::WrongKind),
        Some(_) => Err(TokenFault::ClaimForm(name)),
    };
    let has_key = told.get("cnf").and_then(|cnf| cnf.get("jkt")).is_some_and(Value::is_string);
    // RFC 6749 section 7.1 and RFC 9449 section 5; some servers write the third.
    is_one_of("token_type", if has_key { &["Bearer", "access_token", "DPoP"] } else { &["Bearer", "access_token"] })?;
    // Not of the RFC, and how several servers tell refresh tokens.
    is_one_of("token_use", &["access_token", "access"])
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    const NOW: u64 = 1_000_000;

    fn judge(told: Value) -> Result<Identity, TokenFault> {
        let Value::Object(told) = told else { panic!("an object") };
        let rules = Rules { audiences: Some(vec!["edge".into()]), leeway: 30 };
        let issuer = IssuerName::new("opaque").unwrap();
        let mut told = told;
        told.entry("aud").or_insert(json!("edge"));
        Judge { issuer, iss: "https://id".into(), rules, scope_claim: None, belief: 10 }.judge(told, NOW)
    }

    #[test]
    fn active_is_exactly_true_or_exactly_false() {
        assert_eq!(read_body(br#"{"active":true,"sub":"s"}"#).unwrap().unwrap().len(), 1);
        assert_eq!(read_body(br#"{"active":false}"#).unwrap(), None);
        assert_eq!(read_body(br#"{"active":false,"sub":"s"}"#).unwrap(), None);
        for bad in [
            r#"{}"#,
            r#"{"active":"true"}"#,
            r#"{"active":"false"}"#,
            r#"{"active":1}"#,
            r#"{"active":0}"#,
            r#"{"active":null}"#,
            r#"{"active":[true]}"#,
            r#"{"Active":true}"#,
            r#"{"active":false,"active":true}"#,
            r#"{"active":true,"sub":"a","sub":"b"}"#,
            r#"{"active":true,"x":{"y":1,"y":2}}"#,
            r#"{"active":true}{"active":true}"#,
            r#"[{"active":true}]"#,
            "true",
            "active=true",
            "<html>",
            "",
        ] {
            assert!(matches!(read_body(bad.as_bytes()), Err(RemoteFault::Malformed(_))), "{bad}");
        }
    }

    #[test]
    fn what_is_told_is_judged_as_claims_are_and_what_is_not_told_is_not_missed() {
        let identity = judge(json!({"sub": "s", "scope": "a b", "exp": NOW + 60, "iss": "https://id"})).unwrap();
        assert_eq!((identity.subject(), identity.scopes().count(), identity.expires_at), (Some("s"), 2, NOW + 60));
        let bare = judge(json!({})).unwrap();
        assert_eq!((bare.expires_at, bare.claim("exp")), (NOW + 10, None), "believed for as long as answers are");
        for (told, fault) in [
            (json!({"exp": NOW - 31}), TokenFault::Expired { ago: 31 }),
            (json!({"exp": "never"}), TokenFault::ClaimForm("exp")),
            (json!({"nbf": NOW + 31}), TokenFault::NotYetValid { wait: 31 }),
            (json!({"iat": -1}), TokenFault::ClaimForm("iat")),
            (json!({"aud": "other"}), TokenFault::Audience),
            (json!({"iss": "https://other"}), TokenFault::Issuer),
            (json!({"iss": 1}), TokenFault::ClaimForm("iss")),
            (json!({"sub": 1}), TokenFault::ClaimForm("sub")),
        ] {
            assert_eq!(judge(told.clone()).unwrap_err(), fault, "{told}");
        }
    }

    #[test]
    fn a_refresh_token_is_no_access_token_and_a_bound_one_names_its_key() {
        for good in [
            json!({"token_type": "bearer"}),
            json!({"token_type": "Bearer", "token_use": "access_token"}),
            json!({"token_type": "DPoP", "cnf": {"jkt": "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I"}}),
        ] {
            assert!(judge(good.clone()).is_ok(), "{good}");
        }
        for bad in [json!({"token_type": "DPoP"}), json!({"token_use": "refresh_token"}), json!({"token_type": "mac"})]
        {
            assert_eq!(judge(bad.clone()).unwrap_err(), TokenFault::WrongKind, "{bad}");
        }
        assert_eq!(judge(json!({"token_type": 1})).unwrap_err(), TokenFault::ClaimForm("token_type"));
    }

    proptest! {
        #[test]
        fn hostile_bytes_are_never_an_active_token(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(Some(_)) = read_body(&bytes) {
                let lenient: Value = serde_json::from_slice(&bytes).unwrap();
                prop_assert_eq!(&lenient["active"], &Value::Bool(true));
            }
        }
    }
}
