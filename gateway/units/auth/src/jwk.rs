//! An issuer's keys: a JWK Set (RFC 7517) read strictly into parsed public keys, or the secrets that an operator shares
//! with it.
//!
//! Each public key is parsed once for each algorithm it may be used with; from then on the key decides what a signature under
//! it can be. What cannot be used is left out with its cause, as RFC 7517 section 5 has it, and does not spoil the rest:
//! unknown types, symmetric and private keys, keys that are not for signatures, RSA under 2048 bits, points off their
//! curve. A document that is not a key set at all is an error. A secret comes from the operator alone (see
//! [`crate::shared_secret`]), never from a document, and makes a key of another kind, for one MAC algorithm.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use aws_lc_rs::hmac;
use aws_lc_rs::signature::{self as lc, ParsedPublicKey, RsaParameters, RsaPublicKeyComponents, VerificationAlgorithm};
use serde_json::{Map, Value};
use sluice_vocabulary::secret::Secret;
use smallvec::SmallVec;

use crate::algorithm::{Alg, Algorithm, AlgorithmSet, MacAlgorithm};
use crate::base64url;
use crate::strict_json::{self, BadJson};
use crate::thumbprint::Thumbprint;

/// The most keys a set may have.
pub(crate) const MAX_KEYS: usize = 64;

/// The most keys tried for one token, where its `kid` does not single one out.
pub(crate) const MAX_TRIES: usize = 8;

/// Why a document is not a key set.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadKeySet {
    #[error("the key set is {0}")]
    Json(#[from] BadJson),
    #[error("the key set has no array keys")]
    NoKeys,
    #[error("the key set has {0} keys, at most {MAX_KEYS} are taken")]
    TooMany(usize),
}

/// One key.
#[derive(Debug)]
pub(crate) struct Key {
    kid: Option<Box<str>>,
    material: Material,
    /// Set once, when the issuer's set no longer has the key: whatever was verified with it is void from then on.
    withdrawn: AtomicBool,
}

/// What a key is made of, which decides what it can verify.
#[derive(Debug)]
enum Material {
    /// A public key, for signatures.
    Public { thumbprint: Thumbprint, verifiers: SmallVec<[(Algorithm, ParsedPublicKey); 1]> },
    /// A shared secret, for MACs.
    Shared(Box<Shared>),
}

#[derive(Debug)]
struct Shared {
    algorithm: MacAlgorithm,
    key: hmac::Key,
    /// Tells whether it is the same one after a reload.
    secret: Secret,
}

impl Key {
    /// The key that `secret`, which is long enough, is for `algorithm`.
    pub(crate) fn shared(kid: Option<&str>, algorithm: MacAlgorithm, secret: Secret) -> Self {
        let key = hmac::Key::new(algorithm.hmac(), secret.expose());
        let material = Material::Shared(Box::new(Shared { algorithm, key, secret }));
        Self { kid: kid.map(Into::into), material, withdrawn: AtomicBool::new(false) }
    }

    pub(crate) fn kid(&self) -> Option<&str> {
        self.kid.as_deref()
    }

    pub(crate) fn algorithms(&self) -> impl Iterator<Item = Alg> {
        let (verifiers, mac) = match &self.material {
            Material::Public { verifiers, .. } => (&verifiers[..], None),
            Material::Shared(shared) => (&[][..], Some(Alg::Mac(shared.algorithm))),
        };
        verifiers.iter().map(|(algorithm, _)| Alg::Signature(*algorithm)).chain(mac)
    }

    /// The thumbprint as operators see it. A secret has none to show: it would let anybody try guesses (RFC 7638 section 7).
    pub(crate) fn thumbprint(&self) -> Option<String> {
        match &self.material {
            Material::Public { thumbprint, .. } => Some(thumbprint.encode()),
            Material::Shared(_) => None,
        }
    }

