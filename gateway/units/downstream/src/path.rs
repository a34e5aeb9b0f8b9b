//! The request target in one form: what is routed, authorised and forwarded is the same bytes.
//!
//! A path has many spellings, and a gateway that authorises one while its upstream serves another is open. So there is
//! one spelling behind this point (RFC 3986 6.2.2): escapes of unreserved characters decoded, others in upper-case
//! hexadecimal, `.` and `..` resolved, runs of `/` merged into one. What has no one spelling is refused: escapes that are
//! none, NUL and control bytes however written, `\` (which some servers take for `/`), an encoded slash unless
//! configured, bytes outside ASCII, and what no target may hold at all. A `..` beyond the root is refused too, rather
//! than dropped as RFC 3986 5.2.4 would: no honest client sends one.
//!
//! A path that is in that form already, as nearly all are, is borrowed and costs one scan.

use std::borrow::Cow;

use crate::config::EncodedSlash;
use crate::head::is_target_byte;

/// A request target in its one form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Normalised<'a> {
    /// The path: begins with `/`, or is `*`.
    pub path: Cow<'a, str>,
    /// The query without its `?`, as sent.
    pub query: Option<&'a str>,
}

impl Normalised<'_> {
    /// Path and query together, as they are forwarded.
    pub fn to_target(&self) -> Cow<'_, str> {
        match self.query {
            None => Cow::Borrowed(&self.path),
            Some(query) => Cow::Owned(format!("{}?{query}", self.path)),
        }
    }

    /// Whether the path differs from the one that was sent, so that the request must be changed before it is forwarded.
    pub fn is_changed(&self) -> bool {
        matches!(self.path, Cow::Owned(_))
    }
}

/// Why a target has no one form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadTarget {
    /// It does not begin with `/` and is not `*`.
    #[error("target does not begin with a slash")]
    Form,
    /// A byte that no target may hold, such as a control byte, one outside ASCII, `\` or `#`.
    #[error("target holds the byte {0:#04x}")]
    Byte(u8),
    /// A `%` without two hexadecimal digits.
    #[error("target holds a percent sign without two hexadecimal digits")]
    Escape,
    /// An escape for a byte that is refused: NUL, a control byte, or a slash or backslash.
    #[error("target holds an escape for the byte {0:#04x}")]
    Escaped(u8),
    /// More `..` than there are segments to leave.
    #[error("target leaves its root")]
    BeyondRoot,
}

/// Brings a target, in origin form or `*`, to its one form.
///
/// # Errors
/// See [`BadTarget`].
pub fn normalise_path(raw: &[u8], encoded_slash: EncodedSlash) -> Result<Normalised<'_>, BadTarget> {
    let split = memchr::memchr(b'?', raw);
    let (path, query) = match split {
        Some(at) => (&raw[..at], Some(&raw[at + 1..])),
        None => (raw, None),
    };
    if let Some(&bad) = raw.iter().find(|&&byte| !is_target_byte(byte)) {
        return Err(BadTarget::Byte(bad));
    }
    // Only ASCII is left.
    let text = |bytes| std::str::from_utf8(bytes).map_err(|_| BadTarget::Byte(0x80));
    let query = query.map(text).transpose()?;
    let path = text(path)?;
    if path == "*" {
        return Ok(Normalised { path: Cow::Borrowed(path), query });
    }
    if !path.starts_with('/') {
        return Err(BadTarget::Form);
    }
    if is_plain(path.as_bytes()) {
        return Ok(Normalised { path: Cow::Borrowed(path), query });
    }
    let decoded = decode(path.as_bytes(), encoded_slash)?;
    let resolved = resolve_dots(&decoded)?;
    let path = if resolved == path { Cow::Borrowed(path) } else { Cow::Owned(resolved) };
    Ok(Normalised { path, query })
}

/// Whether there is nothing to decode, resolve or merge: no `%`, and no `/` followed by `/` or `.`.
fn is_plain(path: &[u8]) -> bool {
    let mut before = 0;
    for &byte in path {
        if byte == b'%' || (before == b'/' && matches!(byte, b'/' | b'.')) {
            return false;
        }
        before = byte;
    }
    true
}

/// Decodes the escapes of unreserved characters, and writes the others in upper case.
fn decode(path: &[u8], encoded_slash: EncodedSlash) -> Result<String, BadTarget> {
    let mut out = String::with_capacity(path.len());
    let mut rest = path;
    while let [first, tail @ ..] = rest {
        if *first != b'%' {
            out.push(char::from(*first));
            rest = tail;
            continue;
        }
        let [high, low, tail @ ..] = tail else { return Err(BadTarget::Escape) };
        let digit = |byte: u8| char::from(byte).to_digit(16).ok_or(BadTarget::Escape);
        // Two hexadecimal digits make a byte.
        let byte = (digit(*high)? << 4 | digit(*low)?) as u8;
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(char::from(byte)),
            0..=0x1f | 0x7f => return Err(BadTarget::Escaped(byte)),
            b'/' | b'\\' if encoded_slash == EncodedSlash::Refuse => return Err(BadTarget::Escaped(byte)),
            _ => {
                out.push('%');
                out.push(char::from(high.to_ascii_uppercase()));
                out.push(char::from(low.to_ascii_uppercase()));
            }
        }
        rest = tail;
    }
    Ok(out)
}

