//! The claims of a JWT (RFC 7519 section 4.1), judged.
//!
//! Whatever a claim's rule is about must have the form the RFC gives it: a date that is a string or a negative number
//! is not "absent", it refuses the token. Dates may have fractions; an expiry is rounded down and a beginning up, so that
//! rounding never lengthens a token's life.

use serde_json::{Map, Value};
use sluice_vocabulary::{Identity, IssuerName};

use crate::error::TokenFault;
use crate::pointer::ClaimPath;

/// The latest date taken: the end of the year 9999. A later one is milliseconds taken for seconds, or a token for ever.
const LAST_DATE: f64 = 253_402_300_799.0;

/// What an issuer's tokens must say.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Rules {
    /// The audiences of which one must be in `aud`. `None` where the operator gave the check up by name.
    pub(crate) audiences: Option<Vec<Box<str>>>,
    /// By how many seconds clocks may differ.
    pub(crate) leeway: u64,
}

impl Rules {
    /// Judges `aud`, `exp`, `nbf` and `iat` at `now`. Gives the expiry, in seconds since the epoch.
    pub(crate) fn judge(&self, claims: &Map<String, Value>, now: u64) -> Result<u64, TokenFault> {
        if let Some(audiences) = &self.audiences {
            judge_audience(claims, audiences)?;
        }
        let expires_at = date(claims, "exp", f64::floor)?.ok_or(TokenFault::ClaimMissing("exp"))?;
        // "On or after which the JWT MUST NOT be accepted": the second itself is too late.
        let last = expires_at.saturating_add(self.leeway);
        if now >= last {
            return Err(TokenFault::Expired { ago: now - expires_at });
        }
        if let Some(begins_at) = date(claims, "nbf", f64::ceil)?
            && begins_at > now.saturating_add(self.leeway)
        {
            return Err(TokenFault::NotYetValid { wait: begins_at - now });
        }
        // When it was issued decides nothing here, yet it must be a date if it is there.
        date(claims, "iat", f64::floor)?;
        Ok(expires_at)
    }
}

/// Builds the identity that judged claims stand for. Its scopes are in `scope_claim`, where the issuer has one.
pub(crate) fn identity(
    issuer: &IssuerName,
    scope_claim: Option<&ClaimPath>,
    claims: Map<String, Value>,
    expires_at: u64,
) -> Result<Identity, TokenFault> {
    let subject = match claims.get("sub") {
        None => None,
        Some(Value::String(subject)) => Some(subject.as_str().into()),
        Some(_) => return Err(TokenFault::ClaimForm("sub")),
    };
    let mut identity = Identity { issuer: issuer.clone(), subject, scopes: Vec::new(), expires_at, claims };
    identity.scopes = match scope_claim {
        None => scopes(identity.claims.get("scope").or_else(|| identity.claims.get("scp"))),
        Some(place) => scopes(place.find(&identity)),
    };
    Ok(identity)
}

fn judge_audience(claims: &Map<String, Value>, ours: &[Box<str>]) -> Result<(), TokenFault> {
    let is_ours = |audience: &str| ours.iter().any(|own| **own == *audience);
    let accepted = match claims.get("aud") {
        None => return Err(TokenFault::ClaimMissing("aud")),
        Some(Value::String(audience)) => is_ours(audience),
        Some(Value::Array(audiences)) => {
            if !audiences.iter().all(Value::is_string) {
                return Err(TokenFault::ClaimForm("aud"));
            }
            audiences.iter().filter_map(Value::as_str).any(is_ours)
        }
        Some(_) => return Err(TokenFault::ClaimForm("aud")),
    };
    if accepted { Ok(()) } else { Err(TokenFault::Audience) }
}

/// A NumericDate (RFC 7519 section 2), if it is there, in whole seconds.
pub(crate) fn date(
    claims: &Map<String, Value>,
    name: &'static str,
    round: fn(f64) -> f64,
) -> Result<Option<u64>, TokenFault> {
    let Some(value) = claims.get(name) else { return Ok(None) };
    let seconds = value.as_f64().ok_or(TokenFault::ClaimForm(name))?;
    if !(0.0..=LAST_DATE).contains(&seconds) || !value.is_number() {
        return Err(TokenFault::ClaimForm(name));
    }
    // In range, so the cast is exact after rounding.
    Ok(Some(value.as_u64().unwrap_or(round(seconds) as u64)))
}

