//! What becomes of a request whose route is known: rewrites, redirects, fixed answers, CORS, addresses.
#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use common::{ask, direct, field, matched, route, table};
use serde_json::json;
use sluice_routing::{Decision, DirectKind};
use sluice_vocabulary::Reason;

#[test]
fn captures_are_had_by_name_and_fill_the_new_path() {
    let table = table(vec![route(
        "r",
        json!({
            "match": { "path": "/orders/{id}/items/{item}" },
            "rewrite": { "path": "/v2/{item}/of/{id}", "host": "backend:8080", "request_headers": { "set": { "X-A": "1" } } }
        }),
    )]);
    let question = ask("https://h/orders/7/items/a%2Fb?x=1", &[]);
    let matched = matched(&table, &question);
    assert_eq!(matched.captures(&question.path).collect::<Vec<_>>(), [("id", "7"), ("item", "a%2Fb")]);
    assert_eq!(matched.rewrite_path(&question.path).unwrap(), "/v2/a%2Fb/of/7");
    assert_eq!(matched.rewrite_host().unwrap(), "backend:8080");
    assert_eq!(field(matched.request_headers().set(), "x-a").unwrap(), "1");
    assert!(matches!(matched.decide(&question.view()), Ok(Decision::Forward)));
}

#[test]
fn a_redirect_changes_what_it_says_and_keeps_the_rest() {
    let location = |redirect: serde_json::Value, request: &str| {
        let table = table(vec![route("r", json!({ "match": { "path": "/old/*" }, "redirect": redirect }))]);
        let answer = direct(&table, &ask(request, &[]));
        assert_eq!(answer.kind, DirectKind::Redirect);
        format!("{} {}", answer.status.as_u16(), field(&answer.headers, "location").unwrap())
    };
    let request = "http://h/old/a?q=1";
    assert_eq!(location(json!({ "scheme": "https" }), request), "307 https://h/old/a?q=1");
    assert_eq!(location(json!({ "host": "n", "port": 8443, "status": 301 }), request), "301 http://n:8443/old/a?q=1");
    assert_eq!(location(json!({ "path": "/new/*", "keep_query": false }), request), "307 /new/a");
    assert_eq!(location(json!({ "to": "https://n/x/*", "status": 308 }), request), "308 https://n/x/a?q=1");
    assert_eq!(location(json!({ "to": "https://n?own=1" }), request), "307 https://n/?own=1");
    assert_eq!(location(json!({ "to": "/x" }), request), "307 /x?q=1");
}

#[test]
fn a_redirect_cannot_be_made_to_lead_to_a_host_of_the_clients_choice() {
    let table = table(vec![route("r", json!({ "match": { "path": "/old/*" }, "redirect": { "path": "/*" } }))]);
    for (path, expected) in [
        ("/old//evil.example", "/evil.example"),
        ("/old/\\evil.example", "/%5Cevil.example"),
        ("/old/a\r\nb\u{e4}\"", "/a%0D%0Ab%C3%A4%22"),
    ] {
        let mut question = ask("https://h/", &[]);
        question.path = path.into();
        assert_eq!(field(&direct(&table, &question).headers, "location").unwrap(), expected);
    }
}

#[test]
fn a_redirect_of_options_for_the_whole_server_still_names_a_host() {
    let table = table(vec![route("r", json!({ "match": { "scheme": "http" }, "redirect": { "scheme": "https" } }))]);
    let mut question = ask("OPTIONS http://h/", &[]);
    question.path = "*".into();
    assert_eq!(field(&direct(&table, &question).headers, "location").unwrap(), "https://h/");
}

#[test]
fn a_fixed_answer_is_given_as_written() {
    let table = table(vec![route(
        "teapot",
        json!({ "answer": { "status": 418, "body": "short and stout", "headers": { "x-a": "1" } } }),
    )]);
    let answer = direct(&table, &ask("https://h/", &[]));
    assert_eq!((answer.status.as_u16(), &*answer.body), (418, b"short and stout" as &[u8]));
    assert_eq!(field(&answer.headers, "content-type").unwrap(), "text/plain; charset=utf-8");
    assert_eq!(field(&answer.headers, "x-a").unwrap(), "1");
}

#[test]
fn a_preflight_is_answered_for_the_route_it_announces() {
    let table = table(vec![
        route(
            "api",
            json!({
                "match": { "path": "/api", "methods": ["GET", "PUT"] },
                "cors": { "origins": ["https://app.example"], "headers": ["authorization"], "expose": ["x-id"], "credentials": true }
            }),
        ),
        route("plain", json!({ "match": { "path": "/plain", "methods": ["GET", "OPTIONS"] } })),
    ]);
    let origin = "origin: https://app.example";
    let announce = |method: &str| format!("access-control-request-method: {method}");

    let question = ask("OPTIONS https://h/api", &[origin, &announce("PUT")]);
    let answer = direct(&table, &question);
    assert_eq!((answer.kind, answer.status.as_u16()), (DirectKind::Preflight, 204));
    for (name, value) in [
        ("access-control-allow-origin", "https://app.example"),
        ("access-control-allow-methods", "GET, PUT"),
        ("access-control-allow-headers", "authorization"),
        ("access-control-max-age", "600"),
        ("access-control-allow-credentials", "true"),
        ("vary", "Origin"),
    ] {
        assert_eq!(field(&answer.headers, name).as_deref(), Some(value), "{name}");
    }
    assert!(matched(&table, &question).cors_headers(&question.view()).is_empty());

    let stranger = direct(&table, &ask("OPTIONS https://h/api", &["origin: https://evil.example", &announce("PUT")]));
    assert_eq!(field(&stranger.headers, "access-control-allow-origin"), None);

    let question = ask("GET https://h/api", &[origin]);
    let fields = matched(&table, &question).cors_headers(&question.view());
    assert_eq!(field(&fields, "access-control-expose-headers").as_deref(), Some("x-id"));
    assert_eq!(field(&fields, "vary").as_deref(), Some("Origin"));

    // A route without CORS takes its OPTIONS itself, and a method that no route has is refused.
    assert_eq!(common::winner(&table, "OPTIONS https://h/plain", &[origin, &announce("GET")]), "plain");
    assert_eq!(common::winner(&table, "OPTIONS https://h/api", &[origin, &announce("DELETE")]), "method-not-allowed");
    assert_eq!(common::winner(&table, "OPTIONS https://h/api", &[origin]), "method-not-allowed");
}

#[test]
fn a_denied_address_is_refused_before_anything_is_answered_and_does_not_fall_through() {
    let table = table(vec![
        route("inner", json!({ "match": { "path": "/a" }, "answer": {}, "addresses": { "allow": ["10.0.0.0/8"] } })),
        route("outer", json!({})),
    ]);
    let mut question = ask("https://h/a", &[]);
    let refusal = matched(&table, &question).decide(&question.view()).unwrap_err();
    assert_eq!(refusal.reason, Reason::AddressDenied);
    question.client = "10.1.1.1".parse().unwrap();
    assert_eq!(direct(&table, &question).status.as_u16(), 200);
}
