//! The PROXY protocol, versions 1 and 2: how a load balancer says whose connection it passes on.
//!
//! [`parse`] is a pure function of the bytes received so far. It follows the specification's strict reading: version 1
//! is one line of at most 107 bytes in exactly the documented form, version 2 is measured by its own length. What a header
//! may add (TLVs, UNIX addresses) is skipped, since nothing here uses it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use ipnet::IpNet;
use memchr::memchr;

use crate::config::contains;

/// The peers that must send a header.
#[derive(Debug, Clone)]
pub(crate) struct Senders(Box<[IpNet]>);

impl Senders {
    pub(crate) fn new(networks: &[IpNet]) -> Self {
        Self(networks.into())
    }

    /// Whether `peer` must send a header.
    pub(crate) fn include(&self, peer: IpAddr) -> bool {
        contains(&self.0, peer)
    }
}

/// What a header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProxyHeader {
    /// Bytes of the header; what follows is the connection's own.
    pub length: usize,
    /// The client's address, or none where the load balancer speaks for itself (a health check), or says that it does
    /// not know.
    pub source: Option<SocketAddr>,
}

/// Why bytes are not a PROXY protocol header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadProxyHeader {
    /// Neither version's signature.
    #[error("no PROXY protocol signature")]
    Signature,
    /// Version 1, but not in its form.
    #[error("malformed PROXY protocol version 1 line")]
    Line,
    /// Version 2 of a version, command or family that does not exist, or too short for its addresses.
    #[error("malformed PROXY protocol version 2 header")]
    Binary,
    /// Version 2, longer than anybody's TLVs.
    #[error("PROXY protocol version 2 header of {0} bytes, expected at most {LONGEST_BINARY}")]
    TooLong(usize),
}

const LINE_START: &[u8] = b"PROXY ";
const LONGEST_LINE: usize = 107;
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
const BINARY_HEADER: usize = 16;
/// TLVs of certificates take a few hundred bytes; the format's own limit is 64 KiB.
const LONGEST_BINARY: usize = 4096;

/// Reads a header from the start of `bytes`; none while more bytes are needed.
///
/// # Errors
/// As soon as the bytes cannot become a header any more.
pub fn parse(bytes: &[u8]) -> Result<Option<ProxyHeader>, BadProxyHeader> {
    let starts_like = |pattern: &[u8]| {
        let common = bytes.len().min(pattern.len());
        bytes[..common] == pattern[..common]
    };
    if starts_like(LINE_START) {
        parse_line(bytes)
    } else if starts_like(SIGNATURE) {
        parse_binary(bytes)
    } else {
        Err(BadProxyHeader::Signature)
    }
}

fn parse_line(bytes: &[u8]) -> Result<Option<ProxyHeader>, BadProxyHeader> {
    let window = &bytes[..bytes.len().min(LONGEST_LINE)];
    let Some(end) = memchr(b'\n', window) else {
        return if bytes.len() >= LONGEST_LINE { Err(BadProxyHeader::Line) } else { Ok(None) };
    };
    let line = window[..end].strip_suffix(b"\r").ok_or(BadProxyHeader::Line)?;
    let line = std::str::from_utf8(line).map_err(|_| BadProxyHeader::Line)?;
    let rest = line.strip_prefix("PROXY ").ok_or(BadProxyHeader::Line)?;
    let length = end + 1;
    // "UNKNOWN" may be followed by anything, to be ignored.
    if rest == "UNKNOWN" || rest.starts_with("UNKNOWN ") {
        return Ok(Some(ProxyHeader { length, source: None }));
    }
    let source = parse_addresses(rest).ok_or(BadProxyHeader::Line)?;
    Ok(Some(ProxyHeader { length, source: Some(source) }))
}

/// `TCP4 source destination source-port destination-port`, with single spaces.
fn parse_addresses(text: &str) -> Option<SocketAddr> {
    let mut parts = text.split(' ');
    let family = parts.next()?;
    let address = |text: &str| -> Option<IpAddr> {
        match family {
            "TCP4" => Ipv4Addr::from_str(text).ok().map(IpAddr::V4),
            "TCP6" => Ipv6Addr::from_str(text).ok().map(IpAddr::V6),
            _ => None,
        }
    };
    let source = address(parts.next()?)?;
    address(parts.next()?)?;
    let source_port = port(parts.next()?)?;
    port(parts.next()?)?;
    parts.next().is_none().then_some(SocketAddr::new(source, source_port))
}

/// Stricter than `u16::from_str`, which takes a sign and leading zeros.
fn port(text: &str) -> Option<u16> {
    let canonical = text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    if canonical { text.parse().ok() } else { None }
}

