//! A way in for the measurement of the list (`examples/revocation_cost.rs`), no part of this crate's interface.

use std::sync::Arc;

use prometheus_client::registry::Registry;
use sluice_vocabulary::clock::SystemClock;
use sluice_vocabulary::{Identity, IssuerName};

use super::record::{Kind, Record, Target};
use super::{Judgement, Revocations};

/// A list to be measured.
#[derive(Debug)]
pub struct Measured(Arc<Revocations>);

impl Default for Measured {
    fn default() -> Self {
        Self(Revocations::new(Arc::new(SystemClock), &mut Registry::default()))
    }
}

impl Measured {
    /// Revokes values of an issuer: by `jti` (0), `sub` (1) or `kid` (2).
    pub fn revoke(&self, kind: usize, issuer: &IssuerName, values: impl Iterator<Item = String>) {
        let kind = Kind::ALL[kind.min(2)];
        let record = |value| Record {
            target: Target { kind, issuer: issuer.clone(), value },
            issued_before: u32::MAX,
            expires_at: u32::MAX,
        };
        self.0.take(&values.map(record).collect::<Vec<_>>());
    }

    /// Whether a token is revoked.
    pub fn is_revoked(&self, identity: &Identity, kid: Option<&str>, now: u64) -> bool {
        self.0.judge(identity, kid, now) != Judgement::Good
    }

    /// Whether a `jti` is revoked: the look-up alone, without its claim being looked for in the token.
    pub fn has_token(&self, issuer: &IssuerName, jti: &str, now: u64) -> bool {
        self.0.list().find(Kind::Token, issuer.as_str(), jti, now).is_some()
    }

    /// The bytes that the list says it takes.
    pub fn bytes(&self) -> usize {
        self.0.list().bytes()
    }
}
