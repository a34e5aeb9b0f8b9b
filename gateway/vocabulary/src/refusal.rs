//! Why a request is turned away: the one table from reasons to HTTP.
//!
//! Every unit that can refuse names a [`Reason`]; what the client is told follows from it here and nowhere else, so that
//! a client never learns internals and an operator finds every reason under one name in metrics, logs and documents.
//! Answers are problem+json (RFC 9457) with a `type` that stays the same; to a gRPC client the same reason becomes a
//! grpc-status.

use std::borrow::Cow;

use http::{HeaderName, HeaderValue, StatusCode};

macro_rules! reasons {
    ($( $(#[$doc:meta])* $variant:ident = $status:literal $slug:literal $title:literal, $grpc:literal; )*) => {
        /// Why a request was refused, or could not be served.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Reason { $( $(#[$doc])* $variant, )* }

        impl Reason {
            /// Every reason, in the table's order.
            pub const ALL: &'static [Reason] = &[ $( Reason::$variant, )* ];

            /// The status code a client gets.
            pub const fn status(self) -> StatusCode {
                match self { $( Self::$variant => match StatusCode::from_u16($status) { Ok(s) => s, Err(_) => StatusCode::INTERNAL_SERVER_ERROR }, )* }
            }

            /// The stable name: last part of the problem's `type`, and the value of the `reason` label and log field.
            pub const fn slug(self) -> &'static str {
                match self { $( Self::$variant => $slug, )* }
            }

            /// The problem's `title`: fit for anybody's eyes.
            pub const fn title(self) -> &'static str {
                match self { $( Self::$variant => $title, )* }
            }

            /// The status a gRPC client gets (numbers of the gRPC status-code list).
            pub const fn grpc_status(self) -> u8 {
                match self { $( Self::$variant => $grpc, )* }
            }
        }
    };
}

