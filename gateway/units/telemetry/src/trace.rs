//! The identifiers of a request: its own id, and its place in a trace.
//!
//! The trace context that arrives (W3C Trace Context 1, or B3 in one header or several) is parsed strictly: whatever is
//! not exactly as specified counts as absent, and a new trace begins. What goes on to the upstream is always W3C's
//! `traceparent`, and B3 beside it where the request came with B3. The gateway's own span is the parent told upstream.

use std::fmt;
use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue};
use sluice_vocabulary::clock::Random;

use crate::config::{TraceConfig, TrustedFor};

/// The header field of the request's id, toward upstreams and clients.
pub const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");
const B3: HeaderName = HeaderName::from_static("b3");
const B3_TRACE: HeaderName = HeaderName::from_static("x-b3-traceid");
const B3_SPAN: HeaderName = HeaderName::from_static("x-b3-spanid");
const B3_PARENT: HeaderName = HeaderName::from_static("x-b3-parentspanid");
const B3_SAMPLED: HeaderName = HeaderName::from_static("x-b3-sampled");
const B3_FLAGS: HeaderName = HeaderName::from_static("x-b3-flags");

/// All fields of trace context: to be removed from a request before [`TraceContext::headers`] are set.
pub const TRACE_HEADERS: [HeaderName; 8] =
    [TRACEPARENT, TRACESTATE, B3, B3_TRACE, B3_SPAN, B3_PARENT, B3_SAMPLED, B3_FLAGS];

/// The longest `tracestate` passed on; W3C asks for at least 512.
const LONGEST_TRACESTATE: usize = 512;
/// The longest request id taken over.
const LONGEST_ID: usize = 64;

/// Gives requests their identifiers.
#[derive(Debug, Clone)]
pub struct Tracing {
    continue_from: TrustedFor,
    random: Arc<dyn Random>,
}

impl Tracing {
    /// By configuration, with this source of chance.
    pub fn new(config: &TraceConfig, random: Arc<dyn Random>) -> Self {
        Self { continue_from: config.continue_from, random }
    }

    /// The request's place in a trace: a child of what came with it, or a new trace's root. `from_trusted_proxy` says
    /// whether the peer is one of the trusted proxies.
    pub fn context(&self, headers: &HeaderMap, from_trusted_proxy: bool) -> TraceContext {
        let heard = match self.continue_from {
            TrustedFor::Anyone => true,
            TrustedFor::TrustedProxies => from_trusted_proxy,
            TrustedFor::Nobody => false,
        };
        // An id of all zeros means "none" in every one of the formats.
        let span_id = (self.random.bits128() as u64).max(1);
        let arrived = if heard { TraceContext::parse(headers) } else { None };
        match arrived {
            Some(parent) => TraceContext { span_id, parent_id: parent.span_id, ..parent },
            None => TraceContext {
                trace_id: self.random.bits128().max(1),
                span_id,
                parent_id: 0,
                sampled: false,
                state: None,
                b3: Style::Absent,
            },
        }
    }

    /// The request's id: the one it came with where a trusted proxy sent it, else a new one.
    pub fn request_id(&self, headers: &HeaderMap, from_trusted_proxy: bool) -> RequestId {
        let mut sent = headers.get_all(X_REQUEST_ID).iter();
        match (sent.next(), sent.next()) {
            (Some(one), None) if from_trusted_proxy => RequestId::parse(one.as_bytes()),
            _ => None,
        }
        .unwrap_or_else(|| RequestId::from_bits(self.random.bits128()))
    }
}

/// A request's id: printable, short, safe in a header, a log line and a URL. Lives on the stack.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct RequestId {
    length: u8,
    text: [u8; LONGEST_ID],
}

impl RequestId {
    /// 128 bits as 26 characters of Crockford's base 32, lower case.
    pub fn from_bits(mut bits: u128) -> Self {
        const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
        let mut text = [0; LONGEST_ID];
        for place in text[..26].iter_mut().rev() {
            *place = ALPHABET[(bits & 31) as usize];
            bits >>= 5;
        }
        Self { length: 26, text }
    }

