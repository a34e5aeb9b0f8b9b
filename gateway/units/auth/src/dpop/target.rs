//! Whether a proof's `htu` is where its request went (RFC 9449 section 4.3, point 9).
//!
//! Both sides are brought to one spelling by RFC 3986 sections 6.2.2 and 6.2.3: scheme and host without case, the scheme's
//! own port the same as none, no path the same as `/`, escapes of unreserved characters decoded and others in upper case,
//! dot segments resolved. Query and fragment do not count. Runs of `/` count as one, since the gateway makes one of them
//! before it routes, and the request's path has gone through that already.
//!
//! The request's side is what the client named: the scheme that trusted proxies tell of, the host and port of the
//! request itself. A proxy in front that changes host or port breaks the comparison, and the proof is then refused.

use std::borrow::Cow;

use sluice_vocabulary::request::{RequestView, Scheme};

/// The longest `htu` looked at.
const LONGEST: usize = 4096;

/// Whether `htu` names the target of `request`.
pub(crate) fn is_for(htu: &str, request: &RequestView<'_>) -> bool {
    let Some(target) = Target::parse(htu) else { return false };
    let own_port = default_port(request.scheme);
    target.scheme == request.scheme
        && !request.host.is_empty()
        && target.host.eq_ignore_ascii_case(request.host)
        && target.port.unwrap_or(own_port) == request.port.unwrap_or(own_port)
        && match (normal_path(target.path), normal_path(request.path)) {
            (Some(named), Some(asked)) => named == asked,
            _ => false,
        }
}

const fn default_port(scheme: Scheme) -> u16 {
    match scheme {
        Scheme::Http => 80,
        Scheme::Https => 443,
    }
}

/// An absolute http or https URI, taken apart.
#[derive(Debug, PartialEq, Eq)]
struct Target<'u> {
    scheme: Scheme,
    /// Without its final dot, in the case it was written in.
    host: &'u str,
    port: Option<u16>,
    path: &'u str,
}

impl<'u> Target<'u> {
    fn parse(uri: &'u str) -> Option<Self> {
        // What a URI may hold at all is printable ASCII.
        if uri.len() > LONGEST || !uri.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'\\') {
            return None;
        }
        let (scheme, rest) = uri.split_once("://")?;
        let scheme = match scheme {
            _ if scheme.eq_ignore_ascii_case("https") => Scheme::Https,
            _ if scheme.eq_ignore_ascii_case("http") => Scheme::Http,
            _ => return None,
        };
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, rest) = rest.split_at(end);
        let path = &rest[..rest.find(['?', '#']).unwrap_or(rest.len())];
        let (host, port) = match authority.rsplit_once(':') {
            // A colon inside the brackets is the address's own.
            Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
            _ => (authority, None),
        };
        let port = match port {
            // "If the port is empty … the scheme's default."
            None | Some("") => None,
            Some(digits) if digits.len() <= 5 && digits.bytes().all(|byte| byte.is_ascii_digit()) => {
                Some(digits.parse().ok()?)
            }
            Some(_) => return None,
        };
        let host = host.strip_suffix('.').unwrap_or(host);
        // User information names nobody here, and has fooled readers of URIs before.
        (!host.is_empty() && !host.contains('@')).then_some(Self { scheme, host, port, path })
    }
}

/// A path in its one spelling; none where it has none: a bad escape, or `..` beyond the root.
fn normal_path(path: &str) -> Option<Cow<'_, str>> {
    if path.is_empty() {
        return Some("/".into());
    }
    // Nothing to decode, to resolve or to merge, as in nearly all.
    let plain = !path.contains('%') && !path.contains("//") && !path.contains("/.");
    if plain {
        return Some(path.into());
    }
    let decoded = decode(path)?;
    let mut out = String::with_capacity(decoded.len());
    let mut segments = decoded.split('/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        match segment {
            "" | "." => {}
            ".." => out.truncate(out.rfind('/')?),
            name => {
                out.push('/');
                out.push_str(name);
                continue;
            }
        }
        if segments.peek().is_none() {
            out.push('/');
        }
    }
    Some(if out.is_empty() { "/".into() } else { out.into() })
}

