//! The kit's origins do what their scripts say, seen through the kit's clients.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::time::{Duration, Instant};

use http_body_util::BodyExt;
use sluice_testkit::websocket::{self, WebSocket};
use sluice_testkit::{
    Reply, authority, body, client, eventually, grpc_message, origin, raw, raw_origin, raw_tls, within,
};

#[tokio::test]
async fn an_echo_tells_the_request_and_the_origin_remembers_it() {
    let origin = origin().run().await;
    let answer = client().post(origin.url("/a/b?c=d"), "hello").header("x-one", "1").send().await;
    let told = answer.json();
    assert_eq!(answer.status, 200);
    assert_eq!((&told["method"], &told["target"], &told["path"]), (&"POST".into(), &"/a/b?c=d".into(), &"/a/b".into()));
    assert_eq!(
        (&told["headers"]["x-one"], &told["body"], &told["body_length"]),
        (&"1".into(), &"hello".into(), &5.into())
    );
    let seen = origin.last();
    assert_eq!((seen.header("x-one"), &seen.body[..]), (Some("1"), &b"hello"[..]));
    assert_eq!(seen.authority, Some(origin.address().to_string()));
}

#[tokio::test]
async fn the_first_matching_path_answers_and_scripts_can_change() {
    let origin = origin()
        .on("/fixed", Reply::text("here").with_status(201))
        .compute("/computed/*", |seen| Reply::text(seen.target.to_uppercase()))
        .otherwise(Reply::status(404))
        .run()
        .await;
    assert_eq!(client().get(origin.url("/fixed?x")).send().await.status, 201);
    assert_eq!(client().get(origin.url("/computed/x")).send().await.text(), "/COMPUTED/X");
    assert_eq!(client().get(origin.url("/none")).send().await.status, 404);
    origin.script("/none", Reply::text("now"));
    assert_eq!(client().get(origin.url("/none")).send().await.text(), "now");
    assert_eq!(origin.count(), 4);
}

#[tokio::test]
async fn both_protocols_work_in_cleartext_and_over_tls() {
    let authority = authority();
    let plain = origin().run().await;
    let secure = origin().tls(&authority.leaf(&["localhost", "127.0.0.1"])).run().await;
    let trusting = client().trusting(&authority);
    for (client, url, version) in [
        (client(), plain.url("/"), "HTTP/1.1"),
        (client().http2(), plain.url("/"), "HTTP/2.0"),
        (trusting.clone(), secure.url("/"), "HTTP/1.1"),
        (trusting.http2(), secure.url("/"), "HTTP/2.0"),
    ] {
        assert_eq!(client.get(&url).send().await.json()["version"], version, "{url}");
    }
}

#[tokio::test]
async fn a_stranger_s_certificate_is_not_trusted() {
    let (own, stranger) = (authority(), authority());
    let origin = origin().tls(&stranger.leaf(&["127.0.0.1"])).run().await;
    assert!(client().trusting(&own).get(origin.url("/")).try_send().await.is_err());
    assert_eq!(origin.count(), 0);
}

#[tokio::test]
async fn a_client_certificate_is_demanded_where_told() {
    let authority = authority();
    let origin = origin().tls_demanding(&authority.leaf(&["127.0.0.1"]), &authority).run().await;
    let identity = authority.leaf(&["edge"]);
    let named = client().trusting_as(&authority, &identity);
    assert_eq!(named.get(origin.url("/")).send().await.status, 200);
    assert!(client().trusting(&authority).get(origin.url("/")).try_send().await.is_err());
}

#[tokio::test]
async fn one_connection_carries_many_requests() {
    let origin = origin().run().await;
    for client in [client(), client().http2()] {
        let before = origin.connections();
        let connection = client.connect(origin.url("/")).await.unwrap();
        for _ in 0..3 {
            assert_eq!(connection.send(client.get(origin.url("/"))).await.status, 200);
        }
        assert_eq!(origin.connections(), before + 1);
    }
}

