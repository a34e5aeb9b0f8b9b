//! What is no request is answered, counted, and never seen by the application.

use crate::world::{edge, edge_with_route_limit, status};
use serde_json::json;
use sluice_downstream::Breach;

#[tokio::test(flavor = "multi_thread")]
async fn every_bad_head_of_the_golden_list_is_answered_counted_and_closed() {
    let edge = edge(json!({"timeouts": {"header": "300ms"}})).await;
    for (text, breach) in include!("golden/bad_heads.in") {
        if breach == Breach::HeaderTruncated || text == "PRI * HTTP/2.0\r\n\r\n" {
            continue; // Waits for the rest: see the deadlines.
        }
        let before = edge.refused(breach.slug());
        let response = edge.exchange(text).await;
        assert_eq!(status(&response), breach.reason().status().as_u16(), "{text:?}: {response:?}");
        assert!(
            response.contains("application/problem+json") && response.contains("connection: close"),
            "{response:?}"
        );
        assert!(response.contains(&format!("urn:sluice:problem:{}", breach.reason().slug())), "{response:?}");
        assert_eq!(edge.refused(breach.slug()), before + 1.0, "{text:?}");
    }
    assert_eq!(edge.app.so_far().await, []);
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_that_is_too_large_is_answered_431_though_the_client_is_still_sending() {
    let edge = edge(json!({"limits": {"header_size": "4KiB", "header_fields": 10}})).await;
    let large = format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "y".repeat(300_000));
    assert_eq!(status(&edge.exchange(large).await), 431);
    let many = format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "x: y\r\n".repeat(10));
    assert_eq!(status(&edge.exchange(many).await), 431);
    assert_eq!((edge.refused("header-size"), edge.refused("header-fields")), (1.0, 1.0));
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_beyond_the_limit_is_answered_413_before_or_while_it_comes() {
    let edge = edge(json!({"limits": {"body_size": "1KiB"}})).await;
    let counted = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1025\r\n\r\n";
    assert_eq!(status(&edge.exchange(counted).await), 413);
    assert_eq!(edge.app.so_far().await, []);
    let chunked = format!(
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n400\r\n{}\r\n1\r\nx\r\n0\r\n\r\n",
        "x".repeat(1024)
    );
    assert_eq!(status(&edge.exchange(chunked).await), 413);
    assert_eq!(edge.app.next().await.body, None);
    let exact =
        format!("POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 1024\r\n\r\n{}", "x".repeat(1024));
    assert_eq!(status(&edge.exchange(exact).await), 200);
    assert_eq!(edge.refused("body-size"), 2.0);
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_route_may_lower_the_limit_on_bodies() {
    let edge = edge_with_route_limit(4).await;
    assert_eq!(status(&edge.exchange("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello").await), 413);
    assert_eq!(
        status(
            &edge.exchange("POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 4\r\n\r\nhell").await
        ),
        200
    );
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn broken_chunks_are_answered_400_and_the_body_never_looks_whole() {
    let edge = edge(json!({})).await;
    for (chunks, breach) in [
        ("5\nhello\r\n0\r\n\r\n", "chunk-size"),
        ("5 \r\nhello\r\n0\r\n\r\n", "chunk-size"),
        ("5\r\nhelloX\r\n0\r\n\r\n", "chunk-end"),
        ("5;\x01\r\nhello\r\n0\r\n\r\n", "chunk-extension"),
        ("0\r\nbad trailer\r\n\r\n", "trailer"),
        ("5\r\nhello\r\n0\r\nX: a\nGET /smuggled HTTP/1.1\r\n\r\n", "trailer"),
    ] {
        let request = format!("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}");
        let response = edge.exchange(request).await;
        assert_eq!(status(&response), 400, "{chunks:?}: {response:?}");
        assert_eq!(edge.app.next().await.body, None, "{chunks:?}");
        assert!(edge.refused(breach) >= 1.0, "{chunks:?}");
    }
    assert_eq!(edge.app.so_far().await, []);
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_answer_to_head_has_no_body_and_that_to_connect_says_what_is_allowed() {
    let edge = edge(json!({})).await;
    let head = edge.exchange("HEAD / HTTP/1.1\r\n\r\n").await;
    assert!(status(&head) == 400 && head.ends_with("\r\n\r\n"), "{head:?}");
    let connect = edge.exchange("CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert!(status(&connect) == 405 && connect.contains("allow: GET"), "{connect:?}");
    edge.stop().await;
}
