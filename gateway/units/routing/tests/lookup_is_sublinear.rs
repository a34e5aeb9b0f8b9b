//! A look-up's cost does not grow with the number of routes. Counted in steps, not in time, so that it holds anywhere.
#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use common::{ask, route, table, winner};
use serde_json::json;
use sluice_routing::{RouteSpec, Table};

/// Hosts with ten routes each, of every kind of path.
fn routes(count: usize) -> Vec<RouteSpec> {
    (0..count)
        .map(|i| {
            let host = match i / 10 % 3 {
                0 => format!("h{}.example.com", i / 10),
                1 => format!("*.w{}.example.com", i / 10),
                _ => "*".into(),
            };
            let path = match i % 4 {
                0 => format!("/exact/{i}"),
                1 => format!("/orders{i}/{{id}}/items/{{item}}"),
                2 => format!("/prefix{i}/*"),
                _ => format!("/{{tenant}}/things{i}/*"),
            };
            route(&format!("r{i}"), json!({ "match": { "host": host, "path": path, "methods": ["GET"] } }))
        })
        .collect()
}

/// Requests for every kind of host and path, with the route that each must find.
const FOUND: [(&str, &str); 6] = [
    ("https://h0.example.com/exact/0", "r0"),
    ("https://h0.example.com/orders1/7/items/8", "r1"),
    ("https://h0.example.com/prefix2/a/b/c", "r2"),
    ("https://a.b.w1.example.com/orders13/7/items/8", "r13"),
    ("https://elsewhere.example/acme/things23/x", "r23"),
    ("https://a.w1.example.com/exact/20", "r20"),
];

fn most_steps(table: &Table) -> u32 {
    let not_found =
        ["https://h0.example.com/acme/none", "https://a.w1.example.com/a/b/c/d/e/f/g", "https://x.example/"];
    for (request, route) in FOUND {
        assert_eq!(winner(table, request, &[]), route);
    }
    let requests = FOUND.iter().map(|(request, _)| *request).chain(not_found);
    requests.map(|request| table.lookup_steps(&ask(request, &[]).view())).max().unwrap()
}

#[test]
fn ten_thousand_routes_cost_as_many_steps_as_a_hundred() {
    let (few, many) = (most_steps(&table(routes(100))), most_steps(&table(routes(10_000))));
    assert_eq!(few, many);
    assert!(many <= 40, "{many}");
}

#[test]
fn a_client_who_writes_many_labels_or_segments_pays_for_them_alone() {
    let table = table(routes(1_000));
    let long_host = "a.".repeat(120) + "w1.example.com";
    let long_path = "/a".repeat(2_000);
    let steps = table.lookup_steps(&ask(&format!("https://{long_host}{long_path}"), &[]).view());
    assert!(steps <= 40, "{steps}");
}
