//! Prints what a look-up among 10 000 routes costs on this machine:
//! `cargo run -p sluice-routing --example lookup_cost` (add `--release` for the figure that counts).
#![allow(clippy::print_stdout, reason = "this is what it is for")]

use std::error::Error;
use std::hint::black_box;
use std::time::Instant;

use sluice_routing::config::{Hosts, Match};
use sluice_routing::{Question, RouteSpec, Table};
use sluice_vocabulary::{Path, RouteName};

const ROUTES: usize = 10_000;
const LOOKUPS: u32 = 300_000;

fn main() -> Result<(), Box<dyn Error>> {
    let specs = (0..ROUTES).map(spec).collect::<Result<Vec<_>, _>>()?;
    let start = Instant::now();
    let table = Table::compile(specs).map_err(|faults| format!("{faults:?}"))?;
    println!("{ROUTES} routes compiled in {:.0?}", start.elapsed());
    for (what, request) in [
        ("exact host, exact path", "https://h102.example.com/exact/1020"),
        ("exact host, template", "https://h102.example.com/orders1021/17/items/4"),
        ("exact host, prefix", "https://h102.example.com/prefix1022/a/b/c"),
        ("wildcard host, template", "https://a.b.w103.example.com/orders1033/17/items/4"),
        ("any host, captured prefix", "https://nowhere.example/acme/things1043/a"),
        ("no route", "https://h102.example.com/nothing/here"),
    ] {
        let question = Question::parse(request)?;
        let view = question.view();
        let found = table.lookup(&view).map_or_else(|_| "none".into(), |matched| matched.name().to_string());
        let start = Instant::now();
        for _ in 0..LOOKUPS {
            let _ = black_box(table.lookup(black_box(&view)));
        }
        let nanos = start.elapsed().as_nanos() / u128::from(LOOKUPS);
        println!("{what:<26} {nanos:>5} ns  {:>2} steps  found {found}", table.lookup_steps(&view));
    }
    // Another route every time, so that nothing of the table is warm but what must be.
    let questions = (0..ROUTES)
        .filter(|i| i / 10 % 3 == 0 && i % 4 == 1)
        .map(|i| Question::parse(&format!("https://h{}.example.com/orders{i}/17/items/4", i / 10)));
    let questions = questions.collect::<Result<Vec<_>, _>>()?;
    let start = Instant::now();
    let rounds = LOOKUPS as usize / questions.len();
    for question in std::iter::repeat_n(&questions, rounds).flatten() {
        let _ = black_box(table.lookup(black_box(&question.view())));
    }
    let nanos = start.elapsed().as_nanos() / (rounds * questions.len()) as u128;
    println!("{:<26} {nanos:>5} ns", "a different route each time");
    Ok(())
}

fn spec(i: usize) -> Result<RouteSpec, Box<dyn Error>> {
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
    Ok(RouteSpec {
        name: RouteName::new(&format!("r{i}"))?,
        at: Path::root().key("routes").index(i),
        r#match: Match { host: Hosts(vec![host]), path: Some(path), methods: vec!["GET".into()], ..Match::default() },
        rewrite: None,
        redirect: None,
        answer: None,
        cors: None,
        exposed: Vec::new(),
        addresses: None,
        has_upstream: true,
        protected: false,
    })
}
