//! One proof (RFC 9449 section 4.2): a compact JWS that brings its key, and five claims.
//!
//! Read by the same strict layer as tokens: one meaning or none. What is not understood is not skipped where skipping
//! could hurt: `crit`, `b64`, and private members of a key refuse the proof.

use serde_json::{Map, Value};
use sluice_vocabulary::Reason;

use crate::algorithm::{Algorithm, AlgorithmSet};
use crate::base64url;
use crate::jwk;
use crate::jws::{Compact, MAX_SIGNATURE};
use crate::strict_json;
use crate::thumbprint::Thumbprint;

/// The longest proof looked at; one with an RSA key of 4096 bits has some 2 KiB.
const LONGEST: usize = 4096;

/// The longest modulus taken, encoded: 4096 bits. A client chooses its key freely, and the time to check a signature
/// grows with the square of the length.
const LONGEST_MODULUS: usize = 683;

/// The longest `jti` taken. RFC 9449 asks for 96 random bits, which is 16 characters; a UUID has 36.
const LONGEST_ID: usize = 256;

/// The latest date taken: the end of the year 9999, as for tokens.
const LAST_DATE: f64 = 253_402_300_799.0;

/// What a public key must not hold (RFC 7518 section 6): with one of these it is everybody's.
const PRIVATE: [&str; 8] = ["d", "p", "q", "dp", "dq", "qi", "oth", "k"];

/// Why a proof is refused. No cause holds a part of it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ProofFault {
    #[error("the token is bound to a key and there is no DPoP field")]
    Missing,
    #[error("there is more than one DPoP field")]
    Several,
    #[error("the proof is not a compact JWS of at most {LONGEST} bytes in strict JSON: {0}")]
    Form(&'static str),
    #[error("the proof's typ is not dpop+jwt")]
    Type,
    #[error("the proof's alg is not in the list")]
    Algorithm,
    #[error("the proof's header has {0}, which is not understood here")]
    Critical(&'static str),
    #[error("the proof's key cannot be used: {0}")]
    Key(&'static str),
    #[error("the proof's key is not the one that the token is bound to")]
    WrongKey,
    #[error("the proof's claim {0} is missing or has not the form it must have")]
    Claim(&'static str),
    #[error("the proof's htm is not the request's method")]
    Method,
    #[error("the proof's htu is not where the request went")]
    Target,
    #[error("the proof's ath is not that of the token")]
    TokenHash,
    #[error("the proof was made {ago} s ago")]
    Old { ago: u64 },
    #[error("the proof was made {wait} s from now")]
    Early { wait: u64 },
    #[error("the proof has no nonce")]
    NonceMissing,
    #[error("the proof's nonce is not ours, or no longer good")]
    NonceStale,
    #[error("the proof's signature does not verify")]
    Signature,
    #[error("the proof was used before")]
    Replayed,
    #[error("no more proofs can be remembered now: auth.dpop.replay_cache is full")]
    Unremembered,
}

impl ProofFault {
    /// Every value of [`Self::slug`].
    pub(crate) const SLUGS: [&'static str; 14] = [
        "missing",
        "several",
        "form",
        "type",
        "algorithm",
        "key",
        "wrong-key",
        "claim",
        "mismatch",
        "time",
        "nonce",
        "signature",
        "replayed",
        "memory-full",
    ];

    /// The stable name, for metrics.
    pub(crate) const fn slug(&self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Several => "several",
            Self::Form(_) | Self::Critical(_) => "form",
            Self::Type => "type",
            Self::Algorithm => "algorithm",
            Self::Key(_) => "key",
            Self::WrongKey => "wrong-key",
            Self::Claim(_) => "claim",
            Self::Method | Self::Target | Self::TokenHash => "mismatch",
            Self::Old { .. } | Self::Early { .. } => "time",
            Self::NonceMissing | Self::NonceStale => "nonce",
            Self::Signature => "signature",
            Self::Replayed => "replayed",
            Self::Unremembered => "memory-full",
        }
    }

    /// What the client is told.
    pub(crate) const fn reason(&self) -> Reason {
        match self {
            Self::WrongKey => Reason::SenderUnproven,
            Self::NonceMissing | Self::NonceStale => Reason::ProofNonce,
            Self::Unremembered => Reason::ProofsUnavailable,
            _ => Reason::ProofRejected,
        }
    }
}

/// A proof whose header is read and accepted, and whose signature is not checked yet.
#[derive(Debug)]
pub(crate) struct Proof<'p> {
    compact: Compact<'p>,
    algorithm: Algorithm,
    key: Map<String, Value>,
    thumbprint: Thumbprint,
}

/// What a proof says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ProofClaims {
    /// `jti`: 1 to 256 bytes.
    pub(crate) id: String,
    /// `htm`.
    pub(crate) method: String,
    /// `htu`, as written.
    pub(crate) target: String,
    /// `iat`, in whole seconds since the epoch.
    pub(crate) issued_at: u64,
    /// `ath`, as written.
    pub(crate) token_hash: String,
    /// `nonce`.
    pub(crate) nonce: Option<String>,
}

