//! Fixtures made ready to be played: every address, field, pattern and name in them parsed, or told as a fault with its place.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use http::header::{CONTENT_LENGTH, HOST, HeaderName, HeaderValue, TRANSFER_ENCODING};
use http::{HeaderMap, Method, StatusCode, Uri, Version};
use serde_json::Value;
use sluice_downstream::config::EncodedSlash;
use sluice_plugins::{Link, PluginConfig, RequestHead, ResponseHead};
use sluice_vocabulary::request::{Connection, Scheme, TlsInfo};
use sluice_vocabulary::{Fault, Faults, Identity, IssuerName, Path, Reason, Severity, TenantId, UpstreamName};

use super::format::{self, Case, Content, Expect, Field, Fixtures, Logged, Outcome, Text, Values, Word};
use super::wanted::{Wanted, WantedField, bytes, field_name, field_value};

/// A case, ready to be played.
pub(in crate::cli::plugin) struct Ready {
    pub(in crate::cli::plugin) name: String,
    /// Where it stands in its file's list.
    pub(in crate::cli::plugin) index: usize,
    pub(in crate::cli::plugin) plugin: PluginConfig,
    pub(in crate::cli::plugin) at: u64,
    pub(in crate::cli::plugin) every: Duration,
    pub(in crate::cli::plugin) store: Vec<(String, Vec<u8>)>,
    pub(in crate::cli::plugin) upstream: UpstreamName,
    pub(in crate::cli::plugin) head: RequestHead,
    pub(in crate::cli::plugin) body: Body,
    pub(in crate::cli::plugin) tenant: Option<TenantId>,
    pub(in crate::cli::plugin) identity: Option<Arc<Identity>>,
    pub(in crate::cli::plugin) link: Link,
    pub(in crate::cli::plugin) response: ResponseHead,
    pub(in crate::cli::plugin) response_body: Body,
    pub(in crate::cli::plugin) trailers: Option<HeaderMap>,
    pub(in crate::cli::plugin) end: End,
    /// One for each time it is played, none where nothing is expected of that one.
    pub(super) expectations: Vec<Option<Expectation>>,
}

/// A body, in the pieces in which it comes.
#[derive(Debug, Clone)]
pub(in crate::cli::plugin) enum Body {
    None,
    Whole(Bytes),
    Pieces(Vec<Bytes>),
}

/// How an exchange is said to have ended.
pub(in crate::cli::plugin) struct End {
    pub(in crate::cli::plugin) status: Option<u16>,
    pub(in crate::cli::plugin) duration: Duration,
    pub(in crate::cli::plugin) request_bytes: Option<u64>,
    pub(in crate::cli::plugin) response_bytes: Option<u64>,
    pub(in crate::cli::plugin) upstream: Option<UpstreamName>,
    pub(in crate::cli::plugin) refused: Option<&'static str>,
}

/// What is to come of one exchange.
pub(super) struct Expectation {
    pub(super) outcome: Outcome,
    pub(super) failure: Option<&'static str>,
    pub(super) reason: Option<Wanted>,
    pub(super) detail: Option<Wanted>,
    pub(super) request: ExpectedMessage,
    pub(super) response: ExpectedMessage,
    pub(super) upstream: Option<UpstreamName>,
    pub(super) tags: Vec<(String, Wanted)>,
    pub(super) store: Vec<(String, Wanted)>,
    pub(super) metrics: Vec<format::Metric>,
    pub(super) log: Vec<(Option<format::Level>, Option<Wanted>)>,
}

/// What a message is to be as it goes on.
#[derive(Default)]
pub(super) struct ExpectedMessage {
    pub(super) status: Option<u16>,
    pub(super) headers: Vec<(HeaderName, WantedField)>,
    pub(super) body: Option<Wanted>,
    pub(super) chunks: Option<Vec<Bytes>>,
    pub(super) trailers: Vec<(HeaderName, WantedField)>,
}

impl ExpectedMessage {
    pub(super) fn is_empty(&self) -> bool {
        let Self { status, headers, body, chunks, trailers } = self;
        status.is_none() && headers.is_empty() && body.is_none() && chunks.is_none() && trailers.is_empty()
    }
}

