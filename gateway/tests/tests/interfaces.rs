//! `gateway/docs/interfaces.md` says what others may rely on, and it is true: nothing is there that it does not tell of,
//! and nothing that it tells of is missing.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use sluice_testkit::{
    Gateway, GatewayBuilder, Issuer, Origin, authority, client, eventually, gateway, issuer, origin, run_to_end,
};
use sluice_vocabulary::Reason;
use sluice_vocabulary::refusal::PROBLEM_TYPE_PREFIX;

const DOCUMENT: &str = include_str!("../../docs/interfaces.md");

/// A gateway with something of everything, and what surrounds it.
struct World {
    edge: Gateway,
    corp: Issuer,
    _origin: Origin,
}

const CONFIG: &str = "
listeners:
  - address: '127.0.0.1:0'
  - address: '127.0.0.1:0'
    tls: { certificates: [ { cert: edge.crt, key: edge.key } ] }
admin: { address: '127.0.0.1:0' }
issuers:
  corp: { issuer: '@corp@', audiences: [edge], jwks: { url: '@jwks@' } }
  opaque: { issuer: 'https://opaque.example', introspection: { url: 'http://127.0.0.1:1/', client: { id: edge, secret: { file: secret } } } }
tenants:
  identify: [ { claim: tenant } ]
  overrides: { acme: { rate: { requests: 1000 }, concurrency: 100 } }
plugins:
  region: { component: region.wasm, fallback: { component: region.wasm }, decides: false, config: { region: eu-1 } }
  teller:
    component: probe.wasm
    grants: { identity: true, connection: true, clock: true, random: true, metrics: true, tags: true, key_value: {}, upstreams: [origin] }
    config: { act: [count hits 1, level depth 1, tag plan gold] }
  asker:
    component: asking.wasm
    limits: { host_calls: 2s }
    grants: { http: { origins: ['http://127.0.0.1:1'], concurrency: 3, private: true } }
telemetry: { access_log: { format: json, output: access.log, query: true, subject: true } }
upstreams:
  origin: { endpoints: ['@origin@'], health: { path: /healthz } }
  closed: { endpoints: ['127.0.0.1:1'] }
routes:
  - name: orders
    match: { path: '/orders/*', query: { q: { exact: '1' } }, headers: { x-one: { exact: '1' } } }
    auth: { issuer: corp, claims_to_headers: { x-sub: sub } }
    plugins: [region, teller]
    rewrite: { path: /renamed, request_headers: { set: { x-set: '1' } } }
    cors: { origins: ['https://app.example'] }
    upstream: origin
  - { name: closed, match: { path: '/closed' }, upstream: closed }
  - { name: guarded, match: { path: '/guarded' }, auth: { issuer: opaque }, forward_auth: { url: 'http://127.0.0.1:1/' }, upstream: closed }
  - { name: shadowed, match: { path: '/closed', methods: [GET] }, addresses: { allow: [127.0.0.0/8] }, upstream: closed }
  - { name: open, match: { path: '/*' }, upstream: origin }
";

const REGION: &[u8] = include_bytes!("../../../plugins/prebuilt/add_region_rust.wasm");

async fn world() -> World {
    world_of(gateway()).await
}

/// The same, of a gateway to which something is said beforehand.
async fn world_of(edge: GatewayBuilder) -> World {
    let (origin, corp, authority) = (origin().run().await, issuer().run().await, authority());
    let leaf = authority.leaf(&["edge.example"]);
    let edge = edge
        .config(CONFIG)
        .file("region.wasm", REGION)
        .file("probe.wasm", include_bytes!("../../../plugins/prebuilt/probe.wasm"))
        .file("asking.wasm", include_bytes!("../../../plugins/prebuilt/asking.wasm"))
        .file("edge.crt", leaf.chain_pem())
        .file("edge.key", leaf.key_pem())
        .file("secret", "s3cret")
        .set("origin", origin.address())
        .set("corp", corp.name())
        .set("jwks", corp.jwks_url())
        .run()
        .await;
    let token = corp.token().tenant("acme").sign();
    let request = client().trusting(&authority).to(edge.listener(1)).get("https://edge.example/orders/7?q=1");
    let answer = request.bearer(&token).header("x-one", "1").send().await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(client().get(edge.url("/closed")).send().await.status, 502);
    // The probes' figures are read once a second: wait until every upstream has its own.
    edge.metrics_when("the kernel's figures, or the news that there are none", |metrics| {
        metrics.value("sluice_kernel_probe_on", &[]) == 0.0
            || metrics.has("sluice_kernel_connects_total", &[("upstream", "closed")])
    })
    .await;
    World { edge, corp, _origin: origin }
}