reasons! {
    /// The message breaks HTTP's grammar or framing.
    BadRequest = 400 "bad-request" "The request is not well-formed", 3;
    /// The request target is not one this gateway forwards.
    BadTarget = 400 "bad-target" "The request target is not valid", 3;
    /// No host was named, or more than one.
    BadHost = 400 "bad-host" "The request must name exactly one host", 3;
    /// The header or body did not arrive in time.
    RequestTimeout = 408 "request-timeout" "The request did not arrive in time", 4;
    /// The body is larger than allowed.
    BodyTooLarge = 413 "body-too-large" "The request body is too large", 8;
    /// The header is larger than allowed, or has too many fields.
    HeaderTooLarge = 431 "header-too-large" "The request header is too large", 8;
    /// `Expect` asks for what we cannot do.
    ExpectationFailed = 417 "expectation-failed" "The expectation cannot be met", 9;
    /// The method is not one that is proxied.
    MethodNotAllowed = 405 "method-not-allowed" "The method is not allowed", 12;

    /// No route matches.
    NoRoute = 404 "no-route" "Nothing is served here", 12;
    /// The client's address may not use the route.
    AddressDenied = 403 "address-denied" "This address may not use this resource", 7;
    /// The request came to a connection that is not for its host (RFC 9110 15.5.20).
    Misdirected = 421 "misdirected" "This connection does not serve that host", 14;

    /// A token is needed and there is none.
    TokenMissing = 401 "token-missing" "A bearer token is required", 16;
    /// More than one set of credentials, or such as break their grammar (`invalid_request` of RFC 6750).
    CredentialsMalformed = 400 "credentials-malformed" "The request must carry one bearer token", 3;
    /// A token that cannot be read.
    TokenMalformed = 401 "token-malformed" "The token cannot be read", 16;
    /// The signature does not verify, or the key or algorithm is not accepted.
    TokenRejected = 401 "token-rejected" "The token is not valid", 16;
    /// Past its `exp`.
    TokenExpired = 401 "token-expired" "The token has expired", 16;
    /// Taken back before its `exp`.
    TokenRevoked = 401 "token-revoked" "The token was revoked", 16;
    /// Before its `nbf`.
    TokenNotYetValid = 401 "token-not-yet-valid" "The token is not valid yet", 16;
    /// Not for this audience, or of an issuer that is not accepted here.
    TokenNotForUs = 401 "token-not-accepted-here" "The token is not accepted here", 16;
    /// Bound to a sender who is not the one that presents it: another key, another certificate, or no proof at all.
    SenderUnproven = 401 "sender-unproven" "The token was not presented by its holder", 16;
    /// Not bound to a sender, on a route that takes bound tokens alone.
    SenderUnbound = 401 "sender-unbound" "The token must be bound to its sender", 16;
    /// The DPoP proof is missing, given twice, or no proof for this request (`invalid_dpop_proof` of RFC 9449).
    ProofRejected = 401 "proof-rejected" "The DPoP proof is not valid", 16;
    /// The DPoP proof lacks a nonce of this gateway, or has one that is too old (`use_dpop_nonce` of RFC 9449).
    ProofNonce = 401 "proof-nonce" "The DPoP proof must carry a nonce of this server", 16;
    /// No more DPoP proofs can be remembered now, so none can be told from a replay: not the token's fault.
    ProofsUnavailable = 503 "proofs-unavailable" "The token cannot be checked now", 14;
    /// Good, but without a scope that the route asks for.
    ScopeMissing = 403 "scope-missing" "The token lacks a required scope", 7;
    /// Good, but by a rule of the route on scopes or claims it is not for this.
    TokenNotAllowed = 403 "token-not-allowed" "The token does not allow this request", 7;
    /// Good, but its user must be authenticated in another way, or more recently (RFC 9470).
    AuthenticationInsufficient = 401 "authentication-insufficient" "A stronger or more recent authentication is required", 16;
    /// The issuer's keys cannot be had now: not the token's fault.
    KeysUnavailable = 503 "keys-unavailable" "The token cannot be checked now", 14;
    /// The issuer's endpoint cannot be asked now: not the token's fault.
    IntrospectionUnavailable = 503 "introspection-unavailable" "The token cannot be checked now", 14;
    /// The service that authorises requests cannot be heard now.
    AuthorizationUnavailable = 503 "authorization-unavailable" "The request cannot be authorised now", 14;

    /// The tenant cannot be told from the request.
    TenantUnknown = 403 "tenant-unknown" "The tenant is not known", 7;
    /// Too many requests from this address.
    AddressRateLimited = 429 "address-rate-limited" "Too many requests", 8;
    /// Too many requests of this tenant.
    TenantRateLimited = 429 "tenant-rate-limited" "Too many requests", 8;
    /// Too many requests of this tenant at once.
    TenantConcurrency = 429 "tenant-concurrency" "Too many requests at once", 8;
    /// The gateway sheds load.
    Overloaded = 503 "overloaded" "The service is overloaded", 14;

    /// A plugin refused.
    PluginRefused = 403 "plugin-refused" "The request was refused", 7;
    /// A plugin failed, overran or handed back what cannot be used.
    PluginFailed = 500 "plugin-failed" "The request could not be processed", 13;
    /// No plugin instance was free in time, or the tenant's plugins have used their share.
    PluginOverloaded = 503 "plugin-overloaded" "The service is overloaded", 14;

    /// No endpoint of the upstream may be used now.
    UpstreamUnavailable = 503 "upstream-unavailable" "The service is not available", 14;
    /// All connections to the upstream are in use and none came free in time.
    UpstreamSaturated = 503 "upstream-saturated" "The service is overloaded", 14;
    /// The upstream could not be connected to.
    UpstreamConnect = 502 "upstream-connect" "The service could not be reached", 14;
    /// The upstream's certificate could not be verified, or the handshake failed.
    UpstreamTls = 502 "upstream-tls" "The service could not be reached", 14;
    /// The upstream closed or reset before its answer was complete.
    UpstreamReset = 502 "upstream-reset" "The service ended the connection", 14;
    /// The upstream's answer is not HTTP.
    UpstreamProtocol = 502 "upstream-protocol" "The service answered incorrectly", 13;
    /// The upstream did not answer in time.
    UpstreamTimeout = 504 "upstream-timeout" "The service did not answer in time", 4;

    /// The gateway itself failed.
    Internal = 500 "internal" "The request could not be processed", 13;
    /// The gateway is stopping.
    Stopping = 503 "stopping" "The service is restarting", 14;
}