impl Body {
    /// Its pieces, each with whether it is the last.
    pub(in crate::cli::plugin) fn pieces(&self) -> Vec<(Bytes, bool)> {
        match self {
            Self::None => Vec::new(),
            Self::Whole(whole) => vec![(whole.clone(), true)],
            Self::Pieces(pieces) => {
                let end = (Bytes::new(), true);
                pieces.iter().map(|piece| (piece.clone(), false)).chain([end]).collect()
            }
        }
    }

    pub(in crate::cli::plugin) fn whole(&self) -> Bytes {
        match self {
            Self::None => Bytes::new(),
            Self::Whole(whole) => whole.clone(),
            Self::Pieces(pieces) => pieces.concat().into(),
        }
    }
}

/// Every case, and the faults of all of them. `given` is the plugin of a gateway's configuration, where one was named.
pub(super) fn ready(fixtures: &Fixtures, given: Option<&PluginConfig>, faults: &mut Faults) -> Vec<Ready> {
    let root = Path::root();
    let plugin = match (&fixtures.plugin, given) {
        (Some(plugin), None) => {
            // What a gateway warns of, such as a component that is not pinned, is as it should be while it is written.
            let mut its = Faults::new();
            plugin.validate(&root.key("plugin"), &mut its);
            its.into_vec()
                .into_iter()
                .filter(|fault| fault.severity == Severity::Error)
                .for_each(|fault| faults.push(fault));
            plugin
        }
        (None, Some(given)) => given,
        (Some(_), Some(given)) => {
            let message = "the plugin is given twice: here, and by --config and --plugin";
            faults.push(Fault::error(&root.key("plugin"), message).help("leave one of them out"));
            given
        }
        (None, None) => {
            let help = "write plugin: { component: FILE }, or name one by --config FILE --plugin NAME";
            faults.push(Fault::error(&root.key("plugin"), "there is no plugin to test").help(help));
            return Vec::new();
        }
    };
    let mut names = BTreeSet::new();
    let mut ready = Vec::new();
    for (index, case) in fixtures.cases.iter().enumerate() {
        let at = root.key("cases").index(index);
        if !names.insert(case.name.as_str()) {
            faults.error(&at.key("name"), format!("{:?} is the name of an earlier case", case.name));
        }
        ready.extend(case.ready(index, plugin, &at, faults));
    }
    ready
}

