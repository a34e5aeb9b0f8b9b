//! What may be set of every service that is asked: the breaker, and the bounds that all of them have.

use std::path::PathBuf;

use http::Uri;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sluice_vocabulary::measure::Span;
use sluice_vocabulary::{Faults, Path};

use crate::config::within;

/// When a service that fails is left alone for a while.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct BreakerConfig {
    /// So many failures in a row, from 1 to 1000, and it is not asked any more: requests that need it are answered 503 at
    /// once. No answer, a wrong status and an answer that cannot be read are failures; a no is none.
    pub failures: u32,
    /// For how long, from 100ms to 5m. Then one call alone tries again.
    pub rest: Span,
}

impl Default for BreakerConfig {
    /// Five in a row are hardly chance; after five seconds a restarted service is back.
    fn default() -> Self {
        Self { failures: 5, rest: Span::secs(5) }
    }
}

/// The bounds of one service, wherever its section stands.
#[derive(Debug)]
pub(crate) struct Bounds<'c> {
    pub(crate) timeout: Span,
    pub(crate) max_in_flight: u32,
    pub(crate) max_waiting: u32,
    pub(crate) breaker: &'c BreakerConfig,
}

pub(crate) const fn default_timeout() -> Span {
    // A healthy service answers in milliseconds; a request that waited for longer has most likely been given up.
    Span::secs(1)
}
pub(crate) const fn default_max_in_flight() -> u32 {
    // Each is a connection. With answers of 10 ms these are over 6 000 a second.
    64
}
pub(crate) const fn default_max_waiting() -> u32 {
    1024
}

impl Bounds<'_> {
    pub(crate) fn validate(&self, at: &Path, faults: &mut Faults) {
        within(self.timeout, Span::millis(10), Span::secs(30), &at.key("timeout"), faults);
        within(self.max_in_flight, 1, 4096, &at.key("max_in_flight"), faults);
        within(self.max_waiting, 1, 65_536, &at.key("max_waiting"), faults);
        if self.max_waiting < self.max_in_flight {
            faults.error(
                &at.key("max_waiting"),
                format!(
                    "{} is less than max_in_flight, which is {}: whoever is asked for waits",
                    self.max_waiting, self.max_in_flight
                ),
            );
        }
        let at = at.key("breaker");
        within(self.breaker.failures, 1, 1000, &at.key("failures"), faults);
        within(self.breaker.rest, Span::millis(100), Span::secs(300), &at.key("rest"), faults);
    }
}

/// Checks the URL of a service that `ca` may vouch for; `told` is what whoever is on the way learns or decides.
pub(crate) fn validate_url(url: &str, ca: &Option<PathBuf>, told: &str, at: &Path, faults: &mut Faults) {
    let here = at.key("url");
    let parsed = match url.parse::<Uri>() {
        Ok(parsed) => parsed,
        Err(error) => return faults.error(&here, format!("not a URL: {error}")),
    };
    // A password in a URL ends up in logs.
    if parsed.authority().is_some_and(|authority| authority.as_str().contains('@')) {
        return faults.error(&here, "a URL holds no user name or password");
    }
    match (parsed.scheme_str(), parsed.host()) {
        (Some("https"), Some(_)) => {}
        (Some("http"), Some(host)) => {
            let host = host.trim_matches(['[', ']']);
            let loopback = host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback());
            if !loopback {
                faults.warning(&here, format!("{url} is asked in cleartext: {told}"));
            }
            if ca.is_some() {
                faults.error(&at.key("ca"), "has no meaning for an http URL");
            }
        }
        _ => faults.error(&here, format!("{url:?} is not an absolute http or https URL")),
    }
}
