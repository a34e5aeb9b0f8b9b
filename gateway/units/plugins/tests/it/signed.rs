//! Only what somebody whom the operator trusts has signed is run.

use std::fs;
use std::path::PathBuf;

use serde_json::json;
use sluice_plugins::{CacheBounds, ComponentSource, PluginConfig, SigningKey, signature_file};

use crate::world::{World, prebuilt, request, visit};

/// A folder with two components, and a key.
struct Signed {
    folder: tempfile::TempDir,
    key: SigningKey,
}

impl Signed {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        for (name, from) in [("a.wasm", "add_region_rust.wasm"), ("b.wasm", "add_region_as.wasm")] {
            fs::copy(prebuilt(from), folder.path().join(name)).unwrap();
        }
        let key = SigningKey::generate().unwrap();
        fs::write(folder.path().join("key.pub"), key.public_pem()).unwrap();
        Self { folder, key }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn sign(&self, name: &str) {
        let text = self.key.sign(&fs::read(self.file(name)).unwrap());
        fs::write(signature_file(&self.file(name)), text).unwrap();
    }

    fn plugin(&self) -> PluginConfig {
        PluginConfig {
            signed_by: Some(vec![self.file("key.pub")]),
            config: json!({ "region": "eu-1" }),
            ..PluginConfig::new(ComponentSource::File(self.file("a.wasm")))
        }
    }
}

async fn refusal(world: &World, plugin: PluginConfig) -> String {
    let faults = world.load(&[("p", plugin)]).await.expect_err("it must be refused");
    faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

#[tokio::test]
async fn a_component_signed_by_one_of_the_keys_named_runs() {
    let signed = Signed::new();
    signed.sign("a.wasm");
    let world = World::new().await;
    let other = signed.file("other.pub");
    fs::write(&other, SigningKey::generate().unwrap().public_pem()).unwrap();
    let plugin = PluginConfig { signed_by: Some(vec![other, signed.file("key.pub")]), ..signed.plugin() };
    let chain = world.chain(plugin).await;
    let (head, _) = chain.on_request(request(&[]), &mut visit()).await;
    assert_eq!(head.headers["x-region"], "eu-1");
}

#[tokio::test]
async fn what_is_not_signed_or_signed_otherwise_is_refused_with_the_reason_and_what_runs_goes_on() {
    let signed = Signed::new();
    signed.sign("a.wasm");
    let world = World::new().await;
    let chain = world.chain(signed.plugin()).await;
    let signature = signature_file(&signed.file("a.wasm"));
    let good = fs::read_to_string(&signature).unwrap();
    let cases = [
        (String::new(), "is no signature of a component: its first line is not"),
        (good.replace('1', "2"), "its first line is not"),
        (good.lines().next().unwrap().to_owned() + "\nAAAA\n", "is not 64 bytes"),
        (good.clone() + "more", "is not base64"),
        (" ".repeat(5000), "it has more than 4096 bytes"),
        (SigningKey::generate().unwrap().sign(&fs::read(signed.file("a.wasm")).unwrap()), "is no signature over this"),
        (signed.key.sign(b"something else"), "is no signature over this component by"),
    ];
    for (text, expected) in cases {
        fs::write(&signature, text).unwrap();
        let found = refusal(&world, signed.plugin()).await;
        assert!(found.starts_with("plugins.p.signed_by: ") && found.contains(expected), "{found:?} lacks {expected:?}");
    }
    fs::remove_file(&signature).unwrap();
    let found = refusal(&world, signed.plugin()).await;
    assert!(
        found.contains("the component is not signed: cannot read") && found.contains("sluice plugin sign"),
        "{found}"
    );

    let (head, _) = chain.on_request(request(&[]), &mut visit()).await;
    assert_eq!(head.headers["x-region"], "eu-1");
}

#[tokio::test]
async fn a_component_changed_after_it_was_signed_is_refused() {
    let signed = Signed::new();
    signed.sign("a.wasm");
    let world = World::new().await;
    let mut bytes = fs::read(signed.file("a.wasm")).unwrap();
    bytes.extend([0, 2, 1, b'n']);
    fs::write(signed.file("a.wasm"), bytes).unwrap();
    assert!(refusal(&world, signed.plugin()).await.contains("is no signature over this component"));
}

#[tokio::test]
async fn a_key_that_is_none_refuses_everything() {
    let signed = Signed::new();
    signed.sign("a.wasm");
    let world = World::new().await;
    for (text, expected) in [("", "is no public key"), (signed.key.to_pem().unwrap().as_str(), "is no public key")] {
        fs::write(signed.file("key.pub"), text).unwrap();
        let found = refusal(&world, signed.plugin()).await;
        assert!(found.contains(expected) && !found.contains("BEGIN"), "{found}");
    }
    fs::remove_file(signed.file("key.pub")).unwrap();
    assert!(refusal(&world, signed.plugin()).await.contains("cannot read the public key"));
}

#[tokio::test]
async fn a_fallback_must_be_signed_as_well() {
    let signed = Signed::new();
    signed.sign("a.wasm");
    let world = World::new().await;
    let fallback = serde_json::from_value(json!({ "component": signed.file("b.wasm") })).unwrap();
    let plugin = PluginConfig { fallback: Some(fallback), ..signed.plugin() };
    let found = refusal(&world, plugin.clone()).await;
    assert!(found.starts_with("plugins.p.signed_by: ") && found.contains("b.wasm.sig"), "{found}");
    signed.sign("b.wasm");
    world.load(&[("p", plugin)]).await.unwrap();
}

#[tokio::test]
async fn neither_what_runs_nor_what_was_compiled_before_stands_in_for_a_signature() {
    let signed = Signed::new();
    signed.sign("a.wasm");
    let state = tempfile::tempdir().unwrap();
    for _ in 0..2 {
        let world = World::new().await;
        world.handle.keep_in(Some(state.path()), CacheBounds::default());
        world.load(&[("p", signed.plugin())]).await.unwrap();
        fs::remove_file(signature_file(&signed.file("a.wasm"))).unwrap();
        assert!(refusal(&world, signed.plugin()).await.contains("not signed"));
        signed.sign("a.wasm");
    }
}
