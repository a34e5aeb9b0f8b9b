//! The algorithms of RFC 7518 section 3.1 and RFC 8037, and sets of them.
//!
//! Signatures and MACs are two types, which meet only where a token's `alg` is read. A public key is for an [`Algorithm`],
//! a shared secret for a [`MacAlgorithm`]: the confusion of the one with the other cannot be written down, let alone
//! accepted. `none` is neither.

use std::borrow::Cow;

use aws_lc_rs::hmac;
use schemars::JsonSchema;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};

/// A signature algorithm, by its JOSE name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, JsonSchema)]
#[schemars(extend("x-help-for" = {
    "HS256": "it is a MAC, not a signature: give the issuer `secrets` and leave `algorithms` out",
    "HS384": "it is a MAC, not a signature: give the issuer `secrets` and leave `algorithms` out",
    "HS512": "it is a MAC, not a signature: give the issuer `secrets` and leave `algorithms` out",
    "none": "a token without a signature is never accepted"
}))]
pub enum Algorithm {
    /// RSASSA-PKCS1-v1_5 with SHA-256.
    RS256,
    /// RSASSA-PKCS1-v1_5 with SHA-384.
    RS384,
    /// RSASSA-PKCS1-v1_5 with SHA-512.
    RS512,
    /// RSASSA-PSS with SHA-256.
    PS256,
    /// RSASSA-PSS with SHA-384.
    PS384,
    /// RSASSA-PSS with SHA-512.
    PS512,
    /// ECDSA on P-256 with SHA-256.
    ES256,
    /// ECDSA on P-384 with SHA-384.
    ES384,
    /// ECDSA on P-521 with SHA-512.
    ES512,
    /// EdDSA, of which Ed25519 alone is taken; a token may also name it `Ed25519`, as RFC 9864 prefers.
    EdDSA,
}

impl Algorithm {
    /// Every algorithm.
    pub const ALL: [Self; 10] = [
        Self::RS256,
        Self::RS384,
        Self::RS512,
        Self::PS256,
        Self::PS384,
        Self::PS512,
        Self::ES256,
        Self::ES384,
        Self::ES512,
        Self::EdDSA,
    ];

    /// The name in `alg`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::RS256 => "RS256",
            Self::RS384 => "RS384",
            Self::RS512 => "RS512",
            Self::PS256 => "PS256",
            Self::PS384 => "PS384",
            Self::PS512 => "PS512",
            Self::ES256 => "ES256",
            Self::ES384 => "ES384",
            Self::ES512 => "ES512",
            Self::EdDSA => "EdDSA",
        }
    }

    /// The algorithm of that name; names are compared by case, as RFC 7515 section 4.1.1 has it.
    pub(crate) fn by_name(name: &str) -> Option<Self> {
        match name {
            "Ed25519" => Some(Self::EdDSA),
            _ => Self::ALL.into_iter().find(|algorithm| algorithm.name() == name),
        }
    }
}

impl<'de> Deserialize<'de> for Algorithm {
    /// By its name alone. A MAC's name is refused with where such issuers are written down.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        const NAMES: [&str; Algorithm::ALL.len()] = {
            let mut names = [""; Algorithm::ALL.len()];
            let mut at = 0;
            while at < names.len() {
                names[at] = Algorithm::ALL[at].name();
                at += 1;
            }
            names
        };
        let name = Cow::<str>::deserialize(deserializer)?;
        match Self::ALL.into_iter().find(|algorithm| algorithm.name() == name) {
            Some(algorithm) => Ok(algorithm),
            None if MacAlgorithm::ALL.into_iter().any(|mac| mac.name() == name) => Err(D::Error::custom(format!(
                "{name} is a MAC, not a signature: give the issuer `secrets` and leave `algorithms` out"
            ))),
            None => Err(D::Error::unknown_variant(&name, &NAMES)),
        }
    }
}

/// A MAC algorithm (RFC 7518 section 3.2), by its JOSE name. Whoever can check one can make one: such tokens are for an
/// issuer that is the operator's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum MacAlgorithm {
    /// HMAC with SHA-256; its secret has at least 32 bytes.
    HS256,
    /// HMAC with SHA-384; its secret has at least 48 bytes.
    HS384,
    /// HMAC with SHA-512; its secret has at least 64 bytes.
    HS512,
}

impl MacAlgorithm {
    /// Every MAC algorithm.
    pub const ALL: [Self; 3] = [Self::HS256, Self::HS384, Self::HS512];

    /// The name in `alg`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::HS256 => "HS256",
            Self::HS384 => "HS384",
            Self::HS512 => "HS512",
        }
    }

    /// The least bytes that a secret may have: those of the hash.
    pub(crate) const fn least_secret(self) -> usize {
        match self {
            Self::HS256 => 32,
            Self::HS384 => 48,
            Self::HS512 => 64,
        }
    }

    pub(crate) fn hmac(self) -> hmac::Algorithm {
        match self {
            Self::HS256 => hmac::HMAC_SHA256,
            Self::HS384 => hmac::HMAC_SHA384,
            Self::HS512 => hmac::HMAC_SHA512,
        }
    }
}

