//! The configuration as connections use it: plain numbers, swapped in whole when it changes.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use pingora_core::protocols::http::v2::server::H2Options;
use sluice_vocabulary::limiter::{KeyedLimiter, Rate};

use crate::config::{DownstreamConfig, EncodedSlash, ProxyFields, RequestRateConfig, TimeoutsConfig};
use crate::head::HeadLimits;

/// Client addresses whose request rate is remembered at once: some 6 MiB at the most, and only as many as there are.
const RATE_LIMITED_ADDRESSES: usize = 100_000;

/// One snapshot. A request keeps the one it began with.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) head: HeadLimits,
    pub(crate) body: BodyRules,
    pub(crate) handshake_timeout: Duration,
    pub(crate) header_timeout: Duration,
    pub(crate) idle_timeout: Duration,
    pub(crate) write_timeout: Duration,
    pub(crate) drain_timeout: Duration,
    pub(crate) connections: usize,
    pub(crate) connections_per_address: usize,
    pub(crate) refusals_logged_per_second: u32,
    pub(crate) trusted_proxies: Box<[IpNet]>,
    pub(crate) proxies_write: ProxyFields,
    pub(crate) send_forwarded: bool,
    pub(crate) encoded_slash: EncodedSlash,
    pub(crate) h2: H2Options,
    pub(crate) request_rate: Option<AddressRate>,
}

/// What a body may cost and how slowly it may come.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BodyRules {
    /// Payload bytes; `u64::MAX` where there is no limit.
    pub(crate) size: u64,
    /// The longest wait for the next byte.
    pub(crate) silence: Duration,
    /// The time that a body may take whatever its rate.
    pub(crate) grace: Duration,
    /// Bytes per second; 0 where there is no bound.
    pub(crate) rate: u64,
}

impl BodyRules {
    /// How long the gateway may have waited in all for a body of which so many bytes have arrived.
    pub(crate) fn allowance(&self, received: u64) -> Option<Duration> {
        let millis = received.saturating_mul(1000).checked_div(self.rate)?;
        Some(self.grace.saturating_add(Duration::from_millis(millis)))
    }
}

/// The rate limit of client addresses, kept over a change of configuration that does not concern it.
#[derive(Debug, Clone)]
pub(crate) struct AddressRate {
    pub(crate) config: RequestRateConfig,
    pub(crate) limiter: Arc<KeyedLimiter<IpAddr>>,
}

impl Settings {
    /// From a configuration that was validated; `before` is the snapshot it replaces, if any.
    pub(crate) fn new(config: &DownstreamConfig, before: Option<&Settings>) -> Self {
        let limits = &config.limits;
        let TimeoutsConfig { handshake, header, idle, body, body_grace, write, drain } = config.timeouts.clone();
        Self {
            head: HeadLimits { bytes: limits.header_size.as_usize(), fields: limits.header_fields },
            body: BodyRules {
                size: if limits.body_size.get() == 0 { u64::MAX } else { limits.body_size.get() },
                silence: body.get(),
                grace: body_grace.get(),
                rate: limits.body_rate.get(),
            },
            handshake_timeout: handshake.get(),
            header_timeout: header.get(),
            idle_timeout: idle.get(),
            write_timeout: write.get(),
            drain_timeout: drain.get(),
            connections: limits.connections.get(),
            connections_per_address: limits.connections_per_address.map_or(usize::MAX, |limit| limit.get()),
            refusals_logged_per_second: limits.refusals_logged_per_second,
            trusted_proxies: config.trusted_proxies.clone().into_boxed_slice(),
            proxies_write: config.trusted_proxies_write,
            send_forwarded: config.send_forwarded,
            encoded_slash: config.path.encoded_slash,
            h2: crate::h2::options(&config.http2, limits.header_size),
            request_rate: limits.requests_per_address.map(|rate| AddressRate::new(rate, before)),
        }
    }
}

impl AddressRate {
    fn new(config: RequestRateConfig, before: Option<&Settings>) -> Self {
        match before.and_then(|before| before.request_rate.as_ref()) {
            Some(same) if same.config == config => same.clone(),
            _ => {
                let (per_second, burst) = config.per_second();
                let limiter = KeyedLimiter::with_rate(Rate::new(per_second, burst), RATE_LIMITED_ADDRESSES);
                Self { config, limiter: Arc::new(limiter) }
            }
        }
    }
}
