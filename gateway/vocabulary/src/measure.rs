//! Quantities as configuration writes them: always with a unit, never a bare number.
//!
//! [`Span`] is a length of time (`250ms`, `5s`, `1m30s`, `2h`, `1d`), [`ByteSize`] a number of bytes (`64KiB`, `16MiB`,
//! `512B`; powers of two only, since memory is what they bound). Both refuse zero-unit and overflowing values, and write
//! themselves back in the form they would be read.

use std::fmt;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

/// A length of time from configuration. At most 365 days, so that arithmetic on it cannot overflow.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Span(Duration);

impl Span {
    /// From whole milliseconds, for defaults in code.
    pub const fn millis(n: u64) -> Self {
        Self(Duration::from_millis(n))
    }

    /// From whole seconds, for defaults in code.
    pub const fn secs(n: u64) -> Self {
        Self(Duration::from_secs(n))
    }

    /// As the standard library's type.
    pub const fn get(self) -> Duration {
        self.0
    }

    /// Whether it is no time at all.
    pub const fn is_zero(self) -> bool {
        self.0.is_zero()
    }

    /// Parses `1m30s` and its like: one or more whole numbers, each followed by its unit, largest first or not.
    pub fn parse(text: &str) -> Result<Self, BadMeasure> {
        let bad = || BadMeasure::new("duration", text, "such as 250ms, 5s, 1m30s, 2h or 1d");
        let mut rest = text.trim();
        if rest.is_empty() {
            return Err(bad());
        }
        let mut total = Duration::ZERO;
        while !rest.is_empty() {
            let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
            let number: u64 = rest[..digits].parse().map_err(|_| bad())?;
            rest = &rest[digits..];
            let letters = rest.bytes().take_while(u8::is_ascii_alphabetic).count();
            let nanos_per_unit: u64 = match &rest[..letters] {
                "us" => 1_000,
                "ms" => 1_000_000,
                "s" => 1_000_000_000,
                "m" | "min" => 60_000_000_000,
                "h" => 3_600_000_000_000,
                "d" => 86_400_000_000_000,
                _ => return Err(bad()),
            };
            rest = &rest[letters..];
            let nanos = number.checked_mul(nanos_per_unit).ok_or_else(bad)?;
            total = total.checked_add(Duration::from_nanos(nanos)).ok_or_else(bad)?;
        }
        if total > Duration::from_secs(365 * 86_400) {
            return Err(BadMeasure::new("duration", text, "of at most 365d"));
        }
        Ok(Self(total))
    }
}

impl From<Span> for Duration {
    fn from(span: Span) -> Duration {
        span.0
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nanos = self.0.as_nanos();
        const UNITS: [(u128, &str); 6] = [
            (86_400_000_000_000, "d"),
            (3_600_000_000_000, "h"),
            (60_000_000_000, "m"),
            (1_000_000_000, "s"),
            (1_000_000, "ms"),
            (1_000, "us"),
        ];
        if nanos == 0 {
            return f.write_str("0s");
        }
        let mut left = nanos;
        for (size, unit) in UNITS {
            if left >= size {
                write!(f, "{}{unit}", left / size)?;
                left %= size;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A number of bytes from configuration.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteSize(u64);

impl ByteSize {
    /// From bytes, for defaults in code.
    pub const fn bytes(n: u64) -> Self {
        Self(n)
    }

    /// From KiB, for defaults in code.
    pub const fn kib(n: u64) -> Self {
        Self(n * 1024)
    }

    /// From MiB, for defaults in code.
    pub const fn mib(n: u64) -> Self {
        Self(n * 1024 * 1024)
    }

    /// The number of bytes.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The number of bytes, for what lives in memory.
    pub fn as_usize(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }

    /// Parses `64KiB` and its like.
    pub fn parse(text: &str) -> Result<Self, BadMeasure> {
        let bad = || BadMeasure::new("size", text, "such as 512B, 64KiB, 16MiB or 2GiB");
        let text_trimmed = text.trim();
        let digits = text_trimmed.bytes().take_while(u8::is_ascii_digit).count();
        let number: u64 = text_trimmed[..digits].parse().map_err(|_| bad())?;
        let shift = match &text_trimmed[digits..] {
            "B" => 0,
            "KiB" => 10,
            "MiB" => 20,
            "GiB" => 30,
            "TiB" => 40,
            _ => return Err(bad()),
        };
        number.checked_mul(1 << shift).map(Self).ok_or_else(bad)
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (shift, unit) in [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")] {
            if self.0 != 0 && self.0.is_multiple_of(1 << shift) {
                return write!(f, "{}{unit}", self.0 >> shift);
            }
        }
        write!(f, "{}B", self.0)
    }
}

impl fmt::Debug for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A text that is not a quantity of its kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{found:?} is not a {kind}: expected one {expected}")]
pub struct BadMeasure {
    kind: &'static str,
    found: String,
    expected: &'static str,
}

impl BadMeasure {
    fn new(kind: &'static str, found: &str, expected: &'static str) -> Self {
        Self { kind, found: found.chars().take(64).collect(), expected }
    }
}

macro_rules! serde_as_text {
    ($type:ident, $pattern:literal, $examples:expr) => {
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
                Self::parse(&text).map_err(D::Error::custom)
            }
        }

        impl JsonSchema for $type {
            fn inline_schema() -> bool {
                false
            }
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($type).into()
            }
            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!({ "type": "string", "pattern": $pattern, "examples": $examples })
            }
        }
    };
}

serde_as_text!(Span, r"^\s*([0-9]+(us|ms|s|m|min|h|d))+\s*$", ["250ms", "5s", "1m30s"]);
serde_as_text!(ByteSize, r"^\s*[0-9]+(B|KiB|MiB|GiB|TiB)\s*$", ["64KiB", "16MiB"]);

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn a_span_needs_its_unit() {
        assert_eq!(Span::parse("1m30s").unwrap().get(), Duration::from_secs(90));
        assert_eq!(Span::parse("250ms").unwrap(), Span::millis(250));
        for bad in ["", "5", "s", "5 s", "-1s", "1.5s", "5x", "99999999999999999999s", "400d", "１s"] {
            assert!(Span::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_size_needs_its_unit() {
        assert_eq!(ByteSize::parse("16MiB").unwrap(), ByteSize::mib(16));
        for bad in ["", "16", "16M", "16MB", "-1B", "1.5KiB", "99999999999TiB"] {
            assert!(ByteSize::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn what_is_written_reads_back_the_same() {
        for text in ["1d", "1m30s", "250ms", "0s", "7us"] {
            assert_eq!(Span::parse(text).unwrap().to_string(), text);
        }
        for text in ["1TiB", "3KiB", "1000B", "0B"] {
            assert_eq!(ByteSize::parse(text).unwrap().to_string(), text);
        }
    }
}
