//! What a component is, told without running it: for those who write plugins and those who are handed one.
//!
//! It goes through the very checks that loading goes through, so what is found fine here is loaded there.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::component::{Checked, Refused, of_our_package};
use crate::config::PluginConfig;
use crate::engine::Sandbox;
use crate::grants::{Capability, Granted};
use crate::load::{digest, fits, pinned, read};
use crate::phase::Phase;
use crate::{schema, signature};

/// Instances that the engine is laid out for. None is made of it: what is looked at is bounded by the size of a slot, which
/// is the same for any number of them.
const INSTANCES: u32 = 8;

/// What was found out about a component, as far as it could be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Survey {
    /// SHA-256 of its bytes, 64 lower-case hexadecimal digits: as the configuration's `sha256` takes it.
    pub sha256: String,
    /// Its size in bytes.
    pub bytes: usize,
    /// The JSON Schema that it carries for its configuration, if it carries one that can be read.
    pub schema: Option<String>,
    /// What is known of a component that can be compiled and speaks the contract; else `refused` says why there is nothing.
    pub found: Option<Found>,
    /// Why it would not be loaded. `None`: it would be.
    pub refused: Option<Refusal>,
}

/// What a component that speaks the contract is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The versions of the contract that its imports and exports name: one, unless it was put together from several parts.
    pub versions: Vec<String>,
    /// The phases that it is called for, as the contract names them.
    pub phases: Vec<&'static str>,
    /// The interfaces that it imports, as the contract names them.
    pub imports: Vec<String>,
    /// The grants without which it is not loaded, as the configuration writes them: `identity: true`.
    pub needs: Vec<&'static str>,
    /// What it was granted and does not import, as the configuration writes it. Empty where no grants were looked at.
    pub unused: Vec<&'static str>,
    /// Bytes of memory that an instance starts with, at most.
    pub initial_memory: u64,
}

/// Why a component would not be loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The key of the plugin's configuration that this is about: `component`, `sha256`, `signed_by`, `config`,
    /// `grants`, `limits`.
    pub key: &'static str,
    /// What was found and what is expected.
    pub reason: String,
    /// What can be done, where that is plain.
    pub help: Option<&'static str>,
}

/// What to hold against a component's needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Against {
    /// Its configuration: it is refused if a grant is lacking, or if what it is told is not what it accepts.
    ItsGrants,
    /// Nothing: whatever it needs counts as granted, and is named.
    Nothing,
}

/// Why a survey could not be made.
#[derive(Debug, thiserror::Error)]
pub enum NoSurvey {
    /// There are no bytes to look at.
    #[error("{0}")]
    Unreadable(String),
    /// There is no engine to look with.
    #[error("the sandbox cannot be set up: {0}")]
    Sandbox(String),
}

/// Looks at the component of one plugin; a relative path starts at `base`. Compiles it, so this takes milliseconds for
/// native guests and seconds for those with an interpreter inside: never on a thread that serves.
///
/// # Errors
/// If the file cannot be read, or the machine refuses the sandbox. A component that is no good is a survey that says so.
pub fn survey(plugin: &PluginConfig, base: &Path, against: Against) -> Result<Survey, NoSurvey> {
    let bytes = read(&plugin.component, base).map_err(|refused| NoSurvey::Unreadable(refused.to_string()))?;
    let sandbox = Sandbox::new(INSTANCES, Duration::ZERO).map_err(|error| NoSurvey::Sandbox(format!("{error:#}")))?;
    let sha256 = digest(&bytes);
    let schema = schema::text(&bytes).ok().flatten().map(str::to_owned);
    let mut survey = Survey { sha256: hex::encode(sha256), bytes: bytes.len(), schema, found: None, refused: None };

    let everything = Granted::everything();
    let component = match Checked::new(&sandbox.engine, everything, &bytes, sha256) {
        Ok(component) => Arc::new(component),
        Err(refused) => {
            survey.refused = Some(Refusal::from(&refused));
            return Ok(survey);
        }
    };
    let granted = match against {
        Against::ItsGrants => plugin.grants.granted(),
        Against::Nothing => everything,
    };
    survey.found = Some(find(&sandbox.engine, &component, (against == Against::ItsGrants).then_some(granted)));
    survey.refused = pinned(plugin, sha256)
        .and_then(|()| signature::check(plugin, base, &sha256))
        .and_then(|()| match against {
            Against::ItsGrants => schema::check(plugin, &bytes),
            Against::Nothing => schema::usable(&bytes),
        })
        .and_then(|()| component.with(&sandbox.engine, granted))
        .and_then(|component| fits(plugin, &component))
        .err()
        .map(|refused| Refusal::from(&refused));
    Ok(survey)
}

fn find(engine: &wasmtime::Engine, component: &Checked, granted: Option<Granted>) -> Found {
    let component_type = component.instance_pre.component().component_type();
    let imports: Vec<&str> = component_type.imports(engine).map(|(name, _)| name).collect();
    let exports = component_type.exports(engine).map(|(name, _)| name);
    let versions: BTreeSet<&str> =
        imports.iter().copied().chain(exports).filter_map(of_our_package).map(|(_, version)| version).collect();
    let interfaces: Vec<&str> =
        imports.iter().copied().filter_map(of_our_package).map(|(interface, _)| interface).collect();
    let is_needed = |capability: &Capability| interfaces.contains(&capability.interface());
    let is_idle =
        |capability: &Capability| granted.is_some_and(|granted| granted.has(*capability)) && !is_needed(capability);
    Found {
        versions: versions.into_iter().map(str::to_owned).collect(),
        phases: component.phases().map(Phase::as_str).collect(),
        needs: Capability::ALL.into_iter().filter(is_needed).map(Capability::grant).collect(),
        unused: Capability::ALL.into_iter().filter(is_idle).map(Capability::grant).collect(),
        imports: interfaces.into_iter().map(str::to_owned).collect(),
        initial_memory: component.initial_memory,
    }
}

impl From<&Refused> for Refusal {
    fn from(refused: &Refused) -> Self {
        Self { key: refused.key(), reason: refused.to_string(), help: refused.help() }
    }
}
