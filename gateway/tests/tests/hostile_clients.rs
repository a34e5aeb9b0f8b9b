//! Whatever a client sends, or fails to send, is answered or refused within its deadline, counted under a name that an
//! operator can find, and holds nothing afterwards.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use sluice_testkit::{
    DEADLINE, Gateway, Origin, RawConnection, Reply, authority, client, eventually, gateway, issuer, origin, raw,
    within,
};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

const CONFIG: &str = "
upstreams:
  origin: { endpoints: ['@origin@'] }
routes:
  - { name: all, match: { path: '/*' }, upstream: origin }
";

async fn before(origin: &Origin, downstream: &str) -> Gateway {
    let config = format!("downstream: {{ {downstream} }}\n{CONFIG}");
    gateway().config(&config).set("origin", origin.address()).run().await
}

/// Stops the gateway once nothing is left of its clients; nothing panicked meanwhile.
async fn calm(edge: Gateway) {
    edge.metrics_when("every connection and request to be gone", |metrics| {
        metrics.value("sluice_downstream_connections_active", &[]) == 0.0
            && metrics.value("sluice_requests_active", &[]) == 0.0
            && metrics.value("sluice_overload_requests_in_flight", &[]) == 0.0
    })
    .await;
    assert_eq!(edge.metrics().await.value("sluice_unit_restarts_total", &[]), 0.0);
    let panicked = edge.logs().into_iter().find(|line| line.text.contains("panicked"));
    assert!(panicked.is_none(), "{panicked:?}");
    edge.stop().await;
}

const HIDDEN: &str = "GET /hidden HTTP/1.1\r\nHost: a\r\n\r\n";

