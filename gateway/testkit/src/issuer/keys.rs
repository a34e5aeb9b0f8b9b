//! Signing keys of every kind that a gateway accepts, and their public halves as JSON Web Keys (RFC 7517, 7518, 8037).

use std::sync::Arc;

use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair,
    RSA_PKCS1_SHA256, RSA_PKCS1_SHA384, RSA_PKCS1_SHA512, RSA_PSS_SHA256, RSA_PSS_SHA384, RSA_PSS_SHA512, RsaEncoding,
    RsaKeyPair,
};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use parking_lot::Mutex;
use serde_json::{Value, json};

/// A signature algorithm, by its JOSE name.
#[expect(missing_docs, reason = "each is named as RFC 7518 and RFC 8037 name it")]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Algorithm {
    RS256,
    RS384,
    RS512,
    PS256,
    PS384,
    PS512,
    ES256,
    ES384,
    EdDSA,
}

/// RSA pairs made so far. A pair takes tenths of a second to make, so that all issuers of a process share them: the
/// n-th RSA key of every issuer is the n-th pair.
static RSA_PAIRS: Mutex<Vec<Arc<RsaKeyPair>>> = Mutex::new(Vec::new());

/// A private key with the identifier that its public half carries.
#[derive(Clone)]
pub struct SigningKey {
    kid: String,
    pair: Pair,
}

#[derive(Clone)]
enum Pair {
    Rsa(Arc<RsaKeyPair>),
    P256(Arc<EcdsaKeyPair>),
    P384(Arc<EcdsaKeyPair>),
    Ed25519(Arc<Ed25519KeyPair>),
}

impl Algorithm {
    /// The name in a token's header.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::RS256 => "RS256",
            Self::RS384 => "RS384",
            Self::RS512 => "RS512",
            Self::PS256 => "PS256",
            Self::PS384 => "PS384",
            Self::PS512 => "PS512",
            Self::ES256 => "ES256",
            Self::ES384 => "ES384",
            Self::EdDSA => "EdDSA",
        }
    }

    /// How RSA encodes the digest, for those algorithms that are RSA.
    fn rsa_encoding(self) -> Option<&'static dyn RsaEncoding> {
        match self {
            Self::RS256 => Some(&RSA_PKCS1_SHA256),
            Self::RS384 => Some(&RSA_PKCS1_SHA384),
            Self::RS512 => Some(&RSA_PKCS1_SHA512),
            Self::PS256 => Some(&RSA_PSS_SHA256),
            Self::PS384 => Some(&RSA_PSS_SHA384),
            Self::PS512 => Some(&RSA_PSS_SHA512),
            Self::ES256 | Self::ES384 | Self::EdDSA => None,
        }
    }
}

