//! What the kernel saw of the gateway's connections is told under the upstream's name; where it may not be asked, everything
//! else works and the reason is said.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::net::SocketAddr;

use serde_json::Value;
use sluice_testkit::{Gateway, Reply, client, gateway, issuer, origin, run_to_end, run_to_end_unprivileged, within};
use tokio::process::Command;

/// Whether probes can run here; where not, says so where a person will see it.
async fn probes_can_run() -> bool {
    let report = doctor(&run_to_end(["kernel", "doctor", "--json"]).await.stdout);
    let off: Vec<_> =
        report["probes"].as_array().unwrap().iter().filter(|probe| probe["state"] != "on").cloned().collect();
    if !off.is_empty() {
        eprintln!("SKIPPED: this host does not allow all probes: {off:#?}");
    }
    off.is_empty()
}

fn doctor(stdout: &str) -> Value {
    serde_json::from_str(stdout).unwrap_or_else(|error| panic!("{error}: {stdout}"))
}

#[tokio::test]
async fn the_doctor_says_what_runs_what_is_missing_and_what_stands_in() {
    for outcome in [
        run_to_end(["kernel", "doctor", "--json"]).await,
        run_to_end_unprivileged(["kernel", "doctor", "--json"]).await,
    ] {
        assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
        let report = doctor(&outcome.stdout);
        assert!(!report["kernel"].as_str().unwrap().is_empty());
        let probes = report["probes"].as_array().unwrap();
        assert!(probes.len() >= 4, "{report:#}");
        for probe in probes {
            for key in ["probe", "hook", "tells", "needs", "stand_in"] {
                assert!(probe[key].as_str().is_some_and(|text| !text.is_empty()), "{key}: {probe:#}");
            }
        }
    }
    let without = doctor(&run_to_end_unprivileged(["kernel", "doctor", "--json"]).await.stdout);
    let missing: Vec<_> = without["checks"].as_array().unwrap().iter().filter(|check| check["ok"] == false).collect();
    assert!(missing.iter().any(|check| check["name"].as_str().unwrap().starts_with("CAP_")), "{without:#}");
    assert!(without["probes"].as_array().unwrap().iter().all(|probe| probe["state"] != "on"), "{without:#}");
    let text = run_to_end(["kernel", "doctor"]).await;
    assert!(text.code == Some(0) && text.stdout.contains("CAP_BPF"), "{}", text.stdout);
}

#[tokio::test]
async fn resets_failed_connects_and_closes_are_counted_under_the_upstreams_name() {
    if !probes_can_run().await {
        return;
    }
    let resets = origin().on("/*", Reply::reset()).run().await;
    let closes = origin().on("/*", Reply::text("bye").close()).run().await;
    let keeps = origin().on("/*", Reply::text("hello")).run().await;
    let closed = {
        let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        socket.local_addr().unwrap()
    };
    let edge = gateway()
        .config(
            "
kernel: { enabled: required, refresh: 100ms }
upstreams:
  resets: { endpoints: ['@resets@'], retries: { attempts: 0 } }
  closes: { endpoints: ['@closes@'] }
  keeps: { endpoints: ['@keeps@'] }
  closed: { endpoints: ['@closed@'], retries: { attempts: 0 } }
routes:
  - { name: resets, match: { path: /resets }, upstream: resets }
  - { name: closes, match: { path: /closes }, upstream: closes }
  - { name: keeps, match: { path: /keeps }, upstream: keeps }
  - { name: closed, match: { path: /closed }, upstream: closed }
",
        )
        .set("resets", resets.address())
        .set("closes", closes.address())
        .set("keeps", keeps.address())
        .set("closed", closed)
        .run()
        .await;
    let client = client();
    let connection = client.connect(edge.url("/")).await.unwrap();
    for _ in 0..5 {
        assert_eq!(connection.send(client.get(edge.url("/keeps"))).await.status, 200);
    }
    for (path, status, times) in [("/resets", 502, 3), ("/closes", 200, 2), ("/closed", 502, 1)] {
        for _ in 0..times {
            assert_eq!(client.request("POST", edge.url(path)).send().await.status, status, "{path}");
        }
    }
    let metrics = edge
        .metrics_when("the kernel's figures", |metrics| {
            let count =
                |name: &str, upstream: &str, label: (&str, &str)| metrics.value(name, &[("upstream", upstream), label]);
            count("sluice_kernel_resets_total", "resets", ("side", "peer")) == 3.0
                && count("sluice_kernel_closes_total", "resets", ("how", "peer_reset")) == 3.0
                && count("sluice_kernel_closes_total", "closes", ("how", "peer_close"))
                    + count("sluice_kernel_closes_total", "closes", ("how", "local_close"))
                    == 2.0
                && count("sluice_kernel_connect_failures_total", "closed", ("how", "connect_refused")) == 1.0
        })
        .await;
    let of = |name: &str, upstream: &str| metrics.value(name, &[("upstream", upstream)]);
    // The origin counts what it accepted: the kernel's figures are held against that.
    let accepted = keeps.connections() as f64;
    assert_eq!(of("sluice_kernel_connects_total", "keeps"), accepted);
    assert_eq!(of("sluice_kernel_connects_total", "resets"), 3.0);
    assert_eq!(of("sluice_kernel_connect_duration_seconds_count", "keeps"), accepted);
    assert_eq!(of("sluice_kernel_resets_total", "keeps"), 0.0);
    let established = metrics
        .value("sluice_kernel_resets_total", &[("upstream", "resets"), ("side", "peer"), ("state", "established")]);
    assert_eq!(established, 3.0, "in which state of ours the resets came");

    let page = client.get(edge.admin_url("/kernel")).send().await.json();
    let endpoints = page["endpoints"].as_array().unwrap();
    let reset = endpoints.iter().find(|endpoint| endpoint["upstream"] == "resets").unwrap();
    assert_eq!(reset["counted"]["address"], resets.address().to_string());
    assert_eq!(reset["counted"]["ends"]["peer_reset"], 3);
    edge.stop().await;
}