    pub(crate) fn is_withdrawn(&self) -> bool {
        self.withdrawn.load(Ordering::Acquire)
    }

    fn withdraw(&self) {
        self.withdrawn.store(true, Ordering::Release);
    }

    /// Whether this key, with `algorithm`, made `signature` over `message`. False for an algorithm not the key's. A MAC is
    /// compared in constant time.
    pub(crate) fn verifies(&self, algorithm: impl Into<Alg>, message: &[u8], signature: &[u8]) -> bool {
        match (&self.material, algorithm.into()) {
            (Material::Public { verifiers, .. }, Alg::Signature(algorithm)) => {
                verifiers.iter().any(|(own, key)| *own == algorithm && key.verify_sig(message, signature).is_ok())
            }
            (Material::Shared(shared), Alg::Mac(algorithm)) => {
                shared.algorithm == algorithm && hmac::verify(&shared.key, message, signature).is_ok()
            }
            (Material::Public { .. }, Alg::Mac(_)) | (Material::Shared(_), Alg::Signature(_)) => false,
        }
    }

    fn is_for(&self, algorithm: Alg) -> bool {
        self.algorithms().any(|own| own == algorithm)
    }

    fn is_same_as(&self, other: &Self) -> bool {
        let same_material = match (&self.material, &other.material) {
            (Material::Public { thumbprint: own, .. }, Material::Public { thumbprint: theirs, .. }) => own == theirs,
            (Material::Shared(own), Material::Shared(theirs)) => own.secret == theirs.secret,
            _ => false,
        };
        same_material && self.kid == other.kid && self.algorithms().eq(other.algorithms())
    }
}

