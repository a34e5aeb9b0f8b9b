//! What an operator grants a plugin beyond what every plugin has: one key for each interface of `wit/capabilities.wit`.
//!
//! An interface that is not granted is not linked, so that the lack shows when the plugin is loaded and not when a request
//! arrives.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sluice_vocabulary::measure::ByteSize;
use sluice_vocabulary::{Faults, Path, UpstreamName};

use crate::outbound::HttpGrant;
use crate::store::Room;

/// Upstreams that one plugin may choose among.
const MOST_UPSTREAMS: usize = 64;

/// What a plugin may use beside the message that it is called for. Default: nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Grants {
    /// Who sent the request, as its verified token says: subject, scopes, claims; and its tenant. Default false.
    #[serde(skip_serializing_if = "is_not")]
    pub identity: bool,
    /// The client's connection: addresses, HTTP and TLS version, server name, certificate, round trip. Default false.
    #[serde(skip_serializing_if = "is_not")]
    pub connection: bool,
    /// The time. Default false.
    #[serde(skip_serializing_if = "is_not")]
    pub clock: bool,
    /// Random bytes, fit for keys. Default false.
    #[serde(skip_serializing_if = "is_not")]
    pub random: bool,
    /// Counters and gauges of the plugin's own among the gateway's metrics; at most 32 names and 256 series. Default false.
    #[serde(skip_serializing_if = "is_not")]
    pub metrics: bool,
    /// Tags in the request's access record; at most 8. Default false.
    #[serde(skip_serializing_if = "is_not")]
    pub tags: bool,
    /// A small store that outlives requests, and if told to the process, of which every tenant has a space of its own. Default none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_value: Option<KeyValueGrant>,
    /// Upstreams that the plugin may send a request to in place of the route's own. Default none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub upstreams: Vec<UpstreamName>,
    /// Other services that the plugin may ask over HTTP, and wait for. Default none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http: Option<HttpGrant>,
}

/// How much a tenant's space in a plugin's store may hold. What has no room is refused; nothing is evicted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct KeyValueGrant {
    /// Entries, 1 to 1000000. Default 10000.
    pub entries: usize,
    /// Bytes of keys, values and 112 for each entry, 4KiB to 64MiB. Default 8MiB. All stores together hold at most 256MiB.
    pub bytes: ByteSize,
    /// Whether it is kept on disk as well, in `state_dir`, and so outlives the process: a crash loses at most what was
    /// changed in the last second. Default false.
    #[serde(skip_serializing_if = "is_not")]
    pub persist: bool,
}

impl Default for KeyValueGrant {
    fn default() -> Self {
        Self { entries: 10_000, bytes: ByteSize::mib(8), persist: false }
    }
}

impl KeyValueGrant {
    pub(crate) fn room(self) -> Room {
        Room { entries: self.entries, bytes: self.bytes.as_usize() }
    }

    fn validate(self, at: &Path, faults: &mut Faults) {
        if !(1..=1_000_000).contains(&self.entries) {
            faults.error(&at.key("entries"), format!("{} is out of range: expected 1 to 1000000", self.entries));
        }
        let (least, most) = (ByteSize::kib(4), ByteSize::mib(64));
        if self.bytes < least || self.bytes > most {
            faults.error(&at.key("bytes"), format!("{} is out of range: expected {least} to {most}", self.bytes));
        }
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
const fn is_not(granted: &bool) -> bool {
    !*granted
}

/// An interface that is linked only where it is granted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Capability {
    Identity,
    Connection,
    Clock,
    Random,
    Metrics,
    Tags,
    Routing,
    KeyValue,
    OutboundHttp,
}

impl Capability {
    pub(crate) const ALL: [Self; 9] = [
        Self::Identity,
        Self::Connection,
        Self::Clock,
        Self::Random,
        Self::Metrics,
        Self::Tags,
        Self::Routing,
        Self::KeyValue,
        Self::OutboundHttp,
    ];

    /// The interface's name in the contract.
    pub(crate) const fn interface(self) -> &'static str {
        match self {
            Self::Identity => "identity",
            Self::Connection => "connection",
            Self::Clock => "clock",
            Self::Random => "random",
            Self::Metrics => "metrics",
            Self::Tags => "tags",
            Self::Routing => "routing",
            Self::KeyValue => "key-value",
            Self::OutboundHttp => "outbound-http",
        }
    }

