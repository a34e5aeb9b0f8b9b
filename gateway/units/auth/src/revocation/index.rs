//! Which slots of a shard hold what: a byte of each entry's hash, laid out for a look-up that must wait for memory.
//!
//! A million entries are more than a processor's caches hold, so a look-up costs what it waits. A common table finds the
//! place of a place of an entry, and waits for each of them in turn. Here the bytes of all hashes are so few, one for each
//! slot, that they mostly stay near the processor, and the place of a byte is that of its entry: who is not here is told by
//! them alone, and who is by them and one line of memory.
//!
//! Fifteen bytes are a group; a hash belongs to one of them. An entry whose group is full is in the next that is not, and the
//! group then says, for good, that it overflowed. Nothing moves and nothing grows: whoever needs more room makes another.

/// Slots of a group.
const SLOTS: usize = 15;

/// Entries for each group when an index is full: more would overflow too often, fewer leave too much of the slots unused.
const FILL: usize = 13;

/// The tags of a group's slots, 0 where nothing is, and last whether it overflowed.
#[derive(Debug, Clone, Copy, Default)]
#[repr(align(16))]
struct Group([u8; SLOTS + 1]);

/// Slots by hash.
#[derive(Debug, Default)]
pub(super) struct Index {
    groups: Box<[Group]>,
    len: usize,
}

impl Index {
    /// With room for `entries`.
    pub(super) fn with_room(entries: usize) -> Self {
        Self { groups: vec![Group::default(); entries.div_ceil(FILL)].into(), len: 0 }
    }

    /// The slots of an index with room for `entries`.
    pub(super) fn slots_for(entries: usize) -> usize {
        entries.div_ceil(FILL) * SLOTS
    }

    /// The bytes of one with so many slots.
    pub(super) fn bytes_for(slots: usize) -> usize {
        slots / SLOTS * size_of::<Group>()
    }

    /// All slots: those in use are below this.
    pub(super) fn slots(&self) -> usize {
        self.groups.len() * SLOTS
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn has_room(&self) -> bool {
        self.len < self.groups.len() * FILL
    }

    /// The slot of this hash that `is_it`.
    pub(super) fn find(&self, hash: u64, is_it: impl Fn(usize) -> bool) -> Option<usize> {
        let own = self.own(hash);
        let mut at = own;
        loop {
            let group = self.groups.get(at)?;
            let mut found = group.matches(tag(hash));
            while found != 0 {
                let slot = at * SLOTS + found.trailing_zeros() as usize / 8;
                if is_it(slot) {
                    return Some(slot);
                }
                // Takes the lowest bit away.
                found &= found - 1;
            }
            if !group.overflowed() {
                return None;
            }
            at = if at + 1 == self.groups.len() { 0 } else { at + 1 };
            if at == own {
                return None;
            }
        }
    }

    /// Takes a slot for an entry of this hash. There is none where every group is full.
    pub(super) fn insert(&mut self, hash: u64) -> Option<usize> {
        let (own, groups) = (self.own(hash), self.groups.len());
        for at in (own..groups).chain(0..own) {
            let group = &mut self.groups[at];
            if let Some(free) = group.0[..SLOTS].iter().position(|tag| *tag == 0) {
                group.0[free] = tag(hash);
                self.len += 1;
                return Some(at * SLOTS + free);
            }
            group.0[SLOTS] = 1;
        }
        None
    }

    /// Gives a slot back.
    pub(super) fn remove(&mut self, slot: usize) {
        if let Some(group) = self.groups.get_mut(slot / SLOTS) {
            self.len -= usize::from(group.0[slot % SLOTS] != 0);
            group.0[slot % SLOTS] = 0;
        }
    }

    /// The slots in use, in no order.
    pub(super) fn iter(&self) -> impl Iterator<Item = usize> {
        let tags = self.groups.iter().flat_map(|group| &group.0[..SLOTS]);
        tags.enumerate().filter(|(_, tag)| **tag != 0).map(|(slot, _)| slot)
    }

    /// The group that a hash belongs to.
    fn own(&self, hash: u64) -> usize {
        // The low half of the hash, spread over the groups; below their number, so it fits.
        (((hash & u64::from(u32::MAX)) * self.groups.len() as u64) >> 32) as usize
    }
}

impl Group {
    /// A bit for each place with this tag, the eighth of as many.
    fn matches(&self, tag: u8) -> u128 {
        const EACH: u128 = u128::from_ne_bytes([1; SLOTS + 1]);
        const LOW: u128 = 0x7f * EACH;
        const SLOTS_ALONE: u128 = u128::MAX >> 8;
        let differing = u128::from_le_bytes(self.0) ^ (u128::from(tag) * EACH);
        // The high bit of each byte that is zero, and of no other: a slot that was given back must not be found again.
        !(((differing & LOW) + LOW) | differing | LOW) & SLOTS_ALONE
    }

    fn overflowed(&self) -> bool {
        self.0[SLOTS] != 0
    }
}

/// The top byte of the hash, which decides neither shard nor group, and never 0.
fn tag(hash: u64) -> u8 {
    ((hash >> 56) as u8).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_index_of_nothing_finds_nothing_and_has_no_room() {
        let mut index = Index::default();
        assert!(index.find(7, |_| true).is_none() && !index.has_room() && index.insert(7).is_none());
        index.remove(0);
        assert_eq!((index.len(), index.slots(), index.iter().count()), (0, 0, 0));
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn a_tag_is_seen_where_it_is_and_nowhere_else(tags in proptest::array::uniform16(0..4_u8), high: u8, tag in 1..4_u8) {
            let group = Group(tags.map(|tag| tag ^ high));
            let naive = (0..SLOTS).filter(|place| group.0[*place] == tag ^ high);
            prop_assert_eq!(group.matches(tag ^ high), naive.map(|place| 0x80 << (8 * place)).sum::<u128>());
        }

        /// Hashes of few kinds, so that groups overflow, and go on at the beginning after the last.
        #[test]
        fn what_is_put_in_is_found_in_its_slot_until_it_is_taken_out(
            room in 1..60_usize,
            steps in proptest::collection::vec((0..3_u8, 0..3_u64, 0..4_u64), 0..300),
        ) {
            let mut index = Index::with_room(room);
            let mut naive: Vec<(u64, usize)> = Vec::new();
            for (step, own, top) in steps {
                let hash = (own * 0x7fff_ffff) | (top << 56);
                if step > 0 && index.has_room() {
                    let slot = index.insert(hash);
                    prop_assert!(slot.is_some_and(|slot| slot < index.slots() && naive.iter().all(|(_, held)| *held != slot)));
                    naive.extend(slot.map(|slot| (hash, slot)));
                } else if let Some(place) = naive.iter().position(|(held, _)| *held == hash) {
                    let (_, slot) = naive.swap_remove(place);
                    index.remove(slot);
                    prop_assert_eq!(index.find(hash, |found| found == slot), None);
                }
                for (hash, slot) in &naive {
                    prop_assert_eq!(index.find(*hash, |found| found == *slot), Some(*slot));
                }
                let mut held: Vec<_> = naive.iter().map(|(_, slot)| *slot).collect();
                held.sort_unstable();
                prop_assert_eq!(index.len(), held.len());
                prop_assert_eq!(index.iter().collect::<Vec<_>>(), held);
            }
        }
    }
}
