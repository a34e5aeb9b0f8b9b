//! A tenancy unit and requests, written briefly.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, clippy::panic, reason = "each test uses some of it")]

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use http::{HeaderMap, HeaderName, HeaderValue, Method};
use prometheus_client::registry::Registry;
use serde_json::Value;
use sluice_tenancy::{Admitted, Config, Handle};
use sluice_vocabulary::request::{Connection, RequestView, Scheme};
use sluice_vocabulary::{Faults, Identity, IssuerName, Path, Refusal, TenantId};

/// A unit with its metrics and a clock that is told.
pub struct World {
    pub handle: Handle,
    pub registry: Registry,
    pub now: Instant,
}

pub fn config(written: Value) -> Config {
    let config: Config = serde_json::from_value(written).unwrap();
    let mut faults = Faults::new();
    config.validate(&Path::root(), &mut faults);
    assert!(!faults.has_errors(), "{faults:?}");
    config
}

pub fn world(written: Value) -> World {
    let mut registry = Registry::default();
    let handle = Handle::new(&config(written), &mut registry);
    World { handle, registry, now: Instant::now() }
}

pub fn tenant(name: &str) -> TenantId {
    TenantId::new(name).unwrap()
}

impl World {
    pub fn admit(&self, name: &str) -> Result<Admitted, Refusal> {
        self.handle.admit(Some(&tenant(name)), self.now)
    }

    /// How many of `tries` requests are admitted, one after another.
    pub fn admitted(&self, name: &str, tries: usize) -> usize {
        (0..tries).filter(|_| self.admit(name).is_ok()).count()
    }

    pub fn pass(&mut self, millis: u64) {
        self.now += Duration::from_millis(millis);
    }

    pub fn apply(&self, written: Value) {
        self.handle.apply(&config(written), self.now);
    }

    /// The value of a metric, by its whole name with labels.
    pub fn metric(&self, name: &str) -> Option<f64> {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry).unwrap();
        text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok())
    }

    /// Who the tenant of a request with these claims and header fields is; a refusal by its name.
    pub fn identify(
        &self,
        claims: Option<Value>,
        headers: &[(&'static str, &'static str)],
    ) -> Result<Option<String>, String> {
        let corp = IssuerName::new("corp").unwrap();
        let identity = claims.map(|claims| Identity::new(corp, claims.as_object().unwrap().clone().into(), 0));
        let nowhere = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let connection =
            Connection { id: 0, peer: nowhere, local: nowhere, client: nowhere, tls: None, cookie: None, listener: 0 };
        let headers: HeaderMap = headers
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_str(value).unwrap()))
            .collect();
        let request = RequestView {
            method: &Method::GET,
            scheme: Scheme::Https,
            host: "h",
            port: None,
            path: "/",
            query: None,
            headers: &headers,
            client: nowhere.ip(),
            connection: &connection,
        };
        match self.handle.identify(identity.as_ref(), &request) {
            Ok(tenant) => Ok(tenant.map(|tenant| tenant.to_string())),
            Err(refusal) => Err(refusal.reason.slug().to_owned()),
        }
    }
}

pub fn field(fields: &[(HeaderName, HeaderValue)], name: &str) -> Option<String> {
    fields.iter().find(|(found, _)| found == name).map(|(_, value)| value.to_str().unwrap().to_owned())
}
