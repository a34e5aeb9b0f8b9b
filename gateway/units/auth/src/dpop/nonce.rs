//! Nonces that a server hands out (RFC 9449 section 9), without remembering one.
//!
//! Time is cut into steps. A nonce is the number of its step and a MAC over it: HMAC-SHA-256, cut to 16 bytes, under a
//! key of this process that is made anew every 32 steps and never leaves it. Good are the nonces of the present step and
//! of the one before. They are the same for all clients, which RFC 9449 allows: a nonce says when a proof was made, and
//! the proof's own `jti` makes it one of its kind.

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::hmac;
use aws_lc_rs::rand::{SecureRandom as _, SystemRandom};
use http::HeaderValue;
use parking_lot::RwLock;

use crate::base64url;

/// Steps that one key signs.
const STEPS_OF_A_KEY: u64 = 32;

const TAG: usize = 16;
const LENGTH: usize = 8 + TAG;

/// How old a nonce is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Age {
    /// Of the present step.
    Current,
    /// Of the step before: good, and soon not.
    Previous,
    /// Not good: too old, or never ours.
    Foreign,
}

/// The nonces of this process.
#[derive(Debug)]
pub(crate) struct Nonces {
    /// A step's length in seconds.
    step: u64,
    keys: RwLock<Keys>,
}

/// The key of an epoch of 32 steps, and the one before it. None where chance could not be had.
#[derive(Debug, Default)]
struct Keys {
    epoch: u64,
    current: Option<hmac::Key>,
    previous: Option<hmac::Key>,
}

impl Nonces {
    /// Nonces that are good for `step` seconds at the least and twice that at the most.
    pub(crate) fn new(step: u64) -> Self {
        Self { step: step.max(1), keys: RwLock::default() }
    }

    pub(crate) fn step(&self) -> u64 {
        self.step
    }

    /// The nonce of the present step; none where there is no key to make it with.
    pub(crate) fn issue(&self, now: u64) -> Option<HeaderValue> {
        let step = now / self.step;
        let mut nonce = [0; LENGTH];
        nonce[..8].copy_from_slice(&step.to_be_bytes());
        nonce[8..].copy_from_slice(&self.tag(step, step)?);
        HeaderValue::try_from(base64url::encode(&nonce)).ok()
    }

    /// Judges a nonce that a client sent.
    pub(crate) fn judge(&self, nonce: &str, now: u64) -> Age {
        let mut bytes = [0; LENGTH];
        // Its length first: the decoder wants to know before it writes.
        if nonce.len() != LENGTH / 3 * 4 || base64url::decode_slice(nonce.as_bytes(), &mut bytes).is_err() {
            return Age::Foreign;
        }
        let (number, tag) = bytes.split_at(8);
        let present = now / self.step;
        let (step, age) = if number == present.to_be_bytes() {
            (present, Age::Current)
        } else if present > 0 && number == (present - 1).to_be_bytes() {
            (present - 1, Age::Previous)
        } else {
            return Age::Foreign;
        };
        match self.tag(step, present) {
            Some(ours) if verify_slices_are_equal(&ours, tag).is_ok() => age,
            _ => Age::Foreign,
        }
    }

    /// The MAC over `step`, which is `present` or the one before.
    fn tag(&self, step: u64, present: u64) -> Option<[u8; TAG]> {
        let epoch = present / STEPS_OF_A_KEY;
        let mut keys = self.keys.read();
        if !keys.reach(epoch) {
            drop(keys);
            self.keys.write().turn_to(epoch);
            keys = self.keys.read();
        }
        let key = match step / STEPS_OF_A_KEY {
            own if own == keys.epoch => keys.current.as_ref(),
            own if own + 1 == keys.epoch => keys.previous.as_ref(),
            _ => None,
        }?;
        let mut tag = [0; TAG];
        tag.copy_from_slice(hmac::sign(key, &step.to_be_bytes()).as_ref().get(..TAG)?);
        Some(tag)
    }
}

impl Keys {
    /// Whether the key of `epoch` is here.
    fn reach(&self, epoch: u64) -> bool {
        (self.epoch == epoch && self.current.is_some()) || (self.epoch == epoch + 1 && self.previous.is_some())
    }

