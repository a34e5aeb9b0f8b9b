//! Load balancers say whose connections they pass on; nobody else does.

use serde_json::json;

use crate::world::{Edge, edge_with, status};

const REQUEST: &str = "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";

async fn behind(networks: &str) -> Edge {
    edge_with(json!({
        "listeners": [{"address": "127.0.0.1:0", "proxy_protocol": {"from": [networks]}}],
        "downstream": {"timeouts": {"handshake": "200ms"}},
    }))
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn both_versions_tell_the_client_even_a_byte_at_a_time() {
    let edge = behind("127.0.0.0/8").await;
    let mut binary = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c".to_vec();
    binary.extend([192, 0, 2, 2, 10, 0, 0, 1, 0x10, 0, 0, 80]);
    let headers =
        [(b"PROXY TCP4 192.0.2.1 10.0.0.1 4096 80\r\n".to_vec(), "192.0.2.1:4096"), (binary, "192.0.2.2:4096")];
    for (header, client) in headers {
        let all = [&header, REQUEST.as_bytes()].concat();
        assert_eq!(status(&edge.exchange(&all).await), 200);
        assert_eq!(edge.app.next().await.client.to_string(), client);
        let mut slow = edge.connect().await;
        for byte in all {
            slow.send([byte]).await;
        }
        assert_eq!(status(&slow.rest().await), 200);
        assert_eq!(edge.app.next().await.client.to_string(), client);
    }
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_load_balancer_without_a_header_is_closed_and_so_is_one_that_waits() {
    let edge = behind("127.0.0.0/8").await;
    assert_eq!(edge.exchange(REQUEST).await, "");
    let mut silent = edge.connect().await;
    silent.send("PROXY TCP4 192.0").await;
    assert!(silent.closes().await);
    let refused = |reason| edge.metrics().value("connections_refused_total", &[("reason", reason)]);
    assert_eq!((refused("proxy-protocol"), refused("proxy-protocol-timeout")), (1.0, 1.0));
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_header_from_anybody_else_is_no_request() {
    let edge = behind("192.0.2.0/24").await;
    assert_eq!(status(&edge.exchange(format!("PROXY TCP4 6.6.6.6 10.0.0.1 1 80\r\n{REQUEST}")).await), 400);
    assert_eq!(status(&edge.exchange(REQUEST).await), 200);
    assert!(edge.app.next().await.client.ip().is_loopback());
    edge.stop().await;
}
