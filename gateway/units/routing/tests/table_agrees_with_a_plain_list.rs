//! The compiled table finds what going through a list would find: every route is asked, those that take the request are
//! put in the documented order, the first wins. The list below knows nothing of the crate's own patterns.
#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use std::cmp::Reverse;

use common::{ask, route, table};
use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use serde_json::json;

#[derive(Debug, Clone)]
struct Written {
    hosts: Vec<&'static str>,
    path: Option<String>,
    methods: Vec<&'static str>,
    header: Option<&'static str>,
    query: bool,
}

impl Written {
    fn keys(&self) -> serde_json::Value {
        let mut keys = json!({ "match": { "host": self.hosts, "methods": self.methods } });
        if let Some(path) = &self.path {
            keys["match"]["path"] = json!(path);
        }
        if let Some(value) = self.header {
            keys["match"]["headers"] = json!({ "x-v": { "exact": value } });
        }
        if self.query {
            keys["match"]["query"] = json!({ "q": { "present": true } });
        }
        keys
    }

    fn conditions(&self) -> usize {
        usize::from(self.header.is_some()) + usize::from(self.query)
    }
}

#[derive(Debug, Clone)]
struct Asked {
    method: &'static str,
    host: &'static str,
    path: String,
    header: Option<&'static str>,
    query: bool,
}

/// Lower goes first; `None` where the host is not meant.
fn host_order(pattern: &str, host: &str) -> Option<(u8, Reverse<usize>)> {
    match pattern {
        "*" => Some((2, Reverse(0))),
        wild if wild.starts_with('*') => host.ends_with(&wild[1..]).then(|| (1, Reverse(wild.matches('.').count()))),
        exact => (exact == host).then_some((0, Reverse(0))),
    }
}

/// The kind of pattern, and for each segment whether it is literal (0), captured (1) or the end (2).
fn path_order(pattern: Option<&str>, path: &str) -> Option<(u8, Vec<u8>)> {
    let Some(pattern) = pattern else { return Some((3, vec![])) };
    let parts: Vec<_> = path.split('/').skip(1).collect();
    let (body, prefix) = pattern.strip_suffix("/*").map_or((pattern, false), |body| (body, true));
    let wanted: Vec<_> = body.split('/').skip(1).collect();
    if parts.len() < wanted.len() || !prefix && parts.len() != wanted.len() {
        return None;
    }
    let mut order = Vec::new();
    for (want, have) in wanted.iter().zip(&parts) {
        if want.starts_with('{') {
            if have.is_empty() {
                return None;
            }
            order.push(1);
        } else if want == have {
            order.push(0);
        } else {
            return None;
        }
    }
    let captures = order.contains(&1);
    order.push(2);
    Some((if prefix { 2 } else { u8::from(captures) }, if prefix || captures { order } else { vec![] }))
}

fn by_list(routes: &[Written], asked: &Asked) -> String {
    let mut takers = Vec::new();
    let mut wrong_method = false;
    for (index, route) in routes.iter().enumerate() {
        let any = ["*"];
        let hosts: &[&str] = if route.hosts.is_empty() { &any } else { &route.hosts };
        let Some(host) = hosts.iter().filter_map(|pattern| host_order(pattern, asked.host)).min() else { continue };
        let Some(path) = path_order(route.path.as_deref(), &asked.path) else { continue };
        if route.header.is_some_and(|value| asked.header != Some(value)) || route.query && !asked.query {
            continue;
        }
        let named = route.methods.contains(&asked.method) || asked.method == "HEAD" && route.methods.contains(&"GET");
        if !route.methods.is_empty() && !named {
            wrong_method = true;
            continue;
        }
        takers.push((host, path, route.methods.is_empty(), Reverse(route.conditions()), index));
    }
    match takers.iter().min() {
        Some((.., index)) => format!("r{index}"),
        None if wrong_method => "method-not-allowed".into(),
        None => "no-route".into(),
    }
}

