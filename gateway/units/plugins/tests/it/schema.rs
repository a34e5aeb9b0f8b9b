//! A component may say by a schema what its configuration must be, and is told nothing else.

use serde_json::{Value, json};
use sluice_plugins::{Against, CacheBounds, ComponentSource, Fallback, PluginConfig, survey};
use std::path::Path;

use crate::world::{World, plugin, prebuilt, request, visit};

/// A component that carries this as its schema, in a section at its top.
fn carrying(schema: &[u8]) -> Vec<u8> {
    let name = b"sluice:config-schema";
    let content = [&[u8::try_from(name.len()).unwrap()], &name[..], schema].concat();
    let component = std::fs::read(prebuilt("add_region_as.wasm")).unwrap();
    [component, vec![0], number(content.len()), content].concat()
}

/// Unsigned LEB128.
fn number(mut value: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value >= 0x80 {
        bytes.push(u8::try_from(value & 0x7f).unwrap() | 0x80);
        value >>= 7;
    }
    bytes.push(u8::try_from(value).unwrap());
    bytes
}

fn of(schema: &[u8], config: Value) -> PluginConfig {
    PluginConfig { config, ..PluginConfig::new(ComponentSource::bytes(carrying(schema))) }
}

async fn faults(world: &World, config: PluginConfig) -> Vec<String> {
    let faults = world.load(&[("p", config)]).await.expect_err("it must be refused");
    faults.iter().map(ToString::to_string).collect()
}

#[tokio::test]
async fn the_example_that_carries_a_schema_accepts_what_it_asks_for_and_refuses_all_else_with_its_path() {
    let world = World::new().await;
    for config in [json!(null), json!({}), json!({ "region": "eu-1", "block_header": "x-no" })] {
        let chain = world.chain(plugin("add_region_rust.wasm", config)).await;
        let (head, _) = chain.on_request(request(&[]), &mut visit()).await;
        assert!(head.headers.contains_key("x-region"));
    }
    let wrong = json!({ "region": 3, "block_header": "", "regoin": "eu-1" });
    assert_eq!(
        faults(&world, plugin("add_region_rust.wasm", wrong)).await,
        [
            "plugins.p.config.region: found 3: expected string",
            "plugins.p.config.block_header: found a text of length 0: expected at least 1 characters",
            "plugins.p.config.regoin: the plugin knows no such key: expected region, block_header",
        ]
    );
    assert_eq!(
        faults(&world, plugin("add_region_rust.wasm", json!(["eu-1"]))).await,
        ["plugins.p.config: found a list of 1: expected object"]
    );
}

#[tokio::test]
async fn a_schema_that_cannot_be_used_has_the_component_refused_with_the_reason() {
    let world = World::new().await;
    let long = format!("{{\"description\":\"{}\"}}", "x".repeat(64 * 1024));
    let cases: [(&[u8], &str); 6] = [
        (b"{", "it is not JSON"),
        (b"\xff", "it is not UTF-8 text"),
        (br#"{"type":"text"}"#, "at #/type: expected one of null"),
        (br#"{"$ref":"http://127.0.0.1:1/schema.json"}"#, "leads to no schema in it"),
        (br#"{"$ref":"file:///etc/passwd"}"#, "leads to no schema in it"),
        (long.as_bytes(), "expected at most 65536"),
    ];
    for (schema, expected) in cases {
        let found = faults(&world, of(schema, json!({}))).await.join("\n");
        assert!(found.starts_with("plugins.p.component: the schema of its configuration cannot be used: "), "{found}");
        assert!(found.contains(expected), "{found} lacks {expected:?}");
    }
    let two = [carrying(b"{}"), vec![0, 23, 20], b"sluice:config-schema".to_vec(), b"{}".to_vec()].concat();
    let found = faults(&world, PluginConfig::new(ComponentSource::bytes(two))).await.join("\n");
    assert!(found.contains("there is more than one"), "{found}");
}

#[tokio::test]
async fn neither_what_runs_nor_what_was_compiled_before_is_spared_the_schema_and_what_runs_goes_on() {
    let state = tempfile::tempdir().unwrap();
    let good = of(br#"{"required":["region"]}"#, json!({ "region": "eu-1" }));
    let bad = PluginConfig { config: json!({ "regoin": "eu-1" }), ..good.clone() };
    for _ in 0..2 {
        let world = World::new().await;
        world.handle.keep_in(Some(state.path()), CacheBounds::default());
        let expected = ["plugins.p.config: \"region\" is missing: the plugin requires it"];
        assert_eq!(faults(&world, bad.clone()).await, expected);
        let chain = world.chain(good.clone()).await;
        assert_eq!(faults(&world, bad.clone()).await, expected);
        let (head, _) = chain.on_request(request(&[]), &mut visit()).await;
        assert_eq!(head.headers["x-region"], "eu-1");
    }
}

#[tokio::test]
async fn whose_component_it_is_comes_before_what_its_schema_says() {
    let world = World::new().await;
    let pinned = PluginConfig { sha256: Some("0".repeat(64)), ..of(b"{", json!({})) };
    let found = faults(&world, pinned).await.join("\n");
    assert!(found.starts_with("plugins.p.sha256: "), "{found}");
    let signed = PluginConfig {
        signed_by: Some(vec!["/nonexistent.pub".into()]),
        ..plugin("add_region_rust.wasm", json!({ "wrong": 1 }))
    };
    let found = faults(&world, signed).await.join("\n");
    assert!(found.starts_with("plugins.p.signed_by: "), "{found}");
}

#[tokio::test]
async fn a_fallback_has_a_say_in_the_configuration_that_both_are_told() {
    let world = World::new().await;
    let fallback = Fallback::new(ComponentSource::bytes(carrying(br#"{"required":["zone"]}"#)));
    let plugin = PluginConfig { fallback: Some(fallback), ..plugin("add_region_as.wasm", json!({ "region": "eu-1" })) };
    assert_eq!(
        faults(&world, plugin).await,
        ["plugins.p.config: \"zone\" is missing: the plugin requires it (of its fallback)"]
    );
}

#[test]
fn a_survey_shows_the_schema_and_holds_a_configuration_against_it_where_there_is_one() {
    let wrong = plugin("add_region_rust.wasm", json!({ "region": 3 }));
    let alone = survey(&wrong, Path::new("/"), Against::Nothing).unwrap();
    assert!(alone.refused.is_none() && alone.schema.unwrap().contains("\"block_header\""));
    let refused = survey(&wrong, Path::new("/"), Against::ItsGrants).unwrap().refused.unwrap();
    assert_eq!((refused.key, refused.reason.as_str()), ("config", "config.region: found 3: expected string"));
    let bad = survey(&of(b"{", json!(null)), Path::new("/"), Against::Nothing).unwrap();
    assert_eq!(bad.refused.unwrap().key, "component");
    let none = survey(&plugin("hostile.wasm", json!(null)), Path::new("/"), Against::Nothing).unwrap();
    assert_eq!((none.schema, none.refused), (None, None));
}
