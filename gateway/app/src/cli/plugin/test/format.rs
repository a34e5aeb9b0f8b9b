//! The format of fixtures: what an author writes, as it is written. What it means is made of it in `ready.rs`.

use std::collections::BTreeMap;
use std::net::IpAddr;

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;
use sluice_plugins::PluginConfig;
use sluice_vocabulary::measure::Span;
use sluice_vocabulary::{IssuerName, TenantId, UpstreamName};

/// When cases begin that do not say when: 2026-01-01.
const BEGINNING: u64 = 1_767_225_600;

/// A file of fixtures: a plugin, and exchanges that it is to see.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Fixtures {
    /// The plugin, as a gateway's configuration writes it under `plugins.NAME`. Paths start at this file's folder. Left out
    /// where `--config` and `--plugin` name one.
    #[serde(default)]
    pub(super) plugin: Option<PluginConfig>,
    /// What is played, each with a store and counts of its own.
    #[schemars(length(min = 1))]
    pub(super) cases: Vec<Case>,
}

/// One request, its answer, and what is to come of them.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Case {
    /// What it shows. No two of a file have the same.
    #[schemars(length(min = 1))]
    pub(super) name: String,
    /// Members in place of the plugin's own `config`; anything but a mapping, null too, takes the place of all of it.
    #[serde(default, deserialize_with = "given")]
    #[schemars(with = "Option<Value>")]
    pub(super) config: Option<Value>,
    /// Seconds since 1970 at which it begins; time stands still then. Default 1767225600, 2026-01-01.
    #[serde(default = "beginning")]
    pub(super) at: u64,
    /// How often the request is played in the same store and counts, 1 to 100000. Default 1, or one for each of `expect_each`.
    #[serde(default)]
    #[schemars(range(min = 1, max = 100_000))]
    pub(super) repeat: Option<u32>,
    /// How much time passes between two of them. Default 0s.
    #[serde(default)]
    pub(super) every: Option<Span>,
    /// What is in the plugin's store before.
    #[serde(default)]
    pub(super) store: BTreeMap<String, Content>,
    /// The upstream of the request's route. Default `origin`.
    #[serde(default)]
    pub(super) upstream: Option<UpstreamName>,
    /// What the client sends. Default: `GET http://localhost/`.
    #[serde(default)]
    pub(super) request: Request,
    /// What its token says, once verified. Default: nobody was verified.
    #[serde(default)]
    pub(super) identity: Option<Who>,
    /// How it came.
    #[serde(default)]
    pub(super) connection: Connection,
    /// What the upstream answers. Default: 200, without fields or a body.
    #[serde(default)]
    pub(super) response: Response,
    /// How the exchange ended, where that differs from what was played.
    #[serde(default)]
    pub(super) end: End,
    /// What is to come of it; of the last, where it is played more than once. Default: that it goes on.
    #[serde(default)]
    pub(super) expect: Option<Expect>,
    /// What is to come of each, where it is played more than once.
    #[serde(default)]
    #[schemars(length(min = 1))]
    pub(super) expect_each: Option<Vec<Expect>>,
}

/// What was written, null too: that is not the same as nothing.
fn given<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(deserializer).map(Some)
}

const fn beginning() -> u64 {
    BEGINNING
}

/// What a client sends.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Request {
    /// Default GET.
    pub(super) method: Option<String>,
    /// The whole address; or say `scheme`, `host`, `path` and `query`. Default `http://localhost/`.
    pub(super) url: Option<String>,
    /// `http` or `https`. Default http.
    pub(super) scheme: Option<Scheme>,
    /// Without a port. Default localhost.
    pub(super) host: Option<String>,
    /// Default `/`.
    pub(super) path: Option<String>,
    /// Without its `?`. Default: none.
    pub(super) query: Option<String>,
    /// Header fields. `host` is added, and what says how long a body is.
    pub(super) headers: BTreeMap<String, Values>,
    /// The body, which comes as one piece. Default: none.
    pub(super) body: Option<Content>,
    /// The body in pieces, the end coming by itself; in place of `body`.
    pub(super) chunks: Option<Vec<Content>>,
}

/// A scheme.
#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum Scheme {
    /// Cleartext.
    Http,
    /// Over TLS.
    Https,
}

/// A field's one value, or its values in order.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(untagged)]
pub(super) enum Values {
    /// One.
    One(String),
    /// One field each.
    Many(Vec<String>),
}

/// Bytes: a text as it is, or coded.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(untagged)]
pub(super) enum Content {
    /// A text.
    Text(String),
    /// Something else.
    Coded(Coded),
}

/// Bytes that are not written as a text. Exactly one key.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Coded {
    /// A value, written as compact JSON.
    #[serde(default)]
    pub(super) json: Option<Value>,
    /// Bytes in base64 (RFC 4648 section 4).
    #[serde(default)]
    pub(super) base64: Option<String>,
}