impl Case {
    fn ready(&self, index: usize, plugin: &PluginConfig, at: &Path, faults: &mut Faults) -> Option<Ready> {
        // Each is looked at before any is given up, so that all faults come at once.
        let at_request = at.key("request");
        let head = self.request.head(&at_request, faults);
        let body = body_of(self.request.body.as_ref(), self.request.chunks.as_deref(), &at_request, faults);
        let at_response = at.key("response");
        let response = self.response.head(&at_response, faults);
        let response_body = body_of(self.response.body.as_ref(), self.response.chunks.as_deref(), &at_response, faults);
        let trailers =
            self.response.trailers.as_ref().map(|fields| fields_of(fields, &at_response.key("trailers"), faults));
        let link = self.connection.link(&at.key("connection"), faults);
        let identity = self.identity.as_ref().map(|who| who.identity(&at.key("identity"), faults));
        let end = self.end.ready(&at.key("end"), faults);
        let store = self
            .store
            .iter()
            .map(|(key, value)| bytes(value, &at.key("store").key(key), faults).map(|value| (key.clone(), value)));
        let store: Option<Vec<_>> = store.collect::<Vec<_>>().into_iter().collect();
        let expectations = self.expectations(at, faults);
        let upstream = self.upstream.clone().or_else(|| UpstreamName::new("origin").ok());

        let (mut head, body) = (head?, body?);
        frame(&mut head.headers, &body);
        let (mut response, response_body) = (response?, response_body?);
        frame(&mut response.headers, &response_body);
        let says_it_is_empty = matches!(response_body, Body::None)
            && self.response.trailers.is_none()
            && head.method != Method::HEAD
            && !matches!(response.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        if says_it_is_empty {
            response.headers.entry(CONTENT_LENGTH).or_insert(HeaderValue::from(0));
        }
        Some(Ready {
            name: self.name.clone(),
            index,
            plugin: PluginConfig { config: self.told(&plugin.config), ..plugin.clone() },
            at: self.at,
            every: self.every.map(sluice_vocabulary::measure::Span::get).unwrap_or_default(),
            store: store?,
            upstream: upstream?,
            head,
            body,
            tenant: self.identity.as_ref().and_then(|who| who.tenant.clone()),
            identity: match identity {
                Some(identity) => identity?,
                None => None,
            },
            link: link?,
            response,
            response_body,
            trailers: match trailers {
                Some(trailers) => Some(trailers?),
                None => None,
            },
            end: end?,
            expectations: expectations?,
        })
    }

    /// What the plugin is told in this case.
    fn told(&self, usual: &Value) -> Value {
        match (&self.config, usual) {
            (Some(Value::Object(own)), Value::Object(usual)) => {
                let mut all = usual.clone();
                all.extend(own.clone());
                Value::Object(all)
            }
            (Some(own), _) => own.clone(),
            (None, usual) => usual.clone(),
        }
    }

    fn expectations(&self, at: &Path, faults: &mut Faults) -> Option<Vec<Option<Expectation>>> {
        let each = self.expect_each.as_deref().unwrap_or_default();
        let count = self.repeat.map_or(each.len().max(1), |repeat| repeat as usize);
        if !each.is_empty() && count != each.len() {
            let message = format!("{} expectations for {count} repetitions: expected one for each", each.len());
            faults.error(&at.key("expect_each"), message);
        }
        let made = |expect: &Expect, at: Path, faults: &mut Faults| expect.ready(&at, faults);
        let mut all: Vec<Option<Expectation>> = Vec::with_capacity(count);
        let mut is_whole = true;
        for (index, expect) in each.iter().enumerate() {
            let expectation = made(expect, at.key("expect_each").index(index), faults);
            is_whole &= expectation.is_some();
            all.push(expectation);
        }
        all.resize_with(count, || None);
        // Where nothing is said at all, it is to go on.
        let nothing = Expect::default();
        let last = match (&self.expect, each.is_empty()) {
            (Some(expect), _) => Some(expect),
            (None, true) => Some(&nothing),
            (None, false) => None,
        };
        if let (Some(expect), Some(slot)) = (last, all.last_mut()) {
            if slot.is_some() {
                let message = "the last repetition has an expectation under expect_each already";
                faults.push(Fault::error(&at.key("expect"), message).help("leave one of them out"));
            }
            let expectation = made(expect, at.key("expect"), faults);
            is_whole &= expectation.is_some();
            *slot = expectation;
        }
        is_whole.then_some(all)
    }
}

impl format::Request {
    fn head(&self, at: &Path, faults: &mut Faults) -> Option<RequestHead> {
        let method = match self.method.as_deref().unwrap_or("GET").parse::<Method>() {
            Ok(method) => Some(method),
            Err(_) => {
                faults.error(&at.key("method"), "this is not a method");
                None
            }
        };
        let target = self.target(at, faults);
        let headers = fields_of(&self.headers, &at.key("headers"), faults);
        let ((scheme, authority, target), mut headers) = (target?, headers?);
        let at_path = if self.url.is_some() { at.key("url") } else { at.key("path") };
        // Plugins see the path in its one form.
        let normal = match sluice_downstream::normalise_path(target.as_bytes(), EncodedSlash::Keep) {
            Ok(normal) => normal.to_target().into_owned(),
            Err(why) => {
                faults.error(&at_path, format!("the gateway would refuse this target: {why}"));
                return None;
            }
        };
        let (path, query) = match normal.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (normal.as_str(), None),
        };
        if !headers.contains_key(HOST) && !authority.is_empty() {
            let at_host = if self.url.is_some() { at.key("url") } else { at.key("host") };
            headers.insert(HOST, field_value(&authority, &at_host, faults)?);
        }
        let host = authority.rsplit_once(':').filter(|(_, port)| port.bytes().all(|b| b.is_ascii_digit()));
        let host = host.map_or(authority.as_str(), |(host, _)| host).to_ascii_lowercase();
        Some(RequestHead {
            method: method?,
            scheme,
            host: host.into(),
            path: path.into(),
            query: query.map(Into::into),
            headers,
        })
    }

