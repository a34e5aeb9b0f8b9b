//! Loading, attaching, reading.

use std::{fs::File, io, path::PathBuf};

use aya::{
    Ebpf, EbpfError, EbpfLoader,
    maps::{HashMap, MapData, MapError, PerCpuArray, PerCpuHashMap, RingBuf},
    programs::{CgroupAttachMode, ProgramError, ProgramType, RawTracePoint, SockOps},
    sys::{BpfHelper, is_helper_supported},
};
use parking_lot::Mutex;
use rustix::process::{Resource, Rlimit, setrlimit};
use sluice_ebpf_common::{
    ConnectionRecord, EndEvent, EndpointCounters, EndpointKey, GlobalCounter, Offsets, Settings, settings::switch,
};
use thiserror::Error;

use crate::{
    facts::{ConnectionFacts, EndpointStats, Event, GlobalCounts},
    host::{self, Capabilities, Capability, KernelVersion},
    offsets::{self, OffsetsError},
    options::{Cgroup, Options, RoundTrips},
    probe::{Probe, ProbeCost, ProbeState},
};

/// The programs, built ahead and committed, so that nobody needs a compiler for them. Aligned as an ELF file must be.
static OBJECT: &[u8] = aya::include_bytes_aligned!("../../prebuilt/sluice.bpf.o");

/// Why observing did not begin.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum StartError {
    /// The process may not.
    #[error("missing {}: run as root, or grant them to the service or to the file", list(.0))]
    Capabilities(Vec<Capability>),
    /// The kernel refuses though the capabilities are there.
    #[error(
        "the kernel refuses {what} though this process holds the capabilities: in a container they must be granted on \
         the host, and seccomp must allow the bpf system call"
    )]
    Refused {
        /// The step that was refused.
        what: &'static str,
        /// The loader's account.
        #[source]
        source: LoaderError,
    },
    /// The control group cannot be opened.
    #[error("cannot open the control group{}", .path.as_ref().map(|path| format!(" {}", path.display())).unwrap_or_default())]
    Cgroup {
        /// Its directory, where one could be named.
        path: Option<PathBuf>,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// An option has a value that cannot work.
    #[error("{option} is {seen}, expected {expected}")]
    Option {
        /// Its name.
        option: &'static str,
        /// Its value.
        seen: String,
        /// What would do.
        expected: &'static str,
    },
    /// Filtering or counting by process was asked for and this kernel cannot.
    #[error("this kernel cannot tell which process connects: it takes 6.10 or later")]
    NoProcess,
    /// A step failed for another reason.
    #[error("cannot {what}")]
    Loader {
        /// The step.
        what: &'static str,
        /// The loader's account.
        #[source]
        source: LoaderError,
    },
}

/// The loader's account of a failure. Its text may hold the kernel verifier's log.
#[derive(Debug, Error)]
#[error(transparent)]
pub struct LoaderError(Box<dyn std::error::Error + Send + Sync>);

impl LoaderError {
    fn new(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self(error.into())
    }
}

/// A table could not be read.
#[derive(Debug, Error)]
#[error("cannot read the table {table}")]
pub struct ReadError {
    table: &'static str,
    #[source]
    source: LoaderError,
}

fn list(capabilities: &[Capability]) -> String {
    capabilities.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// Attached probes and their tables. Dropping it detaches and frees all.
///
/// All methods take `&self` and may be called from several threads; each is one or a few system calls and none waits.
pub struct Observer {
    connections: HashMap<MapData, u64, ConnectionRecord>,
    ended: HashMap<MapData, u64, ConnectionRecord>,
    endpoints: PerCpuHashMap<MapData, EndpointKey, EndpointCounters>,
    globals: PerCpuArray<MapData, u64>,
    events: Mutex<RingBuf<MapData>>,
    probes: Vec<(Probe, ProbeState)>,
    notes: Vec<String>,
    /// Holds the programs and their attachments.
    object: Ebpf,
}

impl std::fmt::Debug for Observer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Observer").field("probes", &self.probes).finish_non_exhaustive()
    }
}

