//! Routes and requests, written briefly.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, clippy::panic, reason = "each test uses some of it")]

use serde_json::{Value, json};
use sluice_routing::{Decision, DirectAnswer, Matched, Question, RouteSpec, Table};
use sluice_vocabulary::{Path, Refusal, RouteName};

/// A route from the keys an operator writes: `match`, `rewrite`, `redirect`, `answer`, `cors`, `addresses`. It forwards
/// unless it redirects or answers.
pub fn route(name: &str, keys: Value) -> RouteSpec {
    fn part<T: serde::de::DeserializeOwned>(keys: &Value, key: &str) -> Option<T> {
        keys.get(key).map(|value| serde_json::from_value(value.clone()).unwrap())
    }
    RouteSpec {
        name: RouteName::new(name).unwrap(),
        at: Path::root().key("routes").key(name),
        r#match: part(&keys, "match").unwrap_or_default(),
        rewrite: part(&keys, "rewrite"),
        redirect: part(&keys, "redirect"),
        answer: part(&keys, "answer"),
        cors: part(&keys, "cors"),
        exposed: Vec::new(),
        addresses: part(&keys, "addresses"),
        has_upstream: keys.get("redirect").is_none() && keys.get("answer").is_none(),
        protected: false,
    }
}

/// A route with nothing but a path.
pub fn path(name: &str, path: &str) -> RouteSpec {
    route(name, json!({ "match": { "path": path } }))
}

pub fn table(routes: Vec<RouteSpec>) -> Table {
    match Table::compile(routes) {
        Ok(table) => table,
        Err(faults) => panic!("{faults:?}"),
    }
}

/// A request: `GET https://host/path`, then its header fields.
pub fn ask(request: &str, headers: &[&str]) -> Question {
    let question = Question::parse(request).unwrap();
    headers.iter().fold(question, |question, header| question.header(header).unwrap())
}

/// The winner's name, or the refusal's name.
pub fn winner(table: &Table, request: &str, headers: &[&str]) -> String {
    match table.lookup(&ask(request, headers).view()) {
        Ok(matched) => matched.name().to_string(),
        Err(refusal) => refusal.reason.slug().to_owned(),
    }
}

pub fn matched(table: &Table, question: &Question) -> Matched {
    table.lookup(&question.view()).unwrap()
}

pub fn refused(table: &Table, question: &Question) -> Refusal {
    table.lookup(&question.view()).unwrap_err()
}

/// The answer made here.
pub fn direct(table: &Table, question: &Question) -> DirectAnswer {
    match matched(table, question).decide(&question.view()).unwrap() {
        Decision::Direct(answer) => *answer,
        Decision::Forward => panic!("forwarded"),
    }
}

/// The value of a field among some.
pub fn field(fields: &[(http::HeaderName, http::HeaderValue)], name: &str) -> Option<String> {
    fields.iter().find(|(found, _)| found == name).map(|(_, value)| value.to_str().unwrap().to_owned())
}

/// The faults of routes that do not compile, warnings included, as a person reads them.
pub fn faults(routes: Vec<RouteSpec>) -> Vec<String> {
    Table::compile(routes).unwrap_err().iter().map(ToString::to_string).collect()
}