#[tokio::test]
async fn a_connection_can_be_reset_before_within_and_after_an_answer() {
    let origin = origin()
        .on("/before", Reply::reset())
        .on("/within", Reply::text("0123456789").reset_within())
        .on("/after", Reply::text("0123456789").reset_after())
        .run()
        .await;
    let ask = |path: &'static str| {
        let address = origin.address();
        async move {
            let mut connection = raw(address).await;
            connection.send(format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n")).await;
            let end = within("the end", read_until_error(&mut connection)).await;
            (String::from_utf8(end.0).unwrap(), end.1)
        }
    };
    let (before, error) = ask("/before").await;
    assert_eq!((before.as_str(), error), ("", Some(std::io::ErrorKind::ConnectionReset)));
    let (within, error) = ask("/within").await;
    assert!(within.contains("content-length: 10") && within.ends_with("\r\n\r\n01234"), "{within:?}");
    assert_eq!(error, Some(std::io::ErrorKind::ConnectionReset));
    let (after, error) = ask("/after").await;
    assert!(after.ends_with("\r\n\r\n0123456789"), "{after:?}");
    assert_eq!(error, Some(std::io::ErrorKind::ConnectionReset));
}

async fn read_until_error(connection: &mut sluice_testkit::RawConnection) -> (Vec<u8>, Option<std::io::ErrorKind>) {
    let mut all = Vec::new();
    let outcome = tokio::io::AsyncReadExt::read_to_end(connection, &mut all).await;
    (all, outcome.err().map(|error| error.kind()))
}

#[tokio::test]
async fn a_connection_can_be_closed_before_and_within_an_answer() {
    let origin =
        origin().on("/before", Reply::hang_up()).on("/within", Reply::text("0123456789").close_within()).run().await;
    let mut connection = raw(origin.address()).await;
    connection.send("GET /before HTTP/1.1\r\nhost: x\r\n\r\n").await;
    connection.expect_end().await;
    assert!(client().get(origin.url("/within")).try_send().await.is_err());
}

#[tokio::test]
async fn idle_connections_are_closed_unannounced() {
    let origin = origin().closing_idle_after(Duration::from_millis(30)).run().await;
    let mut connection = raw(origin.address()).await;
    connection.send("GET / HTTP/1.1\r\nhost: x\r\n\r\n").await;
    let answer = connection.read_response().await;
    assert_eq!((answer.status, answer.header("connection")), (200, None));
    connection.expect_end().await;
}

#[tokio::test]
async fn a_connection_can_end_after_so_many_answers() {
    let origin = origin().closing_after(2).run().await;
    let mut connection = raw(origin.address()).await;
    for _ in 0..2 {
        connection.send("GET / HTTP/1.1\r\nhost: x\r\n\r\n").await;
        assert_eq!(connection.read_response().await.status, 200);
    }
    connection.expect_end().await;
}

#[tokio::test]
async fn a_large_body_is_produced_no_faster_than_taken() {
    const LENGTH: u64 = 1 << 30;
    let origin = origin().on("/huge", Reply::zeros(LENGTH)).run().await;
    let response = client().get(origin.url("/huge")).try_stream().await.unwrap();
    assert_eq!(response.headers()["content-length"], LENGTH.to_string());
    let mut body = response.into_body();
    within("a first piece", body.frame()).await.unwrap().unwrap();
    assert!(origin.bytes_produced() < LENGTH / 8, "{} bytes were produced for nobody", origin.bytes_produced());
}

#[tokio::test]
async fn a_sink_counts_what_it_is_sent() {
    let origin = origin().on("/sink", Reply::sink()).run().await;
    let answer = client().post(origin.url("/sink"), vec![7; 3 << 20]).send().await;
    assert_eq!(answer.json()["bytes"], 3 << 20);
    assert_eq!((origin.bytes_read(), origin.last().body.len()), (3 << 20, 1 << 20));
}