    /// Scheme, authority, and path with query.
    fn target(&self, at: &Path, faults: &mut Faults) -> Option<(Scheme, String, String)> {
        let Some(url) = &self.url else {
            let scheme = match self.scheme {
                Some(format::Scheme::Https) => Scheme::Https,
                Some(format::Scheme::Http) | None => Scheme::Http,
            };
            let path = self.path.as_deref().unwrap_or("/");
            if path.contains('?') {
                faults
                    .push(Fault::error(&at.key("path"), "a path has no `?`").help("write what follows it under query"));
                return None;
            }
            let query = self.query.as_deref().map(|query| format!("?{query}")).unwrap_or_default();
            return Some((
                scheme,
                self.host.clone().unwrap_or_else(|| "localhost".to_owned()),
                format!("{path}{query}"),
            ));
        };
        if self.scheme.is_some() || self.host.is_some() || self.path.is_some() || self.query.is_some() {
            let fault = Fault::error(&at.key("url"), "the address is given twice");
            faults.push(fault.help("leave out either url, or scheme, host, path and query"));
            return None;
        }
        let parsed = url.parse::<Uri>().ok().and_then(|uri| {
            let scheme = match uri.scheme_str()? {
                "http" => Scheme::Http,
                "https" => Scheme::Https,
                _ => return None,
            };
            let target = uri.path_and_query().map_or("/", |target| target.as_str()).to_owned();
            Some((scheme, uri.authority()?.as_str().to_owned(), target))
        });
        if parsed.is_none() {
            faults.error(
                &at.key("url"),
                format!("{url:?} is no address: expected one such as https://api.example.com/orders?page=2"),
            );
        }
        parsed
    }
}

impl format::Response {
    fn head(&self, at: &Path, faults: &mut Faults) -> Option<ResponseHead> {
        let headers = fields_of(&self.headers, &at.key("headers"), faults);
        let status = StatusCode::from_u16(self.status.unwrap_or(200)).ok();
        if status.is_none() {
            faults.error(&at.key("status"), "this is not a status");
        }
        Some(ResponseHead { status: status?, headers: headers? })
    }
}

impl format::Who {
    /// Who was verified: nobody, where only a tenant is known.
    fn identity(&self, at: &Path, faults: &mut Faults) -> Option<Option<Arc<Identity>>> {
        let Self { subject, issuer, tenant: _, scopes, claims } = self;
        if subject.is_none() && issuer.is_none() && scopes.is_none() && claims.is_none() {
            return Some(None);
        }
        let mut claims = claims.clone().unwrap_or_default();
        for (key, name, is_said) in [("subject", "sub", subject.is_some()), ("scopes", "scope", scopes.is_some())] {
            if is_said && claims.contains_key(name) {
                faults.error(&at.key("claims").key(name), format!("it is given twice: here, and by {key}"));
            }
        }
        if let Some(subject) = subject {
            claims.insert("sub".to_owned(), subject.as_str().into());
        }
        if let Some(scopes) = scopes {
            claims.insert("scope".to_owned(), scopes.join(" ").into());
        }
        let issuer = issuer.clone().or_else(|| IssuerName::new("test").ok())?;
        Some(Some(Arc::new(Identity::new(issuer, claims.into(), u64::MAX))))
    }
}

impl format::Connection {
    fn link(&self, at: &Path, faults: &mut Faults) -> Option<Link> {
        let client = self.client.unwrap_or(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)));
        let tls = self.tls.as_ref().map(|tls| tls.info(&at.key("tls"), faults));
        let connection = Connection {
            id: 1,
            peer: SocketAddr::new(self.peer.unwrap_or(client), 50_000),
            local: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 443),
            client: SocketAddr::new(client, 50_000),
            tls: match tls {
                Some(tls) => Some(Arc::new(tls?)),
                None => None,
            },
            cookie: None,
            listener: 0,
        };
        Some(Link {
            connection: Arc::new(connection),
            client,
            protocol: match self.protocol {
                format::Protocol::Http10 => Version::HTTP_10,
                format::Protocol::Http11 => Version::HTTP_11,
                format::Protocol::Http2 => Version::HTTP_2,
            },
            round_trip: self.round_trip.map(sluice_vocabulary::measure::Span::get),
        })
    }
}

