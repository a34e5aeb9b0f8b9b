//! What an operator writes of tenants.

use std::collections::BTreeMap;

use http::HeaderName;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sluice_vocabulary::measure::Span;
use sluice_vocabulary::share::Share;
use sluice_vocabulary::{Fault, Faults, Path, PluginName, TenantId};

/// How tenants are told apart, and what each may use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Where a request's tenant is named. Claims of the verified identity are asked first, then header fields, each in
    /// the order given.
    pub identify: Vec<Source>,
    /// Whether a request that names no tenant is refused. Without it such a request is let through and limited by its
    /// address alone.
    pub required: bool,
    /// What a tenant may use unless its overrides say otherwise.
    pub default: TenantPolicy,
    /// What single tenants may use, by tenant. What is left out here is as in `default`. These tenants, and only these,
    /// have metrics of their own.
    pub overrides: BTreeMap<TenantId, TenantOverride>,
    /// How many tenants beyond those in `overrides` are remembered at once. The default takes some 20 MB if all of it is
    /// used; when it is, a tenant that rests gives way to a new one.
    pub max_tracked: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            identify: Vec::new(),
            required: false,
            default: TenantPolicy::default(),
            overrides: BTreeMap::new(),
            max_tracked: 100_000,
        }
    }
}

/// A place where a tenant is named: exactly one of `claim`, `header`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// A claim of the verified identity: text or a whole number. A nested one by a dotted path, as in `org.id`.
    Claim(String),
    /// A request header field. Whoever can reach the gateway can write one: use it where a trusted proxy in front sets
    /// it. Where a claim names a tenant, a header field that names another is refused.
    Header(String),
}

/// What a tenant may use. What is left out is not limited.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TenantPolicy {
    /// How many requests in what time.
    pub rate: Option<RateLimit>,
    /// How many requests at once.
    pub concurrency: Option<u32>,
    /// Plugins that every request of the tenant passes, in this order, before those of its route.
    pub plugins: Vec<PluginName>,
    /// What the plugins that a tenant's requests pass may use, on all routes together. Those of requests without a tenant
    /// may use this on each route.
    pub plugin_limits: PluginLimits,
}

/// What plugins may use on account of one tenant. What is over it waits a little, then is refused with 503.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PluginLimits {
    /// Instances at once, 1 to 65536. Default 32.
    pub instances: u32,
    /// Processor time in every second, 1ms to 1000s: `2s` is two processors. Default: half of the machine's, since one tenant
    /// may well be all the traffic there is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu: Option<Span>,
}

impl Default for PluginLimits {
    fn default() -> Self {
        Self { instances: Share::DEFAULT.instances, cpu: None }
    }
}

impl PluginLimits {
    fn validate(self, at: &Path, faults: &mut Faults) {
        let Self { instances, cpu } = self;
        if !(1..=65_536).contains(&instances) {
            faults.error(&at.key("instances"), format!("{instances} is out of range: expected 1 to 65536"));
        }
        let (least, most) = (Span::millis(1), Span::secs(1000));
        if let Some(cpu) = cpu
            && (cpu < least || cpu > most)
        {
            faults.error(&at.key("cpu"), format!("{cpu} is out of range: expected {least} to {most}"));
        }
    }

    /// As the sandbox takes it.
    pub fn share(self) -> Share {
        let processors = || std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get);
        let half = || Share::DEFAULT.cpu * u32::try_from(processors()).unwrap_or(u32::MAX);
        Share { instances: self.instances, cpu: self.cpu.map_or_else(half, Span::get) }
    }
}

/// What differs for one tenant.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TenantOverride {
    /// How many requests in what time, in place of the default's.
    pub rate: Option<RateLimit>,
    /// How many requests at once, in place of the default's.
    pub concurrency: Option<u32>,
    /// Plugins in place of the default's; an empty list means none.
    pub plugins: Option<Vec<PluginName>>,
    /// What its plugins may use, in place of the default's.
    pub plugin_limits: Option<PluginLimits>,
}