/// What a key set says to a token's `kid` and `alg`.
pub(crate) enum Lookup<'s> {
    /// Keys to try, in the set's order; never empty.
    Candidates(SmallVec<[&'s Arc<Key>; 2]>),
    /// The key named is there and is not for the algorithm.
    NotForAlgorithm,
    /// There is no such key.
    Unknown,
}

/// An issuer's keys at one time.
#[derive(Debug)]
pub(crate) struct KeySet {
    keys: Vec<Arc<Key>>,
    /// Those left out: `kid` and cause.
    left_out: Vec<(Option<Box<str>>, &'static str)>,
}

impl KeySet {
    /// The set of these keys.
    pub(crate) fn of(keys: impl IntoIterator<Item = Key>) -> Self {
        Self { keys: keys.into_iter().map(Arc::new).collect(), left_out: Vec::new() }
    }

    /// Whether `other` has the same keys in the same order.
    pub(crate) fn is_same_as(&self, other: &Self) -> bool {
        self.keys.len() == other.keys.len()
            && self.keys.iter().zip(&other.keys).all(|(own, theirs)| own.is_same_as(theirs))
    }

    /// Reads a JWK Set, keeping what can verify one of `allowed`.
    pub(crate) fn parse(json: &[u8], allowed: AlgorithmSet) -> Result<Self, BadKeySet> {
        let document = strict_json::object(json)?;
        let Some(Value::Array(entries)) = document.get("keys") else { return Err(BadKeySet::NoKeys) };
        if entries.len() > MAX_KEYS {
            return Err(BadKeySet::TooMany(entries.len()));
        }
        let mut set = Self { keys: Vec::with_capacity(entries.len()), left_out: Vec::new() };
        for entry in entries {
            let Value::Object(jwk) = entry else {
                set.left_out.push((None, "not an object"));
                continue;
            };
            match parse_key(jwk, allowed) {
                // The same key twice would only be tried twice.
                Ok(key) if set.keys.iter().any(|known| known.is_same_as(&key)) => {
                    set.left_out.push((key.kid, "listed twice"));
                }
                Ok(key) => set.keys.push(Arc::new(key)),
                Err(cause) => {
                    let kid = jwk.get("kid").and_then(Value::as_str).map(|kid| kid.chars().take(64).collect());
                    set.left_out.push((kid, cause));
                }
            }
        }
        Ok(set)
    }

    /// This set as the successor of `old`: keys that stay are the same `Arc`, so that what was verified with them stays
    /// good, and the others of `old` are withdrawn. Says whether any was.
    pub(crate) fn succeed(mut self, old: Option<&Self>) -> (Self, bool) {
        let mut withdrew = false;
        for old_key in old.map_or(&[][..], |set| &set.keys) {
            match self.keys.iter_mut().find(|key| key.is_same_as(old_key)) {
                Some(same) => *same = Arc::clone(old_key),
                None => {
                    old_key.withdraw();
                    withdrew = true;
                }
            }
        }
        (self, withdrew)
    }

    /// Withdraws every key: the issuer was not heard for too long.
    pub(crate) fn withdraw_all(&self) {
        self.keys.iter().for_each(|key| key.withdraw());
    }

    /// The keys that may have signed a token. A `kid` singles out its bearers; where none has it, the keys without a
    /// `kid` may still be meant. A token without a `kid` may be by any key of its algorithm. At most [`MAX_TRIES`].
    pub(crate) fn lookup(&self, kid: Option<&str>, algorithm: impl Into<Alg>) -> Lookup<'_> {
        let algorithm = algorithm.into();
        let mut named = false;
        let mut candidates = SmallVec::new();
        for key in &self.keys {
            let matches = match (kid, key.kid()) {
                (Some(wanted), Some(own)) => wanted == own,
                (Some(_), None) => false,
                (None, _) => true,
            };
            named |= matches && kid.is_some();
            if matches && key.is_for(algorithm) && candidates.len() < MAX_TRIES {
                candidates.push(key);
            }
        }
        if candidates.is_empty() && named {
            return Lookup::NotForAlgorithm;
        }
        if candidates.is_empty() && kid.is_some() {
            let nameless = self.keys.iter().filter(|key| key.kid.is_none() && key.is_for(algorithm));
            candidates.extend(nameless.take(MAX_TRIES));
        }
        if candidates.is_empty() { Lookup::Unknown } else { Lookup::Candidates(candidates) }
    }

    /// Whether a key of that `kid` is here.
    pub(crate) fn has_kid(&self, kid: &str) -> bool {
        self.keys.iter().any(|key| key.kid() == Some(kid))
    }

    pub(crate) fn keys(&self) -> &[Arc<Key>] {
        &self.keys
    }

    pub(crate) fn left_out(&self) -> &[(Option<Box<str>>, &'static str)] {
        &self.left_out
    }
}

/// Reads one JWK; the error is why it is left out.
pub(crate) fn parse_key(jwk: &Map<String, Value>, allowed: AlgorithmSet) -> Result<Key, &'static str> {
    let kty = text(jwk, "kty")?.ok_or("no kty")?;
    let kid: Option<Box<str>> = text(jwk, "kid")?.map(Into::into);
    if ["d", "p", "q", "k"].iter().any(|private| jwk.contains_key(*private)) {
        // Published, it is everybody's.
        return Err("private or symmetric key in a public set");
    }
    if text(jwk, "use")?.is_some_and(|usage| usage != "sig") {
        return Err("use is not sig");
    }
    match jwk.get("key_ops") {
        None => {}
        Some(Value::Array(operations)) if operations.iter().any(|operation| operation == "verify") => {}
        Some(_) => return Err("key_ops lacks verify"),
    }
    let only = match text(jwk, "alg")? {
        None => None,
        Some(name) => Some(Algorithm::by_name(name).ok_or("alg is not a known signature algorithm")?),
    };
    let may = |algorithm: Algorithm| allowed.contains(algorithm) && only.is_none_or(|only| only == algorithm);

    let mut verifiers: SmallVec<[(Algorithm, ParsedPublicKey); 1]> = SmallVec::new();
    let thumbprint = match kty {
        "RSA" => {
            let n = number(jwk, "n")?;
            let e = number(jwk, "e")?;
            check_rsa(&n, &e)?;
            let components = RsaPublicKeyComponents { n: &n, e: &e };
            for (algorithm, parameters) in RSA {
                if may(algorithm) {
                    let key = components.to_parsed_public_key(parameters).map_err(|_| "not an RSA key")?;
                    verifiers.push((algorithm, key));
                }
            }
            Thumbprint::of_rsa(&n, &e)
        }
        "EC" => {
            let crv = text(jwk, "crv")?.ok_or("no crv")?;
            let (_, coordinate, algorithm, parameters) =
                EC.into_iter().find(|(name, ..)| *name == crv).ok_or("crv is not P-256, P-384 or P-521")?;
            let (x, y) = (bytes(jwk, "x")?, bytes(jwk, "y")?);
            if x.len() != coordinate || y.len() != coordinate {
                // RFC 7518 section 6.2.1.2: the full size of a coordinate, always.
                return Err("a coordinate is not of the curve's size");
            }
            let point = [&[4][..], &x, &y].concat();
            // The library refuses a point off the curve.
            let key = ParsedPublicKey::new(parameters, &point).map_err(|_| "not a point of the curve")?;
            if may(algorithm) {
                verifiers.push((algorithm, key));
            }
            Thumbprint::of(jwk)?
        }
        "OKP" => {
            if text(jwk, "crv")? != Some("Ed25519") {
                return Err("crv is not Ed25519");
            }
            let x = bytes(jwk, "x")?;
            let key = ParsedPublicKey::new(&lc::ED25519, &x).map_err(|_| "not an Ed25519 key")?;
            if may(Algorithm::EdDSA) {
                verifiers.push((Algorithm::EdDSA, key));
            }
            Thumbprint::of(jwk)?
        }
        _ => return Err("kty is not RSA, EC or OKP"),
    };
    if verifiers.is_empty() {
        return Err("not for an algorithm of the issuer's list");
    }
    Ok(Key { kid, material: Material::Public { thumbprint, verifiers }, withdrawn: AtomicBool::new(false) })
}

static RSA: [(Algorithm, &RsaParameters); 6] = [
    (Algorithm::RS256, &lc::RSA_PKCS1_2048_8192_SHA256),
    (Algorithm::RS384, &lc::RSA_PKCS1_2048_8192_SHA384),
    (Algorithm::RS512, &lc::RSA_PKCS1_2048_8192_SHA512),
    (Algorithm::PS256, &lc::RSA_PSS_2048_8192_SHA256),
    (Algorithm::PS384, &lc::RSA_PSS_2048_8192_SHA384),
    (Algorithm::PS512, &lc::RSA_PSS_2048_8192_SHA512),
];

/// Curve, bytes of a coordinate, the one algorithm of the curve, its parameters.
const EC: [(&str, usize, Algorithm, &dyn VerificationAlgorithm); 3] = [
    ("P-256", 32, Algorithm::ES256, &lc::ECDSA_P256_SHA256_FIXED),
    ("P-384", 48, Algorithm::ES384, &lc::ECDSA_P384_SHA384_FIXED),
    ("P-521", 66, Algorithm::ES512, &lc::ECDSA_P521_SHA512_FIXED),
];

/// Bounds of an RSA key. The library checks sizes only when it verifies; a bad key is to be known when it is published.
fn check_rsa(n: &[u8], e: &[u8]) -> Result<(), &'static str> {
    let bits = |number: &[u8]| number.first().map_or(0, |top| number.len() * 8 - top.leading_zeros() as usize);
    if bits(n) < 2048 {
        return Err("RSA under 2048 bits");
    }
    if bits(n) > 8192 {
        return Err("RSA over 8192 bits");
    }
    let is_odd = |number: &[u8]| number.last().is_some_and(|low| low & 1 == 1);
    if !is_odd(n) {
        return Err("RSA modulus is even");
    }
    if !is_odd(e) || bits(e) < 2 || bits(e) > 33 {
        return Err("RSA exponent is even, 1 or over 33 bits");
    }
    Ok(())
}

