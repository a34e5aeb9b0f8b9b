//! What may be answered here, without an upstream: redirects, fixed answers, CORS preflights.

use bytes::Bytes;
use http::StatusCode;
use http::header::{self, HeaderName, HeaderValue};
use sluice_vocabulary::request::{RequestView, Scheme};
use sluice_vocabulary::{Fault, Faults, Path, Reason, Refusal};

use crate::config;
use crate::config::SchemeName;
pub use crate::cors::Fields;
use crate::edits::{Side, fields};
use crate::host::HostPattern;
use crate::path::{PathPattern, literal_fault};
use crate::template::{Captures, Template};

/// What becomes of a request whose route is known.
#[derive(Debug)]
pub enum Decision {
    /// It is answered here and now; nothing after routing is asked.
    Direct(Box<DirectAnswer>),
    /// It goes on toward the route's upstream.
    Forward,
}

/// An answer made here.
#[derive(Debug)]
pub struct DirectAnswer {
    /// What kind of answer it is, for metrics and logs.
    pub kind: DirectKind,
    /// The status code.
    pub status: StatusCode,
    /// Header fields, `Content-Type` among them; `Content-Length` is for the sender to add.
    pub headers: Fields,
    /// The body. To a HEAD request its length is told and it is not sent.
    pub body: Bytes,
}

/// The kinds of answers made here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DirectKind {
    /// To a CORS preflight.
    Preflight,
    /// A redirect.
    Redirect,
    /// A fixed answer.
    Fixed,
}

impl DirectKind {
    /// The name in metrics and logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Preflight => "preflight",
            Self::Redirect => "redirect",
            Self::Fixed => "fixed",
        }
    }
}

/// A redirect, compiled.
#[derive(Debug)]
pub(crate) struct Redirect {
    target: Target,
    /// The path, or that of the request.
    path: Option<Template>,
    /// A query of the target's own, with its `?`.
    query: Option<Box<str>>,
    status: StatusCode,
    keep_query: bool,
}

#[derive(Debug)]
enum Target {
    /// The same origin, told as a path alone.
    Same,
    /// Another origin; what is missing is taken from the request.
    Other { scheme: Option<Scheme>, host: Option<Box<str>>, port: Option<u16> },
    /// `https://new.example.com:8443`
    Origin(Box<str>),
}

impl Redirect {
    pub(crate) fn compile(
        config: &config::Redirect,
        pattern: &PathPattern,
        at: &Path,
        faults: &mut Faults,
    ) -> Option<Self> {
        let before = faults.iter().count();
        let status = match config.status {
            301 | 302 | 303 | 307 | 308 => {
                StatusCode::from_u16(config.status).unwrap_or(StatusCode::TEMPORARY_REDIRECT)
            }
            other => {
                faults.error(
                    &at.key("status"),
                    format!("status {other} is not a redirect: expected 301, 302, 303, 307 or 308"),
                );
                StatusCode::TEMPORARY_REDIRECT
            }
        };
        let has_parts =
            config.scheme.is_some() || config.host.is_some() || config.port.is_some() || config.path.is_some();
        let (target, path, query) = match &config.to {
            Some(_) if has_parts => {
                faults.error(at, "to is the whole target: expected no scheme, host, port or path beside it");
                return None;
            }
            None if !has_parts => {
                faults.error(at, "the redirect leads nowhere: expected to, or one of scheme, host, port, path");
                return None;
            }
            Some(to) => {
                let at = at.key("to");
                let (origin, rest) = split_origin(to);
                let (path, query) =
                    rest.find('?').map_or((rest, None), |position| (&rest[..position], Some(&rest[position..])));
                if let Some(wrong) = query.and_then(|query| literal_fault(&query[1..])) {
                    faults.error(&at, format!("the query of {to:?} {wrong}"));
                }
                if let Some(wrong) = origin.and_then(what_is_wrong_with_origin) {
                    faults.error(&at, format!("{to:?} {wrong}"));
                }
                let path = if path.is_empty() { "/" } else { path };
                let template = Template::compile(path, pattern, &at, faults);
                let target = origin.map_or(Target::Same, |origin| Target::Origin(origin.into()));
                (target, template, query.map(Box::from))
            }
            None => {
                if let Some(host) = &config.host
                    && let Some(HostPattern::Any | HostPattern::Below(_)) =
                        HostPattern::compile(host, &at.key("host"), faults)
                {
                    faults.error(&at.key("host"), format!("host {host:?} has a wildcard: expected one host"));
                }
                let path =
                    config.path.as_ref().and_then(|path| Template::compile(path, pattern, &at.key("path"), faults));
                let scheme = config.scheme.map(|scheme| match scheme {
                    SchemeName::Http => Scheme::Http,
                    SchemeName::Https => Scheme::Https,
                });
                let target = match (&config.host, scheme, config.port) {
                    (None, None, None) => Target::Same,
                    (host, scheme, port) => Target::Other { scheme, host: host.as_deref().map(Box::from), port },
                };
                (target, path, None)
            }
        };
        (faults.iter().count() == before).then_some(Self { target, path, query, status, keep_query: config.keep_query })
    }

