//! What a client and an origin say to each other arrives, whatever versions of HTTP they speak, whatever the size.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::time::Duration;

use http_body_util::BodyExt;
use sluice_testkit::websocket::WebSocket;
use sluice_testkit::{Gateway, Origin, Reply, authority, client, gateway, grpc_message, origin, raw, within};

const CONFIG: &str = "
upstreams:
  origin: { endpoints: ['@origin@'] }
routes:
  - { name: all, match: { path: '/*' }, upstream: origin }
";

async fn before(origin: &Origin) -> Gateway {
    gateway().config(CONFIG).set("origin", origin.address()).run().await
}

#[tokio::test]
async fn a_request_reaches_the_origin_as_it_was_sent() {
    let origin = origin().run().await;
    let edge = before(&origin).await;
    for client in [client(), client().http2()] {
        let answer = client.post(edge.url("/orders/7?x=%20y"), "hello").header("x-one", "1").send().await;
        assert_eq!(answer.status, 200);
        let told = answer.json();
        assert_eq!((&told["method"], &told["target"]), (&"POST".into(), &"/orders/7?x=%20y".into()));
        assert_eq!((&told["headers"]["x-one"], &told["body"]), (&"1".into(), &"hello".into()));
    }
    edge.stop().await;
}

#[tokio::test]
async fn fields_that_belong_to_one_connection_stay_on_it() {
    let origin = origin().on("/*", Reply::text("x").header("connection", "x-mine").header("x-mine", "1")).run().await;
    let edge = before(&origin).await;
    let request = client().get(edge.url("/")).header("connection", "x-private").header("x-private", "1");
    let answer = request.header("proxy-connection", "keep-alive").header("te", "gzip").send().await;
    assert_eq!(answer.header("x-mine"), None);
    let seen = origin.last();
    assert_eq!((seen.header("x-private"), seen.header("proxy-connection"), seen.header("te")), (None, None, None));
}

#[tokio::test]
async fn few_connections_to_the_origin_serve_many_requests() {
    let origin = origin().run().await;
    let edge = before(&origin).await;
    let client = client();
    let connection = client.connect(edge.url("/")).await.unwrap();
    for _ in 0..20 {
        assert_eq!(connection.send(client.get(edge.url("/"))).await.status, 200);
    }
    // A request that follows its forerunner's answer at once may find the connection not yet back in the pool.
    assert_eq!(origin.count(), 20);
    assert!(origin.connections() <= 5, "{} connections for 20 requests", origin.connections());
}

#[tokio::test]
async fn a_large_answer_waits_for_a_slow_reader_at_the_origin() {
    const LENGTH: u64 = 2 << 30;
    let origin = origin().on("/huge", Reply::zeros(LENGTH)).run().await;
    let edge = before(&origin).await;
    for client in [client(), client().http2()] {
        let before = origin.bytes_produced();
        let memory = edge.resident_bytes();
        let mut answer = client.get(edge.url("/huge")).try_stream().await.unwrap().into_body();
        within("a first piece", answer.frame()).await.unwrap().unwrap();
        // The origin goes on for as long as somebody takes its bytes; it stands still once every buffer is full.
        let mut produced = 0;
        within("the origin to stand still", async {
            while produced != origin.bytes_produced() {
                produced = origin.bytes_produced();
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        })
        .await;
        assert!(
            produced - before < 64 << 20,
            "{} bytes were taken for a reader that took one piece",
            produced - before
        );
        let grown = edge.resident_bytes().saturating_sub(memory);
        assert!(grown < 32 << 20, "memory grew by {grown} bytes");
    }
}

#[tokio::test]
async fn a_large_upload_arrives_whole() {
    const LENGTH: usize = 48 << 20;
    let origin = origin().on("/sink", Reply::sink()).run().await;
    let edge = before(&origin).await;
    for client in [client(), client().http2()] {
        let answer = client.post(edge.url("/sink"), vec![7; LENGTH]).send().await;
        assert_eq!((answer.status.as_u16(), &answer.json()["bytes"]), (200, &LENGTH.into()));
    }
}

#[tokio::test]
async fn a_websocket_passes_in_both_directions() {
    let origin = origin().on("/ws", Reply::websocket()).run().await;
    let edge = before(&origin).await;
    let mut socket = WebSocket::open(raw(edge.address()).await, "edge.example", "/ws", &[]).await;
    for text in ["one", "two", &"long ".repeat(20_000)] {
        socket.send(text).await;
        assert_eq!(socket.receive_text().await, text);
    }
}

#[tokio::test]
async fn a_client_that_goes_away_ends_its_request_at_the_origin() {
    let origin = origin().on("/never", Reply::silence()).run().await;
    let edge = before(&origin).await;
    let mut connection = raw(edge.address()).await;
    connection.send("GET /never HTTP/1.1\r\nhost: x\r\n\r\n").await;
    origin.wait_for_requests(1).await;
    assert_eq!(origin.open_connections(), 1);
    drop(connection);
    let ended = async || (origin.open_connections() == 0).then_some(());
    sluice_testkit::eventually("the origin's connection to end", ended).await;
}

#[tokio::test]
async fn tls_and_both_versions_of_http_reach_the_same_origin() {
    let authority = authority();
    let leaf = authority.leaf(&["edge.example"]);
    let origin = origin().run().await;
    let edge = gateway()
        .config(&format!(
            "listeners:\n  - address: '127.0.0.1:0'\n    tls: {{ certificates: [{{ cert: edge.crt, key: edge.key }}] }}\n{CONFIG}"
        ))
        .file("edge.crt", leaf.chain_pem())
        .file("edge.key", leaf.key_pem())
        .set("origin", origin.address())
        .run()
        .await;
    let trusting = client().trusting(&authority).to(edge.address());
    for (client, version) in [(trusting.clone(), "HTTP/1.1"), (trusting.http2(), "HTTP/2.0")] {
        let answer = client.get("https://edge.example/secure").send().await;
        assert_eq!((answer.status.as_u16(), format!("{:?}", answer.version)), (200, version.to_owned()));
    }
    assert_eq!(origin.count(), 2);
}

#[tokio::test]
async fn grpc_passes_with_its_trailers_between_http2_sides() {
    let origin = origin().on("/shop.Orders/Get", Reply::grpc(&[b"one", b"two"], 0)).run().await;
    let edge = gateway()
        .config(&CONFIG.replace("endpoints:", "protocol: http2, endpoints:"))
        .set("origin", origin.address())
        .run()
        .await;
    let request = client().http2().post(edge.url("/shop.Orders/Get"), grpc_message(b"ask"));
    let answer = request.header("content-type", "application/grpc").header("te", "trailers").send().await;
    assert_eq!((answer.status.as_u16(), answer.trailer("grpc-status")), (200, Some("0")));
    assert_eq!(answer.body, [grpc_message(b"one"), grpc_message(b"two")].concat());
    assert_eq!(format!("{:?}", origin.last().version), "HTTP/2.0");
}
