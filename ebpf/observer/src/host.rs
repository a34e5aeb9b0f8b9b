//! What machine this is, as far as the probes care: kernel, capabilities, control groups, processors.

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
};

use rustix::time::{ClockId, clock_getres};
use serde::Serialize;

/// A capability that observing needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Capability {
    /// Creating maps and loading programs.
    #[serde(rename = "CAP_BPF")]
    Bpf,
    /// Programs that read kernel memory, and attaching to raw tracepoints.
    #[serde(rename = "CAP_PERFMON")]
    Perfmon,
    /// Socket-operations programs.
    #[serde(rename = "CAP_NET_ADMIN")]
    NetAdmin,
}

impl Capability {
    /// All that observing needs.
    pub const ALL: [Self; 3] = [Self::Bpf, Self::Perfmon, Self::NetAdmin];

    /// Its bit in the kernel's sets (`include/uapi/linux/capability.h`).
    const fn bit(self) -> u64 {
        match self {
            Self::NetAdmin => 1 << 12,
            Self::Perfmon => 1 << 38,
            Self::Bpf => 1 << 39,
        }
    }

    /// What it is needed for, for people.
    #[must_use]
    pub const fn purpose(self) -> &'static str {
        match self {
            Self::Bpf => "to create maps and load programs",
            Self::Perfmon => "to read sockets in the kernel and attach to raw tracepoints",
            Self::NetAdmin => "for socket-operations programs",
        }
    }
}

impl fmt::Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bpf => "CAP_BPF",
            Self::Perfmon => "CAP_PERFMON",
            Self::NetAdmin => "CAP_NET_ADMIN",
        })
    }
}

/// The kernel's `CAP_SYS_ADMIN`, which implies the first two.
const SYS_ADMIN: u64 = 1 << 21;

/// Effective capabilities of a thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capabilities(u64);

impl Capabilities {
    /// Those of the calling thread (which is what the kernel asks), from `/proc/thread-self/status`.
    ///
    /// # Errors
    /// Where `/proc` is not mounted, or the line is not there.
    pub fn of_this_thread() -> io::Result<Self> {
        Self::from_status(&fs::read_to_string("/proc/thread-self/status")?)
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "/proc/thread-self/status has no CapEff line"))
    }

    fn from_status(status: &str) -> Option<Self> {
        let hex = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
        u64::from_str_radix(hex.trim(), 16).ok().map(Self)
    }

    /// Whether it is held, or implied by one that is.
    #[must_use]
    pub const fn has(self, capability: Capability) -> bool {
        let implied = !matches!(capability, Capability::NetAdmin) && self.0 & SYS_ADMIN != 0;
        implied || self.0 & capability.bit() != 0
    }

    /// Those of [`Capability::ALL`] that are not held.
    #[must_use]
    pub fn missing(self) -> Vec<Capability> {
        Capability::ALL.into_iter().filter(|capability| !self.has(*capability)).collect()
    }
}

/// A kernel's version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct KernelVersion {
    /// First number.
    pub major: u32,
    /// Second number.
    pub minor: u32,
}

impl KernelVersion {
    /// The running kernel's.
    #[must_use]
    pub fn running() -> Option<Self> {
        Self::parse(&rustix::system::uname().release().to_string_lossy())
    }

    fn parse(release: &str) -> Option<Self> {
        let mut numbers = release.split(|c: char| !c.is_ascii_digit());
        Some(Self { major: numbers.next()?.parse().ok()?, minor: numbers.next()?.parse().ok()? })
    }
}

impl fmt::Display for KernelVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// Where the version 2 hierarchy of control groups is mounted: `/sys/fs/cgroup`, or `/sys/fs/cgroup/unified` beside the
/// older one.
///
/// # Errors
/// Where `/proc` cannot be read or nothing of the kind is mounted.
pub fn cgroup_mount() -> io::Result<PathBuf> {
    find_cgroup_mount(&fs::read_to_string("/proc/self/mountinfo")?)
        .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "no version 2 control groups are mounted"))
}

/// Lines of mountinfo: `36 35 0:31 / /sys/fs/cgroup rw,… shared:9 - cgroup2 cgroup2 rw,…` (`proc_pid_mountinfo(5)`).
fn find_cgroup_mount(mountinfo: &str) -> Option<PathBuf> {
    mountinfo.lines().find_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        if after.split(' ').next()? != "cgroup2" {
            return None;
        }
        // White space in a path is written as an octal escape; control group mounts have none in practice, and a path
        // left escaped only fails to open.
        before.split(' ').nth(4).map(PathBuf::from)
    })
}

