//! A component, compiled and checked: what it imports is offered and granted, and it exports a phase.

use std::sync::Arc;

use sluice_vocabulary::Path;
use wasmtime::component::{Component, ComponentExportIndex, InstancePre, types::ComponentItem};

use crate::call::Call;
use crate::conformance::Violation;
use crate::contract::{MAJOR_VERSION, OFFERED, PACKAGE, VERSION};
use crate::grants::{Capability, Granted};
use crate::linking::linker;
use crate::phase::Phase;
use crate::schema::BadSchema;
use crate::sections::NoSection;
use crate::signature::NotSigned;

/// The largest component that is loaded. The largest known guests, which carry a whole interpreter, are 18 MB.
pub const LARGEST: u64 = 64 * 1024 * 1024;

/// Why a component was refused. Each says what was found and what is expected.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refused {
    #[error("cannot read {file}: {source}")]
    Unreadable { file: String, source: std::io::Error },
    #[error("the component has {found} bytes: expected at most {LARGEST}")]
    TooLarge { found: u64 },
    #[error("the component's sha256 is {found}: expected {expected}")]
    WrongDigest { found: String, expected: String },
    #[error(transparent)]
    NotSigned(#[from] NotSigned),
    #[error("the schema of its configuration cannot be used: {0}")]
    Schema(BadSchema),
    #[error("{}", told(.0))]
    Config(Vec<Violation>),
    #[error("not WebAssembly: expected a component, found {found}")]
    NotWasm { found: String },
    #[error("a core module, not a component")]
    CoreModule,
    #[error("not a component that can be run: {0}")]
    Invalid(String),
    #[error("imports {0}")]
    Imports(String),
    #[error("imports {0}, not granted to it")]
    NotGranted(String),
    #[error("exports {0}, a phase that this gateway does not know")]
    UnknownPhase(String),
    #[error("exports no phase of {PACKAGE}@{MAJOR_VERSION}: found {0}")]
    NoPhase(String),
    #[error("exports {found}: its fallback must have the same phases as the first, which exports {expected}")]
    OtherPhases { found: String, expected: String },
    #[error("exports {0}, where a failure cannot be undone: no fallback can take over there")]
    NoFailover(String),
    #[error("exports only {0}: a fallback would never be called")]
    NeverFails(String),
    #[error("imports {PACKAGE}/routing, but exports no phase in which an upstream can be chosen: found {0}")]
    CannotChoose(String),
    #[error("decides on access, and exports no phase in which a request can be refused: found {0}")]
    CannotDecide(String),
    #[error("needs {needed} bytes of memory to start: its limit is {limit}")]
    Memory { needed: u64, limit: u64 },
}

impl From<BadSchema> for Refused {
    fn from(bad: BadSchema) -> Self {
        match bad {
            // Nothing is known of a schema then.
            BadSchema::Section(malformed @ NoSection::Malformed { .. }) => Self::Invalid(malformed.to_string()),
            bad => Self::Schema(bad),
        }
    }
}

impl Refused {
    /// What the author or operator can do, where that is plain.
    pub(crate) fn help(&self) -> Option<&'static str> {
        match self {
            Self::CoreModule => Some("make a component of it: link with wasm-component-ld, or use `jco new`"),
            Self::Imports(what) if what.contains("wasi:") => {
                Some("plugins have no WASI: build for wasm32-unknown-unknown, or stub WASI out (see plugins/README.md)")
            }
            Self::NoPhase(_) => Some("export one of its phases, such as sluice:plugin/request-headers (see wit/)"),
            Self::NotGranted(_) => Some("grant it, if it is meant to have that, or build it without"),
            Self::NotSigned(why) => Some(why.help()),
            Self::Memory { .. } => Some("raise limits.memory"),
            Self::CannotDecide(_) => {
                Some("export sluice:plugin/request-headers or request-body, or take `decides` away")
            }
            Self::CannotChoose(_) => {
                Some("export sluice:plugin/request-headers or request-body, or build it without routing")
            }
            Self::NoFailover(_) => {
                Some("make two plugins of it: the phases that see a message under way in one of their own")
            }
            _ => None,
        }
    }

    /// The key of the plugin's configuration that this is about.
    pub(crate) const fn key(&self) -> &'static str {
        match self {
            Self::WrongDigest { .. } => "sha256",
            Self::NotSigned(_) => "signed_by",
            Self::Config(_) => "config",
            Self::Memory { .. } => "limits",
            Self::CannotDecide(_) => "decides",
            Self::NotGranted(_) => "grants",
            _ => "component",
        }
    }
}

