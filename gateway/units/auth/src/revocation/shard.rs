//! A part of the list: entries in lines of 64 bytes, which is what a processor loads at once, each in the slot that the
//! [`Index`] has for it.
//!
//! A line is a head of twelve bytes and the entry's text (issuer, value), up to 52 bytes of it. Of a longer text the line has
//! 48 bytes, and the place of the others, which are laid end to end elsewhere.

use std::borrow::Cow;
use std::hash::{BuildHasher, Hasher as _};

use foldhash::quality::RandomState;
use sluice_vocabulary::IssuerName;

use super::index::Index;
use super::list::GRACE;
use super::record::{Kind, Record, Target};

/// Bytes before an entry's text: `expires_at` and `issued_before` (four each), kind, length of the issuer's name (one each),
/// length of the value (two).
const HEAD: usize = 12;

/// The longest text that is in its line whole.
const WHOLE: usize = 64 - HEAD;

/// What is in the line of a longer one, before four bytes that say where the others are.
const NEAR: usize = WHOLE - 4;

#[derive(Debug, Clone)]
#[repr(align(64))]
struct Line([u8; 64]);

/// A part of the list.
#[derive(Debug, Default)]
pub(super) struct Shard {
    index: Index,
    /// By slot.
    lines: Box<[Line]>,
    /// What texts have beyond their lines.
    far: Vec<u8>,
    /// Bytes of `far` that no entry holds any more.
    holes: usize,
    /// No entry expires before this.
    earliest: u32,
}

/// What an entry is about, as bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct About<'t> {
    pub(super) kind: u8,
    pub(super) issuer: &'t [u8],
    pub(super) value: &'t [u8],
}

/// An entry.
#[derive(Debug)]
pub(super) struct Seen<'t> {
    pub(super) expires_at: u32,
    pub(super) issued_before: u32,
    pub(super) kind: u8,
    issuer_length: usize,
    /// Issuer and value.
    text: Cow<'t, [u8]>,
}

impl<'t> About<'t> {
    pub(super) fn new(kind: Kind, issuer: &'t str, value: &'t str) -> Self {
        Self { kind: kind as u8, issuer: issuer.as_bytes(), value: value.as_bytes() }
    }

    pub(super) fn hash(&self, hasher: &RandomState) -> u64 {
        let mut state = hasher.build_hasher();
        state.write(self.value);
        state.write(self.issuer);
        // The issuer's length keeps the two apart.
        state.write_u16(u16::from_le_bytes([self.kind, self.issuer.len() as u8]));
        state.finish()
    }

    /// The last four bytes of a head; none where a length is beyond what an entry may have.
    fn shape(&self) -> Option<[u8; 4]> {
        let [low, high] = u16::try_from(self.value.len()).ok()?.to_le_bytes();
        Some([self.kind, u8::try_from(self.issuer.len()).ok()?, low, high])
    }

    fn length(&self) -> usize {
        self.issuer.len() + self.value.len()
    }
}

impl Seen<'_> {
    fn about(&self) -> About<'_> {
        let (issuer, value) = self.text.split_at_checked(self.issuer_length).unwrap_or_default();
        About { kind: self.kind, issuer, value }
    }

    pub(super) fn record(&self) -> Option<Record> {
        let About { issuer, value, .. } = self.about();
        let issuer = IssuerName::new(std::str::from_utf8(issuer).ok()?).ok()?;
        let value = std::str::from_utf8(value).ok()?.to_owned();
        let target = Target { kind: *Kind::ALL.get(usize::from(self.kind))?, issuer, value };
        Some(Record { target, issued_before: self.issued_before, expires_at: self.expires_at })
    }
}

impl Line {
    /// `expires_at` and `issued_before`.
    fn dates(&self) -> (u32, u32) {
        let [e0, e1, e2, e3, b0, b1, b2, b3, ..] = self.0;
        (u32::from_le_bytes([e0, e1, e2, e3]), u32::from_le_bytes([b0, b1, b2, b3]))
    }

    fn set_dates(&mut self, expires_at: u32, issued_before: u32) {
        self.0[..4].copy_from_slice(&expires_at.to_le_bytes());
        self.0[4..8].copy_from_slice(&issued_before.to_le_bytes());
    }

