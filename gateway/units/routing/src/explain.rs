//! Why a request takes the route it takes: for `sluice check --explain`.
//!
//! The look-up itself is asked which route wins, so that an explanation cannot differ from what happens. Then every other
//! route is asked why it does not: those that would take the request but come later, and those that miss by one thing.

use std::cmp::Reverse;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use http::header::{HeaderName, HeaderValue};
use http::{HeaderMap, Method, Uri};
use serde::Serialize;
use sluice_vocabulary::RouteName;
use sluice_vocabulary::request::{Connection, RequestView, Scheme, TlsInfo};

use crate::answer::Decision;
use crate::cors::preflight_method;
use crate::inspect::does;
use crate::matched::Matched;
use crate::path::PathPattern;
use crate::route::{Precedence, Route};
use crate::table::Table;

/// Near misses that are told; the rest is counted.
const MOST_MISSES: usize = 8;

/// Which route a request takes, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Explanation {
    /// The request, as it was asked.
    pub request: String,
    /// What becomes of it.
    pub outcome: Outcome,
    /// Routes that nearly took it, nearest first; at most 8.
    pub near_misses: Vec<NearMiss>,
    /// How many near misses are left out.
    pub left_out: usize,
    /// How many steps the look-up took, of how many routes there are.
    pub steps: u32,
    /// The number of routes.
    pub routes: usize,
}

/// What becomes of a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It has a route.
    Route {
        /// The route.
        name: RouteName,
        /// Its position in the configuration, from 0.
        index: usize,
        /// What of it fits.
        because: Vec<String>,
        /// What it does.
        then: String,
    },
    /// It has none.
    Refused {
        /// The status code.
        status: u16,
        /// The reason's name.
        reason: &'static str,
        /// The methods that would do, for a 405.
        allow: Option<String>,
    },
}

/// A route that nearly took the request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NearMiss {
    /// The route.
    pub route: RouteName,
    /// Why it did not: the rest of a sentence that begins with the route.
    pub because: String,
}

impl Table {
    /// Explains what a look-up of this request finds.
    pub fn explain(&self, request: &RequestView<'_>) -> Explanation {
        let found = self.lookup(request);
        let announced = preflight_method(request);
        let (winner, method) = match &found {
            Ok(matched) if matched.is_preflight() => {
                (Some(matched.route()), announced.as_ref().unwrap_or(request.method))
            }
            Ok(matched) => (Some(matched.route()), request.method),
            Err(_) => (None, request.method),
        };
        let mut misses: Vec<_> = self
            .routes
            .iter()
            .filter(|route| winner.is_none_or(|winner| winner.index != route.index))
            .filter_map(|route| miss(route, winner, request, method))
            .collect();
        misses.sort_by_key(|(nearness, route, _)| (*nearness, route.index));
        let left_out = misses.len().saturating_sub(MOST_MISSES);
        misses.truncate(MOST_MISSES);
        let near_misses =
            misses.into_iter().map(|(_, route, because)| NearMiss { route: route.name.clone(), because }).collect();

        let outcome = match &found {
            Ok(matched) => Outcome::Route {
                name: matched.name().clone(),
                index: matched.index(),
                because: because(matched, request, method),
                then: then(matched, request),
            },
            Err(refusal) => Outcome::Refused {
                status: refusal.status().as_u16(),
                reason: refusal.reason.slug(),
                allow: refusal.headers.first().and_then(|(_, value)| value.to_str().ok()).map(str::to_owned),
            },
        };
        let query = request.query.map(|query| format!("?{query}")).unwrap_or_default();
        Explanation {
            request: format!(
                "{} {}://{}{}{query}",
                request.method,
                request.scheme.as_str(),
                request.host,
                request.path
            ),
            outcome,
            near_misses,
            left_out,
            steps: self.lookup_steps(request),
            routes: self.len(),
        }
    }
}

