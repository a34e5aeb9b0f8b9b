//! What an operator writes of a route, as far as routing is concerned.
//!
//! These types say how it is written; what it must mean to be usable is checked when the table is compiled, which reports
//! every fault at once.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use schemars::JsonSchema;
use serde::de::{Deserializer, SeqAccess, Visitor};
use serde::{Deserialize, Serialize, Serializer};
use sluice_vocabulary::measure::Span;

/// What requests a route is for. Everything said must hold; what is not said does not matter.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Match {
    /// The host, without port: `api.example.com`; `*.example.com` for everything below it, at any depth, but not itself;
    /// a list of such; `*` or nothing for any host. Names with other letters than ASCII are written in punycode.
    pub host: Hosts,
    /// The path: `/orders/new` exactly; `/orders/{id}/items/{item}` with captures, each one whole, non-empty segment;
    /// `/orders/*` for `/orders` and everything below it; nothing for any path. The path is compared after it was
    /// normalised, and a trailing slash matters except before `*`.
    pub path: Option<String>,
    /// The methods; none named means any. GET includes HEAD.
    pub methods: Vec<String>,
    /// The scheme the client used. Needed where a redirect leads from `http` to `https`.
    pub scheme: Option<SchemeName>,
    /// Conditions on header fields, by name. Of a field that occurs more than once, one value must fit.
    pub headers: BTreeMap<String, HeaderCondition>,
    /// Conditions on query parameters, by name. Compared after percent-decoding; of a parameter that occurs more than
    /// once, one value must fit.
    pub query: BTreeMap<String, QueryCondition>,
}

/// One host pattern or several.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Hosts(pub Vec<String>);

/// A scheme, as configuration writes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum SchemeName {
    /// Cleartext.
    Http,
    /// Over TLS.
    Https,
}

/// A condition on a header field: exactly one of `exact`, `prefix`, `present`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum HeaderCondition {
    /// The value is this, byte for byte.
    Exact(String),
    /// The value begins with this.
    Prefix(String),
    /// `true`: the field is there, whatever its value. `false`: it is not there.
    Present(bool),
}

/// A condition on a query parameter: exactly one of `exact`, `present`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum QueryCondition {
    /// The value is this, after percent-decoding.
    Exact(String),
    /// `true`: the parameter is there, whatever its value. `false`: it is not there.
    Present(bool),
}

/// What is changed in a request on its way to the upstream, and in the response on its way back.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Rewrite {
    /// The new path: text with `{name}` for the captures of the route's path, and a final `/*` for what its `/*` stood
    /// for. `/v2/*` on a route for `/v1/*` replaces the prefix. The query stays as it is.
    pub path: Option<String>,
    /// The new `Host`, perhaps with a port.
    pub host: Option<String>,
    /// Changes to the request's header.
    pub request_headers: HeaderEdits,
    /// Changes to the response's header.
    pub response_headers: HeaderEdits,
}

/// Changes to a header: first `remove`, then `set`, then `add`. Fields that frame the message or belong to the
/// connection (`content-length`, `transfer-encoding`, `connection`, …) cannot be changed here.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct HeaderEdits {
    /// Fields that get exactly this value, in place of any they had.
    pub set: BTreeMap<String, String>,
    /// Fields that get this value beside any they had.
    pub add: BTreeMap<String, String>,
    /// Fields that are taken away.
    pub remove: Vec<String>,
}

/// A redirect: either the whole target in `to`, or the parts of it that differ from the request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Redirect {
    /// The whole target: `https://new.example.com/orders/{id}`, or `/new/*` on the same host. Excludes the parts below.
    pub to: Option<String>,
    /// The target's scheme.
    pub scheme: Option<SchemeName>,
    /// The target's host.
    pub host: Option<String>,
    /// The target's port; without it the scheme's own.
    pub port: Option<u16>,
    /// The target's path, with captures as in `rewrite.path`.
    pub path: Option<String>,
    /// 301, 302, 303, 307 or 308. The default, 307, is temporary, since browsers keep a permanent redirect and it cannot
    /// be taken back, and preserves the method, which 302 does not.
    pub status: u16,
    /// Whether the request's query is carried over. A `to` with a query of its own keeps that one instead.
    pub keep_query: bool,
}

