//! An endpoint's address as configuration writes it: an IP address, or a name to resolve, with a port.

use std::fmt;
use std::net::SocketAddr;

/// Where an endpoint is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Address {
    /// Known.
    Ip(SocketAddr),
    /// To be resolved.
    Name { host: Box<str>, port: u16 },
}

/// A text that is no address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{found:?} is not an endpoint: {wrong}")]
pub(crate) struct BadAddress {
    found: String,
    wrong: &'static str,
}

impl Address {
    pub(crate) fn parse(text: &str) -> Result<Self, BadAddress> {
        let bad = |wrong| BadAddress { found: text.chars().take(300).collect(), wrong };
        if let Ok(address) = text.parse::<SocketAddr>() {
            return if address.port() == 0 { Err(bad("port 0 cannot be connected to")) } else { Ok(Self::Ip(address)) };
        }
        let (host, port) = text.rsplit_once(':').ok_or_else(|| bad("the port is missing"))?;
        // `u16::from_str` takes a leading plus sign.
        let digits = !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit());
        let port = port.parse().ok().filter(|port| digits && *port != 0);
        let port = port.ok_or_else(|| bad("the port is not a number from 1 to 65535"))?;
        // RFC 1123 2.1, and the underscore that service names carry.
        let label = |label: &str| {
            (1..=63).contains(&label.len())
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
                && !label.starts_with('-')
                && !label.ends_with('-')
        };
        let dotted = host.strip_suffix('.').unwrap_or(host);
        if dotted.len() > 253 || !dotted.split('.').all(label) {
            return Err(bad("the host is neither an IP address nor a host name"));
        }
        // `1.2.3` and `0x7f.1` are addresses to some resolvers and names to none.
        if dotted.rsplit('.').next().is_some_and(|last| last.starts_with(|c: char| c.is_ascii_digit())) {
            return Err(bad("the host ends like an IP address and is none"));
        }
        Ok(Self::Name { host: host.into(), port })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => address.fmt(f),
            Self::Name { host, port } => write!(f, "{host}:{port}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_can_be_connected_to_is_an_address() {
        for good in ["10.0.0.5:8080", "[2001:db8::5]:80", "localhost:1", "a-b.c_d.example.:65535", "3scale.net:80"] {
            assert!(Address::parse(good).is_ok(), "{good}");
        }
        let bad = [
            "",
            ":",
            "a",
            "a:",
            ":80",
            "a:0",
            "10.0.0.5:0",
            "a:65536",
            "a:+80",
            "a:8o",
            "10.0.0.5",
            "::1:80",
            "a b:80",
            "a..b:80",
            "-a:80",
            "a-:80",
            "1.2.3:80",
            "0x7f.1:80",
            "http://a:80",
            "ä:80",
            "10.0.0.256:80",
        ];
        for bad in bad {
            assert!(Address::parse(bad).is_err(), "{bad:?}");
        }
        assert!(Address::parse(&format!("{}:80", "a".repeat(64))).is_err());
    }
}
