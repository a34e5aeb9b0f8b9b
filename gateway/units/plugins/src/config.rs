//! What the operator writes about plugins: `plugins:` is a map from a name to one [`PluginConfig`].

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sluice_vocabulary::measure::{ByteSize, Span};
use sluice_vocabulary::{Fault, Faults, Path, PluginName};

use crate::fallback::Fallback;

use crate::grants::Grants;
use crate::reuse::Reuse;
use crate::signature::{self, signature_file};

/// The most memory that one plugin may be given. The sandbox's slots are laid out for it.
pub(crate) const MOST_MEMORY: ByteSize = ByteSize::mib(256);
/// The least: one page of WebAssembly.
const LEAST_MEMORY: ByteSize = ByteSize::kib(64);
/// The longest deadline. What needs longer does not belong in the path of a request.
const LONGEST_DEADLINE: Span = Span::secs(1);
/// The shortest: the sandbox's clock ticks once in a millisecond.
const SHORTEST_DEADLINE: Span = Span::millis(1);
/// The longest that all host calls of one phase may wait, and the shortest.
const LONGEST_HOST_CALLS: Span = Span::secs(30);
const SHORTEST_HOST_CALLS: Span = Span::millis(1);
/// The most configuration that a plugin may be given, as JSON.
pub(crate) const MOST_CONFIG_BYTES: usize = 64 * 1024;

/// One plugin: which component, how it is bounded, and what it is told.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PluginConfig {
    /// The component's file; a relative path starts at the configuration file's folder.
    pub component: ComponentSource,
    /// SHA-256 of the component's bytes, 64 hexadecimal digits. If given, any other component is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// Files of public keys (Ed25519, PEM), 1 to 16. If given, a component is run only if one of them has signed it: the
    /// signature is in the component's file with `.sig` behind its name, as `sluice plugin sign` writes it. The fallback's
    /// component must be signed so as well. Relative paths start at the configuration file's folder. Default: none is asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signed_by: Option<Vec<PathBuf>>,
    /// What the plugin may use.
    #[serde(default)]
    pub limits: Limits,
    /// Whether an instance serves more than one request. Never of two tenants, and not after a failure. What one request leaves
    /// in its memory the next can see: only for components whose author is trusted not to. Default: every request has an
    /// instance of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reuse: Option<Reuse>,
    /// Another component that does the same job, for when this one fails. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fallback: Option<Fallback>,
    /// Whether the plugin decides who may pass. If `true`, `on_failure: skip` is an error, the component must have a phase in
    /// which it can refuse a request, and no route may have it where plugins do not run. If `false`, `on_failure: skip` is
    /// not warned of. Default: not said, which is taken as `true` wherever that is the safer reading.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decides: Option<bool>,
    /// What becomes of a request when the plugin traps, overruns or oversteps a bound. Default: `refuse`, since a plugin may
    /// be there to keep requests out.
    #[serde(default)]
    pub on_failure: OnFailure,
    /// What the plugin may use beside the message it is called for. Default: nothing.
    #[serde(default, skip_serializing_if = "Grants::is_empty")]
    pub grants: Grants,
    /// What the plugin is told, in whatever shape it asks for. It is held against the schema that the component carries, if it
    /// carries one: `sluice plugin check FILE --schema` prints that. Default: nothing.
    #[serde(default, skip_serializing_if = "serde_json::Value::is_null")]
    pub config: serde_json::Value,
}

/// Where a component comes from.
#[derive(Clone, PartialEq)]
pub enum ComponentSource {
    /// A file.
    File(PathBuf),
    /// Bytes that the program carries in itself. Configuration files cannot say this.
    Embedded(Cow<'static, [u8]>),
}

/// What a plugin may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Memory of one instance, 64KiB to 256MiB. Default 16MiB: header logic needs a page or two, but guests that carry a
    /// language's runtime start with several MiB.
    pub memory: ByteSize,
    /// Running time of one phase, 1ms to 1s in whole milliseconds. Only the plugin's own running counts, not its waiting.
    /// Default 5ms: a thousand times what a native plugin takes, and still less than a client notices.
    pub deadline: Span,
    /// How long one phase may wait for other services, over all that it asks, 1ms to 30s. Default 1s: a client waits as
    /// long, and holds an instance meanwhile.
    #[serde(skip_serializing_if = "is_default_host_calls")]
    pub host_calls: Span,
}

/// By default.
const HOST_CALLS: Span = Span::secs(1);

fn is_default_host_calls(host_calls: &Span) -> bool {
    *host_calls == HOST_CALLS
}

impl Default for Limits {
    fn default() -> Self {
        Self { memory: ByteSize::mib(16), deadline: Span::millis(5), host_calls: HOST_CALLS }
    }
}

