//! Requests on one HTTP/1 connection: each is handed on whole, and alone.

use crate::world::{edge, status};
use serde_json::json;

#[tokio::test(flavor = "multi_thread")]
async fn one_connection_carries_many_requests() {
    let edge = edge(json!({})).await;
    let mut client = edge.connect().await;
    for round in 0..5 {
        client.send(format!("POST /{round} HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n{round}!")).await;
        let (head, body) = client.response().await;
        assert_eq!((status(&head), body), (200, format!("{round}!")));
        assert!(head.to_ascii_lowercase().contains("connection: keep-alive"), "{head:?}");
        assert_eq!(edge.app.next().await.target, format!("/{round}"));
    }
    assert_eq!(edge.metrics().value("connections_total", &[]), 1.0);
    assert_eq!(edge.metrics().value("connections_active", &[("listener", "127.0.0.1:0")]), 1.0);
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pipelined_requests_are_served_in_order_each_with_its_own_body() {
    let edge = edge(json!({})).await;
    let mut client = edge.connect().await;
    client
        .send(
            "POST /1 HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\none\
             GET /2 HTTP/1.1\r\nHost: a\r\n\r\n\
             POST /3 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nthr\r\n2\r\nee\r\n0\r\nT: v\r\n\r\n\
             \r\nPOST /4 HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 4\r\n\r\nfourGET /never HTTP/1.1\r\n",
        )
        .await;
    for (target, body) in [("/1", "one"), ("/2", ""), ("/3", "three"), ("/4", "four")] {
        let (head, answer) = client.response().await;
        assert_eq!((status(&head), answer.as_str()), (200, body));
        let saw = edge.app.next().await;
        assert_eq!((saw.target.as_str(), saw.body.as_deref()), (target, Some(body)));
    }
    assert!(client.closes().await);
    assert_eq!(edge.app.so_far().await, []);
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_is_the_same_however_its_bytes_arrive() {
    let edge = edge(json!({})).await;
    let mut client = edge.connect().await;
    let request =
        b"POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n3\r\n...\r\n0\r\n\r\n";
    for byte in request {
        client.send([*byte]).await;
        tokio::task::yield_now().await;
    }
    assert_eq!(client.response().await.1, "hello...");
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pipelined_request_that_comes_while_the_first_is_served_waits_for_its_turn() {
    let edge = edge(json!({})).await;
    let mut client = edge.connect().await;
    client.send("GET /wait HTTP/1.1\r\nHost: a\r\n\r\n").await;
    edge.app.waiting.notified().await;
    client.send("GET /second HTTP/1.1\r\nHost: a\r\n\r\n").await;
    edge.app.go.notify_one();
    assert_eq!(status(&client.response().await.0), 200);
    assert_eq!(status(&client.response().await.0), 200);
    assert_eq!(edge.app.next().await.target, "/wait");
    assert_eq!(edge.app.next().await.target, "/second");
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_absolute_target_names_the_host_whatever_the_host_field_says() {
    let edge = edge(json!({})).await;
    edge.exchange("GET http://b.example:8080/p?q HTTP/1.1\r\nHost: a.example\r\nConnection: close\r\n\r\n").await;
    let saw = edge.app.next().await;
    assert_eq!((saw.target.as_str(), saw.host.as_str()), ("/p?q", "b.example:8080"));
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_length_beside_a_coding_never_reaches_the_application_and_the_connection_ends() {
    let edge = edge(json!({})).await;
    let response = edge
        .exchange(
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n\
             GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n",
        )
        .await;
    assert_eq!(status(&response), 200);
    assert!(response.to_ascii_lowercase().contains("connection: close"), "{response:?}");
    let saw = edge.app.next().await;
    assert!(saw.headers.iter().all(|(name, _)| name != "content-length"), "{saw:?}");
    assert_eq!(saw.body.as_deref(), Some(""));
    assert_eq!(edge.app.so_far().await, []);
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn http_1_0_ends_with_its_answer_unless_it_asks_to_stay() {
    let edge = edge(json!({})).await;
    assert_eq!(status(&edge.exchange("GET / HTTP/1.0\r\n\r\n").await), 200);
    let mut client = edge.connect().await;
    for _ in 0..2 {
        client.send("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n").await;
        assert_eq!(status(&client.response().await.0), 200);
    }
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn close_among_other_connection_options_is_honoured() {
    let edge = edge(json!({})).await;
    let response =
        edge.exchange("GET / HTTP/1.1\r\nHost: a\r\nConnection: keep-alive\r\nConnection: x, close\r\n\r\n").await;
    assert_eq!(status(&response), 200);
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_before_the_body_was_read_reaches_a_client_that_is_still_sending() {
    let edge = edge(json!({})).await;
    let mut client = edge.connect().await;
    client.send("POST /early HTTP/1.1\r\nHost: a\r\nContent-Length: 500000\r\n\r\n").await;
    client.send(vec![b'x'; 400_000]).await;
    assert_eq!(status(&client.response().await.0), 200);
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_awaits_100_gets_it_and_is_not_timed_while_it_waits() {
    let edge = edge(json!({"timeouts": {"body": "200ms"}})).await;
    let mut client = edge.connect().await;
    client.send("POST /continue HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n").await;
    assert_eq!(status(&client.response().await.0), 100);
    client.send("ok").await;
    assert_eq!(client.response().await.1, "ok");
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_an_upgrade_everything_passes_both_ways() {
    let edge = edge(json!({"timeouts": {"body": "200ms", "idle": "200ms", "header": "200ms"}})).await;
    let mut client = edge.connect().await;
    client.send("GET /upgrade HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n\x00early").await;
    assert_eq!(status(&client.response().await.0), 101);
    assert_eq!(client.bytes(6).await, "\x00early");
    // Silence is no fault here: longer than any deadline above.
    tokio::time::sleep(std::time::Duration::from_millis(400)).await;
    client.send("\r\n\r\nlater").await;
    assert_eq!(client.bytes(9).await, "\r\n\r\nlater");
    drop(client);
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_answer_reaches_a_client_that_reads() {
    let edge = edge(json!({})).await;
    let mut client = edge.connect().await;
    client.send("GET /large HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert_eq!(client.response().await.1.len(), 8 * 1024 * 1024);
    edge.stop().await;
}