    /// An id that somebody else gave: 8 to 64 of `A–Z a–z 0–9 . _ : = + / -`.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let good = (8..=LONGEST_ID).contains(&bytes.len())
            && bytes.iter().all(|b| b.is_ascii_alphanumeric() || b"._:=+/-".contains(b));
        if !good {
            return None;
        }
        let mut text = [0; LONGEST_ID];
        text[..bytes.len()].copy_from_slice(bytes);
        Some(Self { length: u8::try_from(bytes.len()).ok()?, text })
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.text[..usize::from(self.length)]).unwrap_or_default()
    }

    /// As the value of [`X_REQUEST_ID`].
    pub fn to_header(&self) -> HeaderValue {
        HeaderValue::from_str(self.as_str()).unwrap_or_else(|_| HeaderValue::from_static(""))
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A request's place in a trace, with the gateway's own span.
#[derive(Debug, Clone, PartialEq)]
pub struct TraceContext {
    trace_id: u128,
    /// Once parsed, the sender's span; in a request's context, the gateway's.
    span_id: u64,
    /// The sender's span; 0 in a trace that begins here.
    parent_id: u64,
    sampled: bool,
    state: Option<HeaderValue>,
    b3: Style,
}

/// In which form B3 came, and is passed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Style {
    Absent,
    Single,
    Multiple,
}

/// 32 lower-case hexadecimal digits, on the stack.
#[derive(Debug, Clone, Copy)]
pub struct TraceIdText([u8; 32]);

impl TraceIdText {
    /// The digits.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

impl TraceContext {
    /// The trace's id, for logs.
    pub fn trace_id(&self) -> TraceIdText {
        let mut text = [0; 32];
        put_hex(self.trace_id, &mut text);
        TraceIdText(text)
    }

    /// Whether the trace's head asked for it to be recorded.
    pub fn is_sampled(&self) -> bool {
        self.sampled
    }

    /// Whether the trace began before this gateway.
    pub fn is_continued(&self) -> bool {
        self.parent_id != 0
    }

    /// The fields to set toward the upstream, after [`TRACE_HEADERS`] were removed.
    pub fn headers(&self) -> impl Iterator<Item = (HeaderName, HeaderValue)> {
        let flag = if self.sampled { "1" } else { "0" };
        let parent = (self.parent_id != 0).then(|| hex64(self.parent_id));
        let single = (self.b3 == Style::Single).then(|| {
            let mut text = [0_u8; 32 + 1 + 16 + 1 + 1];
            put_hex(self.trace_id, &mut text[..32]);
            text[32] = b'-';
            put_hex(self.span_id.into(), &mut text[33..49]);
            text[49] = b'-';
            text[50] = flag.as_bytes()[0];
            (B3, value(&text))
        });
        let multiple = (self.b3 == Style::Multiple).then(|| {
            [
                Some((B3_TRACE, value(&self.trace_id().0))),
                Some((B3_SPAN, value(&hex64(self.span_id)))),
                parent.map(|parent| (B3_PARENT, value(&parent))),
                Some((B3_SAMPLED, HeaderValue::from_static(flag))),
            ]
        });
        std::iter::once((TRACEPARENT, self.traceparent()))
            .chain(self.state.clone().map(|state| (TRACESTATE, state)))
            .chain(single)
            .chain(multiple.into_iter().flatten().flatten())
    }

    /// `00-<trace>-<span>-<flags>` with the gateway's span.
    pub fn traceparent(&self) -> HeaderValue {
        let mut text = *b"00-00000000000000000000000000000000-0000000000000000-00";
        put_hex(self.trace_id, &mut text[3..35]);
        put_hex(self.span_id.into(), &mut text[36..52]);
        text[54] = b'0' + u8::from(self.sampled);
        value(&text)
    }