/// What a verified token says.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Who {
    /// Its `sub`.
    pub(super) subject: Option<String>,
    /// Its issuer's name in the configuration. Default `test`.
    pub(super) issuer: Option<IssuerName>,
    /// The tenant that the request belongs to. With this alone there is a tenant, and nobody was verified.
    pub(super) tenant: Option<TenantId>,
    /// The scopes it grants.
    pub(super) scopes: Option<Vec<String>>,
    /// Its claims.
    pub(super) claims: Option<serde_json::Map<String, Value>>,
}

/// How a request came.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Connection {
    /// The client's address. Default 192.0.2.1.
    pub(super) client: Option<IpAddr>,
    /// Who connected. Default: the client.
    pub(super) peer: Option<IpAddr>,
    /// The version of HTTP. Default HTTP/1.1.
    pub(super) protocol: Protocol,
    /// Its TLS. Default: none.
    pub(super) tls: Option<Tls>,
    /// Its smoothed round trip. Default: not known.
    pub(super) round_trip: Option<Span>,
}

/// A version of HTTP.
#[derive(Debug, Clone, Copy, Default, Deserialize, JsonSchema)]
pub(super) enum Protocol {
    /// RFC 1945.
    #[serde(rename = "HTTP/1.0")]
    Http10,
    /// RFC 9112.
    #[default]
    #[serde(rename = "HTTP/1.1")]
    Http11,
    /// RFC 9113.
    #[serde(rename = "HTTP/2.0")]
    Http2,
}

/// A connection's TLS.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Tls {
    /// Default TLSv1.3.
    pub(super) version: TlsVersion,
    /// The name asked for by SNI.
    pub(super) server_name: Option<String>,
    /// SHA-256 of the client's verified certificate, in base64url without padding.
    pub(super) certificate: Option<String>,
}

/// A version of TLS.
#[derive(Debug, Clone, Copy, Default, Deserialize, JsonSchema)]
pub(super) enum TlsVersion {
    /// RFC 5246.
    #[serde(rename = "TLSv1.2")]
    Tls12,
    /// RFC 8446.
    #[default]
    #[serde(rename = "TLSv1.3")]
    Tls13,
}

/// What an upstream answers.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Response {
    /// 200 to 599. Default 200.
    #[schemars(range(min = 200, max = 599))]
    pub(super) status: Option<u16>,
    /// Header fields. What says how long a body is is added.
    pub(super) headers: BTreeMap<String, Values>,
    /// The body, which comes as one piece. Default: none.
    pub(super) body: Option<Content>,
    /// The body in pieces, the end coming by itself; in place of `body`.
    pub(super) chunks: Option<Vec<Content>>,
    /// Trailers. Default: none.
    pub(super) trailers: Option<BTreeMap<String, Values>>,
}

/// How an exchange ended.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct End {
    /// The status that the client was sent; 0 for none.
    pub(super) status: Option<u16>,
    /// How long it took. Default 0s.
    pub(super) duration: Option<Span>,
    /// Bytes of the request's body.
    pub(super) request_bytes: Option<u64>,
    /// Bytes of the response's body.
    pub(super) response_bytes: Option<u64>,
    /// The upstream that was asked.
    pub(super) upstream: Option<UpstreamName>,
    /// Why the gateway refused or gave up, by the reason's name.
    pub(super) refused: Option<String>,
}

/// What is to come of an exchange. What is not mentioned is not looked at, but for an outcome that is not `continue`.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Expect {
    /// How it comes out. Default `continue`.
    pub(super) outcome: Outcome,
    /// As what a failure is counted.
    pub(super) failure: Option<FailureKind>,
    /// Why: of a refusal what the operator's log is told, of a failure what went wrong.
    pub(super) reason: Option<Text>,
    /// What the client is told of a refusal.
    pub(super) detail: Option<Text>,
    /// The request as it goes upstream.
    pub(super) request: ExpectedRequest,
    /// The answer as it goes to the client.
    pub(super) response: ExpectedResponse,
    /// Where the request goes.
    pub(super) upstream: Option<UpstreamName>,
    /// Tags of the access record.
    pub(super) tags: BTreeMap<String, Text>,
    /// What is in the store afterwards.
    pub(super) store: BTreeMap<String, Text>,
    /// What was counted since the case began.
    pub(super) metrics: Vec<Metric>,
    /// Lines that the plugin logs, among others.
    pub(super) log: Vec<Logged>,
}

/// The outcome of the whole exchange, or of each side of it.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(untagged)]
pub(super) enum Outcome {
    /// Of the first side that does not go on.
    Whole(Word),
    /// Of each side.
    Sides(Sides),
}

