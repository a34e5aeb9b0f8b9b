//! Whom to believe about the client's address, and what to tell upstreams of it.
//!
//! A chain of proxies is written from left (the client) to right (the nearest). Only what a trusted proxy wrote is worth
//! anything, so the chain is read from the right: from the connection's own peer leftward past every trusted proxy, to
//! the first address that is not one. Whatever stands left of it, the client may have made up.
//!
//! There are two ways to write the chain, `X-Forwarded-For` and `Forwarded` (RFC 7239), and a proxy maintains one of
//! them while it lets the other through untouched. Believing whichever is there would therefore believe the client; the
//! configuration says which one the trusted proxies write.

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use http::{HeaderMap, HeaderName, HeaderValue, header};
use ipnet::IpNet;
use sluice_vocabulary::request::{Connection, Scheme};
use smallvec::SmallVec;

use crate::config::{ProxyFields, contains};

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// The client, as far as it can be believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClientAddress {
    /// Its address.
    pub ip: IpAddr,
    /// The scheme that it used.
    pub scheme: Scheme,
    /// Whether the connection came from a trusted proxy, whose chain is then continued rather than replaced.
    pub through_proxy: bool,
}

/// Header fields for the upstream: each to be set to its value, or removed where there is none.
pub type Forwarding = SmallVec<[(HeaderName, Option<HeaderValue>); 4]>;

/// Finds the client behind trusted proxies.
pub fn resolve_client(
    trusted: &[IpNet],
    written: ProxyFields,
    connection: &Connection,
    headers: &HeaderMap,
) -> ClientAddress {
    let peer = connection.client.ip().to_canonical();
    let direct = ClientAddress { ip: peer, scheme: connection.scheme(), through_proxy: false };
    if trusted.is_empty() || !contains(trusted, peer) {
        return direct;
    }
    let mut found = ClientAddress { through_proxy: true, ..direct };
    match written {
        ProxyFields::XForwarded => {
            for hop in from_the_right(headers, &X_FORWARDED_FOR, b',') {
                let Some(ip) = parse_node(hop) else { break };
                found.ip = ip;
                if !contains(trusted, ip) {
                    break;
                }
            }
            let nearest = from_the_right(headers, &X_FORWARDED_PROTO, b',').next();
            found.scheme = nearest.and_then(parse_scheme).unwrap_or(found.scheme);
        }
        ProxyFields::Forwarded => {
            for hop in from_the_right(headers, &header::FORWARDED, b',') {
                let (ip, scheme) = parse_element(hop);
                let Some(ip) = ip else { break };
                found.ip = ip;
                found.scheme = scheme.unwrap_or(found.scheme);
                if !contains(trusted, ip) {
                    break;
                }
            }
        }
    }
    found
}

/// The members of a list field, over all its lines, last first. A member that is not text is given as one that says
/// nothing, so that it ends the search instead of being skipped.
fn from_the_right<'a>(headers: &'a HeaderMap, name: &HeaderName, separator: u8) -> impl Iterator<Item = &'a str> {
    headers.get_all(name).iter().rev().flat_map(move |line| {
        line.as_bytes()
            .rsplit(move |&byte| byte == separator)
            .map(|member| std::str::from_utf8(member.trim_ascii()).unwrap_or_default())
    })
}

fn parse_scheme(text: &str) -> Option<Scheme> {
    match text {
        _ if text.eq_ignore_ascii_case("https") => Some(Scheme::Https),
        _ if text.eq_ignore_ascii_case("http") => Some(Scheme::Http),
        _ => None,
    }
}

/// An address, with a port or without: `192.0.2.1`, `192.0.2.1:80`, `2001:db8::1`, `[2001:db8::1]`, `[2001:db8::1]:80`.
fn parse_node(text: &str) -> Option<IpAddr> {
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    IpAddr::from_str(bare)
        .or_else(|_| SocketAddr::from_str(text).map(|address| address.ip()))
        .ok()
        .map(|ip| ip.to_canonical())
}

