//! Processes of a measurement: pinned to a core, accounted for, and gone afterwards.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, setrlimit};

use crate::error::{Context, Failure, Result};

/// The core that the measured proxy has to itself.
pub(crate) const PROXY_CORE: u32 = 0;

/// The core that the load generator and the origin share.
pub(crate) const LOAD_CORE: u32 = 1;

/// How long a process may take to listen, and to stop.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long to wait between two looks at a process.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// A process with its children; they end when this is dropped.
pub(crate) struct Process {
    child: Child,
    name: String,
    log: PathBuf,
}

/// A command that runs `program` on one core. `taskset` becomes the program, so the process id is the program's.
pub(crate) fn pinned(core: u32, program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("taskset");
    command.arg("-c").arg(core.to_string()).arg(program);
    command
}

/// Lets this process and those that it starts open as many files as the machine lets them: hundreds of connections, each
/// with one to the origin and one to an introspection service, are more than many shells allow.
pub(crate) fn allow_many_files() -> Result<()> {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit })
        .context(|| "cannot raise the limit of open files".to_owned())
}

/// A loopback port that was free a moment ago.
pub(crate) fn free_port() -> Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context(|| "no free loopback port".to_owned())?;
    Ok(listener.local_addr().context(|| "no address of a bound port".to_owned())?.port())
}

impl Process {
    /// Starts `command`, its output in `<name>.out` in `folder`, and waits until it listens on `port`.
    pub(crate) fn start(name: &str, mut command: Command, folder: &Path, port: u16) -> Result<Self> {
        let log = folder.join(format!("{name}.out"));
        let out = File::create(&log).context(|| format!("cannot write {}", log.display()))?;
        let errors = out.try_clone().context(|| format!("cannot write {}", log.display()))?;
        command.stdin(Stdio::null()).stdout(out).stderr(errors);
        let child = command.spawn().context(|| format!("cannot start {name}"))?;
        let mut process = Self { child, name: name.to_owned(), log };
        process.wait_until_listening(port)?;
        Ok(process)
    }

    fn wait_until_listening(&mut self, port: u16) -> Result<()> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let deadline = Instant::now() + PATIENCE;
        while TcpStream::connect(address).is_err() {
            let ended = self.child.try_wait().context(|| format!("cannot watch {}", self.name))?;
            if ended.is_some() || Instant::now() > deadline {
                return Err(Failure::new(format_args!("{} does not listen; it said:\n{}", self.name, self.said())));
            }
            std::thread::sleep(LOOK_AGAIN);
        }
        Ok(())
    }

    /// What it has written so far.
    pub(crate) fn said(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// CPU time, user and system, of the process and its children so far.
    pub(crate) fn cpu_time(&self) -> Result<Duration> {
        let ticks: u64 = self.tree()?.iter().map(|entry| entry.ticks).sum();
        Ok(Duration::from_secs(1) * u32::try_from(ticks).unwrap_or(u32::MAX) / clock_ticks())
    }

    /// Resident memory, in bytes, of the process and its children. Pages that they share count once for each.
    pub(crate) fn resident(&self) -> Result<u64> {
        let pages: u64 = self.tree()?.iter().map(|entry| entry.pages).sum();
        Ok(pages * rustix::param::page_size() as u64)
    }

    fn tree(&self) -> Result<Vec<Stat>> {
        let mut all: Vec<Stat> = Vec::new();
        let entries = std::fs::read_dir("/proc").context(|| "cannot read /proc".to_owned())?;
        for entry in entries.flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
            // A process may end between being listed and being read.
            all.extend(stat(pid));
        }
        let mut family = HashSet::from([self.child.id()]);
        loop {
            let before = family.len();
            family.extend(
                all.iter().filter(|stat| family.contains(&stat.parent)).map(|stat| stat.pid).collect::<Vec<_>>(),
            );
            if family.len() == before {
                break;
            }
        }
        all.retain(|stat| family.contains(&stat.pid));
        if all.is_empty() {
            return Err(Failure::new(format_args!("{} is gone; it said:\n{}", self.name, self.said())));
        }
        Ok(all)
    }

    fn ended_within(&mut self, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        while Instant::now() < deadline {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return true;
            }
            std::thread::sleep(LOOK_AGAIN);
        }
        false
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let family = self.tree().unwrap_or_default();
        signal(self.child.id(), Signal::TERM);
        self.ended_within(PATIENCE / 4);
        // Whoever is left, children that outlived their parent included; the start time tells a process from a later
        // one that was given the same id.
        for member in family {
            if stat(member.pid).is_some_and(|now| now.started == member.started) {
                signal(member.pid, Signal::KILL);
            }
        }
        let _ = self.child.wait();
    }
}

