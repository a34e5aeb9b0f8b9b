//! The gateway's own signing keys, and how one follows another.
//!
//! There is always a current key, which signs, and a next one, published already, which will. At a change the next
//! becomes current, a new next is made, and the old current is retired: it stays published for one more period, which
//! is longer than any token lives. So an upstream that reads the keys once in a period never meets a token whose key it
//! does not have. Changes happen when a key is asked for, by the clock; a gateway that slept through several periods
//! makes one change.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arc_swap::ArcSwap;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _};
use parking_lot::Mutex;
use serde_json::{Map, Value, json};

use crate::base64url;
use crate::issue::config::IdentityAlgorithm;
use crate::thumbprint::Thumbprint;

/// A key that the gateway signs with.
pub(crate) struct SigningKey {
    pair: Pair,
    kid: Box<str>,
    /// The JOSE header of its tokens, encoded, with the dot behind it.
    header: Box<str>,
    /// The public key, as it is published.
    jwk: Value,
}

enum Pair {
    Ecdsa(EcdsaKeyPair),
    Ed25519(Ed25519KeyPair),
}

/// What the library refuses about a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the key cannot be made or used")]
pub(crate) struct BadKey;

impl SigningKey {
    /// Makes a new key.
    pub(crate) fn generate(algorithm: IdentityAlgorithm) -> Result<Self, BadKey> {
        let pair = match algorithm {
            IdentityAlgorithm::ES256 => {
                EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).map(Pair::Ecdsa).map_err(|_| BadKey)?
            }
            IdentityAlgorithm::EdDSA => Ed25519KeyPair::generate().map(Pair::Ed25519).map_err(|_| BadKey)?,
        };
        Self::of(pair)
    }

    /// Reads a key that was kept.
    pub(crate) fn from_pkcs8(algorithm: IdentityAlgorithm, pkcs8: &[u8]) -> Result<Self, BadKey> {
        let pair = match algorithm {
            IdentityAlgorithm::ES256 => EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8)
                .map(Pair::Ecdsa)
                .map_err(|_| BadKey)?,
            IdentityAlgorithm::EdDSA => Ed25519KeyPair::from_pkcs8(pkcs8).map(Pair::Ed25519).map_err(|_| BadKey)?,
        };
        Self::of(pair)
    }

    /// The private key, to be kept.
    pub(crate) fn to_pkcs8(&self) -> Result<Vec<u8>, BadKey> {
        let document = match &self.pair {
            Pair::Ecdsa(pair) => pair.to_pkcs8v1(),
            Pair::Ed25519(pair) => pair.to_pkcs8v1(),
        };
        document.map(|document| document.as_ref().to_vec()).map_err(|_| BadKey)
    }

    fn of(pair: Pair) -> Result<Self, BadKey> {
        let (algorithm, mut jwk) = match &pair {
            Pair::Ecdsa(pair) => {
                // An uncompressed point: 4, x, y.
                let point = pair.public_key().as_ref().get(1..65).ok_or(BadKey)?;
                let (x, y) = point.split_at(32);
                let jwk = json!({"kty": "EC", "crv": "P-256", "x": base64url::encode(x), "y": base64url::encode(y)});
                (IdentityAlgorithm::ES256, jwk)
            }
            Pair::Ed25519(pair) => {
                let x = base64url::encode(pair.public_key().as_ref());
                (IdentityAlgorithm::EdDSA, json!({"kty": "OKP", "crv": "Ed25519", "x": x}))
            }
        };
        let members = jwk.as_object_mut().ok_or(BadKey)?;
        let kid = Thumbprint::of(members).map_err(|_| BadKey)?.encode();
        members.insert("use".into(), "sig".into());
        members.insert("alg".into(), algorithm.name().into());
        members.insert("kid".into(), kid.as_str().into());
        let header = json!({"alg": algorithm.name(), "typ": "JWT", "kid": kid}).to_string();
        let header = format!("{}.", base64url::encode(header.as_bytes())).into();
        Ok(Self { pair, kid: kid.into(), header, jwk })
    }

    pub(crate) fn kid(&self) -> &str {
        &self.kid
    }

    /// A compact JWS over `claims`.
    pub(crate) fn sign(&self, claims: &Map<String, Value>) -> Result<String, BadKey> {
        let claims = serde_json::to_vec(claims).map_err(|_| BadKey)?;
        let mut token = String::with_capacity(self.header.len() + claims.len() / 3 * 4 + 96);
        token.push_str(&self.header);
        token.push_str(&base64url::encode(&claims));
        let signature = match &self.pair {
            Pair::Ecdsa(pair) => pair.sign(&SystemRandom::new(), token.as_bytes()).map_err(|_| BadKey)?,
            Pair::Ed25519(pair) => pair.try_sign(token.as_bytes()).map_err(|_| BadKey)?,
        };
        token.push('.');
        token.push_str(&base64url::encode(signature.as_ref()));
        Ok(token)
    }
}

