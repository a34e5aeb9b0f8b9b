//! An upstream that fails costs its own request and nothing else: the client gets an answer within the deadline, what is not
//! safe to repeat is not repeated, and a truncated answer never looks whole.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use sluice_testkit::{Gateway, Origin, Reply, Response, client, gateway, origin, raw, raw_origin};

async fn before(address: SocketAddr) -> Gateway {
    gateway()
        .config(
            "
upstreams:
  origin:
    endpoints: ['@origin@']
    timeouts: { connect: 500ms, response: 300ms, idle: 300ms, total: 1s }
    ejection: { consecutive_failures: 1000 }
routes:
  - { name: all, match: { path: '/*' }, upstream: origin }
",
        )
        .set("origin", address)
        .run()
        .await
}

/// The answer is the problem `reason`, with `status`.
fn assert_problem(answer: &Response, status: u16, reason: &str) {
    assert_eq!(answer.status, status, "{}", answer.text());
    assert_eq!(answer.json()["type"], format!("urn:sluice:problem:{reason}"));
}

/// Another request on the same gateway is served.
async fn assert_unharmed(edge: &Gateway, origin: &Origin) {
    origin.script("/fine", Reply::text("fine"));
    assert_eq!(client().get(edge.url("/fine")).send().await.text(), "fine");
}

#[tokio::test]
async fn a_reset_before_any_answer_is_tried_again_only_where_that_is_safe() {
    let origin = origin().on("/reset", Reply::reset()).run().await;
    let edge = before(origin.address()).await;
    assert_problem(&client().post(edge.url("/reset"), "pay").send().await, 502, "upstream-reset");
    assert_eq!(origin.count(), 1, "a POST was repeated");
    assert_problem(&client().get(edge.url("/reset")).send().await, 502, "upstream-reset");
    assert!((2..=3).contains(&origin.count()), "a GET was sent {} times", origin.count() - 1);
    assert_unharmed(&edge, &origin).await;
}

#[tokio::test]
async fn an_answer_that_breaks_off_never_looks_whole() {
    let origin = origin()
        .on("/length", Reply::text("0123456789").reset_within())
        .on("/chunked", Reply::drip(["01234", "56789"], Duration::ZERO).reset_within())
        .run()
        .await;
    let edge = before(origin.address()).await;
    for path in ["/length", "/chunked"] {
        for client in [client(), client().http2()] {
            let outcome = client.get(edge.url(path)).try_send().await;
            assert!(outcome.is_err(), "{path}: half an answer came as {outcome:?}");
        }
    }
    assert_unharmed(&edge, &origin).await;
}

#[tokio::test]
async fn a_reset_after_a_whole_answer_goes_unnoticed() {
    let origin = origin().on("/after", Reply::text("whole").reset_after()).run().await;
    let edge = before(origin.address()).await;
    for _ in 0..20 {
        let answer = client().get(edge.url("/after")).send().await;
        assert_eq!((answer.status.as_u16(), answer.text()), (200, "whole"));
    }
}

#[tokio::test]
async fn an_upstream_that_never_answers_is_given_up_at_its_deadline() {
    let origin = origin().on("/never", Reply::silence()).run().await;
    let edge = before(origin.address()).await;
    let begun = Instant::now();
    assert_problem(&client().post(edge.url("/never"), "x").send().await, 504, "upstream-timeout");
    assert!(begun.elapsed() < Duration::from_secs(5), "it took {:?}", begun.elapsed());
    assert_unharmed(&edge, &origin).await;
}

#[tokio::test]
async fn an_upstream_that_drips_does_not_outlive_the_total_deadline() {
    // Each pause is shorter than the idle deadline; all of them together are far beyond the total one.
    let origin = origin().on("/drip", Reply::drip(vec!["x"; 100], Duration::from_millis(100))).run().await;
    let edge = before(origin.address()).await;
    let begun = Instant::now();
    assert!(client().get(edge.url("/drip")).try_send().await.is_err());
    assert!(begun.elapsed() < Duration::from_secs(5), "it took {:?}", begun.elapsed());
    let ended = async || (origin.open_connections() == 0).then_some(());
    sluice_testkit::eventually("the origin's connection to end", ended).await;
}

#[tokio::test]
async fn an_upstream_that_cannot_be_reached_is_said_so() {
    let gone = origin().run().await;
    let address = gone.address();
    gone.stop().await;
    let edge = before(address).await;
    assert_problem(&client().get(edge.url("/")).send().await, 502, "upstream-connect");
    // When it comes back, so does the service.
    let back = origin().at(address).run().await;
    assert_unharmed(&edge, &back).await;
}

#[tokio::test]
async fn an_answer_that_is_not_http_reaches_no_client() {
    for nonsense in ["\0\0\0 what?\r\n\r\n", "HTTP/1.1 OK\r\n\r\n", "HTTP/1.1 200 OK\r\nno colon\r\n\r\n"] {
        let origin = raw_origin(nonsense).await;
        let edge = before(origin.address()).await;
        let answer = client().post(edge.url("/"), "x").send().await;
        assert_problem(&answer, 502, "upstream-protocol");
    }
}

#[tokio::test]
async fn an_answer_with_two_lengths_reaches_the_client_with_at_most_one() {
    let origin =
        raw_origin("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ncontent-length: 3\r\n\r\n5\r\nabcde\r\n0\r\n\r\n")
            .await;
    let edge = before(origin.address()).await;
    let mut connection = raw(edge.address()).await;
    connection.send("GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
    // Reading it strictly fails on both framings in one answer.
    let answer = connection.read_response().await;
    assert!(answer.status == 502 || answer.text() == "abcde", "{answer:?}");
}

#[tokio::test]
async fn a_client_refused_for_want_of_an_upstream_keeps_its_connection() {
    let origin = origin().on("/first", Reply::silence()).otherwise(Reply::text("fine")).run().await;
    let edge = gateway()
        .config(
            "
upstreams:
  origin: { endpoints: ['@origin@'], max_connections: 1, queue_timeout: 1ms }
routes:
  - { name: all, match: { path: '/*' }, upstream: origin }
",
        )
        .set("origin", origin.address())
        .run()
        .await;
    let first = client().get(edge.url("/first"));
    let first = tokio::spawn(async move { first.try_send().await.map(drop) });
    sluice_testkit::eventually("the one connection to be taken", async || (origin.count() == 1).then_some(())).await;
    let mut connection = raw(edge.address()).await;
    for _ in 0..3 {
        connection.send("GET /second HTTP/1.1\r\nhost: x\r\n\r\n").await;
        let answer = connection.read_response().await;
        assert_eq!((answer.status, answer.header("connection")), (503, Some("keep-alive")), "{answer:?}");
    }
    // The client of the first goes away, and its upstream connection with it.
    first.abort();
    sluice_testkit::eventually("an end of the first", async || (origin.open_connections() == 0).then_some(())).await;
    connection.send("GET /second HTTP/1.1\r\nhost: x\r\n\r\n").await;
    let answer = connection.read_response().await;
    assert_eq!((answer.status, answer.text()), (200, "fine"));
}