/// What becomes of a request when a plugin fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnFailure {
    /// It is answered with 500 (503 if no instance came free in time).
    #[default]
    Refuse,
    /// It goes on as if the plugin were not there. Never for a plugin that decides who may pass.
    Skip,
}

impl OnFailure {
    /// As the configuration writes it.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Refuse => "refuse",
            Self::Skip => "skip",
        }
    }
}

/// Checks all plugins' configuration without opening anything; every fault at once.
pub fn validate(plugins: &BTreeMap<PluginName, PluginConfig>, at: &Path, faults: &mut Faults) {
    for (name, plugin) in plugins {
        plugin.validate(&at.key(name.as_str()), faults);
    }
}

impl PluginConfig {
    /// A plugin with defaults for everything but its component.
    pub fn new(component: ComponentSource) -> Self {
        Self {
            component,
            sha256: None,
            signed_by: None,
            limits: Limits::default(),
            reuse: None,
            fallback: None,
            decides: None,
            on_failure: OnFailure::default(),
            grants: Grants::default(),
            config: serde_json::Value::Null,
        }
    }

    /// Checks this plugin's configuration without opening anything.
    pub fn validate(&self, at: &Path, faults: &mut Faults) {
        validate_component(&self.component, self.sha256.as_deref(), self.signed_by.is_some(), at, faults);
        signature::validate(self, &at.key("signed_by"), faults);
        self.limits.validate(&at.key("limits"), faults);
        if let Some(reuse) = self.reuse {
            reuse.validate(&at.key("reuse"), faults);
        }
        if let Some(fallback) = &self.fallback {
            fallback.validate(&at.key("fallback"), self.signed_by.is_some(), faults);
        }
        self.validate_skipping(at, faults);
        self.grants.validate(&at.key("grants"), faults);
        let config_bytes = self.config.to_string().len();
        if config_bytes > MOST_CONFIG_BYTES {
            faults.error(
                &at.key("config"),
                format!("{config_bytes} bytes of configuration: expected at most {MOST_CONFIG_BYTES}"),
            );
        }
    }
}

impl PluginConfig {
    /// The files that loading it reads: components, and where they must be signed their signatures and the keys. Relative
    /// paths start at `base`.
    pub fn files(&self, base: &std::path::Path) -> Vec<PathBuf> {
        let fallback = self.fallback.as_ref().map(|fallback| &fallback.component);
        let sources = [Some(&self.component), fallback].into_iter().flatten();
        let components: Vec<PathBuf> = sources.filter_map(|source| Some(base.join(source.file()?))).collect();
        let keys = self.signed_by.iter().flatten().map(|key| base.join(key));
        let signatures = components.iter().filter(|_| self.signed_by.is_some()).map(|file| signature_file(file));
        components.iter().cloned().chain(signatures).chain(keys).collect()
    }

    /// Whoever keeps requests out and is skipped lets them in.
    fn validate_skipping(&self, at: &Path, faults: &mut Faults) {
        if self.on_failure != OnFailure::Skip {
            return;
        }
        let at = at.key("on_failure");
        match self.decides {
            Some(false) => {}
            Some(true) => faults.push(
                Fault::error(&at, "a plugin that decides on access cannot be skipped: requests would pass undecided")
                    .help("write on_failure: refuse, or give it a fallback"),
            ),
            None => faults.push(
                Fault::warning(&at, "requests pass when this plugin fails: if it keeps any out, they come in then")
                    .help("write decides: false if it decides nothing, or on_failure: refuse"),
            ),
        }
    }
}

/// Checks where a component comes from; its keys are under `at`.
pub(crate) fn validate_component(
    component: &ComponentSource,
    sha256: Option<&str>,
    is_signed: bool,
    at: &Path,
    faults: &mut Faults,
) {
    let ComponentSource::File(file) = component else { return };
    if file.as_os_str().is_empty() {
        faults.error(&at.key("component"), "the path is empty: expected a component's file");
    }
    match sha256 {
        None if is_signed => {}
        None => faults.push(
            Fault::warning(&at.key("component"), "the component is not pinned: any file under that path is run")
                .help("give its sha256, or say by signed_by whose signature it must bear"),
        ),
        Some(digest) if digest.len() != 64 || !digest.bytes().all(|b| b.is_ascii_hexdigit()) => {
            let seen: String = digest.chars().take(80).collect();
            faults.error(&at.key("sha256"), format!("{seen:?} is not a SHA-256: expected 64 hexadecimal digits"));
        }
        Some(_) => {}
    }
}

/// Checks a deadline.
pub(crate) fn validate_deadline(deadline: Span, at: &Path, faults: &mut Faults) {
    if deadline < SHORTEST_DEADLINE || deadline > LONGEST_DEADLINE {
        faults.error(at, format!("{deadline} is out of range: expected {SHORTEST_DEADLINE} to {LONGEST_DEADLINE}"));
    } else if !deadline.get().subsec_nanos().is_multiple_of(1_000_000) {
        faults.error(at, format!("{deadline} is too fine: expected whole milliseconds"));
    }
}

