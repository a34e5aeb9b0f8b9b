//! The head of an HTTP/1 request: found as its bytes arrive, then judged in one pass.
//!
//! Two steps, so that no byte is looked at twice however slowly a head drips in: [`Scanner`] searches for the empty line
//! that ends it (and refuses a bare LF on the way), then [`parse`] reads the whole once. Both are pure functions of bytes.
//!
//! The rules are those of RFC 9112, at their strictest wherever recipients are known to disagree, since every
//! disagreement between two parsers on one connection is a way to smuggle a request: see [`Breach`] for the list. Where
//! the RFC offers a choice between mending and refusing, we refuse, but for one: a Content-Length beside a
//! Transfer-Encoding is ignored and the connection closes after the answer (RFC 9112 6.1), since old clients do send it.

use std::ops::Range;

use memchr::memchr;

use crate::breach::Breach;
use crate::host;

/// What a head may cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeadLimits {
    /// Bytes of the whole head, the empty line included.
    pub bytes: usize,
    /// Header fields.
    pub fields: usize,
}

/// How a request's body is delimited (RFC 9112 6.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// By its length in bytes; 0 where there is no body.
    Length(u64),
    /// By the chunked coding.
    Chunked,
}

/// What the guard needs to know of a head that is well-formed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// How the body is delimited.
    pub framing: Framing,
    /// Whether the connection ends after the answer: the client said so, is of HTTP/1.0 without `keep-alive`, or sent a
    /// Content-Length beside a Transfer-Encoding.
    pub close: bool,
    /// Whether the client waits for a 100 before it sends the body.
    pub expects_continue: bool,
    /// Whether the client asks to leave HTTP/1.
    pub upgrade: bool,
    /// Where the authority and the rest stand within the head, for a target in absolute form.
    pub absolute: Option<AbsoluteTarget>,
}

/// A request target in absolute form, as ranges within the head.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AbsoluteTarget {
    /// The whole target.
    pub target: Range<usize>,
    /// The authority within it.
    pub authority: Range<usize>,
    /// Path and query; may be empty, or begin with `?`.
    pub rest: Range<usize>,
    /// The value of the Host field, which the authority replaces (RFC 9112 3.2.2); none where there is no such field.
    pub host: Option<Range<usize>>,
}

/// Searches arriving bytes for the end of a head. Keep one per head, and give it the same, growing buffer.
#[derive(Debug, Default)]
pub struct Scanner {
    seen: usize,
    line: usize,
}

impl Scanner {
    /// The length of the head once it is whole; none while more is needed.
    ///
    /// # Errors
    /// Any breach that can be told before the head is whole: a first byte that no request begins with, a line that ends
    /// in a bare LF, or too many bytes.
    pub fn find_end(&mut self, bytes: &[u8], limits: HeadLimits) -> Result<Option<usize>, Breach> {
        if self.seen == 0 && bytes.first().is_some_and(|&byte| !is_token_byte(byte)) {
            return Err(Breach::NotHttp);
        }
        while let Some(offset) = bytes.get(self.seen..).and_then(|rest| memchr(b'\n', rest)) {
            let newline = self.seen + offset;
            if newline == self.line || bytes[newline - 1] != b'\r' {
                return Err(Breach::BareLineFeed);
            }
            if newline + 1 > limits.bytes {
                return Err(Breach::HeaderSize);
            }
            let empty = newline == self.line + 1;
            self.seen = newline + 1;
            self.line = newline + 1;
            if empty {
                return Ok(Some(newline + 1));
            }
        }
        self.seen = bytes.len();
        if bytes.len() >= limits.bytes { Err(Breach::HeaderSize) } else { Ok(None) }
    }
}

/// Judges a whole head: the bytes up to and with the empty line, as [`Scanner::find_end`] measured them.
///
/// # Errors
/// The first breach found, in the order of the bytes; those that concern the head as a whole come last.
pub fn parse(head: &[u8], limits: HeadLimits) -> Result<Head, Breach> {
    if head.len() > limits.bytes {
        return Err(Breach::HeaderSize);
    }
    let (line, mut at) = next_line(head, 0)?;
    let RequestLine { method, target, old } = request_line(head, line)?;

    let mut fields = Fields::default();
    let mut count = 0_usize;
    loop {
        let (line, next) = next_line(head, at)?;
        at = next;
        if line.is_empty() {
            break;
        }
        count += 1;
        if count > limits.fields {
            return Err(Breach::HeaderFields);
        }
        fields.take(head, line)?;
    }
    if at != head.len() {
        return Err(Breach::RequestLine);
    }

    let absolute = request_target(head, &head[method], target, fields.host.clone())?;
    match &fields.host {
        None if !old => return Err(Breach::HostMissing),
        Some(value) if !host::is_valid(&head[value.clone()]) => return Err(Breach::HostInvalid),
        _ => {}
    }
    if fields.chunked && old {
        return Err(Breach::TransferEncodingOld);
    }
    if fields.bad_expectation && !old {
        return Err(Breach::Expectation);
    }
    Ok(Head {
        framing: match fields.length {
            _ if fields.chunked => Framing::Chunked,
            length => Framing::Length(length.unwrap_or(0)),
        },
        close: fields.close || (old && !fields.keep_alive) || (fields.chunked && fields.length.is_some()),
        expects_continue: fields.expects_continue && !old,
        upgrade: fields.upgrade && !old,
        absolute,
    })
}

