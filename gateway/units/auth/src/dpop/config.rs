//! What an operator may set about DPoP proofs: the section `auth.dpop`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sluice_vocabulary::measure::{ByteSize, Span};
use sluice_vocabulary::{Faults, Path};

use crate::algorithm::Algorithm;
use crate::config::within;

/// How proofs of possession (DPoP, RFC 9449) are checked, on every route that a key-bound token is shown to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct DpopConfig {
    /// The signature algorithms a proof may have; challenges name them to clients. By default those that clients with
    /// keys of their own use; RSA keys over 4096 bits are refused whatever stands here, since a client chooses its key
    /// and the gateway pays for it.
    pub algorithms: Vec<Algorithm>,
    /// How old a proof may be by its `iat`, from 5s to 5m. Each proof is remembered for so long. RFC 9449 section 11.1
    /// speaks of seconds or minutes; 60s bears the clocks of most devices.
    pub max_age: Span,
    /// By how much a client's clock may be ahead; at most 1m.
    pub leeway: Span,
    /// Memory for the proofs seen within `max_age`, so that none is good twice, from 64KiB to 4GiB. It is taken as it is
    /// needed. 32MiB hold at least 700 000 proofs: some 10 000 a second at the default age. When all is in use, further
    /// proofs are answered 503 until older ones expire: what cannot be remembered cannot be told from a replay.
    pub replay_cache: ByteSize,
    /// Demands a nonce of this gateway in every proof, so that none can be made ahead of its use. Off by default: it
    /// costs each client one refused request now and then, and gateways do not know each other's nonces.
    pub nonce: Option<NonceConfig>,
}

impl Default for DpopConfig {
    fn default() -> Self {
        use Algorithm::{ES256, ES384, ES512, EdDSA, PS256, RS256};
        Self {
            algorithms: vec![ES256, ES384, ES512, EdDSA, PS256, RS256],
            max_age: Span::secs(60),
            leeway: Span::secs(5),
            replay_cache: ByteSize::mib(32),
            nonce: None,
        }
    }
}

/// Nonces for proofs. Nothing is remembered for them: each is a time and a MAC over it, by keys that only this process
/// has and that rotate.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct NonceConfig {
    /// How long a nonce is good at the least, from 10s to 1h; at the most it is twice that. Clients are handed the next
    /// one with an answer before theirs ends.
    pub lifetime: Span,
}

impl Default for NonceConfig {
    fn default() -> Self {
        Self { lifetime: Span::secs(120) }
    }
}

impl DpopConfig {
    /// Reports every fault.
    pub(crate) fn validate(&self, at: &Path, faults: &mut Faults) {
        if self.algorithms.is_empty() {
            faults.error(&at.key("algorithms"), "no algorithm is named, so no proof can be verified");
        }
        within(self.max_age, Span::secs(5), Span::secs(300), &at.key("max_age"), faults);
        within(self.leeway, Span::secs(0), Span::secs(60), &at.key("leeway"), faults);
        within(self.replay_cache, ByteSize::kib(64), ByteSize::mib(4096), &at.key("replay_cache"), faults);
        if let Some(nonce) = &self.nonce {
            within(nonce.lifetime, Span::secs(10), Span::secs(3600), &at.key("nonce").key("lifetime"), faults);
        }
    }
}
