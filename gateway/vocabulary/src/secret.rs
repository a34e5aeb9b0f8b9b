//! Secrets: named in configuration by where they are kept, never by what they are.

use std::fmt;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Where a secret is kept: `{ file: path }` or `{ env: NAME }`. There is no inline form, so that a configuration file
/// can be shown, logged and committed.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
// The mark keeps what somebody writes here in place of a source out of messages and of the configuration page.
#[schemars(extend("x-secret" = true))]
pub enum SecretSource {
    /// A file; one trailing line break is not part of the secret.
    File(PathBuf),
    /// An environment variable of the gateway's process.
    Env(String),
}

/// A secret's bytes. Prints as `[redacted]`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Box<[u8]>);

impl Secret {
    /// Wraps the bytes.
    pub fn new(bytes: impl Into<Box<[u8]>>) -> Self {
        Self(bytes.into())
    }

    /// The bytes themselves; named so that every use can be found.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_never_prints() {
        assert_eq!(format!("{:?}", Secret::new(*b"hunter2")), "[redacted]");
    }
}