/// The line that begins at `start`, without its CRLF, and where the next one begins.
fn next_line(head: &[u8], start: usize) -> Result<(Range<usize>, usize), Breach> {
    let rest = head.get(start..).unwrap_or_default();
    let newline = memchr(b'\n', rest).ok_or(Breach::HeaderTruncated)?;
    match rest[..newline].last() {
        Some(b'\r') => Ok((start..start + newline - 1, start + newline + 1)),
        _ => Err(Breach::BareLineFeed),
    }
}

struct RequestLine {
    method: Range<usize>,
    target: Range<usize>,
    old: bool,
}

/// `method SP request-target SP HTTP-version`, with exactly those two spaces (RFC 9112 3).
fn request_line(head: &[u8], line: Range<usize>) -> Result<RequestLine, Breach> {
    let bytes = &head[line.clone()];
    let method_end = bytes.iter().position(|&byte| !is_token_byte(byte)).ok_or(Breach::RequestLine)?;
    if method_end == 0 || bytes[method_end] != b' ' {
        return Err(Breach::RequestLine);
    }
    let target_start = method_end + 1;
    let target_end = target_start + memchr(b' ', &bytes[target_start..]).ok_or(Breach::RequestLine)?;
    if target_end == target_start {
        return Err(Breach::RequestLine);
    }
    let old = match &bytes[target_end + 1..] {
        b"HTTP/1.1" => false,
        b"HTTP/1.0" => true,
        version if version.contains(&b'\r') => return Err(Breach::BareCarriageReturn),
        version if version.starts_with(b"HTTP/") => return Err(Breach::Version),
        _ => return Err(Breach::RequestLine),
    };
    if !bytes[target_start..target_end].iter().all(|&byte| is_target_byte(byte)) {
        return Err(Breach::Target);
    }
    let from = line.start;
    Ok(RequestLine { method: from..from + method_end, target: from + target_start..from + target_end, old })
}

/// Judges the target's form (RFC 9112 3.2); gives the parts of an absolute one.
fn request_target(
    head: &[u8],
    method: &[u8],
    target: Range<usize>,
    host: Option<Range<usize>>,
) -> Result<Option<AbsoluteTarget>, Breach> {
    if method == b"CONNECT" {
        return Err(Breach::Connect);
    }
    let bytes = &head[target.clone()];
    if bytes[0] == b'/' || (bytes == b"*" && method == b"OPTIONS") {
        return Ok(None);
    }
    let scheme = [&b"http://"[..], b"https://"]
        .into_iter()
        .find(|scheme| bytes.len() > scheme.len() && bytes[..scheme.len()].eq_ignore_ascii_case(scheme))
        .ok_or(Breach::Target)?;
    let start = target.start + scheme.len();
    let end = head[start..target.end]
        .iter()
        .position(|byte| matches!(byte, b'/' | b'?'))
        .map_or(target.end, |length| start + length);
    if !host::is_valid(&head[start..end]) {
        return Err(Breach::HostInvalid);
    }
    Ok(Some(AbsoluteTarget { authority: start..end, rest: end..target.end, target, host }))
}

/// The few fields that framing depends on.
#[derive(Default)]
struct Fields {
    host: Option<Range<usize>>,
    length: Option<u64>,
    chunked: bool,
    close: bool,
    keep_alive: bool,
    upgrade: bool,
    expects_continue: bool,
    bad_expectation: bool,
}