impl SigningKey {
    /// A key for `algorithm`. RSA keys have 2048 bits and are shared within the process: equal `generation`s give equal
    /// keys. All others are new.
    #[must_use]
    pub fn generate(algorithm: Algorithm, kid: &str, generation: usize) -> Self {
        let pair = match algorithm {
            Algorithm::ES256 => {
                Pair::P256(Arc::new(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).expect("a P-256 key")))
            }
            Algorithm::ES384 => {
                Pair::P384(Arc::new(EcdsaKeyPair::generate(&ECDSA_P384_SHA384_FIXED_SIGNING).expect("a P-384 key")))
            }
            Algorithm::EdDSA => Pair::Ed25519(Arc::new(Ed25519KeyPair::generate().expect("an Ed25519 key"))),
            _ => Pair::Rsa(rsa_pair(generation)),
        };
        Self { kid: kid.to_owned(), pair }
    }

    /// The key's identifier.
    #[must_use]
    pub fn kid(&self) -> &str {
        &self.kid
    }

    /// The same key under another identifier.
    #[must_use]
    pub fn called(&self, kid: &str) -> Self {
        Self { kid: kid.to_owned(), pair: self.pair.clone() }
    }

    /// Whether the key can sign by `algorithm`.
    #[must_use]
    pub fn fits(&self, algorithm: Algorithm) -> bool {
        match self.pair {
            Pair::Rsa(_) => algorithm.rsa_encoding().is_some(),
            Pair::P256(_) => algorithm == Algorithm::ES256,
            Pair::P384(_) => algorithm == Algorithm::ES384,
            Pair::Ed25519(_) => algorithm == Algorithm::EdDSA,
        }
    }

    /// Signs `message`. Elliptic-curve signatures come in the fixed form that JOSE wants.
    ///
    /// # Panics
    /// If the key does not [fit](Self::fits) the algorithm.
    #[must_use]
    pub fn sign(&self, algorithm: Algorithm, message: &[u8]) -> Vec<u8> {
        assert!(self.fits(algorithm), "key {:?} cannot sign by {}", self.kid, algorithm.name());
        let random = SystemRandom::new();
        match &self.pair {
            Pair::Rsa(pair) => {
                let encoding = algorithm.rsa_encoding().expect("an RSA algorithm, as `fits` says");
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(encoding, &random, message, &mut signature).expect("an RSA signature");
                signature
            }
            Pair::P256(pair) | Pair::P384(pair) => {
                pair.sign(&random, message).expect("an ECDSA signature").as_ref().to_vec()
            }
            Pair::Ed25519(pair) => pair.sign(message).as_ref().to_vec(),
        }
    }

    /// The public half as a JSON Web Key, with `kid` and `use`. It names no `alg`: an RSA key serves six of them.
    #[must_use]
    pub fn public_jwk(&self) -> Value {
        let mut jwk = match &self.pair {
            Pair::Rsa(pair) => json!({
                "kty": "RSA",
                "n": base64url(pair.public_key().modulus().big_endian_without_leading_zero()),
                "e": base64url(pair.public_key().exponent().big_endian_without_leading_zero()),
            }),
            Pair::P256(pair) => curve_jwk("P-256", pair),
            Pair::P384(pair) => curve_jwk("P-384", pair),
            Pair::Ed25519(pair) => json!({
                "kty": "OKP",
                "crv": "Ed25519",
                "x": base64url(pair.public_key().as_ref()),
            }),
        };
        jwk["kid"] = self.kid.clone().into();
        jwk["use"] = "sig".into();
        jwk
    }

    /// The public half in PEM, as peers of the gateway read it.
    #[must_use]
    pub fn public_pem(&self) -> String {
        pem("PUBLIC KEY", &self.public_der())
    }

    /// The public half in DER (SubjectPublicKeyInfo): what an attacker would use as an HMAC secret.
    #[must_use]
    pub fn public_der(&self) -> Vec<u8> {
        let der = match &self.pair {
            Pair::Rsa(pair) => pair.public_key().as_der(),
            Pair::P256(pair) | Pair::P384(pair) => pair.public_key().as_der(),
            Pair::Ed25519(pair) => pair.public_key().as_der(),
        };
        der.expect("a public key in DER").as_ref().to_vec()
    }
}

/// Lines of 64 letters between the marks (RFC 7468).
fn pem(label: &str, der: &[u8]) -> String {
    let encoded = STANDARD.encode(der);
    let lines: String = encoded.as_bytes().chunks(64).map(|line| String::from_utf8_lossy(line) + "\n").collect();
    format!("-----BEGIN {label}-----\n{lines}-----END {label}-----\n")
}

fn rsa_pair(generation: usize) -> Arc<RsaKeyPair> {
    let mut pairs = RSA_PAIRS.lock();
    while pairs.len() <= generation {
        pairs.push(Arc::new(RsaKeyPair::generate(KeySize::Rsa2048).expect("an RSA key")));
    }
    Arc::clone(&pairs[generation])
}

/// The uncompressed point is 4, x, y (SEC 1, 2.3.3).
fn curve_jwk(curve: &str, pair: &EcdsaKeyPair) -> Value {
    let point = &pair.public_key().as_ref()[1..];
    let (x, y) = point.split_at(point.len() / 2);
    json!({ "kty": "EC", "crv": curve, "x": base64url(x), "y": base64url(y) })
}

pub(crate) fn base64url(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}
