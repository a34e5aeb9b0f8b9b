//! How long an endpoint keeps a connection that nobody uses, as far as it can be known without asking the kernel.
//!
//! When both ends close an idle connection at about the same moment, the next request on it is lost: the gateway has
//! written it before the upstream's close arrives. The cure is to be the first to close. An upstream that says
//! `Keep-Alive: timeout=5` (RFC 2068 19.7.1.1, still sent by Node, Apache and nginx) is believed, less a margin for
//! the time that its close takes to arrive: 500 ms, a tenth of the hint, and two round trips, whichever sum that makes.
//!
//! A pooled connection's limit is fixed when it is pooled, so a limit that becomes shorter also begins a new [`generation`]
//! of connections: what lies in the pool under an older one is not taken out again.
//!
//! [`generation`]: Learned::generation

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use http::{HeaderMap, HeaderValue};

use crate::config::IdleTimeout;

/// As long as `auto` ever keeps a connection; below the 75 s of nginx and the 60 s of most balancers' own limits.
const LONGEST: Duration = Duration::from_secs(60);

/// What was learned of one endpoint.
#[derive(Debug, Default)]
pub(crate) struct Learned {
    /// The hint in milliseconds, plus one; 0 for none.
    hint: AtomicU64,
    /// Changes with each limit that is shorter than the one before.
    generation: AtomicU32,
    /// How long the last connection that closed while pooled had been unused, in milliseconds plus one; 0 for none.
    last_idle_close: AtomicU64,
}

impl Learned {
    /// Takes in what a response says. Costs one look-up when it says nothing, one comparison when it says nothing new.
    pub(crate) fn read(&self, headers: &HeaderMap) {
        let Some(seconds) = headers.get("keep-alive").and_then(parse) else { return };
        let hint = seconds * 1_000 + 1;
        let before = self.hint.load(Ordering::Relaxed);
        if hint == before {
            return;
        }
        self.hint.store(hint, Ordering::Relaxed);
        let longest = u64::try_from(LONGEST.as_millis()).unwrap_or(u64::MAX);
        if hint < if before == 0 { longest } else { before } {
            self.generation.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(crate) fn saw_idle_close(&self, after: Duration) {
        let millis = u64::try_from(after.as_millis()).unwrap_or(u64::MAX - 1);
        self.last_idle_close.store(millis + 1, Ordering::Relaxed);
    }

    /// The upstream's own word.
    pub(crate) fn hint(&self) -> Option<Duration> {
        self.hint.load(Ordering::Relaxed).checked_sub(1).map(Duration::from_millis)
    }

    /// Evidence that is shown, not yet acted on: a close by either end.
    pub(crate) fn last_idle_close(&self) -> Option<Duration> {
        self.last_idle_close.load(Ordering::Relaxed).checked_sub(1).map(Duration::from_millis)
    }

    /// Which connections may still be taken from the pool: those of this generation.
    pub(crate) fn generation(&self) -> u32 {
        self.generation.load(Ordering::Relaxed)
    }

    /// How long a connection may lie unused now. Zero means that it is not kept.
    pub(crate) fn idle_timeout(&self, configured: IdleTimeout, round_trip: Option<Duration>) -> Duration {
        match (configured, self.hint()) {
            (IdleTimeout::Fixed(span), _) => span.get(),
            (IdleTimeout::Auto, None) => LONGEST,
            (IdleTimeout::Auto, Some(hint)) => {
                let margin = Duration::from_millis(500) + hint / 10 + round_trip.unwrap_or_default() * 2;
                hint.saturating_sub(margin).min(LONGEST)
            }
        }
    }
}

/// The whole seconds of `timeout=N` among the parameters; a value that is no number, or beyond a day, is no hint.
fn parse(value: &HeaderValue) -> Option<u64> {
    let text = value.to_str().ok()?;
    text.split(',').find_map(|parameter| {
        let (name, value) = parameter.split_once('=')?;
        if !name.trim().eq_ignore_ascii_case("timeout") {
            return None;
        }
        let digits = value.trim().trim_matches('"');
        let plain = !digits.is_empty() && digits.len() <= 5 && digits.bytes().all(|b| b.is_ascii_digit());
        if plain { digits.parse().ok().filter(|seconds| *seconds <= 86_400) } else { None }
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use sluice_vocabulary::measure::Span;

    fn says(learned: &Learned, value: &str) {
        let mut headers = HeaderMap::new();
        headers.insert("keep-alive", HeaderValue::from_str(value).unwrap());
        learned.read(&headers);
    }

    #[test]
    fn the_hint_is_believed_less_a_margin() {
        let learned = Learned::default();
        assert_eq!(learned.idle_timeout(IdleTimeout::Auto, None), Duration::from_secs(60));
        says(&learned, "timeout=5, max=100");
        assert_eq!(learned.idle_timeout(IdleTimeout::Auto, None), Duration::from_secs(4));
        let far = Some(Duration::from_millis(100));
        assert_eq!(learned.idle_timeout(IdleTimeout::Auto, far), Duration::from_millis(3_800));
        assert_eq!(learned.idle_timeout(IdleTimeout::Fixed(Span::secs(9)), far), Duration::from_secs(9));
        says(&learned, "timeout=0");
        assert_eq!(learned.idle_timeout(IdleTimeout::Auto, None), Duration::ZERO);
        says(&learned, "timeout=3600");
        assert_eq!(learned.idle_timeout(IdleTimeout::Auto, None), Duration::from_secs(60));
    }

    #[test]
    fn only_a_shorter_limit_gives_up_what_is_pooled() {
        let learned = Learned::default();
        says(&learned, "timeout=75");
        assert_eq!(learned.generation(), 0, "longer than what is kept anyhow");
        says(&learned, "timeout=5");
        says(&learned, "timeout=5");
        assert_eq!(learned.generation(), 1);
        says(&learned, "timeout=20");
        assert_eq!(learned.generation(), 1);
        says(&learned, "timeout=2");
        assert_eq!(learned.generation(), 2);
    }

    #[test]
    fn what_is_no_number_of_seconds_is_no_hint() {
        for bad in [
            "",
            "timeout",
            "timeout=",
            "timeout=-1",
            "timeout=+5",
            "timeout=5s",
            "timeout=99999",
            "timeout=1e3",
            "max=5",
            "xtimeout=5",
        ] {
            let learned = Learned::default();
            says(&learned, bad);
            assert_eq!(learned.hint(), None, "{bad:?}");
        }
        for good in ["timeout=5", "Timeout = 5", "max=1,TIMEOUT=5", "timeout=\"5\""] {
            let learned = Learned::default();
            says(&learned, good);
            assert_eq!(learned.hint(), Some(Duration::from_secs(5)), "{good:?}");
        }
    }
}
