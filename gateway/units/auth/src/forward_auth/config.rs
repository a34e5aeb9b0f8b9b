//! What may be set of a route whose requests another service authorises: its section `forward_auth`.

use std::path::PathBuf;

use http::{HeaderName, Uri};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sluice_vocabulary::measure::{ByteSize, Span};
use sluice_vocabulary::{Fault, Faults, Path};

use super::rule::Part;
use crate::config::{identity_header, within};
use crate::remote::config::{
    Bounds, BreakerConfig, default_max_in_flight, default_max_waiting, default_timeout, validate_url,
};

/// A service that says of each request whether it may pass, as Envoy's `ext_authz` over HTTP, Traefik's `forwardAuth` and
/// nginx's `auth_request` ask one. It is asked after the token, if the route asks for one, was found good.
///
/// The service sees no body. It is told of the request by `X-Forwarded-Method`, `X-Forwarded-Proto`, `X-Forwarded-Host`,
/// `X-Forwarded-Uri` (path and query) and `X-Forwarded-For` (the client's address). Status 2xx lets the request pass; 401
/// and 403 go to the client with their body and their `WWW-Authenticate`, `Set-Cookie` and `Content-Type`, and so does a
/// redirect to one of `redirects`. Anything else is no answer, as is none in time: the client gets 503.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ForwardAuthConfig {
    /// Where the service is asked, an http or https URL. Redirects are not followed.
    pub url: String,
    /// How it is asked.
    #[serde(default)]
    pub method: ForwardMethod,
    /// A PEM file of the certificate authorities that may vouch for `url`, in place of the system's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<PathBuf>,
    /// The time for one question from connecting to the answer's last byte, from 10ms to 30s. Where all of `max_in_flight`
    /// are under way, a request waits as long for a place before it.
    #[serde(default = "default_timeout")]
    pub timeout: Span,
    /// The header fields of the client's request that the service sees. Default: what identifies a sender, `authorization`
    /// and `cookie`.
    #[serde(default = "default_request_headers")]
    pub request_headers: Vec<String>,
    /// The header fields of the service's answer that the upstream gets when the request may pass. A field named here is
    /// removed from every client's request, on every route.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub response_headers: Vec<String>,
    /// Where the service may send the client by 302, 303 or 307: origins such as `https://login.example.com`, of which all
    /// pages are meant, and beginnings of paths on the client's own host such as `/oauth2/`. Default: nowhere.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub redirects: Vec<String>,
    /// Keeps the service's answers, by rule. Default: it is asked every time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache: Option<DecisionCacheConfig>,
    /// What becomes of a request of which the service says nothing.
    #[serde(default)]
    pub on_failure: OnFailure,
    /// The most questions under way at once, from 1 to 4096; each is a connection, which is kept for the next.
    #[serde(default = "default_max_in_flight")]
    pub max_in_flight: u32,
    /// The most requests that may wait for answers at once, from `max_in_flight` to 65536; more are answered 503. Where
    /// answers are kept, requests alike by the rule wait for the same answer.
    #[serde(default = "default_max_waiting")]
    pub max_waiting: u32,
    /// When the service is left alone for a while.
    #[serde(default)]
    pub breaker: BreakerConfig,
}

fn default_request_headers() -> Vec<String> {
    vec!["authorization".into(), "cookie".into()]
}

/// The method that a service is asked by.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ForwardMethod {
    /// GET, whatever the client's method is.
    #[default]
    Get,
    /// HEAD, whatever the client's method is: for services that have nothing to say to a client.
    Head,
    /// The client's own, without its body.
    Original,
}

/// What becomes of a request when the service cannot be heard.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnFailure {
    /// It is answered 503.
    #[default]
    Refuse,
    /// It passes as if the service had said yes. Then whoever can keep the service from answering needs no leave.
    DangerouslyAllow,
}

/// Which answers are kept, and for how long.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DecisionCacheConfig {
    /// What makes two requests alike, so that one answer is good for both: names of header fields, and the words `method`,
    /// `host`, `path` (with the query) and `client` (the address). `authorization` and `cookie` must be here if the service
    /// sees them.
    pub by: Vec<String>,
    /// How long an answer is good, from 10ms to 1h. How soon a leave that was taken away ends depends on this. Kept are
    /// leave and refusals, but no redirect, nothing that sets a cookie, and nothing with `Cache-Control: no-store`.
    #[serde(default = "default_ttl")]
    pub ttl: Span,
    /// Memory for answers, from 4KiB to 1GiB.
    #[serde(default = "default_size")]
    pub size: ByteSize,
}

