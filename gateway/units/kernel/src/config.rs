//! What may be configured of watching the kernel.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sluice_vocabulary::fault::{Fault, Faults, Path};
use sluice_vocabulary::measure::Span;

/// What the gateway asks the kernel about its TCP connections, by eBPF. It needs CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN;
/// `sluice kernel doctor` says what is missing on a host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Whether to watch. Default: auto, since everything else works without it.
    pub enabled: Enabled,
    /// Whose outgoing connections are counted. Default: process, so that the figures are the gateway's own.
    pub scope: Scope,
    /// Directory of the version 2 control group whose connections are seen, with its children. Default: the one that
    /// the gateway runs in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cgroup: Option<PathBuf>,
    /// When round trips are sampled. Default: adaptive, which costs a keep-alive load about 1 % of the gateway's
    /// processor time.
    pub round_trips: RoundTrips,
    /// How often the counts are read. Default: 1s. Reading costs two system calls for each endpoint.
    pub refresh: Span,
    /// How many living connections are remembered; the least recently used ones give way. Default: 16384, about 3.5 MiB
    /// of kernel memory. Set it above the number of connections that the gateway holds at once.
    #[schemars(range(min = 64, max = 4_194_304))]
    pub max_connections: u32,
    /// How many remote endpoints are counted; the least recently used ones give way and later begin at zero. Default:
    /// 1024, about 1.1 MiB of kernel memory for each processor.
    #[schemars(range(min = 16, max = 262_144))]
    pub max_endpoints: u32,
}

/// Whether to watch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Enabled {
    /// Where privileges and kernel allow it; otherwise the unit is degraded and says why.
    #[default]
    Auto,
    /// Not at all.
    Off,
    /// The gateway is not ready without it.
    Required,
}

/// Whose outgoing connections are counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// The gateway's alone. Where the kernel cannot tell which process connects (before 6.10), the control group's.
    #[default]
    Process,
    /// Those of every process in the control group.
    Cgroup,
}

/// When round trips are sampled.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RoundTrips {
    /// On all connections of endpoints whose connections live a second or longer, on one in 16 of the others.
    #[default]
    Adaptive,
    /// On all connections; about 15 % of processor time where each request opens its own.
    Always,
    /// On none while they live; each tells the value that it ends with.
    Never,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            enabled: Enabled::default(),
            scope: Scope::default(),
            cgroup: None,
            round_trips: RoundTrips::default(),
            refresh: Span::secs(1),
            max_connections: 16_384,
            max_endpoints: 1_024,
        }
    }
}

impl Config {
    /// Reports every fault.
    pub fn validate(&self, at: &Path, faults: &mut Faults) {
        let refresh = self.refresh.get();
        if refresh < Span::millis(100).get() || refresh > Span::secs(60).get() {
            faults.error(&at.key("refresh"), format!("{} is out of range: expected 100ms to 1m", self.refresh));
        }
        if !(64..=4_194_304).contains(&self.max_connections) {
            faults.error(
                &at.key("max_connections"),
                format!("{} is out of range: expected 64 to 4194304", self.max_connections),
            );
        }
        if !(16..=262_144).contains(&self.max_endpoints) {
            faults.error(
                &at.key("max_endpoints"),
                format!("{} is out of range: expected 16 to 262144", self.max_endpoints),
            );
        }
        if let Some(cgroup) = &self.cgroup
            && !cgroup.is_absolute()
        {
            faults.push(
                Fault::error(&at.key("cgroup"), format!("{} is not an absolute path", cgroup.display()))
                    .help("name the directory as it is mounted, such as /sys/fs/cgroup/system.slice/sluice.service"),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_sound_and_every_fault_is_told_at_once() {
        let mut faults = Faults::new();
        Config::default().validate(&Path::root(), &mut faults);
        assert!(faults.is_empty());

        let wrong = Config {
            cgroup: Some("system.slice".into()),
            refresh: Span::millis(1),
            max_connections: 1,
            max_endpoints: 0,
            ..Config::default()
        };
        wrong.validate(&Path::root().key("kernel"), &mut faults);
        let mut places: Vec<_> = faults.iter().map(|fault| fault.path.to_string()).collect();
        places.sort();
        assert_eq!(places, ["kernel.cgroup", "kernel.max_connections", "kernel.max_endpoints", "kernel.refresh"]);
    }
}