/// The scopes granted: a text as RFC 9068 section 2.2.3 writes it into `scope`, or the array that some issuers write.
/// Anything else grants nothing.
fn scopes(claim: Option<&Value>) -> Vec<Box<str>> {
    match claim {
        Some(Value::String(list)) => list.split(' ').filter(|scope| !scope.is_empty()).map(Into::into).collect(),
        Some(Value::Array(list)) => list.iter().filter_map(Value::as_str).map(Into::into).collect(),
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]
    use super::*;
    use serde_json::json;

    const NOW: u64 = 1_000_000;

    fn judge(claims: Value) -> Result<u64, TokenFault> {
        let Value::Object(mut claims) = claims else { panic!("an object") };
        claims.entry("aud").or_insert(json!("edge"));
        claims.entry("exp").or_insert(json!(NOW + 60));
        Rules { audiences: Some(vec!["edge".into(), "other".into()]), leeway: 30 }.judge(&claims, NOW)
    }

    #[test]
    fn a_token_lives_until_its_expiry_and_the_leeway() {
        assert_eq!(judge(json!({"exp": NOW - 29})), Ok(NOW - 29));
        assert_eq!(judge(json!({"exp": NOW - 30})), Err(TokenFault::Expired { ago: 30 }));
        assert_eq!(judge(json!({"exp": 0})), Err(TokenFault::Expired { ago: NOW }));
        assert_eq!(judge(json!({"exp": NOW as f64 + 0.9})), Ok(NOW));
    }

    #[test]
    fn a_token_is_born_at_its_beginning_less_the_leeway() {
        assert!(judge(json!({"nbf": NOW + 30})).is_ok());
        assert_eq!(judge(json!({"nbf": NOW + 31})), Err(TokenFault::NotYetValid { wait: 31 }));
        assert_eq!(judge(json!({"nbf": NOW as f64 + 30.1})), Err(TokenFault::NotYetValid { wait: 31 }));
    }

    #[test]
    fn a_date_of_another_form_refuses_the_token() {
        for name in ["exp", "nbf", "iat"] {
            for bad in [
                json!(null),
                json!(true),
                json!("1000060"),
                json!(""),
                json!([]),
                json!([NOW]),
                json!({}),
                json!(-1),
                json!(-0.5),
                json!(1e300),
                json!(u64::MAX),
                json!(i64::MIN),
                json!(NOW * 1_000_000_000),
            ] {
                assert_eq!(judge(json!({ name: bad })), Err(TokenFault::ClaimForm(name)), "{name} {bad}");
            }
        }
        let Value::Object(without) = json!({"aud": "edge"}) else { panic!("an object") };
        let rules = Rules { audiences: None, leeway: 0 };
        assert_eq!(rules.judge(&without, NOW), Err(TokenFault::ClaimMissing("exp")));
    }

    #[test]
    fn one_audience_of_ours_is_enough_and_one_is_needed() {
        assert!(judge(json!({"aud": ["x", "other"]})).is_ok());
        for (aud, fault) in [
            (json!("edg"), TokenFault::Audience),
            (json!("edge "), TokenFault::Audience),
            (json!("edge other"), TokenFault::Audience),
            (json!([]), TokenFault::Audience),
            (json!(["x"]), TokenFault::Audience),
            (json!(["edge", 1]), TokenFault::ClaimForm("aud")),
            (json!([["edge"]]), TokenFault::ClaimForm("aud")),
            (json!({"edge": 1}), TokenFault::ClaimForm("aud")),
            (json!(null), TokenFault::ClaimForm("aud")),
        ] {
            assert_eq!(judge(json!({ "aud": aud })), Err(fault), "{aud}");
        }
    }

    #[test]
    fn scopes_are_read_from_each_form_that_issuers_write() {
        let issuer = IssuerName::new("i").unwrap();
        let of = |claims: Value| {
            let identity = identity(&issuer, None, claims.as_object().unwrap().clone(), 1).unwrap();
            identity.scopes.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(of(json!({"scope": "a  b:c "})), ["a", "b:c"]);
        assert_eq!(of(json!({"scope": ["a", "b c"]})), ["a", "b c"]);
        assert_eq!(of(json!({"scp": "a b"})), ["a", "b"]);
        assert_eq!(of(json!({"scp": ["a"]})), ["a"]);
        for nothing in [json!({}), json!({"scope": 1}), json!({"scope": {"a": true}}), json!({"scope": ""})] {
            assert!(of(nothing).is_empty());
        }
    }

    #[test]
    fn a_configured_claim_grants_in_place_of_the_usual_ones() {
        let issuer = IssuerName::new("i").unwrap();
        let of = |place: &str, claims: Value| {
            let place = ClaimPath::parse(place).unwrap();
            let identity = identity(&issuer, Some(&place), claims.as_object().unwrap().clone(), 1).unwrap();
            identity.scopes.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        let claims = json!({"scope": "email", "realm_access": {"roles": ["a", "b"]}, "https://x/roles": "c d"});
        assert_eq!(of("realm_access.roles", claims.clone()), ["a", "b"]);
        assert_eq!(of("/realm_access/roles", claims.clone()), ["a", "b"]);
        assert_eq!(of("/realm_access/roles/1", claims.clone()), ["b"]);
        assert_eq!(of("https://x/roles", claims.clone()), ["c", "d"]);
        for absent in ["realm_access", "/realm_access", "/roles", "roles"] {
            assert!(of(absent, claims.clone()).is_empty(), "{absent}");
        }
    }

    #[test]
    fn a_subject_is_text_or_the_token_is_refused() {
        let issuer = IssuerName::new("i").unwrap();
        let of = |claims: Value| identity(&issuer, None, claims.as_object().unwrap().clone(), 1);
        assert_eq!(of(json!({"sub": "s"})).unwrap().subject.as_deref(), Some("s"));
        assert_eq!(of(json!({})).unwrap().subject, None);
        assert_eq!(of(json!({"sub": 7})), Err(TokenFault::ClaimForm("sub")));
    }
}
