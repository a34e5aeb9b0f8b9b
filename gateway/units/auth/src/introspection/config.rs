//! What may be set of an issuer whose tokens only its own endpoint can judge: the section `introspection`.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sluice_vocabulary::measure::{ByteSize, Span};
use sluice_vocabulary::secret::SecretSource;
use sluice_vocabulary::{Faults, Path};

use crate::config::within;
use crate::remote::config::{
    Bounds, BreakerConfig, default_max_in_flight, default_max_waiting, default_timeout, validate_url,
};
use crate::secret;

/// The endpoint that says what a token stands for (RFC 7662), in place of keys. For opaque tokens; where a JWT can be
/// checked by its issuer's keys, that is faster by far and needs nobody to be heard.
///
/// A route that has issuers with keys too asks the endpoint only of tokens that are none of theirs: those that are not
/// three parts joined by dots, and those in which none of them is named.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct IntrospectionConfig {
    /// The endpoint, an http or https URL. Redirects are not followed.
    pub url: String,
    /// Who the gateway is to the endpoint.
    pub client: ClientConfig,
    /// A PEM file of the certificate authorities that may vouch for `url`, in place of the system's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<PathBuf>,
    /// The time for one question from connecting to the answer's last byte, from 10ms to 30s. Where all of `max_in_flight`
    /// are under way, a request waits as long for a place before it.
    #[serde(default = "default_timeout")]
    pub timeout: Span,
    /// How long answers are believed.
    #[serde(default)]
    pub cache: CacheConfig,
    /// The most questions under way at once, from 1 to 4096; each is a connection, which is kept for the next.
    #[serde(default = "default_max_in_flight")]
    pub max_in_flight: u32,
    /// The most requests that may wait for answers at once, from `max_in_flight` to 65536; more are answered 503.
    /// Requests with the same token wait for the same answer.
    #[serde(default = "default_max_waiting")]
    pub max_waiting: u32,
    /// When the endpoint is left alone for a while.
    #[serde(default)]
    pub breaker: BreakerConfig,
}

/// The gateway's credentials as an OAuth client (RFC 6749 section 2.3.1).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ClientConfig {
    /// The client's identifier.
    pub id: String,
    /// Where its secret is kept. It is read anew with every reload.
    pub secret: SecretSource,
    /// How both are sent.
    #[serde(default)]
    pub method: ClientMethod,
}

/// How a client shows its credentials.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ClientMethod {
    /// In `Authorization`, as `client_secret_basic`: every server must know this one.
    #[default]
    Basic,
    /// In the body, as `client_secret_post`.
    Post,
}

/// How long an endpoint's answers are believed, and how much memory they may take.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct CacheConfig {
    /// How long an active token is believed to be so, from 0s, which asks every time, to 1h; never past its `exp`. How soon
    /// a token that was revoked stops being good depends on this.
    pub positive: Span,
    /// How long a token is believed to be no good, from 0s to 5m.
    pub negative: Span,
    /// Memory for answers, at most 1GiB; `0B` keeps none. A quarter is for tokens that are no good, so that inventing such
    /// does not push good ones out. 8MiB hold some 5 000 tokens of common size.
    pub size: ByteSize,
}

impl Default for CacheConfig {
    /// Ten seconds turn a busy token's questions into one in ten seconds, and are about how long a revocation takes to
    /// reach people anyway.
    fn default() -> Self {
        Self { positive: Span::secs(10), negative: Span::secs(5), size: ByteSize::mib(8) }
    }
}

impl IntrospectionConfig {
    pub(crate) fn bounds(&self) -> Bounds<'_> {
        Bounds {
            timeout: self.timeout,
            max_in_flight: self.max_in_flight,
            max_waiting: self.max_waiting,
            breaker: &self.breaker,
        }
    }

    pub(crate) fn validate(&self, at: &Path, faults: &mut Faults) {
        let told = "whoever is on the way reads the tokens and decides which are good";
        validate_url(&self.url, &self.ca, told, at, faults);
        self.bounds().validate(at, faults);
        let client = at.key("client");
        // VSCHAR of RFC 6749 appendix A.1.
        let is_id = |id: &str| (1..=512).contains(&id.len()) && id.bytes().all(|byte| (0x20..0x7f).contains(&byte));
        if !is_id(&self.client.id) {
            faults.error(&client.key("id"), "not a client identifier: expected 1 to 512 printable ASCII characters");
        }
        secret::validate(&self.client.secret, &client.key("secret"), faults);
        let cache = at.key("cache");
        within(self.cache.positive, Span::secs(0), Span::secs(3600), &cache.key("positive"), faults);
        within(self.cache.negative, Span::secs(0), Span::secs(300), &cache.key("negative"), faults);
        within(self.cache.size, ByteSize::bytes(0), ByteSize::mib(1024), &cache.key("size"), faults);
    }
}