impl Default for Redirect {
    fn default() -> Self {
        Self { to: None, scheme: None, host: None, port: None, path: None, status: 307, keep_query: true }
    }
}

/// A fixed answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Answer {
    /// The status code, 200 to 599.
    pub status: u16,
    /// Header fields of the answer.
    pub headers: BTreeMap<String, String>,
    /// The body, at most 64 KiB; what is larger belongs to an origin.
    pub body: String,
    /// `Content-Type` of the body. Plain text by default, since a body that is sniffed as HTML can be made to run scripts.
    pub content_type: String,
}

impl Default for Answer {
    fn default() -> Self {
        Self {
            status: 200,
            headers: BTreeMap::new(),
            body: String::new(),
            content_type: "text/plain; charset=utf-8".into(),
        }
    }
}

/// Which web pages of other origins may use a route from a browser (the Fetch standard's CORS protocol). Preflights are
/// answered here, before authentication, since browsers send them without credentials.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Cors {
    /// `https://app.example.com`, `https://*.example.com` for everything below it, or `*` for any, which excludes
    /// `credentials`.
    pub origins: Vec<String>,
    /// The methods a page may use. By default those of the route, or GET, HEAD and POST where it takes any.
    pub methods: Vec<String>,
    /// The request header fields a page may send beyond the harmless ones, for instance `authorization`; `*` for any.
    pub headers: Vec<String>,
    /// The response header fields a page may read beyond the harmless ones. On a route with `auth` it may read
    /// `WWW-Authenticate` and, where `auth.dpop.nonce` is on, `DPoP-Nonce` in any case.
    pub expose: Vec<String>,
    /// Whether a page may send cookies and client certificates.
    pub credentials: bool,
    /// How long a browser may remember a preflight's answer. Ten minutes by default: long enough to cost little, short
    /// enough that a change is felt the same day.
    pub max_age: Span,
}

impl Default for Cors {
    fn default() -> Self {
        Self {
            origins: Vec::new(),
            methods: Vec::new(),
            headers: Vec::new(),
            expose: Vec::new(),
            credentials: false,
            max_age: Span::secs(600),
        }
    }
}

/// Which client addresses may use a route. Whoever is in `deny` may not; if `allow` names any, nobody else may.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Addresses {
    /// Addresses (`192.0.2.1`) and networks (`10.0.0.0/8`, `2001:db8::/32`) that may.
    pub allow: Vec<String>,
    /// Addresses and networks that may not, even where `allow` has them.
    pub deny: Vec<String>,
}

impl Serialize for Hosts {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0.as_slice() {
            [one] => serializer.serialize_str(one),
            several => serializer.collect_seq(several),
        }
    }
}

impl<'de> Deserialize<'de> for Hosts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OneOrSeveral;

        impl<'de> Visitor<'de> for OneOrSeveral {
            type Value = Hosts;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a host pattern or a list of them")
            }

            fn visit_str<E>(self, one: &str) -> Result<Hosts, E> {
                Ok(Hosts(vec![one.to_owned()]))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Hosts, A::Error> {
                let mut several = Vec::new();
                while let Some(one) = sequence.next_element()? {
                    several.push(one);
                }
                Ok(Hosts(several))
            }
        }

        deserializer.deserialize_any(OneOrSeveral)
    }
}

impl JsonSchema for Hosts {
    fn schema_name() -> Cow<'static, str> {
        "Hosts".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "description": "One host pattern or a list of them.",
            "oneOf": [ { "type": "string" }, { "type": "array", "items": { "type": "string" } } ]
        })
    }
}
