//! Names: short, checked strings that stand for one thing each.
//!
//! A name is 1 to 64 characters of `A–Z a–z 0–9 . _ -`, so that it can be a metric label, a path segment and a log field
//! without escaping. [`TenantId`] also allows `: @ |` and 128 characters, since tenants are named by other people's issuers.
//! Cloning a name copies a pointer.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A text that is not a name of its kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{found:?} is not a {kind}: expected 1 to {longest} characters of {alphabet}")]
pub struct BadName {
    kind: &'static str,
    found: String,
    longest: usize,
    alphabet: &'static str,
}

macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident, $kind:literal, $longest:literal, $extra:literal, $alphabet:literal, $pattern:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String")]
        pub struct $name(Arc<str>);

        impl $name {
            /// Parses the name, refusing an empty, overlong or unprintable one.
            pub fn new(text: &str) -> Result<Self, BadName> {
                let well_formed = !text.is_empty()
                    && text.len() <= $longest
                    && text.bytes().all(|b| b.is_ascii_alphanumeric() || $extra.contains(&b));
                if well_formed {
                    Ok(Self(text.into()))
                } else {
                    Err(BadName {
                        kind: $kind,
                        found: text.chars().take($longest + 1).collect(),
                        longest: $longest,
                        alphabet: $alphabet,
                    })
                }
            }

            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = BadName;
            fn try_from(text: String) -> Result<Self, BadName> {
                Self::new(&text)
            }
        }

        impl std::str::FromStr for $name {
            type Err = BadName;
            fn from_str(text: &str) -> Result<Self, BadName> {
                Self::new(text)
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", &*self.0)
            }
        }

        impl JsonSchema for $name {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($name).into()
            }
            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!({ "type": "string", "pattern": $pattern, "minLength": 1, "maxLength": $longest })
            }
        }
    };
}

name_type!(
    /// A route, as the operator named it. Unique within a configuration.
    RouteName, "route name", 64, b"._-", "A-Z a-z 0-9 . _ -", "^[A-Za-z0-9._-]+$"
);
name_type!(
    /// An upstream: a set of endpoints that serve the same thing.
    UpstreamName, "upstream name", 64, b"._-", "A-Z a-z 0-9 . _ -", "^[A-Za-z0-9._-]+$"
);
name_type!(
    /// A token issuer, as the operator named it; not its `iss` URL.
    IssuerName, "issuer name", 64, b"._-", "A-Z a-z 0-9 . _ -", "^[A-Za-z0-9._-]+$"
);
name_type!(
    /// A plugin, as the operator named it.
    PluginName, "plugin name", 64, b"._-", "A-Z a-z 0-9 . _ -", "^[A-Za-z0-9._-]+$"
);
name_type!(
    /// A tenant, as the identity or the operator named it. Never a metric label unless the operator bounded the set.
    TenantId, "tenant id", 128, b"._-:@|", "A-Z a-z 0-9 . _ - : @ |", "^[A-Za-z0-9._:@|-]+$"
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_short_and_needs_no_escaping() {
        for good in ["a", "orders-read", "v1.2_x", &"n".repeat(64)] {
            assert!(RouteName::new(good).is_ok(), "{good}");
        }
        for bad in ["", "a b", "a/b", "a\"b", "ä", "a\n", &"n".repeat(65)] {
            assert!(RouteName::new(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_tenant_may_carry_the_separators_that_issuers_use() {
        for good in ["auth0|64a", "org:acme", "a@b.example"] {
            assert!(TenantId::new(good).is_ok(), "{good}");
        }
        assert!(TenantId::new("a,b").is_err());
    }

    #[test]
    fn the_error_names_the_value_and_the_bound() {
        let error = UpstreamName::new("a b").map_err(|e| e.to_string());
        assert_eq!(
            error.err().as_deref(),
            Some("\"a b\" is not a upstream name: expected 1 to 64 characters of A-Z a-z 0-9 . _ -")
        );
    }
}
