//! Patterns of hosts.

use std::cmp::Reverse;
use std::fmt;

use sluice_vocabulary::{Faults, Path};

/// What hosts a route is for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum HostPattern {
    /// Exactly this.
    Exact(Box<str>),
    /// Everything below this suffix, which is held without the `*.`.
    Below(Box<str>),
    /// Any host, also none.
    Any,
}

/// Where a pattern stands in the order of precedence: the lesser goes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum HostRank {
    Exact,
    Below { labels: Reverse<usize> },
    Any,
}

impl HostPattern {
    pub(crate) fn compile(text: &str, at: &Path, faults: &mut Faults) -> Option<Self> {
        let lower = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
        if lower == "*" {
            return Some(Self::Any);
        }
        let (below, name) = match lower.strip_prefix("*.") {
            Some(suffix) => (true, suffix),
            None => (false, lower.as_str()),
        };
        if let Some(wrong) = what_is_wrong(name, below) {
            faults.error(at, format!("host {text:?} {wrong}"));
            return None;
        }
        Some(if below { Self::Below(name.into()) } else { Self::Exact(name.into()) })
    }

    /// Whether a host (lower case, no port, no trailing dot) is meant.
    pub(crate) fn is_for(&self, host: &str) -> bool {
        match self {
            Self::Exact(name) => **name == *host,
            Self::Below(suffix) => {
                host.strip_suffix(&**suffix).is_some_and(|front| front.len() > 1 && front.ends_with('.'))
            }
            Self::Any => true,
        }
    }

    pub(crate) fn rank(&self) -> HostRank {
        match self {
            Self::Exact(_) => HostRank::Exact,
            Self::Below(suffix) => HostRank::Below { labels: Reverse(labels(suffix)) },
            Self::Any => HostRank::Any,
        }
    }
}

/// How many labels a name has.
pub(crate) fn labels(name: &str) -> usize {
    name.bytes().filter(|&byte| byte == b'.').count() + 1
}

/// What keeps a lower-case name from being a host, as the rest of a sentence.
fn what_is_wrong(name: &str, below: bool) -> Option<&'static str> {
    if let Some(inner) = name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        let address = inner.parse::<std::net::Ipv6Addr>();
        return (below || address.is_err()).then_some("is not an IPv6 address in brackets");
    }
    if name.is_empty() || name.len() > 253 {
        return Some("is not a host: expected 1 to 253 characters");
    }
    if name.contains(':') {
        return Some("names a port or scheme: expected a host alone");
    }
    if !name.is_ascii() {
        return Some("has letters beyond ASCII: expected punycode (xn--…)");
    }
    if name.contains('*') {
        return Some("has a wildcard that is not its first label: expected the form *.example.com");
    }
    let well_formed = name.split('.').all(|label| {
        (1..=63).contains(&label.len()) && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    });
    (!well_formed).then_some("is not a host: expected labels of 1 to 63 letters, digits and hyphens between dots")
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(name) => f.write_str(name),
            Self::Below(suffix) => write!(f, "*.{suffix}"),
            Self::Any => f.write_str("*"),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn compiled(text: &str) -> Option<HostPattern> {
        let mut faults = Faults::new();
        let pattern = HostPattern::compile(text, &Path::root(), &mut faults);
        assert_eq!(pattern.is_none(), faults.has_errors(), "{text:?}");
        pattern
    }

    #[test]
    fn a_wildcard_is_for_every_depth_below_and_not_for_the_name_itself() {
        let pattern = compiled("*.Example.com").unwrap();
        for below in ["a.example.com", "a.b.example.com"] {
            assert!(pattern.is_for(below), "{below}");
        }
        for other in ["example.com", ".example.com", "badexample.com", "a.example.org", ""] {
            assert!(!pattern.is_for(other), "{other}");
        }
    }

    #[test]
    fn what_is_not_a_host_is_a_fault() {
        for bad in
            ["", "a..b", "*.*.b", "a*.b", "*", "a:80", "https://a", "bücher.example", "a b", "[::1", "*.[::1]", "a/b"]
        {
            assert!(compiled(bad).is_none() || bad == "*", "{bad:?}");
        }
        for good in ["a", "localhost.", "10.0.0.1", "[::1]", "xn--bcher-kva.example", "my_host"] {
            assert!(compiled(good).is_some(), "{good:?}");
        }
    }

    #[test]
    fn exact_goes_before_longer_before_shorter_before_any() {
        let ranks = ["a.b.c", "*.b.c", "*.c", "*"].map(|text| compiled(text).unwrap().rank());
        assert!(ranks.is_sorted());
    }
}