impl std::fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SigningKey").field("kid", &self.kid).finish_non_exhaustive()
    }
}

/// The keys at one time.
#[derive(Debug, Clone)]
pub(crate) struct Ring {
    pub(crate) current: Arc<SigningKey>,
    pub(crate) next: Arc<SigningKey>,
    /// Public keys that sign no more, each with the second until which it stays published.
    pub(crate) retired: Vec<(Value, u64)>,
    /// The second in which the next key takes over.
    pub(crate) turns_at: u64,
}

impl Ring {
    /// Two new keys.
    pub(crate) fn generate(algorithm: IdentityAlgorithm, turns_at: u64) -> Result<Self, BadKey> {
        let new = || SigningKey::generate(algorithm).map(Arc::new);
        Ok(Self { current: new()?, next: new()?, retired: Vec::new(), turns_at })
    }

    /// Keeps publishing, until the second `until`, whatever `old` publishes and this ring does not.
    pub(crate) fn publish_too(&mut self, old: &Self, until: u64, now: u64) {
        let own = [self.current.kid(), self.next.kid()].map(str::to_owned);
        let signing = [&old.current, &old.next].map(|key| (key.jwk.clone(), until));
        for (jwk, until) in old.retired.iter().cloned().chain(signing) {
            let kid = jwk["kid"].as_str().unwrap_or_default();
            let known = own.iter().any(|own| own == kid) || self.retired.iter().any(|(jwk, _)| jwk["kid"] == kid);
            if until > now && !known {
                self.retired.push((jwk, until));
            }
        }
    }
}

/// The keys, changing by the clock.
#[derive(Debug)]
pub(crate) struct Keys {
    algorithm: IdentityAlgorithm,
    /// The length of a period, in seconds.
    rotate: u64,
    ring: ArcSwap<Ring>,
    turning: Mutex<()>,
    /// Whether there is something that was not kept yet.
    changed: AtomicBool,
}

impl Keys {
    pub(crate) fn new(algorithm: IdentityAlgorithm, rotate: u64, ring: Ring, changed: bool) -> Self {
        let (ring, changed) = (ArcSwap::from_pointee(ring), AtomicBool::new(changed));
        Self { algorithm, rotate, ring, turning: Mutex::new(()), changed }
    }

    /// The keys at `now`.
    pub(crate) fn ring(&self, now: u64) -> Arc<Ring> {
        let ring = self.ring.load_full();
        if now < ring.turns_at { ring } else { self.turn(now) }
    }

    /// The public keys, as a JWK Set (RFC 7517): the current one first.
    pub(crate) fn published(&self, now: u64) -> Value {
        let ring = self.ring(now);
        let retired = ring.retired.iter().filter(|(_, until)| *until > now).map(|(jwk, _)| jwk.clone());
        let keys: Vec<_> = [&ring.current, &ring.next].map(|key| key.jwk.clone()).into_iter().chain(retired).collect();
        json!({ "keys": keys })
    }

    /// Whether something changed since the last call, and is to be kept.
    pub(crate) fn take_changed(&self) -> bool {
        self.changed.swap(false, Ordering::AcqRel)
    }

    /// Says that what changed could not be kept.
    pub(crate) fn not_kept(&self) {
        self.changed.store(true, Ordering::Release);
    }

