//! The signature algorithms (RFC 7518 section 3.1, RFC 8037), and sets of them.
//!
//! Only asymmetric ones exist here: with no HMAC and no `none` in the type, the confusion of a public key with a secret
//! cannot be written down, let alone accepted.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A signature algorithm, by its JOSE name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
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

/// A set of algorithms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct AlgorithmSet(u16);

impl AlgorithmSet {
    pub(crate) fn contains(self, algorithm: Algorithm) -> bool {
        self.0 & (1 << algorithm as u16) != 0
    }
}

impl<'a> FromIterator<&'a Algorithm> for AlgorithmSet {
    fn from_iter<I: IntoIterator<Item = &'a Algorithm>>(algorithms: I) -> Self {
        Self(algorithms.into_iter().fold(0, |set, algorithm| set | 1 << *algorithm as u16))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_read_by_its_case_and_symmetric_ones_do_not_exist() {
        for algorithm in Algorithm::ALL {
            assert_eq!(Algorithm::by_name(algorithm.name()), Some(algorithm));
        }
        assert_eq!(Algorithm::by_name("Ed25519"), Some(Algorithm::EdDSA));
        for none in ["none", "Ed448", "None", "HS256", "HS512", "rs256", "RS1", "ES256K", "", "RS256 "] {
            assert_eq!(Algorithm::by_name(none), None, "{none}");
        }
    }

    #[test]
    fn a_set_holds_what_it_was_made_of() {
        let set: AlgorithmSet = [Algorithm::ES256, Algorithm::EdDSA].iter().collect();
        let held: Vec<_> = Algorithm::ALL.into_iter().filter(|a| set.contains(*a)).collect();
        assert_eq!(held, [Algorithm::ES256, Algorithm::EdDSA]);
    }
}
