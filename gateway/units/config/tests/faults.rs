//! A configuration with many faults at once: each is told, at its place, with its mend, and no secret among it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]
#![allow(missing_docs, unreachable_pub, reason = "tests")]

mod world;

use sluice_config::{Diagnostic, Document, Source, load, render};
use sluice_vocabulary::fault::Path;
use world::Config;

fn check(text: &str) -> Result<sluice_config::Accepted<Config>, Vec<Diagnostic>> {
    let source = Source::from_bytes("edge.yaml", text.as_bytes()).unwrap();
    let document = Document::parse(&source)?;
    load::<Config>(&document).check(|config, faults| config.validate(&Path::root(), faults))
}

fn faults(text: &str) -> Vec<Diagnostic> {
    check(text).expect_err("faults")
}

/// `line:column path: message (help)`
fn told(diagnostics: &[Diagnostic]) -> Vec<String> {
    diagnostics
        .iter()
        .map(|diagnostic| {
            let place = diagnostic.location();
            format!("{}:{} {}", place.line, place.column, diagnostic.fault())
        })
        .collect()
}

const GOOD: &str = "\
listeners: [ { address: 0.0.0.0:8080, http2: true } ]
issuers:
  corp: { issuer: https://id, algorithms: [RS256], jwks: { url: https://id/jwks, refresh: 5m } }
upstreams:
  orders: { endpoints: [ 10.0.0.5:8080 ], balance: least_latency, idle_timeout: auto, timeouts: { connect: 1s } }
  users: { endpoints: [ 10.0.0.6:8080 ], idle_timeout: 5s }
routes:
  - { name: orders, match: { path: /orders }, upstream: orders }
  - { name: old, redirect: { status: 301, to: /new } }
limits: { body: 2MiB, failure: skip, steps: [ { type: wait, time: 5ms } ] }
";

#[test]
fn a_good_configuration_is_accepted_as_written() {
    let accepted = check(GOOD).unwrap_or_else(|faults| panic!("{}", render::text(&faults, false)));
    assert!(accepted.warnings.is_empty());
    assert_eq!(accepted.config.routes.len(), 2);
    assert_eq!(accepted.config.upstreams.len(), 2);
}

const BAD: &str = "\
listeners:
  - adress: 0.0.0.0:8080
    http2: yes
    workers: 70000
  - http2: true
  - address: nowhere
issuers:
  corp:
    issuer: http://id.example.com
    algorithms: [RS256, ES265]
    jwks: { ulr: https://id/jwks }
    client_secret: hunter2-very-secret
  other:
    issuer: 12
    algorithms: RS256
    jwks: { url: https://id/jwks, refresh: 5 }
    client_secret: { vault: s3cr3t-in-vault }
upstreams:
  orders:
    endpoints: []
    balance: least_latenzy
    timeouts: { conect: 1s, response: 15 }
    idle_timeout: never
  \"bad name\": { endpoints: [ a ] }
  users:
  extra: { endpoints: [ a ], pasword: hunter3-very-secret }
routes:
  - name: orders read
    match: { path: 5 }
    upstream: orders
  - name: missing
    upstream: nosuch
  - name: none
  - name: redirect
    redirect: { status: abc, to: /x }
limits:
  body: 2MB
  percent: 0
  failure: refuze
  steps:
    - type: wiat
    - time: 5ms
    - { type: call, hots: x }
  nothing_like_it: 1
rutes: []
";

#[test]
fn thirty_faults_at_once_are_each_told_at_their_place() {
    let found = faults(BAD);
    let expected = [
        "2:5 listeners[0].adress: unknown key `adress` (did you mean `address`?)",
        "3:12 listeners[0].http2: expected true or false, found the text \"yes\" (write true)",
        "4:14 listeners[0].workers: 70000 is too large: expected a number from 0 to 65535",
        "5:5 listeners[1]: missing key `address` (address: The address to listen on)",
        "6:14 listeners[2].address: invalid socket address syntax",
        "9:13 issuers.corp.issuer: the issuer is not named by https",
        "10:25 issuers.corp.algorithms[1]: expected RS256, ES256 or EdDSA, found the text \"ES265\" (did you mean `ES256`?)",
        "11:11 issuers.corp.jwks: expected a mapping with the key `url` or `file` (did you mean `url`?)",
        "12:20 issuers.corp.client_secret: expected a mapping, found a value that is not shown \
         (a secret is named by where it is kept: { file: PATH } or { env: NAME })",
        "14:13 issuers.other.issuer: expected a text, found the number 12 (quote it: \"12\")",
        "15:17 issuers.other.algorithms: expected a list, found the text \"RS256\" \
         (write a list: [ … ], or one line per element that begins with `- `)",
        "16:44 issuers.other.jwks.refresh: expected a text such as 250ms, 5s, 1m30s, found the number 5 \
         (give it a unit, such as 5ms or 5s)",
        "17:20 issuers.other.client_secret: expected a mapping with the key `file` or `env` \
         (a secret is named by where it is kept: { file: PATH } or { env: NAME })",
        "20:16 upstreams.orders.endpoints: an upstream needs an endpoint",
        "21:14 upstreams.orders.balance: expected round_robin or least_latency, found the text \"least_latenzy\" \
         (did you mean `least_latency`?)",
        "22:17 upstreams.orders.timeouts.conect: unknown key `conect` (did you mean `connect`?)",
        "22:39 upstreams.orders.timeouts.response: expected a text such as 250ms, 5s, 1m30s, found the number 15 \
         (give it a unit, such as 15ms or 15s)",
        "23:19 upstreams.orders.idle_timeout: expected auto or one such as 250ms, 5s, 1m30s, found the text \"never\"",
        "24:3 upstreams.bad name: `bad name` cannot be a name here: expected one of the form ^[A-Za-z0-9._-]+$",
        "25:3 upstreams.users: expected a mapping, found nothing (give it a value, or remove the key)",
        "26:30 upstreams.extra.pasword: unknown key `pasword` (known here: endpoints, balance, timeouts or idle_timeout)",
        "28:11 routes[0].name: \"orders read\" cannot be used here: expected a text of the form ^[A-Za-z0-9._-]+$",
        "29:20 routes[0].match.path: expected a text, found the number 5 (quote it: \"5\")",
        "32:15 routes[1].upstream: there is no upstream nosuch (name one of upstreams)",
        "33:5 routes[2]: expected a mapping with the key `upstream` or `redirect`",
        "35:25 routes[3].redirect.status: expected a whole number from 0 to 65535, found the text \"abc\"",
        "37:9 limits.body: \"2MB\" cannot be used here: expected one such as 64KiB, 16MiB",
        "38:12 limits.percent: 0 is too small: expected a number from 1 to 100",
        "39:12 limits.failure: expected refuse or skip, found the text \"refuze\" (did you mean `refuse`?)",
        "41:13 limits.steps[0].type: expected wait or call, found the text \"wiat\" (did you mean `wait`?)",
        "42:7 limits.steps[1]: missing key `type`: expected wait or call",
        "43:21 limits.steps[2].hots: unknown key `hots` (did you mean `host`?)",
        "44:3 limits.nothing_like_it: unknown key `nothing_like_it` (known here: body, percent, failure or steps)",
        "45:1 rutes: unknown key `rutes` (did you mean `routes`?)",
    ];
    let told = told(&found);
    for (found, expected) in told.iter().zip(&expected) {
        assert_eq!(found, expected, "\n{}", told.join("\n"));
    }
    assert_eq!(told.len(), expected.len(), "\n{}", told.join("\n"));
}

#[test]
fn no_secret_is_told_in_any_form() {
    let found = faults(BAD);
    let all = format!("{}{}{}", render::text(&found, false), render::text(&found, true), render::json(&found));
    for secret in ["hunter2", "s3cr3t", "hunter3"] {
        assert!(!all.contains(secret), "{secret} in\n{all}");
    }
}

#[test]
fn a_secret_of_digits_is_masked_like_any_other() {
    let text = GOOD.replace("{ url: https://id/jwks,", "{ password: 87654321, url: https://id/jwks,");
    let all = render::text(&faults(&text), false);
    assert!(all.contains("password: [redacted], url: https://id/jwks,"), "{all}");
}

#[test]
fn a_rule_that_repeats_a_secret_is_cleared_of_it() {
    let source =
        Source::from_bytes("c", format!("{GOOD}# end\n").replace("https://id,", "https://u:pw1234@id,").as_bytes());
    let document = Document::parse(&source.unwrap()).unwrap();
    let found = load::<Config>(&document)
        .check(|config, faults| {
            faults.error(&Path::root().key("issuers"), format!("bad {}", config.issuers["corp"].issuer))
        })
        .err()
        .unwrap();
    let text = render::text(&found, false);
    assert!(text.contains("error: bad [redacted]\n") && !text.contains("pw1234"), "{text}");
}

#[test]
fn a_fault_is_shown_as_a_compiler_would() {
    let text =
        GOOD.replace("balance: least_latency", "balanse: least_latency").replace("failure: skip", "failure: skp");
    let expected = "\
error: unknown key `balanse`
 --> edge.yaml:5:43 (upstreams.orders.balanse)
  |
5 |   orders: { endpoints: [ 10.0.0.5:8080 ], balanse: least_latency, idle_timeout: auto, timeouts: { connect: 1s } }
  |                                           ^^^^^^^
  = help: did you mean `balance`?

error: expected refuse or skip, found the text \"skp\"
  --> edge.yaml:10:32 (limits.failure)
   |
10 | limits: { body: 2MiB, failure: skp, steps: [ { type: wait, time: 5ms } ] }
   |                                ^^^
   = help: did you mean `skip`?

2 errors in edge.yaml
";
    assert_eq!(render::text(&faults(&text), false), expected);
}

#[test]
fn json_tells_the_same_to_a_program() {
    let text = GOOD.replace("failure: skip", "failure: skp");
    let expected = serde_json::json!([{
        "severity": "error", "file": "edge.yaml", "line": 10, "column": 32, "length": 3, "path": "limits.failure",
        "message": "expected refuse or skip, found the text \"skp\"", "help": "did you mean `skip`?"
    }]);
    assert_eq!(render::json(&faults(&text)), expected);
}

#[test]
fn warnings_alone_do_not_refuse() {
    let accepted = check(&GOOD.replace("issuer: https", "issuer: http").replace("/new", "\"${NEW}\"")).unwrap();
    assert_eq!(
        told(&accepted.warnings),
        [
            "3:19 issuers.corp.issuer: the issuer is not named by https",
            "9:47 routes[1].redirect.to: `${NEW}` is taken literally: environment variables are not substituted \
             (where a secret is expected, { env: NEW } names a variable)",
        ]
    );
}

#[test]
fn what_yaml_allows_and_a_configuration_does_not_is_told_by_name() {
    let text = "\
a: &x 1
b: *x
a: 2
c: !!int \"3\"
<<: { d: 1 }
[e]: 1
f: .inf
";
    let told = told(&faults(text));
    let expected = [
        "1:4 a: anchors are not supported (remove it, and write the value out where it is used)",
        "2:4 b: aliases are not supported (write the value out, or give it a name that the configuration itself knows)",
        "3:1 a: the key `a` stands here a second time (it stands first in line 1, column 1)",
        "4:4 c: tags are not supported (remove it: what a value is follows from where it stands)",
        "5:1 (top): merge keys are not supported (write the keys out)",
        "6:1 (top): a key must be a text",
        "7:4 f: .inf is not a number that can be used: expected one of at most 64 bits (quote it if it is a text)",
    ];
    assert_eq!(told, expected);
}

#[test]
fn what_is_not_yaml_is_told_with_its_line() {
    for (text, place) in [
        ("a:\n\t- b\n", "2:2"),
        ("a: b: c\n", "1:5"),
        ("a: [1, 2\nb: 3\n", "2:2"),
        ("a: \"x\n", "1:4"),
        ("a: 1\n---\nb: 2\n", "2:1"),
        ("a: \u{7}\n", "1:4"),
        ("a: \u{202e}x\n", "1:4"),
        (&"[".repeat(100), "1:66"),
    ] {
        let found = faults(text);
        let location = found[0].location();
        assert_eq!(
            format!("{}:{}", location.line, location.column),
            place,
            "{text:?}: {}",
            render::text(&found, false)
        );
    }
}

#[test]
fn an_empty_file_is_told_what_it_lacks() {
    for (text, place) in [("", "1:1"), ("# nothing\n", "1:1"), ("---\n", "2:1")] {
        let told = told(&faults(text));
        assert_eq!(
            told,
            [format!("{place} (top): expected a mapping, found nothing (give it a value, or remove the key)")],
            "{text:?}"
        );
    }
}

#[test]
fn the_published_schema_names_itself_and_every_description() {
    let schema: serde_json::Value = serde_json::from_str(&sluice_config::schema::<Config>("urn:test", "Test")).unwrap();
    assert_eq!(schema["$schema"], "https://json-schema.org/draft/2020-12/schema");
    assert_eq!(schema["title"], "Test");
    assert_eq!(schema["properties"]["listeners"]["description"], "Where clients connect. At least one.");
    assert_eq!(schema["additionalProperties"], false);
}