impl format::Tls {
    fn info(&self, at: &Path, faults: &mut Faults) -> Option<TlsInfo> {
        let certificate = self.certificate.as_ref().map(|text| {
            let digest = URL_SAFE_NO_PAD.decode(text).ok().and_then(|bytes| <[u8; 32]>::try_from(bytes).ok());
            if digest.is_none() {
                faults.error(&at.key("certificate"), "expected SHA-256 in base64url: 43 characters");
            }
            digest
        });
        Some(TlsInfo {
            version: match self.version {
                format::TlsVersion::Tls12 => "TLSv1.2",
                format::TlsVersion::Tls13 => "TLSv1.3",
            },
            cipher: "TLS13_AES_256_GCM_SHA384",
            server_name: self.server_name.as_ref().map(|name| name.to_ascii_lowercase().into()),
            client_certificate_sha256: match certificate {
                Some(digest) => Some(digest?),
                None => None,
            },
        })
    }
}

impl format::End {
    fn ready(&self, at: &Path, faults: &mut Faults) -> Option<End> {
        let refused = self.refused.as_ref().map(|name| {
            let known = Reason::ALL.iter().map(|reason| reason.slug());
            let found = known.clone().find(|slug| slug == name);
            if found.is_none() {
                let fault = Fault::error(&at.key("refused"), format!("{name:?} is no reason of the gateway's"));
                faults.push(match sluice_config::nearest(name, known) {
                    Some(meant) => fault.help(format!("did you mean `{meant}`?")),
                    None => fault.help("gateway/docs/interfaces.md lists them"),
                });
            }
            found
        });
        Some(End {
            status: self.status,
            duration: self.duration.map(sluice_vocabulary::measure::Span::get).unwrap_or_default(),
            request_bytes: self.request_bytes,
            response_bytes: self.response_bytes,
            upstream: self.upstream.clone(),
            refused: match refused {
                Some(found) => Some(found?),
                None => None,
            },
        })
    }
}

impl Expect {
    fn ready(&self, at: &Path, faults: &mut Faults) -> Option<Expectation> {
        let fails = match &self.outcome {
            Outcome::Whole(word) => *word == Word::Fail,
            Outcome::Sides(sides) => [sides.request, sides.response, sides.end].contains(&Word::Fail),
        };
        if self.failure.is_some() && !fails {
            faults.push(Fault::error(&at.key("failure"), "nothing is to fail").help("write outcome: fail"));
        }
        let mut text = |wanted: &Option<Text>, key: &str| match wanted {
            Some(wanted) => Wanted::of(wanted, &at.key(key), faults).map(Some),
            None => Some(None),
        };
        let (reason, detail) = (text(&self.reason, "reason"), text(&self.detail, "detail"));
        let request = expected_message(
            None,
            &self.request.headers,
            self.request.body.as_ref(),
            self.request.chunks.as_deref(),
            &BTreeMap::new(),
            (&at.key("request"), faults),
        );
        let response = expected_message(
            self.response.status,
            &self.response.headers,
            self.response.body.as_ref(),
            self.response.chunks.as_deref(),
            &self.response.trailers,
            (&at.key("response"), faults),
        );
        let (tags, store) = (texts(&self.tags, &at.key("tags"), faults), texts(&self.store, &at.key("store"), faults));
        let mut log = Vec::with_capacity(self.log.len());
        for (index, line) in self.log.iter().enumerate() {
            let at = at.key("log").index(index);
            log.push(match line {
                Logged::Exact(text) => Some((None, Some(Wanted::Exactly(text.clone().into_bytes())))),
                Logged::Line(line) => match &line.text {
                    Some(text) => Wanted::of(text, &at.key("text"), faults).map(|wanted| (line.level, Some(wanted))),
                    None => Some((line.level, None)),
                },
            });
        }
        Some(Expectation {
            outcome: self.outcome.clone(),
            failure: self.failure.map(format::FailureKind::as_str),
            reason: reason?,
            detail: detail?,
            request: request?,
            response: response?,
            upstream: self.upstream.clone(),
            tags: tags?,
            store: store?,
            metrics: self.metrics.clone(),
            log: log.into_iter().collect::<Option<_>>()?,
        })
    }
}

