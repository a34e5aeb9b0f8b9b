//! Where one request's body ends: counted by its length, or followed chunk by chunk.
//!
//! Pingora decodes bodies itself; this only watches the bytes on their way to it, so that it is handed exactly this
//! request's and never the first of the next. The chunked coding is followed more strictly than RFC 9112 7.1 asks: no bare
//! LF, no white space around a size, extensions and trailers bounded, since lenient readings of these are how requests are
//! smuggled past a gateway.

use crate::breach::Breach;
use crate::head::{Framing, is_token_byte};

/// Bytes of one chunk's extensions, and of all of one body's: they carry nothing that anybody reads.
const CHUNK_EXTENSION: u32 = 256;
const ALL_EXTENSIONS: u32 = 16 * 1024;
/// Bytes of the trailer section.
const TRAILERS: u32 = 8 * 1024;
/// Hexadecimal digits of a chunk's size: no more than fit 63 bits.
const SIZE_DIGITS: u8 = 15;

/// The position within one request's body.
#[derive(Debug)]
pub struct Body {
    state: State,
    /// Payload bytes announced so far: all of a counted body at once, a chunked one's as its sizes arrive.
    announced: u64,
    extensions: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// So many bytes of a counted body are still to come.
    Counted(u64),
    /// Within a chunk's size: its value, and how many digits were seen.
    Size(u64, u8),
    /// Within a chunk's extensions: the chunk's size, and how many bytes of extension were seen.
    Extension(u64, u32),
    /// After the CR of a size line.
    SizeEnd(u64),
    /// Within a chunk's data.
    Data(u64),
    /// After a chunk's data, before its CR; and after that.
    DataEnd,
    DataLineFeed,
    /// At the start of a trailer line, within its name, within its value, after its CR: how many bytes of trailers so far.
    TrailerStart(u32),
    TrailerName(u32),
    TrailerValue(u32),
    TrailerLineFeed(u32),
    /// After the CR of the last, empty line.
    LastLineFeed,
    Done,
}

impl Body {
    /// At the start of a body that is framed so.
    pub fn new(framing: Framing) -> Self {
        let (state, announced) = match framing {
            Framing::Length(0) => (State::Done, 0),
            Framing::Length(length) => (State::Counted(length), length),
            Framing::Chunked => (State::Size(0, 0), 0),
        };
        Self { state, announced, extensions: 0 }
    }

    /// Whether the request is whole.
    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Payload bytes that the client has announced so far.
    pub fn announced(&self) -> u64 {
        self.announced
    }

    /// How many bytes may be handed on unseen, where the position allows it: they are then reported by
    /// [`passed`](Self::passed).
    pub fn unseen(&self) -> Option<u64> {
        match self.state {
            State::Counted(left) | State::Data(left) => Some(left),
            _ => None,
        }
    }

    /// Bytes within [`unseen`](Self::unseen) went by.
    pub fn passed(&mut self, count: u64) {
        self.state = match self.state {
            State::Counted(left) if left > count => State::Counted(left - count),
            State::Counted(_) => State::Done,
            State::Data(left) if left > count => State::Data(left - count),
            State::Data(_) => State::DataEnd,
            other => other,
        };
    }

    /// Follows `bytes`; gives how many of them belong to this body, which is all of them unless the body ends within.
    ///
    /// # Errors
    /// The first breach of the chunked coding.
    pub fn follow(&mut self, bytes: &[u8]) -> Result<usize, Breach> {
        let mut at = 0;
        while at < bytes.len() && !self.is_done() {
            if let Some(left) = self.unseen() {
                let here = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len() - at);
                self.passed(here as u64);
                at += here;
            } else {
                self.state = self.step(bytes[at])?;
                at += 1;
            }
        }
        Ok(at)
    }

    fn step(&mut self, byte: u8) -> Result<State, Breach> {
        Ok(match (self.state, byte) {
            (State::Size(_, 0), b'\r' | b';') => return Err(Breach::ChunkSize),
            (State::Size(size, _), b'\r') => State::SizeEnd(size),
            (State::Size(size, _), b';') => State::Extension(size, 1),
            (State::Size(size, digits), _) => {
                let digit = char::from(byte).to_digit(16).ok_or(Breach::ChunkSize)?;
                if digits >= SIZE_DIGITS {
                    return Err(Breach::ChunkSize);
                }
                State::Size((size << 4) | u64::from(digit), digits + 1)
            }
            (State::Extension(size, seen), b'\r') => {
                self.extensions += seen;
                if self.extensions > ALL_EXTENSIONS {
                    return Err(Breach::ChunkExtension);
                }
                State::SizeEnd(size)
            }
            (State::Extension(size, seen), _) => {
                if seen >= CHUNK_EXTENSION || is_control(byte) {
                    return Err(Breach::ChunkExtension);
                }
                State::Extension(size, seen + 1)
            }
            (State::SizeEnd(0), b'\n') => State::TrailerStart(0),
            (State::SizeEnd(size), b'\n') => {
                self.announced = self.announced.saturating_add(size);
                State::Data(size)
            }
            (State::SizeEnd(_), _) => return Err(Breach::ChunkSize),
            (State::DataEnd, b'\r') => State::DataLineFeed,
            (State::DataLineFeed, b'\n') => State::Size(0, 0),
            (State::DataEnd | State::DataLineFeed, _) => return Err(Breach::ChunkEnd),
            (State::TrailerStart(_), b'\r') => State::LastLineFeed,
            (State::TrailerName(seen), b':') => State::TrailerValue(more_trailer(seen)?),
            (State::TrailerStart(seen) | State::TrailerName(seen), _) if is_token_byte(byte) => {
                State::TrailerName(more_trailer(seen)?)
            }
            (State::TrailerValue(seen), b'\r') => State::TrailerLineFeed(more_trailer(seen)?),
            (State::TrailerValue(seen), _) if !is_control(byte) => State::TrailerValue(more_trailer(seen)?),
            (State::TrailerLineFeed(seen), b'\n') => State::TrailerStart(more_trailer(seen)?),
            (State::LastLineFeed, b'\n') => State::Done,
            // Where bytes go by unseen or the body is done, none is stepped through.
            (State::Counted(_) | State::Data(_) | State::Done, _) => self.state,
            _ => return Err(Breach::Trailer),
        })
    }
}