impl Limits {
    fn validate(&self, at: &Path, faults: &mut Faults) {
        let Self { memory, deadline, host_calls } = *self;
        if memory < LEAST_MEMORY || memory > MOST_MEMORY {
            faults.error(
                &at.key("memory"),
                format!("{memory} is out of range: expected {LEAST_MEMORY} to {MOST_MEMORY}"),
            );
        }
        validate_deadline(deadline, &at.key("deadline"), faults);
        if host_calls < SHORTEST_HOST_CALLS || host_calls > LONGEST_HOST_CALLS {
            faults.error(
                &at.key("host_calls"),
                format!("{host_calls} is out of range: expected {SHORTEST_HOST_CALLS} to {LONGEST_HOST_CALLS}"),
            );
        }
    }
}

impl ComponentSource {
    /// Its file, where it comes from one.
    pub(crate) fn file(&self) -> Option<&std::path::Path> {
        match self {
            Self::File(file) => Some(file),
            Self::Embedded(_) => None,
        }
    }

    /// A component that the program carries in itself.
    pub const fn embedded(bytes: &'static [u8]) -> Self {
        Self::Embedded(Cow::Borrowed(bytes))
    }

    /// The same for bytes that were made while running.
    pub fn bytes(bytes: impl Into<Vec<u8>>) -> Self {
        Self::Embedded(Cow::Owned(bytes.into()))
    }
}

impl fmt::Display for ComponentSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(file) => write!(f, "{}", file.display()),
            Self::Embedded(bytes) => write!(f, "(embedded, {} bytes)", bytes.len()),
        }
    }
}

impl fmt::Debug for ComponentSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for ComponentSource {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ComponentSource {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        PathBuf::deserialize(deserializer).map(Self::File)
    }
}

impl JsonSchema for ComponentSource {
    fn schema_name() -> Cow<'static, str> {
        "ComponentSource".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "minLength": 1, "description": "The file of a WebAssembly component." })
    }
}

/// What a plugin is told, made ready once so that a call costs a look-up: the whole as JSON text, and each scalar under
/// its JSON Pointer and, at the top, its name.
#[derive(Debug)]
pub(crate) struct Told {
    pub(crate) json: Arc<str>,
    scalars: std::collections::HashMap<Box<str>, Arc<str>, foldhash::fast::RandomState>,
}

impl Told {
    pub(crate) fn new(config: &serde_json::Value) -> Self {
        let mut told = Self { json: config.to_string().into(), scalars: Default::default() };
        told.flatten(&mut String::new(), config);
        if let serde_json::Value::Object(members) = config {
            for (name, value) in members {
                // A name that looks like a pointer is reached as a pointer only: the two must never be confused.
                if let Some(text) = scalar(value).filter(|_| !name.starts_with('/')) {
                    told.scalars.insert(name.as_str().into(), text);
                }
            }
        }
        told
    }

    /// The scalar that `key` names, if there is one.
    pub(crate) fn get(&self, key: &str) -> Option<&Arc<str>> {
        self.scalars.get(key)
    }

    fn flatten(&mut self, pointer: &mut String, value: &serde_json::Value) {
        let length = pointer.len();
        match value {
            serde_json::Value::Object(members) => {
                for (name, member) in members {
                    pointer.push('/');
                    pointer.push_str(&name.replace('~', "~0").replace('/', "~1"));
                    self.flatten(pointer, member);
                    pointer.truncate(length);
                }
            }
            serde_json::Value::Array(elements) => {
                for (index, element) in elements.iter().enumerate() {
                    pointer.push_str(&format!("/{index}"));
                    self.flatten(pointer, element);
                    pointer.truncate(length);
                }
            }
            scalar_value => {
                if let Some(text) = scalar(scalar_value).filter(|_| length > 0) {
                    self.scalars.insert(pointer.as_str().into(), text);
                }
            }
        }
    }
}