    /// The length of the issuer's name, and of the whole text.
    fn lengths(&self) -> (usize, usize) {
        let issuer = usize::from(self.0[9]);
        (issuer, issuer + usize::from(u16::from_le_bytes([self.0[10], self.0[11]])))
    }

    /// The text here, and what of `far` goes on from it.
    fn text<'t>(&'t self, far: &'t [u8]) -> [&'t [u8]; 2] {
        let (_, length) = self.lengths();
        if length <= WHOLE {
            return [&self.0[HEAD..HEAD + length], &[]];
        }
        let [.., p0, p1, p2, p3] = self.0;
        let place = u32::from_le_bytes([p0, p1, p2, p3]) as usize;
        // It is there; none is only to be had without a panic.
        [&self.0[HEAD..HEAD + NEAR], far.get(place..place + length - NEAR).unwrap_or_default()]
    }
}

pub(super) fn is_over(expires_at: u32, now: u64) -> bool {
    now >= u64::from(expires_at) + GRACE
}

/// What of a text of this length is beyond its line.
fn far(length: usize) -> usize {
    if length <= WHOLE { 0 } else { length - NEAR }
}

/// An eighth of room to grow keeps the mean cost of an entry constant and the waste small.
fn with_room(held: usize) -> usize {
    held + held / 8
}

impl Shard {
    /// The slot of what is about this.
    pub(super) fn find(&self, hash: u64, about: &About<'_>) -> Option<usize> {
        let shape = about.shape()?;
        self.index.find(hash, |slot| self.lines.get(slot).is_some_and(|line| self.is_about(line, about, shape)))
    }

    fn is_about(&self, line: &Line, about: &About<'_>, shape: [u8; 4]) -> bool {
        if line.0[8..HEAD] != shape {
            return false;
        }
        let [near, far] = line.text(&self.far);
        match near.split_at_checked(about.issuer.len()) {
            Some((issuer, value)) if far.is_empty() => value == about.value && issuer == about.issuer,
            _ => near.iter().chain(far).eq(about.issuer.iter().chain(about.value)),
        }
    }

    /// `expires_at` and `issued_before` of the entry in a slot that was found.
    pub(super) fn dates(&self, slot: usize) -> (u32, u32) {
        self.lines.get(slot).map_or((0, 0), Line::dates)
    }

    pub(super) fn set_dates(&mut self, slot: usize, expires_at: u32, issued_before: u32) {
        if let Some(line) = self.lines.get_mut(slot) {
            line.set_dates(expires_at, issued_before);
        }
    }

