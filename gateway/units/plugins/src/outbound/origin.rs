//! An origin (RFC 6454): a scheme, a host and a port, in one spelling.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

use http::Uri;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// Bytes of a name in the domain name system (RFC 1035 2.3.4).
const LONGEST_NAME: usize = 253;

/// Whom a plugin may ask.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Origin {
    is_secure: bool,
    host: Host,
    port: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Host {
    /// In lower case.
    Name(Box<str>),
    Address(IpAddr),
}

/// Not an origin.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{found:?} is no origin: {why}; expected scheme, host and, if it is not the scheme's own, port, such as https://decide.example.com"
)]
pub struct BadOrigin {
    found: String,
    why: &'static str,
}

impl Origin {
    /// The origin of an address; the error says what it lacks.
    pub(super) fn of(address: &Uri) -> Result<Self, &'static str> {
        let is_secure = match address.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            Some(_) => return Err("its scheme is neither http nor https"),
            None => return Err("it has no scheme"),
        };
        let authority = address.authority().ok_or("it has no host")?;
        if authority.as_str().contains('@') {
            return Err("it holds a user name or password");
        }
        let default_port = if is_secure { 443 } else { 80 };
        let port = match authority.as_str().strip_prefix(authority.host()) {
            Some("") => default_port,
            Some(_) => authority.port_u16().filter(|port| *port != 0).ok_or("its port is no number from 1 to 65535")?,
            None => return Err("its host cannot be told"),
        };
        Ok(Self { is_secure, host: Host::of(authority.host())?, port })
    }

    pub(super) const fn is_secure(&self) -> bool {
        self.is_secure
    }

    /// Whether what is sent to it without encryption stays on this machine.
    pub(super) fn is_this_machine(&self) -> bool {
        match &self.host {
            Host::Name(name) => &**name == "localhost",
            Host::Address(address) => address.is_loopback(),
        }
    }
}

impl Host {
    fn of(text: &str) -> Result<Self, &'static str> {
        if let Some(inside) = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            let address = inside.parse::<Ipv6Addr>().map_err(|_| "its host is no IPv6 address")?;
            return Ok(Self::Address(address.into()));
        }
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(Self::Address(address));
        }
        let is_label = |label: &str| {
            !label.is_empty() && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
        };
        if text.len() > LONGEST_NAME || !text.split('.').all(is_label) {
            return Err("its host is no name and no address");
        }
        Ok(Self::Name(text.to_ascii_lowercase().into()))
    }
}

impl FromStr for Origin {
    type Err = BadOrigin;

    fn from_str(text: &str) -> Result<Self, BadOrigin> {
        let bad = |why| BadOrigin { found: text.chars().take(200).collect(), why };
        let address: Uri = text.parse().map_err(|_| bad("it cannot be read"))?;
        let origin = Self::of(&address).map_err(bad)?;
        // What stands behind the authority would be taken for a bound that it is not.
        let has_more = text.split_once("://").is_none_or(|(_, rest)| rest.contains(['/', '?', '#']));
        if has_more { Err(bad("it has a path, which bounds nothing here")) } else { Ok(origin) }
    }
}

impl TryFrom<String> for Origin {
    type Error = BadOrigin;

    fn try_from(text: String) -> Result<Self, BadOrigin> {
        text.parse()
    }
}

impl From<Origin> for String {
    fn from(origin: Origin) -> Self {
        origin.to_string()
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_secure { "https://" } else { "http://" })?;
        match &self.host {
            Host::Name(name) => f.write_str(name)?,
            Host::Address(IpAddr::V4(address)) => write!(f, "{address}")?,
            Host::Address(IpAddr::V6(address)) => write!(f, "[{address}]")?,
        }
        match (self.is_secure, self.port) {
            (true, 443) | (false, 80) => Ok(()),
            (_, port) => write!(f, ":{port}"),
        }
    }
}

impl JsonSchema for Origin {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Origin".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "description": "Scheme, host and, if it is not the scheme's own, port.",
            "pattern": "^[Hh][Tt][Tt][Pp][Ss]?://[^/?#@]+$",
            "examples": ["https://decide.example.com", "http://127.0.0.1:8181"]
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn of(address: &str) -> Origin {
        Origin::of(&address.parse().unwrap()).unwrap()
    }

    #[test]
    fn one_origin_has_one_spelling() {
        for (written, meant) in [
            ("https://Decide.Example.COM", "https://decide.example.com"),
            ("HTTPS://decide.example.com:443", "https://decide.example.com"),
            ("http://decide.example.com:80", "http://decide.example.com"),
            ("http://decide.example.com:443", "http://decide.example.com:443"),
            ("http://127.0.0.1:8181", "http://127.0.0.1:8181"),
            ("https://[2001:DB8:0:0::7]:444", "https://[2001:db8::7]:444"),
        ] {
            let origin: Origin = written.parse().unwrap();
            assert_eq!(origin.to_string(), meant);
            assert_eq!(origin, of(&format!("{written}/some/path?and=query")));
        }
        assert_ne!(of("https://a.example"), of("http://a.example"));
        assert_ne!(of("https://a.example"), of("https://a.example:444"));
        assert_ne!(of("https://a.example"), of("https://b.a.example"));
        assert_ne!(of("http://127.0.0.1"), of("http://[::ffff:127.0.0.1]"));
    }

    #[test]
    fn what_is_no_origin_is_said_to_be_none_and_why() {
        for (written, why) in [
            ("", "it cannot be read"),
            ("decide.example.com", "it has no scheme"),
            ("ftp://decide.example.com", "its scheme is neither http nor https"),
            ("https://decide.example.com/", "it has a path"),
            ("https://decide.example.com?a", "it has a path"),
            ("https://me:secret@decide.example.com", "it holds a user name or password"),
            ("https://decide.example.com:0", "its port is no number from 1 to 65535"),
            ("https://decide.example.com:99999", ""),
            ("https://*.example.com", "its host is no name and no address"),
            ("https://decide..example.com", "its host is no name and no address"),
            ("https://decide.example.com.", "its host is no name and no address"),
            ("https://[fe80::1%25eth0]", ""),
        ] {
            let error = written.parse::<Origin>().unwrap_err().to_string();
            assert!(error.contains(why) && error.contains("such as https://"), "{written}: {error}");
        }
    }
}
