//! What a client cannot do to the fields that the gateway sends on.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use sluice_testkit::{Gateway, Origin, gateway, origin, raw};

const CONFIG: &str = "
plugins:
  add-region: { component: add_region.wasm, config: { region: eu-1 } }
upstreams:
  origin: { endpoints: ['@origin@'] }
routes:
  - { name: all, plugins: [add-region], upstream: origin }
";

async fn with_plugin(origin: &Origin) -> Gateway {
    let component = concat!(env!("CARGO_MANIFEST_DIR"), "/../../plugins/prebuilt/add_region_rust.wasm");
    let edge = gateway().binary(env!("CARGO_BIN_EXE_sluice")).config(CONFIG).set("origin", origin.address());
    edge.file("add_region.wasm", std::fs::read(component).unwrap()).run().await
}

async fn send(edge: &Gateway, fields: &str) {
    let request = format!("GET / HTTP/1.1\r\nHost: a.test\r\n{fields}\r\n");
    let mut connection = raw(edge.address()).await;
    connection.send(request.as_bytes()).await;
    assert_eq!(connection.read_response().await.status, 200);
}

#[tokio::test]
async fn a_client_cannot_have_a_plugins_field_removed_by_naming_it_in_connection() {
    let origin = origin().run().await;
    let edge = with_plugin(&origin).await;
    send(&edge, "Connection: x-region, x-mine\r\nX-Mine: 1\r\n").await;
    assert_eq!(origin.last().header("x-region"), Some("eu-1"));
    assert_eq!(origin.last().header("x-mine"), None);
}

#[tokio::test]
async fn a_client_that_names_the_host_in_connection_is_told_that_it_may_not() {
    let origin = origin().run().await;
    let edge = with_plugin(&origin).await;
    let mut connection = raw(edge.address()).await;
    connection.send(b"GET / HTTP/1.1\r\nHost: a.test\r\nConnection: host\r\n\r\n").await;
    assert_eq!(connection.read_response().await.status, 400);
    assert_eq!(origin.count(), 0);
}

#[tokio::test]
async fn what_a_client_says_of_a_trace_never_travels_beside_the_gateways_word() {
    let origin = origin().run().await;
    let edge = with_plugin(&origin).await;
    send(&edge, "B3: not-a-trace\r\nX-B3-Sampled: 1\r\nTracestate: vendor=1\r\n").await;
    let seen = origin.last();
    assert!(seen.header("traceparent").is_some());
    for name in ["b3", "x-b3-sampled", "x-b3-flags", "tracestate"] {
        assert_eq!(seen.header(name), None, "{name}");
    }
}
