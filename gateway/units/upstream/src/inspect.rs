//! What the admin's `/upstreams` shows.

use std::time::Duration;

use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::config::IdleTimeout;
use crate::endpoint::{Asked, Endpoint};
use crate::time::Ticks;

pub(crate) fn cluster(cluster: &Cluster) -> Value {
    let now = cluster.core.epoch.now();
    let identity = cluster.identity();
    let endpoints: Vec<Value> =
        cluster.members().endpoints.iter().map(|endpoint| self::endpoint(cluster, endpoint, now)).collect();
    json!({
        "balance": cluster.config.balance,
        "protocol": cluster.config.protocol,
        "tls": identity.tls.then(|| json!({
            "server_name": identity.server_name,
            "verified": identity.verify,
            "own_authorities": identity.ca.is_some(),
            "client_certificate": identity.client.is_some(),
        })),
        "tls_resumption": identity.resumption().as_str(),
        "endpoints": endpoints,
    })
}

fn endpoint(cluster: &Cluster, endpoint: &Endpoint, now: Ticks) -> Value {
    let state = &endpoint.state;
    let round_trip = cluster.core.round_trip(state.address);
    let configured = cluster.config.idle_timeout;
    let ejected = state.ejected_until().checked_sub(now).filter(|left| *left > 0);
    json!({
        "address": state.address.to_string(),
        "weight": endpoint.weight,
        "usable": state.usable(now),
        "health": match state.asked() {
            Asked::Unknown => "unknown",
            Asked::Well => "healthy",
            Asked::Unwell => "unhealthy",
        },
        "ejected_for_seconds": ejected.map(|left| seconds(Duration::from_nanos(left))),
        "ejections": state.ejections(),
        "consecutive_failures": state.failures(),
        "requests_active": state.active(),
        "connections_open": state.open(),
        "response_seconds": state.latency.average().map(seconds),
        "round_trip_seconds": round_trip.map(seconds),
        "idle_timeout": {
            "seconds": seconds(state.learned.idle_timeout(configured, round_trip)),
            "from": match (configured, state.learned.hint()) {
                (IdleTimeout::Fixed(_), _) => "configuration",
                (IdleTimeout::Auto, Some(_)) => "keep-alive hint",
                (IdleTimeout::Auto, None) => "default",
            },
            "hint_seconds": state.learned.hint().map(seconds),
            "last_idle_close_seconds": state.learned.last_idle_close().map(seconds),
        },
    })
}

/// To the microsecond, so that the figures can be read.
fn seconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e6
}
