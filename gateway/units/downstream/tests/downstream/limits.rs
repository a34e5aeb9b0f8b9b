//! How many connections and requests there may be, and whose.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use serde_json::json;
use sluice_testkit::eventually;
use sluice_vocabulary::Reason;

use crate::world::{edge, edge_with, status};

const REQUEST: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_beyond_the_limit_is_closed_and_one_that_ends_makes_room() {
    let edge = edge(json!({"limits": {"connections": 2}})).await;
    let mut first = edge.connect().await;
    let mut second = edge.connect().await;
    for client in [&mut first, &mut second] {
        client.send(REQUEST).await;
        client.response().await;
    }
    assert!(edge.connect().await.closes().await);
    assert_eq!(edge.metrics().value("connections_refused_total", &[("reason", "connections")]), 1.0);
    drop(first);
    eventually("room", || async { (edge.handle.open_connections() == 1).then_some(()) }).await;
    let mut third = edge.connect().await;
    third.send(REQUEST).await;
    assert_eq!(status(&third.response().await.0), 200);
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_has_its_own_limit() {
    let edge = edge_with(json!({
        "listeners": [{"address": "127.0.0.1:0", "proxy_protocol": {"from": ["127.0.0.0/8"]}}],
        "downstream": {"limits": {"connections_per_address": 1}},
    }))
    .await;
    let from = |client: &str| format!("PROXY TCP4 {client} 10.0.0.1 1000 80\r\n{REQUEST}");
    let mut first = edge.connect().await;
    first.send(from("192.0.2.1")).await;
    first.response().await;
    let mut same = edge.connect().await;
    same.send(from("192.0.2.1")).await;
    assert!(same.closes().await);
    let mut other = edge.connect().await;
    other.send(from("192.0.2.2")).await;
    assert_eq!(status(&other.response().await.0), 200);
    assert_eq!(edge.metrics().value("connections_refused_total", &[("reason", "connections-per-address")]), 1.0);
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_sends_too_much_is_told_when_to_come_back() {
    let edge = edge(json!({"limits": {"requests_per_address": {"requests": 2, "per": "10s"}}})).await;
    let now = Instant::now();
    let (one, other): (IpAddr, IpAddr) = ("192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap());
    assert!(edge.handle.admit_address(one, now).is_ok() && edge.handle.admit_address(one, now).is_ok());
    let refusal = edge.handle.admit_address(one, now).unwrap_err();
    assert_eq!(refusal.reason, Reason::AddressRateLimited);
    assert_eq!(refusal.headers[0].1, "5");
    assert!(edge.handle.admit_address(other, now).is_ok());
    assert!(edge.handle.admit_address(one, now + Duration::from_secs(5)).is_ok());
    assert_eq!(edge.metrics().value("requests_address_limited_total", &[]), 1.0);
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_are_spread_over_all_workers() {
    let edge = edge(json!({"workers": 3})).await;
    let mut clients = Vec::new();
    for _ in 0..9 {
        let mut client = edge.connect().await;
        client.send(REQUEST).await;
        assert_eq!(status(&client.response().await.0), 200);
        clients.push(client);
    }
    assert_eq!(edge.handle.open_connections(), 9);
    let threads: std::collections::BTreeSet<String> =
        edge.app.so_far().await.into_iter().map(|saw| saw.thread).collect();
    assert_eq!(threads.len(), 3, "{threads:?}");
    edge.stop().await;
}
