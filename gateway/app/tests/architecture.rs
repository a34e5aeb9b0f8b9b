//! The invariants of `gateway/docs/ARCHITECTURE.md` that cargo can see, kept true.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use serde_json::Value;

/// What may be named, and by which packages alone.
const ONLY: &[(&str, &[&str])] = &[
    ("pingora-core", &["sluice-app", "sluice-downstream", "sluice-upstream"]),
    ("pingora-proxy", &["sluice-app", "sluice-downstream"]),
    ("pingora-http", &["sluice-app", "sluice-downstream", "sluice-upstream"]),
    ("wasmtime", &["sluice-plugins"]),
    ("aya", &["sluice-observer", "sluice-ebpf-common"]),
    ("saphyr-parser", &["sluice-config"]),
    ("tracing-subscriber", &["sluice-telemetry"]),
    ("sluice-observer", &["sluice-kernel"]),
];

struct Package {
    folder: String,
    /// Names of what it depends on, without those for its tests alone.
    needs: BTreeSet<String>,
}

fn packages() -> BTreeMap<String, Package> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version=1", "--no-deps", "--offline", "--locked"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let packages = metadata["packages"].as_array().unwrap().iter().map(|package| {
        let needs = package["dependencies"].as_array().unwrap().iter();
        let needs = needs.filter(|d| d["kind"] != "dev").map(|d| d["name"].as_str().unwrap().to_owned()).collect();
        let folder = package["manifest_path"].as_str().unwrap().to_owned();
        (package["name"].as_str().unwrap().to_owned(), Package { folder, needs })
    });
    packages.collect()
}

#[test]
fn no_unit_imports_a_unit() {
    let packages = packages();
    let units: BTreeSet<_> =
        packages.iter().filter(|(_, p)| p.folder.contains("/gateway/units/")).map(|(name, _)| name.clone()).collect();
    assert_eq!(units.len(), 11, "{units:?}");
    for unit in &units {
        let imported: Vec<_> = packages[unit].needs.intersection(&units).collect();
        assert!(imported.is_empty(), "{unit} imports {imported:?}: ask for a port of the vocabulary instead");
    }
}

#[test]
fn the_vocabulary_needs_nobody_of_ours() {
    let packages = packages();
    let ours: Vec<_> = packages["sluice-vocabulary"].needs.iter().filter(|n| n.starts_with("sluice")).collect();
    assert!(ours.is_empty(), "{ours:?}");
}

#[test]
fn what_one_room_hides_no_other_room_names() {
    let packages = packages();
    for (hidden, allowed) in ONLY {
        assert!(packages.values().any(|p| p.needs.contains(*hidden)), "nobody needs {hidden} any more: drop the rule");
        for (name, package) in &packages {
            assert!(!package.needs.contains(*hidden) || allowed.contains(&name.as_str()), "{name} names {hidden}");
        }
    }
}

#[test]
fn every_crate_of_ours_obeys_the_workspaces_lints() {
    for (name, package) in packages() {
        let manifest = std::fs::read_to_string(&package.folder).unwrap();
        assert!(manifest.contains("[lints]\nworkspace = true") || package.folder.contains("/ebpf/"), "{name}");
    }
}
