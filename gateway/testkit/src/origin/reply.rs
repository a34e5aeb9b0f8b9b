//! What an origin may answer.

use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

/// One answer of an origin: what it says, how fast, and what becomes of the connection.
#[derive(Debug, Clone)]
pub struct Reply {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) content: Content,
    pub(crate) delay: Duration,
    pub(crate) ending: Ending,
    pub(crate) trailers: Option<HeaderMap>,
    early: bool,
}

/// The body of an answer, or what stands in its place.
#[derive(Debug, Clone)]
pub(crate) enum Content {
    /// These bytes, with a `Content-Length`.
    Bytes(Bytes),
    /// JSON that tells the request.
    Echo,
    /// Each of these pieces after its pause, of unknown length.
    Pieces { pieces: Vec<Bytes>, pause: Duration },
    /// This many zero bytes, streamed.
    Zeros { length: u64, announce: bool },
    /// The request's own body and trailers, streamed back as they come.
    Mirror,
    /// JSON that tells how many bytes the request's body had, which were read and dropped.
    Sink,
    /// A WebSocket that sends every message back.
    WebSocket,
    /// No answer, ever.
    Silence,
}

/// What becomes of the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    /// It is kept.
    Keep,
    /// TCP reset once the request was read, before any byte of an answer.
    ResetBefore,
    /// TCP reset once the head and every piece but the last were written.
    ResetWithin,
    /// TCP reset right after the last byte of the answer.
    ResetAfter,
    /// Closed before any byte of an answer.
    CloseBefore,
    /// Closed once the head and every piece but the last were written.
    CloseWithin,
}

impl Reply {
    fn new(content: Content) -> Self {
        Self {
            status: StatusCode::OK,
            headers: HeaderMap::new(),
            content,
            delay: Duration::ZERO,
            ending: Ending::Keep,
            trailers: None,
            early: false,
        }
    }

    /// 200 with JSON of the request: `method`, `target`, `path`, `authority`, `version`, `headers`, `body_length`,
    /// `connection`, and `body` where it is text of up to a MiB.
    #[must_use]
    pub fn echo() -> Self {
        Self::new(Content::Echo).header("content-type", "application/json")
    }

    /// 200 with these bytes.
    #[must_use]
    pub fn text(body: impl Into<Bytes>) -> Self {
        Self::new(Content::Bytes(body.into())).header("content-type", "text/plain")
    }

    /// An empty body with this status.
    #[must_use]
    pub fn status(status: u16) -> Self {
        Self::new(Content::Bytes(Bytes::new())).with_status(status)
    }

    /// 200 with JSON.
    #[must_use]
    pub fn json(value: &serde_json::Value) -> Self {
        Self::new(Content::Bytes(value.to_string().into())).header("content-type", "application/json")
    }

    /// 200 with `length` zero bytes under a `Content-Length`, produced as they are taken.
    #[must_use]
    pub fn zeros(length: u64) -> Self {
        Self::new(Content::Zeros { length, announce: true })
    }

    /// 200 with `length` zero bytes of unannounced length: chunked in HTTP/1.1.
    #[must_use]
    pub fn chunked_zeros(length: u64) -> Self {
        Self::new(Content::Zeros { length, announce: false })
    }

    /// 200 with these pieces, each after `pause`, of unannounced length.
    #[must_use]
    pub fn drip(pieces: impl IntoIterator<Item = impl Into<Bytes>>, pause: Duration) -> Self {
        let pieces = pieces.into_iter().map(Into::into).collect();
        Self::new(Content::Pieces { pieces, pause })
    }

    /// 200 with the request's own body and trailers, streamed as they come: a bidirectional gRPC method, for one.
    #[must_use]
    pub fn mirror() -> Self {
        Self::new(Content::Mirror)
    }

    /// Reads and drops the request's body, then 200 with `{"bytes": n}`.
    #[must_use]
    pub fn sink() -> Self {
        Self::new(Content::Sink).header("content-type", "application/json")
    }

    /// 101 and a WebSocket that sends every text and binary message back; 400 for a request that is no handshake.
    #[must_use]
    pub fn websocket() -> Self {
        Self::new(Content::WebSocket)
    }

    /// Reads the request and never answers.
    #[must_use]
    pub fn silence() -> Self {
        Self::new(Content::Silence)
    }

    /// A gRPC answer: these messages, then `grpc-status` in the trailers.
    #[must_use]
    pub fn grpc(messages: &[&[u8]], status: u32) -> Self {
        let pieces: Vec<Bytes> = messages.iter().map(|message| grpc_message(message)).collect();
        Self::drip(pieces, Duration::ZERO)
            .header("content-type", "application/grpc")
            .trailer("grpc-status", &status.to_string())
    }

    /// With this status.
    #[must_use]
    pub fn with_status(mut self, status: u16) -> Self {
        self.status = StatusCode::from_u16(status).expect("a status between 100 and 999");
        self
    }

    /// With one more header.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        append(&mut self.headers, name, value);
        self
    }

    /// With one more trailer. The body becomes one of unannounced length.
    #[must_use]
    pub fn trailer(mut self, name: &str, value: &str) -> Self {
        append(self.trailers.get_or_insert_default(), name, value);
        self
    }

    /// With this much time between the request and the first byte.
    #[must_use]
    pub fn after(mut self, delay: Duration) -> Self {
        self.delay = delay;
        self
    }

    /// Answers at the request's head, its body unread.
    #[must_use]
    pub fn early(mut self) -> Self {
        self.early = true;
        self
    }

    /// Resets the connection instead of answering.
    #[must_use]
    pub fn reset() -> Self {
        Self::status(200).ending(Ending::ResetBefore)
    }

    /// Closes the connection instead of answering.
    #[must_use]
    pub fn hang_up() -> Self {
        Self::status(200).ending(Ending::CloseBefore)
    }

    /// Resets the connection in the middle of the body: after all but the last piece of a drip, after half of other
    /// bodies.
    #[must_use]
    pub fn reset_within(self) -> Self {
        self.ending(Ending::ResetWithin)
    }

    /// Closes the connection in the middle of the body, where [`reset_within`](Self::reset_within) would reset it.
    #[must_use]
    pub fn close_within(self) -> Self {
        self.ending(Ending::CloseWithin)
    }

    /// Resets the connection right after the last byte of the answer.
    #[must_use]
    pub fn reset_after(self) -> Self {
        self.ending(Ending::ResetAfter)
    }

    /// Announces, by `Connection: close`, that the connection ends with this answer.
    #[must_use]
    pub fn close(self) -> Self {
        self.header("connection", "close")
    }

    fn ending(mut self, ending: Ending) -> Self {
        self.ending = ending;
        self
    }

    /// Whether the request's body stays unread, because the answer takes it over.
    pub(crate) fn leaves_body(&self) -> bool {
        self.early || matches!(self.content, Content::Mirror | Content::WebSocket)
    }
}

/// A message in gRPC's framing: uncompressed flag, length, bytes.
#[must_use]
pub fn grpc_message(message: &[u8]) -> Bytes {
    let mut framed = BytesMut::with_capacity(5 + message.len());
    framed.put_u8(0);
    framed.put_u32(u32::try_from(message.len()).expect("a message below 4 GiB"));
    framed.put_slice(message);
    framed.freeze()
}

fn append(headers: &mut HeaderMap, name: &str, value: &str) {
    headers.append(
        HeaderName::from_bytes(name.as_bytes()).expect("a header name"),
        HeaderValue::from_str(value).expect("a header value"),
    );
}
