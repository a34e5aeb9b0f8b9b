//! Whom a token is bound to (RFC 7800), and whether it is they who present it.
//!
//! A token may name a key that its sender must prove to have (`cnf.jkt`, RFC 9449), a certificate that its sender's
//! connection must have shown (`cnf.x5t#S256`, RFC 8705), or both. Whatever a token names is enforced on every route, for
//! tokens just verified and for those in the cache alike: the binding is in the claims, the proof in the request. A token
//! with a `cnf` of which nothing is understood is bound in a way that cannot be checked here, and is refused: it is not
//! for anybody who holds it. Where one method is understood, others beside it are let be, as RFC 7800 section 3.1 says.

use http::HeaderValue;
use http::header::WWW_AUTHENTICATE;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sluice_vocabulary::clock::Clock;
use sluice_vocabulary::request::RequestView;
use sluice_vocabulary::{Identity, Reason, Refusal};

use crate::policy::Policy;
use crate::thumbprint::{self, Thumbprint};
use crate::witness::{Step, Witness};

/// What a route demands of the binding of tokens to their senders. A binding that a token carries is enforced whatever
/// stands here; there is no setting that waives it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum SenderConstraint {
    /// Nothing: tokens without a binding are taken, as bearer tokens.
    #[default]
    None,
    /// A token bound to a key, with a DPoP proof (RFC 9449).
    Dpop,
    /// A token bound to the client's certificate (RFC 8705), on a connection that showed it to this gateway.
    Mtls,
    /// Either of both.
    Any,
}

/// The scheme that a token was presented by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scheme {
    Bearer,
    Dpop,
}

impl Scheme {
    /// As it is written.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Bearer => "Bearer",
            Self::Dpop => "DPoP",
        }
    }
}

/// A token as it was presented.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Presented<'r> {
    pub(crate) scheme: Scheme,
    pub(crate) token: &'r [u8],
    /// The number of the place that it was in, among those of the policy.
    pub(crate) place: usize,
    pub(crate) request: &'r RequestView<'r>,
    pub(crate) clock: &'r dyn Clock,
    /// Seconds since the Unix epoch.
    pub(crate) now: u64,
}

/// The proof that a token's bindings were checked. Only this module can make one.
#[derive(Debug, Clone)]
pub(crate) struct Held {
    /// The nonce that the client is to use from now on, where that is another one than it has.
    pub(crate) next_nonce: Option<HeaderValue>,
}

/// What a token is bound to.
#[derive(Debug, Default, PartialEq, Eq)]
struct Bindings {
    key: Option<Thumbprint>,
    certificate: Option<[u8; 32]>,
}

impl Bindings {
    /// Reads `cnf`. The error says what is wrong with it.
    fn of(identity: &Identity) -> Result<Self, &'static str> {
        let Some(cnf) = identity.claims().raw("cnf") else { return Ok(Self::default()) };
        let Some(Value::Object(cnf)) = cnf.read() else { return Err("the claim cnf is not an object") };
        let text = |name| match cnf.get(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.as_str())),
            Some(_) => Err("a member of the claim cnf is not a string"),
        };
        let bindings = Self {
            key: match text("jkt")? {
                None => None,
                Some(jkt) => Some(Thumbprint::parse(jkt).ok_or("the claim cnf.jkt is not a SHA-256")?),
            },
            certificate: match text("x5t#S256")? {
                None => None,
                Some(x5t) => Some(thumbprint::digest_of(x5t).ok_or("the claim cnf.x5t#S256 is not a SHA-256")?),
            },
        };
        if bindings == Self::default() {
            return Err("the claim cnf names no binding that is understood here");
        }
        Ok(bindings)
    }

    /// What there is, in the operator's words.
    const fn told(&self) -> &'static str {
        match (self.key.is_some(), self.certificate.is_some()) {
            (false, false) => "bound to nothing, and the route does not ask for it",
            (true, false) => "bound to a key (cnf.jkt)",
            (false, true) => "bound to the connection's certificate (cnf.x5t#S256)",
            (true, true) => "bound to a key (cnf.jkt) and to the connection's certificate (cnf.x5t#S256)",
        }
    }
}

