//! A watch over HTTP/2 frames on their way in: whether one is only partly there.
//!
//! The HTTP/2 library has no deadline for a frame, nor for a header block that spans several, so that a client could
//! hold a connection with a byte now and then. This follows nothing but frame boundaries (RFC 9113 4.1): nine bytes of
//! header, of which the length, the type and the flag END_HEADERS matter.

const HEADER: usize = 9;
const PREFACE: usize = 24;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PUSH_PROMISE: u8 = 5;
const CONTINUATION: u8 = 9;
const END_HEADERS: u8 = 4;

/// The position within a connection's frames.
#[derive(Debug)]
pub struct Frames {
    /// Bytes still to come of the preface or of a frame's payload.
    left: usize,
    header: [u8; HEADER],
    /// Bytes of the next frame's header that are there.
    have: usize,
    in_header_block: bool,
    in_data: bool,
}

/// What is partly there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Partial {
    /// Nothing: the next byte begins a frame.
    Nothing,
    /// Part of a DATA frame: a body's bytes, which may come slowly.
    Data,
    /// Part of another frame, or of a header block.
    Other,
}

impl Default for Frames {
    fn default() -> Self {
        Self::new()
    }
}

impl Frames {
    /// At the start of a connection, before the client's preface.
    pub fn new() -> Self {
        Self { left: PREFACE, header: [0; HEADER], have: 0, in_header_block: false, in_data: false }
    }

    /// Follows `bytes`; says whether a frame, or the whole of a header block, ended within them.
    pub fn follow(&mut self, mut bytes: &[u8]) -> bool {
        let mut ended = false;
        while !bytes.is_empty() {
            if self.left > 0 {
                let here = self.left.min(bytes.len());
                self.left -= here;
                bytes = &bytes[here..];
            } else {
                let here = (HEADER - self.have).min(bytes.len());
                self.header[self.have..self.have + here].copy_from_slice(&bytes[..here]);
                self.have += here;
                bytes = &bytes[here..];
                if self.have == HEADER {
                    self.begin_frame();
                }
            }
            ended |= self.left == 0 && self.have == 0 && !self.in_header_block;
        }
        ended
    }

    fn begin_frame(&mut self) {
        let [high, middle, low, kind, flags, ..] = self.header;
        self.left = usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low);
        self.have = 0;
        self.in_data = kind == DATA;
        if matches!(kind, HEADERS | PUSH_PROMISE | CONTINUATION) {
            self.in_header_block = flags & END_HEADERS == 0;
        }
    }

    /// What is partly there now.
    pub fn partial(&self) -> Partial {
        match (self.left, self.have) {
            (0, 0) if !self.in_header_block => Partial::Nothing,
            (1.., _) if self.in_data && !self.in_header_block => Partial::Data,
            _ => Partial::Other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, length: u8) -> Vec<u8> {
        let mut bytes = vec![0, 0, length, kind, flags, 0, 0, 0, 1];
        bytes.resize(HEADER + usize::from(length), 0);
        bytes
    }

    fn after(parts: &[&[u8]]) -> Partial {
        let mut frames = Frames::new();
        frames.follow(&[0; PREFACE]);
        for byte in parts.concat() {
            frames.follow(&[byte]);
        }
        frames.partial()
    }

    #[test]
    fn a_partial_frame_is_told_from_a_whole_one() {
        let (settings, data) = (frame(4, 0, 6), frame(DATA, 0, 20));
        assert_eq!(Frames::new().partial(), Partial::Other);
        assert_eq!(after(&[]), Partial::Nothing);
        assert_eq!(after(&[&settings]), Partial::Nothing);
        assert_eq!(after(&[&settings[..3]]), Partial::Other);
        assert_eq!(after(&[&settings[..11]]), Partial::Other);
        assert_eq!(after(&[&settings, &data[..12]]), Partial::Data);
        assert_eq!(after(&[&settings, &data]), Partial::Nothing);
    }

    #[test]
    fn frames_within_a_header_block_do_not_begin_its_time_anew() {
        let mut frames = Frames::new();
        assert!(frames.follow(&[0; PREFACE]));
        assert!(!frames.follow(&frame(HEADERS, 0, 5)));
        assert!(!frames.follow(&frame(CONTINUATION, 0, 5)));
        assert!(frames.follow(&frame(CONTINUATION, END_HEADERS, 5)));
    }

    #[test]
    fn a_header_block_is_partial_until_its_last_continuation() {
        let begun = frame(HEADERS, 0, 5);
        assert_eq!(after(&[&begun]), Partial::Other);
        assert_eq!(after(&[&begun, &frame(CONTINUATION, 0, 5)]), Partial::Other);
        assert_eq!(after(&[&begun, &frame(CONTINUATION, END_HEADERS, 0)]), Partial::Nothing);
        assert_eq!(after(&[&frame(HEADERS, END_HEADERS, 5)]), Partial::Nothing);
    }
}
