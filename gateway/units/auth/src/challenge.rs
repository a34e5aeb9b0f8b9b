//! What a refused client is told (RFC 6750 section 3), to the parameter, built before the first request.
//!
//! No token at all earns a bare challenge without an error code. A token that is no good earns `invalid_token` and one
//! of a fixed list of sentences; credentials that break the grammar earn `invalid_request` and 400; a good token without
//! the scope earns `insufficient_scope`, 403 and the scopes wanted; one that the route's other rules refuse earns the same
//! code without a word about the rules; one whose user must be authenticated anew earns `insufficient_user_authentication`
//! (RFC 9470). Keys that cannot be had are not the client's fault
//! and earn no challenge.

use http::HeaderValue;
use http::header::{RETRY_AFTER, WWW_AUTHENTICATE};
use sluice_vocabulary::{Reason, Refusal};

use crate::error::TokenFault;

/// The challenges of one realm.
#[derive(Debug)]
pub(crate) struct Challenges {
    realm: Box<str>,
    bare: HeaderValue,
    invalid_request: HeaderValue,
    malformed: HeaderValue,
    rejected: HeaderValue,
    expired: HeaderValue,
    revoked: HeaderValue,
    not_yet_valid: HeaderValue,
    not_for_us: HeaderValue,
}

impl Challenges {
    /// Builds them, of a validated realm.
    pub(crate) fn new(realm: &str) -> Self {
        let value = |rest: &str| challenge(format!("Bearer realm=\"{realm}\"{rest}"));
        let error =
            |code: &str, description: &str| value(&format!(", error=\"{code}\", error_description=\"{description}\""));
        Self {
            realm: realm.into(),
            bare: value(""),
            invalid_request: error("invalid_request", "The request must carry one bearer token"),
            malformed: error("invalid_token", "The token cannot be read"),
            rejected: error("invalid_token", "The token is not valid"),
            expired: error("invalid_token", "The token has expired"),
            revoked: error("invalid_token", "The token was revoked"),
            not_yet_valid: error("invalid_token", "The token is not valid yet"),
            not_for_us: error("invalid_token", "The token is not accepted here"),
        }
    }

    /// The challenge of a route whose scopes a token lacks.
    pub(crate) fn insufficient_scope<'s>(&self, scopes: impl Iterator<Item = &'s str>) -> HeaderValue {
        let mut each = Vec::new();
        for scope in scopes {
            if !each.contains(&scope) {
                each.push(scope);
            }
        }
        let scopes = each.join(" ");
        let description = "The token lacks a required scope";
        challenge(format!(
            "Bearer realm=\"{}\", error=\"insufficient_scope\", error_description=\"{description}\", scope=\"{scopes}\"",
            self.realm
        ))
    }

    /// The challenge of a route whose other rules a token does not meet. RFC 6750 has one code for whatever is 403.
    pub(crate) fn not_allowed(&self) -> HeaderValue {
        let description = "The token does not allow this request";
        let realm = &self.realm;
        challenge(format!(
            "Bearer realm=\"{realm}\", error=\"insufficient_scope\", error_description=\"{description}\""
        ))
    }

    /// The challenge of a route that asks for another authentication of the user (RFC 9470 section 3): `acr` is a list
    /// parted by spaces, empty where any will do, `max_age` is in seconds.
    pub(crate) fn insufficient_authentication(
        &self,
        description: &str,
        acr: &str,
        max_age: Option<u64>,
    ) -> HeaderValue {
        let acr = if acr.is_empty() { String::new() } else { format!(", acr_values=\"{acr}\"") };
        let max_age = max_age.map(|seconds| format!(", max_age=\"{seconds}\"")).unwrap_or_default();
        challenge(format!(
            "Bearer realm=\"{}\", error=\"insufficient_user_authentication\", error_description=\"{description}\"{acr}{max_age}",
            self.realm
        ))
    }

    /// A challenge to a token that is no good for a reason of its own, told by a sentence.
    pub(crate) fn invalid_token(&self, description: &str) -> HeaderValue {
        let realm = &self.realm;
        challenge(format!("Bearer realm=\"{realm}\", error=\"invalid_token\", error_description=\"{description}\""))
    }

    /// The answer to a request without a token.
    pub(crate) fn missing(&self) -> Refusal {
        Refusal::new(Reason::TokenMissing).header(WWW_AUTHENTICATE, self.bare.clone())
    }

    /// The answer to credentials that break the grammar.
    pub(crate) fn malformed_credentials(&self, why: &'static str) -> Refusal {
        Refusal::new(Reason::CredentialsMalformed).header(WWW_AUTHENTICATE, self.invalid_request.clone()).internal(why)
    }

    /// The answer to a token that is no good.
    pub(crate) fn bad_token(&self, fault: &TokenFault) -> Refusal {
        let reason = fault.reason();
        let challenge = match reason {
            Reason::TokenMalformed => &self.malformed,
            Reason::TokenExpired => &self.expired,
            Reason::TokenRevoked => &self.revoked,
            Reason::TokenNotYetValid => &self.not_yet_valid,
            Reason::TokenNotForUs => &self.not_for_us,
            _ => &self.rejected,
        };
        Refusal::new(reason).header(WWW_AUTHENTICATE, challenge.clone()).internal(fault.to_string())
    }
}

/// A challenge as a header value. Realm and scopes were validated to be printable ASCII, so the bare scheme, which is a
/// challenge too, only stands in where they were not.
fn challenge(text: String) -> HeaderValue {
    HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static("Bearer"))
}

/// The answer while an issuer's keys cannot be had.
pub(crate) fn keys_unavailable(issuer: &str, why: &str, retry_after: u64) -> Refusal {
    Refusal::new(Reason::KeysUnavailable)
        .header(RETRY_AFTER, HeaderValue::from(retry_after.max(1)))
        .internal(format!("issuer {issuer}: {why}"))
}

/// The answer while it is not known what was revoked.
pub(crate) fn revocations_unknown(why: &'static str) -> Refusal {
    Refusal::new(Reason::KeysUnavailable).header(RETRY_AFTER, HeaderValue::from(1)).internal(why)
}

/// The answer to an address over its budget of signature checks.
pub(crate) fn address_limited(retry_after: u64) -> Refusal {
    Refusal::new(Reason::AddressRateLimited)
        .header(RETRY_AFTER, HeaderValue::from(retry_after.max(1)))
        .internal("over the address's budget of signature checks")
}
