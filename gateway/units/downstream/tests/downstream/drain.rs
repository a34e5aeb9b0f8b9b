//! Stopping: nothing new, what is in flight finishes, and not a moment longer than that.

use std::time::Duration;

use serde_json::json;
use sluice_testkit::eventually;
use sluice_vocabulary::unit::State;
use tokio::net::TcpStream;

use crate::world::{edge, status};

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_closes_idle_connections_at_once_and_ends_as_soon_as_all_is_done() {
    let edge = edge(json!({})).await;
    let mut idle = edge.connect().await;
    idle.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    idle.response().await;
    let mut busy = edge.connect().await;
    busy.send("GET /wait HTTP/1.1\r\nHost: a\r\n\r\n").await;
    edge.app.waiting.notified().await;

    edge.begin_stop();
    assert!(idle.closes().await);
    let address = edge.address();
    eventually("new connections to be refused", || async { TcpStream::connect(address).await.is_err().then_some(()) })
        .await;
    // The edge counts a connection out after it has closed it.
    eventually("the busy one alone to be open", || async { (edge.handle.open_connections() == 1).then_some(()) }).await;
    edge.app.go.notify_one();
    assert_eq!(status(&busy.response().await.0), 200);
    assert!(busy.closes().await);
    let health = edge.handle.health().clone();
    assert!(edge.stop().await < Duration::from_secs(5), "the drain timeout of 30 s must not be waited out");
    assert_eq!(health.get(), State::Stopped);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_finish_in_time_is_cut() {
    let edge = edge(json!({"timeouts": {"drain": "200ms"}})).await;
    let mut client = edge.connect().await;
    client.send("GET /wait HTTP/1.1\r\nHost: a\r\n\r\n").await;
    edge.app.waiting.notified().await;
    assert!(edge.stop().await < Duration::from_secs(5));
    assert!(client.closes().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_idle_connections_cost_no_time_to_close() {
    let edge = edge(json!({})).await;
    let mut clients = Vec::new();
    for _ in 0..200 {
        clients.push(edge.connect().await);
    }
    eventually("all to be open", || async { (edge.handle.open_connections() == 200).then_some(()) }).await;
    assert!(edge.stop().await < Duration::from_secs(5));
    for client in &mut clients {
        assert!(client.closes().await);
    }
}