#[tokio::test]
async fn delays_and_drips_take_their_time() {
    let pause = Duration::from_millis(20);
    let origin = origin()
        .on("/slow", Reply::text("late").after(pause))
        .on("/drip", Reply::drip(["a", "b", "c"], pause))
        .run()
        .await;
    for (path, text, least) in [("/slow", "late", pause), ("/drip", "abc", pause * 3)] {
        let begun = Instant::now();
        assert_eq!(client().get(origin.url(path)).send().await.text(), text);
        assert!(begun.elapsed() >= least, "{path}");
    }
}

#[tokio::test]
async fn trailers_end_a_grpc_answer_and_a_mirror_sends_them_back() {
    let origin = origin().on("/fixed", Reply::grpc(&[b"one", b"two"], 5)).on("/mirror", Reply::mirror()).run().await;
    let client = client().http2();
    let answer = client.post(origin.url("/fixed"), grpc_message(b"ask")).send().await;
    assert_eq!(answer.trailer("grpc-status"), Some("5"));
    assert_eq!(answer.body, [grpc_message(b"one"), grpc_message(b"two")].concat());
    let mut trailers = http::HeaderMap::new();
    trailers.insert("x-end", "1".parse().unwrap());
    let asked = body("same").with_trailers(std::future::ready(Some(Ok(trailers)))).boxed_unsync();
    let answer = client.request("POST", origin.url("/mirror")).streaming(asked).send().await;
    assert_eq!((answer.text(), answer.trailer("x-end")), ("same", Some("1")));
}

#[tokio::test]
async fn a_websocket_echoes_over_both_sides_of_the_kit() {
    let origin = origin().on("/ws", Reply::websocket()).run().await;
    let mut socket = WebSocket::open(raw(origin.address()).await, "x", "/ws", &[]).await;
    let long = "x".repeat(70_000);
    for text in ["hello", &long] {
        socket.send(text).await;
        assert_eq!(socket.receive_text().await, text);
    }
    socket.send_frame(websocket::Kind::Close, b"").await;
    assert_eq!(socket.receive().await, Some((websocket::Kind::Close, Vec::new())));
    assert_eq!(socket.receive().await, None);
    assert_eq!(client().get(origin.url("/ws")).send().await.status, 400);
}

#[tokio::test]
async fn literal_bytes_reach_the_client_as_they_are() {
    let origin = raw_origin("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n").await;
    let mut connection = raw(origin.address()).await;
    connection.send("GET / HTTP/1.1\r\n\r\n").await;
    assert_eq!(connection.read_response().await.text(), "abc");
    assert_eq!(origin.count(), 1);
}

#[tokio::test]
#[should_panic(expected = "both framings in one response")]
async fn an_answer_with_two_framings_is_not_accepted() {
    let origin = raw_origin("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ncontent-length: 3\r\n\r\nabc").await;
    let mut connection = raw(origin.address()).await;
    connection.send("GET / HTTP/1.1\r\n\r\n").await;
    connection.read_response().await;
}

#[tokio::test]
async fn a_raw_client_speaks_tls_and_the_origin_sees_the_name() {
    let authority = authority();
    let origin = origin().tls(&authority.leaf(&["orders.example"])).run().await;
    let config = authority.client_config(&["http/1.1"]);
    let mut connection = raw_tls(origin.address(), "orders.example", config).await;
    connection.send("GET / HTTP/1.1\r\nhost: x\r\n\r\n").await;
    assert_eq!(connection.read_response().await.status, 200);
    assert_eq!(origin.last().server_name.as_deref(), Some("orders.example"));
}

#[tokio::test]
async fn an_origin_that_stops_closes_everything_and_can_come_back() {
    let first = origin().on("/never", Reply::silence()).run().await;
    let address = first.address();
    let mut waiting = raw(address).await;
    waiting.send("GET /never HTTP/1.1\r\nhost: x\r\n\r\n").await;
    first.wait_for_requests(1).await;
    first.stop().await;
    waiting.expect_end().await;
    assert!(client().get(format!("http://{address}/")).try_send().await.is_err());
    let second = origin().at(address).run().await;
    assert_eq!(client().get(second.url("/")).send().await.status, 200);
    eventually("the connection to be closed", async || (second.open_connections() == 0).then_some(())).await;
}