fn decode(path: &str) -> Option<String> {
    let mut out = String::with_capacity(path.len());
    let mut rest = path;
    while let Some(at) = rest.find('%') {
        out.push_str(&rest[..at]);
        let digits = rest.get(at + 1..at + 3)?;
        if !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return None;
        }
        let byte = u8::from_str_radix(digits, 16).ok()?;
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            out.push(char::from(byte));
        } else {
            out.push('%');
            out.push_str(&digits.to_ascii_uppercase());
        }
        rest = &rest[at + 3..];
    }
    out.push_str(rest);
    Some(out)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use http::{HeaderMap, Method};
    use proptest::prelude::*;
    use sluice_vocabulary::request::Connection;
    use std::net::SocketAddr;

    /// `asked` is scheme, host, port and path as the request path has them.
    fn matches(htu: &str, (scheme, host, port, path): (Scheme, &str, Option<u16>, &str)) -> bool {
        let peer = SocketAddr::from(([192, 0, 2, 1], 1));
        let connection = Connection { id: 1, peer, local: peer, client: peer, tls: None, cookie: None, listener: 0 };
        let headers = HeaderMap::new();
        let request = RequestView {
            method: &Method::GET,
            scheme,
            host,
            port,
            path,
            query: Some("a=b"),
            headers: &headers,
            client: peer.ip(),
            connection: &connection,
        };
        is_for(htu, &request)
    }

    #[test]
    fn one_place_has_many_spellings() {
        let asked = (Scheme::Https, "api.example.com", None, "/a-b/%C3%A9/");
        for htu in [
            "https://api.example.com/a-b/%C3%A9/",
            "HTTPS://API.Example.COM/a-b/%C3%A9/",
            "https://api.example.com:443/a-b/%C3%A9/",
            "https://api.example.com:/a-b/%C3%A9/",
            "https://api.example.com./a-b/%C3%A9/",
            "https://api.example.com/%61%2Db/%c3%a9/",
            "https://api.example.com/x/../a-b/./%C3%A9/.",
            "https://api.example.com//a-b///%C3%A9//",
            "https://api.example.com/a-b/%C3%A9/?a=b#c",
            "https://api.example.com/a-b/%C3%A9/#c?d",
        ] {
            assert!(matches(htu, asked), "{htu}");
        }
        assert!(matches("http://h", (Scheme::Http, "h", Some(80), "/")));
        assert!(matches("http://h?x", (Scheme::Http, "h", None, "/")));
        assert!(matches("https://[2001:DB8::1]:8443/", (Scheme::Https, "[2001:db8::1]", Some(8443), "/")));
        assert!(matches("https://[2001:db8::1]/", (Scheme::Https, "[2001:db8::1]", None, "/")));
    }

    #[test]
    fn another_place_is_another_place_and_what_is_no_place_is_none() {
        let asked = (Scheme::Https, "api.example.com", None, "/a");
        for htu in [
            "",
            "/a",
            "//api.example.com/a",
            "http://api.example.com/a",
            "wss://api.example.com/a",
            "https:api.example.com/a",
            "https://api.example.com/A",
            "https://api.example.com/a/",
            "https://api.example.com/",
            "https://api.example.com",
            "https://api.example.com:444/a",
            "https://api.example.com:99999/a",
            "https://api.example.com:443x/a",
            "https://api.example.com:+443/a",
            "https://user@api.example.com/a",
            "https://api.example.com@evil/a",
            "https://evil/a",
            "https:///a",
            "https://api.example.com/%6",
            "https://api.example.com/%+6",
            "https://api.example.com/../a",
            "https://api.example.com/a%2F",
            "https://api.example.com\\a",
            "https://api.example.com/a ",
            "https://api.example.com/\u{e4}",
            "https://api.example.com/a%",
        ] {
            assert!(!matches(htu, asked), "{htu}");
        }
        assert!(!matches("https:///", (Scheme::Https, "", None, "/")), "a request without a host");
        let long = format!("https://api.example.com/a?{}", "x".repeat(LONGEST));
        assert!(!matches(&long, asked));
    }

    proptest! {
        #[test]
        fn a_normal_path_is_its_own_normal_path(path in "(/|/[a-c.%~]{0,3}|%2[eEfF]|%41|/\\.\\.){1,8}") {
            if let Some(normal) = normal_path(&path) {
                let again = normal_path(&normal);
                prop_assert_eq!(again.as_deref(), Some(&*normal));
            }
        }

        #[test]
        fn hostile_text_never_panics(text in any::<String>()) {
            let _ = Target::parse(&text);
            let _ = normal_path(&text);
        }
    }
}
