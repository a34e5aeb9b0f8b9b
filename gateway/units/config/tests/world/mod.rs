//! A configuration type with one of everything that the gateway's own has.

use std::collections::BTreeMap;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sluice_vocabulary::fault::{Fault, Faults, Path};
use sluice_vocabulary::measure::{ByteSize, Span};
use sluice_vocabulary::secret::SecretSource;
use sluice_vocabulary::{RouteName, UpstreamName};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Where clients connect. At least one.
    #[schemars(length(min = 1))]
    pub listeners: Vec<Listener>,
    #[serde(default)]
    pub issuers: BTreeMap<String, Issuer>,
    #[serde(default)]
    pub upstreams: BTreeMap<UpstreamName, Upstream>,
    #[serde(default)]
    pub routes: Vec<Route>,
    #[serde(default)]
    pub limits: Limits,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Listener {
    /// The address to listen on.
    pub address: std::net::SocketAddr,
    #[serde(default)]
    pub http2: bool,
    #[serde(default)]
    pub workers: Option<u16>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Issuer {
    /// The `iss` of its tokens.
    pub issuer: String,
    pub algorithms: Vec<Algorithm>,
    /// Where its keys are. A URL or a file.
    pub jwks: Keys,
    pub client_secret: Option<SecretSource>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub enum Algorithm {
    RS256,
    ES256,
    EdDSA,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Keys {
    Url(KeysByUrl),
    File(KeysByFile),
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct KeysByUrl {
    pub url: String,
    #[serde(default)]
    pub refresh: Option<Span>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct KeysByFile {
    pub file: PathBuf,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Upstream {
    pub endpoints: Vec<String>,
    #[serde(default)]
    pub balance: Balance,
    #[serde(default)]
    pub timeouts: Timeouts,
    /// How long a connection is kept.
    #[serde(default)]
    pub idle_timeout: IdleTimeout,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Balance {
    #[default]
    RoundRobin,
    /// The endpoint that answered fastest of late.
    LeastLatency,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Timeouts {
    pub connect: Option<Span>,
    pub response: Option<Span>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum IdleTimeout {
    #[default]
    Auto,
    #[serde(untagged)]
    Fixed(Span),
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Route {
    /// The route's name. Unique.
    pub name: RouteName,
    #[serde(rename = "match", default)]
    pub matches: BTreeMap<String, String>,
    #[serde(flatten)]
    pub action: Action,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    Upstream(UpstreamName),
    Redirect { status: u16, to: String },
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    pub body: ByteSize,
    #[schemars(range(min = 1, max = 100))]
    pub percent: u8,
    pub failure: OnFailure,
    pub steps: Vec<Step>,
}

impl Default for Limits {
    fn default() -> Self {
        Self { body: ByteSize::mib(1), percent: 50, failure: OnFailure::Refuse, steps: Vec::new() }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OnFailure {
    Refuse,
    Skip,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "lowercase", deny_unknown_fields)]
pub enum Step {
    Wait { time: Span },
    Call { host: String },
}

impl Config {
    pub fn validate(&self, at: &Path, faults: &mut Faults) {
        for (index, route) in self.routes.iter().enumerate() {
            if let Action::Upstream(name) = &route.action
                && !self.upstreams.contains_key(name)
            {
                let place = at.key("routes").index(index).key("upstream");
                faults.push(Fault::error(&place, format!("there is no upstream {name}")).help("name one of upstreams"));
            }
        }
        for (name, upstream) in &self.upstreams {
            if upstream.endpoints.is_empty() {
                faults.error(&at.key("upstreams").key(name.as_str()).key("endpoints"), "an upstream needs an endpoint");
            }
        }
        for (name, issuer) in &self.issuers {
            if issuer.issuer.starts_with("http://") {
                faults.warning(&at.key("issuers").key(name).key("issuer"), "the issuer is not named by https");
            }
        }
    }
}
