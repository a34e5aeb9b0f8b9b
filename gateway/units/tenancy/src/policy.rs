//! What a tenant may use, ready to be applied.

use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;
use sluice_vocabulary::PluginName;
use sluice_vocabulary::limiter::Rate;
use sluice_vocabulary::share::{Account, Claim, Share, Told};

use crate::config::{RateLimit, TenantOverride, TenantPolicy};

/// The limits and plugins of one tenant, or of all that have no overrides.
#[derive(Debug)]
pub struct Policy {
    pub(crate) rate: Option<RatePolicy>,
    pub(crate) concurrency: Option<u32>,
    plugins: Arc<[PluginName]>,
    share: Share,
    /// What is told of the share, of a tenant that the configuration names.
    told: Option<Arc<Told>>,
}

/// A rate and how it is told to clients.
#[derive(Debug)]
pub(crate) struct RatePolicy {
    pub(crate) rate: Rate,
    /// The value of `RateLimit-Policy`.
    pub(crate) told: Option<HeaderValue>,
}

impl Policy {
    pub(crate) fn of_default(default: &TenantPolicy) -> Self {
        Self {
            rate: default.rate.as_ref().map(RatePolicy::new),
            concurrency: default.concurrency,
            plugins: default.plugins.clone().into(),
            share: default.plugin_limits.share(),
            told: None,
        }
    }

    pub(crate) fn of_override(own: &TenantOverride, default: &TenantPolicy, told: Arc<Told>) -> Self {
        Self {
            rate: own.rate.as_ref().or(default.rate.as_ref()).map(RatePolicy::new),
            concurrency: own.concurrency.or(default.concurrency),
            plugins: own.plugins.as_ref().unwrap_or(&default.plugins).clone().into(),
            share: own.plugin_limits.unwrap_or(default.plugin_limits).share(),
            told: Some(told),
        }
    }

    /// A claim of this tenant on an account.
    pub(crate) fn claim(&self, account: &Arc<Account>) -> Claim {
        Claim::new(Arc::clone(account), self.share, self.told.clone())
    }

    /// The plugins that the tenant's requests pass, in order.
    pub fn plugins(&self) -> &Arc<[PluginName]> {
        &self.plugins
    }
}

impl RatePolicy {
    fn new(config: &RateLimit) -> Self {
        let burst = config.burst.unwrap_or_else(|| u32::try_from(config.requests).unwrap_or(u32::MAX));
        let rate = Rate::per(config.requests, config.per.get(), burst);
        // A bucket is told as a window: its burst, and the time it takes to fill. That is the same rate, and what a client
        // may rely on; told as `requests` in `per`, more might remain than the quota.
        let text = format!("\"tenant\";q={burst};w={}", whole_seconds(rate.window()));
        Self { rate, told: HeaderValue::try_from(text).ok() }
    }
}

/// Rounded up, and never 0: to wait a little too long is right, too short is not.
pub(crate) fn whole_seconds(span: Duration) -> u64 {
    (span.as_secs() + u64::from(span.subsec_nanos() > 0)).max(1)
}
