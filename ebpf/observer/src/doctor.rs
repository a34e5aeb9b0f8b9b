//! Examination of a host: what can be observed here, what not and why, and what would change that.

use std::{fmt, fs, io};

use serde::Serialize;
use sluice_ebpf_common::{ConnectionRecord, EndpointCounters};

use crate::{
    host::{self, Capabilities, Capability, KernelVersion},
    observer::Observer,
    offsets,
    options::{Cgroup, Options},
    probe::{Probe, ProbeState},
};

/// The oldest kernel on which the object is known to load.
const OLDEST: KernelVersion = KernelVersion { major: 5, minor: 10 };

/// The first kernel on which a connection can be attributed to the process that opens it.
const KNOWS_PROCESS: KernelVersion = KernelVersion { major: 6, minor: 10 };

/// What was found.
#[derive(Debug, Clone, Serialize)]
pub struct DoctorReport {
    /// The kernel's release, as `uname -r` says it.
    pub kernel: String,
    /// The machine's architecture.
    pub architecture: &'static str,
    /// What the host offers.
    pub checks: Vec<Check>,
    /// Every probe.
    pub probes: Vec<ProbeReport>,
    /// Kernel memory that the tables take with these options, bytes, about.
    pub memory: u64,
    /// Why nothing can be observed at all, if so.
    pub error: Option<String>,
    /// What is told less well than it could be.
    pub notes: Vec<String>,
}

/// One thing that was looked at.
#[derive(Debug, Clone, Serialize)]
pub struct Check {
    /// What.
    pub name: &'static str,
    /// Whether it is as it should be.
    pub ok: bool,
    /// What was found.
    pub found: String,
    /// What would mend it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
}

/// What became of one probe.
#[derive(Debug, Clone, Serialize)]
pub struct ProbeReport {
    /// Which.
    pub probe: Probe,
    /// Where it is attached.
    pub hook: &'static str,
    /// What it tells.
    pub tells: &'static str,
    /// Whether it is on.
    #[serde(flatten)]
    pub state: ProbeState,
    /// What it needs.
    pub needs: &'static str,
    /// What stands in while it is off.
    pub stand_in: &'static str,
}

/// Examines this host for these options: looks, then really loads and attaches everything, and takes it away again.
#[must_use]
pub fn doctor(options: &Options) -> DoctorReport {
    match Observer::start(options) {
        Ok(observer) => DoctorReport::of(&observer, options),
        Err(error) => {
            let text = chain(&error);
            let states = Probe::ALL.map(|probe| (probe, ProbeState::Off(first_line(&text).to_owned())));
            DoctorReport::new(options, &states, &[], Some(text))
        }
    }
}

impl DoctorReport {
    /// The report on an observer that runs with these options.
    #[must_use]
    pub fn of(observer: &Observer, options: &Options) -> Self {
        Self::new(options, observer.probes(), observer.notes(), None)
    }

    /// The report where nothing runs, because of `reason`: looks, but loads nothing.
    #[must_use]
    pub fn without(options: &Options, reason: &str) -> Self {
        let states = Probe::ALL.map(|probe| (probe, ProbeState::Off(reason.to_owned())));
        Self::new(options, &states, &[], Some(reason.to_owned()))
    }

    fn new(options: &Options, states: &[(Probe, ProbeState)], notes: &[String], error: Option<String>) -> Self {
        let mut probes: Vec<_> = states
            .iter()
            .map(|(probe, state)| ProbeReport {
                probe: *probe,
                hook: probe.hook(),
                tells: probe.tells(),
                state: state.clone(),
                needs: probe.needs(),
                stand_in: probe.stand_in(),
            })
            .collect();
        // The one that matters most first.
        probes.sort_by_key(|report| report.probe != Probe::SockOps);
        Self {
            kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
            architecture: std::env::consts::ARCH,
            checks: checks(options),
            probes,
            memory: memory(options),
            error,
            notes: notes.to_vec(),
        }
    }

    /// Whether anything can be observed.
    #[must_use]
    pub fn observes(&self) -> bool {
        self.error.is_none()
    }
}

fn checks(options: &Options) -> Vec<Check> {
    let mut checks = vec![kernel()];
    checks.extend(capabilities());
    checks.extend([type_information(), control_groups(options), process_attribution()]);
    checks.extend(lockdown());
    checks
}

fn kernel() -> Check {
    let version = KernelVersion::running();
    let ok = version.is_some_and(|version| version >= OLDEST);
    Check {
        name: "kernel",
        ok,
        found: version.map_or_else(|| "of unknown version".to_owned(), |version| version.to_string()),
        remedy: (!ok).then(|| format!("a kernel of version {OLDEST} or later")),
    }
}

fn capabilities() -> Vec<Check> {
    let held = Capabilities::of_this_thread();
    let check = |name, capability: Capability| {
        let (ok, found) = match &held {
            Ok(held) if held.has(capability) => (true, format!("held: {}", capability.purpose())),
            Ok(_) => (false, format!("missing: {}", capability.purpose())),
            Err(error) => (false, format!("unknown: {error}")),
        };
        let remedy = (!ok).then(|| {
            format!(
                "run as root; or in the systemd unit AmbientCapabilities={capability}; or \
                 setcap cap_bpf,cap_perfmon,cap_net_admin+ep on the program; or grant it to the container"
            )
        });
        Check { name, ok, found, remedy }
    };
    vec![
        check("CAP_BPF", Capability::Bpf),
        check("CAP_PERFMON", Capability::Perfmon),
        check("CAP_NET_ADMIN", Capability::NetAdmin),
    ]
}

