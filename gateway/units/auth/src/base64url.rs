//! Base64url exactly as JOSE writes it (RFC 7515 section 2): no padding, no line breaks, no bits left over.
//!
//! The last point matters for caches and revocation lists: a decoder that ignores trailing bits lets one signature be
//! written in several ways, and then "the same token" has no meaning.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// A text that is not strict base64url.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not base64url without padding")]
pub(crate) struct BadBase64;

/// Decodes into a new vector.
pub(crate) fn decode(text: &[u8]) -> Result<Vec<u8>, BadBase64> {
    URL_SAFE_NO_PAD.decode(text).map_err(|_| BadBase64)
}

/// Decodes into the front of `out`, which bounds the length; gives the part written.
pub(crate) fn decode_slice<'a>(text: &[u8], out: &'a mut [u8]) -> Result<&'a [u8], BadBase64> {
    let length = URL_SAFE_NO_PAD.decode_slice(text, out).map_err(|_| BadBase64)?;
    out.get(..length).ok_or(BadBase64)
}

/// Encodes: for the thumbprints that operators see.
pub(crate) fn encode(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_one_canonical_spelling_is_read() {
        assert_eq!(decode(b"AQID_-8").as_deref(), Ok(&[1, 2, 3, 0xff, 0xef][..]));
        assert_eq!(decode(b"").as_deref(), Ok(&[][..]));
        // Padding, the other alphabet, white space, an impossible length, and bits left over.
        for bad in ["AQ==", "+/8", "A QI", "AQID\n", "A", "AQIDB", "AR", "AQIDA-9"] {
            assert_eq!(decode(bad.as_bytes()), Err(BadBase64), "{bad}");
        }
    }

    #[test]
    fn a_slice_bounds_what_is_decoded() {
        let mut room = [0; 4];
        assert_eq!(decode_slice(b"AQIDBA", &mut room), Ok(&[1, 2, 3, 4][..]));
        assert!(decode_slice(b"AQIDBAU", &mut room).is_err());
    }
}