fn expected_message(
    status: Option<u16>,
    headers: &BTreeMap<String, Field>,
    body: Option<&Text>,
    chunks: Option<&[Content]>,
    trailers: &BTreeMap<String, Field>,
    (at, faults): (&Path, &mut Faults),
) -> Option<ExpectedMessage> {
    let mut fields = |fields: &BTreeMap<String, Field>, at: &Path| {
        let each = fields.iter().map(|(name, field)| {
            let at = at.key(name);
            let name = field_name(name, &at, faults);
            WantedField::of(field, &at, faults).and_then(|wanted| Some((name?, wanted)))
        });
        each.collect::<Vec<_>>().into_iter().collect::<Option<Vec<_>>>()
    };
    let (headers, trailers) = (fields(headers, &at.key("headers")), fields(trailers, &at.key("trailers")));
    let body = match body {
        Some(body) => Wanted::of(body, &at.key("body"), faults).map(Some),
        None => Some(None),
    };
    let chunks = match chunks {
        Some(chunks) => pieces_of(chunks, &at.key("chunks"), faults).map(Some),
        None => Some(None),
    };
    Some(ExpectedMessage { status, headers: headers?, body: body?, chunks: chunks?, trailers: trailers? })
}

fn texts(texts: &BTreeMap<String, Text>, at: &Path, faults: &mut Faults) -> Option<Vec<(String, Wanted)>> {
    let each = texts.iter().map(|(key, text)| Some((key.clone(), Wanted::of(text, &at.key(key), faults)?)));
    each.collect::<Vec<_>>().into_iter().collect()
}

fn fields_of(fields: &BTreeMap<String, Values>, at: &Path, faults: &mut Faults) -> Option<HeaderMap> {
    let mut headers = HeaderMap::new();
    let mut is_whole = true;
    for (name, values) in fields {
        let at = at.key(name);
        let parsed = field_name(name, &at, faults);
        let values = match values {
            Values::One(value) => std::slice::from_ref(value),
            Values::Many(values) => values.as_slice(),
        };
        for value in values {
            match (&parsed, field_value(value, &at, faults)) {
                (Some(name), Some(value)) => drop(headers.append(name.clone(), value)),
                _ => is_whole = false,
            }
        }
        is_whole &= parsed.is_some();
    }
    is_whole.then_some(headers)
}

fn body_of(body: Option<&Content>, chunks: Option<&[Content]>, at: &Path, faults: &mut Faults) -> Option<Body> {
    match (body, chunks) {
        (Some(_), Some(_)) => {
            faults.error(&at.key("chunks"), "the body is given twice: by body, and in chunks");
            None
        }
        (Some(body), None) => {
            let whole = bytes(body, &at.key("body"), faults)?;
            Some(if whole.is_empty() { Body::None } else { Body::Whole(whole.into()) })
        }
        (None, Some(chunks)) => pieces_of(chunks, &at.key("chunks"), faults).map(Body::Pieces),
        (None, None) => Some(Body::None),
    }
}

fn pieces_of(chunks: &[Content], at: &Path, faults: &mut Faults) -> Option<Vec<Bytes>> {
    let each = chunks.iter().enumerate().map(|(index, chunk)| bytes(chunk, &at.index(index), faults).map(Bytes::from));
    each.collect::<Vec<_>>().into_iter().collect()
}

/// Says how long a body is, as whoever sends it would.
fn frame(headers: &mut HeaderMap, body: &Body) {
    if headers.contains_key(CONTENT_LENGTH) || headers.contains_key(TRANSFER_ENCODING) {
        return;
    }
    match body {
        Body::None => {}
        Body::Whole(whole) => drop(headers.insert(CONTENT_LENGTH, HeaderValue::from(whole.len()))),
        Body::Pieces(_) => drop(headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"))),
    }
}