fn parse_binary(bytes: &[u8]) -> Result<Option<ProxyHeader>, BadProxyHeader> {
    let Some(header) = bytes.first_chunk::<BINARY_HEADER>() else {
        return Ok(None);
    };
    let [.., version_command, family, high, low] = *header;
    let length = BINARY_HEADER + usize::from(u16::from_be_bytes([high, low]));
    let local = match version_command {
        0x20 => true,
        0x21 => false,
        _ => return Err(BadProxyHeader::Binary),
    };
    if length > LONGEST_BINARY {
        return Err(BadProxyHeader::TooLong(length));
    }
    let Some(body) = bytes.get(BINARY_HEADER..length) else {
        return Ok(None);
    };
    let source = match family {
        _ if local => None,
        // TCP over IPv4: two addresses, two ports.
        0x11 => {
            let body = body.first_chunk::<12>().ok_or(BadProxyHeader::Binary)?;
            let [a, b, c, d, _, _, _, _, high, low, _, _] = *body;
            Some(SocketAddr::new(Ipv4Addr::new(a, b, c, d).into(), u16::from_be_bytes([high, low])))
        }
        // TCP over IPv6.
        0x21 => {
            let body = body.first_chunk::<36>().ok_or(BadProxyHeader::Binary)?;
            let address = *body.first_chunk::<16>().ok_or(BadProxyHeader::Binary)?;
            Some(SocketAddr::new(Ipv6Addr::from(address).into(), u16::from_be_bytes([body[32], body[33]])))
        }
        // Unspecified, datagrams, UNIX sockets: legal, and nothing that could be a client's address here.
        0x00 | 0x12 | 0x22 | 0x31 | 0x32 => None,
        _ => return Err(BadProxyHeader::Binary),
    };
    Ok(Some(ProxyHeader { length, source }))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use proptest::prelude::*;

    fn binary(version_command: u8, family: u8, body: &[u8]) -> Vec<u8> {
        let mut bytes = SIGNATURE.to_vec();
        bytes.extend([version_command, family]);
        bytes.extend((body.len() as u16).to_be_bytes());
        bytes.extend(body);
        bytes
    }

    #[test]
    fn both_versions_tell_the_client() {
        let line = b"PROXY TCP4 192.0.2.7 198.51.100.1 56324 443\r\nGET /";
        let header = parse(line).unwrap().unwrap();
        assert_eq!((header.length, header.source), (line.len() - 5, Some("192.0.2.7:56324".parse().unwrap())));
        let line = b"PROXY TCP6 2001:db8::7 2001:db8::1 1 65535\r\n";
        assert_eq!(parse(line).unwrap().unwrap().source, Some("[2001:db8::7]:1".parse().unwrap()));
        assert_eq!(parse(b"PROXY UNKNOWN\r\n").unwrap().unwrap(), ProxyHeader { length: 15, source: None });
        assert_eq!(parse(b"PROXY UNKNOWN x y\r\n").unwrap().unwrap().source, None);

        let v4 = binary(0x21, 0x11, &[192, 0, 2, 7, 198, 51, 100, 1, 0x1f, 0x90, 1, 187, /* a TLV */ 4, 0, 1, 0]);
        let header = parse(&v4).unwrap().unwrap();
        assert_eq!((header.length, header.source), (v4.len(), Some("192.0.2.7:8080".parse().unwrap())));
        let mut body = [0; 36];
        body[15] = 1;
        body[33] = 80;
        assert_eq!(parse(&binary(0x21, 0x21, &body)).unwrap().unwrap().source, Some("[::1]:80".parse().unwrap()));
        assert_eq!(parse(&binary(0x20, 0x00, &[])).unwrap().unwrap().source, None);
    }

    #[test]
    fn a_header_that_is_not_there_yet_is_waited_for() {
        let line = b"PROXY TCP4 192.0.2.7 198.51.100.1 56324 443\r\n";
        let v4 = binary(0x21, 0x11, &[1; 12]);
        for whole in [&line[..], &v4] {
            for cut in 0..whole.len() {
                assert_eq!(parse(&whole[..cut]), Ok(None), "{cut}");
            }
        }
    }

    #[test]
    fn anything_else_is_refused() {
        for bad in [
            "GET / HTTP/1.1\r\n",
            "proxy TCP4 1.1.1.1 1.1.1.1 1 1\r\n",
            "PROXY TCP4 1.1.1.1 1.1.1.1 1 1\n",
            "PROXY TCP4  1.1.1.1 1.1.1.1 1 1\r\n",
            "PROXY TCP4 1.1.1.1 1.1.1.1 1\r\n",
            "PROXY TCP4 1.1.1.1 1.1.1.1 1 1 1\r\n",
            "PROXY TCP4 1.1.1.1 1.1.1.1 01 1\r\n",
            "PROXY TCP4 1.1.1.1 1.1.1.1 +1 1\r\n",
            "PROXY TCP4 1.1.1.1 1.1.1.1 65536 1\r\n",
            "PROXY TCP4 1.1.1.01 1.1.1.1 1 1\r\n",
            "PROXY TCP4 ::1 ::1 1 1\r\n",
            "PROXY TCP6 1.1.1.1 1.1.1.1 1 1\r\n",
            "PROXY UDP4 1.1.1.1 1.1.1.1 1 1\r\n",
            "PROXY UNKNOWNX\r\n",
            "\r\n\r\n\0\r\nQUIX\n",
        ] {
            assert!(parse(bad.as_bytes()).is_err(), "{bad:?}");
        }
        assert!(parse(&[b"PROXY ".as_slice(), &[b'x'; 120]].concat()).is_err());
        assert_eq!(parse(&binary(0x11, 0x11, &[0; 12])), Err(BadProxyHeader::Binary));
        assert_eq!(parse(&binary(0x22, 0x11, &[0; 12])), Err(BadProxyHeader::Binary));
        assert_eq!(parse(&binary(0x21, 0x11, &[0; 11])), Err(BadProxyHeader::Binary));
        assert_eq!(parse(&binary(0x21, 0x41, &[0; 12])), Err(BadProxyHeader::Binary));
        assert_eq!(parse(&binary(0x21, 0x11, &[0; 5000])), Err(BadProxyHeader::TooLong(5016)));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), line in any::<bool>()) {
            let start: &[u8] = if line { b"PROXY TCP4 " } else { SIGNATURE };
            let _ = parse(&bytes);
            let _ = parse(&[start, &bytes].concat());
        }
    }
}