    pub(super) fn entries(&self) -> impl Iterator<Item = Seen<'_>> {
        self.index.iter().filter_map(|slot| {
            let line = self.lines.get(slot)?;
            let (expires_at, issued_before) = line.dates();
            let text = match line.text(&self.far) {
                [near, []] => near.into(),
                pieces => pieces.concat().into(),
            };
            Some(Seen { expires_at, issued_before, kind: line.0[8], issuer_length: line.lengths().0, text })
        })
    }

    pub(super) fn bytes(&self) -> usize {
        Self::bytes_for(self.index.slots()) + self.far.capacity()
    }

    fn bytes_for(slots: usize) -> usize {
        Index::bytes_for(slots) + slots * size_of::<Line>()
    }

    pub(super) fn has_room_for(&self, about: &About<'_>) -> bool {
        self.index.has_room() && self.far.capacity() - self.far.len() >= far(about.length())
    }

    /// The bytes of a [copy](Self::copied) with room for `more`, where no entry is over.
    pub(super) fn grown(&self, more: &About<'_>) -> usize {
        let slots = Index::slots_for(with_room(self.index.len() + 1));
        Self::bytes_for(slots) + with_room(self.far.len() - self.holes + far(more.length()))
    }

    /// Whether an entry may be over, or a copy would be smaller by a fifth.
    pub(super) fn wants_copy(&self, now: u64) -> bool {
        let needed = Self::bytes_for(Index::slots_for(self.index.len())) + self.far.len() - self.holes;
        self.may_be_over(now) || self.bytes() > needed + needed / 4
    }

    pub(super) fn may_be_over(&self, now: u64) -> bool {
        self.index.len() > 0 && is_over(self.earliest, now)
    }

    /// A copy without holes and without what is over at `now`, with room for `more` and to grow where there is more.
    pub(super) fn copied(&self, now: u64, more: Option<&About<'_>>, hasher: &RandomState) -> Self {
        let living = || self.entries().filter(|seen| !is_over(seen.expires_at, now));
        let held = living().fold((0, 0), |(count, bytes), seen| (count + 1, bytes + far(seen.text.len())));
        let (count, bytes) = match more {
            None => held,
            Some(more) => (with_room(held.0 + 1), with_room(held.1 + far(more.length()))),
        };
        let index = Index::with_room(count);
        let lines = vec![Line([0; 64]); index.slots()].into();
        let mut copy = Self { index, lines, far: Vec::with_capacity(bytes), holes: 0, earliest: u32::MAX };
        for seen in living() {
            let about = seen.about();
            copy.push(about.hash(hasher), &about, (seen.expires_at, seen.issued_before));
        }
        copy
    }

    /// Puts in what is not there and has room.
    pub(super) fn push(&mut self, hash: u64, about: &About<'_>, (expires_at, issued_before): (u32, u32)) {
        // Far below four gigabytes: see the bound of `max_memory`.
        let (Some(shape), Ok(place)) = (about.shape(), u32::try_from(self.far.len())) else { return };
        let Some(line) = self.index.insert(hash).and_then(|slot| self.lines.get_mut(slot)) else { return };
        line.set_dates(expires_at, issued_before);
        line.0[8..HEAD].copy_from_slice(&shape);
        self.earliest = self.earliest.min(expires_at);
        let text = about.issuer.iter().chain(about.value);
        if about.length() <= WHOLE {
            line.0[HEAD..].iter_mut().zip(text).for_each(|(byte, own)| *byte = *own);
            return;
        }
        line.0[HEAD..].iter_mut().zip(text.clone()).take(NEAR).for_each(|(byte, own)| *byte = *own);
        line.0[HEAD + NEAR..].copy_from_slice(&place.to_le_bytes());
        self.far.extend(text.skip(NEAR));
    }

    /// Takes out what is in a slot that was found.
    pub(super) fn remove(&mut self, slot: usize) {
        self.index.remove(slot);
        self.holes += self.lines.get(slot).map_or(0, |line| far(line.lengths().1));
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn a_line_is_what_a_processor_loads_at_once() {
        assert_eq!((size_of::<Line>(), align_of::<Line>()), (64, 64));
    }

    #[test]
    fn texts_of_every_length_are_found_whole_and_read_back() {
        let hasher = RandomState::default();
        let values: Vec<_> = (0..=512_usize).map(|length| format!("{length}-{}", "x".repeat(length))).collect();
        let values: Vec<_> = values.iter().map(|value| &value[..value.len().min(512)]).collect();
        let abouts = |issuer| values.iter().map(move |value| About::new(Kind::Token, issuer, value));
        let long = "i".repeat(60);
        let mut shard = Shard::default();
        for issuer in ["i", long.as_str()] {
            for about in abouts(issuer) {
                if !shard.has_room_for(&about) {
                    let copy = shard.copied(0, Some(&about), &hasher);
                    assert_eq!(copy.bytes(), shard.grown(&about));
                    shard = copy;
                }
                shard.push(about.hash(&hasher), &about, (about.length() as u32, 7));
            }
        }
        let all = || ["i", long.as_str()].into_iter().flat_map(abouts);
        for about in all() {
            let slot = shard.find(about.hash(&hasher), &about).unwrap();
            assert_eq!(shard.dates(slot), (about.length() as u32, 7));
            let mut other = about.value.to_vec();
            *other.last_mut().unwrap() ^= 1;
            let other = About { value: &other, ..about };
            assert_eq!(shard.find(about.hash(&hasher), &other), None, "one bit differs");
        }
        let mut read: Vec<_> = shard.entries().map(|seen| seen.record().unwrap().target.value).collect();
        let mut put: Vec<_> = all().map(|about| String::from_utf8(about.value.to_vec()).unwrap()).collect();
        read.sort_unstable();
        put.sort_unstable();
        assert_eq!(read, put);
        let copy = shard.copied(0, None, &hasher);
        assert!(all().all(|about| copy.find(about.hash(&hasher), &about).is_some()));
        assert!(copy.bytes() <= shard.bytes() && !copy.wants_copy(0));
    }
}