impl Observer {
    /// Loads and attaches the probes.
    ///
    /// Only [`Probe::SockOps`] must succeed; what became of the others is in [`Observer::probes`]. Connections that were
    /// open before are not watched, their ends and resets are in [`Observer::globals`].
    ///
    /// # Errors
    /// Where privileges are missing, the control group cannot be opened, the kernel is too old, or an option is wrong.
    pub fn start(options: &Options) -> Result<Self, StartError> {
        check(options)?;
        // A missing `/proc` says nothing about privileges: the kernel will.
        if let Ok(capabilities) = Capabilities::of_this_thread() {
            let missing = capabilities.missing();
            if !missing.is_empty() {
                return Err(StartError::Capabilities(missing));
            }
        }
        let cgroup = open_cgroup(&options.cgroup)?;
        raise_memory_limit();
        let knows_process =
            is_helper_supported(ProgramType::SockOps, BpfHelper::BPF_FUNC_get_current_pid_tgid).unwrap_or(false);
        if !knows_process && (options.by_process || !options.processes.is_empty()) {
            return Err(StartError::NoProcess);
        }
        let (offsets, mut notes) = resolve_offsets();
        if !knows_process {
            notes.push("connections are not attributed to processes: this takes kernel 6.10 or later".to_owned());
        }
        let attempt = Attempt { options, cgroup: &cgroup, offsets: offsets.as_ref(), knows_process, notes: &notes };
        let observer = attempt.run(false)?;
        if observer.is_on(Probe::SetState) {
            return Ok(observer);
        }
        // The socket-operations program must then watch state changes itself, which is settled when it is loaded. Both
        // do not overlap: the first attempt is dropped before the second begins.
        let states: Vec<_> = observer.probes.iter().filter(|(_, state)| !state.is_on()).cloned().collect();
        drop(observer);
        let mut observer = attempt.run(true)?;
        for (probe, state) in states {
            if let Some(slot) = observer.probes.iter_mut().find(|(known, state)| *known == probe && !state.is_on()) {
                slot.1 = state;
            }
        }
        Ok(observer)
    }

    /// Which probes are on, and why others are not.
    #[must_use]
    pub fn probes(&self) -> &[(Probe, ProbeState)] {
        &self.probes
    }

    /// Whether a probe is on.
    #[must_use]
    pub fn is_on(&self, probe: Probe) -> bool {
        self.probes.iter().any(|(known, state)| *known == probe && state.is_on())
    }

    /// What is told less well than it could be, for people.
    #[must_use]
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// How often each attached probe has run and how long that took in all, by the kernel's own account. It keeps that
    /// account only while `kernel.bpf_stats_enabled` is 1; otherwise both are zero. Time is that of the programs alone,
    /// without the few nanoseconds of calling them.
    #[must_use]
    pub fn costs(&self) -> Vec<ProbeCost> {
        Probe::ALL
            .into_iter()
            .filter(|probe| self.is_on(*probe))
            .filter_map(|probe| {
                let info = self.object.program(probe.program())?.info().ok()?;
                Some(ProbeCost { probe, runs: info.run_count(), time: info.run_time() })
            })
            .collect()
    }

    /// Everything counted, per endpoint, in no order. Costs two system calls for each endpoint.
    ///
    /// # Errors
    /// Where the kernel refuses to read the table.
    pub fn endpoints(&self) -> Result<Vec<EndpointStats>, ReadError> {
        let now = host::monotonic_ns();
        let mut all = Vec::new();
        for entry in self.endpoints.iter() {
            match entry {
                Ok((key, parts)) => all.push(EndpointStats::sum(key, parts.iter(), now)),
                // Evicted between finding its key and reading it.
                Err(MapError::KeyNotFound) => {}
                Err(error) => return Err(read_error("ENDPOINTS", error)),
            }
        }
        Ok(all)
    }

