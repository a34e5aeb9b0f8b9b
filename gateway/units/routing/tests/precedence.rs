//! Which route wins, as the crate's documentation says.
#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use common::{ask, path, refused, route, table, winner};
use serde_json::json;

#[test]
fn a_more_exact_host_goes_before_everything_else() {
    let table = table(vec![
        route("any", json!({ "match": { "path": "/a" } })),
        route("wild", json!({ "match": { "host": "*.example.com", "path": "/a" } })),
        route("wilder", json!({ "match": { "host": "*.eu.example.com", "path": "/*" } })),
        route("exact", json!({ "match": { "host": ["api.eu.example.com", "b.example"], "path": "/*" } })),
    ]);
    assert_eq!(winner(&table, "https://api.eu.example.com/a", &[]), "exact");
    assert_eq!(winner(&table, "https://b.example/a", &[]), "exact");
    assert_eq!(winner(&table, "https://x.eu.example.com/a", &[]), "wilder");
    assert_eq!(winner(&table, "https://x.us.example.com/a", &[]), "wild");
    assert_eq!(winner(&table, "https://example.com/a", &[]), "any");
    assert_eq!(winner(&table, "https://example.com/b", &[]), "no-route");
}

#[test]
fn a_host_whose_routes_do_not_fit_gives_way_to_the_next() {
    let table = table(vec![
        route("exact", json!({ "match": { "host": "a.b.c", "path": "/only" } })),
        route("wild", json!({ "match": { "host": "*.b.c", "path": "/other" } })),
        route("any", json!({})),
    ]);
    assert_eq!(winner(&table, "https://a.b.c/other", &[]), "wild");
    assert_eq!(winner(&table, "https://a.b.c/x", &[]), "any");
}

#[test]
fn an_exact_path_goes_before_a_template_before_a_longer_prefix_before_any() {
    let table = table(vec![
        route("any", json!({})),
        path("root", "/*"),
        path("orders", "/orders/*"),
        path("new-below", "/orders/new/*"),
        path("order", "/orders/{id}"),
        path("new", "/orders/new"),
    ]);
    for (request, expected) in [
        ("/orders/new", "new"),
        ("/orders/7", "order"),
        ("/orders/new/x", "new-below"),
        ("/orders/7/x", "orders"),
        ("/orders", "orders"),
        ("/orders/", "orders"),
        ("/order", "root"),
    ] {
        assert_eq!(winner(&table, &format!("https://h{request}"), &[]), expected, "{request}");
    }
}

#[test]
fn a_prefix_reaches_to_the_slash_so_that_what_it_guards_has_no_side_door() {
    let table = table(vec![path("admin", "/admin/*"), path("public", "/*")]);
    assert_eq!(winner(&table, "https://h/admin", &[]), "admin");
    assert_eq!(winner(&table, "https://h/administrator", &[]), "public");
}

#[test]
fn a_walk_comes_back_from_a_dead_end() {
    let table = table(vec![path("a", "/x/{a}/c/d"), path("b", "/{b}/y/c/e"), path("c", "/{b}/{c}/*")]);
    assert_eq!(winner(&table, "https://h/x/y/c/e", &[]), "b");
    assert_eq!(winner(&table, "https://h/x/y/c/d", &[]), "a");
    assert_eq!(winner(&table, "https://h/x/y/c/f", &[]), "c");
}

#[test]
fn then_method_then_number_of_conditions_then_order_decide() {
    let table = table(vec![
        route(
            "two",
            json!({ "match": { "headers": { "x-a": { "present": true } }, "query": { "v": { "exact": "2" } } } }),
        ),
        route("one", json!({ "match": { "headers": { "x-a": { "prefix": "b" } } } })),
        route("post", json!({ "match": { "methods": ["POST"] } })),
        route("first", json!({ "match": { "scheme": "https" } })),
        route("second", json!({ "match": { "query": { "w": { "present": true } } } })),
        route("rest", json!({})),
    ]);
    assert_eq!(winner(&table, "POST https://h/?v=2", &["x-a: bc"]), "post");
    assert_eq!(winner(&table, "GET https://h/?v=2", &["X-A: bc"]), "two");
    assert_eq!(winner(&table, "GET https://h/?v=3", &["x-a: bc"]), "one");
    assert_eq!(winner(&table, "GET https://h/?w", &[]), "first");
    assert_eq!(winner(&table, "GET http://h/?w", &[]), "second");
    assert_eq!(winner(&table, "GET http://h/", &[]), "rest");
}

#[test]
fn a_wrong_method_is_told_the_right_ones_and_head_is_get() {
    let table = table(vec![
        route("read", json!({ "match": { "path": "/o/{id}", "methods": ["GET"] } })),
        route("write", json!({ "match": { "path": "/o/*", "methods": ["PUT", "DELETE"] } })),
        route(
            "beta",
            json!({ "match": { "path": "/o/*", "methods": ["PATCH"], "headers": { "x-beta": { "present": true } } } }),
        ),
    ]);
    assert_eq!(winner(&table, "HEAD https://h/o/1", &[]), "read");
    let refusal = refused(&table, &ask("POST https://h/o/1", &[]));
    assert_eq!(refusal.status().as_u16(), 405);
    assert_eq!(refusal.headers, [(http::header::ALLOW, "GET, HEAD, PUT, DELETE".parse().unwrap())]);
    assert_eq!(winner(&table, "PATCH https://h/o/1", &[]), "method-not-allowed");
    assert_eq!(winner(&table, "PATCH https://h/o/1", &["x-beta: 1"]), "beta");
    assert_eq!(winner(&table, "POST https://h/p", &[]), "no-route");
}

#[test]
fn a_request_without_host_and_options_for_the_server_find_only_what_is_for_any() {
    let table =
        table(vec![route("any", json!({})), route("some", json!({ "match": { "host": "*.x", "path": "/*" } }))]);
    let mut question = ask("OPTIONS http://a.x/", &[]);
    question.path = "*".into();
    assert_eq!(table.lookup(&question.view()).unwrap().name().as_str(), "any");
    // An empty label is no label: nothing stands below the wildcard here.
    question.host = ".x".into();
    question.path = "/a".into();
    assert_eq!(table.lookup(&question.view()).unwrap().name().as_str(), "any");
    question.host = String::new();
    assert_eq!(table.lookup(&question.view()).unwrap().name().as_str(), "any");
}