    /// Whether only the scheme changes, so that a request which has it already would be sent to itself.
    pub(crate) fn only_changes_scheme_to(&self) -> Option<Scheme> {
        match (&self.target, &self.path) {
            (Target::Other { scheme: Some(scheme), host: None, port: None }, None) => Some(*scheme),
            _ => None,
        }
    }

    pub(crate) fn answer(&self, request: &RequestView<'_>, captures: &Captures) -> Result<DirectAnswer, Refusal> {
        let location = self.location(request, captures)?;
        // What a client sent was encoded; what is left is a host that no header field can hold.
        let location = HeaderValue::try_from(location).map_err(|_| Refusal::new(Reason::BadHost))?;
        let headers = Fields::from_iter([(header::LOCATION, location)]);
        Ok(DirectAnswer { kind: DirectKind::Redirect, status: self.status, headers, body: Bytes::new() })
    }

    fn location(&self, request: &RequestView<'_>, captures: &Captures) -> Result<String, Refusal> {
        let mut location = match &self.target {
            Target::Same => String::new(),
            Target::Origin(origin) => origin.to_string(),
            Target::Other { scheme, host, port } => {
                let host = host.as_deref().unwrap_or(request.host);
                if host.is_empty() {
                    return Err(Refusal::new(Reason::BadHost));
                }
                let scheme = scheme.unwrap_or(request.scheme).as_str();
                match port {
                    Some(port) => format!("{scheme}://{host}:{port}"),
                    None => format!("{scheme}://{host}"),
                }
            }
        };
        match &self.path {
            Some(template) => push_encoded(&mut location, &template.fill(request.path, captures)),
            // OPTIONS for the whole server has a star for its path.
            None if request.path == "*" => location.push('/'),
            None => push_encoded(&mut location, request.path),
        }
        match (&self.query, request.query) {
            (Some(own), _) => location.push_str(own),
            (None, Some(query)) if self.keep_query => {
                location.push('?');
                push_encoded(&mut location, query);
            }
            (None, _) => {}
        }
        Ok(location)
    }

    /// The target as a person would say it.
    pub(crate) fn describe(&self) -> String {
        let path = self.path.as_ref().map_or("the same path", Template::text);
        let query = self.query.as_deref().unwrap_or_default();
        let origin = match &self.target {
            Target::Same => String::new(),
            Target::Origin(origin) => origin.to_string(),
            Target::Other { scheme, host, port } => {
                let scheme = scheme.map_or("(same scheme)", Scheme::as_str);
                let host = host.as_deref().unwrap_or("(same host)");
                format!("{scheme}://{host}{} ", port.map(|port| format!(":{port}")).unwrap_or_default())
            }
        };
        format!("{} to {origin}{path}{query}", self.status.as_u16())
    }
}

