//! What can be wrong with an upstream's configuration, told all at once. Files are not opened here.

use std::collections::HashSet;
use std::time::Duration;

use rustls_pki_types::ServerName;
use sluice_vocabulary::fault::{Fault, Faults, Path};
use sluice_vocabulary::measure::Span;

use crate::address::Address;
use crate::config::{Config, HealthConfig, IdleTimeout, Protocol, TlsConfig, UpstreamConfig};

/// Reports every fault of all upstreams.
pub fn validate(config: &Config, at: &Path, faults: &mut Faults) {
    for (name, upstream) in config {
        upstream.validate(&at.key(name.as_str()), faults);
    }
}

impl UpstreamConfig {
    /// Reports every fault.
    pub fn validate(&self, at: &Path, faults: &mut Faults) {
        self.validate_endpoints(at, faults);
        self.validate_tls(at, faults);
        self.validate_times(at, faults);
        self.validate_bounds(at, faults);
        if let Some(health) = &self.health {
            health.validate(&at.key("health"), faults);
        }
    }

    fn validate_endpoints(&self, at: &Path, faults: &mut Faults) {
        let at = at.key("endpoints");
        if self.endpoints.is_empty() {
            faults.error(&at, "no endpoint: expected at least one");
        }
        let mut seen = HashSet::new();
        for (index, endpoint) in self.endpoints.iter().enumerate() {
            let at = at.index(index);
            if let Err(error) = Address::parse(&endpoint.address) {
                faults.push(
                    Fault::error(&at, error.to_string())
                        .help("write it as 10.0.0.5:8080, [2001:db8::5]:8080 or name:8080"),
                );
            }
            if !(1..=1000).contains(&endpoint.weight) {
                faults.error(&at.key("weight"), format!("weight {}: expected 1 to 1000", endpoint.weight));
            }
            if !seen.insert(endpoint.address.as_str()) {
                faults.push(
                    Fault::error(&at, format!("{} is listed twice", endpoint.address))
                        .help("give it a weight instead: { address: …, weight: 2 }"),
                );
            }
        }
    }

    fn validate_tls(&self, at: &Path, faults: &mut Faults) {
        match &self.tls {
            Some(tls) => tls.validate(&at.key("tls"), faults),
            None if self.protocol == Protocol::Auto => faults.push(
                Fault::error(&at.key("protocol"), "auto without tls: there is no handshake in which to agree")
                    .help("say http1 or http2, or add tls"),
            ),
            None => {}
        }
    }

    fn validate_times(&self, at: &Path, faults: &mut Faults) {
        let times = &self.timeouts;
        let at_times = at.key("timeouts");
        for (key, span) in [
            ("connect", times.connect),
            ("tls_handshake", times.tls_handshake),
            ("response", times.response),
            ("idle", times.idle),
            ("total", times.total),
            ("upgraded_idle", times.upgraded_idle),
        ] {
            within(span, Span::millis(1), Span::secs(86_400), &at_times.key(key), faults);
        }
        if times.total < times.response {
            faults.warning(
                &at_times.key("total"),
                format!("total {} ends before response {} can", times.total, times.response),
            );
        }
        if self.protocol != Protocol::Http1 && times.idle != times.response {
            faults.warning(
                &at_times.key("idle"),
                format!(
                    "over HTTP/2 the response's header and silence within its body share one limit, the longer of response {} and idle {}",
                    times.response, times.idle
                ),
            );
        }
        if let IdleTimeout::Fixed(span) = self.idle_timeout {
            within(span, Span::millis(1), Span::secs(86_400), &at.key("idle_timeout"), faults);
        }
        within(self.queue_timeout, Span::millis(0), Span::secs(60), &at.key("queue_timeout"), faults);
        within(self.resolve_every, Span::secs(1), Span::secs(86_400), &at.key("resolve_every"), faults);
        within(self.http2.ping_every, Span::secs(1), Span::secs(3_600), &at.key("http2").key("ping_every"), faults);
    }

