//! Patterns of paths.

use std::fmt;

use sluice_vocabulary::{Fault, Faults, Path};

/// More segments than any sensible path has; bounds the depth of a walk.
const MOST_SEGMENTS: usize = 64;

/// What paths a route is for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum PathPattern {
    /// Exactly this.
    Exact(Box<str>),
    /// As many segments as these, each as it says.
    Template(Box<[Segment]>),
    /// These segments, and whatever follows them.
    Prefix(Box<[Segment]>),
    /// Any path, also the `*` of OPTIONS.
    Any,
}

/// A segment of a pattern: what stands between two slashes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Segment {
    /// Exactly this; empty only as the last one, for a trailing slash.
    Literal(Box<str>),
    /// Anything but nothing, under this name.
    Capture(Box<str>),
}

/// Where a pattern stands in the order of precedence: the lesser goes first.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum PathRank {
    Exact,
    Template(Vec<SegmentRank>),
    Prefix(Vec<SegmentRank>),
    Any,
}

/// A segment's place in that order. The end of a pattern comes last, so that of two prefixes the longer goes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum SegmentRank {
    Literal,
    Capture,
    End,
}

impl PathPattern {
    pub(crate) fn compile(text: &str, at: &Path, faults: &mut Faults) -> Option<Self> {
        let before = faults.iter().count();
        let Some(inner) = text.strip_prefix('/') else {
            faults.push(
                Fault::error(at, format!("path {text:?} does not begin with a slash"))
                    .help(format!("write \"/{text}\"")),
            );
            return None;
        };
        let (inner, prefix) = match inner.strip_suffix('*') {
            Some(front) if front.is_empty() || front.ends_with('/') => (front.strip_suffix('/').unwrap_or(front), true),
            _ => (inner, false),
        };
        // `/*` has no segment before its star, while `/` has one: the empty one.
        let texts: Vec<&str> = if prefix && inner.is_empty() { Vec::new() } else { inner.split('/').collect() };
        if texts.len() > MOST_SEGMENTS {
            faults.error(at, format!("path has {} segments: expected at most {MOST_SEGMENTS}", texts.len()));
        }
        let last = texts.len().saturating_sub(1);
        let mut segments = Vec::with_capacity(texts.len());
        for (position, segment) in texts.iter().enumerate() {
            let may_be_empty = position == last && !prefix;
            match Segment::compile(segment, may_be_empty) {
                Ok(Segment::Capture(name)) if captures(&segments).any(|other| *other == *name) => {
                    faults.error(at, format!("path {text:?} has two captures called {name:?}"));
                }
                Ok(segment) => segments.push(segment),
                Err(wrong) => faults.error(at, format!("path {text:?} {wrong}")),
            }
        }
        if faults.iter().count() > before {
            return None;
        }
        Some(if prefix {
            Self::Prefix(segments.into())
        } else if captures(&segments).next().is_some() {
            Self::Template(segments.into())
        } else {
            Self::Exact(text.into())
        })
    }

    pub(crate) fn rank(&self) -> PathRank {
        let ranks = |segments: &[Segment]| {
            let rank = |segment: &Segment| match segment {
                Segment::Literal(_) => SegmentRank::Literal,
                Segment::Capture(_) => SegmentRank::Capture,
            };
            segments.iter().map(rank).chain([SegmentRank::End]).collect()
        };
        match self {
            Self::Exact(_) => PathRank::Exact,
            Self::Template(segments) => PathRank::Template(ranks(segments)),
            Self::Prefix(segments) => PathRank::Prefix(ranks(segments)),
            Self::Any => PathRank::Any,
        }
    }

    /// The segments, where the pattern has any that matter one by one.
    pub(crate) fn segments(&self) -> &[Segment] {
        match self {
            Self::Template(segments) | Self::Prefix(segments) => segments,
            Self::Exact(_) | Self::Any => &[],
        }
    }