/// Adds what a client sent, percent-encoding whatever cannot stand in a `Location` (RFC 3986 2): other bytes than visible
/// ASCII, quotes and angle brackets, and the backslash, which browsers read as a slash, so that `/\evil.example` would
/// name a host.
fn push_encoded(location: &mut String, sent: &str) {
    const HEX: [char; 16] = ['0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'A', 'B', 'C', 'D', 'E', 'F'];
    for byte in sent.bytes() {
        if byte.is_ascii_graphic() && !matches!(byte, b'\\' | b'"' | b'<' | b'>') {
            location.push(char::from(byte));
        } else {
            location.push('%');
            location.push(HEX[usize::from(byte >> 4)]);
            location.push(HEX[usize::from(byte & 0xF)]);
        }
    }
}

fn split_origin(to: &str) -> (Option<&str>, &str) {
    let Some((scheme, rest)) = to.split_once("://").filter(|(scheme, _)| !scheme.contains('/')) else {
        return (None, to);
    };
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (origin, path) = to.split_at(scheme.len() + 3 + end);
    (Some(origin), path)
}

fn what_is_wrong_with_origin(origin: &str) -> Option<&'static str> {
    let authority = origin.strip_prefix("https://").or_else(|| origin.strip_prefix("http://"));
    let Some(authority) = authority else { return Some("has another scheme than http or https") };
    if authority.contains(['{', '}', '*']) {
        // A client who could choose the host could lead others anywhere.
        return Some("has a capture in its host: expected a fixed host");
    }
    let parsed = authority.parse::<http::uri::Authority>();
    let good = parsed.is_ok_and(|authority| !authority.host().is_empty() && !authority.as_str().contains('@'));
    (!good).then_some("does not name a host")
}

/// A fixed answer, compiled.
#[derive(Debug)]
pub(crate) struct FixedAnswer {
    pub(crate) status: StatusCode,
    headers: Fields,
    body: Bytes,
}

impl FixedAnswer {
    const LONGEST_BODY: usize = 64 * 1024;

    pub(crate) fn compile(config: &config::Answer, at: &Path, faults: &mut Faults) -> Self {
        let status = StatusCode::from_u16(config.status).ok().filter(|status| (200..600).contains(&status.as_u16()));
        if status.is_none() {
            faults
                .error(&at.key("status"), format!("status {} cannot be answered: expected 200 to 599", config.status));
        }
        if matches!(config.status, 204 | 205 | 304) && !config.body.is_empty() {
            faults.error(&at.key("body"), format!("an answer with status {} has no body", config.status));
        }
        if config.body.len() > Self::LONGEST_BODY {
            let (length, most) = (config.body.len(), Self::LONGEST_BODY);
            faults.error(&at.key("body"), format!("the body has {length} bytes: expected at most {most}"));
        }
        let own = fields(&config.headers, Side::Response, &at.key("headers"), faults);
        if own.iter().any(|(name, _)| *name == header::CONTENT_TYPE) {
            faults.push(
                Fault::error(&at.key("headers"), "the type of the body has a key of its own").help("use content_type"),
            );
        }
        let mut headers = Fields::from_iter(own.into_vec());
        match HeaderValue::from_str(&config.content_type) {
            Ok(kind) if !config.body.is_empty() => headers.push((header::CONTENT_TYPE, kind)),
            Ok(_) => {}
            Err(_) => faults.error(&at.key("content_type"), format!("{:?} is not a media type", config.content_type)),
        }
        Self { status: status.unwrap_or_default(), headers, body: Bytes::copy_from_slice(config.body.as_bytes()) }
    }

    pub(crate) fn answer(&self) -> DirectAnswer {
        DirectAnswer {
            kind: DirectKind::Fixed,
            status: self.status,
            headers: self.headers.clone(),
            body: self.body.clone(),
        }
    }
}

/// The answer to a preflight.
pub(crate) fn preflight(headers: Fields) -> DirectAnswer {
    DirectAnswer { kind: DirectKind::Preflight, status: StatusCode::NO_CONTENT, headers, body: Bytes::new() }
}

/// `Allow` for a 405.
pub(crate) fn allow(list: &str) -> Option<(HeaderName, HeaderValue)> {
    HeaderValue::from_str(list).ok().map(|value| (header::ALLOW, value))
}