    /// How the configuration grants it.
    pub(crate) const fn grant(self) -> &'static str {
        match self {
            Self::Identity => "identity: true",
            Self::Connection => "connection: true",
            Self::Clock => "clock: true",
            Self::Random => "random: true",
            Self::Metrics => "metrics: true",
            Self::Tags => "tags: true",
            Self::Routing => "upstreams: [NAME, …]",
            Self::KeyValue => "key_value: {}",
            Self::OutboundHttp => "http: [ORIGIN, …]",
        }
    }

    /// The interface of that name, if it is one of these.
    pub(crate) fn of_interface(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|capability| capability.interface() == name)
    }
}

/// The capabilities that are linked for a plugin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(crate) struct Granted(u16);

impl Granted {
    pub(crate) const fn has(self, capability: Capability) -> bool {
        self.0 & 1 << capability as u16 != 0
    }

    /// All there are.
    pub(crate) fn everything() -> Self {
        Capability::ALL.into_iter().fold(Self::default(), Self::with)
    }

    const fn with(self, capability: Capability) -> Self {
        Self(self.0 | 1 << capability as u16)
    }
}

impl Grants {
    pub(crate) fn granted(&self) -> Granted {
        let is_granted = |capability: &Capability| match capability {
            Capability::Identity => self.identity,
            Capability::Connection => self.connection,
            Capability::Clock => self.clock,
            Capability::Random => self.random,
            Capability::Metrics => self.metrics,
            Capability::Tags => self.tags,
            Capability::Routing => !self.upstreams.is_empty(),
            Capability::KeyValue => self.key_value.is_some(),
            Capability::OutboundHttp => self.http.is_some(),
        };
        Capability::ALL.into_iter().filter(is_granted).fold(Granted::default(), Granted::with)
    }

    /// Whether it may do what cannot be taken back, so that no phase of it may be begun anew.
    pub(crate) const fn has_lasting_effects(&self) -> bool {
        self.metrics || self.key_value.is_some() || self.http.is_some()
    }

    /// Whether its store outlives the process.
    pub fn persists(&self) -> bool {
        self.key_value.is_some_and(|key_value| key_value.persist)
    }

    /// Whether nothing is granted.
    pub(crate) fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    pub(crate) fn validate(&self, at: &Path, faults: &mut Faults) {
        if let Some(key_value) = self.key_value {
            key_value.validate(&at.key("key_value"), faults);
        }
        if let Some(http) = &self.http {
            http.validate(&at.key("http"), faults);
        }
        let at = at.key("upstreams");
        if self.upstreams.len() > MOST_UPSTREAMS {
            faults.error(&at, format!("{} upstreams: expected at most {MOST_UPSTREAMS}", self.upstreams.len()));
        }
        for (index, name) in self.upstreams.iter().enumerate() {
            if self.upstreams[..index].contains(name) {
                faults.error(&at.index(index), format!("{:?} is granted twice", name.as_str()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn what_is_not_written_is_not_granted() {
        let nothing: Grants = serde_json::from_value(serde_json::json!({})).unwrap();
        assert!(nothing.is_empty() && Capability::ALL.into_iter().all(|one| !nothing.granted().has(one)));
        let some: Grants = serde_json::from_value(serde_json::json!({ "clock": true, "upstreams": ["a"] })).unwrap();
        let granted: Vec<_> = Capability::ALL.into_iter().filter(|one| some.granted().has(*one)).collect();
        assert_eq!(granted, [Capability::Clock, Capability::Routing]);
        assert!(serde_json::from_value::<Grants>(serde_json::json!({ "clocks": true })).is_err());
    }

    #[test]
    fn a_capability_that_is_granted_twice_is_a_fault() {
        let grants: Grants = serde_json::from_value(serde_json::json!({ "upstreams": ["a", "b", "a"] })).unwrap();
        let mut faults = Faults::new();
        grants.validate(&Path::root().key("grants"), &mut faults);
        let faults: Vec<_> = faults.iter().map(ToString::to_string).collect();
        assert_eq!(faults, ["grants.upstreams[2]: \"a\" is granted twice"]);
    }
}
