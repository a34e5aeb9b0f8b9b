//! Configuration that changes while connections are open, and sockets that cannot be had.

use std::sync::Arc;

use prometheus_client::registry::Registry;
use serde_json::json;
use sluice_downstream::{Deps, StartError, Unit};
use sluice_vocabulary::clock::{SystemClock, SystemRandom};

use crate::world::{edge, parse, status};

#[tokio::test(flavor = "multi_thread")]
async fn limits_change_for_the_next_request_even_on_an_open_connection() {
    let edge = edge(json!({})).await;
    let mut client = edge.connect().await;
    let request = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello";
    client.send(request).await;
    assert_eq!(status(&client.response().await.0), 200);
    let changed = json!({
        "listeners": [{"address": "127.0.0.1:0"}],
        "downstream": {"workers": 1, "limits": {"body_size": "4B"}},
    });
    edge.handle.apply(&parse(changed)).unwrap();
    client.send(request).await;
    assert_eq!(status(&client.response().await.0), 413);
    assert_eq!(status(&edge.exchange(request).await), 413);
    assert_eq!(edge.handle.body_limit(), 4);
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_change_live_is_named_and_the_rest_applies() {
    let edge = edge(json!({})).await;
    let changed = json!({
        "listeners": [{"address": "127.0.0.1:1", "http2": false}, {"address": "127.0.0.1:2"}],
        "downstream": {"workers": 7, "limits": {"body_size": "4B"}},
    });
    let faults = edge.handle.apply(&parse(changed)).unwrap_err();
    let mut named: Vec<String> = faults.iter().map(|fault| fault.path.to_string()).collect();
    named.sort();
    assert_eq!(named, ["downstream.workers", "listeners", "listeners[0].address", "listeners[0].http2"]);
    assert_eq!(edge.handle.body_limit(), 4);
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_is_taken_is_an_error_that_names_it() {
    let edge = edge(json!({})).await;
    let config = parse(json!({"listeners": [{"address": edge.address()}]}));
    let deps = Deps { clock: Arc::new(SystemClock), random: Arc::new(SystemRandom) };
    let error = Unit::new(&config, deps, &mut Registry::default()).err().unwrap();
    assert!(matches!(error, StartError::Bind { address, .. } if address == edge.address()), "{error}");
    assert!(error.to_string().contains(&edge.address().to_string()));
    edge.stop().await;
}
