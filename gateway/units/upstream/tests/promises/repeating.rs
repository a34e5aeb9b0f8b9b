//! What is sent twice, and what never is.

use sluice_testkit::{Reply, origin, raw_origin};
use sluice_upstream::config::{Protocol, Repeat};
use tokio::net::TcpListener;

use crate::world::{nowhere, reason, upstream, world};

#[tokio::test(flavor = "multi_thread")]
async fn what_found_no_connection_goes_to_another_endpoint_whatever_its_method() {
    let good = origin().run().await;
    let world = world();
    world.apply(&[("orders", &upstream([nowhere().await, good.address()], |_| {}))]);
    let proxy = world.proxy().await;
    for method in ["GET", "POST", "PATCH", "DELETE"] {
        let answer = proxy.request(method, "/orders/").body("the body").send().await;
        assert_eq!(answer.status, 200, "{method}");
    }
    assert_eq!(good.count(), 4);
    assert!(good.requests().iter().all(|seen| &*seen.body == b"the body"), "with its body");
    assert!(world.metrics().value("retries_total", &[("upstream", "orders"), ("verdict", "granted")]) >= 2.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_breaks_is_repeated_for_safe_methods_alone() {
    let breaking = origin().otherwise(Reply::reset()).run().await;
    let good = origin().run().await;
    for (method, repeat, repeated) in [
        ("GET", Repeat::Safe, true),
        ("HEAD", Repeat::Safe, true),
        ("PUT", Repeat::Safe, false),
        ("PUT", Repeat::Idempotent, true),
        ("POST", Repeat::Safe, false),
        ("POST", Repeat::Idempotent, false),
    ] {
        let (broken_before, good_before) = (breaking.count(), good.count());
        // A world each, so that its first turn is the breaking endpoint's.
        let world = world();
        world.apply(&[("orders", &upstream([breaking.address(), good.address()], |c| c.retries.repeat = repeat))]);
        let proxy = world.proxy().await;
        let answer = proxy.request(method, "/orders/").body("x").send().await;
        assert_eq!(breaking.count() - broken_before, 1, "{method} {repeat:?}");
        assert_eq!(good.count() - good_before, usize::from(repeated), "{method} {repeat:?}");
        let expected = if repeated { (200, "none") } else { (502, "upstream-reset") };
        assert_eq!((answer.status.as_u16(), reason(&answer)), expected, "{method} {repeat:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reused_connection_that_was_closed_is_no_proof_for_a_post() {
    // Each connection answers once and is then closed as the second request arrives.
    let origin = origin().otherwise(Reply::text("first")).on("/orders/second", Reply::hang_up()).run().await;
    let world = world();
    world.apply(&[("orders", &upstream([origin.address()], |_| {}))]);
    let proxy = world.proxy().await;
    assert_eq!(proxy.get("/orders/first").await.status, 200);
    let answer = proxy.request("POST", "/orders/second").body("pay").send().await;
    assert_eq!((answer.status.as_u16(), reason(&answer)), (502, "upstream-reset"));
    assert_eq!(origin.requests().iter().filter(|seen| seen.target == "/orders/second").count(), 1, "sent once");
    assert_eq!(origin.connections(), 1, "over the reused connection");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_repeated_once_an_answer_has_begun() {
    let torn = origin().otherwise(Reply::text("half of this").close_within()).run().await;
    let good = origin().run().await;
    let world = world();
    world.apply(&[("orders", &upstream([torn.address(), good.address()], |_| {}))]);
    let proxy = world.proxy().await;
    assert!(proxy.request("GET", "/orders/").try_send().await.is_err());
    assert_eq!((torn.count(), good.count()), (1, 0));
    assert_eq!(world.metrics().value("requests_total", &[("upstream", "orders"), ("outcome", "reset")]), 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_http2_refuses_unread_is_repeated_even_for_a_post() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let refusing = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut connection = h2::server::handshake(tcp).await.unwrap();
                while let Some(Ok((_, mut respond))) = connection.accept().await {
                    respond.send_reset(h2::Reason::REFUSED_STREAM);
                }
            });
        }
    });
    let good = origin().run().await;
    let world = world();
    world.apply(&[("orders", &upstream([refusing, good.address()], |config| config.protocol = Protocol::Http2))]);
    let proxy = world.proxy().await;
    for _ in 0..4 {
        assert_eq!(proxy.request("POST", "/orders/").body("pay").send().await.status, 200);
    }
    assert_eq!(good.count(), 4);
    assert!(good.requests().iter().all(|seen| &*seen.body == b"pay"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_not_http_is_an_error_of_its_own() {
    let strange = raw_origin("220 mail.example ESMTP ready\r\n\r\n").await;
    let world = world();
    world.apply(&[("mail", &upstream([strange.address()], |_| {}))]);
    let proxy = world.proxy().await;
    let answer = proxy.get("/mail/").await;
    assert_eq!((answer.status.as_u16(), reason(&answer)), (502, "upstream-protocol"));
    assert_eq!(strange.count(), 1, "not repeated");
}

#[tokio::test(flavor = "multi_thread")]
async fn when_everything_fails_retries_stay_within_their_budget() {
    let breaking = origin().otherwise(Reply::reset()).run().await;
    let world = world();
    world.apply(&[("orders", &upstream([breaking.address()], |_| {}))]);
    let proxy = world.proxy().await;
    for _ in 0..50 {
        assert_eq!(proxy.get("/orders/").await.status, 502);
    }
    // Ten saved up, and a fifth of fifty.
    assert!((50 + 18..=50 + 21).contains(&breaking.count()), "{}", breaking.count());
    assert!(world.metrics().value("retries_total", &[("upstream", "orders"), ("verdict", "over_budget")]) >= 29.0);
}
