//! What an operator has to go by: pages, figures, logs, and a stop that loses nothing.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;
use sluice_testkit::{Gateway, Origin, Reply, client, eventually, gateway, issuer, origin, raw, within};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

const CONFIG: &str = "
upstreams:
  origin: { endpoints: ['@origin@'] }
routes:
  - { name: all, match: { path: '/*' }, upstream: origin }
";

async fn before(origin: &Origin, more: &str) -> Gateway {
    gateway().config(&format!("{more}{CONFIG}")).set("origin", origin.address()).run().await
}

async fn page(edge: &Gateway, path: &str) -> Value {
    let answer = client().get(edge.admin_url(path)).send().await;
    assert_eq!(answer.status, 200, "{path}: {}", answer.text());
    answer.json()
}

#[tokio::test]
async fn every_page_shows_what_it_is_named_after() {
    let (origin, corp) = (origin().run().await, issuer().run().await);
    let edge = gateway()
        .config(&format!(
            "
issuers:
  corp: {{ issuer: '@corp@', audiences: [edge], jwks: {{ url: '@jwks@' }} }}
plugins:
  region: {{ component: region.wasm, config: {{ region: eu-1, api_key: hunter2, deep: {{ password: hunter2 }} }} }}
{CONFIG}
  - {{ name: orders, match: {{ path: '/orders/*' }}, auth: {{ issuer: corp }}, plugins: [region], upstream: origin }}
"
        ))
        .file("region.wasm", include_bytes!("../../../plugins/prebuilt/add_region_as.wasm"))
        .set("origin", origin.address())
        .set("corp", corp.name())
        .set("jwks", corp.jwks_url())
        .run()
        .await;
    let token = corp.token().sign();
    assert_eq!(client().get(edge.url("/orders/7")).bearer(&token).send().await.status, 200);

    assert_eq!(client().get(edge.admin_url("/healthz")).send().await.text(), "ok\n");
    let ready = page(&edge, "/readyz").await;
    assert_eq!(ready["ready"], true);
    let units: Vec<_> = ready["units"].as_array().unwrap().iter().map(|unit| unit["unit"].as_str().unwrap()).collect();
    for unit in ["downstream", "auth", "plugins", "upstream", "kernel", "config", "reload", "admin"] {
        assert!(units.contains(&unit), "{unit} is not in {units:?}");
    }
    let routes = page(&edge, "/routes").await;
    assert_eq!((&routes["routes"][1]["name"], &routes["routes"][1]["path"]), (&"orders".into(), &"/orders/*".into()));
    let upstreams = page(&edge, "/upstreams").await;
    let endpoint = &upstreams["upstreams"]["origin"]["endpoints"][0];
    assert_eq!(endpoint["address"], origin.address().to_string());
    assert_eq!((&endpoint["usable"], &endpoint["connections_open"]), (&true.into(), &1.into()));
    let issuers = page(&edge, "/issuers").await;
    let keys: Vec<_> = issuers["issuers"]["corp"]["keys"].as_array().unwrap().clone();
    assert_eq!(keys.len(), corp.keys().len(), "{issuers:#}");
    let plugins = page(&edge, "/plugins").await;
    assert_eq!(plugins["plugins"]["region"]["phases"]["request-headers"]["invocations"], 1);
    let kernel = page(&edge, "/kernel").await;
    assert!(kernel["health"]["state"].is_string() && kernel["doctor"]["probes"].is_array(), "{kernel:#}");
    let config = page(&edge, "/config").await;
    assert_eq!(config["routes"][1]["name"], "orders");
    assert_eq!(config["plugins"]["region"]["config"]["region"], "eu-1");
    assert!(!config.to_string().contains("hunter2"), "{config:#}");

    let index = client().get(edge.admin_url("/")).send().await.text().to_owned();
    for path in
        ["/healthz", "/readyz", "/metrics", "/routes", "/upstreams", "/issuers", "/plugins", "/kernel", "/config"]
    {
        assert!(index.contains(path), "{path} is not in the index: {index}");
    }
    assert_eq!(client().get(edge.admin_url("/nowhere")).send().await.status, 404);
    assert_eq!(client().post(edge.admin_url("/routes"), "").send().await.status, 405);
    edge.stop().await;
}