/// Name, what follows `POST / HTTP/1.1` and `Host: a` (before a hidden request), the status, the breach.
const SMUGGLING: &[(&str, &str, u16, &str)] = &[
    (
        "a space before the colon",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding : x\r\n\r\n0\r\n\r\n",
        400,
        "space-before-colon",
    ),
    (
        "an unknown coding",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: cow\r\n\r\n0\r\n\r\n",
        400,
        "transfer-encoding",
    ),
    ("chunked not last", "Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n", 400, "transfer-encoding"),
    ("a folded field", "X: y\r\n Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n", 400, "obs-fold"),
    ("a coding on a folded line", "Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n", 400, "transfer-encoding"),
    ("a bare line feed", "X: y\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n", 400, "bare-lf"),
    ("a bare carriage return", "X: y\rTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400, "bare-cr"),
    ("a NUL", "X: a\0b\r\n\r\n", 400, "field-value"),
    ("a name that is none", "X(y): z\r\n\r\n", 400, "field-name"),
    ("two lengths", "Content-Length: 0\r\nContent-Length: 44\r\n\r\n", 400, "content-length-repeated"),
    ("a list of lengths", "Content-Length: 0, 0\r\n\r\n", 400, "content-length"),
    ("a signed length", "Content-Length: +0\r\n\r\n", 400, "content-length"),
    ("a length beyond counting", "Content-Length: 18446744073709551616\r\n\r\n", 400, "content-length"),
    ("a chunk size in C's notation", "Transfer-Encoding: chunked\r\n\r\n0x0\r\n\r\n", 400, "chunk-size"),
    ("a chunk size beyond counting", "Transfer-Encoding: chunked\r\n\r\nFFFFFFFFFFFFFFFFF\r\n", 400, "chunk-size"),
    ("a chunk that does not end", "Transfer-Encoding: chunked\r\n\r\n1\r\nabc\r\n0\r\n\r\n", 400, "chunk-end"),
    ("a second host", "Host: b\r\nContent-Length: 0\r\n\r\n", 400, "host-repeated"),
];

#[tokio::test]
async fn no_hidden_request_reaches_the_origin_and_each_trick_is_counted_by_its_name() {
    let origin = origin().run().await;
    let edge = before(&origin, "limits: { refusals_logged_per_second: 1000 }").await;
    for (name, payload, status, breach) in SMUGGLING {
        let labels = [("breach", *breach)];
        let counted = edge.metrics().await.value("sluice_downstream_requests_refused_total", &labels);
        let mut connection = raw(edge.address()).await;
        let request = format!("POST / HTTP/1.1\r\nHost: a\r\n{payload}{HIDDEN}");
        connection.send(request).await;
        let answer = connection.read_response().await;
        assert_eq!(answer.status, *status, "{name}: {}", answer.text());
        // Nothing after a message that cannot be read is believed.
        assert!(connection.read_response_or_end().await.is_none(), "{name}: a second answer");
        edge.metrics_when(&format!("{name} to be counted as {breach}"), |metrics| {
            metrics.value("sluice_downstream_requests_refused_total", &labels) == counted + 1.0
        })
        .await;
    }
    let seen: Vec<_> = origin.requests().into_iter().map(|seen| seen.target).collect();
    assert!(!seen.iter().any(|target| target.contains("hidden")), "{seen:?}");
    calm(edge).await;
}

#[tokio::test]
async fn a_request_cut_off_anywhere_is_refused_and_never_reaches_the_origin() {
    const WHOLE: &str = "GET /cut HTTP/1.1\r\nHost: edge.example\r\nX-One: 1\r\nX-Two: 2\r\n\r\n";
    let origin = origin().run().await;
    let edge = before(&origin, "").await;
    for cut in 1..WHOLE.len() {
        let mut connection = raw(edge.address()).await;
        connection.send(&WHOLE[..cut]).await;
        connection.finish_sending().await;
        let answer = connection.read_response_or_end().await;
        assert!(answer.as_ref().is_none_or(|answer| answer.status == 400), "cut at {cut}: {answer:?}");
    }
    assert_eq!(origin.count(), 0);
    let metrics = edge.metrics().await;
    let counted = metrics.value("sluice_downstream_requests_refused_total", &[("breach", "header-truncated")]);
    assert_eq!(counted, (WHOLE.len() - 1) as f64);
    calm(edge).await;
}

#[tokio::test]
async fn what_is_too_large_is_refused_with_its_status() {
    let origin = origin().on("/*", Reply::sink()).run().await;
    let edge = before(&origin, "limits: { header_size: 4KiB, header_fields: 20, body_size: 64KiB }").await;
    let head = |more: &str| format!("POST / HTTP/1.1\r\nHost: a\r\n{more}\r\n");
    let many: String = (0..40).map(|n| format!("x-{n}: {n}\r\n")).collect();
    let table = [
        ("a long field", head(&format!("x: {}\r\n", "y".repeat(5000))), 431, "header-size"),
        ("a field without an end", format!("GET / HTTP/1.1\r\nx: {}", "y".repeat(9000)), 431, "header-size"),
        ("a long target", format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "y".repeat(5000)), 431, "header-size"),
        ("many fields", head(&many), 431, "header-fields"),
        ("a large body, announced", head("content-length: 65537\r\n"), 413, ""),
        (
            "a large body, unannounced",
            format!("{}{:x}\r\n{}\r\n0\r\n\r\n", head("transfer-encoding: chunked\r\n"), 70_000, "z".repeat(70_000)),
            413,
            "",
        ),
    ];
    for (name, request, status, breach) in table {
        let mut connection = raw(edge.address()).await;
        // The gateway may answer, and close, before it was sent everything.
        let _ = connection.try_send(request).await;
        let answer = connection.read_response().await;
        assert_eq!(answer.status, status, "{name}: {}", answer.text());
        if !breach.is_empty() {
            let metrics = edge.metrics().await;
            let counted = metrics.value("sluice_downstream_requests_refused_total", &[("breach", breach)]);
            assert!(counted >= 1.0, "{name} is not counted as {breach}");
        }
    }
    let metrics = edge.metrics().await;
    let told = metrics.value("sluice_refusals_total", &[("reason", "body-too-large")])
        + metrics.value("sluice_downstream_requests_refused_total", &[("reason", "body-too-large")]);
    assert!(told >= 2.0, "{told} of 2 large bodies are counted");
    calm(edge).await;
}

/// Sends `bytes` one by one, a tenth of a second apart, until the peer has had enough of it; gives what the peer said.
async fn drip(mut connection: RawConnection, first: &str, bytes: &[u8]) -> Option<u16> {
    connection.send(first).await;
    let began = Instant::now();
    for byte in bytes.iter().cycle() {
        tokio::select! {
            answer = connection.read_response_or_end() => return answer.map(|answer| answer.status),
            () = tokio::time::sleep(Duration::from_millis(100)) => {}
        }
        if connection.try_send([*byte]).await.is_err() {
            return connection.read_response_or_end().await.map(|answer| answer.status);
        }
        assert!(began.elapsed() < DEADLINE, "a byte now and then holds the connection for ever");
    }
    None
}