    /// The names of the captures, from the left.
    pub(crate) fn capture_names(&self) -> impl Iterator<Item = &str> {
        captures(self.segments())
    }

    /// Whether a normalised path is meant.
    pub(crate) fn is_for(&self, path: &str) -> bool {
        match self {
            Self::Exact(text) => **text == *path,
            Self::Any => true,
            Self::Template(_) | Self::Prefix(_) => self.walk(path, |_| {}).is_some(),
        }
    }

    /// Goes along a path by the pattern's segments and hands out where each capture stands, from the left. Yields where
    /// the part begins that `*` stands for (with its slash, or at the path's end), or `None` where the path is not meant.
    pub(crate) fn walk(&self, path: &str, mut captured: impl FnMut(std::ops::Range<usize>)) -> Option<usize> {
        let (segments, prefix) = match self {
            Self::Template(segments) => (segments, false),
            Self::Prefix(segments) => (segments, true),
            Self::Exact(_) | Self::Any => return Some(path.len()),
        };
        if !path.starts_with('/') {
            return None;
        }
        // Always at a slash or at the path's end.
        let mut position = 0;
        for segment in segments {
            let start = position + 1;
            let rest = path.get(start..)?;
            let end = memchr::memchr(b'/', rest.as_bytes()).map_or(path.len(), |length| start + length);
            match segment {
                Segment::Literal(text) if **text == path[start..end] => {}
                Segment::Capture(_) if end > start => captured(start..end),
                Segment::Literal(_) | Segment::Capture(_) => return None,
            }
            position = end;
        }
        (prefix || position == path.len()).then_some(position)
    }
}

fn captures(segments: &[Segment]) -> impl Iterator<Item = &str> {
    segments.iter().filter_map(|segment| match segment {
        Segment::Capture(name) => Some(&**name),
        Segment::Literal(_) => None,
    })
}

impl Segment {
    /// The error is the rest of a sentence that begins with the path.
    fn compile(text: &str, may_be_empty: bool) -> Result<Self, String> {
        if let Some(name) = text.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')) {
            return if is_capture_name(name) {
                Ok(Self::Capture(name.into()))
            } else {
                Err(format!("has a capture called {name:?}: expected 1 to 64 letters, digits and underscores"))
            };
        }
        match text {
            "" if may_be_empty => Ok(Self::Literal("".into())),
            "" => Err("has an empty segment".into()),
            "." | ".." => Err("has a dot segment, which no normalised path has".into()),
            _ => literal_fault(text).map_or_else(|| Ok(Self::Literal(text.into())), Err),
        }
    }
}