impl<'p> Proof<'p> {
    /// Reads the header of a proof that is to be by one of `allowed`.
    pub(crate) fn read(proof: &'p [u8], allowed: AlgorithmSet) -> Result<Self, ProofFault> {
        let compact = Compact::split(proof, LONGEST).map_err(|_| ProofFault::Form("its three parts"))?;
        let header = object(compact.header, "its header")?;
        // Compared by case: RFC 9449 gives this one value.
        if header.get("typ").and_then(Value::as_str) != Some("dpop+jwt") {
            return Err(ProofFault::Type);
        }
        for critical in ["crit", "b64"] {
            if header.contains_key(critical) {
                return Err(ProofFault::Critical(critical));
            }
        }
        let algorithm = header.get("alg").and_then(Value::as_str).and_then(Algorithm::by_name);
        let algorithm = algorithm.filter(|algorithm| allowed.contains(*algorithm)).ok_or(ProofFault::Algorithm)?;
        let Some(Value::Object(key)) = take(header, "jwk") else { return Err(ProofFault::Key("there is no jwk")) };
        if PRIVATE.iter().any(|private| key.contains_key(*private)) {
            return Err(ProofFault::Key("it holds private members"));
        }
        if key.get("n").and_then(Value::as_str).is_some_and(|modulus| modulus.len() > LONGEST_MODULUS) {
            return Err(ProofFault::Key("RSA over 4096 bits"));
        }
        let thumbprint = Thumbprint::of(&key).map_err(ProofFault::Key)?;
        Ok(Self { compact, algorithm, key, thumbprint })
    }

    /// The thumbprint of the key that it brings.
    pub(crate) fn thumbprint(&self) -> &Thumbprint {
        &self.thumbprint
    }

    /// Reads the claims.
    pub(crate) fn claims(&self) -> Result<ProofClaims, ProofFault> {
        let claims = object(self.compact.payload, "its claims")?;
        let text = |name: &'static str| match claims.get(name) {
            Some(Value::String(text)) => Ok(text.clone()),
            _ => Err(ProofFault::Claim(name)),
        };
        let id = text("jti")?;
        if id.is_empty() || id.len() > LONGEST_ID {
            return Err(ProofFault::Claim("jti"));
        }
        let issued_at = match claims.get("iat") {
            Some(Value::Number(number)) => number.as_f64().filter(|seconds| (0.0..=LAST_DATE).contains(seconds)),
            _ => None,
        };
        let nonce = if claims.contains_key("nonce") { Some(text("nonce")?) } else { None };
        Ok(ProofClaims {
            id,
            method: text("htm")?,
            target: text("htu")?,
            // In range, so that the cast is exact after rounding.
            issued_at: issued_at.ok_or(ProofFault::Claim("iat"))?.floor() as u64,
            token_hash: text("ath")?,
            nonce,
        })
    }

    /// Checks the signature, by the proof's own key.
    pub(crate) fn verify(&self) -> Result<(), ProofFault> {
        let only: AlgorithmSet = [self.algorithm].iter().collect();
        let key = jwk::parse_key(&self.key, only).map_err(ProofFault::Key)?;
        let mut room = [0; MAX_SIGNATURE];
        let signature = self.compact.decode_signature(&mut room).map_err(|_| ProofFault::Form("its signature"))?;
        if key.verifies(self.algorithm, self.compact.signed, signature) { Ok(()) } else { Err(ProofFault::Signature) }
    }
}

fn object(part: &[u8], which: &'static str) -> Result<Map<String, Value>, ProofFault> {
    let json = base64url::decode(part).map_err(|_| ProofFault::Form(which))?;
    strict_json::object(&json).map_err(|_| ProofFault::Form(which))
}