#[tokio::test]
async fn a_byte_now_and_then_holds_nothing_past_its_deadline() {
    let authority = authority();
    let leaf = authority.leaf(&["edge.example"]);
    let origin = origin().on("/*", Reply::sink()).run().await;
    let edge = gateway()
        .config(&format!(
            "listeners:
  - address: '127.0.0.1:0'
  - address: '127.0.0.1:0'
    tls: {{ certificates: [{{ cert: edge.crt, key: edge.key }}] }}
downstream:
  timeouts: {{ handshake: 500ms, header: 500ms, idle: 700ms, body: 5s, body_grace: 500ms }}
  limits: {{ body_rate: 1KiB }}
{CONFIG}"
        ))
        .file("edge.crt", leaf.chain_pem())
        .file("edge.key", leaf.key_pem())
        .set("origin", origin.address())
        .run()
        .await;
    let (plain, secure) = (edge.listener(0), edge.listener(1));
    // A record header that announces 512 bytes of ClientHello.
    let hello: &[u8] = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03aaaaaaaaaaaaaaaa";
    let upload = "POST /up HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n";
    let began = Instant::now();
    let (header, body, handshake, preface, silence) = tokio::join!(
        drip(raw(plain).await, "", b"GET / HTTP/1.1\r\nHost: a\r\nX-Slow: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"),
        drip(raw(plain).await, upload, b"z"),
        drip(raw(secure).await, "", hello),
        drip(raw(plain).await, "", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
        async { raw(plain).await.read_response_or_end().await.map(|answer| answer.status) },
    );
    assert!(began.elapsed() < Duration::from_secs(5), "it took {:?}", began.elapsed());
    assert_eq!((header, body), (Some(408), Some(408)));
    assert_eq!(handshake, None, "a handshake that never comes is closed");
    assert!(matches!(preface, None | Some(408)), "{preface:?}");
    assert!(matches!(silence, None | Some(408)), "{silence:?}");
    edge.metrics_when("each of them to be counted by its name", |metrics| {
        let refused = |breach| metrics.value("sluice_downstream_requests_refused_total", &[("breach", breach)]);
        refused("header-timeout") >= 1.0
            && refused("body-rate") >= 1.0
            && metrics.value("sluice_downstream_handshakes_total", &[("outcome", "timeout")]) >= 1.0
    })
    .await;
    calm(edge).await;
}

/// An idle connection that is reset, not left in `TIME_WAIT`, when it is dropped.
async fn idle(address: SocketAddr) -> TcpStream {
    let stream = within("a connection", TcpStream::connect(address)).await.unwrap();
    socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
    stream
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_idle_connections_keep_nobody_out_until_the_limit_which_refuses_by_count() {
    const IDLE: usize = 10_000;
    const LIMIT: usize = IDLE + 20;
    let needed = LIMIT as u64 + 500;
    let open_files = getrlimit(Resource::Nofile);
    if open_files.maximum.is_some_and(|most| most < needed) {
        eprintln!("SKIPPED: this takes {needed} descriptors and the hard limit is {:?}", open_files.maximum);
        return;
    }
    // The gateway inherits it.
    setrlimit(Resource::Nofile, Rlimit { current: open_files.maximum.or(Some(needed)), ..open_files }).unwrap();
    let origin = origin().run().await;
    let edge =
        before(&origin, &format!("limits: {{ connections: {LIMIT} }}, timeouts: {{ header: 60s, idle: 60s }}")).await;
    let memory = edge.resident_bytes();
    let mut held = Vec::with_capacity(LIMIT);
    for _ in 0..IDLE {
        held.push(idle(edge.address()).await);
    }
    let active =
        |metrics: &sluice_testkit::Metrics| metrics.value("sluice_downstream_connections_active", &[]) as usize;
    edge.metrics_when("all of them to be accepted", |metrics| active(metrics) == IDLE).await;
    let each = edge.resident_bytes().saturating_sub(memory) / IDLE as u64;
    assert!(each < 20 << 10, "an idle connection costs {each} bytes");
    for _ in 0..50 {
        assert_eq!(client().get(edge.url("/")).send().await.status, 200, "a newcomer among them");
    }

    edge.metrics_when("the newcomers to be gone", |metrics| active(metrics) == IDLE).await;
    for _ in IDLE..LIMIT {
        held.push(idle(edge.address()).await);
    }
    edge.metrics_when("the limit to be reached", |metrics| active(metrics) == LIMIT).await;
    for _ in 0..30 {
        let mut refused = idle(edge.address()).await;
        let end = within("the end of a refused connection", refused.read(&mut [0; 64])).await;
        assert!(matches!(end, Ok(0) | Err(_)), "{end:?}");
    }
    let metrics = edge.metrics().await;
    assert_eq!(metrics.value("sluice_downstream_connections_refused_total", &[("reason", "connections")]), 30.0);
    assert_eq!(active(&metrics), LIMIT);

    held.truncate(IDLE);
    eventually("room for a newcomer again", async || {
        client().get(edge.url("/")).try_send().await.ok().filter(|answer| answer.status == 200)
    })
    .await;
    drop(held);
    calm(edge).await;
}

#[tokio::test]
async fn credentials_that_are_none_are_refused_by_their_name_and_counted() {
    let (origin, corp) = (origin().run().await, issuer().run().await);
    let config = "
issuers: { corp: { issuer: '@corp@', audiences: [edge], jwks: { url: '@jwks@' } } }
upstreams: { origin: { endpoints: ['@origin@'] } }
routes: [ { name: all, match: { path: '/*' }, auth: { issuer: corp }, upstream: origin } ]
";
    let edge = gateway()
        .config(config)
        .set("origin", origin.address())
        .set("corp", corp.name())
        .set("jwks", corp.jwks_url())
        .run()
        .await;
    let good = corp.token().sign();
    let nested = "[".repeat(10_000);
    let bearer = |token: &str| vec![format!("Bearer {token}").into_bytes()];
    let table: Vec<(&str, Vec<Vec<u8>>, &str)> = vec![
        ("nothing", vec![], "token-missing"),
        ("another scheme", vec![b"Basic dXNlcjpwYXNz".to_vec()], "token-missing"),
        ("two tokens", [bearer(&good), bearer(&good)].concat(), "credentials-malformed"),
        ("an empty token", vec![b"Bearer ".to_vec()], "credentials-malformed"),
        ("two words", bearer(&format!("{good} {good}")), "credentials-malformed"),
        ("bytes beyond ASCII", vec![b"Bearer \xff\xfe".to_vec()], "credentials-malformed"),
        ("four parts", bearer(&format!("{good}.x")), "token-malformed"),
        ("one part", bearer("aaaa"), "token-malformed"),
        ("a very long one", bearer(&format!("{good}{}", "A".repeat(20_000))), "token-malformed"),
        ("a payload of brackets", bearer(&corp.token().sign_payload(nested.as_bytes())), "token-malformed"),
        ("a claim said twice", bearer(&corp.token().sign_payload(b"{\"sub\":\"a\",\"sub\":\"b\"}")), "token-malformed"),
        ("an expiry that is no number", bearer(&corp.token().claim("exp", "soon").sign()), "token-rejected"),
        ("no expiry", bearer(&corp.token().without("exp").sign()), "token-rejected"),
        (
            "a critical extension",
            bearer(&corp.token().header("crit", serde_json::json!(["x"])).sign()),
            "token-rejected",
        ),
        ("another's key", bearer(&corp.token().signed_by_stranger()), "token-rejected"),
    ];
    let mut expected = std::collections::BTreeMap::new();
    for (name, values, reason) in &table {
        let request =
            values.iter().fold(client().get(edge.url("/")), |request, value| request.header("authorization", value));
        let answer = request.send().await;
        assert_eq!(answer.json()["type"], format!("urn:sluice:problem:{reason}"), "{name}");
        *expected.entry(*reason).or_insert(0.0) += 1.0;
    }
    assert_eq!(origin.count(), 0);
    let metrics = edge.metrics().await;
    for (reason, count) in expected {
        assert_eq!(metrics.value("sluice_refusals_total", &[("reason", reason)]), count, "{reason}");
        assert_eq!(metrics.value("sluice_auth_verifications_total", &[("outcome", reason)]), count, "{reason}");
    }
    let token = Arc::new(good);
    assert!(!edge.logs().iter().any(|line| line.text.contains(token.as_str())), "a token was logged");
    calm(edge).await;
}
