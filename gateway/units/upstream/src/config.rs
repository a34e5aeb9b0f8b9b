//! What may be configured of an upstream.
//!
//! Every limit has a finite default, because a gateway that waits for ever is one slow service away from being down. What
//! weakens a check has `dangerous` in its name.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::de::{self, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sluice_vocabulary::UpstreamName;
use sluice_vocabulary::deadline::Timeouts;
use sluice_vocabulary::measure::{ByteSize, Span};

/// All upstreams, by the names that routes use.
pub type Config = BTreeMap<UpstreamName, UpstreamConfig>;

/// A set of endpoints that serve the same thing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct UpstreamConfig {
    /// Where it is served: `10.0.0.5:8080`, `[2001:db8::5]:8080` or `orders.internal:8080`; with a weight as
    /// `{ address: …, weight: 3 }`. A name stands for all addresses it resolves to.
    #[schemars(length(min = 1))]
    pub endpoints: Vec<EndpointConfig>,
    /// How an endpoint is chosen. Default: `round_robin`.
    #[serde(default)]
    pub balance: Balance,
    /// What is spoken. Default: `http1`. `auto` asks by ALPN and so needs `tls`; `http2` without `tls` is spoken by prior
    /// knowledge.
    #[serde(default)]
    pub protocol: Protocol,
    /// TLS toward the endpoints. Default: none, cleartext.
    #[serde(default)]
    pub tls: Option<TlsConfig>,
    /// How long things may take.
    #[serde(default)]
    pub timeouts: TimeoutsConfig,
    /// How long a connection may lie unused before the gateway closes it. Default: `auto`, which is 60s, or less where the
    /// upstream's own `Keep-Alive: timeout` says that it will close sooner: a connection that both ends close at the same
    /// moment is a request lost.
    #[serde(default)]
    pub idle_timeout: IdleTimeout,
    /// How many connections to one endpoint there may be. Default: 1024.
    #[serde(default = "default_max_connections")]
    #[schemars(range(min = 1, max = 65_535))]
    pub max_connections: u32,
    /// How long a request may wait for a connection to come free before it is refused with 503. Default: 250ms, since a
    /// longer queue only hides that the upstream is too slow.
    #[serde(default = "default_queue_timeout")]
    pub queue_timeout: Span,
    /// How many requests may wait at once. Default: 1024.
    #[serde(default = "default_max_waiting")]
    pub max_waiting: u32,
    /// HTTP/2 toward the endpoints.
    #[serde(default)]
    pub http2: Http2Config,
    /// When an endpoint that fails is left out for a while.
    #[serde(default)]
    pub ejection: EjectionConfig,
    /// Asking each endpoint how it is. Default: not asked.
    #[serde(default)]
    pub health: Option<HealthConfig>,
    /// Trying again.
    #[serde(default)]
    pub retries: RetriesConfig,
    /// How often names among the endpoints are resolved anew. Default: 30s. When that fails, the addresses known stay.
    #[serde(default = "default_resolve_every")]
    pub resolve_every: Span,
}

const fn default_max_connections() -> u32 {
    1024
}

const fn default_queue_timeout() -> Span {
    Span::millis(250)
}

const fn default_max_waiting() -> u32 {
    1024
}

const fn default_resolve_every() -> Span {
    Span::secs(30)
}

impl UpstreamConfig {
    /// An upstream of these endpoints with all defaults.
    pub fn of<I: IntoIterator<Item = S>, S: Into<String>>(endpoints: I) -> Self {
        Self {
            endpoints: endpoints
                .into_iter()
                .map(|address| EndpointConfig { address: address.into(), weight: 1 })
                .collect(),
            balance: Balance::default(),
            protocol: Protocol::default(),
            tls: None,
            timeouts: TimeoutsConfig::default(),
            idle_timeout: IdleTimeout::default(),
            max_connections: default_max_connections(),
            queue_timeout: default_queue_timeout(),
            max_waiting: default_max_waiting(),
            http2: Http2Config::default(),
            ejection: EjectionConfig::default(),
            health: None,
            retries: RetriesConfig::default(),
            resolve_every: default_resolve_every(),
        }
    }
}

/// How an endpoint is chosen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Balance {
    /// Each in turn, as often as its weight says, smoothly interleaved.
    #[default]
    RoundRobin,
    /// Of two taken by chance, the one with fewer requests under way for its weight.
    LeastRequests,
    /// Of two taken by chance, the one that has answered faster of late (its peaks weigh most), with the requests under
    /// way and the network's round trip counted in.
    LeastLatency,
}

