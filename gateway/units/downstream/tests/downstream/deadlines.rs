//! A client that does nothing, or next to nothing, holds nothing past its deadline.

use std::time::{Duration, Instant};

use serde_json::json;
use sluice_testkit::{eventually, within};
use tokio::io::AsyncWriteExt;

use crate::world::{Edge, edge, status};

/// Drips `bytes`, one each 20 ms, until the edge has had enough; gives what it said and how long it took.
async fn drip(edge: &Edge, first: &str, bytes: &str) -> (String, Duration) {
    let mut client = edge.connect().await;
    client.send(first).await;
    let begun = Instant::now();
    let dripping = async {
        for byte in bytes.bytes().cycle() {
            client.stream.writable().await.unwrap();
            if client.stream.write_all(&[byte]).await.is_err() {
                break;
            }
            tokio::select! {
                () = tokio::time::sleep(Duration::from_millis(20)) => {}
                readable = client.stream.readable() => { readable.unwrap(); break; }
            }
        }
    };
    within("the edge to lose patience", dripping).await;
    let said = client.rest().await;
    (said, begun.elapsed())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_that_drips_in_is_answered_408_at_its_one_deadline() {
    let edge = edge(json!({"timeouts": {"header": "300ms"}})).await;
    let (said, took) = drip(&edge, "GET / HTTP/1.1\r\nHost: a\r\nX: ", "y").await;
    assert_eq!(status(&said), 408);
    assert!(took >= Duration::from_millis(250), "{took:?}: each byte is well within the deadline, all of them are not");
    assert_eq!(edge.refused("header-timeout"), 1.0);

    let mut client = edge.connect().await;
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    client.response().await;
    client.send("GET / HT").await;
    assert_eq!(status(&client.rest().await), 408, "a later head has the same deadline");
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn part_of_the_http2_preface_is_waited_for_no_longer_than_a_head() {
    let edge = edge(json!({"timeouts": {"header": "200ms"}})).await;
    assert_eq!(status(&edge.exchange("PRI * HTTP/2.0\r\n\r\n").await), 408);
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_without_a_request_is_closed_in_silence() {
    let edge = edge(json!({"timeouts": {"header": "100ms", "idle": "300ms"}})).await;
    assert!(edge.connect().await.closes().await, "a new one at the deadline of a head");
    let mut client = edge.connect().await;
    for _ in 0..3 {
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        client.response().await;
    }
    let begun = Instant::now();
    assert!(client.closes().await);
    assert!(begun.elapsed() >= Duration::from_millis(250), "{:?}", begun.elapsed());
    eventually("no connection to be open", || async { (edge.handle.open_connections() == 0).then_some(()) }).await;
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_ends_within_its_head_is_told() {
    let edge = edge(json!({})).await;
    let mut client = edge.connect().await;
    client.send("GET / HTTP/1.1\r\nHost").await;
    client.stream.shutdown().await.unwrap();
    assert_eq!(status(&client.rest().await), 400);
    assert_eq!(edge.refused("header-truncated"), 1.0);
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_stops_is_answered_408() {
    let edge = edge(json!({"timeouts": {"body": "200ms"}})).await;
    for start in [
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhalf",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhal",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5",
    ] {
        assert_eq!(status(&edge.exchange(start).await), 408, "{start:?}");
        assert_eq!(edge.app.next().await.body, None);
    }
    assert_eq!(edge.refused("body-silence"), 3.0);
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_drips_is_answered_408_though_it_never_stops() {
    let edge = edge(json!({"timeouts": {"body": "5s", "body_grace": "200ms"}, "limits": {"body_rate": "1KiB"}})).await;
    let (said, took) = drip(&edge, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n", "x").await;
    assert_eq!(status(&said), 408);
    assert!(took >= Duration::from_millis(150), "{took:?}");
    assert_eq!(edge.refused("body-rate"), 1.0);
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_time_that_the_application_takes_is_not_the_clients() {
    let edge =
        edge(json!({"timeouts": {"body": "100ms", "header": "100ms", "idle": "100ms", "body_grace": "100ms"}})).await;
    let mut client = edge.connect().await;
    client.send("GET /wait HTTP/1.1\r\nHost: a\r\n\r\n").await;
    edge.app.waiting.notified().await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    edge.app.go.notify_one();
    assert_eq!(status(&client.response().await.0), 200);
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_takes_nothing_is_cut() {
    let edge = edge(json!({"timeouts": {"write": "200ms"}})).await;
    let mut client = edge.connect().await;
    client.send("GET /large HTTP/1.1\r\nHost: a\r\n\r\n").await;
    eventually("the stalled client to be cut", || async {
        (edge.metrics().value("write_stalls_total", &[]) == 1.0 && edge.handle.open_connections() == 0).then_some(())
    })
    .await;
    edge.stop().await;
}