/// What is wrong with a configuration, in one line.
fn told(violations: &[Violation]) -> String {
    let config = Path::root().key("config");
    violations
        .iter()
        .map(|violation| format!("{}: {}", violation.path(&config), violation.message))
        .collect::<Vec<_>>()
        .join("; ")
}

/// A component that can be called.
pub(crate) struct Checked {
    pub(crate) instance_pre: InstancePre<Call>,
    /// What it was linked with: another plugin may have the same component and other grants.
    granted: Granted,
    /// Where each phase's function is, for those that are exported.
    functions: [Option<ComponentExportIndex>; Phase::ALL.len()],
    /// Whether another phase of the same exchange follows each.
    followed: [bool; Phase::ALL.len()],
    pub(crate) sha256: [u8; 32],
    pub(crate) bytes: usize,
    /// Bytes of memory that an instance starts with, at most.
    pub(crate) initial_memory: u64,
    /// Whether an earlier process compiled it.
    pub(crate) from_cache: bool,
}

/// What a component is to be made of.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Origin {
    pub(crate) sha256: [u8; 32],
    /// The size of the component itself, not of its machine code.
    pub(crate) bytes: usize,
    pub(crate) from_cache: bool,
}

impl Checked {
    /// Compiles and checks. Takes tens of milliseconds for a native guest, seconds for one with an interpreter inside:
    /// never on a thread that serves.
    pub(crate) fn new(
        engine: &wasmtime::Engine,
        granted: Granted,
        bytes: &[u8],
        sha256: [u8; 32],
    ) -> Result<Self, Refused> {
        // A component and a core module differ in the 16 bits after the version (component-model, Binary.md).
        match bytes.get(..8) {
            Some([0, b'a', b's', b'm', _, _, 1, 0]) => {}
            Some([0, b'a', b's', b'm', 1, 0, 0, 0]) => return Err(Refused::CoreModule),
            _ => {
                let start = String::from_utf8_lossy(&bytes[..bytes.len().min(8)]).into_owned();
                return Err(Refused::NotWasm { found: format!("{} bytes that begin with {start:?}", bytes.len()) });
            }
        }
        let component = Component::from_binary(engine, bytes).map_err(invalid)?;
        Self::of(engine, granted, &component, Origin { sha256, bytes: bytes.len(), from_cache: false })
    }

    /// Checks what is compiled already.
    pub(crate) fn of(
        engine: &wasmtime::Engine,
        granted: Granted,
        component: &Component,
        Origin { sha256, bytes, from_cache }: Origin,
    ) -> Result<Self, Refused> {
        let instance_pre = linked(engine, component, granted)?;
        let phases = exported_phases(engine, component)?;
        if !phases.iter().any(|phase| phase.is_before_the_upstream()) && imports(engine, component, Capability::Routing)
        {
            return Err(Refused::CannotChoose(names(phases)));
        }
        let followed = Phase::ALL.map(|phase| phases.iter().any(|later| phase.is_followed_by(*later)));
        let mut functions = [None; Phase::ALL.len()];
        for phase in phases {
            functions[phase as usize] = Some(function_of(component, phase)?);
        }
        let initial_memory = initial_memory(component);
        Ok(Self { functions, followed, initial_memory, instance_pre, granted, sha256, bytes, from_cache })
    }

    /// The same component with these grants; nothing is compiled again.
    pub(crate) fn with(self: Arc<Self>, engine: &wasmtime::Engine, granted: Granted) -> Result<Arc<Self>, Refused> {
        if self.granted == granted {
            return Ok(self);
        }
        let instance_pre = linked(engine, self.instance_pre.component(), granted)?;
        let Self { functions, followed, sha256, bytes, initial_memory, from_cache, .. } = *self;
        Ok(Arc::new(Self { instance_pre, granted, functions, followed, sha256, bytes, initial_memory, from_cache }))
    }

    /// The phases it is called for.
    pub(crate) fn phases(&self) -> impl Iterator<Item = Phase> {
        Phase::ALL.into_iter().filter(|phase| self.function(*phase).is_some())
    }

    /// Their names, as the log and faults tell them.
    pub(crate) fn phase_names(&self) -> String {
        names(self.phases())
    }

    /// Whether a phase is called later in the same exchange, in which its instance may be needed.
    pub(crate) const fn has_phase_after(&self, phase: Phase) -> bool {
        self.followed[phase as usize]
    }

    /// The function of a phase, where it is exported.
    pub(crate) const fn function(&self, phase: Phase) -> Option<&ComponentExportIndex> {
        self.functions[phase as usize].as_ref()
    }
}

impl std::fmt::Debug for Checked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Checked")
            .field("sha256", &hex::encode(self.sha256))
            .field("bytes", &self.bytes)
            .finish_non_exhaustive()
    }
}