    /// What is known of the connection with this socket cookie: while it lives, and after it ended abnormally. `None`
    /// for one that is not watched, ended in order, or was forgotten. One or two system calls.
    #[must_use]
    pub fn connection(&self, cookie: u64) -> Option<ConnectionFacts> {
        let record = self.connections.get(&cookie, 0).or_else(|_| self.ended.get(&cookie, 0)).ok()?;
        Some(ConnectionFacts::new(cookie, &record, host::monotonic_ns()))
    }

    /// All living connections, in no order. Costs two system calls for each.
    ///
    /// # Errors
    /// Where the kernel refuses to read the table.
    pub fn connections(&self) -> Result<Vec<ConnectionFacts>, ReadError> {
        let now = host::monotonic_ns();
        let mut all = Vec::new();
        for entry in self.connections.iter() {
            match entry {
                Ok((cookie, record)) => all.push(ConnectionFacts::new(cookie, &record, now)),
                Err(MapError::KeyNotFound) => {}
                Err(error) => return Err(read_error("CONNECTIONS", error)),
            }
        }
        Ok(all)
    }

    /// Hands over the events that have come since the last call, oldest first, and says how many. It does not wait:
    /// the probes send no wake-ups, so call it as often as events should be fresh. Between calls the buffer holds as
    /// many as [`Options::event_buffer`] has room for; what finds it full is counted in [`GlobalCounts::events_lost`].
    pub fn drain_events(&self, mut each: impl FnMut(Event)) -> usize {
        // As many as the largest buffer can hold: a flood of new ones must not keep a caller here for ever.
        const MOST: usize = 100_000;
        let mut events = self.events.lock();
        let mut drained = 0;
        while drained < MOST {
            let Some(item) = events.next() else { break };
            if let Some(raw) = parse_event(&item) {
                each(Event::new(&raw));
            }
            drained += 1;
        }
        drained
    }

    /// Counters that belong to no endpoint.
    ///
    /// # Errors
    /// Where the kernel refuses to read the table.
    pub fn globals(&self) -> Result<GlobalCounts, ReadError> {
        let mut counts = GlobalCounts::default();
        for counter in [
            GlobalCounter::EventsLost,
            GlobalCounter::ConnectionsMissed,
            GlobalCounter::EndpointsMissed,
            GlobalCounter::ResetsReceivedElsewhere,
            GlobalCounter::ResetsSentElsewhere,
            GlobalCounter::ResetsSentWithoutSocket,
            GlobalCounter::EndsElsewhere,
        ] {
            let parts = self.globals.get(&(counter as u32), 0).map_err(|error| read_error("GLOBALS", error))?;
            *counts.slot(counter) = parts.iter().sum();
        }
        Ok(counts)
    }
}

/// What both attempts at loading share.
struct Attempt<'a> {
    options: &'a Options,
    cgroup: &'a File,
    offsets: Result<&'a Offsets, &'a String>,
    knows_process: bool,
    notes: &'a [String],
}

