//! How, and how recently, the user must have been authenticated (RFC 9470).
//!
//! A token says so in `acr` and `auth_time` (RFC 9068 section 2.2.1). One that says less than the route asks for is good,
//! and not good enough: the client is told what to ask the issuer for, 401 as the RFC has it, and comes back with another.
//! Both of a route's demands are told, whichever failed, so that one more round is enough.

use http::HeaderValue;
use http::header::WWW_AUTHENTICATE;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sluice_vocabulary::claims::{Claims, Raw};
use sluice_vocabulary::measure::Span;
use sluice_vocabulary::{Faults, Path, Reason, Refusal};

use crate::challenge::Challenges;
use crate::claims;

/// The most values of `acr`, and the longest: a challenge names them all.
const MOST_VALUES: usize = 16;
const LONGEST_VALUE: usize = 128;

/// How the user behind a token must have been authenticated (RFC 9470). At least one of `acr` and `max_age`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct StepUp {
    /// The values of the claim `acr` of which the token must have one, the preferred one first. Default: any, or none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub acr: Vec<String>,
    /// How long ago, by the claim `auth_time`, the user may have been authenticated; whole seconds, from 1s to 30d. The
    /// issuer's leeway is added. Default: however long.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_age: Option<Span>,
}

impl StepUp {
    /// Reports every fault.
    pub(crate) fn validate(&self, at: &Path, faults: &mut Faults) {
        if self.acr.is_empty() && self.max_age.is_none() {
            faults.error(at, "neither acr nor max_age is given: expected at least one of them");
        }
        if self.acr.len() > MOST_VALUES {
            faults.error(&at.key("acr"), format!("{} values: at most {MOST_VALUES} are taken", self.acr.len()));
        }
        for (index, acr) in self.acr.iter().enumerate() {
            let here = at.key("acr").index(index);
            // They stand in one quoted-string, parted by spaces.
            if !acr.bytes().all(|byte| matches!(byte, 0x21 | 0x23..=0x5b | 0x5d..=0x7e)) || acr.is_empty() {
                faults
                    .error(&here, format!("{acr:?} is not an acr: expected printable ASCII without space, \" and \\"));
            } else if acr.len() > LONGEST_VALUE {
                faults.error(&here, format!("an acr of {} bytes: at most {LONGEST_VALUE} are taken", acr.len()));
            } else if self.acr[..index].contains(acr) {
                faults.error(&here, format!("{acr} is listed twice"));
            }
        }
        if let Some(age) = self.max_age {
            let (least, most) = (Span::secs(1), Span::secs(30 * 86_400));
            if age < least || age > most {
                faults.error(&at.key("max_age"), format!("{age} is out of bounds: expected {least} to {most}"));
            } else if age.get().subsec_nanos() != 0 {
                faults
                    .error(&at.key("max_age"), format!("{age} is not whole seconds, which is all a challenge can say"));
            }
        }
    }
}

/// What a route asks for, compiled.
#[derive(Debug)]
pub(crate) struct Demand {
    acr: Box<[Box<str>]>,
    /// In seconds.
    max_age: Option<u64>,
    other_level: HeaderValue,
    more_recent: HeaderValue,
}

impl Demand {
    /// Compiles a validated configuration.
    pub(crate) fn new(wanted: &StepUp, challenges: &Challenges) -> Self {
        let acr: Box<[Box<str>]> = wanted.acr.iter().map(|acr| acr.as_str().into()).collect();
        let max_age = wanted.max_age.map(|age| age.get().as_secs());
        let challenge =
            |description| challenges.insufficient_authentication(description, &wanted.acr.join(" "), max_age);
        Self {
            other_level: challenge("A different authentication level is required"),
            more_recent: challenge("More recent authentication is required"),
            acr,
            max_age,
        }
    }