#[tokio::test]
async fn the_metrics_page_is_openmetrics_to_its_last_line_for_who_asks_and_plain_text_for_all_others() {
    let origin = origin().run().await;
    let edge = before(&origin, "").await;
    client().get(edge.url("/")).send().await;
    let asking = client().get(edge.admin_url("/metrics"));
    let answer = asking.header("accept", "application/openmetrics-text; version=1.0.0").send().await;
    assert!(answer.header("content-type").unwrap().starts_with("application/openmetrics-text; version=1.0.0"));
    let text = answer.text();
    assert!(text.ends_with("\n# EOF\n"), "{:?}", &text[text.len().saturating_sub(60)..]);
    hold_against_openmetrics(text);

    let plain = client().get(edge.admin_url("/metrics")).send().await;
    assert!(plain.header("content-type").unwrap().starts_with("text/plain; version=0.0.4"));
    assert!(!plain.text().contains("# EOF") && !plain.text().contains("# UNIT"));
    edge.stop().await;
}

/// The rules of the OpenMetrics text format that a scraper trips over: each family once and in one piece, its samples
/// named after it with a suffix of its type, its unit at the end of its name, no sample twice, only numbers as values.
fn hold_against_openmetrics(text: &str) {
    let (mut families, mut samples) = (std::collections::HashSet::new(), std::collections::HashSet::new());
    let (mut family, mut kind) = (String::new(), String::new());
    for line in text.lines() {
        assert!(!line.is_empty(), "an empty line");
        if let Some(comment) = line.strip_prefix("# ") {
            if comment == "EOF" {
                continue;
            }
            let (keyword, rest) = comment.split_once(' ').unwrap_or_else(|| panic!("{line:?}"));
            let (name, value) = rest.split_once(' ').unwrap_or_else(|| panic!("{line:?}"));
            if name != family {
                assert!(families.insert(name.to_owned()), "family {name} is in two pieces");
                (family, kind) = (name.to_owned(), String::new());
            }
            match keyword {
                "TYPE" => kind = value.to_owned(),
                "UNIT" => assert!(name.ends_with(&format!("_{value}")), "{line:?}"),
                "HELP" => assert!(!value.is_empty(), "{line:?}"),
                _ => panic!("{line:?}"),
            }
            continue;
        }
        let (series, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("{line:?}"));
        let name = series.split('{').next().unwrap();
        let suffix = name.strip_prefix(family.as_str()).unwrap_or_else(|| panic!("{line:?} stands in {family}"));
        let fits: &[&str] = match kind.as_str() {
            "counter" => &["_total", "_created"],
            "gauge" => &[""],
            "histogram" => &["_bucket", "_count", "_sum", "_created"],
            "info" => &["_info"],
            other => panic!("{family} is a {other:?}"),
        };
        assert!(fits.contains(&suffix), "{line:?} is a sample of the {kind} {family}");
        assert!(value.parse::<f64>().is_ok_and(|value| !value.is_nan()), "{line:?}");
        assert!(samples.insert(series.to_owned()), "{series} is told twice");
    }
    assert!(families.len() > 50, "{} families", families.len());
}

#[tokio::test]
async fn the_operators_door_may_be_a_unix_socket_for_its_own_user_alone() {
    let origin = origin().run().await;
    let edge = before(&origin, "admin: { socket: '@dir@/admin.sock' }\n").await;
    let path = edge.folder().join("admin.sock");
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let mut stream = UnixStream::connect(&path).await.unwrap();
    stream.write_all(b"GET /readyz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    within("the page", stream.read_to_string(&mut answer)).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("\"ready\": true"), "{answer}");
    edge.stop().await;
    assert!(!path.exists(), "the socket is left behind");
}

#[tokio::test]
async fn a_web_page_cannot_reach_the_operators_door_through_a_browser() {
    let origin = origin().run().await;
    let edge = before(&origin, "").await;
    let rebound = client().get(edge.admin_url("/config")).header("host", "attacker.example").send().await;
    assert_eq!(rebound.status, 403, "a name that somebody else may point here");
    let foreign =
        client().post(edge.admin_url("/reload"), "").header("origin", "https://attacker.example").send().await;
    assert_eq!(foreign.status, 403, "a request that a page of another origin made");
    edge.stop().await;
}

#[tokio::test]
async fn the_log_level_changes_while_the_gateway_runs_and_nonsense_changes_nothing() {
    let origin = origin().run().await;
    let edge = before(&origin, "").await;
    let put = |level: &'static str| client().request("PUT", edge.admin_url("/log")).body(level).send();
    assert_eq!(put("debug").await.json()["level"], "debug");
    assert_eq!(put("loud").await.status, 400);
    assert_eq!(page(&edge, "/log").await["level"], "debug");
    edge.log_line("the change to be logged", |line| line.message() == "log level changed").await;
    assert_eq!(put("error").await.json()["level"], "error");
    let count = edge.logs().len();
    edge.reload(CONFIG);
    edge.metrics_when("a reload, of which info would tell", |metrics| {
        metrics.value("sluice_config_reloads_total", &[("outcome", "applied")]) == 1.0
    })
    .await;
    assert!(edge.logs()[count..].iter().all(|line| line.level() == "ERROR"), "{:?}", edge.logs());
    edge.stop().await;
}