fn take(mut members: Map<String, Value>, name: &str) -> Option<Value> {
    members.remove(name)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn all() -> AlgorithmSet {
        Algorithm::ALL.iter().collect()
    }

    /// RFC 9449 section 4.1, figure 1: a proof for the token endpoint.
    const FOR_A_TOKEN: &str = concat!(
        "eyJ0eXAiOiJkcG9wK2p3dCIsImFsZyI6IkVTMjU2IiwiandrIjp7Imt0eSI6IkVDIiwieCI6Imw4dEZyaHgtMzR0VjNoUklDUkRZOXpDa0RscEJoRjQyVVFV",
        "ZldWQVdCRnMiLCJ5IjoiOVZFNGpmX09rX282NHpiVFRsY3VOSmFqSG10NnY5VERWclUwQ2R2R1JEQSIsImNydiI6IlAtMjU2In19.eyJqdGkiOiItQndDM0V",
        "TYzZhY2MybFRjIiwiaHRtIjoiUE9TVCIsImh0dSI6Imh0dHBzOi8vc2VydmVyLmV4YW1wbGUuY29tL3Rva2VuIiwiaWF0IjoxNTYyMjYyNjE2fQ.2-GxA6T8l",
        "P4vfrg8v-FdWP0A0zdrj8igiMLvqRMUvwnQg4PtFLbdLXiOSsX0x7NVY-FNyJK70nfbV37xRZT3Lg"
    );

    /// RFC 9449 section 7.1, figures 12 and 13: the token and the proof of a protected request.
    pub(crate) const TOKEN: &str = "Kz~8mXK1EalYznwH-LC-1fBAo.4Ljp~zsPE_NeO.gxU";
    const FOR_A_RESOURCE: &str = concat!(
        "eyJ0eXAiOiJkcG9wK2p3dCIsImFsZyI6IkVTMjU2IiwiandrIjp7Imt0eSI6IkVDIiwieCI6Imw4dEZyaHgtMzR0VjNoUklDUkRZOXpDa0RscEJoRjQyVVFV",
        "ZldWQVdCRnMiLCJ5IjoiOVZFNGpmX09rX282NHpiVFRsY3VOSmFqSG10NnY5VERWclUwQ2R2R1JEQSIsImNydiI6IlAtMjU2In19.eyJqdGkiOiJlMWozVl9",
        "iS2ljOC1MQUVCIiwiaHRtIjoiR0VUIiwiaHR1IjoiaHR0cHM6Ly9yZXNvdXJjZS5leGFtcGxlLm9yZy9wcm90ZWN0ZWRyZXNvdXJjZSIsImlhdCI6MTU2MjI2",
        "MjYxOCwiYXRoIjoiZlVIeU8ycjJaM0RaNTNFc05yV0JiMHhXWG9hTnk1OUlpS0NBcWtzbVFFbyJ9.2oW9RP35yRqzhrtNP86L-Ey71EOptxRimPPToA1plem",
        "AgR6pxHF8y6-yqyVnmcw6Fy1dqd-jfxSYoMxhAJpLjA"
    );

    #[test]
    fn the_proof_of_rfc_9449_section_7_1_verifies_for_its_token() {
        let proof = Proof::read(FOR_A_RESOURCE.as_bytes(), all()).unwrap();
        assert_eq!(proof.thumbprint().encode(), "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I");
        let claims = proof.claims().unwrap();
        assert_eq!(claims.token_hash, super::super::token_hash(TOKEN.as_bytes()));
        assert_eq!(
            claims,
            ProofClaims {
                id: "e1j3V_bKic8-LAEB".into(),
                method: "GET".into(),
                target: "https://resource.example.org/protectedresource".into(),
                issued_at: 1_562_262_618,
                token_hash: "fUHyO2r2Z3DZ53EsNrWBb0xWXoaNy59IiKCAqksmQEo".into(),
                nonce: None,
            }
        );
        assert_eq!(proof.verify(), Ok(()));
    }

    #[test]
    fn the_proof_of_rfc_9449_section_4_1_is_signed_and_for_no_token() {
        let proof = Proof::read(FOR_A_TOKEN.as_bytes(), all()).unwrap();
        assert_eq!(proof.verify(), Ok(()));
        assert_eq!(proof.claims(), Err(ProofFault::Claim("ath")));
    }

    #[test]
    fn a_signature_of_one_proof_is_none_of_another() {
        let (first, second) = (FOR_A_RESOURCE.rsplit_once('.').unwrap(), FOR_A_TOKEN.rsplit_once('.').unwrap());
        let mixed = format!("{}.{}", first.0, second.1);
        let proof = Proof::read(mixed.as_bytes(), all()).unwrap();
        assert_eq!(proof.verify(), Err(ProofFault::Signature));
    }

    #[test]
    fn every_fault_has_a_slug_of_the_list() {
        use ProofFault as F;
        for fault in [
            F::Missing,
            F::Several,
            F::Form(""),
            F::Type,
            F::Algorithm,
            F::Critical(""),
            F::Key(""),
            F::WrongKey,
            F::Claim(""),
            F::Method,
            F::Target,
            F::TokenHash,
            F::Old { ago: 1 },
            F::Early { wait: 1 },
            F::NonceMissing,
            F::NonceStale,
            F::Signature,
            F::Replayed,
            F::Unremembered,
        ] {
            assert!(F::SLUGS.contains(&fault.slug()), "{fault:?}");
        }
    }
}
