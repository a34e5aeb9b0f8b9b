//! Every fault of a set of routes is told at once, with its place; what is merely risky is a warning.
#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use common::{faults, path, route, table};
use serde_json::json;

#[test]
fn all_faults_of_all_routes_are_told_at_once_with_their_places() {
    let mut nothing = path("nothing", "/");
    nothing.has_upstream = false;
    let mut guarded = route("guarded", json!({ "answer": {} }));
    guarded.protected = true;
    let found = faults(vec![
        route(
            "a",
            json!({ "match": { "host": ["ok", "a b"], "path": "x", "methods": ["get"], "headers": { "b d": { "present": true } } } }),
        ),
        route(
            "b",
            json!({ "match": { "path": "/{id}" }, "rewrite": { "path": "/{di}", "host": "*.x", "response_headers": { "remove": ["te"] } } }),
        ),
        route("c", json!({ "redirect": { "to": "https://{x}/", "status": 200 } })),
        route("d", json!({ "redirect": { "to": "/x", "host": "h" } })),
        route("e", json!({ "redirect": {}, "answer": { "status": 99 } })),
        route("f", json!({ "cors": { "origins": ["*"], "credentials": true }, "addresses": { "deny": ["nowhere"] } })),
        path("f", "/twice"),
        nothing,
        guarded,
    ]);
    let places: Vec<_> = found.iter().map(|fault| fault.split(": ").next().unwrap()).collect();
    assert_eq!(
        places,
        [
            "routes.f.name",
            "routes.a.match.host[1]",
            "routes.a.match.methods[0]",
            "routes.a.match.headers.b d",
            "routes.a.match.path",
            "routes.b.rewrite.response_headers.remove[0]",
            "routes.b.rewrite.host",
            "routes.b.rewrite.path",
            "routes.c.redirect.status",
            "routes.c.redirect.to",
            "routes.d.redirect",
            "routes.e",
            "routes.e.answer.status",
            "routes.e.redirect",
            "routes.f.cors.credentials",
            "routes.f.addresses.deny[0]",
            "routes.nothing",
            "routes.guarded",
        ],
        "{found:#?}"
    );
}

#[test]
fn a_route_that_can_never_win_is_warned_of_and_one_that_can_is_not() {
    let on_header = |name: &str, condition: serde_json::Value| {
        route(name, json!({ "match": { "path": "/h", "headers": { "x-v": condition } } }))
    };
    let methods = |name: &str, methods: &[&str]| route(name, json!({ "match": { "path": "/m", "methods": methods } }));
    let table = table(vec![
        path("first", "/a/{x}"),
        path("shadowed-by-first", "/a/{y}"),
        path("other", "/a/*"),
        on_header("present", json!({ "present": true })),
        on_header("shadowed-by-present", json!({ "exact": "1" })),
        on_header("absent", json!({ "present": false })),
        methods("get", &["GET"]),
        methods("post", &["POST"]),
        methods("shadowed-by-both", &["HEAD", "POST"]),
        methods("put", &["GET", "PUT"]),
        route("hosts", json!({ "match": { "host": ["h", "i"], "path": "/p" } })),
        route("partly", json!({ "match": { "host": ["h", "j"], "path": "/p" } })),
    ]);
    let warned: Vec<_> = table.warnings().iter().map(|fault| fault.path.to_string()).collect();
    assert_eq!(warned, ["routes.shadowed-by-first", "routes.shadowed-by-present", "routes.shadowed-by-both"]);
}

#[test]
fn what_leads_in_a_circle_or_cannot_work_is_warned_of() {
    let redirect = |name: &str, from: serde_json::Value| {
        route(name, json!({ "match": { "host": name, "scheme": from }, "redirect": { "scheme": "https" } }))
    };
    let table = table(vec![
        redirect("good", json!("http")),
        redirect("circle", json!(null)),
        route("cors", json!({ "match": { "headers": { "x": { "present": true } } }, "cors": { "origins": ["*"] } })),
        route("open", json!({ "addresses": {} })),
    ]);
    let warned: Vec<_> = table.warnings().iter().map(|fault| fault.path.to_string()).collect();
    assert_eq!(warned, ["routes.circle.redirect", "routes.cors.cors", "routes.open.addresses"]);
}
