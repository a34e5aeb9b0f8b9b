//! Compresses answers where their route asks for it: gzip, brotli or zstd, as the client accepts.
//!
//! The HTTP library has such a module of its own, which is not used: it reads `Accept-Encoding` before the route is known,
//! takes `gzip;q=0` for consent, would compress the parts of a range, and leaves a brotli stream without its end.
//!
//! An answer is compressed if its content type is worth it ([`is_worth_it`]) and nothing in it says otherwise: a coding of
//! its own, a range, `no-transform`, a length too small to gain anything. It then says what it varies by, has no length any
//! more, and its validator is weak, since the bytes are no longer those that the origin made it for.
//!
//! An answer of unknown length may be a conversation, so each of its pieces is flushed; one of known length is compressed
//! as a whole. Windows are kept small: they are what a slow reader holds in memory.

use std::io::Write;

use bytes::Bytes;
use flate2::write::GzEncoder;
use http::header::{
    ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, HeaderName,
    HeaderValue, VARY,
};
use http::{HeaderMap, Method, StatusCode, Version};
use pingora_error::{ErrorType, OrErr, Result};
use pingora_http::{RequestHeader, ResponseHeader};

use crate::returning::rewritten;

/// Below this the coding's own frame and the reader's work cost more than is saved.
const SMALLEST: u64 = 128;
/// Window of brotli and zstd, as a power of two: 128 KiB.
const WINDOW: u32 = 17;
/// Buffer between brotli and its output.
const BROTLI_BUFFER: usize = 4096;
/// A request's place for an encoder. Empty until [`begin`](Self::begin) finds an answer that is to be compressed.
#[derive(Default)]
pub(crate) struct Compression {
    encoder: Option<Encoder>,
    /// Whether pieces are sent on at once.
    flushes: bool,
}

impl Compression {
    /// Decides, once the answer's header is what the client will get but for the coding, and adapts it.
    pub(crate) fn begin(&mut self, level: u32, request: &RequestHeader, response: &mut ResponseHeader) {
        // HTTP/1.0 has no way to end a body of unknown length but by ending the connection.
        if request.version == Version::HTTP_10 || !may_be_coded(response) {
            return;
        }
        let varies = list(&response.headers, &VARY)
            .any(|member| member == "*" || member.eq_ignore_ascii_case("accept-encoding"));
        if !varies {
            // A value of fixed bytes cannot be refused.
            let _ = response.append_header(VARY, HeaderValue::from_static("accept-encoding"));
        }
        let Some(coding) = Coding::best(&request.headers) else { return };
        self.flushes = !response.headers.contains_key(CONTENT_LENGTH);
        rewritten(response);
        let _ = response.insert_header(CONTENT_ENCODING, HeaderValue::from_static(coding.name()));
        if request.method != Method::HEAD {
            self.encoder = Encoder::new(coding, level);
        }
    }

    /// A piece of the body, coded; and the coding's own end.
    pub(crate) fn piece(&mut self, body: &mut Option<Bytes>, end_of_stream: bool) -> Result<()> {
        let Some(encoder) = &mut self.encoder else { return Ok(()) };
        let mut coded = match body.take() {
            Some(piece) if !piece.is_empty() => encoder.write(&piece, self.flushes && !end_of_stream)?,
            _ => Vec::new(),
        };
        if end_of_stream && let Some(rest) = self.encoder.take().map(Encoder::finish).transpose()? {
            coded.extend_from_slice(&rest);
        }
        *body = (!coded.is_empty()).then(|| coded.into());
        Ok(())
    }
}

/// Whether an answer may be compressed for whoever accepts that.
fn may_be_coded(response: &ResponseHeader) -> bool {
    let headers = &response.headers;
    let length = headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    !matches!(
        response.status,
        StatusCode::NO_CONTENT | StatusCode::RESET_CONTENT | StatusCode::PARTIAL_CONTENT | StatusCode::NOT_MODIFIED
    ) && !response.status.is_informational()
        && !headers.contains_key(CONTENT_ENCODING)
        && !headers.contains_key(CONTENT_RANGE)
        && length.is_none_or(|length| length >= SMALLEST)
        && !list(headers, &CACHE_CONTROL).any(|directive| directive.eq_ignore_ascii_case("no-transform"))
        && headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).is_some_and(is_worth_it)
}