    /// Makes the key of `epoch`, unless another request has. The one before is kept where it is that of the epoch before.
    fn turn_to(&mut self, epoch: u64) {
        if self.reach(epoch) {
            return;
        }
        if self.epoch == epoch + 1 && self.current.is_some() {
            // A request that read the clock before the turn, and comes after it: others have nonces of the new key.
            self.previous = new_key();
            return;
        }
        let follows = self.epoch + 1 == epoch;
        self.previous = if follows { self.current.take() } else { None };
        self.epoch = epoch;
        self.current = new_key();
    }
}

fn new_key() -> Option<hmac::Key> {
    let mut bytes = [0; 32];
    SystemRandom::new().fill(&mut bytes).ok()?;
    Some(hmac::Key::new(hmac::HMAC_SHA256, &bytes))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn issue(nonces: &Nonces, now: u64) -> String {
        nonces.issue(now).unwrap().to_str().unwrap().to_owned()
    }

    #[test]
    fn a_nonce_lives_one_step_at_least_and_two_at_most_also_over_a_change_of_keys() {
        // 32 steps of 60 s are 1920 s; the beginnings below lie before, at and after a change of keys.
        for start in [0, 60, 1_799_999_040 - 60, 1_799_999_040, 1_799_999_040 + 1_860] {
            let nonces = Nonces::new(60);
            let nonce = issue(&nonces, start);
            assert_eq!(nonces.judge(&nonce, start + 59), Age::Current, "{start}");
            assert_eq!(nonces.judge(&nonce, start + 60), Age::Previous, "{start}");
            assert_eq!(nonces.judge(&nonce, start + 119), Age::Previous, "{start}");
            assert_eq!(nonces.judge(&nonce, start + 120), Age::Foreign, "{start}");
            assert_ne!(issue(&nonces, start + 120), nonce);
        }
    }

    #[test]
    fn a_key_is_gone_two_changes_later_even_if_time_comes_back() {
        let (nonces, now) = (Nonces::new(60), 1_799_999_040);
        let nonce = issue(&nonces, now);
        issue(&nonces, now + 1920);
        issue(&nonces, now + 2 * 1920);
        assert_eq!(nonces.judge(&nonce, now), Age::Foreign);
        assert_eq!(nonces.judge(&issue(&nonces, now), now), Age::Current, "and new ones are made");
    }

    #[test]
    fn a_request_that_is_late_at_a_turn_takes_no_nonce_from_the_others() {
        let (nonces, turn) = (Nonces::new(60), 1_799_999_040);
        let (before, after) = (issue(&nonces, turn - 1), issue(&nonces, turn));
        assert_eq!(nonces.judge(&before, turn - 1), Age::Current, "for who is late");
        assert_eq!((nonces.judge(&before, turn), nonces.judge(&after, turn)), (Age::Previous, Age::Current));
        // Where nothing was signed before the turn.
        let nonces = Nonces::new(60);
        let after = issue(&nonces, turn);
        assert_eq!(nonces.judge(&issue(&nonces, turn - 1), turn - 1), Age::Current);
        assert_eq!(nonces.judge(&after, turn), Age::Current);
    }

    #[test]
    fn what_is_spoiled_or_of_another_process_is_foreign() {
        let (nonces, now) = (Nonces::new(60), 1_800_000_000);
        let nonce = issue(&nonces, now);
        assert_eq!(Nonces::new(60).judge(&nonce, now), Age::Foreign);
        for place in 0..nonce.len() {
            let mut spoiled = nonce.clone().into_bytes();
            spoiled[place] = if spoiled[place] == b'A' { b'B' } else { b'A' };
            assert_eq!(nonces.judge(std::str::from_utf8(&spoiled).unwrap(), now), Age::Foreign, "{place}");
        }
        for bad in ["", "AAAA", &nonce[1..], &format!("{nonce}A"), &format!("{nonce}="), "\u{e4}"] {
            assert_eq!(nonces.judge(bad, now), Age::Foreign, "{bad}");
        }
    }
}