fn signal(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        let _ = kill_process(pid, signal);
    }
}

fn clock_ticks() -> u32 {
    u32::try_from(rustix::param::clock_ticks_per_second()).unwrap_or(100)
}

/// The part of `/proc/<pid>/stat` that is of interest; see proc_pid_stat(5).
struct Stat {
    pid: u32,
    parent: u32,
    ticks: u64,
    pages: u64,
    started: u64,
}

/// `None` for a process that is gone.
fn stat(pid: u32) -> Option<Stat> {
    parse_stat(&std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

fn parse_stat(text: &str) -> Option<Stat> {
    let pid = text.split(' ').next()?.parse().ok()?;
    // The second field is the program's name, in parentheses, and may itself hold blanks and parentheses.
    let rest = &text[text.rfind(')')? + 2..];
    let fields: Vec<&str> = rest.split(' ').collect();
    let number = |place: usize| fields.get(place - 3)?.trim().parse::<u64>().ok();
    Some(Stat {
        pid,
        parent: u32::try_from(number(4)?).ok()?,
        ticks: number(14)? + number(15)?,
        pages: number(24)?,
        started: number(22)?,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

    use super::*;

    #[test]
    fn a_stat_line_is_read_whatever_the_program_is_called() {
        let line =
            "42 (a (b) c) S 7 42 42 0 -1 4194560 100 0 0 0 11 22 0 0 20 0 1 0 5 1000 333 18446744073709551615 0\n";
        let stat = parse_stat(line).unwrap();
        assert_eq!((stat.pid, stat.parent, stat.ticks, stat.pages, stat.started), (42, 7, 33, 333, 5));
    }

    #[test]
    fn a_process_is_pinned_measured_with_its_children_and_ended() {
        let folder = tempfile::tempdir().unwrap();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let mut command = pinned(PROXY_CORE, "sh");
        // A child that computes, and a parent that waits for it.
        command.arg("-c").arg("(while :; do :; done) & wait");
        let process = Process::start("spinner", command, folder.path(), listener.local_addr().unwrap().port()).unwrap();
        let deadline = Instant::now() + PATIENCE;
        while process.cpu_time().unwrap() < Duration::from_millis(50) {
            assert!(Instant::now() < deadline, "the child's time was not counted");
            std::thread::sleep(LOOK_AGAIN);
        }
        assert!(process.resident().unwrap() > 0);
        let family: Vec<u32> = process.tree().unwrap().iter().map(|stat| stat.pid).collect();
        assert_eq!(family.len(), 2);
        let status = std::fs::read_to_string(format!("/proc/{}/status", family[0])).unwrap();
        assert!(status.contains("Cpus_allowed_list:\t0\n"), "{status}");
        let members = process.tree().unwrap();
        drop(process);
        // Orphans that were killed may stay as zombies until their new parent has looked.
        let alive = |pid| std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|text| !text.contains(") Z "));
        let deadline = Instant::now() + PATIENCE;
        while members.iter().any(|member| alive(member.pid)) {
            assert!(Instant::now() < deadline, "a member of the family lives on");
            std::thread::sleep(LOOK_AGAIN);
        }
    }
}
