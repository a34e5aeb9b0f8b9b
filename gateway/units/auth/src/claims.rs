//! The claims of a JWT (RFC 7519 section 4.1), judged.
//!
//! Whatever a claim's rule is about must have the form the RFC gives it: a date that is a string or a negative number
//! is not "absent", it refuses the token. Dates may have fractions; an expiry is rounded down and a beginning up, so that
//! rounding never lengthens a token's life.

use std::borrow::Cow;

use serde_json::Value;
use sluice_vocabulary::claims::{Claims, Place, Raw, Span};
use sluice_vocabulary::{Identity, IssuerName};
use smallvec::SmallVec;

use crate::error::{Part, TokenFault};
use crate::pointer::ClaimPath;
use crate::scan::{self, Item, Text};
use crate::strict_json::BadJson;
use crate::witness::{Step, Witness, shown, spoken};

/// The latest date taken: the end of the year 9999. A later one is milliseconds taken for seconds, or a token for ever.
const LAST_DATE: f64 = 253_402_300_799.0;

/// Reads a payload, whole and strictly. It becomes the text of the claims; what escapes stand for is put behind it.
pub(crate) fn read(payload: Vec<u8>) -> Result<Claims, TokenFault> {
    let bad = |bad| TokenFault::Json(Part::Payload, bad);
    let mut text =
        String::from_utf8(payload).map_err(|error| bad(BadJson::at("not UTF-8", error.utf8_error().valid_up_to())))?;
    let mut behind = String::new();
    let mut places: SmallVec<[Place; 24]> = SmallVec::new();
    let end = text.len();
    let mut span = |Text { at, content }: &Text<'_>| match content {
        Cow::Borrowed(content) => Span::new(*at, content.len()),
        Cow::Owned(content) => {
            behind.push_str(content);
            Span::new(end + behind.len() - content.len(), content.len())
        }
    };
    scan::members(&text, |name, item| {
        let name = span(name);
        places.push(match item {
            Item::Text(content) => Place { name, value: span(&content), is_text: true },
            Item::Other { at, json } => Place { name, value: Span::new(at, json.len()), is_text: false },
        });
        Ok(())
    })
    .map_err(bad)?;
    text.push_str(&behind);
    Ok(Claims::new(text, &*places))
}

/// What an issuer's tokens must say.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Rules {
    /// The audiences of which one must be in `aud`. `None` where the operator gave the check up by name.
    pub(crate) audiences: Option<Vec<Box<str>>>,
    /// By how many seconds clocks may differ.
    pub(crate) leeway: u64,
}

impl Rules {
    /// Judges `aud`, `exp`, `nbf`, `iat` and `sub` at `now`. Gives the expiry, in seconds since the epoch.
    pub(crate) fn judge(&self, claims: &Claims, now: u64) -> Result<u64, TokenFault> {
        self.judge_before(claims, now, &mut ())
    }

    /// The same before a witness.
    pub(crate) fn judge_before<W: Witness>(
        &self,
        claims: &Claims,
        now: u64,
        witness: &mut W,
    ) -> Result<u64, TokenFault> {
        witness.begin(Step::Audience);
        match &self.audiences {
            Some(audiences) => judge_audience(claims, audiences, witness)?,
            None => witness.skip(&[Step::Audience], "tokens for any audience are accepted"),
        }
        witness.begin(Step::Expiry);
        let expires_at = date(claims, "exp", f64::floor)?.ok_or(TokenFault::ClaimMissing("exp"))?;
        witness.note(|| match now < expires_at {
            true => format!("expires in {}", spoken(expires_at - now)),
            false => format!("expired {} ago, leeway {}", spoken(now - expires_at), spoken(self.leeway)),
        });
        // "On or after which the JWT MUST NOT be accepted": the second itself is too late.
        let last = expires_at.saturating_add(self.leeway);
        if now >= last {
            return Err(TokenFault::Expired { ago: now - expires_at });
        }
        witness.begin(Step::NotBefore);
        match date(claims, "nbf", f64::ceil)? {
            None => witness.skip(&[Step::NotBefore], "the token has no nbf"),
            Some(begins_at) => {
                witness.note(|| match begins_at > now {
                    true => format!("good in {}, leeway {}", spoken(begins_at - now), spoken(self.leeway)),
                    false => format!("good since {} ago", spoken(now - begins_at)),
                });
                if begins_at > now.saturating_add(self.leeway) {
                    return Err(TokenFault::NotYetValid { wait: begins_at - now });
                }
            }
        }
        witness.begin(Step::Form);
        // When it was issued decides nothing here, yet it must be a date if it is there.
        date(claims, "iat", f64::floor)?;
        match claims.raw("sub") {
            None | Some(Raw::Text(_)) => Ok(expires_at),
            Some(Raw::Json(_)) => Err(TokenFault::ClaimForm("sub")),
        }
    }
}

