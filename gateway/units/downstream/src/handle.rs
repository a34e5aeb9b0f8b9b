//! What the application sees of this unit.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{HeaderMap, HeaderValue, header};
use parking_lot::Mutex;
use sluice_vocabulary::request::Connection;
use sluice_vocabulary::unit::Health;
use sluice_vocabulary::{Fault, Path, Reason, Refusal};

use crate::config::{Config, ListenerConfig};
use crate::listener::Listener;
use crate::path::{BadTarget, Normalised, normalise_path};
use crate::settings::Settings;
use crate::shared::Shared;
use crate::trusted::{self, ClientAddress, Forwarding};

/// Cheap to clone; every request path holds one.
#[derive(Debug, Clone)]
pub struct Handle {
    shared: Arc<Shared>,
    listeners: Arc<[Arc<Listener>]>,
    applied: Arc<Mutex<Config>>,
}

impl Handle {
    pub(crate) fn new(shared: Arc<Shared>, listeners: Arc<[Arc<Listener>]>, applied: Mutex<Config>) -> Self {
        Self { shared, listeners, applied: Arc::new(applied) }
    }

    /// The unit's health.
    pub fn health(&self) -> &Health {
        &self.shared.health
    }

    /// The addresses as bound, in the configuration's order: with real ports where it says 0.
    pub fn addresses(&self) -> impl Iterator<Item = SocketAddr> {
        self.listeners.iter().map(|listener| listener.address)
    }

    /// How many connections are open now.
    pub fn open_connections(&self) -> usize {
        self.shared.gate.open()
    }

    /// Takes one request from the allowance of a client's address.
    ///
    /// # Errors
    /// A refusal with Retry-After, once the address has sent too many.
    pub fn admit_address(&self, client: IpAddr, now: Instant) -> Result<(), Refusal> {
        let settings = self.shared.settings.load();
        let Some(rate) = &settings.request_rate else { return Ok(()) };
        let key = sluice_vocabulary::limiter::address_key(client);
        rate.limiter.check(&key, now).map(drop).map_err(|limited| {
            self.shared.metrics.addresses_limited.inc();
            // Rounded up: a client that comes back in the second it is told must be let in.
            let seconds = limited.retry_after.as_secs() + u64::from(limited.retry_after.subsec_nanos() > 0);
            Refusal::new(Reason::AddressRateLimited).header(header::RETRY_AFTER, HeaderValue::from(seconds))
        })
    }

    /// The client behind trusted proxies, if the connection comes from one; its own address otherwise.
    pub fn resolve_client(&self, connection: &Connection, headers: &HeaderMap) -> ClientAddress {
        let settings = self.shared.settings.load();
        trusted::resolve_client(&settings.trusted_proxies, settings.proxies_write, connection, headers)
    }

    /// What an upstream is told of the client: header fields to set in place of whatever the client sent. `host` is the
    /// host as the client named it.
    pub fn forwarded_headers(
        &self,
        connection: &Connection,
        client: &ClientAddress,
        headers: &HeaderMap,
        host: &str,
    ) -> Forwarding {
        let settings = self.shared.settings.load();
        trusted::forwarded_headers(connection, client, headers, host, settings.send_forwarded)
    }

    /// The request target in the one form that is routed, authorised and forwarded.
    ///
    /// # Errors
    /// See [`BadTarget`]; a client is told [`Reason::BadTarget`] whatever it is.
    pub fn normalise_path<'a>(&self, raw: &'a [u8]) -> Result<Normalised<'a>, BadTarget> {
        normalise_path(raw, self.shared.settings.load().encoded_slash)
    }

    /// The limit on a request's body, for the application to enforce on HTTP/2 streams; `u64::MAX` where there is none.
    pub fn body_limit(&self) -> u64 {
        self.shared.settings.load().body.size
    }

    /// How long a client may take nothing, for the application to set on HTTP/2 streams: one that keeps its stream's
    /// window closed does not stall its connection, so that the guard does not see it.
    pub fn write_timeout(&self) -> Duration {
        self.shared.settings.load().write_timeout
    }

    /// The configuration in force: the one applied last, but for what could not change.
    pub fn in_force(&self) -> Config {
        self.applied.lock().clone()
    }

    /// Puts a changed configuration, which was validated, in force: limits, deadlines and lists for requests that begin
    /// now, certificates for handshakes that begin now.
    ///
    /// # Errors
    /// A fault for each change that cannot be made while running (addresses, protocols, threads) or whose files cannot be
    /// used. Everything else is in force all the same.
    pub fn apply(&self, config: &Config) -> Result<(), Vec<Fault>> {
        let mut applied = self.applied.lock();
        let before = self.shared.settings.load();
        let settings = Settings::new(&config.downstream, Some(&before));
        self.shared.settings.store(Arc::new(settings));

        let mut faults = Vec::new();
        let root = Path::root();
        if config.downstream.workers != applied.downstream.workers {
            faults.push(needs_restart(&root.key("downstream").key("workers")));
        }
        let listeners = root.key("listeners");
        if config.listeners.len() != applied.listeners.len() {
            faults.push(needs_restart(&listeners));
        }
        let pairs = config.listeners.iter().zip(&mut applied.listeners).zip(self.listeners.iter());
        for (index, ((new, old), listener)) in pairs.enumerate() {
            apply_listener(new, old, listener, &listeners.index(index), &mut faults);
        }
        let workers = applied.downstream.workers;
        applied.downstream = config.downstream.clone();
        applied.downstream.workers = workers;
        if faults.is_empty() { Ok(()) } else { Err(faults) }
    }
}

fn apply_listener(new: &ListenerConfig, old: &mut ListenerConfig, live: &Listener, at: &Path, faults: &mut Vec<Fault>) {
    let networks = |listener: &ListenerConfig| listener.proxy_protocol.as_ref().map(|proxies| proxies.from.clone());
    let fixed = [
        ("address", new.address != old.address),
        ("http2", new.http2 != old.http2),
        ("proxy_protocol", networks(new) != networks(old)),
        ("backlog", new.backlog != old.backlog),
        ("tls", new.tls.is_some() != old.tls.is_some()),
    ];
    faults.extend(fixed.iter().filter(|(_, changed)| *changed).map(|(name, _)| needs_restart(&at.key(name))));
    if let (Some(tls), Some(live), Some(old)) = (&new.tls, &live.tls, &mut old.tls) {
        match live.replace(tls) {
            Ok(()) => *old = tls.clone(),
            Err(error) => faults.push(Fault::error(&at.key("tls"), error.explain())),
        }
    }
}

fn needs_restart(at: &Path) -> Fault {
    Fault::error(at, "cannot change while the gateway runs").help("restart it to make this change")
}
