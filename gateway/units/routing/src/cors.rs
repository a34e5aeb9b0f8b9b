//! Cross-origin requests from browsers: the CORS protocol of the Fetch standard.

use http::header::{self, HeaderName, HeaderValue};
use http::{HeaderMap, Method};
use sluice_vocabulary::request::RequestView;
use sluice_vocabulary::{Fault, Faults, Path};
use smallvec::SmallVec;

use crate::conditions::method;
use crate::config;

/// A few header fields, without allocation.
pub type Fields = SmallVec<[(HeaderName, HeaderValue); 4]>;

/// A route's answer to pages of other origins.
#[derive(Debug)]
pub(crate) struct Cors {
    origins: Origins,
    credentials: bool,
    /// Of a preflight's answer, beyond the origin.
    preflight: Box<[(HeaderName, HeaderValue)]>,
    expose: Option<HeaderValue>,
}

#[derive(Debug)]
enum Origins {
    Any,
    These { exact: Box<[Box<str>]>, below: Box<[Below]> },
}

/// `https://*.example.com:8443`.
#[derive(Debug)]
struct Below {
    /// `https://`
    before: Box<str>,
    /// `.example.com:8443`
    after: Box<str>,
}

/// The method that a preflight asks about, if the request is one: OPTIONS with `Origin` and
/// `Access-Control-Request-Method`.
pub(crate) fn preflight_method(request: &RequestView<'_>) -> Option<Method> {
    if request.method != Method::OPTIONS || !request.headers.contains_key(header::ORIGIN) {
        return None;
    }
    let asked = request.headers.get(header::ACCESS_CONTROL_REQUEST_METHOD)?;
    Method::from_bytes(asked.as_bytes()).ok()
}

impl Cors {
    /// `exposed` are fields that a page may read beside those of the configuration; `route_methods` is what the route names,
    /// empty for any.
    pub(crate) fn compile(
        config: &config::Cors,
        exposed: &[HeaderName],
        route_methods: &[String],
        at: &Path,
        faults: &mut Faults,
    ) -> Option<Self> {
        let before = faults.iter().count();
        let origins = Origins::compile(&config.origins, &at.key("origins"), faults);
        if config.credentials && matches!(origins, Origins::Any) {
            faults.push(
                Fault::error(
                    &at.key("credentials"),
                    "credentials with any origin would open the route to every web page",
                )
                .help("name the origins"),
            );
        }
        for (position, name) in config.methods.iter().enumerate() {
            let _ = method(name, &at.key("methods").index(position), faults);
        }
        let methods = match (config.methods.as_slice(), route_methods) {
            ([], []) => "GET, HEAD, POST".to_owned(),
            ([], of_route) => of_route.join(", "),
            (named, _) => named.join(", "),
        };
        let headers = names(&config.headers, config.credentials, &at.key("headers"), faults);
        let mut readable = config.expose.clone();
        // A star is for all of them.
        if !readable.iter().any(|name| name == "*") {
            let more = exposed.iter().map(HeaderName::as_str);
            let is_new = |name: &&str| !config.expose.iter().any(|own| own.eq_ignore_ascii_case(name));
            readable.extend(more.filter(is_new).map(ToOwned::to_owned));
        }
        let expose = names(&readable, config.credentials, &at.key("expose"), faults);
        if faults.iter().count() > before {
            return None;
        }
        let mut preflight = vec![(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from(config.max_age.get().as_secs()))];
        preflight
            .extend(HeaderValue::from_str(&methods).ok().map(|value| (header::ACCESS_CONTROL_ALLOW_METHODS, value)));
        preflight.extend(headers.map(|value| (header::ACCESS_CONTROL_ALLOW_HEADERS, value)));
        Some(Self { origins, credentials: config.credentials, preflight: preflight.into(), expose })
    }

    /// The fields of a preflight's answer. To an origin that is not allowed they say nothing, and its browser stops there.
    pub(crate) fn preflight(&self, headers: &HeaderMap) -> Fields {
        let mut fields = self.origin(headers);
        if fields.iter().any(|(name, _)| *name == header::ACCESS_CONTROL_ALLOW_ORIGIN) {
            fields.extend(self.preflight.iter().cloned());
        }
        fields
    }

