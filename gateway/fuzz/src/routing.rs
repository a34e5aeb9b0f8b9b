//! Which route a request takes.

use std::net::SocketAddr;
use std::sync::LazyLock;

use http::Method;
use serde_json::{Value, json};
use sluice_downstream::config::EncodedSlash;
use sluice_downstream::{host, normalise_path};
use sluice_routing::config::Match;
use sluice_routing::{Decision, RouteSpec, Table};
use sluice_vocabulary::request::{Connection, RequestView, Scheme};
use sluice_vocabulary::{Path, RouteName};

/// One of everything that a route can be for.
static ROUTES: LazyLock<Value> = LazyLock::new(|| {
    json!([
        { "match": { "host": "a.b", "path": "/x" } },
        { "match": { "host": "*.b", "path": "/x/{id}" }, "rewrite": { "path": "/y/{id}" } },
        { "match": { "host": "*.a.b", "path": "/x/*" }, "rewrite": { "path": "/*" } },
        { "match": { "path": "/x/{one}/{two}" }, "redirect": { "path": "/{two}/{one}", "host": "c.d" } },
        { "match": { "path": "/{one}/x" }, "redirect": { "scheme": "https" } },
        { "match": { "path": "/{one}/x", "methods": ["POST"] } },
        { "match": { "path": "/p/q/*", "headers": { "x-v": { "prefix": "1" } } } },
        { "match": { "path": "/p/*", "query": { "q": { "exact": "a b" } } } },
        { "match": { "path": "/p/*", "methods": ["PUT"] }, "cors": { "origins": ["https://*.a.b"] } },
        { "match": { "host": ["a.b", "c.d"], "scheme": "https" }, "rewrite": { "host": "e.f" } },
        { "match": { "path": "/z/*" }, "addresses": { "deny": ["192.0.2.0/24"] } }
    ])
});

static TABLE: LazyLock<Table> = LazyLock::new(|| compiled(0..count()));

/// The same routes, each in a table of its own.
static ALONE: LazyLock<Vec<Table>> = LazyLock::new(|| (0..count()).map(|index| compiled(index..index + 1)).collect());

fn count() -> usize {
    ROUTES.as_array().map_or(0, Vec::len)
}

fn compiled(which: std::ops::Range<usize>) -> Table {
    Table::compile(which.map(|index| spec(index, &ROUTES[index])).collect()).expect("the routes above are fine")
}

fn spec(index: usize, route: &Value) -> RouteSpec {
    fn part<T: serde::de::DeserializeOwned>(route: &Value, key: &str) -> Option<T> {
        route.get(key).map(|value| serde_json::from_value(value.clone()).expect("the routes above are fine"))
    }
    RouteSpec {
        name: RouteName::new(&format!("r{index}")).expect("a name"),
        at: Path::root(),
        r#match: part::<Match>(route, "match").unwrap_or_default(),
        rewrite: part(route, "rewrite"),
        redirect: part(route, "redirect"),
        answer: None,
        cors: part(route, "cors"),
        exposed: Vec::new(),
        addresses: part(route, "addresses"),
        has_upstream: route.get("redirect").is_none(),
        protected: false,
    }
}

/// A route wins only if it would take the request alone, some route wins if any would, and what it makes of the path is a
/// path. The input is a request: its method, host, target, and fields, on a line each.
pub fn routing(bytes: &[u8]) {
    let (method, rest) = crate::first_line(bytes);
    let (named, rest) = crate::first_line(rest);
    let (target, lines) = crate::first_line(rest);
    let Ok(method) = Method::from_bytes(method) else { return };
    // As on the request path: only a valid host and a normalised path come this far.
    let Some((name, port)) = host::split(named) else { return };
    let Ok(normal) = normalise_path(target, EncodedSlash::Keep) else { return };
    let name = String::from_utf8_lossy(name).to_ascii_lowercase();
    let headers =
        crate::header(lines, &["x-v", "origin", "access-control-request-method", "access-control-request-headers"]);
    let address = SocketAddr::from(([192, 0, 2, 7], 4711));
    let connection =
        Connection { id: 1, peer: address, local: address, client: address, tls: None, cookie: None, listener: 0 };
    let scheme = if lines.len() % 2 == 0 { Scheme::Http } else { Scheme::Https };
    let request = RequestView {
        method: &method,
        scheme,
        host: name.trim_end_matches('.'),
        port,
        path: &normal.path,
        query: normal.query,
        headers: &headers,
        client: address.ip(),
        connection: &connection,
    };

    let takers: Vec<_> = (0..count()).filter(|&index| ALONE[index].lookup(&request).is_ok()).collect();
    let Ok(matched) = TABLE.lookup(&request) else {
        assert!(takers.is_empty(), "a route that takes the request alone does not among others");
        return;
    };
    assert!(takers.contains(&matched.index()), "a route wins that would not take the request alone");
    // The conditions of two routes, judged here anew.
    let index = matched.index();
    let fits = |value: &http::HeaderValue| value.as_bytes().starts_with(b"1");
    assert!(index != 6 || headers.get_all("x-v").iter().any(fits), "a route wins whose condition does not hold");
    assert!(index != 9 || scheme == Scheme::Https, "a route for https wins without it");
    for (_, captured) in matched.captures(request.path) {
        assert!(!captured.is_empty() && !captured.contains('/') && request.path.contains(captured));
    }
    if let Some(path) = matched.rewrite_path(request.path) {
        assert!(path.starts_with('/'), "rewritten to {path}");
    }
    if let Ok(Decision::Direct(answer)) = matched.decide(&request) {
        assert!(answer.status.as_u16() >= 200);
    }
    TABLE.explain(&request).to_string();
}