/// The cells of every line of the table under a heading, backticks taken off.
fn table(heading: &str) -> Vec<Vec<String>> {
    let rows = section(heading).lines().filter(|line| line.starts_with('|')).skip(2);
    let cells = |line: &str| -> Vec<String> {
        line.trim_matches('|').split('|').map(|cell| cell.trim().replace('`', "")).collect()
    };
    let rows: Vec<_> = rows.map(cells).collect();
    assert!(!rows.is_empty(), "no table under {heading:?}");
    rows
}

fn section(heading: &str) -> &'static str {
    let begin = DOCUMENT.find(&format!("\n{heading}\n")).unwrap_or_else(|| panic!("no heading {heading:?}"));
    let rest = &DOCUMENT[begin + heading.len() + 2..];
    &rest[..rest.find("\n#").unwrap_or(rest.len())]
}

#[derive(Debug, PartialEq, Eq)]
struct Family {
    kind: String,
    unit: String,
    labels: BTreeSet<String>,
}

/// Every family of an OpenMetrics page; its labels are those of its samples, `le` aside.
fn families(page: &str) -> BTreeMap<String, Family> {
    let mut families: BTreeMap<String, Family> = BTreeMap::new();
    let mut current = String::new();
    for line in page.lines() {
        let words: Vec<&str> = line.splitn(4, ' ').collect();
        match words[..] {
            ["#", "TYPE", name, kind] => {
                current = name.to_owned();
                let family = Family { kind: kind.to_owned(), unit: String::new(), labels: BTreeSet::new() };
                families.insert(current.clone(), family);
            }
            ["#", "UNIT", name, unit] => families.get_mut(name).unwrap().unit = unit.to_owned(),
            ["#", ..] => {}
            _ => {
                let labels = &mut families.get_mut(&current).unwrap().labels;
                let inside =
                    line.split_once('{').and_then(|(_, rest)| rest.rsplit_once('}')).map_or("", |(inside, _)| inside);
                let keys = inside.split("\",").filter_map(|pair| pair.split_once('=')).map(|(key, _)| key.to_owned());
                labels.extend(keys.filter(|key| key != "le"));
            }
        }
    }
    families
}

#[tokio::test]
async fn every_metric_is_documented_with_its_type_unit_and_labels() {
    let world = world().await;
    let asking = client().get(world.edge.admin_url("/metrics")).header("accept", "application/openmetrics-text");
    let page = asking.send().await;
    let mut found = families(page.text());
    for row in table("### Metrics") {
        let [name, kind, unit, labels, meaning] = &row[..] else { panic!("{row:?}") };
        let family = found.remove(name).unwrap_or_else(|| panic!("{name} is documented, and absent"));
        assert_eq!((&family.kind, &family.unit), (kind, unit), "{name}");
        let labels: BTreeSet<String> =
            labels.split(", ").filter(|label| !label.is_empty()).map(str::to_owned).collect();
        // A family without samples, as the probes' are where there are none, shows no labels.
        let bare = family.labels.is_empty() && !page.text().lines().any(|line| line.starts_with(&format!("{name}{{")));
        assert!(family.labels == labels || bare, "{name} has the labels {:?}", family.labels);
        assert!(meaning.len() > 8, "{name} is not explained");
    }
    assert!(found.is_empty(), "not documented: {found:#?}");
    world.edge.stop().await;
}

#[test]
fn every_problem_type_is_documented_with_its_statuses() {
    let documented = table("### Problem types");
    let rows: BTreeSet<Vec<String>> = documented.iter().map(|row| row[..4].to_vec()).collect();
    let known: BTreeSet<Vec<String>> = Reason::ALL
        .iter()
        .map(|reason| {
            let slug = format!("{PROBLEM_TYPE_PREFIX}{}", reason.slug());
            vec![
                slug,
                reason.status().as_u16().to_string(),
                reason.grpc_status().to_string(),
                reason.title().to_owned(),
            ]
        })
        .collect();
    let (missing, extra): (Vec<_>, Vec<_>) = (known.difference(&rows).collect(), rows.difference(&known).collect());
    assert!(missing.is_empty() && extra.is_empty(), "not documented: {missing:#?}; not there: {extra:#?}");
}