impl Default for Outcome {
    fn default() -> Self {
        Self::Whole(Word::Continue)
    }
}

/// Outcomes by side.
#[derive(Debug, Clone, Copy, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Sides {
    /// Of the phases about the request.
    pub(super) request: Word,
    /// Of the phases about the response.
    pub(super) response: Word,
    /// Of the phase at the exchange's end: `continue` or `fail`.
    pub(super) end: Word,
}

/// How a side comes out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum Word {
    /// It goes on.
    #[default]
    Continue,
    /// The plugin answers.
    Answer,
    /// The plugin, or the gateway on its account, refuses.
    Refuse,
    /// The plugin fails, whether or not it may be skipped.
    Fail,
    /// The plugin ends a message that is under way.
    Abort,
}

impl Word {
    /// As it is written.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Continue => "continue",
            Self::Answer => "answer",
            Self::Refuse => "refuse",
            Self::Fail => "fail",
            Self::Abort => "abort",
        }
    }
}

/// As what a failure is counted: the label `reason` of `sluice_plugin_failures_total`.
#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum FailureKind {
    /// A panic, an error, a bad access.
    Trap,
    /// It ran past its deadline.
    Deadline,
    /// It wanted more memory than it may have.
    Memory,
    /// It handed back what cannot be used.
    Output,
    /// A body was larger than it may be given.
    Body,
    /// No instance was free.
    Overloaded,
    /// Its tenant used its share.
    Share,
    /// The sandbox could not run it.
    Host,
}

impl FailureKind {
    /// As it is counted.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Trap => "trap",
            Self::Deadline => "deadline",
            Self::Memory => "memory",
            Self::Output => "output",
            Self::Body => "body",
            Self::Overloaded => "overloaded",
            Self::Share => "share",
            Self::Host => "host",
        }
    }
}

/// A request as it goes upstream.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct ExpectedRequest {
    /// Its header fields.
    pub(super) headers: BTreeMap<String, Field>,
    /// Its whole body.
    pub(super) body: Option<Text>,
    /// Its body, piece by piece.
    pub(super) chunks: Option<Vec<Content>>,
}

/// An answer as it goes to the client.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct ExpectedResponse {
    /// Its status.
    pub(super) status: Option<u16>,
    /// Its header fields.
    pub(super) headers: BTreeMap<String, Field>,
    /// Its whole body.
    pub(super) body: Option<Text>,
    /// Its body, piece by piece.
    pub(super) chunks: Option<Vec<Content>>,
    /// Its trailers.
    pub(super) trailers: BTreeMap<String, Field>,
}

/// What a field is to be.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(untagged)]
pub(super) enum Field {
    /// There once, with this value.
    One(String),
    /// There so often, with these values in order.
    Many(Vec<String>),
    /// By a rule.
    Rule(FieldRule),
}

/// A rule for a field. Exactly one key.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct FieldRule {
    /// `true`: it is not there.
    pub(super) absent: bool,
    /// A regular expression that is found in its values, joined by `, `.
    pub(super) matches: Option<String>,
}

/// What a text, or bytes, are to be.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(untagged)]
pub(super) enum Text {
    /// This.
    Exact(String),
    /// By a rule.
    Rule(TextRule),
}

/// A rule for a text. Exactly one key.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct TextRule {
    /// `true`: there is none.
    pub(super) absent: bool,
    /// A regular expression that is found in it.
    pub(super) matches: Option<String>,
    /// It is JSON of this value.
    pub(super) json: Option<Value>,
    /// It is these bytes, in base64.
    pub(super) base64: Option<String>,
}

/// A count, or a gauge.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Metric {
    /// The name that the plugin gives it.
    pub(super) name: String,
    /// The labels that it gives it. Default: none.
    #[serde(default)]
    pub(super) labels: BTreeMap<String, String>,
    /// What it stands at; 0 also where it was never counted.
    pub(super) value: f64,
}

/// A line of the log.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(untagged)]
pub(super) enum Logged {
    /// This one, at whatever level.
    Exact(String),
    /// One that is as described.
    Line(LoggedLine),
}

/// What a line of the log is to be.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct LoggedLine {
    /// Its level.
    #[serde(default)]
    pub(super) level: Option<Level>,
    /// What it says.
    #[serde(default)]
    pub(super) text: Option<Text>,
}

/// How much a line matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum Level {
    /// For the author.
    Debug,
    /// Worth knowing.
    Info,
    /// Not as it should be.
    Warn,
    /// Failed.
    Error,
}

impl Level {
    /// As it is written.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Debug => "debug",
            Self::Info => "info",
            Self::Warn => "warn",
            Self::Error => "error",
        }
    }
}