fn more_trailer(seen: u32) -> Result<u32, Breach> {
    if seen >= TRAILERS { Err(Breach::Trailer) } else { Ok(seen + 1) }
}

const fn is_control(byte: u8) -> bool {
    (byte < 0x20 && byte != b'\t') || byte == 0x7f
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use proptest::prelude::*;

    fn chunked(text: &str) -> Result<(usize, bool), Breach> {
        let mut body = Body::new(Framing::Chunked);
        body.follow(text.as_bytes()).map(|taken| (taken, body.is_done()))
    }

    #[test]
    fn a_chunked_body_ends_at_its_last_empty_line_and_not_a_byte_later() {
        for whole in [
            "0\r\n\r\n",
            "5\r\nhello\r\n0\r\n\r\n",
            "A;name=value\r\n0123456789\r\n00;x\r\n\r\n",
            "1\r\na\r\n0\r\nTrailer: x\r\nOther:\r\n\r\n",
        ] {
            assert_eq!(chunked(whole), Ok((whole.len(), true)), "{whole:?}");
            let with_next = format!("{whole}GET / HTTP/1.1\r\n\r\n");
            assert_eq!(chunked(&with_next), Ok((whole.len(), true)), "{with_next:?}");
            for cut in 0..whole.len() {
                assert_eq!(chunked(&whole[..cut]), Ok((cut, false)), "{:?}", &whole[..cut]);
            }
        }
    }

    #[test]
    fn whatever_lenient_parsers_read_in_two_ways_is_refused() {
        for (text, breach) in [
            ("\r\n", Breach::ChunkSize),
            ("5\nhello\r\n", Breach::ChunkSize),
            ("5 \r\nhello\r\n", Breach::ChunkSize),
            (" 5\r\nhello\r\n", Breach::ChunkSize),
            ("+5\r\nhello\r\n", Breach::ChunkSize),
            ("-1\r\n", Breach::ChunkSize),
            ("0x5\r\nhello\r\n", Breach::ChunkSize),
            ("5\rhello", Breach::ChunkSize),
            (";x\r\n", Breach::ChunkSize),
            ("0000000000000000\r\n\r\n", Breach::ChunkSize),
            ("ffffffffffffffff\r\n", Breach::ChunkSize),
            ("5;a\nhello\r\n", Breach::ChunkExtension),
            ("5;a\0\r\nhello\r\n", Breach::ChunkExtension),
            ("5\r\nhello0\r\n", Breach::ChunkEnd),
            ("5\r\nhello\n0\r\n", Breach::ChunkEnd),
            ("5\r\nhello\r0\r\n", Breach::ChunkEnd),
            ("0\r\nno-colon\r\n\r\n", Breach::Trailer),
            ("0\r\n folded: x\r\n\r\n", Breach::Trailer),
            ("0\r\nX: a\n\r\n", Breach::Trailer),
            ("0\r\nX: a\rb\r\n", Breach::Trailer),
            ("0\r\n\n", Breach::Trailer),
            ("0\r\n\rX", Breach::Trailer),
        ] {
            assert_eq!(chunked(text), Err(breach), "{text:?}");
        }
        assert_eq!(chunked(&format!("5;{}", "x".repeat(300))), Err(Breach::ChunkExtension));
        assert_eq!(chunked(&format!("0\r\nx: {}", "x".repeat(9000))), Err(Breach::Trailer));
        assert_eq!(chunked(&format!("1;{}\r\na\r\n", "x".repeat(200)).repeat(100)), Err(Breach::ChunkExtension));
    }

    #[test]
    fn a_counted_body_ends_at_its_length() {
        let mut body = Body::new(Framing::Length(5));
        assert_eq!(body.follow(b"he"), Ok(2));
        assert_eq!(body.unseen(), Some(3));
        assert_eq!(body.follow(b"lloGET"), Ok(3));
        assert!(body.is_done());
        assert!(Body::new(Framing::Length(0)).is_done());
    }

    proptest! {
        #[test]
        fn the_end_is_found_alike_however_the_bytes_arrive(
            text in proptest::string::string_regex("([0-9a-f]{1,2}(;[a-z]{0,3})?\r\n[a-z]{0,20}\r\n){0,4}0\r\n\r\n[A-Z]{0,4}").unwrap(),
            cuts in proptest::collection::vec(1_usize..7, 0..80),
        ) {
            let whole = chunked(&text);
            let mut body = Body::new(Framing::Chunked);
            let (mut at, mut taken) = (0_usize, Ok(0));
            for cut in cuts.into_iter().chain([usize::MAX]) {
                let end = at.saturating_add(cut).min(text.len());
                match (taken, body.follow(&text.as_bytes()[at..end])) {
                    (Ok(so_far), Ok(more)) => taken = Ok(so_far + more),
                    (_, Err(breach)) => { taken = Err(breach); break; }
                    (Err(_), _) => break,
                }
                at = end;
            }
            prop_assert_eq!(taken, whole.map(|(taken, _)| taken));
        }
    }
}
