//! The host that a request names: `host` or `host:port`, and nothing more creative.
//!
//! RFC 3986 lets a registered name hold percent-encoded bytes and punctuation. None of that occurs in host names that
//! resolve, and each is a second spelling of a name that routing or a certificate check could miss, so all of it is
//! refused: letters, digits, `-`, `.`, `_`, `~`, or an IPv6 address in brackets. A port, where there is a colon, is one to
//! five digits of at most 65535. User information (`user@`) is refused with the rest.

use std::net::Ipv6Addr;

/// Whether `host` is one that may be routed.
pub fn is_valid(host: &[u8]) -> bool {
    split(host).is_some()
}

/// The name (with its brackets, if an IPv6 address) and the port, if `host` is valid; none otherwise.
///
/// ```
/// use sluice_downstream::host::split;
/// assert_eq!(split(b"api.example.com:8443"), Some((&b"api.example.com"[..], Some(8443))));
/// assert_eq!(split(b"user@example.com"), None);
/// ```
pub fn split(host: &[u8]) -> Option<(&[u8], Option<u16>)> {
    let (name, rest) = match host.first()? {
        b'[' => {
            let end = memchr::memchr(b']', host)?;
            let address = std::str::from_utf8(host.get(1..end)?).ok()?;
            address.parse::<Ipv6Addr>().ok()?;
            host.split_at(end + 1)
        }
        _ => {
            let end = host.iter().position(|&byte| !is_name_byte(byte)).unwrap_or(host.len());
            if end == 0 {
                return None;
            }
            host.split_at(end)
        }
    };
    match rest {
        [] => Some((name, None)),
        [b':', digits @ ..] => parse_port(digits).map(|port| (name, Some(port))),
        _ => None,
    }
}

const fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

fn parse_port(digits: &[u8]) -> Option<u16> {
    if digits.is_empty() || digits.len() > 5 {
        return None;
    }
    digits
        .iter()
        .try_fold(0_u32, |port, &digit| digit.is_ascii_digit().then(|| port * 10 + u32::from(digit - b'0')))
        .and_then(|port| u16::try_from(port).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_plain_name_or_address_with_an_optional_port_is_a_host() {
        for good in
            ["a", "example.com", "EXAMPLE.com.", "a_b-c.d~e", "127.0.0.1:80", "[::1]", "[2001:db8::1]:443", "h:0"]
        {
            assert!(is_valid(good.as_bytes()), "{good:?}");
        }
        for bad in [
            "",
            ":",
            ":80",
            "a:",
            "a:b",
            "a:65536",
            "a:123456",
            "a:+80",
            "u@a",
            "a b",
            "a,b",
            "a/b",
            "a?b",
            "a#b",
            "a\\b",
            "%61",
            "a%2eb",
            "[::1",
            "::1",
            "[::1]x",
            "[::1]:",
            "[fe80::1%25eth0]",
            "[v1.x]",
            "[]",
            "é.com",
            "a\0",
            "a\t",
        ] {
            assert!(!is_valid(bad.as_bytes()), "{bad:?}");
        }
    }
}