#[tokio::test]
async fn every_path_of_the_operators_door_is_documented() {
    let world = world().await;
    let index = client().get(world.edge.admin_url("/")).send().await.text().to_owned();
    let shown: BTreeSet<(String, String)> = index
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .map(|words| (words[0].to_owned(), words[1].to_owned()))
        .chain([("GET".to_owned(), "/".to_owned()), ("PUT".to_owned(), "/log".to_owned())])
        .collect();
    let documented: BTreeSet<_> = table("### Paths").iter().map(|row| (row[0].clone(), row[1].clone())).collect();
    assert_eq!(documented, shown);
    for (method, path) in documented.iter().filter(|(method, _)| method == "GET") {
        let answer = client().request(method, world.edge.admin_url(path)).send().await;
        assert_eq!(answer.status, 200, "{method} {path}");
    }
    world.edge.stop().await;
}

/// The documented keys of a JSON document: the first word of each line of the code block under a heading; whether the
/// key is always there.
fn documented_keys(heading: &str) -> BTreeMap<String, bool> {
    let block = section(heading).split("```").nth(1).unwrap_or_else(|| panic!("no code block under {heading:?}"));
    let lines = block.lines().skip(1).filter(|line| !line.trim().is_empty());
    lines
        .map(|line| {
            let key = line.split_whitespace().next().unwrap();
            match key.strip_suffix('?') {
                Some(key) => (key.to_owned(), false),
                None => (key.to_owned(), true),
            }
        })
        .collect()
}

/// The path of every value that is neither object nor list; an empty object or list counts as one.
fn key_paths(value: &Value, at: &str, out: &mut BTreeSet<String>) {
    match value {
        Value::Object(members) if !members.is_empty() => {
            for (key, member) in members {
                let at = if at.is_empty() { key.clone() } else { format!("{at}/{key}") };
                key_paths(member, &at, out);
            }
        }
        Value::Array(elements) if !elements.is_empty() => {
            elements.iter().for_each(|element| key_paths(element, &format!("{at}[]"), out));
        }
        _ => {
            out.insert(at.to_owned());
        }
    }
}

/// Whether a documented path, in which `*` stands for any one name, is the found one or (for what is empty now) begins it.
fn covers(documented: &str, found: &str) -> bool {
    let (documented, found): (Vec<_>, Vec<_>) = (documented.split('/').collect(), found.split('/').collect());
    let alike = |documented: &str, found: &str| {
        let bare = |text: &str| text.trim_end_matches("[]").to_owned();
        documented == found || bare(documented) == "*" || bare(documented) == bare(found)
    };
    documented.len() == found.len() && documented.iter().zip(&found).all(|(documented, found)| alike(documented, found))
}

fn hold_against_the_document(heading: &str, values: &[Value]) {
    let documented = documented_keys(heading);
    let mut found = BTreeSet::new();
    values.iter().for_each(|value| key_paths(value, "", &mut found));
    let parents = |path: &str| {
        documented.keys().any(|key| {
            key.split('/').count() > path.split('/').count() && {
                let prefix: Vec<_> = key.split('/').take(path.split('/').count()).collect();
                covers(&prefix.join("/"), path)
            }
        })
    };
    let undocumented: Vec<_> =
        found.iter().filter(|path| !documented.keys().any(|key| covers(key, path)) && !parents(path)).collect();
    assert!(undocumented.is_empty(), "{heading}: not documented: {undocumented:#?}");
    let absent: Vec<_> = documented
        .iter()
        .filter(|(key, always)| **always && !found.iter().any(|path| covers(key, path)))
        .map(|(key, _)| key)
        .collect();
    assert!(absent.is_empty(), "{heading}: documented, and absent: {absent:#?} in {values:#?}");
}