impl Fields {
    fn take(&mut self, head: &[u8], line: Range<usize>) -> Result<(), Breach> {
        let bytes = &head[line.clone()];
        if matches!(bytes[0], b' ' | b'\t') {
            return Err(Breach::ObsoleteFold);
        }
        let colon = bytes.iter().position(|&byte| !is_token_byte(byte)).ok_or(Breach::FieldName)?;
        match bytes[colon] {
            b':' if colon > 0 => {}
            b' ' | b'\t' if colon > 0 => return Err(Breach::SpaceBeforeColon),
            b'\r' => return Err(Breach::BareCarriageReturn),
            _ => return Err(Breach::FieldName),
        }
        let (name, value) = (&bytes[..colon], &bytes[colon + 1..]);
        // Without an early exit this becomes vector code; the exact fault is looked for only when there is one.
        if value.iter().fold(false, |bad, &byte| bad | is_bad_value_byte(byte)) {
            return Err(if value.contains(&b'\r') { Breach::BareCarriageReturn } else { Breach::FieldValue });
        }
        // The lengths of the names below: most fields need no comparison at all.
        if !matches!(name.len(), 4 | 6 | 7 | 10 | 14 | 17) {
            return Ok(());
        }
        let leading = value.iter().take_while(|byte| matches!(byte, b' ' | b'\t')).count();
        let value = value.trim_ascii();
        if name.eq_ignore_ascii_case(b"host") {
            if self.host.is_some() {
                return Err(Breach::HostRepeated);
            }
            let start = line.start + colon + 1 + leading;
            self.host = Some(start..start + value.len());
        } else if name.eq_ignore_ascii_case(b"content-length") {
            if self.length.replace(content_length(value)?).is_some() {
                return Err(Breach::ContentLengthRepeated);
            }
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            if self.chunked || !value.eq_ignore_ascii_case(b"chunked") {
                return Err(Breach::TransferEncoding);
            }
            self.chunked = true;
        } else if name.eq_ignore_ascii_case(b"connection") {
            for option in value.split(|&byte| byte == b',').map(<[u8]>::trim_ascii) {
                self.close |= option.eq_ignore_ascii_case(b"close");
                self.keep_alive |= option.eq_ignore_ascii_case(b"keep-alive");
            }
        } else if name.eq_ignore_ascii_case(b"upgrade") {
            self.upgrade = true;
        } else if name.eq_ignore_ascii_case(b"expect") {
            let known = value.eq_ignore_ascii_case(b"100-continue");
            self.expects_continue |= known;
            self.bad_expectation |= !known;
        }
        Ok(())
    }
}

/// A run of digits below 2^63, so that no arithmetic on it overflows. Not a list, even of equal values.
fn content_length(value: &[u8]) -> Result<u64, Breach> {
    if value.is_empty() {
        return Err(Breach::ContentLength);
    }
    value
        .iter()
        .try_fold(0_u64, |length, &digit| {
            if !digit.is_ascii_digit() {
                return None;
            }
            length.checked_mul(10)?.checked_add(u64::from(digit - b'0')).filter(|&length| length <= i64::MAX as u64)
        })
        .ok_or(Breach::ContentLength)
}

/// RFC 9110 5.6.2.
pub(crate) const fn is_token_byte(byte: u8) -> bool {
    TOKEN[byte as usize]
}

/// What a request target may hold at all: visible ASCII without the bytes that URI parsers read in different ways. `|`,
/// `^`, `{`, `}`, `[`, `]` and the back-quote are no URI bytes either, but browsers send them in queries as they are.
pub(crate) const fn is_target_byte(byte: u8) -> bool {
    matches!(byte, 0x21..=0x7e) && !matches!(byte, b'"' | b'#' | b'<' | b'>' | b'\\')
}

const fn is_bad_value_byte(byte: u8) -> bool {
    (byte < 0x20 && byte != b'\t') | (byte == 0x7f)
}