const fn default_ttl() -> Span {
    Span::secs(5)
}
const fn default_size() -> ByteSize {
    ByteSize::mib(4)
}

impl ForwardAuthConfig {
    /// The service at `url`, all else by default.
    pub fn from_url(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            method: ForwardMethod::default(),
            ca: None,
            timeout: default_timeout(),
            request_headers: default_request_headers(),
            response_headers: Vec::new(),
            redirects: Vec::new(),
            cache: None,
            on_failure: OnFailure::default(),
            max_in_flight: default_max_in_flight(),
            max_waiting: default_max_waiting(),
            breaker: BreakerConfig::default(),
        }
    }

    pub(crate) fn bounds(&self) -> Bounds<'_> {
        Bounds {
            timeout: self.timeout,
            max_in_flight: self.max_in_flight,
            max_waiting: self.max_waiting,
            breaker: &self.breaker,
        }
    }

    /// Reports every fault.
    pub fn validate(&self, at: &Path, faults: &mut Faults) {
        let told = "whoever is on the way reads the credentials and decides who may pass";
        validate_url(&self.url, &self.ca, told, at, faults);
        self.bounds().validate(at, faults);
        for (index, name) in self.request_headers.iter().enumerate() {
            if let Err(why) = asked_header(name) {
                faults.error(&at.key("request_headers").index(index), why);
            }
        }
        for (index, name) in self.response_headers.iter().enumerate() {
            if let Err(why) = told_header(name) {
                faults.error(&at.key("response_headers").index(index), why);
            }
        }
        for (index, target) in self.redirects.iter().enumerate() {
            if Redirect::parse(target).is_none() {
                faults.push(
                    Fault::error(
                        &at.key("redirects").index(index),
                        format!("{target:?} is neither an origin nor the beginning of a path"),
                    )
                    .help("such as https://login.example.com or /oauth2/"),
                );
            }
        }
        if let Some(cache) = &self.cache {
            self.validate_cache(cache, &at.key("cache"), faults);
        }
        if self.on_failure == OnFailure::DangerouslyAllow {
            faults.warning(&at.key("on_failure"), "while the service cannot be heard every request passes");
        }
    }

    fn validate_cache(&self, cache: &DecisionCacheConfig, at: &Path, faults: &mut Faults) {
        within(cache.ttl, Span::millis(10), Span::secs(3600), &at.key("ttl"), faults);
        within(cache.size, ByteSize::kib(4), ByteSize::mib(1024), &at.key("size"), faults);
        let by = at.key("by");
        if cache.by.is_empty() {
            faults.error(&by, "nothing tells requests apart, so that one answer would be good for all");
        }
        for (index, part) in cache.by.iter().enumerate() {
            if Part::parse(part).is_none() {
                faults.error(&by.index(index), format!("{part:?} is not a header name"));
            }
        }
        let covered = |name: &str| cache.by.iter().any(|part| part.eq_ignore_ascii_case(name));
        for name in &self.request_headers {
            if covered(name) {
                continue;
            }
            if ["authorization", "cookie", "proxy-authorization"].iter().any(|own| name.eq_ignore_ascii_case(own)) {
                faults.push(
                    Fault::error(&by, format!("without {name} one sender's answer would be another's"))
                        .help(format!("add {name} here, or take it out of request_headers")),
                );
            } else {
                faults.warning(&by, format!("the service sees {name}, and requests that differ in it share an answer"));
            }
        }
        for word in ["method", "host", "path"] {
            if !covered(word) {
                faults.warning(&by, format!("one answer is good for every {word}"));
            }
        }
    }
}

/// A field of the client's that the service may see: any but those that frame the request to it or are told anyway.
pub(super) fn asked_header(name: &str) -> Result<HeaderName, String> {
    const RESERVED: [&str; 14] = [
        "connection",
        "content-encoding",
        "content-length",
        "expect",
        "host",
        "keep-alive",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "via",
        "forwarded",
        "range",
    ];
    let header = HeaderName::from_bytes(name.as_bytes()).map_err(|_| format!("{name:?} is not a header name"))?;
    if RESERVED.contains(&header.as_str()) || header.as_str().starts_with("x-forwarded-") {
        return Err(format!("{header} belongs to the request to the service itself"));
    }
    Ok(header)
}

