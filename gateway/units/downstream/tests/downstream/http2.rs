//! HTTP/2: by prior knowledge and by ALPN, with the same promises as HTTP/1.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use h2::client::SendRequest;
use http::{Request, StatusCode};
use rustls_pki_types::ServerName;
use serde_json::json;
use sluice_testkit::{authority, eventually, within};
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;

use crate::world::{Edge, edge, edge_with};

type Connected = (SendRequest<Bytes>, JoinHandle<Result<(), h2::Error>>);

async fn speak(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> Connected {
    let (sender, connection) = within("the settings", h2::client::handshake(stream)).await.unwrap();
    (sender.ready().await.unwrap(), tokio::spawn(connection))
}

async fn prior_knowledge(edge: &Edge) -> Connected {
    speak(TcpStream::connect(edge.address()).await.unwrap()).await
}

fn request(uri: &str) -> http::request::Builder {
    Request::builder().method("POST").uri(uri)
}

/// Sends one request and gives the status and the body of its answer.
async fn exchange(
    sender: &mut SendRequest<Bytes>,
    request: http::request::Builder,
    body: &'static str,
) -> Result<(StatusCode, String), h2::Error> {
    let (answer, mut stream) = sender.send_request(request.body(()).unwrap(), body.is_empty())?;
    if !body.is_empty() {
        stream.send_data(Bytes::from_static(body.as_bytes()), true)?;
    }
    let answer = within("an answer", answer).await?;
    let (status, mut incoming) = (answer.status(), answer.into_body());
    let mut text = Vec::new();
    while let Some(part) = incoming.data().await {
        let part = part?;
        incoming.flow_control().release_capacity(part.len())?;
        text.extend_from_slice(&part);
    }
    Ok((status, String::from_utf8(text).unwrap()))
}

#[tokio::test(flavor = "multi_thread")]
async fn prior_knowledge_is_recognised_beside_http1() {
    let edge = edge(json!({})).await;
    let (mut sender, _connection) = prior_knowledge(&edge).await;
    for target in ["/1", "/2"] {
        let uri = format!("http://a.example{target}");
        let answer = exchange(&mut sender, request(&uri), "hello").await.unwrap();
        assert_eq!(answer, (StatusCode::OK, "hello".into()));
        let saw = edge.app.next().await;
        assert_eq!((saw.target.as_str(), saw.host.as_str()), (target, "a.example"));
    }
    let response = edge.exchange("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await;
    assert_eq!(crate::world::status(&response), 200);
    edge.begin_stop();
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_without_http2_takes_the_preface_for_what_it_is() {
    let edge = edge_with(json!({"listeners": [{"address": "127.0.0.1:0", "http2": false}]})).await;
    let response = edge.exchange("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
    assert_eq!(crate::world::status(&response), 400);
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn alpn_chooses_http2_and_its_requests_know_their_connection() {
    let (folder, authority) = (TempDir::new().unwrap(), authority());
    let (cert, key) = authority.leaf(&["a.test"]).write(folder.path(), "a");
    let edge = edge_with(json!({
        "listeners": [{"address": "127.0.0.1:0", "tls": {"certificates": [{"cert": cert, "key": key}]}}],
    }))
    .await;
    let config = Arc::new(authority.client_config(&["h2", "http/1.1"]));
    let tcp = TcpStream::connect(edge.address()).await.unwrap();
    let tls = TlsConnector::from(config).connect(ServerName::try_from("a.test").unwrap(), tcp).await.unwrap();
    assert_eq!(tls.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let (mut sender, _connection) = speak(tls).await;
    let answer = exchange(&mut sender, request("https://a.test/x"), "").await.unwrap();
    assert_eq!(answer.0, StatusCode::OK);
    assert_eq!(edge.app.next().await.server_name.as_deref(), Some("a.test"));
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_http1_would_refuse_are_refused_alike() {
    let edge = edge(json!({"limits": {"body_size": "1KiB", "header_fields": 10}})).await;
    let (mut sender, _connection) = prior_knowledge(&edge).await;
    let many = (0..11).fold(request("http://a/"), |request, n| request.header(format!("x-{n}"), "y"));
    for (bad, status, breach) in [
        (many, StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "header-fields"),
        (request("http://a/").header("expect", "a-pony"), StatusCode::EXPECTATION_FAILED, "expectation"),
        (request("http://a!b/"), StatusCode::BAD_REQUEST, "host-invalid"),
        (request("a:443").method("CONNECT"), StatusCode::METHOD_NOT_ALLOWED, "connect"),
    ] {
        let (answered, body) = exchange(&mut sender, bad, "").await.unwrap();
        assert_eq!(answered, status, "{breach}");
        assert!(body.contains("urn:sluice:problem:"), "{breach}: {body}");
        assert_eq!(edge.refused(breach), 1.0, "{breach}");
    }
    // With its stream left open, or the library would object to the missing body first.
    let large = request("http://a/").header("content-length", "1025").body(()).unwrap();
    let (answer, _open) = sender.send_request(large, false).unwrap();
    assert_eq!(within("an answer", answer).await.unwrap().status(), StatusCode::PAYLOAD_TOO_LARGE);
    let answer = exchange(&mut sender, request("http://a/fine"), "").await.unwrap();
    assert_eq!(answer.0, StatusCode::OK, "the connection goes on");
    assert_eq!(edge.app.so_far().await.len(), 1);
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_of_malformed_requests_is_ended() {
    let edge = edge(json!({})).await;
    let (mut sender, connection) = prior_knowledge(&edge).await;
    for _ in 0..40 {
        if exchange(&mut sender, request("http://a/").header("expect", "a-pony"), "").await.is_err() {
            break;
        }
    }
    let _ = within("the connection to end", connection).await;
    assert!(edge.refused("expectation") <= 32.0);
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_that_are_reset_in_a_flood_end_the_connection() {
    let edge = edge(json!({})).await;
    let mut stream = TcpStream::connect(edge.address()).await.unwrap();
    // HEADERS for `POST http://a/wait`, each followed by RST_STREAM, as fast as they can be written (CVE-2023-44487).
    let mut flood = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec();
    for stream in (1_u32..20_001).step_by(2) {
        flood.extend([0, 0, 6, 1, 4]);
        flood.extend(stream.to_be_bytes());
        flood.extend([0x83, 0x86, 0x84, 0x41, 0x01, b'a']);
        flood.extend([0, 0, 4, 3, 0]);
        flood.extend(stream.to_be_bytes());
        flood.extend([0, 0, 0, 8]);
    }
    let _ = stream.write_all(&flood).await;
    let mut rest = Vec::new();
    let _ = within("the connection to end", stream.read_to_end(&mut rest)).await;
    let served = edge.app.so_far().await.len();
    assert!(served < 5_000, "{served} of 10000 were served before the flood was noticed");
    eventually("no connection to be open", || async { (edge.handle.open_connections() == 0).then_some(()) }).await;
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frame_that_drips_ends_the_connection() {
    let edge = edge(json!({"timeouts": {"header": "200ms"}})).await;
    let mut stream = TcpStream::connect(edge.address()).await.unwrap();
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
    // A header block that never ends.
    stream.write_all(b"\0\0\x01\x01\0\0\0\0\x01\x83").await.unwrap();
    let mut rest = Vec::new();
    let _ = within("the connection to end", stream.read_to_end(&mut rest)).await;
    eventually("no connection to be open", || async { (edge.handle.open_connections() == 0).then_some(()) }).await;
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_connection_is_told_to_go_and_a_busy_one_is_not() {
    let edge = edge(json!({"timeouts": {"idle": "200ms"}})).await;
    let (mut sender, connection) = prior_knowledge(&edge).await;
    let (answer, _) = sender.send_request(request("http://a/wait").body(()).unwrap(), true).unwrap();
    edge.app.waiting.notified().await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    edge.app.go.notify_one();
    assert_eq!(within("the answer", answer).await.unwrap().status(), StatusCode::OK);
    drop(sender);
    within("the connection to end", connection).await.unwrap().unwrap();
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_lets_the_streams_in_flight_finish() {
    let edge = edge(json!({})).await;
    let (mut sender, _connection) = prior_knowledge(&edge).await;
    let (answer, _) = sender.send_request(request("http://a/wait").body(()).unwrap(), true).unwrap();
    edge.app.waiting.notified().await;
    edge.begin_stop();
    edge.app.go.notify_one();
    assert_eq!(within("the answer", answer).await.unwrap().status(), StatusCode::OK);
    drop(sender);
    assert!(edge.stop().await < Duration::from_secs(5));
}
