//! Who is let in: not a web page in an operator's browser.
//!
//! A page can make a browser send requests to loopback. It cannot read the answers of another origin, unless it lets its
//! own name point to 127.0.0.1 (DNS rebinding); then the request names that host, and is refused. It can also send orders
//! whose answers it cannot read; a browser marks those with `Origin` or `Sec-Fetch-Site`, and they are refused too.

use std::net::IpAddr;

use http::header::{HOST, ORIGIN};
use http::{HeaderMap, Method, Uri};

/// Why a request is refused, as told to whoever sent it.
pub(crate) type Refused = &'static str;

/// Checks the request. `hosts` are the configured names; `is_local` says that it came over a Unix socket, which no browser
/// opens.
pub(crate) fn check(
    method: &Method,
    uri: &Uri,
    headers: &HeaderMap,
    hosts: &[String],
    is_local: bool,
) -> Result<(), Refused> {
    if is_local {
        return Ok(());
    }
    let mut named = headers.get_all(HOST).iter();
    let host = match (named.next(), named.next()) {
        (Some(host), None) => host.to_str().ok(),
        _ => None,
    };
    // A target in absolute form carries its own host (RFC 9112 3.2.2); both must be fit.
    let all = [host, uri.host().or(host)];
    if !all.into_iter().all(|host| host.is_some_and(|host| is_fit(host, hosts))) {
        return Err(
            "the request must name this server by an IP address, by localhost, or by one of its configured hosts",
        );
    }
    let is_order = !matches!(*method, Method::GET | Method::HEAD);
    let from_page = headers.contains_key(ORIGIN)
        || headers.get("sec-fetch-site").is_some_and(|site| site != "none" && site != "same-origin");
    if is_order && from_page {
        return Err("orders are not taken from web pages");
    }
    Ok(())
}

fn is_fit(host: &str, hosts: &[String]) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.rsplit_once(':').map_or(host, |(name, _)| name),
    };
    name.parse::<IpAddr>().is_ok()
        || name.eq_ignore_ascii_case("localhost")
        || hosts.iter().any(|known| known.eq_ignore_ascii_case(name))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use http::HeaderName;

    fn admitted(method: Method, fields: &[(&'static str, &str)]) -> bool {
        let headers: HeaderMap = fields.iter().map(|(n, v)| (HeaderName::from_static(n), v.parse().unwrap())).collect();
        check(&method, &Uri::from_static("/"), &headers, &["ops.example".to_owned()], false).is_ok()
    }

    #[test]
    fn a_name_that_could_be_anybodys_is_refused() {
        for host in ["127.0.0.1:9901", "[::1]:9901", "10.1.2.3", "localhost", "LOCALHOST:1", "ops.example:9901"] {
            assert!(admitted(Method::GET, &[("host", host)]), "{host}");
        }
        for host in ["evil.example", "127.0.0.1.evil.example", "", "localhost.evil", "[::1.evil]"] {
            assert!(!admitted(Method::GET, &[("host", host)]), "{host}");
        }
        assert!(!admitted(Method::GET, &[]));
    }

    #[test]
    fn an_order_from_a_page_is_refused_and_a_look_is_not() {
        let host = ("host", "127.0.0.1");
        assert!(admitted(Method::POST, &[host]));
        assert!(!admitted(Method::POST, &[host, ("origin", "https://evil.example")]));
        assert!(!admitted(Method::PUT, &[host, ("sec-fetch-site", "cross-site")]));
        assert!(admitted(Method::GET, &[host, ("origin", "https://evil.example")]));
    }
}