fn because(matched: &Matched, request: &RequestView<'_>, method: &Method) -> Vec<String> {
    let route = matched.route();
    let mut lines = Vec::new();
    if let Some(host) = route.host_for(request.host) {
        lines.push(format!("host {host}"));
    }
    let kind = match route.path {
        PathPattern::Exact(_) => "exact path",
        PathPattern::Template(_) => "path template",
        PathPattern::Prefix(_) => "path prefix",
        PathPattern::Any => "path",
    };
    let captures: Vec<_> = matched.captures(request.path).map(|(name, value)| format!("{name}={value}")).collect();
    let captures = if captures.is_empty() { String::new() } else { format!(" with {}", captures.join(", ")) };
    lines.push(format!("{kind} {}{captures}", route.path));
    if route.methods.any() {
        lines.push("any method".into());
    } else {
        lines.push(format!("method {method} is among {}", route.methods.list()));
    }
    match route.conditions.count() {
        0 => {}
        1 => lines.push("its condition on scheme, header or query holds".into()),
        count => lines.push(format!("its {count} conditions on scheme, headers and query hold")),
    }
    lines
}

fn then(matched: &Matched, request: &RequestView<'_>) -> String {
    match matched.decide(request) {
        Err(refusal) => format!("refused: {} ({})", refusal.reason.slug(), refusal.status().as_u16()),
        Ok(Decision::Forward) => match matched.rewrite_path(request.path) {
            Some(path) => format!("forward with the path {path}"),
            None => "forward".into(),
        },
        Ok(Decision::Direct(answer)) => {
            let location = answer.headers.iter().find(|(name, _)| *name == http::header::LOCATION);
            let location = location.and_then(|(_, value)| value.to_str().ok());
            match location {
                Some(location) => format!("redirect {} to {location}", answer.status.as_u16()),
                None if matched.is_preflight() => format!("answer {} to the CORS preflight", answer.status.as_u16()),
                None => does(matched.route()),
            }
        }
    }
}

/// How near a route came: the lesser, the nearer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Nearness {
    ComesLater,
    Method,
    Condition,
    Host,
    /// By how much of the path is shared.
    Path(Reverse<usize>),
}

fn miss<'r>(
    route: &'r Route,
    winner: Option<&Route>,
    request: &RequestView<'_>,
    method: &Method,
) -> Option<(Nearness, &'r Route, String)> {
    let host = route.host_for(request.host);
    let mut misses = Vec::new();
    if host.is_none() {
        let hosts: Vec<_> = route.hosts.iter().map(ToString::to_string).collect();
        misses.push((Nearness::Host, format!("is for the host {}", hosts.join(", "))));
    }
    if !route.path.is_for(request.path) {
        let pattern = route.path.to_string();
        let shared = pattern.bytes().zip(request.path.bytes()).take_while(|(a, b)| a == b).count();
        misses.push((Nearness::Path(Reverse(shared)), format!("is for the path {pattern}")));
    }
    if !route.methods.allow(method) {
        misses.push((Nearness::Method, format!("takes {}, not {method}", route.methods.list())));
    }
    misses.extend(route.conditions.failing(request).map(|failing| (Nearness::Condition, failing.to_string())));
    match (misses.as_mut_slice(), host, winner) {
        ([(nearness, because)], ..) => Some((*nearness, route, std::mem::take(because))),
        ([], Some(host), Some(winner)) => {
            let winning_host = winner.host_for(request.host)?;
            let why = why_later(&winner.precedence(winning_host), &route.precedence(host));
            Some((Nearness::ComesLater, route, format!("would take it too, but {why}")))
        }
        _ => None,
    }
}

/// The first thing by which one route goes before another.
fn why_later(winner: &Precedence, other: &Precedence) -> String {
    if winner.host != other.host {
        "its host is less exact".into()
    } else if winner.path != other.path {
        "its path is less exact".into()
    } else if winner.place.takes_any_method != other.place.takes_any_method {
        "it names no method".into()
    } else if winner.place.conditions != other.place.conditions {
        format!("it has fewer conditions ({} against {})", other.place.conditions.0, winner.place.conditions.0)
    } else {
        "it stands later in the configuration".into()
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.request)?;
        match &self.outcome {
            Outcome::Route { name, index, because, then } => {
                writeln!(f, "  route {name} (routes[{index}]) wins:")?;
                for line in because {
                    writeln!(f, "    {line}")?;
                }
                writeln!(f, "  then: {then}")?;
            }
            Outcome::Refused { status, reason, allow } => {
                write!(f, "  no route: {status} {reason}")?;
                match allow {
                    Some(allow) => writeln!(f, ", Allow: {allow}")?,
                    None => writeln!(f)?,
                }
            }
        }
        if !self.near_misses.is_empty() {
            writeln!(f, "  not taken:")?;
            for miss in &self.near_misses {
                writeln!(f, "    {} {}", miss.route, miss.because)?;
            }
        }
        if self.left_out > 0 {
            writeln!(f, "    and {} more", self.left_out)?;
        }
        write!(f, "  found in {} steps among {} routes", self.steps, self.routes)
    }
}