impl Attempt<'_> {
    fn run(&self, states_in_sock_ops: bool) -> Result<Observer, StartError> {
        let options = self.options;
        let settings = self.settings(states_in_sock_ops);
        let mut object = EbpfLoader::new()
            .override_global("SETTINGS", &settings, true)
            .map_max_entries("CONNECTIONS", options.max_connections)
            .map_max_entries("ENDED", (options.max_connections / 8).max(256))
            .map_max_entries("ENDPOINTS", options.max_endpoints)
            .map_max_entries("EVENTS", options.event_buffer)
            .load(OBJECT)
            .map_err(|error| load_error("load the object", error))?;
        fill(&mut object, "PROCESSES", &options.processes)?;
        fill(&mut object, "PORTS", &options.ports)?;
        let mut probes = Vec::with_capacity(Probe::ALL.len());
        for probe in Probe::ALL {
            let state = match self.why_off(probe) {
                Some(reason) => ProbeState::Off(reason),
                None => match attach(&mut object, probe, self.cgroup) {
                    Ok(()) => ProbeState::On,
                    Err(error) if probe == Probe::SockOps => {
                        return Err(program_error("attach the socket-operations program", error));
                    }
                    Err(error) => ProbeState::Off(short(&error)),
                },
            };
            probes.push((probe, state));
        }
        Ok(Observer {
            connections: table(&mut object, "CONNECTIONS")?,
            ended: table(&mut object, "ENDED")?,
            endpoints: table(&mut object, "ENDPOINTS")?,
            globals: table(&mut object, "GLOBALS")?,
            events: Mutex::new(table(&mut object, "EVENTS")?),
            probes,
            notes: self.notes.to_vec(),
            object,
        })
    }

    /// Why a probe is not even tried.
    fn why_off(&self, probe: Probe) -> Option<String> {
        if probe == Probe::SockOps {
            return None;
        }
        if self.options.without.contains(&probe) {
            return Some("switched off".to_owned());
        }
        self.offsets.err().cloned()
    }

    fn settings(&self, states_in_sock_ops: bool) -> Settings {
        let options = self.options;
        let mut switches = 0;
        let mut set = |bit, on: bool| {
            if on {
                switches |= bit;
            }
        };
        set(switch::ONLY_PROCESSES, !options.processes.is_empty());
        set(switch::ONLY_PORTS, !options.ports.is_empty());
        set(switch::BY_PROCESS, options.by_process);
        set(switch::KNOWS_PROCESS, self.knows_process);
        set(switch::STATES_IN_SOCK_OPS, states_in_sock_ops);
        set(switch::RTT_ALWAYS, options.round_trips == RoundTrips::Always);
        set(switch::RTT_NEVER, options.round_trips == RoundTrips::Never);
        set(switch::ONLY_OUTGOING, !options.incoming);
        Settings { offsets: self.offsets.copied().unwrap_or(Offsets::ABSENT), tick_ns: host::tick_ns(), switches }
    }
}

fn check(options: &Options) -> Result<(), StartError> {
    let bad = |option, seen: u32, expected| Err(StartError::Option { option, seen: seen.to_string(), expected });
    if !(64..=4 * 1024 * 1024).contains(&options.max_connections) {
        return bad("max_connections", options.max_connections, "64 to 4194304");
    }
    if !(16..=256 * 1024).contains(&options.max_endpoints) {
        return bad("max_endpoints", options.max_endpoints, "16 to 262144");
    }
    if !(64 * 1024..=64 * 1024 * 1024).contains(&options.event_buffer) || !options.event_buffer.is_power_of_two() {
        return bad("event_buffer", options.event_buffer, "a power of two from 65536 to 67108864");
    }
    if options.processes.len() > 64 || options.ports.len() > 64 {
        let seen = options.processes.len().max(options.ports.len()).to_string();
        return Err(StartError::Option { option: "processes or ports", seen, expected: "at most 64 of them" });
    }
    Ok(())
}

fn open_cgroup(cgroup: &Cgroup) -> Result<File, StartError> {
    let path = match cgroup {
        Cgroup::Host => host::cgroup_mount(),
        Cgroup::Own => host::own_cgroup(),
        Cgroup::Directory(path) => Ok(path.clone()),
    }
    .map_err(|source| StartError::Cgroup { path: None, source })?;
    File::open(&path).map_err(|source| StartError::Cgroup { path: Some(path), source })
}

/// Before 5.11 the kernel charges maps to the limit of locked memory, which is far too small by default. Failing to
/// raise it is left for the kernel to report when it matters.
fn raise_memory_limit() {
    let charged_by_limit =
        KernelVersion::running().is_some_and(|version| version < KernelVersion { major: 5, minor: 11 });
    if charged_by_limit {
        let unlimited = Rlimit { current: None, maximum: None };
        if let Err(error) = setrlimit(Resource::Memlock, unlimited) {
            tracing::debug!(%error, "cannot raise the limit of locked memory");
        }
    }
}

