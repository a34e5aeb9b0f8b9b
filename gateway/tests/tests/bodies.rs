//! Bodies stream: nobody's memory grows with their length, whoever is slow holds up the other side rather than filling the
//! gateway, and where there is no body none is made up.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use sluice_testkit::{
    Body, Client, Gateway, GatewayBuilder, Origin, Reply, body_channel, client, eventually, gateway, origin, raw,
    within,
};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, watch};

const HUGE: u64 = 2 << 30;

/// What every buffer on the way may hold together: those of four sockets in the kernel, and the gateway's own.
const BUFFERED: u64 = 64 << 20;

/// By how much the gateway may grow for one transfer, whatever its length.
const GROWTH: u64 = 32 << 20;

fn before(upstream: &str, origin: &Origin) -> GatewayBuilder {
    gateway()
        .config(&format!(
            "
downstream: {{ limits: {{ body_size: 4GiB }} }}
upstreams:
  origin:
    endpoints: ['@origin@']
    # Half a thousand connections are opened at once, on a machine that is busy with other tests.
    timeouts: {{ connect: 10s, response: 120s, total: 120s }}
    queue_timeout: 10s
{upstream}
routes:
  - {{ name: all, match: {{ path: '/*' }}, upstream: origin }}
"
        ))
        .set("origin", origin.address())
}

/// Returns once `figure` has stood still for a while, with its value: everything that can be buffered is.
async fn still(figure: impl Fn() -> u64) -> u64 {
    within("a transfer to stand still", async {
        let mut last = figure();
        loop {
            tokio::time::sleep(Duration::from_millis(250)).await;
            match figure() {
                same if same == last && same > 0 => return same,
                more => last = more,
            }
        }
    })
    .await
}

/// Reads a body to its end and counts.
async fn drain(body: &mut Incoming) -> u64 {
    let mut length = 0;
    while let Some(frame) = within("a piece of a body", body.frame()).await {
        length += frame.unwrap().data_ref().map_or(0, |data| data.len() as u64);
    }
    length
}

/// A body of `length` zeros that counts what was taken of it.
fn zeros(length: u64) -> (Body, Arc<AtomicU64>) {
    let (sender, body) = body_channel();
    let taken = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&taken);
    tokio::spawn(async move {
        let piece = Bytes::from(vec![0; 64 << 10]);
        let mut left = length;
        while left > 0 && sender.send(piece.slice(..piece.len().min(left as usize))).await {
            let sent = left.min(piece.len() as u64);
            counter.fetch_add(sent, Ordering::Relaxed);
            left -= sent;
        }
    });
    (body, taken)
}

/// Two gibibytes to a reader that stops after the first piece, and later reads on.
async fn huge_download(client: Client, upstream: &str) {
    let origin = origin().on("/huge", Reply::zeros(HUGE)).run().await;
    let edge = before(upstream, &origin).run().await;
    let before = edge.resident_bytes();
    let mut answer = client.get(edge.url("/huge")).try_stream().await.unwrap().into_body();
    let first = within("a first piece", answer.frame()).await.unwrap().unwrap();
    let produced = still(|| origin.bytes_produced()).await;
    assert!(produced < BUFFERED, "{produced} bytes were taken for a reader that took one piece");
    let rest = drain(&mut answer).await;
    assert_eq!(rest + first.data_ref().unwrap().len() as u64, HUGE);
    let grown = edge.peak_resident_bytes().saturating_sub(before);
    assert!(grown < GROWTH, "memory grew by {grown} bytes");
}

/// Two gibibytes to an origin that reads nothing at first, and later everything.
async fn huge_upload(client: Client, upstream: &str) {
    let origin = origin().on("/sink", Reply::sink()).run().await;
    let edge = before(upstream, &origin).run().await;
    let before = edge.resident_bytes();
    origin.hold();
    let (body, taken) = zeros(HUGE);
    let request = client.post(edge.url("/sink"), "").streaming(body);
    let answer = tokio::spawn(request.try_send());
    origin.wait_for_requests(1).await;
    let sent = still(|| taken.load(Ordering::Relaxed)).await;
    assert!(sent < BUFFERED, "{sent} bytes were taken for an origin that reads none");
    origin.release();
    let answer = answer.await.unwrap().unwrap();
    assert_eq!((answer.status.as_u16(), &answer.json()["bytes"]), (200, &HUGE.into()));
    let grown = edge.peak_resident_bytes().saturating_sub(before);
    assert!(grown < GROWTH, "memory grew by {grown} bytes");
}

const TO_HTTP1: &str = "";
const TO_HTTP2: &str = "    protocol: http2";