/// Judges that the claims which RFC 9068 section 2.2 requires beside those of [`Rules`] are there.
pub(crate) fn judge_access_token(claims: &Claims) -> Result<(), TokenFault> {
    for name in ["sub", "client_id", "jti"] {
        match claims.raw(name) {
            Some(Raw::Text(_)) => {}
            Some(Raw::Json(_)) => return Err(TokenFault::ClaimForm(name)),
            None => return Err(TokenFault::ClaimMissing(name)),
        }
    }
    date(claims, "iat", f64::floor)?.ok_or(TokenFault::ClaimMissing("iat"))?;
    // Where any audience will do, one must be named all the same.
    if claims.raw("aud").is_none() { Err(TokenFault::ClaimMissing("aud")) } else { Ok(()) }
}

/// Builds the identity that judged claims stand for. Its scopes are in `scope_claim`, where the issuer has one.
pub(crate) fn identity(
    issuer: &IssuerName,
    scope_claim: Option<&ClaimPath>,
    claims: Claims,
    expires_at: u64,
) -> Identity {
    let Some(place) = scope_claim else { return Identity::new(issuer.clone(), claims, expires_at) };
    let scopes = match place.find(&claims) {
        Some(Value::String(list)) => list.split(' ').filter(|scope| !scope.is_empty()).map(Into::into).collect(),
        Some(Value::Array(list)) => list.iter().filter_map(Value::as_str).map(Into::into).collect(),
        _ => Box::default(),
    };
    Identity::with_scopes(issuer.clone(), claims, expires_at, scopes)
}

fn judge_audience<W: Witness>(claims: &Claims, ours: &[Box<str>], witness: &mut W) -> Result<(), TokenFault> {
    let is_ours = |audience: &str| ours.iter().any(|own| **own == *audience);
    let mut accepted = false;
    match claims.raw("aud") {
        None => return Err(TokenFault::ClaimMissing("aud")),
        Some(Raw::Text(audience)) => accepted = is_ours(audience),
        Some(Raw::Json(list)) => {
            let mut all_text = true;
            scan::elements(list, |audience| match audience {
                Item::Text(audience) => accepted |= is_ours(&audience.content),
                Item::Other { .. } => all_text = false,
            })
            .map_err(|_| TokenFault::ClaimForm("aud"))?;
            if !all_text {
                return Err(TokenFault::ClaimForm("aud"));
            }
        }
    }
    witness.note(|| {
        let theirs = match claims.raw("aud") {
            Some(Raw::Text(audience)) => shown(audience),
            Some(Raw::Json(list)) => shown(list),
            None => String::new(),
        };
        let ours: Vec<_> = ours.iter().map(|audience| shown(audience)).collect();
        let verb = if accepted { "has one of" } else { "has none of" };
        format!("aud {theirs} {verb} {}", ours.join(", "))
    });
    if accepted { Ok(()) } else { Err(TokenFault::Audience) }
}

