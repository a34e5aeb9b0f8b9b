//! `sluice token inspect` says of a token what the gateway would do with it, and leaves nothing behind.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use serde_json::{Value, json};
use sluice_testkit::{Gateway, Issuer, Origin, Outcome, client, gateway, holder, issuer, origin, run_to_end};

const CONFIG: &str = "
listeners: [ { address: '127.0.0.1:0' } ]
issuers:
  corp: { issuer: '@corp@', audiences: [edge], leeway: 30s, jwks: { url: '@jwks@' } }
upstreams:
  origin: { endpoints: ['@origin@'] }
routes:
  - name: orders
    match: { host: api.example.com, path: '/orders/*', methods: [GET] }
    auth: { issuer: corp, scopes: { all: ['orders:read'] }, claims_to_headers: { x-user: sub } }
    upstream: origin
  - { name: bound, match: { path: '/bound' }, auth: { issuer: corp, sender_constraint: dpop }, upstream: origin }
  - { name: guarded, match: { path: '/guarded' }, forward_auth: { url: 'http://127.0.0.1:1/' }, upstream: origin }
  - { name: moved, match: { path: '/moved' }, redirect: { path: /orders } }
  - { name: trusted, match: { path: '/orders/7', headers: { x-user: { exact: root } } }, upstream: origin }
";

struct World {
    edge: Gateway,
    corp: Issuer,
    _origin: Origin,
}

async fn world() -> World {
    let (origin, corp) = (origin().run().await, issuer().run().await);
    let edge = gateway()
        .config(CONFIG)
        .set("corp", corp.name())
        .set("jwks", corp.jwks_url())
        .set("origin", origin.address())
        .run()
        .await;
    World { edge, corp, _origin: origin }
}

const ORDERS: &str = "GET http://api.example.com/orders/7";

impl World {
    async fn page(&self, question: Value) -> Value {
        let answer = client().post(self.edge.admin_url("/tokens/inspect"), question.to_string()).send().await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.json()
    }

    /// What a request gets.
    async fn served(&self, token: &str) -> (u16, Option<String>) {
        let request = client().get(self.edge.url("/orders/7")).header("host", "api.example.com").bearer(token);
        let answer = request.send().await;
        (answer.status.as_u16(), answer.header("www-authenticate").map(str::to_owned))
    }

    async fn command(&self, token: &str, more: &[&str]) -> Outcome {
        let door = self.edge.admin().to_string();
        let head = ["token", "inspect", token, "--request", ORDERS, "--admin", &door];
        run_to_end(head.iter().copied().chain(more.iter().copied())).await
    }
}

fn step<'p>(page: &'p Value, name: &str) -> &'p Value {
    let steps = page["steps"].as_array().unwrap();
    steps.iter().find(|step| step["step"] == name).unwrap_or_else(|| panic!("no step {name} in {page:#}"))
}

fn challenge(page: &Value) -> Option<String> {
    let headers = page["verdict"]["headers"].as_array().unwrap();
    let found = headers.iter().find(|header| header["name"] == "www-authenticate");
    found.map(|header| header["value"].as_str().unwrap().to_owned())
}

#[tokio::test]
async fn the_door_says_of_a_token_what_the_gateway_does_with_it() {
    let world = world().await;
    let good = || world.corp.token().scopes(&["orders:read"]);
    for (failing, token) in [
        (None, good().sign()),
        (Some("expiry"), good().expires_in(-300).sign()),
        (Some("signature"), good().forged()),
        (Some("audience"), good().audience("elsewhere").sign()),
        (Some("issuer"), good().issued_by("https://other.example").sign()),
        (Some("scopes"), world.corp.token().scopes(&["orders:list"]).sign()),
        (Some("header"), good().unsigned()),
        (Some("shape"), "a.b".to_owned()),
    ] {
        let page = world.page(json!({ "token": token, "request": ORDERS })).await;
        let (status, challenged) = world.served(&token).await;
        assert_eq!(page["route"], "orders");
        assert_eq!(page["verdict"]["passes"], json!(status == 200), "{page:#}");
        if let Some(failing) = failing {
            assert_eq!(page["verdict"]["status"], json!(status), "{page:#}");
            assert_eq!(step(&page, failing)["outcome"], "failed", "{page:#}");
            assert_eq!(challenge(&page), challenged);
        }
        let signature = token.rsplit('.').next().filter(|part| part.len() > 8);
        assert!(signature.is_none_or(|signature| !page.to_string().contains(signature)), "{page:#}");
    }
    let lacking = world.corp.token().scopes(&["orders:list"]).sign();
    let page = world.page(json!({ "token": lacking, "request": ORDERS })).await;
    assert_eq!(step(&page, "scopes")["detail"], "missing: orders:read");
    assert_eq!(page["policy"]["scopes"]["all"], json!(["orders:read"]));
    world.edge.stop().await;
}

