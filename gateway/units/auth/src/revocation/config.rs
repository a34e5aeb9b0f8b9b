//! What an operator may set about revocations: the section `auth.revocation`.

use std::path::PathBuf;

use http::Uri;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sluice_vocabulary::measure::{ByteSize, Span};
use sluice_vocabulary::{Faults, Path};

use crate::config::within;

/// Tokens taken back before they expire, without asking anybody about each. They come by the operator's door, from a file
/// and from a URL; all three add to one list, and what one leaves out is not lifted by that.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RevocationConfig {
    /// A folder that keeps them over a restart, for this process alone; made where there is none, with access for the
    /// gateway's own user only. Relative to the configuration's folder. Until it was read, and while it cannot be, tokens
    /// are answered 503: what it holds may concern them. Default: none, a restart forgets what the feeds do not repeat.
    pub store: Option<PathBuf>,
    /// Answer tokens with 503 until `file` and `url`, where they are given, have been read once without a fault since the
    /// gateway started. Default: no, tokens are then judged by what is known.
    pub required: bool,
    /// The memory that all revocations may take, from 1MiB to 16GiB. 128MiB hold more than a million of tokens named by
    /// UUIDs. What finds no room is refused at the door, and makes the unit degraded.
    pub max_memory: ByteSize,
    /// A file with revocations, one JSON object a line, looked at four times a second and read again when it changes.
    /// Relative to the configuration's folder.
    pub file: Option<PathBuf>,
    /// A URL that has them, in the same form.
    pub url: Option<RevocationUrl>,
}

impl Default for RevocationConfig {
    fn default() -> Self {
        Self { store: None, required: false, max_memory: ByteSize::mib(128), file: None, url: None }
    }
}

/// A URL that is asked for revocations again and again. What was last heard stays in force while it fails.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RevocationUrl {
    /// An http or https URL of JSON lines. Redirects are not followed.
    pub url: String,
    /// A PEM file of the certificate authorities that may vouch for it, in place of the system's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<PathBuf>,
    /// How often it is asked, from 250ms to 1h; each time up to a tenth is added at random. Entity tags are used where it
    /// has them, so that an answer without news costs it little.
    #[serde(default = "default_interval")]
    pub interval: Span,
    /// The time for one answer in all, from 100ms to 1m.
    #[serde(default = "default_timeout")]
    pub timeout: Span,
    /// The largest answer taken, from 1KiB to 256MiB; it is in memory while it is read. 16MiB hold some 150 000 tokens.
    #[serde(default = "default_max_size")]
    pub max_size: ByteSize,
}

const fn default_interval() -> Span {
    Span::secs(5)
}
const fn default_timeout() -> Span {
    Span::secs(5)
}
const fn default_max_size() -> ByteSize {
    ByteSize::mib(16)
}

impl RevocationUrl {
    /// Revocations from a URL, all else by default.
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            ca: None,
            interval: default_interval(),
            timeout: default_timeout(),
            max_size: default_max_size(),
        }
    }

    fn validate(&self, at: &Path, faults: &mut Faults) {
        within(self.interval, Span::millis(250), Span::secs(3600), &at.key("interval"), faults);
        within(self.timeout, Span::millis(100), Span::secs(60), &at.key("timeout"), faults);
        within(self.max_size, ByteSize::kib(1), ByteSize::mib(256), &at.key("max_size"), faults);
        let here = at.key("url");
        let Ok(parsed) = self.url.parse::<Uri>() else {
            // Not quoted: it may hold a password.
            return faults.error(&here, "not a URL: expected an absolute http or https one");
        };
        if parsed.authority().is_some_and(|authority| authority.as_str().contains('@')) {
            return faults.error(&here, "a URL of revocations holds no user name or password");
        }
        match (parsed.scheme_str(), parsed.host()) {
            (Some("https"), Some(_)) => {}
            (Some("http"), Some(host)) => {
                let host = host.trim_matches(['[', ']']);
                let loopback = host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback());
                if !loopback {
                    let risk = "fetched in cleartext: whoever is on the way can revoke any token and hide revocations";
                    faults.warning(&here, risk);
                }
                if self.ca.is_some() {
                    faults.error(&at.key("ca"), "has no meaning for an http URL");
                }
            }
            _ => faults.error(&here, format!("{:?} is not an absolute http or https URL", self.url)),
        }
    }
}

impl RevocationConfig {
    /// Reports every fault.
    pub fn validate(&self, at: &Path, faults: &mut Faults) {
        within(self.max_memory, ByteSize::mib(1), ByteSize::mib(16 << 10), &at.key("max_memory"), faults);
        for (key, path) in [("store", &self.store), ("file", &self.file)] {
            if path.as_ref().is_some_and(|path| path.as_os_str().is_empty()) {
                faults.error(&at.key(key), "a path cannot be empty");
            }
        }
        if self.required && self.file.is_none() && self.url.is_none() {
            faults.error(&at.key("required"), "has no meaning without a file or a url: name one, or take it away");
        }
        if let Some(url) = &self.url {
            url.validate(&at.key("url"), faults);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn told(config: &RevocationConfig) -> Vec<String> {
        let mut faults = Faults::new();
        config.validate(&Path::root(), &mut faults);
        faults.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn every_fault_is_reported_at_once_and_by_its_place() {
        assert!(told(&RevocationConfig::default()).is_empty());
        let config = RevocationConfig {
            store: Some("".into()),
            required: true,
            max_memory: ByteSize::kib(1),
            file: None,
            url: None,
        };
        let told_of = told(&config);
        assert_eq!(told_of.len(), 3, "{told_of:?}");
        let url = RevocationUrl {
            ca: Some("ca.pem".into()),
            interval: Span::millis(1),
            timeout: Span::secs(600),
            max_size: ByteSize::bytes(1),
            ..RevocationUrl::new("http://10.0.0.1/revoked")
        };
        let told_of = told(&RevocationConfig { url: Some(url), ..RevocationConfig::default() });
        assert_eq!(told_of.len(), 5, "{told_of:?}");
        for url in ["", "/revoked", "ftp://example.com/", "https://user:hunter2@example.com/", "https://a b/"] {
            let config = RevocationConfig { url: Some(RevocationUrl::new(url)), ..RevocationConfig::default() };
            let told_of = told(&config);
            assert!(told_of.len() == 1 && !told_of[0].contains("hunter2"), "{url}: {told_of:?}");
        }
    }
}