/// A member that is a string if it is there.
fn text<'j>(jwk: &'j Map<String, Value>, name: &str) -> Result<Option<&'j str>, &'static str> {
    match jwk.get(name) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err("a member that must be a string is not"),
    }
}

/// A member that must be there and be base64url.
fn bytes(jwk: &Map<String, Value>, name: &str) -> Result<Vec<u8>, &'static str> {
    let encoded = text(jwk, name)?.ok_or("a member of the key is missing")?;
    base64url::decode(encoded.as_bytes()).map_err(|_| "a member of the key is not base64url")
}

/// A number, without the leading zero octets that some issuers put there against RFC 7518 section 6.3.1.1.
fn number(jwk: &Map<String, Value>, name: &str) -> Result<Vec<u8>, &'static str> {
    let mut number = bytes(jwk, name)?;
    let zeros = number.iter().take_while(|byte| **byte == 0).count();
    number.drain(..zeros);
    Ok(number)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]
    use super::*;
    use serde_json::json;

    fn all() -> AlgorithmSet {
        Algorithm::ALL.iter().collect()
    }

    fn parse(keys: Value) -> KeySet {
        KeySet::parse(json!({ "keys": keys }).to_string().as_bytes(), all()).unwrap()
    }

    fn causes(keys: Value) -> Vec<&'static str> {
        let set = parse(keys);
        assert!(set.keys.is_empty(), "{:?}", set.keys);
        set.left_out.iter().map(|(_, cause)| *cause).collect()
    }

    /// RFC 8037 appendix A.2.
    fn ed25519(kid: &str) -> Value {
        json!({"kty": "OKP", "crv": "Ed25519", "kid": kid, "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"})
    }

    /// RFC 7515 appendix A.3.
    fn p256() -> Value {
        json!({"kty": "EC", "crv": "P-256", "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
               "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"})
    }

    fn with(mut jwk: Value, name: &str, value: Value) -> Value {
        jwk[name] = value;
        jwk
    }

    fn rsa(bits: usize) -> Value {
        let mut n = vec![0xff; bits / 8];
        if !bits.is_multiple_of(8) {
            n.insert(0, (1 << (bits % 8)) - 1);
        }
        json!({"kty": "RSA", "n": base64url::encode(&n), "e": "AQAB"})
    }

    #[test]
    fn what_cannot_be_used_is_left_out_with_its_cause() {
        let cases = [
            (json!(7), "not an object"),
            (json!({}), "no kty"),
            (json!({"kty": 1}), "a member that must be a string is not"),
            (json!({"kty": "oct", "k": "AAAA"}), "private or symmetric key in a public set"),
            (json!({"kty": "AKP"}), "kty is not RSA, EC or OKP"),
            (with(ed25519("k"), "d", json!("AAAA")), "private or symmetric key in a public set"),
            (with(ed25519("k"), "use", json!("enc")), "use is not sig"),
            (with(ed25519("k"), "key_ops", json!(["sign"])), "key_ops lacks verify"),
            (with(ed25519("k"), "key_ops", json!("verify")), "key_ops lacks verify"),
            (with(ed25519("k"), "alg", json!("HS256")), "alg is not a known signature algorithm"),
            (with(ed25519("k"), "alg", json!("RS256")), "not for an algorithm of the issuer's list"),
            (with(ed25519("k"), "x", json!("11qY")), "not an Ed25519 key"),
            (with(ed25519("k"), "crv", json!("X25519")), "crv is not Ed25519"),
            (with(p256(), "crv", json!("P-384")), "a coordinate is not of the curve's size"),
            (with(p256(), "crv", json!("secp256k1")), "crv is not P-256, P-384 or P-521"),
            (with(p256(), "y", json!("f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU")), "not a point of the curve"),
            (
                with(p256(), "y", json!("x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a")),
                "a member of the key is not base64url",
            ),
            (rsa(2047), "RSA under 2048 bits"),
            (rsa(512), "RSA under 2048 bits"),
            (rsa(8200), "RSA over 8192 bits"),
            (with(rsa(2048), "e", json!("AQ")), "RSA exponent is even, 1 or over 33 bits"),
            (with(rsa(2048), "e", json!("Ag")), "RSA exponent is even, 1 or over 33 bits"),
            (with(rsa(2048), "n", json!("")), "RSA under 2048 bits"),
        ];
        for (jwk, cause) in cases {
            assert_eq!(causes(json!([jwk])), [cause], "{jwk}");
        }
    }

    #[test]
    fn an_unusable_key_does_not_spoil_the_others() {
        let set = parse(json!([rsa(1024), ed25519("a"), {"kty": "future"}, p256()]));
        assert_eq!(set.keys.len(), 2);
        assert_eq!(set.left_out.len(), 2);
    }

    #[test]
    fn a_document_that_is_no_key_set_is_an_error() {
        for bad in ["", "[]", "{}", r#"{"keys":{}}"#, r#"{"keys":[]}x"#, r#"{"keys":[],"keys":[]}"#, "<html></html>"] {
            assert!(KeySet::parse(bad.as_bytes(), all()).is_err(), "{bad}");
        }
        let many = json!({ "keys": vec![ed25519("a"); 65] }).to_string();
        assert_eq!(KeySet::parse(many.as_bytes(), all()).unwrap_err(), BadKeySet::TooMany(65));
    }

    #[test]
    fn an_rsa_key_takes_each_rsa_algorithm_and_its_own_alg_narrows_that() {
        let algorithms = |jwk: Value| parse(json!([jwk])).keys[0].algorithms().collect::<Vec<_>>();
        assert_eq!(algorithms(rsa(2048)), Algorithm::ALL[..6]);
        assert_eq!(algorithms(with(rsa(2048), "alg", json!("PS384"))), [Algorithm::PS384]);
        let padded = base64url::encode(&[&[0][..], &vec![0xff; 256]].concat());
        assert_eq!(algorithms(with(rsa(2048), "n", json!(padded))), Algorithm::ALL[..6]);
    }

    #[test]
    fn a_keys_thumbprint_is_that_of_rfc_7638_however_its_numbers_are_padded() {
        let of = |jwk: Value| parse(json!([jwk])).keys[0].thumbprint().unwrap();
        // RFC 8037 appendix A.3.
        assert_eq!(of(ed25519("any")), "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k");
        for jwk in [p256(), rsa(2048), rsa(3071)] {
            assert_eq!(of(jwk.clone()), Thumbprint::of(jwk.as_object().unwrap()).unwrap().encode(), "{jwk}");
        }
        let padded = base64url::encode(&[&[0][..], &vec![0xff; 256]].concat());
        assert_eq!(of(with(rsa(2048), "n", json!(padded))), of(rsa(2048)));
    }

    #[test]
    fn a_kid_singles_out_its_key_and_keys_without_one_may_be_meant() {
        let set = parse(json!([ed25519("a"), p256(), rsa(2048)]));
        let count = |kid, algorithm| match set.lookup(kid, algorithm) {
            Lookup::Candidates(keys) => Ok(keys.len()),
            Lookup::NotForAlgorithm => Err("not for"),
            Lookup::Unknown => Err("unknown"),
        };
        assert_eq!(count(Some("a"), Algorithm::EdDSA), Ok(1));
        assert_eq!(count(Some("a"), Algorithm::ES256), Err("not for"));
        assert_eq!(count(Some("b"), Algorithm::EdDSA), Err("unknown"));
        assert_eq!(count(Some("b"), Algorithm::ES256), Ok(1));
        assert_eq!(count(None, Algorithm::EdDSA), Ok(1));
        assert_eq!(count(None, Algorithm::ES512), Err("unknown"));
    }

    #[test]
    fn keys_that_stay_are_the_same_and_those_that_go_are_withdrawn() {
        let old = parse(json!([ed25519("a"), p256()]));
        let (a, b) = (Arc::clone(&old.keys[0]), Arc::clone(&old.keys[1]));
        let (new, withdrew) = parse(json!([ed25519("c"), ed25519("a")])).succeed(Some(&old));
        assert!(withdrew && b.is_withdrawn() && !a.is_withdrawn());
        assert!(Arc::ptr_eq(&new.keys[1], &a));
        // The same numbers under another name are another key.
        assert!(!Arc::ptr_eq(&new.keys[0], &a));
    }

    #[test]
    fn a_secret_is_for_its_own_algorithm_and_a_public_key_for_no_mac() {
        let secret = [7; 64];
        let shared = KeySet::of([Key::shared(Some("s"), MacAlgorithm::HS256, Secret::new(secret))]);
        let mac = |algorithm: MacAlgorithm| hmac::sign(&hmac::Key::new(algorithm.hmac(), &secret), b"message");
        let key = &shared.keys[0];
        assert!(key.verifies(MacAlgorithm::HS256, b"message", mac(MacAlgorithm::HS256).as_ref()));
        for other in [MacAlgorithm::HS384, MacAlgorithm::HS512] {
            assert!(!key.verifies(other, b"message", mac(other).as_ref()), "{other:?}");
        }
        for algorithm in Algorithm::ALL {
            assert!(!key.verifies(algorithm, b"message", mac(MacAlgorithm::HS256).as_ref()), "{algorithm:?}");
            assert!(matches!(shared.lookup(Some("s"), algorithm), Lookup::NotForAlgorithm));
        }
        for cut in [0, 16, 31] {
            assert!(!key.verifies(MacAlgorithm::HS256, b"message", &mac(MacAlgorithm::HS256).as_ref()[..cut]), "{cut}");
        }
        let public = parse(json!([rsa(2048), p256(), ed25519("a")]));
        for mac in MacAlgorithm::ALL {
            assert!(matches!(public.lookup(None, mac), Lookup::Unknown));
            assert!(public.keys.iter().all(|key| !key.verifies(mac, b"message", &[0; 32])));
        }
    }

    #[test]
    fn a_secret_is_not_shown_and_another_one_is_another_key() {
        let of = |kid, algorithm, secret: &[u8]| KeySet::of([Key::shared(kid, algorithm, Secret::new(secret))]);
        let (secret, other) = (b"hunter2-hunter2-hunter2-hunter2-", b"hunter3-hunter3-hunter3-hunter3-");
        let key = of(Some("k"), MacAlgorithm::HS256, secret);
        assert!(!format!("{key:?}").contains("hunter") && key.keys[0].thumbprint().is_none());
        assert!(key.is_same_as(&of(Some("k"), MacAlgorithm::HS256, secret)));
        assert!(!key.is_same_as(&of(Some("k"), MacAlgorithm::HS256, other)));
        assert!(!key.is_same_as(&of(None, MacAlgorithm::HS256, secret)));
        assert!(!key.is_same_as(&of(Some("k"), MacAlgorithm::HS384, secret)));
        assert!(!key.is_same_as(&KeySet::of([])));
    }

    #[test]
    fn no_more_than_eight_keys_are_tried() {
        let keys: Vec<_> = (0..20).map(|i| ed25519(&format!("k{i}"))).collect();
        let set = parse(json!(keys));
        let Lookup::Candidates(found) = set.lookup(None, Algorithm::EdDSA) else { panic!("keys are there") };
        assert_eq!(found.len(), MAX_TRIES);
    }
}