/// Letters, digits and underscores; short, since it is looked up by eye.
pub(crate) fn is_capture_name(name: &str) -> bool {
    (1..=64).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

/// What keeps a literal piece of a path from ever being met in a normalised one, as the rest of a sentence.
pub(crate) fn literal_fault(text: &str) -> Option<String> {
    if let Some(odd) = text.chars().find(|&c| matches!(c, '{' | '}' | '*')) {
        return Some(format!(
            "has {odd:?} within a segment: a capture or star must be a whole segment, the star the last"
        ));
    }
    if let Some(odd) = text
        .chars()
        .find(|&c| !c.is_ascii_graphic() || matches!(c, '?' | '#' | '"' | '<' | '>' | '\\' | '^' | '`' | '|'))
    {
        return Some(format!("has {odd:?}, which is percent-encoded in a path"));
    }
    let mut rest = text;
    while let Some((_, after)) = rest.split_once('%') {
        let Some(hex) = after.get(..2).filter(|hex| hex.bytes().all(|b| b.is_ascii_hexdigit())) else {
            return Some("has a % that is not followed by two hexadecimal digits".into());
        };
        if hex.bytes().any(|b| b.is_ascii_lowercase()) {
            return Some(format!("has %{hex}, which is normalised to upper case"));
        }
        if let Ok(byte) = u8::from_str_radix(hex, 16)
            && (byte.is_ascii_alphanumeric() || b"-._~".contains(&byte))
        {
            return Some(format!("has %{hex}, which is normalised to {:?}", char::from(byte)));
        }
        rest = &after[2..];
    }
    None
}

impl fmt::Display for PathPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(text) => return f.write_str(text),
            Self::Any => return f.write_str("any"),
            Self::Template(_) | Self::Prefix(_) => {}
        }
        for segment in self.segments() {
            match segment {
                Segment::Literal(text) => write!(f, "/{text}")?,
                Segment::Capture(name) => write!(f, "/{{{name}}}")?,
            }
        }
        if matches!(self, Self::Prefix(_)) { f.write_str("/*") } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn compiled(text: &str) -> Option<PathPattern> {
        let mut faults = Faults::new();
        let pattern = PathPattern::compile(text, &Path::root(), &mut faults);
        assert_eq!(pattern.is_none(), faults.has_errors(), "{text:?}");
        pattern
    }

    #[test]
    fn a_prefix_ends_at_a_slash_and_has_itself() {
        let pattern = compiled("/orders/*").unwrap();
        for below in ["/orders", "/orders/", "/orders/1", "/orders/1/items"] {
            assert!(pattern.is_for(below), "{below}");
        }
        for other in ["/", "/order", "/ordersX", "/x/orders", "*", ""] {
            assert!(!pattern.is_for(other), "{other}");
        }
        assert!(compiled("/*").unwrap().is_for("/") && !compiled("/*").unwrap().is_for("*"));
    }

    #[test]
    fn a_capture_is_one_whole_segment_and_never_empty() {
        let pattern = compiled("/orders/{id}/items/{item}").unwrap();
        let mut captured = Vec::new();
        assert!(pattern.walk("/orders/17/items/a%2Fb", |range| captured.push(range)).is_some());
        assert_eq!(captured, [8..10, 17..22]);
        for other in ["/orders//items/2", "/orders/1/items", "/orders/1/items/2/", "/orders/1/items/2/3"] {
            assert!(!pattern.is_for(other), "{other}");
        }
    }

    #[test]
    fn a_trailing_slash_matters() {
        assert!(!compiled("/a").unwrap().is_for("/a/") && !compiled("/a/").unwrap().is_for("/a"));
        assert!(compiled("/{x}/").unwrap().is_for("/a/") && !compiled("/{x}/").unwrap().is_for("/a"));
        assert!(compiled("/").unwrap().is_for("/"));
    }

    #[test]
    fn what_no_normalised_path_can_be_is_a_fault() {
        for bad in [
            "", "orders", "//", "/a//b", "/a//*", "/./a", "/a/..", "/a*", "/*/a", "/a/{", "/a/}b", "/{}", "/{a b}",
            "/{a}/{a}", "/x{a}", "/a?b", "/a#b", "/a b", "/ä", "/%", "/%2", "/%zz", "/%2f", "/%41", "/a\\b",
        ] {
            assert!(compiled(bad).is_none(), "{bad:?}");
        }
        for good in ["/", "/*", "/a%2Fb", "/{a}", "/{a}/*", "/a/", "/a:b@c,d;e=f", "/~x"] {
            assert_eq!(compiled(good).unwrap().to_string(), good);
        }
        assert!(compiled(&"/a".repeat(65)).is_none());
    }

    #[test]
    fn patterns_stand_in_the_documented_order() {
        let texts = ["/a/b", "/a/{x}", "/{x}/b", "/{x}/{y}", "/a/b/*", "/a/{x}/*", "/a/*", "/{x}/b/*", "/{x}/*", "/*"];
        let ranks = texts.map(|text| compiled(text).unwrap().rank());
        assert!(ranks.is_sorted() && ranks.last() < Some(&PathRank::Any), "{ranks:?}");
    }
}