/// What is spoken with the endpoints.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// HTTP/1.1.
    #[default]
    Http1,
    /// HTTP/2, and nothing else.
    Http2,
    /// HTTP/2 where the endpoint offers it, else HTTP/1.1.
    Auto,
}

/// TLS toward the endpoints.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TlsConfig {
    /// The name that the endpoint's certificate must be for; also what is asked for (SNI). Required: without a name there
    /// is nothing to verify.
    pub server_name: Option<String>,
    /// A PEM file of the authorities to trust instead of the platform's. It is read again when it changes.
    pub ca: Option<PathBuf>,
    /// The certificate to show to the endpoint.
    pub client_certificate: Option<ClientCertificateConfig>,
    /// Accepts any certificate from anyone, so that whoever can divert the connection can read and change everything on
    /// it. For tests alone. Default: no.
    pub dangerous_accept_any_certificate: bool,
}

/// A certificate with its key. Both files are read again when they change.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ClientCertificateConfig {
    /// A PEM file: the certificate first, then its intermediates.
    pub cert: PathBuf,
    /// A PEM file with the private key (PKCS #8, SEC 1 or PKCS #1).
    pub key: PathBuf,
}

/// How long things may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TimeoutsConfig {
    /// For the TCP connection to be made. Default: 1s, which is one lost SYN within a continent.
    pub connect: Span,
    /// For the TLS handshake. Default: 2s.
    pub tls_handshake: Span,
    /// From the end of the request until the response's header is complete. Default: 15s.
    pub response: Span,
    /// For which nothing may move while a body is under way. Default: 30s. Over HTTP/2 the longer of this and `response`
    /// applies to both, counted from the request's header; on streaming routes, the longest of the two and `upgraded_idle`.
    pub idle: Span,
    /// For the whole exchange, retries included. Default: 60s. Does not apply to streaming routes and upgraded connections.
    pub total: Span,
    /// For which nothing may move on an upgraded connection (WebSocket). Default: 5m.
    pub upgraded_idle: Span,
}

impl Default for TimeoutsConfig {
    fn default() -> Self {
        Self {
            connect: Span::secs(1),
            tls_handshake: Span::secs(2),
            response: Span::secs(15),
            idle: Span::secs(30),
            total: Span::secs(60),
            upgraded_idle: Span::secs(300),
        }
    }
}

impl TimeoutsConfig {
    /// As plain durations.
    pub fn get(&self) -> Timeouts {
        Timeouts {
            connect: self.connect.get(),
            handshake: self.tls_handshake.get(),
            response: self.response.get(),
            idle: self.idle.get(),
            total: self.total.get(),
            upgraded_idle: self.upgraded_idle.get(),
        }
    }
}

/// HTTP/2 toward the endpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Http2Config {
    /// How many requests may share a connection. Default: 100.
    #[schemars(range(min = 1, max = 10_000))]
    pub max_streams: u32,
    /// How much of one response the endpoint may send ahead of a slow client. Default: 512KiB: it bounds memory per
    /// request, and allows 40 Mbit/s per request over a round trip of 100 ms.
    pub stream_window: ByteSize,
    /// The same for all responses of a connection together. Default: 4MiB.
    pub connection_window: ByteSize,
    /// How often a connection is asked whether it is still there. Default: 30s.
    pub ping_every: Span,
}

impl Default for Http2Config {
    fn default() -> Self {
        Self {
            max_streams: 100,
            stream_window: ByteSize::kib(512),
            connection_window: ByteSize::mib(4),
            ping_every: Span::secs(30),
        }
    }
}

/// When an endpoint that fails is left out for a while.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct EjectionConfig {
    /// After how many failures in a row. Default: 5. 0 turns ejection off.
    pub consecutive_failures: u32,
    /// For how long. Default: 30s. When it comes back, its first failure ejects it again.
    pub r#for: Span,
    /// How much of the upstream may be ejected at once, in percent of its endpoints. Default: 50, so that a fault of the
    /// gateway's own network cannot take away everything; an only endpoint is never ejected.
    #[schemars(range(max = 100))]
    pub max_ejected_percent: u8,
    /// Which statuses count as failures besides connections that fail. Default: 502, 503, 504.
    pub statuses: Vec<u16>,
}