const TOKEN: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        let b = byte as u8;
        table[byte] = b.is_ascii_alphanumeric()
            || matches!(
                b,
                b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*' | b'+' | b'-' | b'.' | b'^' | b'_' | b'`' | b'|' | b'~'
            );
        byte += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use proptest::prelude::*;

    const LIMITS: HeadLimits = HeadLimits { bytes: 32 * 1024, fields: 100 };

    fn judge(text: &str) -> Result<Head, Breach> {
        let end = Scanner::default().find_end(text.as_bytes(), LIMITS)?.ok_or(Breach::HeaderTruncated)?;
        parse(&text.as_bytes()[..end], LIMITS)
    }

    #[test]
    fn a_plain_head_passes() {
        let head = judge("GET /a?b=%20 HTTP/1.1\r\nHost: example.com\r\nAccept:*/*\r\nX-Obs: \u{e9}\r\n\r\n").unwrap();
        assert_eq!(
            head,
            Head { framing: Framing::Length(0), close: false, expects_continue: false, upgrade: false, absolute: None }
        );
        assert!(judge("GET / HTTP/1.0\r\n\r\n").unwrap().close);
        assert!(!judge("GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n").unwrap().close);
        assert!(judge("GET / HTTP/1.1\r\nHost: a\r\nConnection: x, CLOSE\r\n\r\n").unwrap().close);
        assert!(judge("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n").is_ok());
    }

    #[test]
    fn the_golden_list_of_bad_heads_is_refused_each_for_its_own_reason() {
        for (text, breach) in include!("../tests/downstream/golden/bad_heads.in") {
            assert_eq!(judge(text).map(|_| ()), Err(breach), "{text:?}");
        }
    }

    #[test]
    fn a_length_beside_a_coding_is_ignored_and_closes() {
        let head =
            judge("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n").unwrap();
        assert_eq!((head.framing, head.close), (Framing::Chunked, true));
    }

    #[test]
    fn an_absolute_target_is_taken_apart() {
        let text = "GET http://Example.com:80?q HTTP/1.1\r\nHost:  other \r\n\r\n";
        let absolute = judge(text).unwrap().absolute.unwrap();
        assert_eq!(&text[absolute.target], "http://Example.com:80?q");
        assert_eq!(&text[absolute.authority], "Example.com:80");
        assert_eq!(&text[absolute.rest], "?q");
        assert_eq!(&text[absolute.host.unwrap()], "other");
    }

    #[test]
    fn a_head_at_its_limits_passes_and_beyond_them_does_not() {
        let with_fields = |count: usize| {
            let fields: String = (1..count).map(|n| format!("x-{n}: y\r\n")).collect();
            format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n")
        };
        assert!(judge(&with_fields(100)).is_ok());
        assert_eq!(judge(&with_fields(101)), Err(Breach::HeaderFields));
        let of_size = |size: usize| {
            let frame = "GET / HTTP/1.1\r\nHost: a\r\nX: \r\n\r\n".len();
            format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "y".repeat(size - frame))
        };
        assert!(judge(&of_size(LIMITS.bytes)).is_ok());
        assert_eq!(judge(&of_size(LIMITS.bytes + 1)), Err(Breach::HeaderSize));
        assert_eq!(judge(&"y".repeat(LIMITS.bytes)), Err(Breach::HeaderSize));
    }

    fn hostile_head() -> impl Strategy<Value = String> {
        let piece = prop_oneof![
            Just("\r\n"),
            Just("\n"),
            Just("\r"),
            Just(" "),
            Just("\t"),
            Just(":"),
            Just("Host: a\r\n"),
            Just("X: y\r\n"),
            Just("GET / HTTP/1.1\r\n"),
            Just("HTTP/1.0"),
            Just("http://b"),
            Just("Content-Length: 1\r\n"),
            Just("\0"),
            Just("Transfer-Encoding: chunked\r\n"),
            Just("\u{80}"),
            Just("x"),
            Just("\u{7f}"),
            Just("("),
            Just("\r\n\r\n"),
        ];
        proptest::collection::vec(piece, 0..12)
            .prop_map(|pieces| format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", pieces.concat()))
    }

    proptest! {
        /// Pingora reads heads with httparse: what we let through it must read alike, or the two would disagree on where
        /// a head ends or how many fields it has.
        #[test]
        fn what_passes_is_read_alike_by_the_parser_behind_us(text in hostile_head()) {
            if let Ok(Some(end)) = Scanner::default().find_end(text.as_bytes(), LIMITS)
                && parse(&text.as_bytes()[..end], LIMITS).is_ok()
            {
                let mut fields = [httparse::EMPTY_HEADER; 128];
                let mut request = httparse::Request::new(&mut fields);
                prop_assert_eq!(request.parse(text.as_bytes()), Ok(httparse::Status::Complete(end)));
                let lines = text[..end].matches("\r\n").count();
                prop_assert_eq!(request.headers.len(), lines - 2);
            }
        }

        #[test]
        fn no_bytes_make_the_parser_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            if let Ok(Some(end)) = Scanner::default().find_end(&bytes, LIMITS) {
                let _ = parse(&bytes[..end], LIMITS);
            }
            let _ = parse(&bytes, LIMITS);
        }

        #[test]
        fn the_end_is_found_alike_however_the_bytes_arrive(cuts in proptest::collection::vec(1_usize..9, 1..40)) {
            let text = b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nX: y\r\n\r\nhello".as_slice();
            let whole = Scanner::default().find_end(text, LIMITS).unwrap();
            let mut scanner = Scanner::default();
            let mut given = 0;
            let mut found = None;
            for cut in cuts {
                given = (given + cut).min(text.len());
                found = scanner.find_end(&text[..given], LIMITS).unwrap();
                if found.is_some() {
                    break;
                }
            }
            if given >= whole.unwrap() {
                prop_assert_eq!(found, whole);
            } else {
                prop_assert_eq!(found, None);
            }
        }
    }
}