/// Whether who presents the token of `identity` may: the one call for every token of every route.
pub(crate) fn check<W: Witness>(
    policy: &Policy,
    presented: &Presented<'_>,
    identity: &Identity,
    witness: &mut W,
) -> Result<Held, Refusal> {
    witness.begin(Step::Binding);
    let dpop = &policy.shared.dpop;
    let unproven = |why: &'static str, description| {
        let refusal = Refusal::new(Reason::SenderUnproven).internal(why);
        refusal.header(WWW_AUTHENTICATE, policy.shared.challenges.invalid_token(description))
    };
    let bindings = Bindings::of(identity).map_err(|why| unproven(why, "The token is not valid"))?;

    let met = match policy.sender_constraint {
        SenderConstraint::None => true,
        SenderConstraint::Dpop => bindings.key.is_some(),
        SenderConstraint::Mtls => bindings.certificate.is_some(),
        SenderConstraint::Any => bindings != Bindings::default(),
    };
    if !met || (presented.scheme == Scheme::Dpop && bindings.key.is_none()) {
        let (what, why) = match policy.sender_constraint {
            _ if met => ("The token is not bound to a key", "a token without cnf.jkt was presented by DPoP"),
            SenderConstraint::Mtls => ("The token must be bound to a certificate", "the route demands cnf.x5t#S256"),
            SenderConstraint::Dpop => ("The token must be bound to a key", "the route demands cnf.jkt"),
            _ => ("The token must be bound to its sender", "the route demands cnf.jkt or cnf.x5t#S256"),
        };
        let challenge = match policy.sender_constraint {
            SenderConstraint::Dpop => dpop.challenge("invalid_token", what),
            _ => policy.shared.challenges.invalid_token(what),
        };
        return Err(Refusal::new(Reason::SenderUnbound).internal(why).header(WWW_AUTHENTICATE, challenge));
    }

    if let Some(bound_to) = bindings.certificate {
        let description = "The token is bound to another certificate than the connection's";
        // Only one that the handshake verified is known here; none that a header speaks of.
        match presented.request.connection.tls.as_ref().and_then(|tls| tls.client_certificate_sha256) {
            Some(shown) if shown == bound_to => {}
            Some(_) => return Err(unproven("the connection showed another certificate", description)),
            None => return Err(unproven("the connection showed no certificate", description)),
        }
    }
    witness.note(|| bindings.told().to_owned());
    witness.begin(Step::Proof);
    let next_nonce = match (&bindings.key, presented.scheme) {
        (None, _) => {
            witness.skip(&[Step::Proof], "the token is bound to no key");
            None
        }
        // Without this, binding a token would gain nothing against who stole it (RFC 9449 section 7.2).
        (Some(_), Scheme::Bearer) => {
            let challenge =
                dpop.challenge("invalid_token", "The token is bound to a key and must come with a DPoP proof");
            let refusal = Refusal::new(Reason::SenderUnproven).internal("a token with cnf.jkt was presented as Bearer");
            return Err(refusal.header(WWW_AUTHENTICATE, challenge));
        }
        (Some(key), Scheme::Dpop) => dpop
            .check::<W>(presented.request, presented.token, key, presented.clock, presented.now)
            .map_err(|fault| dpop.refuse(&fault, presented.now))?,
    };
    Ok(Held { next_nonce })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]
    use super::*;
    use serde_json::json;
    use sluice_vocabulary::IssuerName;

    fn bindings(cnf: Value) -> Result<Bindings, &'static str> {
        let Value::Object(claims) = json!({ "cnf": cnf }) else { panic!("an object") };
        let issuer = IssuerName::new("i").unwrap();
        Bindings::of(&Identity::new(issuer, claims.into(), 0))
    }

    #[test]
    fn both_bindings_are_read_and_other_members_beside_them_let_be() {
        let digest = "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I";
        let key = Thumbprint::parse(digest);
        let certificate = thumbprint::digest_of(digest);
        assert!(key.is_some());
        assert_eq!(bindings(json!({ "jkt": digest })), Ok(Bindings { key, certificate: None }));
        assert_eq!(bindings(json!({ "x5t#S256": digest, "kid": 5 })), Ok(Bindings { key: None, certificate }));
        assert_eq!(bindings(json!({ "x5t#S256": digest, "jkt": digest })), Ok(Bindings { key, certificate }));
    }

    #[test]
    fn a_binding_that_cannot_be_checked_is_not_the_same_as_none() {
        for bad in [
            json!(null),
            json!("x"),
            json!([]),
            json!({}),
            json!({"jwk": {}}),
            json!({"jkt": 5}),
            json!({"jkt": null}),
            json!({"jkt": "AA"}),
            json!({"x5t#S256": ""}),
            json!({"x5t#s256": "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I"}),
            json!({"jkt": "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I", "x5t#S256": true}),
        ] {
            assert!(bindings(bad.clone()).is_err(), "{bad}");
        }
    }
}