    /// The fields of any other answer.
    pub(crate) fn actual(&self, headers: &HeaderMap) -> Fields {
        let mut fields = self.origin(headers);
        if let Some(expose) = &self.expose
            && fields.iter().any(|(name, _)| *name == header::ACCESS_CONTROL_ALLOW_ORIGIN)
        {
            fields.push((header::ACCESS_CONTROL_EXPOSE_HEADERS, expose.clone()));
        }
        fields
    }

    fn origin(&self, headers: &HeaderMap) -> Fields {
        let mut fields = Fields::new();
        let origin = headers.get(header::ORIGIN);
        if let Origins::Any = self.origins {
            // The same for everybody, so that caches need not tell origins apart.
            if origin.is_some() {
                fields.push((header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*")));
            }
            return fields;
        }
        fields.push((header::VARY, HeaderValue::from_static("Origin")));
        if let Some(origin) = origin.filter(|origin| self.origins.allow(origin)) {
            fields.push((header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone()));
            if self.credentials {
                fields.push((header::ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true")));
            }
        }
        fields
    }
}

impl Origins {
    fn compile(texts: &[String], at: &Path, faults: &mut Faults) -> Self {
        if texts.is_empty() {
            faults.push(
                Fault::error(at, "no origin is named, so that no page could use the route")
                    .help("name some, or take cors away"),
            );
        }
        if texts.iter().any(|text| text == "*") {
            if texts.len() > 1 {
                faults.error(at, "* allows every origin: expected it alone");
            }
            return Self::Any;
        }
        let (mut exact, mut below) = (Vec::new(), Vec::new());
        for (position, text) in texts.iter().enumerate() {
            let at = at.index(position);
            let lower = text.to_ascii_lowercase();
            let Some((scheme, authority)) = lower.split_once("://").filter(|_| is_origin(&lower)) else {
                faults.push(
                    Fault::error(
                        &at,
                        format!("{text:?} is not an origin: expected scheme://host or scheme://host:port"),
                    )
                    .help("an origin has no path and no final slash"),
                );
                continue;
            };
            match authority.strip_prefix('*') {
                Some(after) if after.starts_with('.') && !after.contains('*') => {
                    below.push(Below { before: format!("{scheme}://").into(), after: after.into() });
                }
                None if !authority.contains('*') => exact.push(lower.into()),
                _ => faults.error(&at, format!("{text:?} has a star that is not its host's first label")),
            }
        }
        Self::These { exact: exact.into(), below: below.into() }
    }

    /// Browsers send an origin in lower case; anything else is no browser's.
    fn allow(&self, origin: &HeaderValue) -> bool {
        let Ok(origin) = origin.to_str() else { return false };
        match self {
            Self::Any => true,
            Self::These { exact, below } => {
                exact.iter().any(|allowed| **allowed == *origin) || below.iter().any(|allowed| allowed.is_for(origin))
            }
        }
    }
}

impl Below {
    fn is_for(&self, origin: &str) -> bool {
        origin
            .strip_prefix(&*self.before)
            .and_then(|rest| rest.strip_suffix(&*self.after))
            // What stands for the star must be labels: were anything else let in, `https://evil.example/.example.com`
            // would pass.
            .is_some_and(|labels| {
                let is_of_label =
                    |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'.' | b'_');
                !labels.is_empty() && !labels.starts_with('.') && labels.bytes().all(is_of_label)
            })
    }
}

fn is_origin(lower: &str) -> bool {
    let Some((scheme, authority)) = lower.split_once("://") else { return false };
    let (host, port) = authority.rsplit_once(':').filter(|(_, port)| !port.ends_with(']')).unwrap_or((authority, "1"));
    let scheme_is_good = !scheme.is_empty() && scheme.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b));
    let host_is_good = !host.is_empty() && host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._*[]:".contains(&b));
    scheme_is_good && host_is_good && port.parse::<u16>().is_ok()
}

/// A list of field names as one value; `None` for none.
fn names(texts: &[String], credentials: bool, at: &Path, faults: &mut Faults) -> Option<HeaderValue> {
    for (position, text) in texts.iter().enumerate() {
        let at = at.index(position);
        if HeaderName::from_bytes(text.as_bytes()).is_err() {
            faults.error(&at, format!("{text:?} is not a header field's name"));
        } else if text == "*" && credentials {
            faults.push(
                Fault::error(&at, "* does not mean any field where credentials are allowed").help("name the fields"),
            );
        }
    }
    if texts.is_empty() { None } else { HeaderValue::from_str(&texts.join(", ")).ok() }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn compiled(config: &config::Cors) -> Result<Cors, Vec<String>> {
        compiled_with(config, &[])
    }

    fn compiled_with(config: &config::Cors, exposed: &[&'static str]) -> Result<Cors, Vec<String>> {
        let mut faults = Faults::new();
        let exposed: Vec<_> = exposed.iter().map(|name| HeaderName::from_static(name)).collect();
        Cors::compile(config, &exposed, &["GET".into()], &Path::root(), &mut faults)
            .ok_or_else(|| faults.iter().map(ToString::to_string).collect())
    }

    fn with_origins(origins: &[&str]) -> config::Cors {
        config::Cors { origins: origins.iter().map(ToString::to_string).collect(), ..Default::default() }
    }

    fn allowed(cors: &Cors, origin: &'static str) -> bool {
        let headers = [(header::ORIGIN, HeaderValue::from_static(origin))].into_iter().collect();
        cors.actual(&headers).iter().any(|(name, _)| *name == header::ACCESS_CONTROL_ALLOW_ORIGIN)
    }

    #[test]
    fn an_origin_that_merely_looks_like_an_allowed_one_is_not() {
        let cors = compiled(&with_origins(&["https://a.example", "https://*.b.example:8443"])).unwrap();
        for good in ["https://a.example", "https://x.b.example:8443", "https://x.y.b.example:8443"] {
            assert!(allowed(&cors, good), "{good}");
        }
        for bad in [
            "http://a.example",
            "https://a.example:444",
            "https://a.example.evil",
            "https://b.example:8443",
            "https://.b.example:8443",
            "https://evil/.b.example:8443",
            "https://u@x.b.example:8443",
            "https://xb.example:8443",
            "https://evil:1.b.example:8443",
            "null",
            "",
            "*",
        ] {
            assert!(!allowed(&cors, bad), "{bad}");
        }
    }

    #[test]
    fn caches_are_told_whenever_the_answer_depends_on_the_origin() {
        let cors = compiled(&with_origins(&["https://a.example"])).unwrap();
        for headers in
            [HeaderMap::new(), [(header::ORIGIN, HeaderValue::from_static("https://x"))].into_iter().collect()]
        {
            assert_eq!(cors.actual(&headers).as_slice(), [(header::VARY, HeaderValue::from_static("Origin"))]);
            assert_eq!(cors.preflight(&headers).len(), 1);
        }
        let any = compiled(&with_origins(&["*"])).unwrap();
        assert!(any.actual(&HeaderMap::new()).is_empty() && allowed(&any, "https://x"));
    }

    #[test]
    fn a_page_may_read_what_it_was_given_and_what_others_need_it_to_read_each_named_once() {
        let exposed = |expose: &[&str], more| {
            let own = config::Cors {
                expose: expose.iter().map(ToString::to_string).collect(),
                ..with_origins(&["https://a.example"])
            };
            let cors = compiled_with(&own, more).unwrap();
            let headers = [(header::ORIGIN, HeaderValue::from_static("https://a.example"))].into_iter().collect();
            let fields = cors.actual(&headers);
            let field = fields.iter().find(|(name, _)| *name == header::ACCESS_CONTROL_EXPOSE_HEADERS);
            field.map(|(_, value)| value.to_str().unwrap().to_owned())
        };
        let more = &["www-authenticate", "dpop-nonce"][..];
        assert_eq!(exposed(&[], &[]), None);
        assert_eq!(exposed(&[], more).unwrap(), "www-authenticate, dpop-nonce");
        assert_eq!(exposed(&["x-id", "DPoP-Nonce"], more).unwrap(), "x-id, DPoP-Nonce, www-authenticate");
        assert_eq!(exposed(&["*"], more).unwrap(), "*");
    }

    #[test]
    fn what_would_open_the_route_to_everybody_or_nobody_is_a_fault() {
        let any_with_credentials = config::Cors { credentials: true, ..with_origins(&["*"]) };
        let any_header = config::Cors { credentials: true, headers: vec!["*".into()], ..with_origins(&["https://a"]) };
        for bad in [
            any_with_credentials,
            any_header,
            with_origins(&[]),
            with_origins(&["*", "https://a"]),
            with_origins(&["a.example"]),
            with_origins(&["https://a/"]),
            with_origins(&["null"]),
            with_origins(&["https://a*.b"]),
            with_origins(&["https://"]),
        ] {
            assert_eq!(compiled(&bad).unwrap_err().len(), 1, "{bad:?}");
        }
    }
}
