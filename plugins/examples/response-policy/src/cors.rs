//! Cross-origin resource sharing, as the Fetch standard has it (3.3).

/// What a response may say about it: the upstream's word for these does not count.
pub(crate) const FIELDS: [&str; 6] = [
    "access-control-allow-origin",
    "access-control-allow-credentials",
    "access-control-allow-methods",
    "access-control-allow-headers",
    "access-control-expose-headers",
    "access-control-max-age",
];

/// Names that one preflight may ask for. Browsers ask for a handful.
const MOST_NAMES: usize = 64;

/// Who may do what from other origins.
#[derive(Debug)]
pub(crate) struct Cors {
    pub(crate) origins: Vec<String>,
    pub(crate) credentials: bool,
    pub(crate) methods: Vec<String>,
    pub(crate) headers: Vec<String>,
    pub(crate) expose: Vec<String>,
    pub(crate) max_age: Option<u32>,
}

/// What a preflight says, each field with all its values.
#[derive(Debug)]
pub(crate) struct Preflight {
    pub(crate) origins: Vec<String>,
    pub(crate) methods: Vec<String>,
    pub(crate) headers: Vec<String>,
}

type Fields = Vec<(&'static str, String)>;

impl Cors {
    /// The same, if it permits nothing that nobody can have meant.
    pub(crate) fn checked(self) -> Result<Self, String> {
        let lists = [("methods", &self.methods), ("headers", &self.headers), ("expose", &self.expose)];
        if self.credentials {
            // On the wire `*` is a plain name then (Fetch 3.3.5), and as an origin it would be everybody with everybody's cookies.
            for (key, list) in lists.into_iter().chain([("origins", &self.origins)]) {
                if list.iter().any(|entry| entry == "*") {
                    return Err(format!("cors.{key}: `*` cannot stand beside credentials: write what is meant"));
                }
            }
            if self.origins.iter().any(|origin| origin == "null") {
                return Err(
                    "cors.origins: `null` is every sandboxed frame: it cannot stand beside credentials".to_owned()
                );
            }
        }
        for origin in &self.origins {
            if !matches!(origin.as_str(), "*" | "null") && !is_pattern(origin) {
                return Err(format!(
                    "cors.origins: {origin:?} is not an origin: expected scheme://host or scheme://*.domain, in lower case, without a path"
                ));
            }
        }
        for (key, list) in lists {
            if let Some(odd) = list.iter().find(|name| *name != "*" && !is_token(name)) {
                return Err(format!("cors.{key}: {odd:?} is not a name"));
            }
        }
        Ok(self)
    }

    /// Fields of the answer to a preflight.
    pub(crate) fn preflight(&self, asked: &Preflight) -> Fields {
        let varies = "origin, access-control-request-method, access-control-request-headers";
        let mut fields = vec![("vary", varies.to_owned())];
        let Some(origin) = self.allowed(&asked.origins) else { return fields };
        let [method] = asked.methods.as_slice() else { return fields };
        if !(is_safelisted(method) || self.methods.iter().any(|name| name == "*" || name == method)) {
            return fields;
        }
        let mut names = asked.headers.iter().flat_map(|value| value.split(',')).map(str::trim);
        let may_send = |name: &str| {
            // `*` never stands for `authorization` (Fetch 3.3.4).
            let wild = self.headers.iter().any(|known| known == "*") && !name.eq_ignore_ascii_case("authorization");
            wild || self.headers.iter().any(|known| known.eq_ignore_ascii_case(name))
        };
        let all_may = names.by_ref().take(MOST_NAMES).all(|name| name.is_empty() || may_send(name));
        if !all_may || names.next().is_some() {
            return fields;
        }
        fields.push(("access-control-allow-origin", origin));
        if self.credentials {
            fields.push(("access-control-allow-credentials", "true".to_owned()));
        }
        for (name, list) in
            [("access-control-allow-methods", &self.methods), ("access-control-allow-headers", &self.headers)]
        {
            if !list.is_empty() {
                fields.push((name, list.join(", ")));
            }
        }
        if let Some(seconds) = self.max_age {
            fields.push(("access-control-max-age", seconds.to_string()));
        }
        fields
    }

    /// Fields of any other response. `vary` is among them also where nothing is allowed: a cache must not give one origin's
    /// response to another.
    pub(crate) fn actual(&self, origins: &[String]) -> Fields {
        let mut fields = Fields::new();
        if !self.allows_all() {
            fields.push(("vary", "origin".to_owned()));
        }
        let Some(origin) = self.allowed(origins) else { return fields };
        fields.push(("access-control-allow-origin", origin));
        if self.credentials {
            fields.push(("access-control-allow-credentials", "true".to_owned()));
        }
        if !self.expose.is_empty() {
            fields.push(("access-control-expose-headers", self.expose.join(", ")));
        }
        fields
    }

    fn allows_all(&self) -> bool {
        self.origins.iter().any(|origin| origin == "*")
    }

    /// What `access-control-allow-origin` says to a request with these values of `origin`.
    fn allowed(&self, origins: &[String]) -> Option<String> {
        let [origin] = origins else { return None };
        if self.allows_all() {
            return Some("*".to_owned());
        }
        self.origins.iter().any(|pattern| matches(pattern, origin)).then(|| origin.clone())
    }
}

/// Methods that need no permission (Fetch 2.2.1).
fn is_safelisted(method: &str) -> bool {
    matches!(method, "GET" | "HEAD" | "POST")
}

/// Whether an origin is one that the pattern means. Both are serialised: in lower case, without a default port.
fn matches(pattern: &str, origin: &str) -> bool {
    let Some((scheme, domain)) = pattern.split_once("://*.") else { return pattern == origin };
    let Some(host) = origin.strip_prefix(scheme).and_then(|rest| rest.strip_prefix("://")) else { return false };
    // What stands before the domain must be labels and nothing else: no user, no port, no second scheme.
    host.strip_suffix(domain).and_then(|rest| rest.strip_suffix('.')).is_some_and(are_labels)
}

fn are_labels(text: &str) -> bool {
    let is_label = |label: &str| {
        !label.is_empty()
            && label
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'_'))
    };
    text.split('.').all(is_label)
}