async fn lines_of(path: &Path, count: usize) -> Vec<String> {
    eventually(format!("{count} lines in {}", path.display()), async || {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        let lines: Vec<_> = text.lines().map(str::to_owned).collect();
        (lines.len() >= count && text.ends_with('\n')).then_some(lines)
    })
    .await
}

#[tokio::test]
async fn the_access_log_tells_of_each_request_once_and_of_no_secret() {
    let origin = origin().run().await;
    let edge = before(&origin, "telemetry: { access_log: { format: json, output: '@dir@/access.log' } }\n").await;
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    let request = client().post(edge.url("/orders/7?token=hunter2"), "12345").bearer("hunter2");
    let answer = request.header("traceparent", format!("00-{trace}-00f067aa0ba902b7-01")).send().await;
    assert_eq!(answer.status, 200);
    let lines = lines_of(&edge.folder().join("access.log"), 1).await;
    assert_eq!(lines.len(), 1, "{lines:?}");
    let line: Value = serde_json::from_str(&lines[0]).unwrap();
    let expected = [
        ("method", "POST"),
        ("path", "/orders/7"),
        ("protocol", "HTTP/1.1"),
        ("client.address", "127.0.0.1"),
        ("route", "all"),
        ("upstream.name", "origin"),
        ("trace_id", trace),
        ("request_id", answer.header("x-request-id").unwrap()),
    ];
    for (key, value) in expected {
        assert_eq!(line[key], value, "{key}: {line:#}");
    }
    assert_eq!((&line["status"], &line["bytes_in"]), (&200.into(), &5.into()), "{line:#}");
    assert_eq!(line["bytes_out"], answer.body.len(), "{line:#}");
    assert!(line["duration_us"].as_u64().unwrap() > 0, "{line:#}");
    // The upstream hears of the same trace.
    assert!(origin.last().header("traceparent").unwrap().contains(trace));
    assert!(!lines[0].contains("hunter2"), "{}", lines[0]);
    edge.stop().await;
}

#[tokio::test]
async fn a_relative_access_log_lies_beside_the_configuration_and_a_rotated_one_is_opened_anew() {
    let origin = origin().run().await;
    let edge = before(&origin, "telemetry: { access_log: { format: human, output: access.log } }\n").await;
    let path = edge.folder().join("access.log");
    client().get(edge.url("/first")).send().await;
    let lines = lines_of(&path, 1).await;
    assert!(
        lines[0].contains(" 200 GET ") && lines[0].contains("/first") && lines[0].contains("route=all"),
        "{lines:?}"
    );
    std::fs::rename(&path, edge.folder().join("access.log.1")).unwrap();
    // Requests go on while the file is away; those written before it is missed are in the file that was moved.
    eventually("a file of the old name", async || {
        client().get(edge.url("/second")).send().await;
        path.exists().then_some(())
    })
    .await;
    client().get(edge.url("/third")).send().await;
    eventually("a line in the new file", async || {
        std::fs::read_to_string(&path).unwrap().contains("/third").then_some(())
    })
    .await;
    edge.stop().await;
}

#[tokio::test]
async fn a_full_disk_costs_lines_which_are_counted_and_no_request() {
    let origin = origin().run().await;
    // A device on which every write fails as on a full disk.
    let edge = before(&origin, "telemetry: { access_log: { format: json, output: /dev/full } }\n").await;
    let client = client();
    let connection = client.connect(edge.url("/")).await.unwrap();
    for _ in 0..100 {
        assert_eq!(connection.send(client.get(edge.url("/"))).await.status, 200);
    }
    let lost = |metrics: &sluice_testkit::Metrics| {
        metrics.value("sluice_telemetry_lines_lost_total", &[("output", "access"), ("cause", "write")])
    };
    let metrics = edge.metrics_when("every line to be counted as lost", |metrics| lost(metrics) >= 100.0).await;
    assert_eq!(metrics.value("sluice_telemetry_lines_total", &[("output", "access")]), 0.0);
    assert_eq!(origin.count(), 100);
    edge.stop().await;
}