/// Whether content of this type is text at heart, and not compressed already.
fn is_worth_it(content_type: &str) -> bool {
    let essence = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let Some((kind, subtype)) = essence.split_once('/') else { return false };
    match kind {
        "text" => true,
        "application" => {
            matches!(
                subtype,
                "json"
                    | "javascript"
                    | "x-javascript"
                    | "xml"
                    | "wasm"
                    | "graphql"
                    | "x-ndjson"
                    | "yaml"
                    | "sql"
                    | "vnd.ms-fontobject"
            ) || subtype.ends_with("+json")
                || subtype.ends_with("+xml")
                || subtype.ends_with("+yaml")
        }
        "image" => matches!(subtype, "svg+xml" | "x-icon" | "vnd.microsoft.icon" | "bmp"),
        "font" => matches!(subtype, "ttf" | "otf" | "sfnt" | "collection"),
        _ => false,
    }
}

/// The members of a list field, over all its lines.
fn list<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    headers.get_all(name).iter().filter_map(|line| line.to_str().ok()).flat_map(|line| line.split(',')).map(str::trim)
}

/// A content coding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Coding {
    Zstd,
    Brotli,
    Gzip,
}

impl Coding {
    /// In order of what they save for the time they take, which decides where the client is indifferent.
    const ALL: [Self; 3] = [Self::Zstd, Self::Brotli, Self::Gzip];

    const fn name(self) -> &'static str {
        match self {
            Self::Zstd => "zstd",
            Self::Brotli => "br",
            Self::Gzip => "gzip",
        }
    }

    /// The coding that the client likes best (RFC 9110 12.5.3), if it accepts any.
    fn best(headers: &HeaderMap) -> Option<Self> {
        let mut best = None;
        for coding in Self::ALL {
            let weight = weight_of(coding, headers);
            if weight > best.map_or(0, |(_, weight)| weight) {
                best = Some((coding, weight));
            }
        }
        best.map(|(coding, _)| coding)
    }
}

/// How much the client wants a coding, in thousandths; 0 for not at all.
fn weight_of(coding: Coding, headers: &HeaderMap) -> u16 {
    let mut any = 0;
    for member in list(headers, &ACCEPT_ENCODING) {
        let (name, parameters) = member.split_once(';').unwrap_or((member, ""));
        let weight = weight(parameters);
        match name.trim() {
            name if name.eq_ignore_ascii_case(coding.name()) => return weight,
            "*" => any = weight,
            _ => {}
        }
    }
    any
}

/// `q=0.5` as 500. A weight that breaks the grammar counts as a refusal: to send plain bytes is never wrong.
fn weight(parameters: &str) -> u16 {
    let parameters = parameters.trim();
    if parameters.is_empty() {
        return 1000;
    }
    let Some((name, value)) = parameters.split_once('=') else { return 0 };
    let good = name.trim().eq_ignore_ascii_case("q") && value.trim().len() <= 5;
    match value.trim().parse::<f32>() {
        // Between 0 and 1000, so that nothing is lost.
        Ok(weight) if good && (0.0..=1.0).contains(&weight) => (weight * 1000.0).round() as u16,
        _ => 0,
    }
}