/// An origin, or one with `*.` before its domain. A domain of one label would be a whole top-level domain.
fn is_pattern(text: &str) -> bool {
    let Some((scheme, rest)) = text.split_once("://") else { return false };
    let (is_wild, host) = match rest.strip_prefix("*.") {
        Some(domain) => (true, domain),
        None => (false, rest),
    };
    let (host, port) = match host.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (host, None),
    };
    let is_address = host.starts_with('[') && host.ends_with(']') && !is_wild;
    !scheme.is_empty()
        && scheme
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'+' | b'-' | b'.'))
        && (is_address || are_labels(host))
        && (!is_wild || host.contains('.'))
        && port.is_none_or(|port| port.parse::<u16>().is_ok())
}

/// A token (RFC 9110 5.6.2).
fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strings(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|text| (*text).to_owned()).collect()
    }

    fn cors(origins: &[&str], credentials: bool) -> Cors {
        let (methods, headers) = (strings(&["PUT"]), strings(&["content-type"]));
        Cors { origins: strings(origins), credentials, methods, headers, expose: strings(&["x-id"]), max_age: Some(9) }
    }

    fn ask(origins: &[&str], method: &str, headers: &str) -> Preflight {
        Preflight { origins: strings(origins), methods: strings(&[method]), headers: strings(&[headers]) }
    }

    fn value<'a>(fields: &'a Fields, name: &str) -> Option<&'a str> {
        fields.iter().find(|(known, _)| *known == name).map(|(_, value)| value.as_str())
    }

    const APP: &str = "https://app.example.com";

    #[test]
    fn a_wildcard_is_names_below_a_domain_and_nothing_that_looks_like_one() {
        let pattern = "https://*.example.com";
        for origin in ["https://a.example.com", "https://a.b.example.com"] {
            assert!(matches(pattern, origin), "{origin}");
        }
        for origin in [
            "https://example.com",
            "https://.example.com",
            "http://a.example.com",
            "https://evilexample.com",
            "https://a.example.com.evil.net",
            "https://a.example.com:8443",
            "https://evil.net/.example.com",
            "https://evil.net#.example.com",
            "https://evil.net:1@a.example.com",
            "https://a..example.com",
            "https://A.example.com",
            "null",
            "*",
            "",
        ] {
            assert!(!matches(pattern, origin), "{origin}");
        }
        assert!(matches("https://*.example.com:8443", "https://a.example.com:8443"));
    }

    #[test]
    fn a_preflight_of_what_is_listed_is_permitted() {
        let fields = cors(&[APP], true).checked().unwrap().preflight(&ask(&[APP], "PUT", "Content-Type"));
        assert_eq!(value(&fields, "access-control-allow-origin"), Some(APP));
        assert_eq!(value(&fields, "access-control-allow-credentials"), Some("true"));
        assert_eq!(value(&fields, "access-control-allow-methods"), Some("PUT"));
        assert_eq!(value(&fields, "access-control-max-age"), Some("9"));
    }

    #[test]
    fn a_preflight_of_anything_else_gets_no_permission() {
        let cors = cors(&[APP], false);
        let many = vec!["content-type"; MOST_NAMES + 1].join(",");
        for asked in [
            ask(&["https://evil.net"], "PUT", ""),
            ask(&["null"], "PUT", ""),
            ask(&[APP, APP], "PUT", ""),
            ask(&[], "PUT", ""),
            ask(&[APP], "DELETE", ""),
            ask(&[APP], "put", ""),
            ask(&[APP], "PUT", "x-other"),
            ask(&[APP], "PUT", "content-type, x-other"),
            ask(&[APP], "PUT", &many),
        ] {
            let fields = cors.preflight(&asked);
            assert_eq!(fields.len(), 1, "{asked:?}: {fields:?}");
            assert_eq!(fields[0].0, "vary");
        }
    }

    #[test]
    fn a_star_for_headers_does_not_stand_for_authorization() {
        let cors = Cors { headers: strings(&["*"]), ..cors(&["*"], false) };
        assert!(value(&cors.preflight(&ask(&[APP], "PUT", "x-any")), "access-control-allow-origin").is_some());
        assert!(value(&cors.preflight(&ask(&[APP], "PUT", "Authorization")), "access-control-allow-origin").is_none());
    }

    #[test]
    fn a_response_says_whom_it_is_for_and_that_it_hangs_on_that() {
        let cors = cors(&[APP], false);
        let fields = cors.actual(&strings(&[APP]));
        assert_eq!(value(&fields, "access-control-allow-origin"), Some(APP));
        assert_eq!(value(&fields, "access-control-allow-credentials"), None);
        assert_eq!(value(&fields, "access-control-expose-headers"), Some("x-id"));
        assert_eq!(value(&fields, "vary"), Some("origin"));
        assert_eq!(cors.actual(&strings(&["https://evil.net"])), [("vary", "origin".to_owned())]);
        assert_eq!(cors.actual(&[]), [("vary", "origin".to_owned())]);
    }

    #[test]
    fn everybody_is_everybody_alike() {
        let fields = cors(&["*"], false).actual(&strings(&["https://anyone.example"]));
        assert_eq!(value(&fields, "access-control-allow-origin"), Some("*"));
        assert_eq!(value(&fields, "vary"), None);
    }

    #[test]
    fn what_would_permit_more_than_was_meant_is_refused() {
        assert!(cors(&["*"], true).checked().unwrap_err().contains("credentials"));
        assert!(cors(&["null"], true).checked().is_err());
        assert!(Cors { headers: strings(&["*"]), ..cors(&[APP], true) }.checked().is_err());
        for origin in
            ["https://*.com", "https://*", "*.example.com", "https://a.example.com/", "https://A.example.com", ""]
        {
            assert!(cors(&[origin], false).checked().is_err(), "{origin:?}");
        }
        for origin in ["https://[::1]:8443", "http://localhost:3000", "https://*.example.com:444", "null", "*"] {
            assert!(cors(&[origin], false).checked().is_ok(), "{origin:?}");
        }
        assert!(Cors { methods: strings(&["GET\r\nx: y"]), ..cors(&[APP], false) }.checked().is_err());
    }
}