#[tokio::test]
async fn routes_are_chosen_as_for_a_request_and_what_needs_no_token_is_said_to() {
    let world = world().await;
    let token = world.corp.token().scopes(&["orders:read"]).sign();
    let ask = async |request: &str| world.page(json!({ "token": token, "request": request })).await;
    // One path in several forms is one path.
    for request in ["GET http://API.example.com./a/../orders//7?x=1", "GET http://api.example.com:80/%6frders/7"] {
        let page = ask(request).await;
        assert_eq!(
            (&page["route"], &page["verdict"]["passes"]),
            (&json!("orders"), &json!(true)),
            "{request}: {page:#}"
        );
    }
    let page = ask("POST http://api.example.com/orders/7").await;
    assert_eq!((&page["route"], &page["verdict"]["status"]), (&Value::Null, &json!(405)));
    assert_eq!(page["verdict"]["reason"], "method-not-allowed");
    assert_eq!(ask("GET http://other.example/").await["verdict"]["status"], 404);
    let page = ask("GET http://other.example/moved").await;
    assert_eq!((&page["verdict"]["passes"], &page["policy"]), (&json!(true), &Value::Null));
    assert!(step(&page, "route")["detail"].as_str().unwrap().contains("redirect"), "{page:#}");
    let page = ask("GET http://other.example/guarded").await;
    assert_eq!(step(&page, "token")["outcome"], "skipped");
    assert_eq!(step(&page, "forward-auth")["outcome"], "skipped");
    // What no client may send does not choose a route either.
    let spoofed = json!({ "token": token, "request": ORDERS, "headers": { "x-user": "root" } });
    assert_eq!(world.page(spoofed).await["route"], "orders");
    world.edge.stop().await;
}

#[tokio::test]
async fn inspecting_leaves_no_trace_that_a_request_would_find() {
    let world = world().await;
    let token = world.corp.token().scopes(&["orders:read"]).sign();
    for _ in 0..3 {
        let page = world.page(json!({ "token": token, "request": ORDERS })).await;
        assert_eq!(step(&page, "cache")["outcome"], "skipped", "it is not remembered");
    }
    let metrics = world.edge.metrics().await;
    assert_eq!(metrics.value("sluice_requests_total", &[("route", "orders")]), 0.0);
    assert_eq!(metrics.value("sluice_auth_token_cache_misses_total", &[]), 0.0);
    assert_eq!(world.served(&token).await.0, 200);
    let known = world.page(json!({ "token": token, "request": ORDERS })).await;
    assert_eq!(step(&known, "cache")["outcome"], "passed");

    // A proof that was inspected is as good as new.
    let holder = holder();
    let bound = world.corp.token().claim("cnf", holder.confirmation()).sign();
    let url = world.edge.url("/bound");
    let proof = holder.proof("GET", &url, &bound);
    let question = json!({ "token": bound, "request": format!("GET {url}"), "headers": { "dpop": proof } });
    let page = world.page(question.clone()).await;
    assert_eq!(page["verdict"]["passes"], true, "{page:#}");
    let request = client().get(&url).header("authorization", format!("DPoP {bound}")).header("dpop", &proof);
    assert_eq!(request.send().await.status, 200);
    let page = world.page(question).await;
    assert_eq!(step(&page, "proof")["detail"], "the proof was used before");
    // Nor is any of it in the log.
    let log = world.edge.logs().iter().map(|line| line.text.clone()).collect::<String>();
    for secret in [&token, &bound, &proof] {
        assert!(!log.contains(secret.as_str()) && !log.contains(secret.rsplit('.').next().unwrap()));
    }
    world.edge.stop().await;
}

