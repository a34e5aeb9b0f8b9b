//! What an operator writes, or somebody who may write for one.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sluice_config::{Document, Source, load, redact, render, schema};
use sluice_vocabulary::{Faults, IssuerName, Path};

/// A document of the gateway's own shape, with the units whose configuration is richest.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Whole {
    #[serde(default)]
    listeners: Vec<sluice_downstream::ListenerConfig>,
    #[serde(default)]
    downstream: sluice_downstream::DownstreamConfig,
    #[serde(default)]
    issuers: BTreeMap<IssuerName, sluice_auth::IssuerConfig>,
    #[serde(default)]
    auth: sluice_auth::Config,
    #[serde(default)]
    telemetry: sluice_telemetry::Config,
    #[serde(default)]
    routes: Vec<sluice_routing::config::Match>,
}

impl Whole {
    fn validate(&self, faults: &mut Faults) {
        let root = Path::root();
        let (listeners, downstream) = (self.listeners.clone(), self.downstream.clone());
        sluice_downstream::Config { listeners, downstream }.validate(&root, faults);
        for (name, issuer) in &self.issuers {
            issuer.validate(&root.key("issuers").key(name.as_str()), faults);
        }
        self.auth.validate(&root.key("auth"), faults);
        self.telemetry.validate(&root.key("telemetry"), faults);
    }
}

static SCHEMA: LazyLock<serde_json::Value> =
    LazyLock::new(|| serde_json::from_str(&schema::<Whole>("Whole")).expect("a schema is JSON"));

/// A document is accepted, or refused with at least one fault, each of which can be told with its place.
pub fn config(bytes: &[u8]) {
    let Ok(source) = Source::from_bytes("hostile.yaml", bytes) else { return };
    let told = match Document::parse(&source) {
        Err(faults) => {
            assert!(!faults.is_empty(), "refused without a fault");
            faults
        }
        Ok(document) => match load::<Whole>(&document).check(Whole::validate) {
            Err(faults) => {
                assert!(faults.iter().any(|fault| fault.is_error()), "refused without an error");
                faults
            }
            Ok(accepted) => {
                assert!(!accepted.warnings.iter().any(|fault| fault.is_error()), "accepted with an error");
                redact(&document.value(), &SCHEMA);
                accepted.warnings
            }
        },
    };
    let lines = source.text().lines().count().max(1);
    assert!(told.iter().all(|fault| fault.location().line <= lines + 1), "a fault stands nowhere");
    render::text(&told, true);
    render::json(&told);
}
