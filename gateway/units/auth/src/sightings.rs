//! What was seen once: whether a key comes again before it is worth a place that another would have to leave.
//!
//! A full cache that takes in every key it meets spends, on each one that never comes again, the memory of an entry, its
//! copy, and the end of another. Here such a key leaves a mark of four bytes, in one place that its hash leads to; only a key
//! that finds its own mark is let in. Marks overwrite each other, which bounds both the memory and how long ago "once" may be.
//! A mark of another key with the same 32 bits lets a key in early, and does no other harm: a mark is no proof of anything.

use std::sync::atomic::{AtomicU32, Ordering};

/// Marks of keys, by the keys' hashes.
pub(crate) struct Sightings {
    marks: Box<[AtomicU32]>,
}

impl Sightings {
    /// Marks in at most `bytes`, and at least one of them.
    pub(crate) fn new(bytes: usize) -> Self {
        let count = 1 << (bytes / size_of::<AtomicU32>()).max(1).ilog2();
        Self { marks: (0..count).map(|_| AtomicU32::new(0)).collect() }
    }

    /// Bytes that the marks take.
    pub(crate) fn bytes(&self) -> usize {
        size_of_val(&*self.marks)
    }

    /// Whether the key of this hash was here before, as far as is remembered. From now on it was.
    pub(crate) fn again(&self, hash: u64) -> bool {
        // The low half tells a key from others; the place comes of the high half. Zero is the mark of nobody.
        let (mark, place) = (hash as u32 | 1, (hash >> 32) as usize & (self.marks.len() - 1));
        let found = &self.marks[place];
        // Two that mark at once are each as good as the other.
        let again = found.load(Ordering::Relaxed) == mark;
        if !again {
            found.store(mark, Ordering::Relaxed);
        }
        again
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_known_the_second_time() {
        let sightings = Sightings::new(4096);
        assert_eq!(sightings.bytes(), 4096);
        for hash in [0, 1 << 32, u64::MAX] {
            assert_eq!([sightings.again(hash), sightings.again(hash), sightings.again(hash)], [false, true, true]);
        }
    }

    #[test]
    fn the_memory_is_bounded_and_the_oldest_marks_go() {
        let sightings = Sightings::new(64);
        // Twice as many keys as there are places, in every place.
        let keys = || (0..32_u64).map(|n| n << 32 | n << 1);
        assert!(keys().all(|key| !sightings.again(key)));
        assert_eq!(keys().skip(16).filter(|key| sightings.again(*key)).count(), 16);
        assert_eq!(sightings.bytes(), 64);
        assert!(Sightings::new(0).bytes() > 0);
    }
}