/// A NumericDate (RFC 7519 section 2), if it is there, in whole seconds.
pub(crate) fn date(claims: &Claims, name: &'static str, round: fn(f64) -> f64) -> Result<Option<u64>, TokenFault> {
    let json = match claims.raw(name) {
        None => return Ok(None),
        Some(Raw::Text(_)) => return Err(TokenFault::ClaimForm(name)),
        Some(Raw::Json(json)) => json,
    };
    // As nearly every issuer writes it, up to twelve digits: any such number is in range of what follows.
    let whole = (json.len() <= 12 && json.bytes().all(|byte| byte.is_ascii_digit())).then(|| json.parse::<u64>().ok());
    let seconds = match whole.flatten() {
        Some(seconds) => seconds as f64,
        None => serde_json::from_str::<f64>(json).map_err(|_| TokenFault::ClaimForm(name))?,
    };
    if !(0.0..=LAST_DATE).contains(&seconds) {
        return Err(TokenFault::ClaimForm(name));
    }
    // In range, so the cast is exact after rounding.
    Ok(Some(round(seconds) as u64))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]
    use super::*;
    use serde_json::{Map, Value, json};

    const NOW: u64 = 1_000_000;

    fn judge(claims: Value) -> Result<u64, TokenFault> {
        let Value::Object(mut claims) = claims else { panic!("an object") };
        claims.entry("aud").or_insert(json!("edge"));
        claims.entry("exp").or_insert(json!(NOW + 60));
        Rules { audiences: Some(vec!["edge".into(), "other".into()]), leeway: 30 }.judge(&claims.into(), NOW)
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
        let without = Claims::from(Map::from_iter([("aud".to_owned(), json!("edge"))]));
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
    fn a_date_is_read_in_every_spelling_of_a_number() {
        for (exp, read) in [
            ("1000060", 1_000_060),
            ("1000060.0", 1_000_060),
            ("1000060.999999", 1_000_060),
            ("10000600e-1", 1_000_060),
            ("1.00006E+6", 1_000_060),
            ("253402300799", 253_402_300_799),
        ] {
            let claims = super::read(format!("{{\"exp\":{exp}}}").into_bytes()).unwrap();
            assert_eq!(Rules { audiences: None, leeway: 0 }.judge(&claims, NOW), Ok(read), "{exp}");
        }
        for bad in ["253402300800", "999999999999", "9999999999999", "2.534023008e11", "-1e-9"] {
            let claims = super::read(format!("{{\"exp\":{bad}}}").into_bytes()).unwrap();
            let rules = Rules { audiences: None, leeway: 0 };
            assert_eq!(rules.judge(&claims, NOW), Err(TokenFault::ClaimForm("exp")), "{bad}");
        }
    }

    #[test]
    fn a_configured_claim_grants_in_place_of_the_usual_ones() {
        let issuer = IssuerName::new("i").unwrap();
        let of = |place: &str, claims: Value| {
            let place = ClaimPath::parse(place).unwrap();
            let identity = identity(&issuer, Some(&place), claims.as_object().unwrap().clone().into(), 1);
            identity.scopes().map(ToOwned::to_owned).collect::<Vec<_>>()
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
        assert!(judge(json!({"sub": "s"})).is_ok());
        for bad in [json!(7), json!(null), json!(["s"]), json!({})] {
            assert_eq!(judge(json!({ "sub": bad })), Err(TokenFault::ClaimForm("sub")), "{bad}");
        }
    }

    #[test]
    fn claims_are_found_by_what_their_escapes_stand_for() {
        let payload = br#" {"\u0073ub":"a\nb\u00e9","b":"plain","c\\":[1],"n":1.50,"e":""} "#;
        let claims = super::read(payload.to_vec()).unwrap();
        assert_eq!(claims.raw("sub"), Some(Raw::Text("a\nbé")));
        assert_eq!(claims.raw("b"), Some(Raw::Text("plain")));
        assert_eq!(claims.raw("c\\"), Some(Raw::Json("[1]")));
        assert_eq!(claims.raw("n"), Some(Raw::Json("1.50")));
        assert_eq!(claims.raw("e"), Some(Raw::Text("")));
        let lenient: Value = serde_json::from_slice(payload).unwrap();
        let read: Map<_, _> = claims.iter().map(|(name, raw)| (name.to_owned(), raw.read().unwrap())).collect();
        assert_eq!(Value::Object(read), lenient);
        assert!(super::read(b"{\"a\":\"\xff\"}".to_vec()).is_err());
    }
}