/// The prefix of every problem's `type`.
pub const PROBLEM_TYPE_PREFIX: &str = "urn:sluice:problem:";

/// A refusal on its way to a client: public parts and, apart from them, what only the operator may see.
#[derive(Debug, Clone)]
pub struct Refusal {
    /// Why.
    pub reason: Reason,
    /// A public sentence beyond the title, when there is something a client can mend. Never internals.
    pub detail: Option<Cow<'static, str>>,
    /// Header fields that belong to the answer (`WWW-Authenticate`, `Retry-After`, `RateLimit`, …).
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// For logs alone: what happened inside. Never a token or another secret.
    pub internal: Option<Box<str>>,
}

impl Refusal {
    /// A refusal with nothing beyond its reason.
    pub const fn new(reason: Reason) -> Self {
        Self { reason, detail: None, headers: Vec::new(), internal: None }
    }

    /// With a public sentence.
    #[must_use]
    pub fn detail(mut self, detail: impl Into<Cow<'static, str>>) -> Self {
        self.detail = Some(detail.into());
        self
    }

    /// With a header field.
    #[must_use]
    pub fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.push((name, value));
        self
    }

    /// With what only the operator may see.
    #[must_use]
    pub fn internal(mut self, why: impl Into<Box<str>>) -> Self {
        self.internal = Some(why.into());
        self
    }

    /// The status code.
    pub fn status(&self) -> StatusCode {
        self.reason.status()
    }

    /// The problem+json body (RFC 9457): `type`, `title`, `status`, `detail` if any, and `request_id`.
    pub fn problem(&self, request_id: &str) -> Vec<u8> {
        #[derive(serde::Serialize)]
        struct Problem<'a> {
            r#type: Cow<'a, str>,
            title: &'a str,
            status: u16,
            #[serde(skip_serializing_if = "Option::is_none")]
            detail: Option<&'a str>,
            request_id: &'a str,
        }
        let problem = Problem {
            r#type: format!("{PROBLEM_TYPE_PREFIX}{}", self.reason.slug()).into(),
            title: self.reason.title(),
            status: self.status().as_u16(),
            detail: self.detail.as_deref(),
            request_id,
        };
        serde_json::to_vec(&problem).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn every_reason_has_a_name_of_its_own_and_an_error_status() {
        let mut slugs: Vec<_> = Reason::ALL.iter().map(|r| r.slug()).collect();
        slugs.sort_unstable();
        let count = slugs.len();
        slugs.dedup();
        assert_eq!(slugs.len(), count);
        for reason in Reason::ALL {
            assert!(reason.status().is_client_error() || reason.status().is_server_error(), "{reason:?}");
            assert!((1..=16).contains(&reason.grpc_status()), "{reason:?}");
        }
    }

    #[test]
    fn a_problem_holds_nothing_of_the_operators_part() {
        let refusal = Refusal::new(Reason::TokenExpired).internal("exp 12 < now 13, key k1");
        let body: serde_json::Value = serde_json::from_slice(&refusal.problem("r-1")).unwrap();
        assert_eq!(
            body,
            serde_json::json!({
                "type": "urn:sluice:problem:token-expired", "title": "The token has expired", "status": 401, "request_id": "r-1"
            })
        );
    }
}
