//! What is looked after in the background: names, health, idle connections.

use std::net::SocketAddr;
use std::sync::Arc;

use sluice_testkit::{Reply, eventually, origin, within};
use sluice_upstream::config::{HealthConfig, IdleTimeout, Protocol};
use sluice_vocabulary::clock::{SystemClock, SystemRandom};
use sluice_vocabulary::measure::Span;
use sluice_vocabulary::ports::EndpointNames;
use sluice_vocabulary::unit::{State, Stop, Task};

use crate::world::{name_of, reason, upstream, world};

#[tokio::test(flavor = "multi_thread")]
async fn a_name_is_resolved_and_one_that_cannot_be_leaves_its_upstream_unavailable() {
    let origin = origin().run().await;
    let world = world();
    let named = upstream([format!("localhost:{}", origin.address().port())], |_| {});
    let lost = upstream(["no-such-host.invalid:80"], |_| {});
    world.apply(&[("named", &named), ("lost", &lost)]);
    let proxy = world.proxy().await;
    eventually("the name to resolve", || async { (world.endpoint("named", 0)["usable"] == true).then_some(()) }).await;
    assert_eq!(proxy.get("/named/").await.status, 200);
    assert_eq!(world.handle.upstream_of(origin.address()), Some(name_of("named")));

    let answer = proxy.get("/lost/").await;
    assert_eq!((answer.status.as_u16(), reason(&answer)), (503, "upstream-unavailable"));
    eventually("the failure to be counted", || async {
        (world.metrics().value("resolve_failures_total", &[("upstream", "lost")]) >= 1.0).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_answers_badly_is_left_out_until_it_answers_well_again() {
    let (flipping, steady) = (origin().run().await, origin().run().await);
    flipping.script("/healthz", Reply::status(500));
    let world = world();
    let config = upstream([flipping.address(), steady.address()], |config| {
        config.health = Some(HealthConfig {
            path: "/healthz".into(),
            host: Some("health.test".into()),
            interval: Span::millis(50),
            timeout: Span::secs(2),
            healthy_after: 2,
            unhealthy_after: 2,
        });
    });
    world.apply(&[("orders", &config)]);
    let standing = |is: &'static str| {
        let world = &world;
        eventually(is, move || async move { (world.endpoint("orders", 0)["health"] == is).then_some(()) })
    };
    standing("unhealthy").await;
    let asked = flipping.requests();
    assert!(asked.len() >= 2 && asked.iter().all(|seen| seen.authority.as_deref() == Some("health.test")));
    let proxy = world.proxy().await;
    let before = steady.requests().iter().filter(|seen| seen.target == "/orders/").count();
    for _ in 0..6 {
        assert_eq!(proxy.get("/orders/").await.status, 200);
    }
    let served = steady.requests().iter().filter(|seen| seen.target == "/orders/").count() - before;
    assert_eq!(served, 6);

    flipping.script("/healthz", Reply::status(204));
    standing("healthy").await;
    for _ in 0..6 {
        proxy.get("/orders/").await;
    }
    assert_eq!(flipping.requests().iter().filter(|seen| seen.target == "/orders/").count(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn questions_are_asked_with_the_identity_and_the_version_that_requests_have() {
    let folder = tempfile::tempdir().unwrap();
    let authority = sluice_testkit::authority();
    authority.write(folder.path(), "ca");
    let origin = origin().tls(&authority.leaf(&["orders.test"])).run().await;
    let world = world().based(folder.path());
    let config = upstream([origin.address()], |config| {
        config.protocol = Protocol::Http2;
        let tls = serde_json::json!({ "server_name": "orders.test", "ca": "ca.crt" });
        config.tls = Some(serde_json::from_value(tls).unwrap());
        let health = serde_json::json!({ "path": "/healthz?deep=1", "interval": "50ms" });
        config.health = Some(serde_json::from_value(health).unwrap());
    });
    world.apply(&[("orders", &config)]);
    eventually("good health", || async { (world.endpoint("orders", 0)["health"] == "healthy").then_some(()) }).await;
    let asked = origin.last();
    assert_eq!((asked.version, &*asked.target), (http::Version::HTTP_2, "/healthz?deep=1"));
    assert_eq!(asked.authority.as_deref(), Some("orders.test"));
    assert_eq!(world.endpoint("orders", 0)["connections_open"], 0, "over connections of their own");
}

#[tokio::test(flavor = "multi_thread")]
async fn with_no_healthy_endpoint_the_upstream_is_unavailable() {
    let ill = origin().on("/healthz", Reply::status(503)).run().await;
    let world = world();
    let health = serde_json::from_value(serde_json::json!({
        "path": "/healthz", "interval": "50ms", "unhealthy_after": 1
    }));
    world.apply(&[("orders", &upstream([ill.address()], |config| config.health = Some(health.unwrap())))]);
    eventually("ill health", || async { (world.endpoint("orders", 0)["usable"] == false).then_some(()) }).await;
    assert_eq!(reason(&world.proxy().await.get("/orders/").await), "upstream-unavailable");
    assert_eq!(world.metrics().value("endpoints", &[("upstream", "orders")]), 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_upstreams_own_keep_alive_limit_is_learned_from_its_first_word() {
    let origin = origin().otherwise(Reply::text("x").header("keep-alive", "timeout=1")).run().await;
    let world = world();
    let auto = upstream([origin.address()], |_| {});
    let fixed = upstream([origin.address()], |config| config.idle_timeout = IdleTimeout::Fixed(Span::secs(9)));
    world.apply(&[("auto", &auto), ("fixed", &fixed)]);
    let proxy = world.proxy().await;
    assert_eq!(world.endpoint("auto", 0)["idle_timeout"]["from"], "default");

    // The first connection was pooled before its limit was known, and so is not used again.
    proxy.get("/auto/").await;
    proxy.get("/auto/").await;
    assert_eq!(origin.connections(), 2);
    proxy.get("/auto/").await;
    assert_eq!(origin.connections(), 2, "the second is");
    let told = &world.endpoint("auto", 0)["idle_timeout"];
    assert_eq!(
        (&told["seconds"], &told["from"], &told["hint_seconds"]),
        (&0.4.into(), &"keep-alive hint".into(), &1.0.into())
    );

    // Its limit is 1 s less a margin of 600 ms: it is gone before the upstream would close it.
    eventually("the idle connection to be closed by us", || async {
        (world.endpoint("auto", 0)["idle_timeout"]["last_idle_close_seconds"].as_f64().is_some()).then_some(())
    })
    .await;
    let after = world.endpoint("auto", 0)["idle_timeout"]["last_idle_close_seconds"].as_f64().unwrap();
    assert!((0.3..0.95).contains(&after), "{after}");
    assert_eq!(world.endpoint("fixed", 0)["idle_timeout"]["seconds"], 9.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_changes_on_disk_is_a_new_identity() {
    let folder = tempfile::tempdir().unwrap();
    let (first, second) = (sluice_testkit::authority(), sluice_testkit::authority());
    let ca = first.write(folder.path(), "ca");
    let origin = origin().tls(&second.leaf(&["orders.test"])).run().await;
    let world = world().based(folder.path());
    let config = upstream([origin.address()], |config| {
        config.tls =
            Some(serde_json::from_value(serde_json::json!({ "server_name": "orders.test", "ca": "ca.crt" })).unwrap());
    });
    world.apply(&[("orders", &config)]);
    let proxy = world.proxy().await;
    assert_eq!(reason(&proxy.get("/orders/").await), "upstream-tls");

    std::fs::write(ca, second.pem()).unwrap();
    // The same configuration, committed again as on a reload, reads the files again.
    world.apply(&[("orders", &config)]);
    assert_eq!(proxy.get("/orders/").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_address_of_a_configured_endpoint_has_its_upstreams_name() {
    let world = world();
    let address: SocketAddr = "127.0.0.1:9".parse().unwrap();
    world.apply(&[("b", &upstream([address], |_| {})), ("a", &upstream([address], |_| {}))]);
    assert_eq!(world.handle.upstream_of(address), Some(name_of("a")), "the first by name");
    world.apply(&[("b", &upstream([address], |_| {}))]);
    assert_eq!(world.handle.upstream_of(address), Some(name_of("b")));
    world.apply(&[]);
    assert_eq!(world.handle.upstream_of(address), None);
    // What is gone has no metrics.
    assert!(!world.metrics().has("endpoints", &[("upstream", "b")]));
}

#[tokio::test]
async fn background_work_ends_when_told_even_with_questions_under_way() {
    let mute = origin().otherwise(Reply::silence()).run().await;
    let metrics = sluice_upstream::Metrics::new(&mut prometheus_client::registry::Registry::default());
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let (handle, mut keeper) = sluice_upstream::new(Arc::new(SystemClock), Arc::new(SystemRandom), metrics);
    let health = serde_json::json!({ "path": "/", "interval": "1h", "timeout": "30s" });
    let asked = upstream([mute.address()], |config| config.health = Some(serde_json::from_value(health).unwrap()));
    let config = [(name_of("mute"), asked)].into_iter().collect();
    handle.commit(handle.prepare(&config, std::path::Path::new("/")).unwrap());
    let (stopper, stop) = Stop::new();
    let state = keeper.health().clone();
    let running = tokio::spawn(async move { keeper.run(stop).await });
    mute.wait_for_requests(1).await;
    stopper.stop();
    within("the work to end", running).await.unwrap();
    assert_eq!(state.get(), State::Stopped);
}