/// Bytes of memory that an instance starts with, at most: the engine tells how many memories there are, and the pages of
/// the largest.
fn initial_memory(component: &Component) -> u64 {
    const PAGE: u64 = 64 * 1024;
    let needs = component.resources_required();
    let pages = needs.as_ref().and_then(|needs| needs.max_initial_memory_size).unwrap_or(0);
    let memories = needs.map_or(0, |needs| u64::from(needs.num_memories));
    pages.saturating_mul(PAGE).saturating_mul(memories)
}

/// The whole chain of causes: an author needs the innermost.
fn invalid(error: wasmtime::Error) -> Refused {
    Refused::Invalid(format!("{error:#}").replace('\n', " "))
}

/// The component with its imports, each of which must be offered and, where need be, granted.
fn linked(engine: &wasmtime::Engine, component: &Component, granted: Granted) -> Result<InstancePre<Call>, Refused> {
    check_imports(engine, component, granted)?;
    linker(engine, granted).and_then(|linker| linker.instantiate_pre(component)).map_err(invalid)
}

/// Every import must be one that we offer, and that was granted where it needs to be; all that are not are named at once.
fn check_imports(engine: &wasmtime::Engine, component: &Component, granted: Granted) -> Result<(), Refused> {
    let component_type = component.component_type();
    let mut unknown = Vec::new();
    let mut lacking = Vec::new();
    for (name, _) in component_type.imports(engine) {
        match of_our_package(name) {
            Some((interface, version)) if is_our_version(version) => {
                if let Some(capability) = Capability::of_interface(interface) {
                    if !granted.has(capability) {
                        lacking.push(format!("{name} (grants: {{ {} }})", capability.grant()));
                    }
                } else if !OFFERED.contains(&interface) {
                    unknown.push(format!("{name}, which is not offered to plugins"));
                }
            }
            _ => unknown.push(format!("{name}, which is not offered to plugins")),
        }
    }
    match (unknown.is_empty(), lacking.is_empty()) {
        (false, _) => Err(Refused::Imports(unknown.join("; "))),
        (true, false) => Err(Refused::NotGranted(lacking.join("; "))),
        (true, true) => Ok(()),
    }
}

/// Whether a component imports that interface.
fn imports(engine: &wasmtime::Engine, component: &Component, capability: Capability) -> bool {
    let interface = |name| of_our_package(name).map(|(interface, _)| interface);
    component.component_type().imports(engine).any(|(name, _)| interface(name) == Some(capability.interface()))
}

fn names(phases: impl IntoIterator<Item = Phase>) -> String {
    phases.into_iter().map(Phase::as_str).collect::<Vec<_>>().join(",")
}

/// Whether a component of that version of the contract runs here. One that uses what only a later version has imports a
/// function that is not there, and is refused for that.
fn is_our_version(version: &str) -> bool {
    version.split('.').next() == Some(MAJOR_VERSION)
}

/// The interface and version of a name in our package: `sluice:plugin/request@1.0.0`.
pub(crate) fn of_our_package(name: &str) -> Option<(&str, &str)> {
    name.strip_prefix(PACKAGE)?.strip_prefix('/')?.split_once('@')
}

/// The function behind a phase's interface. Found by name here, so that no call has to.
fn function_of(component: &Component, phase: Phase) -> Result<ComponentExportIndex, Refused> {
    // The engine finds what an earlier minor version exports under the name of this one.
    let interface = format!("{PACKAGE}/{phase}@{VERSION}");
    let name = format!("on-{phase}");
    component
        .get_export_index(None, &interface)
        .and_then(|interface| component.get_export_index(Some(&interface), &name))
        .ok_or_else(|| Refused::Invalid(format!("{interface} is exported without the function {name}")))
}

/// The phases that a component exports. One that we do not know is refused, not ignored: its author meant it to be called.
fn exported_phases(engine: &wasmtime::Engine, component: &Component) -> Result<Vec<Phase>, Refused> {
    let component_type = component.component_type();
    let mut phases = Vec::new();
    let mut others = Vec::new();
    for (name, export) in component_type.exports(engine) {
        let known = of_our_package(name)
            .filter(|(_, version)| is_our_version(version))
            .and_then(|(interface, _)| Phase::ALL.into_iter().find(|phase| phase.as_str() == interface));
        match known {
            Some(phase) => phases.push(phase),
            None if name.starts_with(PACKAGE) && matches!(export.ty, ComponentItem::ComponentInstance(_)) => {
                return Err(Refused::UnknownPhase(name.to_owned()));
            }
            None => others.push(name.to_owned()),
        }
    }
    if phases.is_empty() {
        let found = if others.is_empty() { "no exports".to_owned() } else { others.join(", ") };
        return Err(Refused::NoPhase(found));
    }
    Ok(phases)
}