    fn turn(&self, now: u64) -> Arc<Ring> {
        let _turning = self.turning.lock();
        let old = self.ring.load_full();
        if now < old.turns_at {
            return old;
        }
        let Ok(next) = SigningKey::generate(self.algorithm) else {
            // The old ones are as good as before; the next request tries again.
            tracing::error!("no new key for identity tokens can be made: the old one stays in use");
            return old;
        };
        let mut retired: Vec<_> = old.retired.iter().filter(|(_, until)| *until > now).cloned().collect();
        retired.push((old.current.jwk.clone(), now.saturating_add(self.rotate)));
        let ring = Arc::new(Ring {
            current: Arc::clone(&old.next),
            next: Arc::new(next),
            retired,
            turns_at: now.saturating_add(self.rotate),
        });
        tracing::info!(kid = ring.current.kid(), "another key signs identity tokens");
        self.ring.store(Arc::clone(&ring));
        self.changed.store(true, Ordering::Release);
        ring
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    const NOW: u64 = 1_800_000_000;
    const DAY: u64 = 86_400;

    fn kids(keys: &Keys, now: u64) -> Vec<String> {
        let published = keys.published(now);
        published["keys"].as_array().unwrap().iter().map(|key| key["kid"].as_str().unwrap().to_owned()).collect()
    }

    fn keys(algorithm: IdentityAlgorithm) -> Keys {
        Keys::new(algorithm, DAY, Ring::generate(algorithm, NOW + DAY).unwrap(), false)
    }

    #[test]
    fn every_key_is_published_a_period_before_its_first_use_and_a_period_after_its_last() {
        let keys = keys(IdentityAlgorithm::ES256);
        let at = |day: u64| (keys.ring(NOW + day * DAY).current.kid().to_owned(), kids(&keys, NOW + day * DAY));
        let (first, published) = at(0);
        assert_eq!((published.len(), published[0] == first), (2, true));
        let mut before = (first, published);
        for day in 1..6 {
            let (current, published) = at(day);
            assert_eq!(before.1[1], current, "it was published as the next one");
            assert!(published.contains(&before.0), "the last one still is");
            assert_eq!(published.len(), 3, "and none before that");
            before = (current, published);
        }
        assert_eq!(kids(&keys, NOW + 6 * DAY - 1), before.1, "between changes nothing changes");
    }

    #[test]
    fn a_gateway_that_slept_makes_one_change_and_many_requests_at_once_make_one() {
        let keys = keys(IdentityAlgorithm::EdDSA);
        let published = kids(&keys, NOW);
        let later = NOW + 10 * DAY;
        let seen: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(|| keys.ring(later).current.kid().to_owned())).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(seen.iter().all(|kid| *kid == published[1]), "{seen:?}");
        assert!(keys.take_changed());
        assert!(!keys.take_changed());
    }

    #[test]
    fn a_key_that_was_kept_is_the_same_key() {
        for algorithm in [IdentityAlgorithm::ES256, IdentityAlgorithm::EdDSA] {
            let key = SigningKey::generate(algorithm).unwrap();
            let kept = SigningKey::from_pkcs8(algorithm, &key.to_pkcs8().unwrap()).unwrap();
            assert_eq!((kept.kid(), &kept.jwk), (key.kid(), &key.jwk));
            assert!(SigningKey::from_pkcs8(algorithm, b"nonsense").is_err());
            assert!(!format!("{key:?}").contains("pair"));
        }
    }

    #[test]
    fn keys_of_another_algorithm_take_over_and_the_old_stay_published() {
        let old = Ring::generate(IdentityAlgorithm::ES256, NOW + DAY).unwrap();
        let mut new = Ring::generate(IdentityAlgorithm::EdDSA, NOW + DAY).unwrap();
        new.publish_too(&old, NOW + DAY, NOW);
        new.publish_too(&old, NOW + DAY, NOW);
        let keys = Keys::new(IdentityAlgorithm::EdDSA, DAY, new, true);
        let published = kids(&keys, NOW);
        assert_eq!(published.len(), 4);
        assert!(published.contains(&old.current.kid().to_owned()));
        assert_eq!(kids(&keys, NOW + DAY).len(), 3, "until their time is over");
    }
}
