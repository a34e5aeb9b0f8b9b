//! Which addresses a name may lead to.
//!
//! Whoever answers for a name says where it leads, and could say: to the gateway's own machine, or to one that only the
//! gateway reaches. What is not public is asked by a name only where the operator said so, and some of it never.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Whose an address is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reach {
    /// Everybody's.
    Public,
    /// This machine's, or of a private network.
    Private,
    /// Nobody's that a name should lead to: link-local, where clouds keep credentials, multicast, reserved.
    Never,
}

/// Where clouds tell their machines secrets, as far as these are not link-local: Alibaba's, Azure's, Oracle's, Amazon's.
const METADATA: [IpAddr; 4] = [
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
    IpAddr::V4(Ipv4Addr::new(168, 63, 129, 16)),
    IpAddr::V4(Ipv4Addr::new(192, 0, 0, 192)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)),
];

pub(super) fn reach(address: IpAddr) -> Reach {
    match address {
        _ if METADATA.contains(&address) => Reach::Never,
        IpAddr::V4(address) => reach_v4(address),
        IpAddr::V6(address) => reach_v6(address),
    }
}

/// By the IANA registry of special-purpose IPv4 addresses.
fn reach_v4(address: Ipv4Addr) -> Reach {
    match address.octets() {
        [10 | 127, ..] | [192, 168, ..] => Reach::Private,
        [172, second, ..] if second & 0xf0 == 16 => Reach::Private,
        // Shared (RFC 6598), and for benchmarks (RFC 2544).
        [100, second, ..] if second & 0xc0 == 64 => Reach::Private,
        [198, 18 | 19, ..] => Reach::Private,
        [0 | 224..=255, ..] | [169, 254, ..] => Reach::Never,
        // Protocol assignments, documentation, the relays of 6to4.
        [192, 0, 0 | 2, _] | [198, 51, 100, _] | [203, 0, 113, _] | [192, 88, 99, _] => Reach::Never,
        _ => Reach::Public,
    }
}

/// By the IANA registry of special-purpose IPv6 addresses. One that stands for an IPv4 address is what that is.
fn reach_v6(address: Ipv6Addr) -> Reach {
    let v4 = |high: u16, low: u16| reach(Ipv4Addr::from(u32::from(high) << 16 | u32::from(low)).into());
    match address.segments() {
        [0, 0, 0, 0, 0, 0xffff, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] | [0x2002, high, low, ..] => {
            v4(high, low)
        }
        [0, 0, 0, 0, 0, 0, 0, 1] => Reach::Private,
        [first, ..] if first & 0xfe00 == 0xfc00 => Reach::Private,
        // Teredo and other protocol assignments, documentation.
        [0x2001, second, ..] if second < 0x200 || second == 0xdb8 => Reach::Never,
        [0x3fff, second, ..] if second < 0x1000 => Reach::Never,
        [first, ..] if first & 0xe000 == 0x2000 => Reach::Public,
        _ => Reach::Never,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn only_what_is_everybodys_is_public() {
        let all = |expected: Reach, addresses: &[&str]| {
            for address in addresses {
                assert_eq!(reach(address.parse().unwrap()), expected, "{address}");
            }
        };
        all(Reach::Public, &["1.1.1.1", "172.32.0.1", "100.128.0.1", "192.169.0.1", "2606:4700::1111", "2a00::1"]);
        all(Reach::Public, &["::ffff:1.1.1.1", "64:ff9b::1.1.1.1", "2002:101:101::1"]);
        all(Reach::Private, &["127.0.0.1", "127.9.9.9", "10.1.2.3", "172.16.0.1", "172.31.255.255", "192.168.1.1"]);
        all(Reach::Private, &["100.64.0.1", "100.127.255.255", "198.18.0.1", "::1", "fc00::1", "fdff::1"]);
        all(Reach::Private, &["::ffff:127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::a00:1", "2002:7f00:1::"]);
        all(Reach::Never, &["0.0.0.0", "0.1.2.3", "169.254.169.254", "169.254.0.1", "224.0.0.1", "239.1.1.1"]);
        all(Reach::Never, &["240.0.0.1", "255.255.255.255", "192.0.2.1", "198.51.100.1", "203.0.113.1"]);
        all(Reach::Never, &["::", "::7f00:1", "fe80::1", "fec0::1", "ff02::1", "2001:db8::1", "2001::1", "4000::1"]);
        all(Reach::Never, &["::ffff:169.254.169.254", "64:ff9b::a9fe:a9fe", "2002:a9fe:a9fe::"]);
        all(Reach::Never, &["100.100.100.200", "168.63.129.16", "192.0.0.192", "fd00:ec2::254"]);
        all(Reach::Never, &["::ffff:100.100.100.200"]);
    }
}
