//! Who a request's tenant is.
#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use common::world;
use serde_json::json;
use sluice_tenancy::Config;
use sluice_vocabulary::{Faults, Path};

const UNKNOWN: Result<Option<String>, &str> = Err("tenant-unknown");

fn some(name: &str) -> Result<Option<String>, String> {
    Ok(Some(name.to_owned()))
}

#[test]
fn claims_are_asked_before_header_fields_in_their_order() {
    let world =
        world(json!({ "identify": [{ "header": "x-tenant-id" }, { "claim": "tenant" }, { "claim": "org.id" }] }));
    assert_eq!(world.identify(Some(json!({ "tenant": "acme", "org": { "id": "other" } })), &[]), some("acme"));
    assert_eq!(world.identify(Some(json!({ "org": { "id": 42 } })), &[]), some("42"));
    assert_eq!(world.identify(Some(json!({ "tenant": null, "org": { "id": "b" } })), &[]), some("b"));
    assert_eq!(world.identify(Some(json!({})), &[("x-tenant-id", "acme")]), some("acme"));
    assert_eq!(world.identify(None, &[("x-tenant-id", " acme ")]), some("acme"));
    assert_eq!(world.identify(None, &[]), Ok(None));
}

#[test]
fn a_header_field_that_contradicts_the_identity_is_refused() {
    let world = world(json!({ "identify": [{ "claim": "tenant" }, { "header": "x-tenant-id" }] }));
    let claims = || Some(json!({ "tenant": "acme" }));
    assert_eq!(world.identify(claims(), &[("x-tenant-id", "acme")]), some("acme"));
    assert_eq!(world.identify(claims(), &[("x-tenant-id", "globex")]).map_err(|_| "tenant-unknown"), UNKNOWN);
    assert_eq!(world.metric("refusals_total{reason=\"tenant-unknown\"}"), Some(1.0));
}

#[test]
fn a_header_field_that_was_not_configured_names_nobody() {
    let world = world(json!({ "identify": [{ "claim": "tenant" }] }));
    assert_eq!(world.identify(None, &[("x-tenant-id", "acme")]), Ok(None));
}

#[test]
fn what_is_no_tenants_name_is_refused_rather_than_overlooked() {
    let world = world(json!({ "identify": [{ "claim": "tenant" }, { "header": "x-a" }, { "header": "x-b" }] }));
    for claim in [json!(""), json!("a b"), json!(1.5), json!(true), json!(["acme"]), json!({}), json!("x".repeat(129))]
    {
        let found = world.identify(Some(json!({ "tenant": claim })), &[]);
        assert_eq!(found.map_err(|_| "tenant-unknown"), UNKNOWN, "{claim}");
    }
    for headers in [&[("x-a", "a,b")][..], &[("x-a", "")], &[("x-a", "a"), ("x-a", "b")], &[("x-a", "a"), ("x-b", "b")]]
    {
        assert_eq!(world.identify(None, headers).map_err(|_| "tenant-unknown"), UNKNOWN, "{headers:?}");
    }
    assert_eq!(world.identify(None, &[("x-a", "a"), ("x-b", "a")]), some("a"));
}

#[test]
fn where_a_tenant_is_required_a_request_without_one_is_refused() {
    let world = world(json!({ "identify": [{ "claim": "tenant" }], "required": true }));
    assert_eq!(world.identify(None, &[]).map_err(|_| "tenant-unknown"), UNKNOWN);
    assert_eq!(world.identify(Some(json!({ "tenant": null })), &[]).map_err(|_| "tenant-unknown"), UNKNOWN);
}

#[test]
fn all_faults_are_told_at_once() {
    let config: Config = serde_json::from_value(json!({
        "identify": [{ "claim": "" }, { "header": "x y" }],
        "default": { "rate": { "requests": 0, "per": "0s", "burst": 0 }, "concurrency": 0 },
        "overrides": { "acme": { "rate": { "requests": 0 } } },
        "max_tracked": 0
    }))
    .unwrap();
    let mut faults = Faults::new();
    config.validate(&Path::root().key("tenants"), &mut faults);
    let places: Vec<_> = faults.iter().map(|fault| fault.path.to_string()).collect();
    assert_eq!(
        places,
        [
            "tenants.identify[0]",
            "tenants.identify[1]",
            "tenants.max_tracked",
            "tenants.default.concurrency",
            "tenants.default.rate.requests",
            "tenants.default.rate.per",
            "tenants.default.rate.burst",
            "tenants.overrides.acme.rate.requests",
        ]
    );
    let mut faults = Faults::new();
    serde_json::from_value::<Config>(json!({ "required": true })).unwrap().validate(&Path::root(), &mut faults);
    assert!(faults.has_errors());
    assert!(serde_json::from_value::<Config>(json!({ "requird": true })).is_err());
}
