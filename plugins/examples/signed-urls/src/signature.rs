//! Keys, and what they have signed.

use base64ct::{Base64UrlUnpadded, Encoding as _};
use hmac::{Hmac, Mac as _};
use sha2::Sha256;

/// RFC 2104 3: a shorter key than the hash is long weakens it.
const SHORTEST: usize = 32;

/// A key, ready to check with.
pub(crate) struct Key(Hmac<Sha256>);

impl Key {
    /// Reads a key. What is wrong with it is said without a word of it.
    pub(crate) fn read(text: &str) -> Result<Self, String> {
        let bytes =
            Base64UrlUnpadded::decode_vec(text.trim_end_matches('=')).map_err(|_| "not base64url".to_owned())?;
        if bytes.len() < SHORTEST {
            return Err(format!("{} bytes: expected at least {SHORTEST}", bytes.len()));
        }
        Hmac::new_from_slice(&bytes).map(Self).map_err(|_| "not a key".to_owned())
    }

    /// Whether this key made that signature, found out in a time that does not hang on how much of it is right.
    pub(crate) fn has_signed(self, message: &str, signature: &str) -> bool {
        let mut bytes = [0; 32];
        match Base64UrlUnpadded::decode(signature, &mut bytes) {
            Ok(signature) => self.0.chain_update(message).verify_slice(signature).is_ok(),
            Err(_) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8";

    fn has_signed(message: &str, signature: &str) -> bool {
        Key::read(KEY).unwrap().has_signed(message, signature)
    }

    /// Made by another implementation: Python's hmac.
    #[test]
    fn a_signature_of_another_implementation_is_good() {
        let message = "sluice signed url 1\nGET\nfiles.example.com\n/files/7\n1767225600\nuser=u-7\n";
        assert!(has_signed(message, "IOpLLmm4dmxNPSIalVsOemOt4FUTryrD79PVXd6Pafo"));
    }

    #[test]
    fn every_other_signature_and_message_is_not() {
        let good = "IOpLLmm4dmxNPSIalVsOemOt4FUTryrD79PVXd6Pafo";
        assert!(!has_signed("sluice signed url 1\n", good));
        let message = "sluice signed url 1\nGET\nfiles.example.com\n/files/7\n1767225600\nuser=u-7\n";
        for at in 0..good.len() {
            let mut other = good.to_owned();
            let letter = if good.as_bytes()[at] == b'A' { "B" } else { "A" };
            other.replace_range(at..=at, letter);
            assert!(!has_signed(message, &other), "{other}");
        }
        for other in ["", "A", &good[1..], &format!("{good}AA"), &format!("{good}="), "ä"] {
            assert!(!has_signed(message, other), "{other:?}");
        }
    }

    #[test]
    fn a_weak_key_is_refused_without_being_told() {
        let fault = |text: &str| Key::read(text).err().unwrap();
        assert_eq!(fault("c2hvcnQ"), "5 bytes: expected at least 32");
        assert_eq!(fault("not base64!"), "not base64url");
        assert!(Key::read(&format!("{KEY}=")).is_ok());
    }
}