/// A rate: `requests` in every `per`, and `burst` at once after a rest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RateLimit {
    /// How many requests, at least 1.
    pub requests: u64,
    /// In what time; one second by default.
    #[serde(default = "one_second")]
    pub per: Span,
    /// How many at once after a rest. As many as `requests` by default, so that a client who uses up one period's worth
    /// at its beginning is not refused.
    #[serde(default)]
    pub burst: Option<u32>,
}

fn one_second() -> Span {
    Span::secs(1)
}

impl Config {
    /// More than this many tenants would take gigabytes.
    const MOST_TRACKED: usize = 10_000_000;

    /// Pushes every fault. Pure.
    pub fn validate(&self, at: &Path, faults: &mut Faults) {
        let at_identify = at.key("identify");
        for (position, source) in self.identify.iter().enumerate() {
            let at = at_identify.index(position);
            if self.identify[..position].contains(source) {
                faults.warning(&at, "the same place is asked twice");
            }
            match source {
                Source::Claim(name) if name.is_empty() => faults.error(&at, "the claim's name is empty"),
                Source::Claim(_) => {}
                Source::Header(name) => match HeaderName::from_bytes(name.as_bytes()) {
                    Err(_) => faults.error(&at, format!("{name:?} is not a header field's name")),
                    Ok(_) => faults.push(
                        Fault::warning(&at, format!("any client can name its tenant in {name}"))
                            .help("make sure that only a trusted proxy in front can set it"),
                    ),
                },
            }
        }
        if self.identify.is_empty() {
            if self.required {
                faults.push(
                    Fault::error(&at.key("required"), "a tenant is required, and there is no place where one is named")
                        .help("add identify, for instance [{ claim: tenant }]"),
                );
            } else if !self.overrides.is_empty() || self.default != TenantPolicy::default() {
                faults
                    .warning(&at_identify, "there is no place where a tenant is named, so that no policy ever applies");
            }
        }
        if !(1..=Self::MOST_TRACKED).contains(&self.max_tracked) {
            let (found, most) = (self.max_tracked, Self::MOST_TRACKED);
            faults.error(&at.key("max_tracked"), format!("{found} tenants cannot be tracked: expected 1 to {most}"));
        }
        let at_default = at.key("default");
        validate_limits(self.default.rate.as_ref(), self.default.concurrency, &at_default, faults);
        validate_plugins(&self.default.plugins, &at_default, faults);
        self.default.plugin_limits.validate(&at_default.key("plugin_limits"), faults);
        for (tenant, policy) in &self.overrides {
            let at = at.key("overrides").key(tenant.as_str());
            validate_limits(policy.rate.as_ref(), policy.concurrency, &at, faults);
            validate_plugins(policy.plugins.as_deref().unwrap_or_default(), &at, faults);
            policy.plugin_limits.unwrap_or_default().validate(&at.key("plugin_limits"), faults);
        }
    }
}

fn validate_limits(rate: Option<&RateLimit>, concurrency: Option<u32>, at: &Path, faults: &mut Faults) {
    if concurrency == Some(0) {
        faults.error(&at.key("concurrency"), "0 requests at once let nothing through: expected at least 1");
    }
    let Some(rate) = rate else { return };
    let at = at.key("rate");
    if rate.requests == 0 {
        faults.error(&at.key("requests"), "0 requests let nothing through: expected at least 1");
    }
    if rate.per.is_zero() {
        faults.error(&at.key("per"), "no time at all is no rate: expected more than 0s");
    }
    if rate.burst == Some(0) {
        faults.error(&at.key("burst"), "a burst of 0 lets nothing through: expected at least 1");
    }
}

fn validate_plugins(plugins: &[PluginName], at: &Path, faults: &mut Faults) {
    for (position, plugin) in plugins.iter().enumerate() {
        if plugins[..position].contains(plugin) {
            faults.warning(&at.key("plugins").index(position), format!("plugin {plugin} runs twice"));
        }
    }
}
