//! What `check --explain` and the admin's page say.
#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use common::{ask, path, route, table};
use serde_json::json;
use sluice_routing::explain::Question;
use sluice_vocabulary::ports::Inspect;

#[test]
fn an_explanation_names_the_winner_and_why_each_near_miss_lost() {
    let table = table(vec![
        route(
            "read",
            json!({ "match": { "host": "api.example.com", "path": "/orders/{id}", "methods": ["GET"] }, "rewrite": { "path": "/o/{id}" } }),
        ),
        route("write", json!({ "match": { "host": "api.example.com", "path": "/orders/{id}", "methods": ["POST"] } })),
        route(
            "beta",
            json!({ "match": { "host": "api.example.com", "path": "/orders/{id}", "headers": { "x-beta": { "exact": "1" } } } }),
        ),
        path("all", "/*"),
        route("other-host", json!({ "match": { "host": "*.example.org", "path": "/orders/*" } })),
        route("nowhere-near", json!({ "match": { "host": "x.example.org", "path": "/x", "methods": ["PUT"] } })),
    ]);
    let explanation = table.explain(&ask("GET https://api.example.com/orders/7?v=1", &[]).view());
    let expected = "GET https://api.example.com/orders/7?v=1
  route read (routes[0]) wins:
    host api.example.com
    path template /orders/{id} with id=7
    method GET is among GET, HEAD
  then: forward with the path /o/7
  not taken:
    all would take it too, but its host is less exact
    write takes POST, not GET
    beta wants the header x-beta to be \"1\"
    other-host is for the host *.example.org
  found in ";
    let shown = explanation.to_string();
    assert!(shown.starts_with(expected), "{shown}");
    assert_eq!(serde_json::to_value(&explanation).unwrap()["outcome"]["route"]["name"], "read");
}

#[test]
fn a_request_without_route_is_told_what_came_near() {
    let table = table(vec![
        path("a", "/orders/new"),
        path("b", "/orders/old"),
        route("c", json!({ "match": { "path": "/x", "methods": ["PUT"] } })),
    ]);
    let explanation = table.explain(&ask("GET https://h/orders/newer", &[]).view());
    assert!(explanation.to_string().contains("no route: 404 no-route"));
    let near: Vec<_> = explanation.near_misses.iter().map(|miss| miss.route.as_str()).collect();
    assert_eq!(near, ["a", "b"]);
    let explanation = table.explain(&ask("GET https://h/x", &[]).view());
    assert!(explanation.to_string().contains("no route: 405 method-not-allowed, Allow: PUT"));
}

#[test]
fn what_is_answered_here_is_told_as_it_would_be_answered() {
    let table = table(vec![
        route("old", json!({ "match": { "path": "/old/*" }, "redirect": { "path": "/new/*", "status": 301 } })),
        route("inner", json!({ "match": { "path": "/inner" }, "addresses": { "deny": ["0.0.0.0/0"] } })),
    ]);
    let then = |request| table.explain(&ask(request, &[]).view()).to_string();
    assert!(then("https://h/old/a").contains("then: redirect 301 to /new/a"));
    assert!(then("https://h/inner").contains("then: refused: address-denied (403)"));
}

#[test]
fn a_question_is_a_method_and_a_url() {
    let question = Question::parse("DELETE http://API.example.com.:8080/a/b?c=d").unwrap();
    assert_eq!(
        (question.host.as_str(), question.path.as_str(), question.query.as_deref()),
        ("api.example.com", "/a/b", Some("c=d"))
    );
    assert_eq!(Question::parse("https://h").unwrap().path, "/");
    for bad in ["", "GET", "GET /path", "GET ftp://h/", "G@T https://h/", "GET https://h/ x"] {
        assert!(Question::parse(bad).is_err(), "{bad:?}");
    }
    assert!(Question::parse("https://h").unwrap().header("no colon").is_err());
}

#[test]
fn the_admins_page_shows_routes_without_values_that_may_be_secrets() {
    let table = table(vec![route(
        "r",
        json!({ "match": { "headers": { "x-key": { "exact": "hunter2" } } }, "rewrite": { "request_headers": { "set": { "x-token": "hunter2" } } } }),
    )]);
    let shown = table.inspect();
    assert_eq!(shown["routes"][0]["request_headers"]["set"][0], "x-token");
    assert!(!shown.to_string().contains("hunter2"));
}