/// A request as a person writes it, to be explained: `GET https://api.example.com/orders/1?v=2`.
#[derive(Debug, Clone)]
pub struct Question {
    /// The method; GET where none was written.
    pub method: Method,
    /// The scheme.
    pub scheme: Scheme,
    /// The host, lower case, without port.
    pub host: String,
    /// The port beside it, where one was written.
    pub port: Option<u16>,
    /// The path as written. A look-up wants it normalised, which whoever asks must see to.
    pub path: String,
    /// The query, without its `?`.
    pub query: Option<String>,
    /// Header fields; none at first.
    pub headers: HeaderMap,
    /// The client's address; 127.0.0.1 at first.
    pub client: IpAddr,
    connection: Connection,
}

/// A text that is not a request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadQuestion {
    /// Not of the form.
    #[error("{0:?} is not a request: expected the form 'GET https://host/path'")]
    Form(String),
    /// Not a header field.
    #[error("{0:?} is not a header field: expected the form 'name: value'")]
    Header(String),
}

impl Question {
    /// Parses `METHOD URL`, or a URL alone.
    pub fn parse(text: &str) -> Result<Self, BadQuestion> {
        let bad = || BadQuestion::Form(text.to_owned());
        let mut words = text.split_whitespace();
        let (method, url) = match (words.next(), words.next(), words.next()) {
            (Some(url), None, None) => ("GET", url),
            (Some(method), Some(url), None) => (method, url),
            _ => return Err(bad()),
        };
        let method = Method::from_bytes(method.as_bytes()).map_err(|_| bad())?;
        let url: Uri = url.parse().map_err(|_| bad())?;
        let scheme = match url.scheme_str() {
            Some("http") => Scheme::Http,
            Some("https") => Scheme::Https,
            _ => return Err(bad()),
        };
        let host = url.host().ok_or_else(bad)?.trim_end_matches('.').to_ascii_lowercase();
        let path = if url.path().is_empty() { "/" } else { url.path() };
        let nowhere = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        Ok(Self {
            method,
            scheme,
            host,
            port: url.port_u16(),
            path: path.to_owned(),
            query: url.query().map(str::to_owned),
            headers: HeaderMap::new(),
            client: nowhere.ip(),
            connection: Connection {
                id: 0,
                peer: nowhere,
                local: nowhere,
                client: nowhere,
                tls: None,
                cookie: None,
                listener: 0,
            },
        })
    }

    /// With a header field, written as `name: value`.
    pub fn header(mut self, text: &str) -> Result<Self, BadQuestion> {
        let bad = || BadQuestion::Header(text.to_owned());
        let (name, value) = text.split_once(':').ok_or_else(bad)?;
        let name = HeaderName::from_bytes(name.trim().as_bytes()).map_err(|_| bad())?;
        self.headers.append(name, HeaderValue::from_str(value.trim()).map_err(|_| bad())?);
        Ok(self)
    }

    /// On a connection that showed, and was believed, a certificate with this SHA-256.
    #[must_use]
    pub fn with_certificate(mut self, sha256: [u8; 32]) -> Self {
        self.connection.tls = Some(Arc::new(TlsInfo {
            version: "TLSv1.3",
            cipher: "",
            server_name: None,
            client_certificate_sha256: Some(sha256),
        }));
        self
    }

    /// As every unit sees a request.
    pub fn view(&self) -> RequestView<'_> {
        RequestView {
            method: &self.method,
            scheme: self.scheme,
            host: &self.host,
            port: self.port,
            path: &self.path,
            query: self.query.as_deref(),
            headers: &self.headers,
            client: self.client,
            connection: &self.connection,
        }
    }
}
