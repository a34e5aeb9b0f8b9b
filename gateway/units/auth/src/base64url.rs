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
    let (quads, end) = text.as_chunks::<4>();
    let (triples, last) = out.as_chunks_mut::<3>();
    // Looked at once, at the end: a branch for each character costs more than all else.
    let mut wrong = 0;
    for (quad, triple) in quads.iter().zip(triples) {
        let bits = bits(quad);
        let [x, y, z, _] = bits.to_le_bytes();
        *triple = [x, y, z];
        wrong |= bits >> 24;
    }
    let bits = bits(end);
    last.copy_from_slice(&bits.to_le_bytes()[..last.len()]);
    // The bits that no octet takes must be zero: else one text had several spellings.
    wrong |= bits >> (8 * last.len());
    if wrong == 0 { Ok(out) } else { Err(BadBase64) }
}

/// The octets that up to four characters stand for, the first of them lowest, and a bit above all three where one of the
/// characters is outside the alphabet.
fn bits(characters: &[u8]) -> u32 {
    characters.iter().zip(&BITS).fold(0, |bits, (character, table)| bits | table[usize::from(*character)])
}

/// What each character stands for in each of its four places.
static BITS: [[u32; 256]; 4] = {
    let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut tables = [[1 << 31; 256]; 4];
    let mut value = 0;
    while value < 64 {
        let (character, bits) = (alphabet[value] as usize, value as u32);
        tables[0][character] = bits << 2;
        tables[1][character] = bits >> 4 | (bits & 0x0f) << 12;
        tables[2][character] = (bits >> 2) << 8 | (bits & 0x03) << 22;
        tables[3][character] = bits << 16;
        value += 1;
    }
    tables
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
