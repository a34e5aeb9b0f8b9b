//! What a client can do wrong before a request exists: one name each, and the answer that follows from it.
//!
//! The vocabulary's [`Reason`] is what a client is told; a breach is what an operator is told, in the `breach` label of a
//! counter and in the log. Several breaches share one reason, since a client that smuggles learns nothing from knowing
//! which check caught it.

use std::fmt;

use sluice_vocabulary::Reason;

macro_rules! breaches {
    ($( $(#[$doc:meta])* $variant:ident = $reason:ident $slug:literal; )*) => {
        /// A way in which a client breaks HTTP/1's grammar, framing or limits.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum Breach { $( $(#[$doc])* $variant, )* }

        impl Breach {
            /// Every breach, in the table's order; the position of each equals its discriminant.
            pub const ALL: &'static [Breach] = &[ $( Breach::$variant, )* ];

            /// What the client is told.
            pub const fn reason(self) -> Reason {
                match self { $( Self::$variant => Reason::$reason, )* }
            }

            /// The stable name: the value of the `breach` label and log field.
            pub const fn slug(self) -> &'static str {
                match self { $( Self::$variant => $slug, )* }
            }
        }
    };
}

breaches! {
    /// The first byte cannot begin a request: often TLS sent to a cleartext port.
    NotHttp = BadRequest "not-http";
    /// The request line is not `method SP target SP version`.
    RequestLine = BadRequest "request-line";
    /// The version is neither HTTP/1.1 nor HTTP/1.0.
    Version = BadRequest "version";
    /// A line ends in LF without CR (RFC 9112 2.2 lets a recipient accept it; parsers disagree, so we do not).
    BareLineFeed = BadRequest "bare-lf";
    /// A CR that does not end a line.
    BareCarriageReturn = BadRequest "bare-cr";
    /// A header line that continues the one before it (RFC 9112 5.2).
    ObsoleteFold = BadRequest "obs-fold";
    /// White space between a field's name and its colon (RFC 9112 5.1).
    SpaceBeforeColon = BadRequest "space-before-colon";
    /// A field name that is empty or holds what a token may not, or a line without a colon.
    FieldName = BadRequest "field-name";
    /// NUL or another control byte in a field value.
    FieldValue = BadRequest "field-value";
    /// A request target of no form that is proxied, or with bytes that no URI holds.
    Target = BadTarget "target";
    /// CONNECT: this gateway is no tunnel.
    Connect = MethodNotAllowed "connect";
    /// HTTP/1.1 without a Host field.
    HostMissing = BadHost "host-missing";
    /// More than one Host field.
    HostRepeated = BadHost "host-repeated";
    /// A Host, or an absolute target's authority, that is not `host` or `host:port`.
    HostInvalid = BadHost "host-invalid";
    /// A Content-Length that is not a number, or does not fit 63 bits.
    ContentLength = BadRequest "content-length";
    /// More than one Content-Length, alike or not.
    ContentLengthRepeated = BadRequest "content-length-repeated";
    /// A Transfer-Encoding that is anything but one `chunked`.
    TransferEncoding = BadRequest "transfer-encoding";
    /// A Transfer-Encoding in an HTTP/1.0 request (RFC 9112 6.1).
    TransferEncodingOld = BadRequest "transfer-encoding-http10";
    /// An Expect other than `100-continue`.
    Expectation = ExpectationFailed "expectation";
    /// The head is larger than the limit.
    HeaderSize = HeaderTooLarge "header-size";
    /// The head has more fields than the limit.
    HeaderFields = HeaderTooLarge "header-fields";
    /// The head did not arrive whole in time.
    HeaderTimeout = RequestTimeout "header-timeout";
    /// The client ended its side within the head.
    HeaderTruncated = BadRequest "header-truncated";
    /// A chunk-size line that is not a hexadecimal number, or too large a one.
    ChunkSize = BadRequest "chunk-size";
    /// A chunk extension that is too long or holds control bytes.
    ChunkExtension = BadRequest "chunk-extension";
    /// Chunk data not followed by CRLF.
    ChunkEnd = BadRequest "chunk-end";
    /// A trailer section that is too long or holds what a header may not.
    Trailer = BadRequest "trailer";
    /// The body is larger than the limit.
    BodySize = BodyTooLarge "body-size";
    /// Nothing of the body arrived for longer than the limit.
    BodySilence = RequestTimeout "body-silence";
    /// The body arrives more slowly than the limit.
    BodyRate = RequestTimeout "body-rate";
    /// An HTTP/2 frame, or a header block of several, did not arrive whole in time.
    FrameTimeout = RequestTimeout "frame-timeout";
}

impl Breach {
    /// The position in [`Breach::ALL`].
    pub(crate) const fn index(self) -> usize {
        self as usize
    }
}

impl fmt::Display for Breach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.slug())
    }
}

impl std::error::Error for Breach {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_breach_has_a_name_of_its_own_and_stands_at_its_index() {
        let mut slugs: Vec<_> = Breach::ALL.iter().map(|breach| breach.slug()).collect();
        slugs.sort_unstable();
        slugs.dedup();
        assert_eq!(slugs.len(), Breach::ALL.len());
        for (position, breach) in Breach::ALL.iter().enumerate() {
            assert_eq!(breach.index(), position);
        }
    }
}