#[tokio::test]
async fn a_log_on_a_full_disk_does_not_stop_the_gateway() {
    let origin = origin().run().await;
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("admin.sock");
    let config = format!(
        "listeners: [ {{ address: '127.0.0.1:0' }} ]
admin: {{ socket: '{}' }}
telemetry: {{ logs: {{ output: /dev/full }} }}
{}",
        socket.display(),
        CONFIG.replace("@origin@", &origin.address().to_string())
    );
    let file = folder.path().join("edge.yaml");
    std::fs::write(&file, config).unwrap();
    let mut child = tokio::process::Command::new(sluice_testkit::binary())
        .args(["run".as_ref(), "-c".as_ref(), file.as_os_str()])
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let metrics = eventually("the gateway's lines to be counted as lost", async || {
        let mut stream = UnixStream::connect(&socket).await.ok()?;
        stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").await.ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.ok()?;
        let lost = answer.lines().find(|line| {
            line.starts_with("sluice_telemetry_lines_lost_total{")
                && line.contains("\"log\"")
                && line.contains("\"write\"")
        })?;
        (!lost.ends_with(" 0")).then_some(answer)
    })
    .await;
    assert!(metrics.contains("sluice_build_info"), "{metrics}");
    let pid = rustix::process::Pid::from_raw(child.id().unwrap().cast_signed()).unwrap();
    rustix::process::kill_process(pid, Signal::TERM).unwrap();
    let status = within("the gateway to stop", child.wait()).await.unwrap();
    assert!(status.success(), "{status}");
}

#[tokio::test]
async fn on_sigterm_bodies_under_way_arrive_whole_and_new_connections_are_refused() {
    let pieces = ["one ", "two ", "three ", "four ", "five"];
    let origin = origin().on("/drip", Reply::drip(pieces, Duration::from_millis(120))).run().await;
    let edge = before(&origin, "").await;
    let connection = client().connect(edge.url("/")).await.unwrap();
    let answer = connection.stream(client().get(edge.url("/drip"))).await.unwrap();
    let mut idle = raw(edge.address()).await;
    idle.send("GET /drip HTTP/1.1\r\nhost: x\r\n\r\n").await;
    origin.wait_for_requests(2).await;
    edge.signal(Signal::TERM);
    edge.log_line("the drain to begin", |line| line.message().starts_with("stopping")).await;
    let address = edge.address();
    eventually("new connections to be refused", async || tokio::net::TcpStream::connect(address).await.err()).await;
    let body = http_body_util::BodyExt::collect(answer.into_body());
    let body = within("the rest of the body", body).await.unwrap().to_bytes();
    assert_eq!(body, pieces.concat());
    assert_eq!(idle.read_response().await.text(), pieces.concat());
    // A kept-alive connection is told its end, not left to find out.
    idle.expect_end().await;
    edge.ended().await;
}

#[tokio::test]
async fn a_request_that_outlasts_the_drain_does_not_hold_up_the_stop() {
    let origin = origin().on("/never", Reply::silence()).run().await;
    let edge = before(&origin, "downstream: { timeouts: { drain: 300ms } }\n").await;
    let mut connection = raw(edge.address()).await;
    connection.send("GET /never HTTP/1.1\r\nhost: x\r\n\r\n").await;
    origin.wait_for_requests(1).await;
    edge.signal(Signal::TERM);
    edge.ended().await;
}

#[tokio::test]
async fn every_refusal_carries_the_id_under_which_it_is_found_again() {
    let origin = origin().run().await;
    let config = "
downstream: { limits: { requests_per_address: { requests: 1, per: 1h } } }
telemetry: { access_log: { format: json, output: access.log } }
";
    let edge = before(&origin, config).await;
    let mut answers = Vec::new();
    for _ in 0..2 {
        answers.push(client().get(edge.url("/")).send().await);
    }
    let refused = &answers[1];
    assert_eq!(
        (refused.status.as_u16(), &refused.json()["type"]),
        (429, &"urn:sluice:problem:address-rate-limited".into())
    );
    let id = refused.header("x-request-id").unwrap();
    assert!(id.len() >= 16, "{id:?}");
    assert_eq!(refused.json()["request_id"], id);
    assert_ne!(answers[0].header("x-request-id").unwrap(), id);
    let lines = lines_of(&edge.folder().join("access.log"), 2).await;
    let record = lines.iter().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let record = record.into_iter().find(|record| record["request_id"] == id).expect("a record of the refusal");
    assert_eq!((&record["status"], &record["refusal"]), (&429.into(), &"address-rate-limited".into()));
    edge.stop().await;
}
