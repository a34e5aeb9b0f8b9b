//! Which client addresses may use a route.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;
use sluice_vocabulary::{Fault, Faults, Path};

use crate::config;

/// Allow and deny lists, searched by halving.
#[derive(Debug, Default)]
pub(crate) struct AddressRules {
    allow: Option<Ranges>,
    deny: Ranges,
}

/// Ranges of addresses, in order, without overlap. IPv4 addresses are held in their IPv6-mapped form.
#[derive(Debug, Default)]
struct Ranges(Box<[(u128, u128)]>);

impl AddressRules {
    pub(crate) fn compile(config: &config::Addresses, at: &Path, faults: &mut Faults) -> Self {
        let allow = Ranges::compile(&config.allow, &at.key("allow"), faults);
        let deny = Ranges::compile(&config.deny, &at.key("deny"), faults);
        if config.allow.is_empty() && config.deny.is_empty() {
            faults.warning(at, "addresses names none, so that every address may use the route");
        }
        Self { allow: (!config.allow.is_empty()).then_some(allow), deny }
    }

    /// Whether a client at `address` may use the route.
    pub(crate) fn admit(&self, address: IpAddr) -> bool {
        let number = number(address);
        !self.deny.contain(number) && self.allow.as_ref().is_none_or(|allow| allow.contain(number))
    }
}

impl Ranges {
    fn compile(texts: &[String], at: &Path, faults: &mut Faults) -> Self {
        let mut ranges = Vec::with_capacity(texts.len());
        for (position, text) in texts.iter().enumerate() {
            let at = at.index(position);
            let Ok(net) = text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from)) else {
                faults.error(
                    &at,
                    format!("{text:?} is not an address or network: expected the form 10.0.0.0/8 or 2001:db8::1"),
                );
                continue;
            };
            let whole = net.trunc();
            if whole.addr() != net.addr() {
                let help = format!("write {whole}, or {}/{} for the one address", net.addr(), net.max_prefix_len());
                faults.push(Fault::warning(&at, format!("{text} has address bits beyond its prefix")).help(help));
            }
            ranges.push((number(whole.network()), number(whole.broadcast())));
        }
        ranges.sort_unstable();
        ranges.dedup_by(|next, kept| {
            let joined = next.0 <= kept.1;
            if joined {
                kept.1 = kept.1.max(next.1);
            }
            joined
        });
        Self(ranges.into())
    }

    fn contain(&self, number: u128) -> bool {
        let after = self.0.partition_point(|range| range.0 <= number);
        after > 0 && number <= self.0[after - 1].1
    }
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => Ipv4Addr::to_ipv6_mapped(&v4).to_bits(),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn rules(allow: &[&str], deny: &[&str]) -> (AddressRules, Faults) {
        let list = |texts: &[&str]| texts.iter().map(ToString::to_string).collect();
        let mut faults = Faults::new();
        let config = config::Addresses { allow: list(allow), deny: list(deny) };
        (AddressRules::compile(&config, &Path::root(), &mut faults), faults)
    }

    #[test]
    fn deny_goes_before_allow_and_a_mapped_address_is_ipv4() {
        let (rules, faults) = rules(&["10.0.0.0/8", "10.1.0.0/16", "2001:db8::/32"], &["10.9.0.0/16", "10.1.2.3"]);
        assert!(faults.is_empty());
        for (address, may) in [
            ("10.0.0.0", true),
            ("10.255.255.255", true),
            ("10.200.0.1", true),
            ("10.1.2.4", true),
            ("10.1.2.3", false),
            ("10.9.0.1", false),
            ("11.0.0.0", false),
            ("9.255.255.255", false),
            ("2001:db8::1", true),
            ("2001:db9::", false),
            ("::ffff:10.0.0.1", true),
            ("::ffff:10.9.0.1", false),
        ] {
            assert_eq!(rules.admit(address.parse().unwrap()), may, "{address}");
        }
    }

    #[test]
    fn without_an_allow_list_all_but_the_denied_may() {
        let (rules, _) = rules(&[], &["0.0.0.0/0"]);
        assert!(!rules.admit("1.2.3.4".parse().unwrap()) && rules.admit("::1".parse().unwrap()));
    }

    #[test]
    fn an_allow_list_whose_every_entry_is_bad_admits_nobody() {
        let (rules, faults) = rules(&["10.0.0.0/33", "example.com"], &[]);
        assert_eq!(faults.iter().count(), 2);
        assert!(!rules.admit("10.0.0.0".parse().unwrap()));
    }

    #[test]
    fn a_network_with_stray_bits_is_warned_of() {
        let (rules, faults) = rules(&["10.1.2.3/8"], &[]);
        assert!(!faults.has_errors() && faults.iter().count() == 1);
        assert!(rules.admit("10.200.0.1".parse().unwrap()));
    }
}