// One after the other: four of them at once measure the machine rather than the gateway.

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_gibibytes_pass_down_in_little_memory_however_slow_their_reader() {
    huge_download(client(), TO_HTTP1).await;
    huge_download(client().http2(), TO_HTTP2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_gibibytes_pass_up_in_little_memory_however_slow_their_reader() {
    huge_upload(client(), TO_HTTP1).await;
    huge_upload(client().http2(), TO_HTTP2).await;
}

/// How many readers at once, over how many connections, and how much each is sent.
const READERS: usize = 500;
const CONNECTIONS: usize = 5;
const LENGTH: u64 = 4 << 20;

/// An HTTP/2 connection whose every stream may carry 64 KiB ahead of its reader, and all of them that much together.
async fn narrow(edge: &Gateway) -> h2::client::SendRequest<Bytes> {
    let stream = TcpStream::connect(edge.address()).await.unwrap();
    let streams = (READERS / CONNECTIONS) as u32;
    let (sender, connection) = h2::client::Builder::new()
        .initial_window_size(64 << 10)
        .initial_connection_window_size((64 << 10) * streams)
        .handshake(stream)
        .await
        .unwrap();
    tokio::spawn(connection);
    sender.ready().await.unwrap()
}

/// Asks for the large answer, takes one piece, waits for leave, then takes the rest if `patient` or leaves.
async fn slow_reader(
    sender: h2::client::SendRequest<Bytes>,
    url: String,
    stalled: Arc<Semaphore>,
    mut leave: watch::Receiver<bool>,
    patient: bool,
) -> u64 {
    let mut sender = sender.ready().await.unwrap();
    let request = http::Request::get(url).body(()).unwrap();
    let (response, _) = sender.send_request(request, true).unwrap();
    let (head, mut body) = response.await.unwrap().into_parts();
    if head.status != 200 {
        let problem = body.data().await.unwrap().unwrap();
        panic!("a slow reader was answered {}: {}", head.status, String::from_utf8_lossy(&problem));
    }
    let mut length = body.data().await.unwrap().unwrap().len();
    stalled.add_permits(1);
    leave.wait_for(|leave| *leave).await.unwrap();
    if !patient {
        return 0;
    }
    body.flow_control().release_capacity(length).unwrap();
    while let Some(piece) = within("a piece of a slow reader's answer", body.data()).await {
        let piece = piece.unwrap();
        body.flow_control().release_capacity(piece.len()).unwrap();
        length += piece.len();
    }
    length as u64
}

/// Half a thousand readers that stop after the first piece. What they are owed is two gigabytes; `held` is what the
/// gateway may hold of it for each.
async fn slow_readers(upstream: &str, held: u64) {
    let origin = origin().on("/large", Reply::zeros(LENGTH)).run().await;
    let edge = before(upstream, &origin).run().await;
    let before = edge.resident_bytes();
    let (leave, waiting) = watch::channel(false);
    let stalled = Arc::new(Semaphore::new(0));
    let mut readers = Vec::new();
    for _ in 0..CONNECTIONS {
        let sender = narrow(&edge).await;
        for _ in 0..READERS / CONNECTIONS {
            let patient = readers.len() % 2 == 0;
            let (stalled, waiting) = (Arc::clone(&stalled), waiting.clone());
            readers.push(tokio::spawn(slow_reader(sender.clone(), edge.url("/large"), stalled, waiting, patient)));
        }
    }
    let all = stalled.acquire_many(READERS as u32);
    drop(within("every reader to have begun", all).await.unwrap());
    still(|| origin.bytes_produced()).await;
    let grown = edge.peak_resident_bytes().saturating_sub(before);
    let each = grown / READERS as u64;
    assert!(each < held, "memory grew by {grown} bytes for {READERS} readers, {each} each");

    // Half of them read to the end, half of them go away; neither leaves anything behind.
    leave.send_replace(true);
    let mut whole = 0;
    for reader in readers {
        whole += u64::from(reader.await.unwrap() == LENGTH);
    }
    assert_eq!(whole, READERS as u64 / 2);
    edge.metrics_when("no request in flight", |metrics| metrics.value("sluice_requests_active", &[]) == 0.0).await;
}

/// Ten pieces of 64 KiB on their way through the proxy (waiting, being written, being read; the proxy library has these
/// numbers as constants), and the send buffer of 64 KiB.
const HELD_FROM_HTTP1: u64 = 704 << 10;
/// The same, and each stream's window of 512 KiB.
const HELD_FROM_HTTP2: u64 = HELD_FROM_HTTP1 + (512 << 10);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_hundred_slow_http2_readers_at_once_cost_their_buffers_and_no_more() {
    slow_readers(TO_HTTP1, HELD_FROM_HTTP1).await;
    slow_readers(TO_HTTP2, HELD_FROM_HTTP2).await;
}

#[tokio::test]
async fn an_answer_given_early_reaches_a_client_that_is_still_sending() {
    let early = Reply::text("enough").with_status(413).early();
    let origin = origin().on("/early", early).run().await;
    for upstream in [TO_HTTP1, TO_HTTP2] {
        let edge = before(upstream, &origin).run().await;
        for client in [client(), client().http2()] {
            let (sender, body) = body_channel();
            // The first piece goes out, and no other will before there is an answer.
            let request = client.post(edge.url("/early"), "").streaming(body).try_stream();
            let (answer, sent) = within("an early answer", async { tokio::join!(request, sender.send("first")) }).await;
            let answer = answer.unwrap();
            assert!(sent);
            assert_eq!(answer.status(), 413);
            assert_eq!(within("its body", answer.into_body().collect()).await.unwrap().to_bytes(), "enough");
        }
    }
}

#[tokio::test]
async fn a_body_that_streams_both_ways_is_not_collected() {
    let origin = origin().on("/mirror", Reply::mirror()).run().await;
    for (upstream, client) in [(TO_HTTP1, client()), (TO_HTTP2, client().http2())] {
        let edge = before(upstream, &origin).run().await;
        let (sender, body) = body_channel();
        let request = client.post(edge.url("/mirror"), "").streaming(body).try_stream();
        // HTTP/1.1's head leaves with the first piece of its body at the latest.
        let (answer, _) = within("the answer's head", async { tokio::join!(request, sender.send("0")) }).await;
        let mut answer = answer.unwrap().into_body();
        let mut come = within("the first piece", answer.frame()).await.unwrap().unwrap().into_data().unwrap();
        assert_eq!(come, "0");
        for n in 1..10 {
            let piece = Bytes::from(n.to_string());
            sender.send(piece.clone()).await;
            come = within("a piece back", answer.frame()).await.unwrap().unwrap().into_data().unwrap();
            assert_eq!(come, piece);
        }
    }
}

#[tokio::test]
async fn a_client_that_waits_for_leave_to_send_gets_it() {
    let origin = origin().on("/sink", Reply::sink()).run().await;
    let edge = before(TO_HTTP1, &origin).run().await;
    let mut connection = raw(edge.address()).await;
    connection.send("POST /sink HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\nexpect: 100-continue\r\n\r\n").await;
    assert_eq!(connection.read_head().await.status, 100);
    connection.send("hello").await;
    let answer = connection.read_response().await;
    assert_eq!((answer.status, answer.text()), (200, r#"{"bytes":5}"#));
}

#[tokio::test]
async fn a_client_that_waits_for_leave_is_refused_without_it() {
    let origin = origin().on("/early", Reply::text("no").with_status(403).early()).run().await;
    let edge = before(TO_HTTP1, &origin).run().await;
    for (path, length, status) in [("/early", "5", 403), ("/early", "99999999999", 413)] {
        let mut connection = raw(edge.address()).await;
        let head =
            format!("POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\nexpect: 100-continue\r\n\r\n");
        connection.send(head).await;
        let answer = connection.read_head().await;
        assert_eq!(answer.status, status, "{answer:?}");
    }
}

#[tokio::test]
async fn a_body_beyond_the_routes_bound_is_refused_however_it_is_framed() {
    let origin = origin().on("/sink", Reply::sink()).run().await;
    let edge = gateway()
        .config(
            "
upstreams:
  origin: { endpoints: ['@origin@'] }
routes:
  - { name: all, match: { path: '/*' }, max_body: 64KiB, upstream: origin }
",
        )
        .set("origin", origin.address())
        .run()
        .await;
    for client in [client(), client().http2()] {
        let announced = client.post(edge.url("/sink"), vec![0; 65 << 10]).send().await;
        assert_eq!(announced.json()["type"], "urn:sluice:problem:body-too-large");
        let (body, _) = zeros(1 << 20);
        let chunked = client.post(edge.url("/sink"), "").streaming(body).send().await;
        assert_eq!((chunked.status.as_u16(), &chunked.json()["type"]), (413, &announced.json()["type"]));
        let fitting = client.post(edge.url("/sink"), vec![0; 64 << 10]).send().await;
        assert_eq!((fitting.status.as_u16(), &fitting.json()["bytes"]), (200, &(64 << 10).into()));
    }
}

#[tokio::test]
async fn a_refusal_reaches_a_client_whose_body_nobody_reads() {
    let edge = gateway()
        .config("routes:\n  - { name: no, match: { path: '/no' }, answer: { status: 403, body: 'not here' } }")
        .run()
        .await;
    for client in [client(), client().http2()] {
        for (path, status) in [("/no", 403), ("/nowhere", 404)] {
            let announced = client.post(edge.url(path), vec![0; 512 << 10]).send().await;
            assert_eq!(announced.status, status, "{path}, announced");
            let (body, _) = zeros(512 << 10);
            let chunked = client.post(edge.url(path), "").streaming(body).send().await;
            assert_eq!(chunked.status, status, "{path}, chunked");
        }
    }
}

#[tokio::test]
async fn answers_without_a_body_have_none() {
    let page = Reply::text("a page").header("etag", "\"1\"");
    let origin = origin()
        .on("/page", page)
        .on("/none", Reply::status(204))
        .on("/same", Reply::status(304).header("etag", "\"1\""))
        .run()
        .await;
    let edge = before(TO_HTTP1, &origin).run().await;
    // All on one connection: a body that should not be there would be read as the next answer.
    let mut connection = raw(edge.address()).await;
    for _ in 0..2 {
        connection.send("HEAD /page HTTP/1.1\r\nhost: x\r\n\r\n").await;
        let head = connection.read_head().await;
        assert_eq!((head.status, head.header("content-length"), head.header("etag")), (200, Some("6"), Some("\"1\"")));
        for (path, status) in [("/none", 204), ("/same", 304)] {
            connection.send(format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n")).await;
            let answer = connection.read_response().await;
            assert_eq!((answer.status, answer.header("transfer-encoding")), (status, None), "{answer:?}");
        }
        connection.send("GET /page HTTP/1.1\r\nhost: x\r\n\r\n").await;
        assert_eq!(connection.read_response().await.text(), "a page");
    }
    let client = client().http2();
    let head = client.request("HEAD", edge.url("/page")).send().await;
    assert_eq!((head.status.as_u16(), head.header("content-length"), head.body.len()), (200, Some("6"), 0));
    for (path, status) in [("/none", 204), ("/same", 304)] {
        let answer = client.get(edge.url(path)).send().await;
        assert_eq!((answer.status.as_u16(), answer.body.len()), (status, 0));
    }
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let origin = origin().on("/sink", Reply::sink()).run().await;
    let edge = before(TO_HTTP1, &origin).run().await;
    let mut connection = raw(edge.address()).await;
    connection
        .send(
            "GET /a HTTP/1.1\r\nhost: x\r\n\r\n\
             POST /sink HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\nhello\
             POST /sink HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n\
             GET /b HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n",
        )
        .await;
    let first = connection.read_response().await;
    assert!(first.text().contains(r#""path":"/a""#), "{first:?}");
    assert_eq!(connection.read_response().await.text(), r#"{"bytes":5}"#);
    assert_eq!(connection.read_response().await.text(), r#"{"bytes":3}"#);
    let last = connection.read_response().await;
    assert!(last.text().contains(r#""path":"/b""#), "{last:?}");
    connection.expect_end().await;
}

#[tokio::test]
async fn a_client_that_leaves_in_the_middle_ends_the_work_at_the_origin() {
    for upstream in [TO_HTTP1, TO_HTTP2] {
        for client in [client(), client().http2()] {
            // While it is sending,
            let origin = origin().on("/sink", Reply::sink()).on("/huge", Reply::chunked_zeros(1 << 40)).run().await;
            let edge = before(upstream, &origin).run().await;
            let (sender, body) = body_channel();
            let sending = tokio::spawn(client.post(edge.url("/sink"), "").streaming(body).try_send());
            assert!(sender.send("some").await);
            origin.wait_for_requests(1).await;
            sending.abort();
            drop(sender);
            // and while it is reading.
            let answer = client.get(edge.url("/huge")).try_stream().await.unwrap();
            origin.wait_for_requests(2).await;
            drop(answer);
            let quiet = |metrics: &sluice_testkit::Metrics| metrics.value("sluice_requests_active", &[]) == 0.0;
            edge.metrics_when("no request in flight", quiet).await;
            let produced = origin.bytes_produced();
            eventually("the origin to be left alone", async || {
                let so_far = origin.bytes_produced();
                tokio::time::sleep(Duration::from_millis(50)).await;
                (origin.bytes_produced() == so_far).then_some(())
            })
            .await;
            assert!(origin.bytes_produced() - produced < BUFFERED);
            if upstream == TO_HTTP1 {
                eventually("its connections to end", async || (origin.open_connections() == 0).then_some(())).await;
            }
        }
    }
}