#[tokio::test]
async fn the_command_shows_the_steps_and_its_exit_code_is_the_verdict() {
    let world = world().await;
    let good = world.corp.token().scopes(&["orders:read"]).sign();
    let passes = world.command(&good, &[]).await;
    assert_eq!(passes.code, Some(0), "{passes:?}");
    for line in ["route orders\n", "  ✓ signature\n", "  ✓ scopes        all that the route asks for\n"] {
        assert!(passes.stdout.contains(line), "{line:?} in {}", passes.stdout);
    }
    assert!(passes.stdout.ends_with("passes, as \"user-1\" of issuer corp\n"), "{}", passes.stdout);
    assert!(!passes.stdout.contains('\u{1b}'), "no colours but on a terminal");

    let late = world.corp.token().scopes(&["orders:read"]).expires_in(-200).sign();
    let refused = world.command(&late, &[]).await;
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(refused.stdout.contains("  ✗ expiry        expired 3m 2"), "{}", refused.stdout);
    assert!(refused.stdout.contains(", leeway 30s\n"), "{}", refused.stdout);
    assert!(refused.stdout.contains("  – revocation    not reached\n"), "{}", refused.stdout);
    assert!(
        refused.stdout.contains("refused 401 token-expired: The token has expired\n  www-authenticate: Bearer realm=")
    );
    let page: Value = serde_json::from_str(&world.command(&late, &["--json"]).await.stdout).unwrap();
    assert_eq!(page["verdict"]["reason"], "token-expired");

    // Nothing said holds the token, and bad usage is told apart.
    for outcome in [&passes, &refused] {
        assert!(![&good, &late].iter().any(|token| outcome.stdout.contains(token.rsplit('.').next().unwrap())));
    }
    let wrong = run_to_end(["token", "inspect", "x", "--request", "nowhere"]).await;
    assert_eq!(wrong.code, Some(2), "{wrong:?}");
    let alone = run_to_end(["token", "inspect", "x", "--admin", "127.0.0.1:9901"]).await;
    assert_eq!(alone.code, Some(2), "{alone:?}");
    let unheard = run_to_end(["token", "inspect", "x", "--request", ORDERS, "--admin", "127.0.0.1:1"]).await;
    assert!(unheard.code == Some(1) && unheard.stderr.contains("127.0.0.1:1"), "{unheard:?}");
    let decoded = run_to_end(["token", "inspect", &good]).await;
    assert!(decoded.code == Some(0) && decoded.stdout.contains("The signature was not checked."), "{decoded:?}");
    world.edge.stop().await;
}

#[tokio::test]
async fn a_file_judges_as_the_gateway_that_runs_from_it_does() {
    let world = world().await;
    let file = world.edge.folder().join("sluice.yaml");
    let judged = async |token: &str| {
        let head = ["token", "inspect", token, "--request", ORDERS, "--json", "-c", file.to_str().unwrap()];
        let outcome = run_to_end(head).await;
        let page: Value = serde_json::from_str(&outcome.stdout).unwrap_or_else(|_| panic!("{outcome:?}"));
        (outcome.code, page)
    };
    let good = world.corp.token().scopes(&["orders:read"]);
    for token in [good.sign(), good.clone().expires_in(-300).sign(), good.forged(), world.corp.token().sign()] {
        let (code, by_file) = judged(&token).await;
        let by_gateway = world.page(json!({ "token": token, "request": ORDERS })).await;
        let same = |page: &Value| {
            let mut verdict = page["verdict"].clone();
            verdict["cause"] = Value::Null;
            (page["route"].clone(), page["policy"].clone(), verdict)
        };
        assert_eq!(same(&by_file), same(&by_gateway));
        assert_eq!(code, Some(i32::from(by_gateway["verdict"]["passes"] != true)));
    }
    let folder = tempfile::tempdir().unwrap();
    let bad = folder.path().join("bad.yaml");
    std::fs::write(&bad, "routes: 7\n").unwrap();
    let refused = run_to_end(["token", "inspect", "x", "--request", ORDERS, "-c", bad.to_str().unwrap()]).await;
    assert_eq!(refused.code, Some(2), "{refused:?}");
    world.edge.stop().await;
}

#[tokio::test]
async fn a_unix_socket_is_a_door_too() {
    let (origin, corp) = (origin().run().await, issuer().run().await);
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("admin.sock");
    let edge = gateway()
        .config(&format!("admin: {{ socket: '{}' }}\n{CONFIG}", socket.display()))
        .set("corp", corp.name())
        .set("jwks", corp.jwks_url())
        .set("origin", origin.address())
        .run()
        .await;
    let token = corp.token().scopes(&["orders:read"]).sign();
    let door = format!("unix:{}", socket.display());
    let outcome = run_to_end(["token", "inspect", &token, "--request", ORDERS, "--admin", &door]).await;
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    edge.stop().await;
}