#[tokio::test]
async fn every_key_of_the_operators_pages_is_documented() {
    let world = world().await;
    // A bad file, so that units have something to say.
    world.edge.reload("routes: 7\n");
    world.edge.log_line("the refusal", |line| line.message().starts_with("configuration refused")).await;
    let paths = [
        "/readyz",
        "/routes",
        "/upstreams",
        "/issuers",
        "/identity/jwks.json",
        "/revocations",
        "/plugins",
        "/kernel",
        "/log",
    ];
    for path in paths {
        let page = client().get(world.edge.admin_url(path)).send().await.json();
        hold_against_the_document(&format!("#### `{path}`"), &[page]);
    }
    let mut judged = Vec::new();
    let token = world.corp.token().sign();
    for (request, headers) in [
        ("GET http://edge.example/orders/7?q=1", serde_json::json!({ "x-one": "1" })),
        ("GET http://edge.example/guarded", serde_json::json!({})),
        ("GET http://edge.example/", serde_json::json!({})),
    ] {
        let question = serde_json::json!({ "token": token, "request": request, "headers": headers }).to_string();
        judged.push(client().post(world.edge.admin_url("/tokens/inspect"), question).send().await.json());
    }
    hold_against_the_document("#### `/tokens/inspect`", &judged);
    let refused = client().get(world.edge.admin_url("/nowhere")).send().await.json();
    hold_against_the_document("#### Refusals of the operator's door", &[refused]);
    // `/config` is the configuration, whose keys the schema describes.
    let schema: Value = serde_json::from_str(&run_to_end(["schema"]).await.stdout).unwrap();
    let config = client().get(world.edge.admin_url("/config")).send().await.json();
    for key in config.as_object().unwrap().keys() {
        assert!(schema["properties"].get(key).is_some(), "/config shows {key}, which the schema does not know");
    }
    world.edge.stop().await;
}

#[tokio::test]
async fn every_key_of_access_records_and_problems_is_documented() {
    let world = world().await;
    let token = world.corp.token().tenant("acme").sign();
    let request = client().get(world.edge.url("/orders/7?q=1&r=2")).bearer(&token).header("x-one", "1");
    assert_eq!(request.send().await.status, 200);
    let missing = client().get(world.edge.url("/orders/7?q=1")).header("x-one", "1").send().await.json();
    let blocked =
        client().get(world.edge.url("/orders/7?q=1")).bearer(&token).header("x-one", "1").header("x-blocked", "yes");
    let refused = blocked.send().await.json();
    hold_against_the_document("### Problem documents", &[missing, refused]);
    let path = world.edge.folder().join("access.log");
    let lines = eventually("the records", async || {
        let lines: Vec<Value> =
            std::fs::read_to_string(&path).ok()?.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        (lines.len() >= 5).then_some(lines)
    })
    .await;
    hold_against_the_document("### Access records", &lines);
    world.edge.stop().await;
}

#[tokio::test]
async fn the_log_lines_that_others_wait_for_are_said_with_their_fields() {
    let world = world_of(gateway().argument("--watch-plugins")).await;
    let edge = &world.edge;
    let component = edge.folder().join("region.wasm");
    std::fs::write(&component, "no component").unwrap();
    edge.log_line("a plugin refused", |line| line.message().starts_with("changed plugins refused")).await;
    // A custom section, so that it is another component.
    std::fs::write(&component, [REGION, &[0, 2, 1, b'n']].concat()).unwrap();
    edge.log_line("a plugin taken", |line| line.message() == "plugins loaded anew").await;
    edge.reload(CONFIG);
    edge.log_line("a reload", |line| line.message() == "configuration applied").await;
    edge.reload(&CONFIG.replacen("127.0.0.1:0", "127.0.0.2:0", 1));
    edge.log_line("a part of a reload", |line| line.message().starts_with("configuration applied, but")).await;
    edge.reload("routes: 7\n");
    edge.log_line("a refusal", |line| line.message().starts_with("configuration refused")).await;
    edge.signal(rustix::process::Signal::TERM);
    edge.log_line("the end", |line| line.message() == "stopped").await;
    let lines = edge.logs();
    for row in table("### Log lines") {
        let [message, level, fields, _] = &row[..] else { panic!("{row:?}") };
        let line = lines.iter().find(|line| line.message() == message);
        let line = line.unwrap_or_else(|| panic!("{message:?} is documented, and was not logged: {lines:#?}"));
        assert_eq!(line.level(), level, "{message}");
        for field in fields.split(", ").filter(|field| !field.is_empty()) {
            assert!(line.value_of(field).is_some(), "{message}: no field {field}: {}", line.text);
        }
    }
    world.edge.ended().await;
}