impl Default for EjectionConfig {
    fn default() -> Self {
        Self { consecutive_failures: 5, r#for: Span::secs(30), max_ejected_percent: 50, statuses: vec![502, 503, 504] }
    }
}

/// Asking each endpoint how it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HealthConfig {
    /// What is asked for, by GET; any 2xx or 3xx is well.
    pub path: String,
    /// The `Host` to ask with. Default: the TLS name, else the endpoint's address.
    #[serde(default)]
    pub host: Option<String>,
    /// How often. Default: 5s, give or take a tenth so that gateways do not ask in step.
    #[serde(default = "default_health_interval")]
    pub interval: Span,
    /// How long an answer may take. Default: 2s.
    #[serde(default = "default_health_timeout")]
    pub timeout: Span,
    /// After how many good answers in a row an endpoint is taken back. Default: 2.
    #[serde(default = "default_healthy_after")]
    #[schemars(range(min = 1))]
    pub healthy_after: u32,
    /// After how many bad answers in a row it is left out. Default: 3.
    #[serde(default = "default_unhealthy_after")]
    #[schemars(range(min = 1))]
    pub unhealthy_after: u32,
}

const fn default_health_interval() -> Span {
    Span::secs(5)
}

const fn default_health_timeout() -> Span {
    Span::secs(2)
}

const fn default_healthy_after() -> u32 {
    2
}

const fn default_unhealthy_after() -> u32 {
    3
}

/// Trying again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RetriesConfig {
    /// How often one request may be tried again. Default: 1. 0 turns retries off.
    #[schemars(range(max = 5))]
    pub attempts: u8,
    /// How many retries there may be per 100 requests, so that retries never double the load on an upstream that is
    /// failing under it. Default: 20; ten may be made at once after a quiet time.
    #[schemars(range(max = 100))]
    pub budget_percent: u8,
    /// What may be repeated although the endpoint may have read it. Default: `safe`. What the endpoint cannot have read is
    /// repeated whatever the method.
    pub repeat: Repeat,
}

impl Default for RetriesConfig {
    fn default() -> Self {
        Self { attempts: 1, budget_percent: 20, repeat: Repeat::Safe }
    }
}

/// Which requests may be sent twice.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Repeat {
    /// Those of safe methods: GET, HEAD, OPTIONS, TRACE (RFC 9110 9.2.1).
    #[default]
    Safe,
    /// Also PUT and DELETE, which are idempotent (RFC 9110 9.2.2) where the upstream keeps to the RFC.
    Idempotent,
}

/// How long a connection may lie unused.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum IdleTimeout {
    /// As long as the upstream is known to keep it, and at most 60s.
    #[default]
    Auto,
    /// This long.
    Fixed(Span),
}

impl Serialize for IdleTimeout {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Auto => serializer.serialize_str("auto"),
            Self::Fixed(span) => span.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for IdleTimeout {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        if text == "auto" {
            return Ok(Self::Auto);
        }
        Span::parse(&text).map(Self::Fixed).map_err(|error| de::Error::custom(format!("{error}, or auto")))
    }
}

impl JsonSchema for IdleTimeout {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "IdleTimeout".into()
    }

    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        let span = generator.subschema_for::<Span>();
        schemars::json_schema!({ "anyOf": [{ "const": "auto" }, span] })
    }
}

/// One endpoint, or all that a name resolves to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointConfig {
    /// `address:port` or `name:port`.
    pub address: String,
    /// How much of the traffic, against the other endpoints. Default: 1.
    pub weight: u16,
}

impl Serialize for EndpointConfig {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.weight == 1 {
            serializer.serialize_str(&self.address)
        } else {
            LongEndpoint { address: self.address.clone(), weight: self.weight }.serialize(serializer)
        }
    }
}

impl<'de> Deserialize<'de> for EndpointConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // Written out, since an untagged enum would answer every mistake with "did not match any variant".
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = EndpointConfig;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an address such as 10.0.0.5:8080, or { address, weight }")
            }

            fn visit_str<E: de::Error>(self, address: &str) -> Result<EndpointConfig, E> {
                Ok(EndpointConfig { address: address.to_owned(), weight: 1 })
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<EndpointConfig, A::Error> {
                let long = LongEndpoint::deserialize(de::value::MapAccessDeserializer::new(map))?;
                Ok(EndpointConfig { address: long.address, weight: long.weight })
            }
        }
        deserializer.deserialize_any(Either)
    }
}

impl JsonSchema for EndpointConfig {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "EndpointConfig".into()
    }

    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        let long = generator.subschema_for::<LongEndpoint>();
        schemars::json_schema!({
            "description": "One endpoint, or all that a name resolves to.",
            "anyOf": [{ "type": "string", "examples": ["10.0.0.5:8080", "orders.internal:8080"] }, long]
        })
    }
}

/// An endpoint with its weight.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct LongEndpoint {
    /// `address:port` or `name:port`.
    address: String,
    /// How much of the traffic, against the other endpoints. Default: 1.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 1000))]
    weight: u16,
}

const fn one() -> u16 {
    1
}