/// `for` and `proto` of one element of Forwarded. A quoted value may hold a comma only in an obfuscated node, which is
/// no address anyway, so elements are told apart by commas alone.
fn parse_element(element: &str) -> (Option<IpAddr>, Option<Scheme>) {
    let (mut ip, mut scheme) = (None, None);
    for (name, value) in element.split(';').filter_map(|pair| pair.split_once('=')) {
        let (name, value) = (name.trim(), value.trim());
        let value = value.strip_prefix('"').and_then(|value| value.strip_suffix('"')).unwrap_or(value);
        if name.eq_ignore_ascii_case("for") {
            ip = parse_node(value);
        } else if name.eq_ignore_ascii_case("proto") {
            scheme = parse_scheme(value);
        }
    }
    (ip, scheme)
}

/// What an upstream is told. The peer is appended to the chain of a trusted proxy, and replaces anybody else's.
pub fn forwarded_headers(
    connection: &Connection,
    client: &ClientAddress,
    headers: &HeaderMap,
    host: &str,
    send_forwarded: bool,
) -> Forwarding {
    let peer = connection.client.ip().to_canonical();
    let scheme = client.scheme.as_str();
    let chain = |name: &HeaderName, own: &str| {
        let before = client.through_proxy.then(|| joined(headers, name)).flatten();
        let value = match before {
            Some(mut before) => {
                before.extend_from_slice(b", ");
                before.extend_from_slice(own.as_bytes());
                HeaderValue::from_bytes(&before)
            }
            None => HeaderValue::from_str(own),
        };
        value.ok()
    };
    let mut text = String::with_capacity(64);
    // Writing to a string cannot fail.
    let _ = write!(text, "{peer}");
    let x_forwarded_for = chain(&X_FORWARDED_FOR, &text);
    let host_value = || HeaderValue::from_str(host).ok().filter(|value| !value.is_empty());
    let x_forwarded_host = match headers.get(&X_FORWARDED_HOST) {
        Some(told) if client.through_proxy => Some(told.clone()),
        _ => host_value(),
    };
    let forwarded = send_forwarded.then(|| {
        text.clear();
        let _ = match peer {
            IpAddr::V4(v4) => write!(text, "for={v4}"),
            IpAddr::V6(v6) => write!(text, "for=\"[{v6}]\""),
        };
        if !host.is_empty() {
            let _ = write!(text, ";host=\"{host}\"");
        }
        let _ = write!(text, ";proto={scheme}");
        chain(&header::FORWARDED, &text)
    });
    SmallVec::from_buf([
        (X_FORWARDED_FOR, x_forwarded_for),
        (X_FORWARDED_PROTO, Some(HeaderValue::from_static(scheme))),
        (X_FORWARDED_HOST, x_forwarded_host),
        (header::FORWARDED, forwarded.flatten()),
    ])
}