/// A coding at work.
enum Encoder {
    Gzip(GzEncoder<Vec<u8>>),
    Brotli(Box<brotli::CompressorWriter<Vec<u8>>>),
    Zstd(zstd::stream::write::Encoder<'static, Vec<u8>>),
}

impl Encoder {
    /// Nothing where the library has no memory for it.
    fn new(coding: Coding, level: u32) -> Option<Self> {
        Some(match coding {
            Coding::Gzip => Self::Gzip(GzEncoder::new(Vec::new(), flate2::Compression::new(level))),
            Coding::Brotli => {
                Self::Brotli(Box::new(brotli::CompressorWriter::new(Vec::new(), BROTLI_BUFFER, level, WINDOW)))
            }
            Coding::Zstd => {
                let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), i32::try_from(level).ok()?).ok()?;
                encoder.window_log(WINDOW).ok()?;
                Self::Zstd(encoder)
            }
        })
    }

    /// Takes a piece and gives what has come out so far, all of it if `flush`.
    fn write(&mut self, piece: &[u8], flush: bool) -> Result<Vec<u8>> {
        let writer: &mut dyn Write = match self {
            Self::Gzip(encoder) => encoder,
            Self::Brotli(encoder) => encoder,
            Self::Zstd(encoder) => encoder,
        };
        let failed = || "an answer cannot be compressed";
        writer.write_all(piece).or_err_with(ErrorType::InternalError, failed)?;
        if flush {
            writer.flush().or_err_with(ErrorType::InternalError, failed)?;
        }
        Ok(std::mem::take(match self {
            Self::Gzip(encoder) => encoder.get_mut(),
            Self::Brotli(encoder) => encoder.get_mut(),
            Self::Zstd(encoder) => encoder.get_mut(),
        }))
    }

    /// Gives the rest and the coding's end.
    fn finish(self) -> Result<Bytes> {
        let rest = match self {
            Self::Gzip(encoder) => encoder.finish(),
            Self::Brotli(encoder) => Ok(encoder.into_inner()),
            Self::Zstd(encoder) => encoder.finish(),
        };
        rest.map(Bytes::from).or_err(ErrorType::InternalError, "a compressed answer cannot be ended")
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn the_client_decides_by_weight_and_the_order_where_it_is_indifferent() {
        for (accepted, expected) in [
            ("gzip", Some(Coding::Gzip)),
            ("GZIP;q=0.2, br;q=0.1", Some(Coding::Gzip)),
            ("gzip, deflate, br, zstd", Some(Coding::Zstd)),
            ("gzip, br", Some(Coding::Brotli)),
            ("*", Some(Coding::Zstd)),
            ("*;q=0.5, zstd;q=0", Some(Coding::Brotli)),
            ("gzip;q=0", None),
            ("gzip;q=0.000, identity", None),
            ("gzip;q=2", None),
            ("gzip;level=9", None),
            ("deflate", None),
            ("", None),
        ] {
            let headers = HeaderMap::from_iter([(ACCEPT_ENCODING, HeaderValue::from_static(accepted))]);
            assert_eq!(Coding::best(&headers), expected, "{accepted:?}");
        }
        assert_eq!(Coding::best(&HeaderMap::new()), None);
    }

    #[test]
    fn only_what_shrinks_is_compressed() {
        for kind in
            ["text/html; charset=utf-8", "Application/JSON", "application/problem+json", "image/svg+xml", "font/ttf"]
        {
            assert!(is_worth_it(kind), "{kind}");
        }
        for kind in [
            "image/png",
            "application/zip",
            "application/grpc",
            "application/octet-stream",
            "font/woff2",
            "video/mp4",
            "",
        ] {
            assert!(!is_worth_it(kind), "{kind}");
        }
    }

    #[test]
    fn answers_that_must_stay_as_they_are_do() {
        let answer = |status: u16, fields: &[(&'static str, &'static str)]| {
            let mut response = ResponseHeader::build(status, None).unwrap();
            response.insert_header(CONTENT_TYPE, "text/plain").unwrap();
            for (name, value) in fields {
                response.insert_header(*name, *value).unwrap();
            }
            may_be_coded(&response)
        };
        assert!(answer(200, &[]) && answer(404, &[("content-length", "128")]));
        for (status, field) in [
            (206, ("x-one", "1")),
            (204, ("x-one", "1")),
            (304, ("x-one", "1")),
            (200, ("content-range", "bytes 0-9/100")),
            (200, ("content-encoding", "gzip")),
            (200, ("content-length", "127")),
            (200, ("cache-control", "public, No-Transform")),
        ] {
            assert!(!answer(status, &[field]), "{status} {field:?}");
        }
    }
}
