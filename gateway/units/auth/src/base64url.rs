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
    // Just as long as need be, so that whoever keeps it need not move it.
    let mut out = vec![0; decoded_length(text)?];
    decode_slice(text, &mut out)?;
    Ok(out)
}

/// Decodes into the front of `out`, which bounds the length; gives the part written.
pub(crate) fn decode_slice<'a>(text: &[u8], out: &'a mut [u8]) -> Result<&'a [u8], BadBase64> {
    let out = out.get_mut(..decoded_length(text)?).ok_or(BadBase64)?;
    let (quads, rest) = text.as_chunks::<4>();
    let (triples, last) = out.as_chunks_mut::<3>();
    // Looked at once, at the end: a branch for each character costs more than all else.
    let mut seen = 0;
    for (quad, triple) in quads.iter().zip(triples) {
        let [a, b, c, d] = quad.map(value);
        seen |= a | b | c | d;
        let [_, x, y, z] = (u32::from(a) << 18 | u32::from(b) << 12 | u32::from(c) << 6 | u32::from(d)).to_be_bytes();
        *triple = [x, y, z];
    }
    match (rest, last) {
        ([a, b], [x]) => {
            let (a, b) = (value(*a), value(*b));
            // The bits that no octet takes must be zero: else one text had several spellings.
            seen |= a | b | nonzero(b & 0x0f);
            *x = a << 2 | b >> 4;
        }
        ([a, b, c], [x, y]) => {
            let (a, b, c) = (value(*a), value(*b), value(*c));
            seen |= a | b | c | nonzero(c & 0x03);
            (*x, *y) = (a << 2 | b >> 4, b << 4 | c >> 2);
        }
        _ => {}
    }
    if seen & NO_VALUE == 0 { Ok(out) } else { Err(BadBase64) }
}

/// The bit set in what [`value`] gives for a character outside the alphabet.
const NO_VALUE: u8 = 0x80;

/// The six bits that a character stands for.
fn value(character: u8) -> u8 {
    VALUES[usize::from(character)]
}

fn nonzero(bits: u8) -> u8 {
    if bits == 0 { 0 } else { NO_VALUE }
}

static VALUES: [u8; 256] = {
    let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut values = [NO_VALUE; 256];
    let mut value = 0;
    while value < alphabet.len() {
        values[alphabet[value] as usize] = value as u8;
        value += 1;
    }
    values
};

/// How many octets a text stands for, by its length; one character alone stands for nothing.
fn decoded_length(text: &[u8]) -> Result<usize, BadBase64> {
    let rest = match text.len() % 4 {
        0 => 0,
        2 => 1,
        3 => 2,
        _ => return Err(BadBase64),
    };
    Ok(text.len() / 4 * 3 + rest)
}

/// Encodes: for the thumbprints that operators see.
pub(crate) fn encode(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

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

    proptest! {
        #![proptest_config(ProptestConfig { cases: 1_000, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn the_base64_crate_reads_and_refuses_the_same(text in "[A-Za-z0-9_-]{0,40}[ -~]{0,2}") {
            prop_assert_eq!(decode(text.as_bytes()).ok(), URL_SAFE_NO_PAD.decode(&text).ok());
        }

        #[test]
        fn what_was_encoded_is_decoded_and_hostile_bytes_are_refused_alike(
            bytes in proptest::collection::vec(any::<u8>(), 0..80),
        ) {
            prop_assert_eq!(decode(encode(&bytes).as_bytes()), Ok(bytes.clone()));
            prop_assert_eq!(decode(&bytes).ok(), URL_SAFE_NO_PAD.decode(&bytes).ok());
        }
    }

    #[test]
    fn every_byte_in_every_place_of_the_end_is_read_as_the_base64_crate_reads_it() {
        for length in 1..=8 {
            for place in 0..length {
                for byte in 0..=u8::MAX {
                    let mut text = vec![b'A'; length];
                    text[place] = byte;
                    assert_eq!(decode(&text).ok(), URL_SAFE_NO_PAD.decode(&text).ok(), "{text:?}");
                }
            }
        }
    }
}
