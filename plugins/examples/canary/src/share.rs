//! Which part of all users somebody is in.

use std::net::IpAddr;

/// Parts that all users are divided into: a hundredth of a percent each.
const PARTS: u32 = 10_000;

/// A share of all users.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Share(u32);

/// Reads a share in percent.
pub(crate) fn of_percent(text: &str) -> Result<Share, String> {
    let percent: f64 = text.parse().map_err(|_| format!("percent: {text:?} is not a number"))?;
    if !(0.0..=100.0).contains(&percent) {
        return Err(format!("percent: {text} is out of range: expected 0 to 100"));
    }
    let parts = (percent * f64::from(PARTS) / 100.0).round();
    // In range, as was just checked, and a whole number.
    Ok(Share(parts as u32))
}

impl Share {
    /// Whether somebody of this name is in. A larger share holds everybody that a smaller one holds.
    pub(crate) fn holds(self, name: &[&[u8]]) -> bool {
        let part = (u128::from(hash(name)) * u128::from(PARTS)) >> 64;
        part < u128::from(self.0)
    }
}

/// What an address is drawn by: the network that its client keeps.
pub(crate) fn network(address: IpAddr) -> Vec<u8> {
    match address.to_canonical() {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets()[..8].to_vec(),
    }
}

/// FNV-1a, each part with its length, and the finish of MurmurHash3, without which names that differ in the end alone fall
/// close together. It keeps no secret: whoever chooses his own name can choose his side.
fn hash(name: &[&[u8]]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut eat = |byte: u8| hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    for part in name {
        (part.len() as u32).to_le_bytes().iter().for_each(|byte| eat(*byte));
        part.iter().for_each(|byte| eat(*byte));
    }
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^ (hash >> 33)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn members(percent: &str, salt: &str) -> Vec<u32> {
        let share = of_percent(percent).unwrap();
        (0..20_000).filter(|user| share.holds(&[salt.as_bytes(), format!("user-{user}").as_bytes()])).collect()
    }

    #[test]
    fn a_share_is_as_large_as_it_says() {
        for (percent, least, most) in [("0", 0, 0), ("1", 140, 260), ("25", 4_700, 5_300), ("100", 20_000, 20_000)] {
            let count = members(percent, "s").len();
            assert!((least..=most).contains(&count), "{percent} %: {count} of 20000");
        }
    }

    #[test]
    fn who_is_in_stays_in_when_the_share_grows() {
        let (few, more) = (members("5", "s"), members("10", "s"));
        assert!(few.iter().all(|user| more.contains(user)));
    }

    #[test]
    fn another_salt_draws_others() {
        let (one, other) = (members("10", "s"), members("10", "t"));
        let both = one.iter().filter(|user| other.contains(user)).count();
        assert!((100..300).contains(&both), "{both} in both, expected about 200");
    }

    /// Gateways of any version must draw alike, so the hash is part of the plugin's promise.
    #[test]
    fn the_draw_never_changes() {
        assert_eq!(hash(&[b"salt", b"corp", b"u-7"]), 0x9759_ede9_f943_c44e);
        assert_ne!(hash(&[b"a", b"bc"]), hash(&[b"ab", b"c"]));
    }

    #[test]
    fn what_is_no_share_is_refused() {
        for text in ["", "x", "-1", "100.1", "NaN", "inf"] {
            assert!(of_percent(text).is_err(), "{text:?}");
        }
        assert_eq!(of_percent("0.25"), Ok(Share(25)));
    }

    #[test]
    fn a_client_keeps_its_side_within_its_network() {
        let of = |address: &str| network(address.parse().unwrap());
        assert_eq!(of("2001:db8::1"), of("2001:db8::ffff:2"));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
        assert_eq!(of("::ffff:192.0.2.1"), of("192.0.2.1"));
        assert_ne!(of("192.0.2.1"), of("192.0.2.2"));
    }
}