fn type_information() -> Check {
    let (ok, found) = match offsets::of_running_kernel() {
        Ok(resolved) if resolved.missing.is_empty() => (true, format!("{}, all fields found", offsets::KERNEL_BTF)),
        Ok(resolved) => {
            let missing: Vec<_> = resolved.missing.iter().map(ToString::to_string).collect();
            (true, format!("{}, but {}", offsets::KERNEL_BTF, missing.join("; ")))
        }
        Err(error) => (false, chain(&error)),
    };
    let remedy = (!ok).then(|| "a kernel built with CONFIG_DEBUG_INFO_BTF=y (the distributions' are)".to_owned());
    Check { name: "kernel type information", ok, found, remedy }
}

fn control_groups(options: &Options) -> Check {
    let directory = match &options.cgroup {
        Cgroup::Host => host::cgroup_mount(),
        Cgroup::Own => host::own_cgroup(),
        Cgroup::Directory(path) => Ok(path.clone()),
    };
    let opened = directory.and_then(|path| {
        fs::File::open(&path).map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))?;
        Ok(path)
    });
    let (ok, found) = match opened {
        Ok(path) => (true, path.display().to_string()),
        Err(error) => (false, error.to_string()),
    };
    let remedy = (!ok).then(|| "mount -t cgroup2 none /sys/fs/cgroup, or name a directory of such a mount".to_owned());
    Check { name: "version 2 control group", ok, found, remedy }
}

/// Not having it is no fault: everything else works.
fn process_attribution() -> Check {
    let knows = KernelVersion::running().is_some_and(|version| version >= KNOWS_PROCESS);
    let found = if knows { "connections are attributed to processes" } else { "connections are not attributed" };
    Check {
        name: "processes",
        ok: knows,
        found: found.to_owned(),
        remedy: (!knows).then(|| format!("a kernel of version {KNOWS_PROCESS} or later")),
    }
}

/// In its strict form, lockdown keeps even root's programs from reading kernel memory. Only told where it is on.
fn lockdown() -> Option<Check> {
    let text = fs::read_to_string("/sys/kernel/security/lockdown").ok()?;
    text.contains("[confidentiality]").then(|| Check {
        name: "lockdown",
        ok: false,
        found: "confidentiality: programs may not read kernel memory".to_owned(),
        remedy: Some("boot with lockdown=integrity".to_owned()),
    })
}

/// A table preallocates its entries. Each has a header of some 64 bytes; endpoints have a value for each processor.
fn memory(options: &Options) -> u64 {
    const HEADER: u64 = 64;
    let processors = aya::util::nr_cpus().unwrap_or(1) as u64;
    let connection = size_of::<ConnectionRecord>() as u64 + HEADER;
    let connections = u64::from(options.max_connections) + u64::from((options.max_connections / 8).max(256));
    let endpoint = size_of::<EndpointCounters>() as u64 * processors + HEADER;
    connections * connection + u64::from(options.max_endpoints) * endpoint + u64::from(options.event_buffer)
}

impl fmt::Display for DoctorReport {
    /// For people; the last line says what it comes to.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "Linux {} on {}\n", self.kernel, self.architecture)?;
        for check in &self.checks {
            let mark = if check.ok { "ok" } else { "no" };
            writeln!(f, "  {mark}  {:<26}{}", check.name, check.found)?;
            if let Some(remedy) = &check.remedy {
                writeln!(f, "      {:<26}→ {remedy}", "")?;
            }
        }
        writeln!(f)?;
        for report in &self.probes {
            let mark = if report.state.is_on() { "on " } else { "off" };
            writeln!(f, "  {mark} {:<15}{}", report.probe.name(), report.hook)?;
            writeln!(f, "      tells: {}", report.tells)?;
            if let ProbeState::Off(reason) = &report.state {
                writeln!(f, "      off because: {reason}")?;
                writeln!(f, "      needs: {}", report.needs)?;
                writeln!(f, "      meanwhile: {}", report.stand_in)?;
            }
        }
        writeln!(f)?;
        for note in &self.notes {
            writeln!(f, "  note: {note}")?;
        }
        let on = self.probes.iter().filter(|report| report.state.is_on()).count();
        #[expect(clippy::cast_precision_loss, reason = "for people")]
        let mebibytes = self.memory as f64 / 1_048_576.0;
        match &self.error {
            None if on == self.probes.len() => {
                writeln!(f, "All {on} probes work here; their tables take about {mebibytes:.1} MiB.")
            }
            None => writeln!(
                f,
                "{on} of {} probes work here; their tables take about {mebibytes:.1} MiB.",
                self.probes.len()
            ),
            Some(error) => {
                writeln!(f, "Nothing can be observed here: {}", first_line(error))?;
                writeln!(f, "A gateway works all the same; it then knows what TCP_INFO tells of its own sockets.")
            }
        }
    }
}

/// An error and its causes on one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

/// The verifier's log, where there is one, begins after the first line or the words below and runs to pages.
fn first_line(text: &str) -> &str {
    let line = text.lines().next().unwrap_or_default();
    line.split(". Verifier output").next().unwrap_or(line)
}
