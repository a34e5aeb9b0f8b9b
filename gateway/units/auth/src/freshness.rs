//! For how long an answer says that it is good (RFC 9111 section 4.2), as far as a reader of keys needs to know.

use std::time::Duration;

use http::HeaderMap;
use http::header::{AGE, CACHE_CONTROL};

/// What remains of the answer's `max-age` after its `Age`, or `None` where it names none. `no-cache` and `no-store` are
/// no time at all, and so is a number that cannot be read, as section 4.2.1 advises; of several the least counts.
///
/// The caller holds it within bounds of its own: an issuer may not have its keys fetched all the time, nor never.
pub(crate) fn max_age(headers: &HeaderMap) -> Option<Duration> {
    let directives = headers.get_all(CACHE_CONTROL).iter().filter_map(|value| value.to_str().ok());
    let least = directives.flat_map(|value| value.split(',')).filter_map(seconds_of).min()?;
    let age = headers.get(AGE).and_then(|age| age.to_str().ok()).map_or(0, delta_seconds);
    Some(Duration::from_secs(least.saturating_sub(age)))
}

/// The seconds that one directive allows, if it is about that.
fn seconds_of(directive: &str) -> Option<u64> {
    let (name, argument) = match directive.split_once('=') {
        Some((name, argument)) => (name.trim(), argument.trim()),
        None => (directive.trim(), ""),
    };
    if name.eq_ignore_ascii_case("no-cache") || name.eq_ignore_ascii_case("no-store") {
        return Some(0);
    }
    // Both forms of an argument are to be taken (section 5.2).
    let bare = argument.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(argument);
    name.eq_ignore_ascii_case("max-age").then(|| delta_seconds(bare))
}

/// A delta-seconds: digits alone; one too large is as large as section 1.2.2 has it, anything else is 0.
fn delta_seconds(text: &str) -> u64 {
    const LARGEST: u64 = 1 << 31;
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return 0;
    }
    text.parse().map_or(LARGEST, |seconds: u64| seconds.min(LARGEST))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use http::HeaderValue;

    fn of(cache_control: &[&str], age: Option<&str>) -> Option<u64> {
        let mut headers = HeaderMap::new();
        for value in cache_control {
            headers.append(CACHE_CONTROL, HeaderValue::from_str(value).unwrap());
        }
        if let Some(age) = age {
            headers.insert(AGE, HeaderValue::from_str(age).unwrap());
        }
        max_age(&headers).map(|age| age.as_secs())
    }

    #[test]
    fn what_an_answer_says_of_its_freshness_is_read_in_every_form() {
        for (values, expected) in [
            (&[][..], None),
            (&["public"][..], None),
            (&["s-maxage=9, xmax-age=8"][..], None),
            (&["max-age=60"][..], Some(60)),
            (&["public, MAX-AGE = \"60\" , must-revalidate"][..], Some(60)),
            (&["max-age=60", "max-age=30"][..], Some(30)),
            (&["max-age=60, no-cache"][..], Some(0)),
            (&["no-store"][..], Some(0)),
            (&["no-cache=\"set-cookie\""][..], Some(0)),
            (&["max-age"][..], Some(0)),
            (&["max-age=-1"][..], Some(0)),
            (&["max-age=+5"][..], Some(0)),
            (&["max-age=1.5"][..], Some(0)),
            (&["max-age=1e9"][..], Some(0)),
            (&["max-age=99999999999999999999999"][..], Some(1 << 31)),
        ] {
            assert_eq!(of(values, None), expected, "{values:?}");
        }
        assert_eq!(of(&["max-age=60"], Some("20")), Some(40));
        assert_eq!(of(&["max-age=60"], Some("61")), Some(0));
        assert_eq!(of(&["max-age=60"], Some("old")), Some(60));
        assert_eq!(of(&[], Some("20")), None);
    }
}
