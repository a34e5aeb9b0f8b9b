//! What routing counts, and under which names.
#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use common::{path, table};
use prometheus_client::registry::Registry;
use sluice_routing::{DirectKind, Metrics};
use sluice_vocabulary::Reason;

#[test]
fn refusals_and_direct_answers_are_counted_by_bounded_labels_from_the_start() {
    let mut registry = Registry::default();
    let metrics = Metrics::new(&mut registry);
    metrics.table(&table(vec![path("a", "/a"), path("b", "/b")]));
    metrics.refused(Reason::NoRoute);
    metrics.refused(Reason::TokenMissing);
    metrics.clone().answered(DirectKind::Preflight);
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
    for line in [
        "refusals_total{reason=\"no-route\"} 1",
        "refusals_total{reason=\"method-not-allowed\"} 0",
        "refusals_total{reason=\"address-denied\"} 0",
        "direct_answers_total{kind=\"preflight\"} 1",
        "direct_answers_total{kind=\"redirect\"} 0",
        "direct_answers_total{kind=\"fixed\"} 0",
        "routes 2",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} in {text}");
    }
    assert!(!text.contains("token-missing"));
}