/// A field of the service's that the upstream may get: one that may carry a claim, and that is not the gateway's word.
pub(super) fn told_header(name: &str) -> Result<HeaderName, String> {
    let header = identity_header(name)?;
    let ours = ["forwarded", "x-request-id", "traceparent", "tracestate", "b3", "set-cookie"];
    let is_ours = |prefix: &str| header.as_str().starts_with(prefix);
    if ours.contains(&header.as_str()) || is_ours("x-forwarded-") || is_ours("x-b3-") {
        return Err(format!("{header} has a meaning of its own and cannot come from the service"));
    }
    Ok(header)
}

/// Where a client may be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Redirect {
    /// Scheme and authority, lower case.
    Origin(Box<str>),
    /// The beginning of a path on the same host.
    Path(Box<str>),
}

impl Redirect {
    pub(super) fn parse(text: &str) -> Option<Self> {
        if is_local(text) {
            return Some(Self::Path(text.into()));
        }
        // No path: a page's beginning says little about who is behind it.
        let origin = text.strip_suffix('/').unwrap_or(text);
        let uri: Uri = origin.parse().ok()?;
        let has_path = origin.splitn(4, '/').nth(3).is_some();
        (!has_path && !origin.contains(['?', '#'])).then(|| Self::origin_of(&uri).map(Self::Origin)).flatten()
    }

    /// Whether `location` is one of what is meant.
    pub(super) fn allows(&self, location: &str) -> bool {
        match self {
            Self::Path(beginning) => is_local(location) && location.starts_with(&**beginning),
            Self::Origin(origin) => {
                location.parse::<Uri>().ok().and_then(|uri| Self::origin_of(&uri)).is_some_and(|own| own == *origin)
            }
        }
    }

    fn origin_of(uri: &Uri) -> Option<Box<str>> {
        let scheme = uri.scheme_str().filter(|scheme| matches!(*scheme, "http" | "https"))?;
        let authority = uri.authority()?.as_str();
        // What stands before an @ is for deceiving readers.
        (!authority.contains('@')).then(|| format!("{scheme}://{}", authority.to_ascii_lowercase()).into())
    }
}

/// Whether this is a path on the same host and not, to a browser, another host (`//evil`, `/\evil`).
fn is_local(text: &str) -> bool {
    let plain = text.bytes().all(|byte| (0x21..0x7f).contains(&byte) && byte != b'\\');
    // Dot segments would lead out of a beginning.
    let dots = text.split(['/', '?', '#']).any(|segment| matches!(segment, "." | ".."));
    plain && !dots && text.starts_with('/') && !text.starts_with("//")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn a_redirect_leads_where_it_may_and_nowhere_else() {
        let login = Redirect::parse("https://login.example.com").unwrap();
        assert_eq!(Redirect::parse("https://Login.example.com/"), Some(login.clone()));
        for good in ["https://login.example.com", "https://login.example.com/a?b=c", "https://LOGIN.example.com/x"] {
            assert!(login.allows(good), "{good}");
        }
        for bad in [
            "http://login.example.com/",
            "https://login.example.com.evil.com/",
            "https://login.example.com:8443/",
            "https://login.example.com@evil.com/",
            "https://user@login.example.com/",
            "//login.example.com/",
            "/login",
            "javascript:alert(1)",
            "",
        ] {
            assert!(!login.allows(bad), "{bad}");
        }
        let local = Redirect::parse("/oauth2/").unwrap();
        assert!(local.allows("/oauth2/start?rd=%2F"));
        for bad in ["/oauth2", "//oauth2/", "/\\oauth2/", "/oauth2/../admin", "/oauth2/\\evil", "https://a/oauth2/"] {
            assert!(!local.allows(bad), "{bad}");
        }
    }

    #[test]
    fn what_is_no_place_to_be_sent_to_is_not_taken_for_one() {
        for bad in ["", "login", "ftp://a", "//a", "https://", "https://a/path", "https://u@a", "https://a?b", "/a b"] {
            assert_eq!(Redirect::parse(bad), None, "{bad}");
        }
    }
}