/// The directory of the control group that this process is in.
///
/// # Errors
/// As for [`cgroup_mount`], or where `/proc/self/cgroup` names no version 2 group.
pub fn own_cgroup() -> io::Result<PathBuf> {
    let groups = fs::read_to_string("/proc/self/cgroup")?;
    let path = groups
        .lines()
        .find_map(|line| line.strip_prefix("0::"))
        .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "this process is in no version 2 control group"))?;
    Ok(below(&cgroup_mount()?, path))
}

/// In a container without its own namespace of control groups the path can point outside what is mounted (`/../…`);
/// the mount itself is then the nearest that can be opened.
fn below(mount: &Path, path: &str) -> PathBuf {
    if path.contains("..") { mount.to_owned() } else { mount.join(path.trim_start_matches('/')) }
}

/// Nanoseconds of a tick of the kernel's timer: the resolution of the coarse clock, which each tick advances.
#[must_use]
pub fn tick_ns() -> u32 {
    let resolution = clock_getres(ClockId::MonotonicCoarse);
    u32::try_from(resolution.tv_nsec).ok().filter(|ns| *ns > 0).unwrap_or(4_000_000)
}

/// Now, on the clock that the probes' stamps are of, in nanoseconds.
#[must_use]
pub fn monotonic_ns() -> u64 {
    let now = rustix::time::clock_gettime(ClockId::Monotonic);
    u64::try_from(now.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]
    use super::*;

    #[test]
    fn the_administrators_capability_implies_two_of_three() {
        let none = Capabilities::from_status("Name:\tx\nCapEff:\t0000000000000000\n").unwrap();
        assert_eq!(none.missing(), Capability::ALL);
        let admin = Capabilities::from_status("CapEff:\t0000000000200000\n").unwrap();
        assert_eq!(admin.missing(), [Capability::NetAdmin]);
        let root = Capabilities::from_status("CapEff:\t000001ffffffffff\n").unwrap();
        assert_eq!(root.missing(), []);
        let exact = Capabilities::from_status("CapEff:\t000000c000001000\n").unwrap();
        assert_eq!(exact.missing(), []);
        assert_eq!(Capabilities::from_status("CapInh:\t0\n"), None);
    }

    #[test]
    fn a_release_gives_its_first_two_numbers() {
        assert_eq!(KernelVersion::parse("6.18.44-fc-v509"), Some(KernelVersion { major: 6, minor: 18 }));
        assert_eq!(KernelVersion::parse("5.10.0-30-cloud-arm64"), Some(KernelVersion { major: 5, minor: 10 }));
        assert_eq!(KernelVersion::parse("linux"), None);
        assert!(KernelVersion { major: 6, minor: 1 } > KernelVersion { major: 5, minor: 19 });
    }

    #[test]
    fn the_version_2_mount_is_found_beside_the_older_ones() {
        let mountinfo = "30 23 0:26 / /sys/fs/cgroup ro,nosuid - tmpfs tmpfs ro\n\
                         31 30 0:27 / /sys/fs/cgroup/cpu rw shared:10 - cgroup cgroup rw,cpu\n\
                         32 30 0:28 / /sys/fs/cgroup/unified rw shared:11 master:1 - cgroup2 cgroup2 rw\n";
        assert_eq!(find_cgroup_mount(mountinfo), Some(PathBuf::from("/sys/fs/cgroup/unified")));
        assert_eq!(find_cgroup_mount("1 1 0:1 / / rw - ext4 /dev/vda rw\n"), None);
    }

    #[test]
    fn a_group_outside_the_namespace_falls_back_to_the_mount() {
        let mount = Path::new("/sys/fs/cgroup");
        assert_eq!(below(mount, "/system.slice/a.service"), Path::new("/sys/fs/cgroup/system.slice/a.service"));
        assert_eq!(below(mount, "/"), Path::new("/sys/fs/cgroup/"));
        assert_eq!(below(mount, "/../../other"), mount);
    }

    #[test]
    fn the_tick_is_one_of_the_kernels_rates() {
        assert!([1_000_000, 3_333_333, 4_000_000, 10_000_000].iter().any(|known| tick_ns().abs_diff(*known) < 10));
    }
}