fn scalar(value: &serde_json::Value) -> Option<Arc<str>> {
    match value {
        serde_json::Value::String(text) => Some(text.as_str().into()),
        serde_json::Value::Number(_) | serde_json::Value::Bool(_) => Some(value.to_string().into()),
        serde_json::Value::Null | serde_json::Value::Array(_) | serde_json::Value::Object(_) => None,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn faults_of(plugin: serde_json::Value) -> Vec<String> {
        let plugin: PluginConfig = serde_json::from_value(plugin).unwrap();
        let mut faults = Faults::new();
        plugin.validate(&Path::root().key("plugins").key("p"), &mut faults);
        faults.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn every_fault_is_reported_at_once_with_value_and_bound() {
        let faults = faults_of(serde_json::json!({
            "component": "p.wasm", "sha256": "12zz", "limits": { "memory": "1GiB", "deadline": "2s", "host_calls": "1m" }
        }));
        assert_eq!(
            faults,
            [
                "plugins.p.sha256: \"12zz\" is not a SHA-256: expected 64 hexadecimal digits",
                "plugins.p.limits.memory: 1GiB is out of range: expected 64KiB to 256MiB",
                "plugins.p.limits.deadline: 2s is out of range: expected 1ms to 1s",
                "plugins.p.limits.host_calls: 1m is out of range: expected 1ms to 30s",
            ]
        );
    }

    #[test]
    fn a_component_without_a_digest_is_warned_of() {
        let faults = faults_of(serde_json::json!({ "component": "p.wasm" }));
        assert_eq!(faults.len(), 1);
        assert!(faults[0].contains("not pinned"), "{faults:?}");
    }

    #[test]
    fn a_key_that_does_nothing_is_not_accepted() {
        let unknown = serde_json::json!({ "component": "p.wasm", "grant": { "clock": true } });
        assert!(
            serde_json::from_value::<PluginConfig>(unknown).unwrap_err().to_string().contains("unknown field `grant`")
        );
    }

    #[test]
    fn the_published_schema_describes_every_key() {
        let schema = serde_json::to_value(schemars::schema_for!(PluginConfig)).unwrap();
        let limits = &schema["$defs"]["Limits"];
        for (keys, expected) in [
            (
                &schema["properties"],
                &[
                    "component",
                    "sha256",
                    "signed_by",
                    "limits",
                    "reuse",
                    "fallback",
                    "decides",
                    "on_failure",
                    "grants",
                    "config",
                ][..],
            ),
            (&limits["properties"], &["memory", "deadline", "host_calls"]),
        ] {
            let keys = keys.as_object().unwrap();
            assert_eq!(keys.keys().collect::<Vec<_>>(), expected);
            for (key, described) in keys {
                assert!(described["description"].as_str().is_some_and(|text| text.len() > 20), "{key}: {described}");
            }
        }
        assert_eq!(schema["additionalProperties"], false);
        assert_eq!(limits["additionalProperties"], false);
    }

    #[test]
    fn what_is_written_reads_back_the_same() {
        let written = serde_json::json!({
            "component": "p.wasm", "sha256": "0".repeat(64), "limits": { "memory": "2MiB", "deadline": "7ms" },
            "on_failure": "skip", "grants": { "clock": true, "upstreams": ["a"] }, "config": { "region": "eu-1" }
        });
        let plugin: PluginConfig = serde_json::from_value(written.clone()).unwrap();
        assert_eq!(serde_json::to_value(plugin).unwrap(), written);
        let least: PluginConfig = serde_json::from_value(serde_json::json!({ "component": "p.wasm" })).unwrap();
        assert_eq!(least, PluginConfig::new(ComponentSource::File("p.wasm".into())));
    }

    #[test]
    fn the_files_that_loading_reads_are_told() {
        let files = |plugin: serde_json::Value| {
            let plugin: PluginConfig = serde_json::from_value(plugin).unwrap();
            let files = plugin.files(std::path::Path::new("/etc"));
            files.iter().map(|file| file.display().to_string()).collect::<Vec<_>>()
        };
        assert_eq!(files(serde_json::json!({ "component": "p.wasm" })), ["/etc/p.wasm"]);
        let all = serde_json::json!({
            "component": "p.wasm", "fallback": { "component": "/f.wasm" }, "signed_by": ["k.pub"]
        });
        assert_eq!(files(all), ["/etc/p.wasm", "/f.wasm", "/etc/p.wasm.sig", "/f.wasm.sig", "/etc/k.pub"]);
        assert!(PluginConfig::new(ComponentSource::embedded(b"")).files(std::path::Path::new("/")).is_empty());
    }

    #[test]
    fn a_value_is_found_by_name_and_by_pointer() {
        let told = Told::new(&serde_json::json!({
            "region": "eu-1", "n": 3, "on": true, "none": null, "deep": [{ "a/b": "x" }], "/odd": "o"
        }));
        let get = |key: &str| told.get(key).map(|text| text.to_string());
        assert_eq!(get("region").as_deref(), Some("eu-1"));
        assert_eq!(get("/region").as_deref(), Some("eu-1"));
        assert_eq!(get("n").as_deref(), Some("3"));
        assert_eq!(get("/on").as_deref(), Some("true"));
        assert_eq!(get("/deep/0/a~1b").as_deref(), Some("x"));
        assert_eq!(get("/~1odd").as_deref(), Some("o"));
        for nothing in ["none", "deep", "/deep/0", "/odd", "", "absent"] {
            assert_eq!(get(nothing), None, "{nothing}");
        }
    }
}
