//! Which endpoint gets a request.

use std::time::Duration;

use sluice_testkit::{Reply, eventually, origin};
use sluice_upstream::Tried;
use sluice_upstream::config::{Balance, EndpointConfig, Protocol};
use sluice_vocabulary::Reason;
use sluice_vocabulary::clock::ManualClock;
use sluice_vocabulary::measure::Span;

use crate::world::{nowhere, reason, upstream, world, world_at};

#[tokio::test(flavor = "multi_thread")]
async fn each_endpoint_gets_its_weight_of_the_requests() {
    let (heavy, light, other) = (origin().run().await, origin().run().await, origin().run().await);
    let world = world();
    let config = upstream([heavy.address(), light.address(), other.address()], |config| config.endpoints[0].weight = 5);
    world.apply(&[("orders", &config)]);
    let proxy = world.proxy().await;
    for _ in 0..35 {
        assert_eq!(proxy.get("/orders/").await.status, 200);
    }
    assert_eq!((heavy.count(), light.count(), other.count()), (25, 5, 5));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_fails_in_a_row_is_left_out_and_taken_back_on_trial() {
    let good = origin().run().await;
    let dead = nowhere().await;
    let clock = ManualClock::at(0);
    let world = world_at(&clock);
    let config = upstream([dead, good.address()], |config| {
        config.ejection.consecutive_failures = 2;
        config.retries.attempts = 0;
    });
    world.apply(&[("orders", &config)]);
    let proxy = world.proxy().await;
    let mut statuses = Vec::new();
    for _ in 0..4 {
        statuses.push(proxy.get("/orders/").await.status.as_u16());
    }
    assert_eq!(statuses, [502, 200, 502, 200], "two failures are needed");
    for _ in 0..6 {
        assert_eq!(proxy.get("/orders/").await.status, 200, "it is left out");
    }
    let seen = world.endpoint("orders", 0);
    assert_eq!((&seen["usable"], &seen["ejections"]), (&false.into(), &1.into()));
    assert_eq!(seen["ejected_for_seconds"].as_f64(), Some(30.0));

    clock.advance(Duration::from_secs(31));
    let mut after: Vec<u16> = Vec::new();
    for _ in 0..4 {
        after.push(proxy.get("/orders/").await.status.as_u16());
    }
    assert_eq!(after.iter().filter(|status| **status == 502).count(), 1, "one failure ejects it again: {after:?}");

    clock.advance(Duration::from_secs(31));
    let back = origin().at(dead).run().await;
    for _ in 0..4 {
        assert_eq!(proxy.get("/orders/").await.status, 200);
    }
    assert_eq!(back.count(), 2, "it is back");
    assert_eq!(world.metrics().value("ejections_total", &[("upstream", "orders")]), 2.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn ejection_never_takes_more_than_its_share() {
    let clock = ManualClock::at(0);
    let world = world_at(&clock);
    let (a, b) = (nowhere().await, nowhere().await);
    let alone = upstream([a], |config| config.ejection.consecutive_failures = 1);
    let pair = upstream([a, b], |config| config.ejection.consecutive_failures = 1);
    world.apply(&[("alone", &alone), ("pair", &pair)]);
    let proxy = world.proxy().await;
    for _ in 0..6 {
        assert_eq!(reason(&proxy.get("/alone/").await), "upstream-connect");
        assert_eq!(reason(&proxy.get("/pair/").await), "upstream-connect");
    }
    assert_eq!(world.endpoint("alone", 0)["usable"], true, "an only endpoint stays");
    let usable = [0, 1].map(|index| world.endpoint("pair", index)["usable"] == true);
    assert_eq!(usable.iter().filter(|usable| **usable).count(), 1, "half of two is one");
}

#[tokio::test(flavor = "multi_thread")]
async fn statuses_that_say_so_count_as_failures_and_others_do_not() {
    let world = world_at(&ManualClock::at(0));
    let ill = origin().otherwise(Reply::status(503)).run().await;
    let well = origin().otherwise(Reply::status(500)).run().await;
    let config = upstream([ill.address(), well.address()], |config| config.ejection.consecutive_failures = 3);
    world.apply(&[("orders", &config)]);
    let proxy = world.proxy().await;
    for _ in 0..12 {
        proxy.get("/orders/").await;
    }
    assert_eq!((ill.count(), well.count()), (3, 9));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_slower_endpoint_gets_less_when_latency_decides() {
    let slow = origin().otherwise(Reply::text("slow").after(Duration::from_millis(40))).run().await;
    let fast = origin().otherwise(Reply::text("fast")).run().await;
    let world = world();
    world.apply(&[("orders", &upstream([slow.address(), fast.address()], |c| c.balance = Balance::LeastLatency))]);
    let proxy = world.proxy().await;
    for _ in 0..40 {
        assert_eq!(proxy.get("/orders/").await.status, 200);
    }
    // Two of the same taken by chance still send some to the slow one: the draw is repeated four times at most.
    assert!(slow.count() < 10 && fast.count() > 30, "{} slow, {} fast", slow.count(), fast.count());
}

#[tokio::test]
async fn the_busier_endpoint_gets_less_when_requests_decide() {
    let world = world();
    let config = upstream(["127.0.0.1:1", "127.0.0.1:2"], |config| config.balance = Balance::LeastRequests);
    world.apply(&[("orders", &config)]);
    let cluster = world.cluster("orders");
    let mut held = Vec::new();
    for _ in 0..40 {
        held.push(cluster.choose(&Tried::default()).await.unwrap());
    }
    let first = held.iter().filter(|chosen| chosen.endpoint().port() == 1).count();
    assert!((15..=25).contains(&first), "{first} of 40");
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_are_bounded_and_what_waits_too_long_is_refused() {
    let slow = origin().otherwise(Reply::text("done").after(Duration::from_millis(300))).run().await;
    let world = world();
    let config = upstream([slow.address()], |config| {
        config.max_connections = 2;
        config.queue_timeout = Span::millis(100);
    });
    world.apply(&[("orders", &config)]);
    let proxy = world.proxy().await;
    let all = futures(5, || proxy.get("/orders/")).await;
    let served = all.iter().filter(|answer| answer.status == 200).count();
    let refused: Vec<_> = all.iter().filter(|answer| answer.status != 200).collect();
    assert_eq!(served, 2);
    assert!(refused.iter().all(|answer| answer.status == 503 && reason(answer) == "upstream-saturated"));
    assert_eq!(slow.connections(), 2);
    assert_eq!(world.metrics().value("saturated_total", &[("upstream", "orders")]), 3.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_is_served_when_a_connection_comes_free() {
    let slow = origin().otherwise(Reply::text("done").after(Duration::from_millis(100))).run().await;
    let world = world();
    let config = upstream([slow.address()], |config| {
        config.max_connections = 1;
        config.queue_timeout = Span::secs(5);
    });
    world.apply(&[("orders", &config)]);
    let proxy = world.proxy().await;
    let all = futures(4, || proxy.get("/orders/")).await;
    assert!(all.iter().all(|answer| answer.status == 200));
    assert_eq!(slow.connections(), 1, "one after the other, over the same connection");
    let used = |reused| world.metrics().value("connections_used_total", &[("upstream", "orders"), ("reused", reused)]);
    assert_eq!((used("no"), used("yes")), (1.0, 3.0));
    eventually("all places to be given back", || async {
        (world.metrics().value("requests_active", &[("upstream", "orders")]) == 0.0).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pooled_connection_that_nobody_may_take_any_more_makes_room() {
    let hinting = origin().otherwise(Reply::text("x").header("keep-alive", "timeout=5")).run().await;
    let world = world();
    world.apply(&[("orders", &upstream([hinting.address()], |config| config.max_connections = 1))]);
    let proxy = world.proxy().await;
    // The first answer shortens the limit, so that its own connection is not taken from the pool again.
    for _ in 0..3 {
        assert_eq!(proxy.get("/orders/").await.status, 200);
    }
    assert_eq!(hinting.connections(), 2);
    assert_eq!(world.endpoint("orders", 0)["connections_open"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn http2_requests_share_connections_within_their_bound() {
    let slow = origin().otherwise(Reply::text("done").after(Duration::from_millis(100))).run().await;
    let world = world();
    let config = upstream([slow.address()], |config| {
        config.protocol = Protocol::Http2;
        config.max_connections = 2;
        config.http2.max_streams = 50;
    });
    world.apply(&[("orders", &config)]);
    let proxy = world.proxy().await;
    assert_eq!(proxy.get("/orders/").await.status, 200);
    let all = futures(30, || proxy.get("/orders/")).await;
    assert!(slow.connections() <= 2, "{} connections", slow.connections());
    // A shared connection is out on loan for a moment with each request; one that finds it so and no room for another is
    // told so, and never makes a third.
    assert!(all.iter().all(|answer| answer.status == 200 || reason(answer) == "upstream-saturated"));
    assert!(all.iter().filter(|answer| answer.status == 200).count() >= 2);
}

#[tokio::test]
async fn no_more_may_wait_than_are_allowed() {
    let world = world();
    let config = upstream(["127.0.0.1:1"], |config| {
        config.max_connections = 1;
        config.max_waiting = 0;
        config.queue_timeout = Span::secs(30);
    });
    world.apply(&[("orders", &config)]);
    let cluster = world.cluster("orders");
    let held = cluster.choose(&Tried::default()).await.unwrap();
    assert_eq!(cluster.choose(&Tried::default()).await.unwrap_err().reason, Reason::UpstreamSaturated);
    drop(held);
    assert!(cluster.choose(&Tried::default()).await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unchanged_endpoint_keeps_what_is_known_of_it_through_a_new_configuration() {
    let world = world_at(&ManualClock::at(0));
    let (dead, good) = (nowhere().await, origin().run().await);
    let mut config = upstream([dead, good.address()], |config| config.ejection.consecutive_failures = 1);
    world.apply(&[("orders", &config)]);
    let proxy = world.proxy().await;
    for _ in 0..2 {
        assert_eq!(proxy.get("/orders/").await.status, 200);
    }
    let before = world.cluster("orders");
    assert_eq!(world.endpoint("orders", 0)["usable"], false);

    world.apply(&[("orders", &config)]);
    assert!(std::sync::Arc::ptr_eq(&before, &world.cluster("orders")), "the same configuration is the same cluster");

    config.endpoints.push(EndpointConfig { address: "127.0.0.1:9".into(), weight: 2 });
    world.apply(&[("orders", &config)]);
    assert_eq!(world.endpoint("orders", 0)["usable"], false, "still ejected");
    assert_eq!(world.endpoint("orders", 2)["weight"], 2);
}

/// Runs `count` of them at once.
async fn futures<F: Future>(count: usize, make: impl Fn() -> F) -> Vec<F::Output> {
    futures_util::future::join_all((0..count).map(|_| make())).await
}
