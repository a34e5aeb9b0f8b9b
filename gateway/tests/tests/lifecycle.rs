//! Starting, reloading and stopping: a gateway that runs keeps serving, and one that must not run says why.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::time::Duration;

use rustix::process::Signal;
use sluice_testkit::{Reply, client, gateway, origin};

const CONFIG: &str = "
upstreams:
  origin: { endpoints: ['@origin@'] }
routes:
  - { name: all, match: { path: '/*' }, upstream: origin }
";

#[tokio::test]
async fn a_request_in_flight_is_answered_while_the_gateway_stops() {
    let origin = origin().on("/slow", Reply::text("late").after(Duration::from_millis(300))).run().await;
    let edge = gateway().config(CONFIG).set("origin", origin.address()).run().await;
    let asking = tokio::spawn(client().get(edge.url("/slow")).send());
    origin.wait_for_requests(1).await;
    edge.signal(Signal::TERM);
    let answer = asking.await.unwrap();
    assert_eq!((answer.status.as_u16(), answer.text()), (200, "late"));
    edge.ended().await;
}

#[tokio::test]
async fn an_idle_gateway_stops_at_once() {
    let origin = origin().run().await;
    let edge = gateway().config(CONFIG).set("origin", origin.address()).run().await;
    let begun = std::time::Instant::now();
    edge.stop().await;
    assert!(begun.elapsed() < Duration::from_secs(3), "stopping took {:?} with nothing in flight", begun.elapsed());
}

#[tokio::test]
async fn a_configuration_with_faults_is_refused_with_all_of_them_and_exit_code_2() {
    let outcome =
        gateway().config("routes:\n  - { name: a, upstream: nowhere }\n  - { name: a }\n").run_to_refusal().await;
    assert_eq!(outcome.code, Some(2), "{}", outcome.stderr);
    for part in ["nowhere", "routes[1]"] {
        assert!(outcome.stderr.contains(part), "{part:?} is not named in: {}", outcome.stderr);
    }
}

#[tokio::test]
async fn a_reload_applies_without_a_lost_request_and_a_bad_one_changes_nothing() {
    let (old, new) =
        (origin().on("/*", Reply::text("old")).run().await, origin().on("/*", Reply::text("new")).run().await);
    let edge = gateway().config(CONFIG).set("origin", old.address()).set("new", new.address()).run().await;
    let client = client();
    let connection = client.connect(edge.url("/")).await.unwrap();
    assert_eq!(connection.send(client.get(edge.url("/"))).await.text(), "old");

    edge.reload(&CONFIG.replace("upstream: origin", "upstream: nowhere"));
    edge.log_line("a refusal", |line| line.level() == "ERROR" && line.message().starts_with("configuration refused"))
        .await;
    assert_eq!(connection.send(client.get(edge.url("/"))).await.text(), "old");

    edge.reload(&CONFIG.replace("@origin@", "@new@"));
    edge.log_line("a reload", |line| line.message() == "configuration applied").await;
    assert_eq!(connection.send(client.get(edge.url("/"))).await.text(), "new");
    edge.stop().await;
}