/// Resolves `.` and `..` and merges slashes. A path that ends in a dot segment ends in `/`.
fn resolve_dots(path: &str) -> Result<String, BadTarget> {
    let mut out = String::with_capacity(path.len());
    let mut segments = path.split('/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        let last = segments.peek().is_none();
        match segment {
            "" | "." => {}
            ".." => {
                let parent = out.rfind('/').ok_or(BadTarget::BeyondRoot)?;
                out.truncate(parent);
            }
            name => {
                out.push('/');
                out.push_str(name);
                continue;
            }
        }
        if last {
            out.push('/');
        }
    }
    if out.is_empty() {
        out.push('/');
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use proptest::prelude::*;

    fn path(raw: &str) -> Result<String, BadTarget> {
        normalise_path(raw.as_bytes(), EncodedSlash::Refuse).map(|target| target.path.into_owned())
    }

    #[test]
    fn every_spelling_of_a_path_becomes_the_same() {
        for (raw, expected) in [
            ("/", "/"),
            ("/a/b", "/a/b"),
            ("/a/b/", "/a/b/"),
            ("//a///b//", "/a/b/"),
            ("/a/./b", "/a/b"),
            ("/a/../b", "/b"),
            ("/a/b/..", "/a/"),
            ("/a/.", "/a/"),
            ("/..a/.b/c..", "/..a/.b/c.."),
            ("/a/%2e%2E/b", "/b"),
            ("/a/%2e/b", "/a/b"),
            ("/a/.%2e/b", "/b"),
            ("/%61%7E%2d", "/a~-"),
            ("/%c3%a9", "/%C3%A9"),
            ("/a%20b%25", "/a%20b%25"),
            ("/%252e%252e/a", "/%252e%252e/a"),
            ("/a//../b", "/b"),
            ("/;x=%3b", "/;x=%3B"),
            ("*", "*"),
        ] {
            assert_eq!(path(raw).as_deref(), Ok(expected), "{raw:?}");
        }
    }

    #[test]
    fn what_has_no_one_spelling_is_refused() {
        for (raw, why) in [
            ("", BadTarget::Form),
            ("a", BadTarget::Form),
            ("**", BadTarget::Form),
            ("?x", BadTarget::Form),
            ("/a\\b", BadTarget::Byte(b'\\')),
            ("/a#b", BadTarget::Byte(b'#')),
            ("/a b", BadTarget::Byte(b' ')),
            ("/\u{e9}", BadTarget::Byte(0xc3)),
            ("/a?\u{1}", BadTarget::Byte(1)),
            ("/%", BadTarget::Escape),
            ("/%2", BadTarget::Escape),
            ("/%zz", BadTarget::Escape),
            ("/%u0041", BadTarget::Escape),
            ("/%00", BadTarget::Escaped(0)),
            ("/%0d%0a", BadTarget::Escaped(b'\r')),
            ("/%7f", BadTarget::Escaped(0x7f)),
            ("/a%2fb", BadTarget::Escaped(b'/')),
            ("/a%5Cb", BadTarget::Escaped(b'\\')),
            ("/..", BadTarget::BeyondRoot),
            ("/a/../..", BadTarget::BeyondRoot),
            ("/%2e%2e/etc", BadTarget::BeyondRoot),
            ("/a/..//../b", BadTarget::BeyondRoot),
        ] {
            assert_eq!(path(raw), Err(why), "{raw:?}");
        }
    }

    #[test]
    fn an_encoded_slash_is_kept_where_configured_and_never_separates() {
        let kept = normalise_path(b"/a%2f..%5c/b?q%2f", EncodedSlash::Keep).unwrap();
        assert_eq!((kept.path.as_ref(), kept.query), ("/a%2F..%5C/b", Some("q%2f")));
        assert_eq!(kept.to_target(), "/a%2F..%5C/b?q%2f");
    }

    #[test]
    fn a_path_in_its_form_is_borrowed() {
        for raw in ["/a/b.c?d=%2e", "/a%20b", "/"] {
            assert!(!normalise_path(raw.as_bytes(), EncodedSlash::Refuse).unwrap().is_changed(), "{raw:?}");
        }
    }

    fn hostile_path() -> impl Strategy<Value = String> {
        let piece = prop_oneof![
            Just("/"),
            Just("."),
            Just(".."),
            Just("%2e"),
            Just("%2E"),
            Just("%2f"),
            Just("a"),
            Just("%61"),
            Just("%C3"),
            Just("~"),
            Just("%7e"),
            Just("%25"),
            Just("2e"),
        ];
        proptest::collection::vec(piece, 0..12).prop_map(|pieces| format!("/{}", pieces.concat()))
    }

    proptest! {
        #[test]
        fn bringing_it_to_its_form_twice_changes_nothing(raw in hostile_path(), keep in any::<bool>()) {
            let policy = if keep { EncodedSlash::Keep } else { EncodedSlash::Refuse };
            if let Ok(once) = normalise_path(raw.as_bytes(), policy) {
                let twice = normalise_path(once.path.as_bytes(), policy).unwrap();
                prop_assert_eq!(&twice.path, &once.path);
                prop_assert!(!twice.is_changed());
            }
        }

        #[test]
        fn no_form_has_dot_segments_or_empty_ones(raw in hostile_path()) {
            if let Ok(path) = path(&raw) {
                prop_assert!(path.starts_with('/'));
                let mut segments: Vec<_> = path.split('/').skip(1).collect();
                segments.pop_if(|last| last.is_empty());
                prop_assert!(segments.iter().all(|segment| !matches!(*segment, "" | "." | "..")), "{}", path);
            }
        }

        #[test]
        fn no_bytes_make_it_panic(raw in proptest::collection::vec(any::<u8>(), 0..60)) {
            let _ = normalise_path(&raw, EncodedSlash::Keep);
        }
    }
}
