//! Who asks: a verified identity as other units may see it.

use serde_json::{Map, Value};

use crate::names::IssuerName;

/// A verified identity. Only the auth unit makes proofs of one (`Verified`); this is the plain view that others read.
#[derive(Clone, PartialEq)]
pub struct Identity {
    /// The issuer that vouches for it, as the operator named it.
    pub issuer: IssuerName,
    /// `sub`, if the token has one.
    pub subject: Option<Box<str>>,
    /// The scopes granted, in the token's order.
    pub scopes: Vec<Box<str>>,
    /// Seconds since the Unix epoch after which it is no longer good.
    pub expires_at: u64,
    /// All claims of the token.
    pub claims: Map<String, Value>,
}

impl Identity {
    /// The claim `name`, or a nested one by a dotted path (`realm.tenant`); a claim whose name holds the dots wins.
    pub fn claim(&self, name: &str) -> Option<&Value> {
        if let Some(value) = self.claims.get(name) {
            return Some(value);
        }
        let mut parts = name.split('.');
        let first = self.claims.get(parts.next()?)?;
        parts.try_fold(first, |value, part| value.as_object()?.get(part))
    }

    /// The claim as text, where it is a text.
    pub fn claim_text(&self, name: &str) -> Option<&str> {
        self.claim(name).and_then(Value::as_str)
    }
}

impl std::fmt::Debug for Identity {
    /// Without the claims: they are somebody's personal data.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity")
            .field("issuer", &self.issuer)
            .field("scopes", &self.scopes.len())
            .field("expires_at", &self.expires_at)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn a_claim_is_found_by_name_first_and_by_path_second() {
        let Value::Object(claims) = serde_json::json!({"a.b": 1, "a": {"b": 2, "c": "x"}}) else { return };
        let identity =
            Identity { issuer: IssuerName::new("i").unwrap(), subject: None, scopes: vec![], expires_at: 0, claims };
        assert_eq!(identity.claim("a.b"), Some(&Value::from(1)));
        assert_eq!(identity.claim_text("a.c"), Some("x"));
        assert_eq!(identity.claim("a.c.d"), None);
    }
}