/// Has the gateway send a request every few milliseconds while `sluice kernel top` looks on, and gives what that showed.
async fn top_of(edge: &Gateway, port: u16) -> Value {
    let asking = async {
        loop {
            let _ = client().get(edge.url("/")).try_send().await;
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    let port = port.to_string();
    let top = Command::new(sluice_testkit::binary())
        .args(["kernel", "top", "--json", "--rounds", "1", "--interval", "1s", "--port", &port])
        .kill_on_drop(true)
        .output();
    let output = tokio::select! {
        output = within("one round of top", top) => output.unwrap(),
        () = asking => unreachable!("a loop without an end"),
    };
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[tokio::test]
async fn top_shows_live_endpoints_of_both_families_of_addresses() {
    if !probes_can_run().await {
        return;
    }
    for address in ["127.0.0.1:0", "[::1]:0"] {
        let address: SocketAddr = address.parse().unwrap();
        if std::net::TcpListener::bind(address).is_err() {
            eprintln!("SKIPPED: this host has no {address}");
            continue;
        }
        // Closing, so that each request is a connection that begins while top looks on.
        let origin = origin().on("/*", Reply::text("x").close()).at(address).run().await;
        let edge = gateway()
            .config(
                "
upstreams: { origin: { endpoints: ['@origin@'] } }
routes: [ { name: all, match: { path: '/*' }, upstream: origin } ]
",
            )
            .set("origin", origin.address())
            .run()
            .await;
        let shown = top_of(&edge, origin.address().port()).await;
        let expected = origin.address().to_string();
        let rows = shown["endpoints"].as_array().unwrap_or_else(|| panic!("{shown:#}"));
        let row = rows.iter().find(|row| row["address"] == expected.as_str());
        let row = row.unwrap_or_else(|| panic!("{expected} is not in {shown:#}"));
        assert!(row["opened"].as_u64().unwrap() > 0, "{row:#}");
        edge.stop().await;
    }
}

#[tokio::test]
async fn without_privileges_all_else_works_and_the_reason_is_said() {
    let (origin, corp) = (origin().run().await, issuer().run().await);
    let edge = gateway()
        .config(
            "
issuers: { corp: { issuer: '@corp@', audiences: [edge], jwks: { url: '@jwks@' } } }
plugins: { region: { component: region.wasm, config: { region: eu-1 } } }
upstreams: { origin: { endpoints: ['@origin@'] } }
routes: [ { name: all, match: { path: '/*' }, auth: { issuer: corp }, plugins: [region], upstream: origin } ]
",
        )
        .file("region.wasm", include_bytes!("../../../plugins/prebuilt/add_region_rust.wasm"))
        .set("origin", origin.address())
        .set("corp", corp.name())
        .set("jwks", corp.jwks_url())
        .unprivileged()
        .run()
        .await;
    let status = std::fs::read_to_string(format!("/proc/{}/status", edge.pid())).unwrap();
    let capabilities = status.lines().find_map(|line| line.strip_prefix("CapEff:")).unwrap();
    if u64::from_str_radix(capabilities.trim(), 16).unwrap() != 0 {
        eprintln!("SKIPPED: the gateway has capabilities ({}) that this test cannot take from it", capabilities.trim());
        return;
    }
    for client in [client(), client().http2()] {
        let answer = client.get(edge.url("/")).bearer(&corp.token().sign()).send().await;
        assert_eq!((answer.status.as_u16(), answer.header("x-region")), (200, Some("eu-1")));
        assert_eq!(client.get(edge.url("/")).send().await.status, 401);
    }
    let page = client().get(edge.admin_url("/readyz")).send().await;
    assert_eq!((page.status.as_u16(), &page.json()["ready"]), (200, &true.into()));
    let units = page.json();
    let kernel = units["units"].as_array().unwrap().iter().find(|unit| unit["unit"] == "kernel").unwrap().clone();
    assert_eq!(kernel["state"], "degraded", "{kernel}");
    assert!(kernel["reason"].as_str().unwrap().contains("CAP_"), "{kernel}");
    assert_eq!(edge.metrics().await.value("sluice_kernel_probe_on", &[]), 0.0);
    edge.stop().await;

    let top = run_to_end_unprivileged(["kernel", "top", "--rounds", "1"]).await;
    assert_eq!(top.code, Some(1), "{}", top.stdout);
    assert!(top.stderr.contains("sluice kernel doctor"), "{}", top.stderr);
}
