//! What the operator writes of a plugin's second implementation.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sluice_vocabulary::measure::Span;
use sluice_vocabulary::{Faults, Path};

use crate::config::{ComponentSource, PluginConfig, validate_component, validate_deadline};

/// A second implementation of the same job: it gets the same untouched message when the first traps, overruns or hands back
/// what cannot be used. It must export the same phases, and has the same grants and configuration.
///
/// This holds for phases whose changes can be undone (headers, and bodies known whole before anything was sent); the pieces
/// of a body that is under way are never given to another implementation in the middle.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Fallback {
    /// The component's file; a relative path starts at the configuration file's folder.
    pub component: ComponentSource,
    /// SHA-256 of the component's bytes, 64 hexadecimal digits. If given, any other component is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// Running time of one phase of the second, 1ms to 1s in whole milliseconds. Default: `limits.deadline`. A phase may so
    /// take both deadlines together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<Span>,
    /// Whether both run on the same message, for this share of the calls (`true` for all, or a number from 0 to 1): the first
    /// decides, and where the second decides otherwise that is counted and now and then logged. Whatever the second counts,
    /// logs, stores or sends is done twice then. Default: false.
    #[serde(default, skip_serializing_if = "Compare::is_never")]
    pub compare: Compare,
    /// When the first is no longer tried, and how it comes back.
    #[serde(default, skip_serializing_if = "QuarantineConfig::is_default")]
    pub quarantine: QuarantineConfig,
}

/// The share of calls in which both implementations run.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Compare {
    /// All of them, or none.
    Always(bool),
    /// So many of them: 0.1 is every tenth.
    Share(f64),
}

impl Default for Compare {
    fn default() -> Self {
        Self::Always(false)
    }
}

impl Compare {
    /// From 0 to 1.
    pub(crate) fn share(self) -> f64 {
        match self {
            Self::Always(always) => f64::from(u8::from(always)),
            Self::Share(share) => share,
        }
    }

    fn is_never(&self) -> bool {
        *self == Self::default()
    }
}

/// When a first implementation is taken out of service, and how it comes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct QuarantineConfig {
    /// After so many failures in a row calls go straight to the second, 1 to 1000000. Default 5.
    pub after: u32,
    /// How long until it is tried again: by one request, with the second behind it. Twice as long after each failure of such
    /// a probe. 1ms to 1h, default 1s.
    pub probe_after: Span,
    /// The longest time between two probes. At least `probe_after`, at most 24h, default 1m.
    pub probe_at_most: Span,
    /// After so many good probes in a row it is back in service, 1 to 1000. Default 3.
    pub back_after: u32,
}

impl Default for QuarantineConfig {
    fn default() -> Self {
        Self { after: 5, probe_after: Span::secs(1), probe_at_most: Span::secs(60), back_after: 3 }
    }
}

impl QuarantineConfig {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }

    fn validate(&self, at: &Path, faults: &mut Faults) {
        let Self { after, probe_after, probe_at_most, back_after } = *self;
        for (key, value, most) in [("after", after, 1_000_000), ("back_after", back_after, 1_000)] {
            if !(1..=most).contains(&value) {
                faults.error(&at.key(key), format!("{value} is out of range: expected 1 to {most}"));
            }
        }
        let (least, most) = (Span::millis(1), Span::secs(3600));
        if probe_after < least || probe_after > most {
            faults.error(&at.key("probe_after"), format!("{probe_after} is out of range: expected {least} to {most}"));
        }
        let most = Span::secs(24 * 3600);
        if probe_at_most < probe_after || probe_at_most > most {
            faults.error(
                &at.key("probe_at_most"),
                format!("{probe_at_most} is out of range: expected {probe_after} (probe_after) to {most}"),
            );
        }
    }
}

impl Fallback {
    /// A second implementation with defaults for everything but its component.
    pub fn new(component: ComponentSource) -> Self {
        Self {
            component,
            sha256: None,
            deadline: None,
            compare: Compare::default(),
            quarantine: QuarantineConfig::default(),
        }
    }

    /// Checks it without opening anything.
    pub(crate) fn validate(&self, at: &Path, is_signed: bool, faults: &mut Faults) {
        validate_component(&self.component, self.sha256.as_deref(), is_signed, at, faults);
        if let Some(deadline) = self.deadline {
            validate_deadline(deadline, &at.key("deadline"), faults);
        }
        let share = self.compare.share();
        if !(0.0..=1.0).contains(&share) {
            faults.error(
                &at.key("compare"),
                format!("{share} is no share: expected true, false, or a number from 0 to 1"),
            );
        }
        self.quarantine.validate(&at.key("quarantine"), faults);
    }

    /// The second implementation as a plugin by itself.
    pub(crate) fn as_plugin(&self, first: &PluginConfig) -> PluginConfig {
        let mut second = PluginConfig {
            component: self.component.clone(),
            sha256: self.sha256.clone(),
            fallback: None,
            ..first.clone()
        };
        second.limits.deadline = self.deadline.unwrap_or(first.limits.deadline);
        second
    }
}
