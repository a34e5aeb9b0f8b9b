//! Who asks: a verified identity as other units may see it.

use std::borrow::Cow;

use serde_json::Value;

use crate::claims::{Claims, Raw};
use crate::names::IssuerName;

/// A verified identity. Only the auth unit makes proofs of one (`Verified`); this is the plain view that others read.
#[derive(Clone, PartialEq)]
pub struct Identity {
    /// The issuer that vouches for it, as the operator named it.
    pub issuer: IssuerName,
    /// Seconds since the Unix epoch after which it is no longer good.
    pub expires_at: u64,
    claims: Claims,
    scopes: Scopes,
}

/// Where an identity's scopes are.
#[derive(Clone, PartialEq)]
enum Scopes {
    /// In the usual claim, as one text.
    Spaced,
    /// Here, since the issuer wrote them as an array or elsewhere.
    Listed(Box<[Box<str>]>),
}

impl Identity {
    /// Who `claims` say it is, by `issuer`.
    pub fn new(issuer: IssuerName, claims: Claims, expires_at: u64) -> Self {
        let scopes = match scope_claim(&claims) {
            Some(Raw::Json(json)) if json.starts_with('[') => {
                let elements: Vec<Value> = serde_json::from_str(json).unwrap_or_default();
                Scopes::Listed(elements.iter().filter_map(Value::as_str).map(Into::into).collect())
            }
            _ => Scopes::Spaced,
        };
        Self { issuer, expires_at, claims, scopes }
    }

    /// The same with these scopes, whatever the usual claims say: its issuer writes them elsewhere.
    pub fn with_scopes(issuer: IssuerName, claims: Claims, expires_at: u64, scopes: Box<[Box<str>]>) -> Self {
        Self { issuer, expires_at, claims, scopes: Scopes::Listed(scopes) }
    }

    /// `sub`, if the token has one.
    pub fn subject(&self) -> Option<&str> {
        match self.claims.raw("sub") {
            Some(Raw::Text(subject)) => Some(subject),
            _ => None,
        }
    }

    /// The scopes granted, in the token's order: `scope` as RFC 9068 section 2.2.3 writes it, or the array some issuers
    /// write there, or `scp` in either form. Anything else grants nothing.
    pub fn scopes(&self) -> impl Iterator<Item = &str> {
        let (spaced, listed) = match (&self.scopes, scope_claim(&self.claims)) {
            (Scopes::Listed(listed), _) => ("", &**listed),
            (Scopes::Spaced, Some(Raw::Text(spaced))) => (spaced, &[][..]),
            (Scopes::Spaced, _) => ("", &[][..]),
        };
        spaced.split(' ').filter(|scope| !scope.is_empty()).chain(listed.iter().map(|scope| &**scope))
    }

    /// The claim `name`, or a nested one by a dotted path (`realm.tenant`); a claim whose name holds the dots wins.
    pub fn claim(&self, name: &str) -> Option<Value> {
        self.claims.get(name)
    }

    /// The claim as text, where it is a text.
    pub fn claim_text(&self, name: &str) -> Option<Cow<'_, str>> {
        match self.claims.raw(name) {
            Some(Raw::Text(text)) => Some(text.into()),
            Some(Raw::Json(_)) => None,
            None => match self.claims.nested(name) {
                Some(Value::String(text)) => Some(text.into()),
                _ => None,
            },
        }
    }

    /// All claims of the token.
    pub fn claims(&self) -> &Claims {
        &self.claims
    }

    /// The memory held, in bytes, the value itself included.
    pub fn size(&self) -> usize {
        let listed = match &self.scopes {
            Scopes::Spaced => 0,
            Scopes::Listed(scopes) => scopes.iter().map(|scope| scope.len() + size_of::<Box<str>>()).sum(),
        };
        size_of::<Self>() + self.claims.size() + listed
    }
}

fn scope_claim(claims: &Claims) -> Option<Raw<'_>> {
    claims.raw("scope").or_else(|| claims.raw("scp"))
}

impl std::fmt::Debug for Identity {
    /// Without the claims: they are somebody's personal data.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity")
            .field("issuer", &self.issuer)
            .field("scopes", &self.scopes().count())
            .field("expires_at", &self.expires_at)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use serde_json::json;

    fn identity(claims: Value) -> Identity {
        Identity::new(IssuerName::new("i").unwrap(), claims.as_object().unwrap().clone().into(), 0)
    }

    #[test]
    fn a_claim_is_found_by_name_first_and_by_path_second() {
        let identity = identity(json!({"a.b": 1, "a": {"b": 2, "c": "x"}, "t": "text"}));
        assert_eq!(identity.claim("a.b"), Some(json!(1)));
        assert_eq!(identity.claim_text("a.c").as_deref(), Some("x"));
        assert_eq!(identity.claim_text("t").as_deref(), Some("text"));
        assert_eq!(identity.claim("a.c.d"), None);
        for no_text in ["a", "a.b", "b", "t.x"] {
            assert_eq!(identity.claim_text(no_text), None, "{no_text}");
        }
    }

    #[test]
    fn scopes_are_read_from_each_form_that_issuers_write() {
        let of = |claims: Value| identity(claims).scopes().map(ToOwned::to_owned).collect::<Vec<_>>();
        assert_eq!(of(json!({"scope": "a  b:c "})), ["a", "b:c"]);
        assert_eq!(of(json!({"scope": ["a", 1, "b c"]})), ["a", "b c"]);
        assert_eq!(of(json!({"scp": "a b"})), ["a", "b"]);
        assert_eq!(of(json!({"scp": ["a"]})), ["a"]);
        assert_eq!(of(json!({"scp": ["a"], "scope": "b"})), ["b"]);
        for nothing in [json!({}), json!({"scope": 1, "scp": "a"}), json!({"scope": {"a": true}}), json!({"scope": ""})]
        {
            assert!(of(nothing).is_empty());
        }
    }

    #[test]
    fn a_subject_is_text() {
        assert_eq!(identity(json!({"sub": "s"})).subject(), Some("s"));
        assert_eq!(identity(json!({"sub": 7})).subject(), None);
    }

    #[test]
    fn an_identity_prints_without_its_claims() {
        let printed = format!("{:?}", identity(json!({"sub": "secret", "scope": "secret"})));
        assert!(printed.contains("scopes: 1") && !printed.contains("secret"), "{printed}");
    }
}