    /// Judges the claims at `now`, where clocks may differ by `leeway` seconds.
    pub(crate) fn judge(&self, claims: &Claims, now: u64, leeway: u64) -> Result<(), Refusal> {
        let refuse = |challenge: &HeaderValue, why| {
            let refusal = Refusal::new(Reason::AuthenticationInsufficient);
            Err(refusal.header(WWW_AUTHENTICATE, challenge.clone()).internal(why))
        };
        let has_level = || {
            let acr = match claims.raw("acr") {
                Some(Raw::Text(acr)) => acr,
                _ => return false,
            };
            self.acr.iter().any(|accepted| **accepted == *acr)
        };
        if !self.acr.is_empty() && !has_level() {
            return refuse(&self.other_level, "the token's acr is none that the route accepts");
        }
        let Some(max_age) = self.max_age else { return Ok(()) };
        // One that is no date says nothing; one of tomorrow says nothing that can be believed.
        let Ok(Some(auth_time)) = claims::date(claims, "auth_time", f64::floor) else {
            return refuse(&self.more_recent, "the token has no auth_time");
        };
        if auth_time > now.saturating_add(leeway) {
            return refuse(&self.more_recent, "the token's auth_time is yet to come");
        }
        if now > auth_time.saturating_add(max_age).saturating_add(leeway) {
            return refuse(&self.more_recent, "the token's auth_time is longer ago than the route accepts");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]
    use super::*;
    use serde_json::{Value, json};

    const NOW: u64 = 1_000_000;

    fn judge(wanted: &StepUp, claims: Value) -> Option<String> {
        let Value::Object(claims) = claims else { panic!("an object") };
        let refusal = Demand::new(wanted, &Challenges::new("r")).judge(&claims.into(), NOW, 30).err()?;
        assert_eq!((refusal.reason, refusal.status().as_u16()), (Reason::AuthenticationInsufficient, 401));
        let [(name, value)] = refusal.headers.as_slice() else { panic!("one header") };
        assert_eq!(name, WWW_AUTHENTICATE);
        Some(value.to_str().unwrap().to_owned())
    }

    fn acr(values: &[&str]) -> StepUp {
        StepUp { acr: values.iter().map(ToString::to_string).collect(), max_age: None }
    }

    #[test]
    fn challenges_are_those_of_rfc_9470_to_the_parameter() {
        let level = concat!(
            r#"Bearer realm="r", error="insufficient_user_authentication", "#,
            r#"error_description="A different authentication level is required", acr_values="gold silver""#
        );
        assert_eq!(judge(&acr(&["gold", "silver"]), json!({})).as_deref(), Some(level));
        let recent = concat!(
            r#"Bearer realm="r", error="insufficient_user_authentication", "#,
            r#"error_description="More recent authentication is required", max_age="300""#
        );
        let wanted = StepUp { max_age: Some(Span::secs(300)), ..StepUp::default() };
        assert_eq!(judge(&wanted, json!({})).as_deref(), Some(recent));
        let both = concat!(
            r#"Bearer realm="r", error="insufficient_user_authentication", "#,
            r#"error_description="More recent authentication is required", acr_values="gold", max_age="300""#
        );
        let wanted = StepUp { max_age: Some(Span::secs(300)), ..acr(&["gold"]) };
        assert_eq!(judge(&wanted, json!({"acr": "gold", "auth_time": 1})).as_deref(), Some(both));
    }

    #[test]
    fn one_acr_of_the_list_is_enough_and_its_absence_is_none() {
        let wanted = acr(&["gold", "silver"]);
        assert_eq!(judge(&wanted, json!({"acr": "gold"})), None);
        assert_eq!(judge(&wanted, json!({"acr": "silver"})), None);
        for claims in [json!({}), json!({"acr": "bronze"}), json!({"acr": "Gold"}), json!({"acr": "gold silver"})] {
            assert!(judge(&wanted, claims.clone()).is_some(), "{claims}");
        }
        for claims in [json!({"acr": ["gold"]}), json!({"acr": null}), json!({"acr": 1}), json!({"acr": ""})] {
            assert!(judge(&wanted, claims.clone()).is_some(), "{claims}");
        }
    }

    #[test]
    fn an_authentication_ages_to_the_second_and_the_leeway() {
        let wanted = StepUp { max_age: Some(Span::secs(300)), ..StepUp::default() };
        for good in [json!(NOW), json!(NOW - 330), json!(NOW + 30), json!(NOW as f64 - 329.5)] {
            assert_eq!(judge(&wanted, json!({"auth_time": good})), None, "{good}");
        }
        let bad = [json!(NOW - 331), json!(NOW + 31), json!(0), json!(-1), json!("1000000"), json!(null), json!(1e300)];
        for bad in bad {
            assert!(judge(&wanted, json!({"auth_time": bad})).is_some(), "{bad}");
        }
        // When the token was issued is not when its user was seen.
        assert!(judge(&wanted, json!({"iat": NOW})).is_some());
    }

    #[test]
    fn a_demand_that_a_challenge_cannot_say_is_refused() {
        let faults = |wanted: Value| {
            let mut faults = Faults::new();
            serde_json::from_value::<StepUp>(wanted).unwrap().validate(&Path::root().key("step_up"), &mut faults);
            faults.into_vec().into_iter().map(|fault| fault.path.to_string()).collect::<Vec<_>>()
        };
        assert_eq!(faults(json!({})), ["step_up"]);
        assert_eq!(faults(json!({"acr": ["a b", "", "x\"", "ok", "ok"]})).len(), 4);
        assert_eq!(faults(json!({"max_age": "0s"})), ["step_up.max_age"]);
        assert_eq!(faults(json!({"max_age": "1500ms"})), ["step_up.max_age"]);
        assert_eq!(faults(json!({"max_age": "31d"})), ["step_up.max_age"]);
        assert!(faults(json!({"acr": ["urn:mace:incommon:iap:silver"], "max_age": "5m"})).is_empty());
    }
}