/// The offsets, or why there are none; and notes on what is missing among them.
fn resolve_offsets() -> (Result<Offsets, String>, Vec<String>) {
    match offsets::of_running_kernel() {
        Ok(resolved) => {
            let notes = resolved.missing.iter().map(|missing| format!("left out: {missing}")).collect();
            (Ok(resolved.offsets), notes)
        }
        Err(error @ OffsetsError::Unreadable(_)) => (Err(error.to_string()), Vec::new()),
        Err(OffsetsError::Btf(error)) => (Err(format!("cannot use {}: {error}", offsets::KERNEL_BTF)), Vec::new()),
    }
}

fn attach(object: &mut Ebpf, probe: Probe, cgroup: &File) -> Result<(), ProgramError> {
    let Some(program) = object.program_mut(probe.program()) else { return Err(ProgramError::NotLoaded) };
    match probe.tracepoint() {
        Some(tracepoint) => {
            let program: &mut RawTracePoint = program.try_into()?;
            program.load()?;
            program.attach(tracepoint)?;
        }
        None => {
            let program: &mut SockOps = program.try_into()?;
            program.load()?;
            // A link may always stand beside others; the flag that says so is refused for links.
            program.attach(cgroup, CgroupAttachMode::Single)?;
        }
    }
    Ok(())
}

fn fill<K: aya::Pod>(object: &mut Ebpf, name: &'static str, keys: &[K]) -> Result<(), StartError> {
    let what = "fill the filters";
    let failed = |error: MapError| StartError::Loader { what, source: LoaderError::new(error) };
    let map = object
        .map_mut(name)
        .ok_or_else(|| StartError::Loader { what, source: LoaderError::new(format!("the object has no {name}")) })?;
    let mut map = HashMap::<_, K, u8>::try_from(map).map_err(failed)?;
    for key in keys {
        map.insert(key, 1, 0).map_err(failed)?;
    }
    Ok(())
}

fn table<T: TryFrom<aya::maps::Map, Error = MapError>>(object: &mut Ebpf, name: &'static str) -> Result<T, StartError> {
    let what = "open the tables";
    let map = object
        .take_map(name)
        .ok_or_else(|| StartError::Loader { what, source: LoaderError::new(format!("the object has no {name}")) })?;
    T::try_from(map).map_err(|error| StartError::Loader { what, source: LoaderError::new(error) })
}

/// The buffer aligns to eight bytes, but that is its business: read it unaligned, field by field would be no safer.
fn parse_event(bytes: &[u8]) -> Option<EndEvent> {
    sluice_ebpf_common::pod::read(bytes)
}

fn read_error(table: &'static str, error: MapError) -> ReadError {
    ReadError { table, source: LoaderError::new(error) }
}

fn load_error(what: &'static str, error: EbpfError) -> StartError {
    let refused = matches!(
        &error,
        EbpfError::MapError(MapError::CreateError { io_error, .. }) if is_refusal(io_error)
    );
    refusal_or_failure(what, refused, LoaderError::new(error))
}

fn program_error(what: &'static str, error: ProgramError) -> StartError {
    let refused = match &error {
        ProgramError::LoadError { io_error, .. } => is_refusal(io_error),
        ProgramError::SyscallError(error) => is_refusal(&error.io_error),
        _ => false,
    };
    refusal_or_failure(what, refused, LoaderError::new(error))
}

fn refusal_or_failure(what: &'static str, refused: bool, source: LoaderError) -> StartError {
    if refused { StartError::Refused { what, source } } else { StartError::Loader { what, source } }
}

/// EPERM is a question of privileges. EACCES, which the standard library calls by the same name, is how the verifier
/// refuses a program for what it does.
fn is_refusal(error: &io::Error) -> bool {
    error.raw_os_error() == Some(rustix::io::Errno::PERM.raw_os_error())
}

/// Without the verifier's log, which runs to pages.
fn short(error: &ProgramError) -> String {
    match error {
        ProgramError::LoadError { io_error, .. } => format!("the kernel did not load it: {io_error}"),
        ProgramError::SyscallError(error) => format!("{}: {}", error.call, error.io_error),
        other => other.to_string(),
    }
}