    fn validate_bounds(&self, at: &Path, faults: &mut Faults) {
        number(self.max_connections, 1, 65_535, &at.key("max_connections"), faults);
        let http2 = at.key("http2");
        number(self.http2.max_streams, 1, 10_000, &http2.key("max_streams"), faults);
        for (key, window) in
            [("stream_window", self.http2.stream_window), ("connection_window", self.http2.connection_window)]
        {
            // RFC 9113 6.9.2: windows begin at 65535 octets and end at 2^31-1; beyond 64 MiB they bound nothing.
            if !(65_536..=64 * 1024 * 1024).contains(&window.get()) {
                faults.error(&http2.key(key), format!("{window} is no window: expected 64KiB to 64MiB"));
            }
        }
        let ejection = at.key("ejection");
        number(u32::from(self.ejection.max_ejected_percent), 0, 100, &ejection.key("max_ejected_percent"), faults);
        within(self.ejection.r#for, Span::millis(1), Span::secs(86_400), &ejection.key("for"), faults);
        for (index, status) in self.ejection.statuses.iter().enumerate() {
            if !(400..=599).contains(status) {
                faults.error(
                    &ejection.key("statuses").index(index),
                    format!("status {status} tells of no failure: expected 400 to 599"),
                );
            }
        }
        let retries = at.key("retries");
        number(u32::from(self.retries.attempts), 0, 5, &retries.key("attempts"), faults);
        number(u32::from(self.retries.budget_percent), 0, 100, &retries.key("budget_percent"), faults);
    }
}

impl TlsConfig {
    fn validate(&self, at: &Path, faults: &mut Faults) {
        let at_name = at.key("server_name");
        match self.server_name.as_deref() {
            None | Some("") if self.dangerous_accept_any_certificate => {}
            None | Some("") => faults.push(
                Fault::error(&at_name, "no name to verify: a certificate for any name at all would do")
                    .help("set server_name to the name in the endpoint's certificate"),
            ),
            Some(name) if ServerName::try_from(name).is_err() => {
                faults.error(&at_name, format!("{name:?} is neither a host name nor an IP address"));
            }
            Some(_) => {}
        }
        if self.dangerous_accept_any_certificate {
            faults.warning(
                &at.key("dangerous_accept_any_certificate"),
                "the endpoint is not verified: whoever can divert the connection can read and change everything on it",
            );
        }
    }
}

impl HealthConfig {
    fn validate(&self, at: &Path, faults: &mut Faults) {
        let plain = self.path.bytes().all(|b| b.is_ascii_graphic());
        if !self.path.starts_with('/') || !plain {
            faults.error(&at.key("path"), format!("{:?} is not a path: expected one that begins with /", self.path));
        }
        if let Some(host) = &self.host
            && (host.is_empty() || !host.bytes().all(|b| b.is_ascii_graphic()))
        {
            faults.error(&at.key("host"), format!("{host:?} is not a host"));
        }
        within(self.interval, Span::millis(10), Span::secs(3_600), &at.key("interval"), faults);
        within(self.timeout, Span::millis(1), Span::secs(60), &at.key("timeout"), faults);
        number(self.healthy_after, 1, 1_000, &at.key("healthy_after"), faults);
        number(self.unhealthy_after, 1, 1_000, &at.key("unhealthy_after"), faults);
    }
}

fn within(span: Span, least: Span, most: Span, at: &Path, faults: &mut Faults) {
    let found: Duration = span.get();
    if found < least.get() || found > most.get() {
        faults.error(at, format!("{span} is out of bounds: expected {least} to {most}"));
    }
}

fn number(found: u32, least: u32, most: u32, at: &Path, faults: &mut Faults) {
    if !(least..=most).contains(&found) {
        faults.error(at, format!("{found} is out of bounds: expected {least} to {most}"));
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::config::{Balance, EndpointConfig};

    fn faults_of(config: &UpstreamConfig) -> Vec<String> {
        let mut faults = Faults::new();
        config.validate(&Path::root().key("u"), &mut faults);
        faults.iter().map(|fault| fault.path.to_string()).collect()
    }

    #[test]
    fn the_defaults_are_sound() {
        assert!(faults_of(&UpstreamConfig::of(["10.0.0.5:8080", "[::1]:80", "orders.internal:8080"])).is_empty());
    }

    #[test]
    fn every_fault_is_told_at_once_and_where() {
        let config: UpstreamConfig = serde_json::from_value(serde_json::json!({
            "endpoints": ["10.0.0.5", { "address": "a:1", "weight": 0 }, "a:1"],
            "protocol": "auto",
            "timeouts": { "connect": "0s", "response": "2m", "total": "1m" },
            "idle_timeout": "0s",
            "max_connections": 0,
            "http2": { "stream_window": "1KiB" },
            "ejection": { "max_ejected_percent": 101, "statuses": [200] },
            "health": { "path": "healthz", "interval": "0s" },
            "retries": { "attempts": 9 }
        }))
        .unwrap();
        assert_eq!(
            faults_of(&config),
            [
                "u.endpoints[0]",
                "u.endpoints[1].weight",
                "u.endpoints[2]",
                "u.protocol",
                "u.timeouts.connect",
                "u.timeouts.total",
                "u.timeouts.idle",
                "u.idle_timeout",
                "u.max_connections",
                "u.http2.stream_window",
                "u.ejection.max_ejected_percent",
                "u.ejection.statuses[0]",
                "u.retries.attempts",
                "u.health.path",
                "u.health.interval",
            ]
        );
    }

    #[test]
    fn tls_without_a_name_to_verify_is_a_fault_unless_the_danger_is_named() {
        let tls = |value: serde_json::Value| {
            let mut config = UpstreamConfig::of(["10.0.0.5:443"]);
            config.tls = Some(serde_json::from_value(value).unwrap());
            let mut faults = Faults::new();
            config.validate(&Path::root(), &mut faults);
            faults
        };
        assert!(tls(serde_json::json!({})).has_errors());
        assert!(tls(serde_json::json!({ "server_name": "" })).has_errors());
        assert!(tls(serde_json::json!({ "server_name": "not a name" })).has_errors());
        assert!(tls(serde_json::json!({ "server_name": "orders.internal" })).is_empty());
        let dangerous = tls(serde_json::json!({ "dangerous_accept_any_certificate": true }));
        assert!(!dangerous.has_errors() && !dangerous.is_empty());
    }

    #[test]
    fn both_forms_of_an_endpoint_are_read_and_a_wrong_one_is_told_in_words() {
        let config: UpstreamConfig = serde_json::from_value(serde_json::json!({
            "endpoints": ["a:1", { "address": "b:2", "weight": 3 }], "balance": "least_latency", "idle_timeout": "auto"
        }))
        .unwrap();
        assert_eq!(config.endpoints[1], EndpointConfig { address: "b:2".into(), weight: 3 });
        assert_eq!((config.balance, config.idle_timeout), (Balance::LeastLatency, IdleTimeout::Auto));
        assert_eq!(
            serde_json::to_value(&config.endpoints).unwrap(),
            serde_json::json!(["a:1", { "address": "b:2", "weight": 3 }])
        );

        let wrong = serde_json::from_str::<UpstreamConfig>(r#"{"endpoints": [7]}"#).unwrap_err().to_string();
        assert!(wrong.contains("an address such as 10.0.0.5:8080"), "{wrong}");
        let misspelt =
            serde_json::from_str::<UpstreamConfig>(r#"{"endpoints": [{"adress": "a:1"}]}"#).unwrap_err().to_string();
        assert!(misspelt.contains("unknown field `adress`"), "{misspelt}");
        let idle = serde_json::from_str::<UpstreamConfig>(r#"{"endpoints": [], "idle_timeout": "never"}"#)
            .unwrap_err()
            .to_string();
        assert!(idle.contains("or auto"), "{idle}");
    }
}