/// What a token's `alg` may say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Alg {
    /// A signature, checked by a public key.
    Signature(Algorithm),
    /// A MAC, checked by a shared secret.
    Mac(MacAlgorithm),
}

impl Alg {
    /// The algorithm of that name, compared by case.
    pub(crate) fn by_name(name: &str) -> Option<Self> {
        let mac = || MacAlgorithm::ALL.into_iter().find(|algorithm| algorithm.name() == name);
        Algorithm::by_name(name).map(Self::Signature).or_else(|| mac().map(Self::Mac))
    }

    /// The name in `alg`.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Signature(algorithm) => algorithm.name(),
            Self::Mac(algorithm) => algorithm.name(),
        }
    }

    pub(crate) const fn is_mac(self) -> bool {
        matches!(self, Self::Mac(_))
    }

    /// Its place in a set.
    const fn bit(self) -> u16 {
        match self {
            Self::Signature(algorithm) => 1 << algorithm as u16,
            Self::Mac(algorithm) => 1 << (Algorithm::ALL.len() as u16 + algorithm as u16),
        }
    }
}

impl From<Algorithm> for Alg {
    fn from(algorithm: Algorithm) -> Self {
        Self::Signature(algorithm)
    }
}

impl From<&Algorithm> for Alg {
    fn from(algorithm: &Algorithm) -> Self {
        Self::Signature(*algorithm)
    }
}

impl From<MacAlgorithm> for Alg {
    fn from(algorithm: MacAlgorithm) -> Self {
        Self::Mac(algorithm)
    }
}

#[cfg(test)]
impl PartialEq<Algorithm> for Alg {
    fn eq(&self, other: &Algorithm) -> bool {
        *self == Self::from(*other)
    }
}

/// A set of algorithms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct AlgorithmSet(u16);

impl AlgorithmSet {
    pub(crate) fn contains(self, algorithm: impl Into<Alg>) -> bool {
        self.0 & algorithm.into().bit() != 0
    }
}

impl<A: Into<Alg>> FromIterator<A> for AlgorithmSet {
    fn from_iter<I: IntoIterator<Item = A>>(algorithms: I) -> Self {
        Self(algorithms.into_iter().fold(0, |set, algorithm| set | algorithm.into().bit()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mac_among_signature_algorithms_is_told_where_it_belongs() {
        let read = |name: &str| serde_json::from_value::<Algorithm>(name.into()).map_err(|error| error.to_string());
        for algorithm in Algorithm::ALL {
            assert_eq!(read(algorithm.name()), Ok(algorithm));
        }
        let refused =
            Err("HS256 is a MAC, not a signature: give the issuer `secrets` and leave `algorithms` out".to_owned());
        assert_eq!(read("HS256"), refused);
        assert!(read("RS265").is_err_and(|said| said.contains("unknown variant `RS265`, expected one of `RS256`")));
    }

    #[test]
    fn a_name_is_read_by_its_case_and_is_that_of_a_signature_or_of_a_mac() {
        for algorithm in Algorithm::ALL {
            assert_eq!(Algorithm::by_name(algorithm.name()), Some(algorithm));
            assert_eq!(Alg::by_name(algorithm.name()), Some(Alg::Signature(algorithm)));
        }
        for algorithm in MacAlgorithm::ALL {
            assert_eq!(Algorithm::by_name(algorithm.name()), None, "no public key is for a MAC");
            assert_eq!(Alg::by_name(algorithm.name()), Some(Alg::Mac(algorithm)));
        }
        assert_eq!(Algorithm::by_name("Ed25519"), Some(Algorithm::EdDSA));
        for none in ["none", "Ed448", "None", "HS1", "hs256", "HS256 ", "rs256", "RS1", "ES256K", "", "RS256 "] {
            assert_eq!(Alg::by_name(none), None, "{none}");
        }
    }

    #[test]
    fn no_two_algorithms_share_a_place_in_a_set() {
        let every: Vec<Alg> =
            Algorithm::ALL.into_iter().map(Alg::from).chain(MacAlgorithm::ALL.into_iter().map(Alg::from)).collect();
        for one in &every {
            let set: AlgorithmSet = [*one].into_iter().collect();
            assert_eq!(every.iter().filter(|other| set.contains(**other)).collect::<Vec<_>>(), [one]);
        }
        let signatures: AlgorithmSet = Algorithm::ALL.iter().collect();
        assert!(MacAlgorithm::ALL.into_iter().all(|mac| !signatures.contains(mac)));
    }

    #[test]
    fn a_set_holds_what_it_was_made_of() {
        let set: AlgorithmSet = [Algorithm::ES256, Algorithm::EdDSA].iter().collect();
        let held: Vec<_> = Algorithm::ALL.into_iter().filter(|a| set.contains(*a)).collect();
        assert_eq!(held, [Algorithm::ES256, Algorithm::EdDSA]);
    }
}