    /// What came with a request, if it is well-formed: W3C's first, then B3 in one field, then in several. The context's
    /// span is the sender's.
    pub fn parse(headers: &HeaderMap) -> Option<Self> {
        let b3 = if headers.contains_key(B3) {
            Style::Single
        } else if headers.contains_key(B3_TRACE) {
            Style::Multiple
        } else {
            Style::Absent
        };
        if headers.contains_key(TRACEPARENT)
            && let Some((trace_id, span_id, sampled)) = parse_traceparent(only(headers, &TRACEPARENT)?)
        {
            return Some(Self { trace_id, span_id, parent_id: 0, sampled, state: parse_tracestate(headers), b3 });
        }
        let (trace_id, span_id, sampled) = match b3 {
            Style::Single => parse_b3(only(headers, &B3)?)?,
            Style::Multiple => {
                let trace = parse_b3_trace(only(headers, &B3_TRACE)?)?;
                let span = parse_hex(only(headers, &B3_SPAN)?, 16)? as u64;
                let debug = only(headers, &B3_FLAGS) == Some(b"1");
                let sampled = debug || matches!(only(headers, &B3_SAMPLED), Some(b"1" | b"true"));
                (trace, span, sampled)
            }
            Style::Absent => return None,
        };
        (span_id != 0).then_some(Self { trace_id, span_id, parent_id: 0, sampled, state: None, b3 })
    }
}

/// A field that may come once.
fn only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a [u8]> {
    let mut values = headers.get_all(name).iter();
    let first = values.next()?;
    values.next().is_none().then_some(first.as_bytes())
}

/// W3C Trace Context 1, 3.2: `version "-" trace-id "-" parent-id "-" flags`, lower-case digits only. A version above 00
/// may carry more after a further dash; version ff is forbidden.
fn parse_traceparent(text: &[u8]) -> Option<(u128, u64, bool)> {
    let (head, rest) = text.split_at_checked(55)?;
    let version = parse_hex(&head[..2], 2)?;
    let dashes = head[2] == b'-' && head[35] == b'-' && head[52] == b'-';
    let length_fits = if version == 0 { rest.is_empty() } else { rest.first().is_none_or(|b| *b == b'-') };
    if !dashes || !length_fits || version == 0xff {
        return None;
    }
    let trace_id = parse_hex(&head[3..35], 32)?;
    let span_id = parse_hex(&head[36..52], 16)? as u64;
    let flags = parse_hex(&head[53..55], 2)?;
    (trace_id != 0 && span_id != 0).then_some((trace_id, span_id, flags & 1 == 1))
}

/// W3C Trace Context 1, 3.3: passed on as it came, if its bytes and length allow; never a reason to drop the parent.
fn parse_tracestate(headers: &HeaderMap) -> Option<HeaderValue> {
    let mut values = headers.get_all(TRACESTATE).iter();
    let first = values.next()?;
    let joined = if values.next().is_none() {
        first.clone()
    } else {
        let parts: Vec<&[u8]> = headers.get_all(TRACESTATE).iter().map(HeaderValue::as_bytes).collect();
        HeaderValue::from_bytes(&parts.join(&b","[..])).ok()?
    };
    let text = joined.as_bytes();
    let members = text.split(|b| *b == b',').filter(|member| !member.trim_ascii().is_empty()).count();
    let good = (1..=32).contains(&members)
        && text.len() <= LONGEST_TRACESTATE
        && text.iter().all(|b| matches!(b, b' '..=b'~' | b'\t'))
        && text.split(|b| *b == b',').all(|member| member.trim_ascii().is_empty() || member.contains(&b'='));
    good.then_some(joined)
}

/// `trace-span[-sampled[-parent]]`. A lone sampling decision carries no identity, so a new trace begins for it.
fn parse_b3(text: &[u8]) -> Option<(u128, u64, bool)> {
    let mut parts = text.split(|b| *b == b'-');
    let trace_id = parse_b3_trace(parts.next()?)?;
    let span_id = parse_hex(parts.next()?, 16)? as u64;
    let sampled = match parts.next() {
        None | Some(b"0") => false,
        Some(b"1" | b"d") => true,
        Some(_) => return None,
    };
    if let Some(parent) = parts.next() {
        parse_hex(parent, 16)?;
    }
    parts.next().is_none().then_some((trace_id, span_id, sampled))
}

/// 16 or 32 digits, not all zero.
fn parse_b3_trace(text: &[u8]) -> Option<u128> {
    let id = if text.len() == 16 { parse_hex(text, 16) } else { parse_hex(text, 32) }?;
    (id != 0).then_some(id)
}

/// Exactly `digits` lower-case hexadecimal digits, at most 32.
fn parse_hex(text: &[u8], digits: usize) -> Option<u128> {
    if text.len() != digits {
        return None;
    }
    text.iter().try_fold(0_u128, |number, byte| {
        let digit = match byte {
            b'0'..=b'9' => byte - b'0',
            b'a'..=b'f' => byte - b'a' + 10,
            _ => return None,
        };
        Some(number << 4 | u128::from(digit))
    })
}

/// Fills `out` with the number's last digits.
fn put_hex(mut number: u128, out: &mut [u8]) {
    for place in out.iter_mut().rev() {
        *place = b"0123456789abcdef"[(number & 15) as usize];
        number >>= 4;
    }
}

fn hex64(number: u64) -> [u8; 16] {
    let mut text = [0; 16];
    put_hex(number.into(), &mut text);
    text
}

/// Of digits and dashes, which a header field may hold.
fn value(text: &[u8]) -> HeaderValue {
    HeaderValue::from_bytes(text).unwrap_or_else(|_| HeaderValue::from_static(""))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[derive(Debug)]
    struct Fixed(u128);

    impl Random for Fixed {
        fn below(&self, _: u64) -> u64 {
            0
        }
        fn bits128(&self) -> u128 {
            self.0
        }
    }

    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
    const SPAN: &str = "00f067aa0ba902b7";

    fn tracing(continue_from: TrustedFor) -> Tracing {
        Tracing::new(&TraceConfig { continue_from }, Arc::new(Fixed(0xabcd)))
    }

    fn headers(fields: &[(&'static str, &str)]) -> HeaderMap {
        fields.iter().map(|(n, v)| (HeaderName::from_static(n), HeaderValue::from_str(v).unwrap())).collect()
    }

    fn sent(context: &TraceContext) -> Vec<(String, String)> {
        context.headers().map(|(n, v)| (n.to_string(), v.to_str().unwrap().to_owned())).collect()
    }

    #[test]
    fn a_trace_is_continued_with_the_gateways_own_span() {
        let came = headers(&[("traceparent", &format!("00-{TRACE}-{SPAN}-01")), ("tracestate", "a=1,b=2")]);
        let context = tracing(TrustedFor::Anyone).context(&came, false);
        assert!(context.is_continued() && context.is_sampled());
        assert_eq!(
            sent(&context),
            [
                ("traceparent".to_owned(), format!("00-{TRACE}-000000000000abcd-01")),
                ("tracestate".to_owned(), "a=1,b=2".to_owned())
            ]
        );
    }

    #[test]
    fn what_is_not_exactly_a_traceparent_begins_a_new_trace() {
        let good = format!("00-{TRACE}-{SPAN}-01");
        let bad = [
            "".to_owned(),
            good[..54].to_owned(),
            format!("{good}-x"),
            good.to_uppercase(),
            good.replace("00-4", "ff-4"),
            good.replace("00-4", "0-4"),
            format!("00-{}-{SPAN}-01", "0".repeat(32)),
            format!("00-{TRACE}-{}-01", "0".repeat(16)),
            good.replace('-', "_"),
            format!("00-{TRACE}-{SPAN}-0g"),
            format!("01-{TRACE}-{SPAN}-01x"),
        ];
        for text in bad {
            assert_eq!(TraceContext::parse(&headers(&[("traceparent", &text)])), None, "{text:?}");
        }
        let mut twice = headers(&[("traceparent", &good)]);
        twice.append("traceparent", HeaderValue::from_str(&good).unwrap());
        assert_eq!(TraceContext::parse(&twice), None);
        assert!(TraceContext::parse(&headers(&[("traceparent", &format!("01-{TRACE}-{SPAN}-01-more"))])).is_some());
    }

    #[test]
    fn a_tracestate_that_cannot_be_passed_on_is_dropped_alone() {
        let parent = format!("00-{TRACE}-{SPAN}-00");
        for bad in ["", ",", "noequals", &format!("a={}", "x".repeat(600))] {
            let context = TraceContext::parse(&headers(&[("traceparent", &parent), ("tracestate", bad)])).unwrap();
            assert_eq!(context.state, None, "{bad:?}");
        }
    }

    #[test]
    fn b3_is_understood_and_passed_on_in_the_form_it_came() {
        let single = headers(&[("b3", &format!("{TRACE}-{SPAN}-d-05e3ac9a4f6e3b90"))]);
        let context = tracing(TrustedFor::Anyone).context(&single, false);
        assert!(sent(&context).contains(&("b3".to_owned(), format!("{TRACE}-000000000000abcd-1"))));

        let several = headers(&[("x-b3-traceid", "a3ce929d0e0e4736"), ("x-b3-spanid", SPAN), ("x-b3-sampled", "0")]);
        let context = tracing(TrustedFor::Anyone).context(&several, false);
        let fields = sent(&context);
        assert_eq!(context.trace_id().as_str(), "0000000000000000a3ce929d0e0e4736");
        assert!(fields.contains(&("x-b3-parentspanid".to_owned(), SPAN.to_owned())));
        assert!(fields.contains(&("x-b3-sampled".to_owned(), "0".to_owned())));
        for bad in [
            "0",
            "x-y",
            &format!("{TRACE}-{SPAN}-2"),
            &format!("{TRACE}-{SPAN}-1-z"),
            &format!("{TRACE}-{SPAN}-1-{SPAN}-1"),
        ] {
            assert_eq!(TraceContext::parse(&headers(&[("b3", bad)])), None, "{bad:?}");
        }
    }

    #[test]
    fn only_those_who_are_trusted_continue_a_trace_where_so_configured() {
        let came = headers(&[("traceparent", &format!("00-{TRACE}-{SPAN}-01"))]);
        assert!(!tracing(TrustedFor::Nobody).context(&came, true).is_continued());
        assert!(!tracing(TrustedFor::TrustedProxies).context(&came, false).is_continued());
        assert!(tracing(TrustedFor::TrustedProxies).context(&came, true).is_continued());
    }

    #[test]
    fn a_request_id_is_taken_over_from_trusted_proxies_only() {
        let came = headers(&[("x-request-id", "abc-12345678")]);
        let tracing = tracing(TrustedFor::Anyone);
        assert_eq!(tracing.request_id(&came, true).as_str(), "abc-12345678");
        assert_eq!(tracing.request_id(&came, false).as_str(), "00000000000000000000001ayd");
        for bad in ["short", "has space 1", "quote\"12345", &"a".repeat(65)] {
            assert_ne!(tracing.request_id(&headers(&[("x-request-id", bad)]), true).as_str(), bad);
        }
    }

    #[test]
    fn a_new_request_id_has_26_characters() {
        let id = RequestId::from_bits(u128::MAX);
        assert_eq!(id.as_str(), "7zzzzzzzzzzzzzzzzzzzzzzzzz");
        assert_eq!(id.to_header(), "7zzzzzzzzzzzzzzzzzzzzzzzzz");
    }
}
