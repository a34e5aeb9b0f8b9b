//! Deadlines that hold whatever the upstream does.

use std::net::SocketAddr;
use std::time::Duration;

use sluice_testkit::{Reply, eventually, origin, raw};
use sluice_upstream::config::Protocol;
use sluice_vocabulary::measure::Span;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::world::{reason, timed, upstream, world};

const DROP: Duration = Duration::from_millis(20);

/// By how much a deadline may end early: it is counted from the coarse clock, which is a tick behind at most.
const TICK: Duration = Duration::from_millis(10);

/// An origin that sends these bytes one at a time, for ever over again from `again` on.
async fn dripping(bytes: &'static [u8], again: usize) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut tcp, _)) = listener.accept().await {
            tokio::spawn(async move {
                tcp.set_nodelay(true).unwrap();
                let mut request = [0; 4096];
                let _ = tcp.read(&mut request).await;
                let mut at = 0;
                while tcp.write_all(&bytes[at..=at]).await.is_ok() {
                    at = if at + 1 == bytes.len() { again } else { at + 1 };
                    tokio::time::sleep(DROP).await;
                }
            });
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn a_header_that_drips_is_cut_at_the_response_deadline() {
    let address = dripping(b"HTTP/1.1 200 OK\r\nx-drip: aaaa", 26).await;
    let world = world();
    world.apply(&[("drip", &upstream([address], |config| config.timeouts.response = Span::millis(300)))]);
    let proxy = world.proxy().await;
    let (answer, took) = timed(proxy.get("/drip/")).await;
    assert_eq!((answer.status.as_u16(), reason(&answer)), (504, "upstream-timeout"));
    assert!((Duration::from_millis(300) - TICK..Duration::from_secs(2)).contains(&took), "{took:?}");
    let metrics = world.metrics();
    assert_eq!(metrics.value("connections_cut_total", &[("upstream", "drip")]), 1.0);
    assert_eq!(metrics.value("requests_total", &[("upstream", "drip"), ("outcome", "timeout")]), 1.0);
    eventually("the connection to be closed", || async {
        (world.endpoint("drip", 0)["connections_open"] == 0).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn informational_responses_buy_no_time() {
    let address = dripping(b"HTTP/1.1 103 Early Hints\r\n\r\n", 0).await;
    let world = world();
    world.apply(&[("hints", &upstream([address], |config| config.timeouts.response = Span::millis(900)))]);
    let proxy = world.proxy().await;
    let mut connection = raw(proxy.address).await;
    let (_, took) = timed(async {
        connection.send("GET /hints/ HTTP/1.1\r\nhost: a\r\n\r\n").await;
        connection.read_to_end().await
    })
    .await;
    assert!((Duration::from_millis(900) - TICK..Duration::from_secs(3)).contains(&took), "{took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_drips_is_cut_at_the_total() {
    let address = dripping(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\na", 44).await;
    let world = world();
    let config = upstream([address], |config| config.timeouts.total = Span::secs(2));
    world.apply(&[("drip", &config)]);
    let proxy = world.proxy().await;
    let (answer, took) = timed(proxy.request("GET", "/drip/").try_send()).await;
    assert!(answer.is_err(), "the client learns that the body is not whole");
    assert!((Duration::from_secs(2)..Duration::from_secs(4)).contains(&took), "{took:?}");
    let outcome = [("upstream", "drip"), ("outcome", "timeout")];
    eventually("the outcome", || async { (world.metrics().value("requests_total", &outcome) == 1.0).then_some(()) })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_falls_silent_is_cut_at_the_idle_limit_even_where_that_is_the_shorter() {
    let pieces = ["one", "two"];
    let quiet = origin().otherwise(Reply::drip(pieces, Duration::from_secs(8))).run().await;
    let world = world();
    let config = upstream([quiet.address()], |config| {
        config.timeouts.response = Span::secs(20);
        config.timeouts.idle = Span::millis(300);
    });
    world.apply(&[("quiet", &config)]);
    let proxy = world.proxy().await;
    // The header comes with the first piece or before it; silence begins with the header at the latest.
    let (answer, took) = timed(proxy.request("GET", "/quiet/").try_send()).await;
    assert!(answer.is_err() || answer.is_ok_and(|answer| answer.status == 504));
    assert!(took < Duration::from_secs(5), "{took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_without_a_length_that_is_cut_never_passes_for_whole() {
    // Such a body ends with its connection, so that the end of the one could be taken for the end of the other.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut tcp, _) = listener.accept().await.unwrap();
        let mut rest = [0; 4096];
        let _ = tcp.read(&mut rest).await;
        tcp.write_all(b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\npart").await.unwrap();
        while matches!(tcp.read(&mut rest).await, Ok(length) if length > 0) {}
    });
    let world = world();
    let config = upstream([address], |config| {
        config.timeouts.response = Span::secs(20);
        config.timeouts.idle = Span::millis(300);
    });
    world.apply(&[("part", &config)]);
    let proxy = world.proxy().await;
    let (answer, took) = timed(proxy.request("GET", "/part/").try_send()).await;
    assert!(answer.is_err(), "{answer:?}");
    assert!(took < Duration::from_secs(5), "{took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_has_no_total_and_goes_on_while_it_moves() {
    let ticking = origin().otherwise(Reply::drip(vec!["tick"; 20], Duration::from_millis(40))).run().await;
    let world = world().streaming();
    let config = upstream([ticking.address()], |config| {
        config.timeouts.total = Span::millis(200);
        config.timeouts.idle = Span::millis(600);
    });
    world.apply(&[("ticks", &config)]);
    let proxy = world.proxy().await;
    let (answer, took) = timed(proxy.get("/ticks/")).await;
    assert_eq!((answer.status.as_u16(), answer.body.len()), (200, 80));
    assert!(took > Duration::from_millis(600), "{took:?}");
    assert_eq!(world.metrics().value("connections_cut_total", &[("upstream", "ticks")]), 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_reader_is_not_taken_for_a_silent_upstream() {
    const LENGTH: u64 = 24 << 20;
    let big = origin().otherwise(Reply::zeros(LENGTH)).run().await;
    let world = world();
    world.apply(&[("big", &upstream([big.address()], |config| config.timeouts.idle = Span::millis(300)))]);
    let proxy = world.proxy().await;
    let mut tcp = tokio::net::TcpStream::connect(proxy.address).await.unwrap();
    tcp.write_all(b"GET /big/ HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await.unwrap();
    // Long enough for every buffer on the way to fill and the idle limit to pass three times.
    tokio::time::sleep(Duration::from_millis(1_000)).await;
    let mut read = 0;
    let mut buffer = vec![0; 1 << 20];
    loop {
        match tcp.read(&mut buffer).await.unwrap() {
            0 => break,
            length => read += length as u64,
        }
    }
    assert!(read > LENGTH, "{read} of {LENGTH} and a header");
    assert_eq!(world.metrics().value("connections_cut_total", &[("upstream", "big")]), 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_never_answers_is_given_up_over_both_versions_of_http() {
    let mute = origin().otherwise(Reply::silence()).run().await;
    let world = world();
    let limits = |config: &mut sluice_upstream::UpstreamConfig| {
        config.timeouts.response = Span::millis(300);
        config.timeouts.idle = Span::millis(300);
    };
    let http1 = upstream([mute.address()], limits);
    let http2 = upstream([mute.address()], |config| {
        limits(config);
        config.protocol = Protocol::Http2;
    });
    world.apply(&[("one", &http1), ("two", &http2)]);
    let proxy = world.proxy().await;
    for path in ["/one/", "/two/"] {
        let (answer, took) = timed(proxy.get(path)).await;
        assert_eq!((answer.status.as_u16(), reason(&answer)), (504, "upstream-timeout"), "{path}");
        assert!((Duration::from_millis(290)..Duration::from_secs(3)).contains(&took), "{path}: {took:?}");
    }
    assert_eq!(mute.count(), 2, "nothing that timed out is sent again");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_total_holds_over_http2_while_the_body_drips() {
    let dripping = origin().otherwise(Reply::drip(vec!["drop"; 200], Duration::from_millis(50))).run().await;
    let world = world();
    let config = upstream([dripping.address()], |config| {
        config.protocol = Protocol::Http2;
        config.timeouts.total = Span::millis(700);
    });
    world.apply(&[("drip", &config)]);
    let proxy = world.proxy().await;
    let (answer, took) = timed(proxy.request("GET", "/drip/").try_send()).await;
    assert!(answer.is_err());
    assert!((Duration::from_millis(650)..Duration::from_secs(3)).contains(&took), "{took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_swallows_connections_is_given_up_in_time() {
    // A listener whose queue of one is full lets further handshakes hang.
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    socket.listen(0).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    let filler = std::net::TcpStream::connect(address).unwrap();
    let world = world();
    let config = upstream([address], |config| {
        config.timeouts.connect = Span::millis(200);
        config.retries.attempts = 0;
    });
    world.apply(&[("hole", &config)]);
    let proxy = world.proxy().await;
    let (answer, took) = timed(proxy.get("/hole/")).await;
    assert_eq!((answer.status.as_u16(), reason(&answer)), (502, "upstream-connect"));
    assert!((Duration::from_millis(200)..Duration::from_secs(2)).contains(&took), "{took:?}");
    drop(filler);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handshake_that_is_never_answered_is_given_up_in_time() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let world = world();
    let config = upstream([address], |config| {
        config.tls = Some(serde_json::from_value(serde_json::json!({ "server_name": "mute.test" })).unwrap());
        config.timeouts.tls_handshake = Span::millis(300);
        config.retries.attempts = 0;
    });
    world.apply(&[("mute", &config)]);
    let proxy = world.proxy().await;
    let (answer, took) = timed(proxy.get("/mute/")).await;
    assert_eq!((answer.status.as_u16(), reason(&answer)), (502, "upstream-connect"));
    assert!((Duration::from_millis(300) - TICK..Duration::from_secs(2)).contains(&took), "{took:?}");
    eventually("the place to be given back", || async {
        (world.endpoint("mute", 0)["connections_open"] == 0).then_some(())
    })
    .await;
    drop(listener);
}