fn paths() -> impl Strategy<Value = Option<String>> {
    let segment = select(vec!["a", "b", "c", "{}"]);
    let end = select(vec!["", "", "/", "/*"]);
    prop_oneof![
        1 => Just(None),
        9 => (prop::collection::vec(segment, 0..4), end).prop_map(|(segments, end)| {
            let mut path = String::new();
            for (position, segment) in segments.iter().enumerate() {
                path.push('/');
                path.push_str(&if *segment == "{}" { format!("{{p{position}}}") } else { (*segment).to_owned() });
            }
            path.push_str(end);
            Some(if path.is_empty() { "/".into() } else { path })
        }),
    ]
}

fn written() -> impl Strategy<Value = Written> {
    (
        subsequence(vec!["a.x", "b.x", "a.b.x", "*.x", "*.b.x", "*"], 0..3),
        paths(),
        subsequence(vec!["GET", "POST", "HEAD"], 0..2),
        prop::option::weighted(0.3, select(vec!["1", "2"])),
        prop::bool::weighted(0.2),
    )
        .prop_map(|(hosts, path, methods, header, query)| Written { hosts, path, methods, header, query })
}

fn asked() -> impl Strategy<Value = Asked> {
    (
        select(vec!["GET", "POST", "HEAD", "PUT"]),
        select(vec!["a.x", "b.x", "a.b.x", "c.b.x", "x", "other"]),
        prop::collection::vec(select(vec!["a", "b", "c", "d", ""]), 1..5),
        prop::option::of(select(vec!["1", "2"])),
        any::<bool>(),
    )
        .prop_map(|(method, host, segments, header, query)| Asked {
            method,
            host,
            path: format!("/{}", segments.join("/")),
            header,
            query,
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn the_table_finds_what_the_list_finds(
        routes in prop::collection::vec(written(), 1..24),
        questions in prop::collection::vec(asked(), 24),
    ) {
        let table = table(routes.iter().enumerate().map(|(i, it)| route(&format!("r{i}"), it.keys())).collect());
        for asked in questions {
            let query = if asked.query { "?q=1" } else { "" };
            let header = asked.header.map(|value| format!("x-v: {value}"));
            let mut question = ask(&format!("{} https://{}/{query}", asked.method, asked.host), &[]);
            if let Some(header) = header {
                question = question.header(&header).unwrap();
            }
            question.path = asked.path.clone();
            let found = match table.lookup(&question.view()) {
                Ok(matched) => matched.name().to_string(),
                Err(refusal) => refusal.reason.slug().to_owned(),
            };
            prop_assert_eq!(&found, &by_list(&routes, &asked), "{:?}", asked);
            // An explanation of it is always had, and agrees.
            let explained = table.explain(&question.view()).to_string();
            prop_assert!(explained.contains(&found), "{}", explained);
        }
    }

    #[test]
    fn no_path_or_host_is_too_odd_to_be_looked_up(host in ".{0,40}", path in ".{0,60}", query in ".{0,40}") {
        let table = table(vec![
            route("a", json!({ "match": { "host": "*.x", "path": "/a/{b}/*" }, "redirect": { "path": "/{b}/*" } })),
            route("b", json!({ "match": { "path": "/{a}", "query": { "q": { "exact": "1" } } }, "redirect": { "to": "https://h/{a}" } })),
            route("c", json!({ "match": { "path": "/*" }, "redirect": { "path": "/*" } })),
        ]);
        let mut question = ask("https://h/", &[]);
        (question.host, question.path, question.query) = (host, path, Some(query));
        if let Ok(matched) = table.lookup(&question.view()) {
            let _ = matched.captures(&question.path).count();
            if let Ok(sluice_routing::Decision::Direct(answer)) = matched.decide(&question.view()) {
                let location = common::field(&answer.headers, "location").unwrap();
                let is_safe = !location.starts_with("//") && location.bytes().all(|b| b.is_ascii_graphic() && b != b'\\');
                prop_assert!(is_safe, "{}", location);
            }
        }
    }
}