/// All lines of a list field as one.
fn joined(headers: &HeaderMap, name: &HeaderName) -> Option<Vec<u8>> {
    let lines: SmallVec<[&[u8]; 4]> = headers.get_all(name).iter().map(HeaderValue::as_bytes).collect();
    let joined = lines.join(&b", "[..]);
    (!joined.is_empty()).then_some(joined)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn connection(client: &str) -> Connection {
        let client = SocketAddr::new(client.parse().unwrap(), 4711);
        let local = "10.0.0.1:443".parse().unwrap();
        Connection { id: 1, peer: client, local, client, tls: None, cookie: None, listener: 0 }
    }

    fn headers(fields: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, HeaderValue::from_str(value).unwrap());
        }
        headers
    }

    fn client(written: ProxyFields, peer: &str, fields: &[(&'static str, &str)]) -> (String, &'static str) {
        let trusted: Vec<IpNet> = vec!["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()];
        let found = resolve_client(&trusted, written, &connection(peer), &headers(fields));
        (found.ip.to_string(), found.scheme.as_str())
    }

    #[test]
    fn an_untrusted_peer_is_the_client_whatever_it_says() {
        let fields = [("x-forwarded-for", "192.0.2.1"), ("forwarded", "for=192.0.2.1"), ("x-forwarded-proto", "https")];
        for written in [ProxyFields::XForwarded, ProxyFields::Forwarded] {
            assert_eq!(client(written, "203.0.113.9", &fields), ("203.0.113.9".into(), "http"));
        }
    }

    #[test]
    fn the_chain_is_read_from_the_right_past_trusted_proxies_only() {
        for (chain, expected) in [
            (&["192.0.2.1"][..], "192.0.2.1"),
            (&["6.6.6.6, 192.0.2.1, 10.1.1.1"], "192.0.2.1"),
            (&["6.6.6.6", "192.0.2.1", "10.1.1.1,10.2.2.2"], "192.0.2.1"),
            (&["10.3.3.3, 10.1.1.1"], "10.3.3.3"),
            (&["192.0.2.1, unknown, 10.1.1.1"], "10.1.1.1"),
            (&["192.0.2.1, , 10.1.1.1"], "10.1.1.1"),
            (&["unknown"], "10.9.9.9"),
            (&[], "10.9.9.9"),
            (&["192.0.2.1:4000"], "192.0.2.1"),
            (&["[2001:db8::1]:4000"], "2001:db8::1"),
            (&["2001:db8::1, ::ffff:10.0.0.7"], "2001:db8::1"),
        ] {
            let fields: Vec<_> = chain.iter().map(|line| ("x-forwarded-for", *line)).collect();
            assert_eq!(client(ProxyFields::XForwarded, "10.9.9.9", &fields).0, expected, "{chain:?}");
        }
    }

    #[test]
    fn the_standard_field_is_read_alike_with_its_scheme() {
        let fields = [
            ("forwarded", r#"for=6.6.6.6;proto=http, for="[2001:db8::1]:80";proto=https;host=a"#),
            ("forwarded", "For=10.1.1.1"),
        ];
        assert_eq!(client(ProxyFields::Forwarded, "10.9.9.9", &fields), ("2001:db8::1".into(), "https"));
        let hidden = [("forwarded", "for=192.0.2.1, for=_hidden, for=10.1.1.1")];
        assert_eq!(client(ProxyFields::Forwarded, "fd00::1", &hidden).0, "10.1.1.1");
    }

    #[test]
    fn the_field_that_proxies_do_not_write_is_not_believed() {
        let fields = [("forwarded", "for=6.6.6.6"), ("x-forwarded-for", "192.0.2.1")];
        assert_eq!(client(ProxyFields::XForwarded, "10.9.9.9", &fields).0, "192.0.2.1");
        let fields = [("x-forwarded-for", "6.6.6.6"), ("forwarded", "for=192.0.2.1")];
        assert_eq!(client(ProxyFields::Forwarded, "10.9.9.9", &fields).0, "192.0.2.1");
    }

    #[test]
    fn upstreams_are_told_a_chain_that_only_trusted_proxies_wrote() {
        let sent =
            headers(&[("x-forwarded-for", "6.6.6.6"), ("x-forwarded-for", "192.0.2.1"), ("x-forwarded-host", "outer")]);
        let told = |through_proxy, send_forwarded| -> Vec<Option<String>> {
            let client = ClientAddress { ip: "192.0.2.1".parse().unwrap(), scheme: Scheme::Https, through_proxy };
            forwarded_headers(&connection("fd00::1"), &client, &sent, "api.example.com", send_forwarded)
                .into_iter()
                .map(|(_, value)| value.map(|value| value.to_str().unwrap().to_owned()))
                .collect()
        };
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(told(false, false), [some("fd00::1"), some("https"), some("api.example.com"), None]);
        assert_eq!(
            told(true, true),
            [
                some("6.6.6.6, 192.0.2.1, fd00::1"),
                some("https"),
                some("outer"),
                some(r#"for="[fd00::1]";host="api.example.com";proto=https"#),
            ]
        );
    }
}
