//! The revocations in force, in little memory, asked on every request.
//!
//! An entry is a head of twelve bytes and its text (kind, issuer, value), laid end to end in the shard that a keyed hash of
//! the text leads to; a table holds offsets, four bytes each. So a million tokens named by UUIDs take some 75 MB, every
//! byte of them is compared (no collision can revoke another token), and what is in force can be listed and stored anew.
//!
//! A look-up takes one shard's read lock, which excludes no other look-up. There is one [`Writer`]; where an entry does not
//! fit, it copies the shard while readers go on and holds them off for the swap alone. Entries that are lifted or expired
//! leave holes, which the next copy closes.

use std::hash::{BuildHasher, Hasher as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};

use foldhash::quality::RandomState;
use hashbrown::HashTable;
use parking_lot::RwLock;
use sluice_vocabulary::IssuerName;

use super::record::{Kind, Record, Target};

const SHARDS: usize = 64;

/// Bytes before an entry's text: `expires_at` and `issued_before` (four each), kind, length of the issuer's name (one each),
/// length of the value (two).
const HEAD: usize = 12;

/// For so long after its `expires_at` a revocation is kept: the most that an issuer's `leeway` may add to a token's life.
pub(crate) const GRACE: u64 = 300;

/// A part of the list.
#[derive(Default)]
struct Shard {
    /// Offsets into `text`.
    table: HashTable<u32>,
    text: Vec<u8>,
    /// Bytes of `text` that no entry holds any more.
    holes: usize,
    /// No entry expires before this.
    earliest: u32,
}

/// The list, as requests see it.
pub(crate) struct List {
    shards: Box<[RwLock<Shard>]>,
    hasher: RandomState,
    counts: [AtomicI64; Kind::ALL.len()],
    bytes: AtomicUsize,
}

/// What became of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Added {
    /// It is in force, and was not before, or not so far.
    New,
    /// It was in force already.
    Known,
    /// What it is about has expired.
    Expired,
    /// There is no memory for it.
    Full,
}

/// The one who may change the list.
#[derive(Debug)]
pub(crate) struct Writer {
    list: Arc<List>,
}

/// An entry as it lies in `text`.
struct Seen<'t> {
    expires_at: u32,
    issued_before: u32,
    kind: u8,
    issuer: &'t [u8],
    value: &'t [u8],
    /// Head and text.
    length: usize,
}

impl<'t> Seen<'t> {
    /// The entry at `offset`. None is only there to be had without a panic: offsets are the table's own.
    fn at(text: &'t [u8], offset: usize) -> Option<Self> {
        let (head, rest) = text.get(offset..)?.split_first_chunk::<HEAD>()?;
        let [e0, e1, e2, e3, b0, b1, b2, b3, kind, issuer, v0, v1] = *head;
        let (issuer, rest) = rest.split_at_checked(usize::from(issuer))?;
        let value = rest.get(..usize::from(u16::from_le_bytes([v0, v1])))?;
        Some(Self {
            expires_at: u32::from_le_bytes([e0, e1, e2, e3]),
            issued_before: u32::from_le_bytes([b0, b1, b2, b3]),
            kind,
            issuer,
            value,
            length: HEAD + issuer.len() + value.len(),
        })
    }

    fn is_about(&self, kind: Kind, issuer: &str, value: &str) -> bool {
        self.kind == kind as u8 && *self.value == *value.as_bytes() && *self.issuer == *issuer.as_bytes()
    }

    fn record(&self) -> Option<Record> {
        let issuer = IssuerName::new(std::str::from_utf8(self.issuer).ok()?).ok()?;
        let value = std::str::from_utf8(self.value).ok()?.to_owned();
        let target = Target { kind: *Kind::ALL.get(usize::from(self.kind))?, issuer, value };
        Some(Record { target, issued_before: self.issued_before, expires_at: self.expires_at })
    }
}

fn is_over(expires_at: u32, now: u64) -> bool {
    now >= u64::from(expires_at) + GRACE
}

impl Shard {
    fn find(&self, hash: u64, kind: Kind, issuer: &str, value: &str) -> Option<(u32, Seen<'_>)> {
        let seen = |offset: u32| Seen::at(&self.text, offset as usize);
        let is_it = |offset: &u32| seen(*offset).is_some_and(|seen| seen.is_about(kind, issuer, value));
        let offset = *self.table.find(hash, is_it)?;
        Some((offset, seen(offset)?))
    }

    fn entries(&self) -> impl Iterator<Item = Seen<'_>> {
        self.table.iter().filter_map(|offset| Seen::at(&self.text, *offset as usize))
    }

    fn bytes(&self) -> usize {
        self.text.capacity() + self.table.allocation_size()
    }

    fn has_room(&self, length: usize) -> bool {
        self.text.capacity() - self.text.len() >= length && self.table.len() < self.table.capacity()
    }

    /// A copy without holes and without what is over at `now`, with room for `more` bytes and one entry.
    fn copied(&self, now: u64, more: usize, hasher: &RandomState) -> Self {
        let living = || self.entries().filter(|seen| !is_over(seen.expires_at, now));
        let (count, bytes) = living().fold((0, 0), |(count, bytes), seen| (count + 1, bytes + seen.length));
        // A quarter of room to grow keeps the mean cost of an entry constant and the waste small.
        let room = if more == 0 { bytes } else { (bytes + more) + (bytes + more) / 4 };
        let spare = usize::from(more > 0);
        let mut copy = Self {
            table: HashTable::with_capacity(count + spare),
            text: Vec::with_capacity(room),
            holes: 0,
            earliest: u32::MAX,
        };
        for seen in living() {
            let hash = hash(hasher, seen.kind, seen.issuer, seen.value);
            copy.push(hash, &seen, hasher);
        }
        copy
    }

    fn push(&mut self, hash: u64, seen: &Seen<'_>, hasher: &RandomState) {
        // A shard ends far below four gigabytes: see the bound of `max_memory`.
        let Ok(offset) = u32::try_from(self.text.len()) else { return };
        self.text.extend_from_slice(&seen.expires_at.to_le_bytes());
        self.text.extend_from_slice(&seen.issued_before.to_le_bytes());
        self.text.extend_from_slice(&[seen.kind, seen.issuer.len() as u8]);
        self.text.extend_from_slice(&(seen.value.len() as u16).to_le_bytes());
        self.text.extend_from_slice(seen.issuer);
        self.text.extend_from_slice(seen.value);
        self.earliest = self.earliest.min(seen.expires_at);
        let Self { table, text, .. } = self;
        table.insert_unique(hash, offset, |offset| {
            Seen::at(text, *offset as usize).map_or(0, |seen| self::hash(hasher, seen.kind, seen.issuer, seen.value))
        });
    }
}

fn hash(hasher: &RandomState, kind: u8, issuer: &[u8], value: &[u8]) -> u64 {
    let mut state = hasher.build_hasher();
    state.write(value);
    state.write(issuer);
    // The issuer's length keeps the two apart.
    state.write_u16(u16::from_le_bytes([kind, issuer.len() as u8]));
    state.finish()
}

impl List {
    /// An empty list, and the one who may change it.
    pub(crate) fn new() -> (Arc<Self>, Writer) {
        let list = Arc::new(Self {
            shards: (0..SHARDS).map(|_| RwLock::default()).collect(),
            hasher: RandomState::default(),
            counts: Default::default(),
            bytes: AtomicUsize::new(0),
        });
        (Arc::clone(&list), Writer { list })
    }

    /// The `issued_before` of the revocation of this target, if there is one and it is not over.
    pub(crate) fn find(&self, kind: Kind, issuer: &str, value: &str, now: u64) -> Option<u32> {
        let hash = hash(&self.hasher, kind as u8, issuer.as_bytes(), value.as_bytes());
        let shard = self.shard(hash)?.read();
        let (_, seen) = shard.find(hash, kind, issuer, value)?;
        (!is_over(seen.expires_at, now)).then_some(seen.issued_before)
    }

    /// Whether there is any of this kind: most requests need not look further.
    pub(crate) fn has(&self, kind: Kind) -> bool {
        self.counts[kind as usize].load(Ordering::Relaxed) > 0
    }

    /// How many there are of this kind.
    pub(crate) fn count(&self, kind: Kind) -> u64 {
        u64::try_from(self.counts[kind as usize].load(Ordering::Relaxed)).unwrap_or(0)
    }

    /// Bytes held.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Hands every entry to `each` until it breaks off, a shard at a time and without a lock held meanwhile.
    pub(crate) fn each<E>(&self, mut each: impl FnMut(Record) -> Result<(), E>) -> Result<(), E> {
        for shard in &self.shards {
            // An entry is copied as it is taken; text of a whole shard is a megabyte at a million entries.
            let records: Vec<Record> = shard.read().entries().filter_map(|seen| seen.record()).collect();
            records.into_iter().try_for_each(&mut each)?;
        }
        Ok(())
    }

    fn shard(&self, hash: u64) -> Option<&RwLock<Shard>> {
        // The table inside uses the low and the top bits; the middle is free.
        self.shards.get((hash >> 32) as usize % SHARDS)
    }

    fn count_entries(&self, kind: u8, by: i64) {
        if let Some(count) = self.counts.get(usize::from(kind)) {
            count.fetch_add(by, Ordering::Relaxed);
        }
    }
}

impl std::fmt::Debug for List {
    /// Without the entries.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("List").field("bytes", &self.bytes()).finish_non_exhaustive()
    }
}

impl Writer {
    /// Puts a record in force, or the later of both dates where its target has one already; takes at most `most` bytes for
    /// the whole list.
    pub(crate) fn add(&mut self, record: &Record, now: u64, most: usize) -> Added {
        let Record { target: Target { kind, issuer, value }, .. } = record;
        if is_over(record.expires_at, now) {
            return Added::Expired;
        }
        let seen = Seen {
            expires_at: record.expires_at,
            issued_before: record.issued_before,
            kind: *kind as u8,
            issuer: issuer.as_str().as_bytes(),
            value: value.as_bytes(),
            length: HEAD + issuer.as_str().len() + value.len(),
        };
        let hash = hash(&self.list.hasher, seen.kind, seen.issuer, seen.value);
        let Some(lock) = self.list.shard(hash) else { return Added::Full };
        let shard = lock.read();
        let found = shard.find(hash, *kind, issuer.as_str(), value);
        let found = found.map(|(offset, old)| (offset as usize, old.expires_at, old.issued_before));
        // There is no other writer, so what was read stays so between the locks.
        if let Some((offset, expires_at, issued_before)) = found {
            let later = if is_over(expires_at, now) {
                (record.expires_at, record.issued_before)
            } else {
                (expires_at.max(record.expires_at), issued_before.max(record.issued_before))
            };
            if later == (expires_at, issued_before) {
                return Added::Known;
            }
            drop(shard);
            if let Some(dates) = lock.write().text.get_mut(offset..offset + 8) {
                dates[..4].copy_from_slice(&later.0.to_le_bytes());
                dates[4..].copy_from_slice(&later.1.to_le_bytes());
            }
            return Added::New;
        }
        if !shard.has_room(seen.length) {
            let copy = shard.copied(now, seen.length, &self.list.hasher);
            let after = self.list.bytes() - shard.bytes() + copy.bytes();
            drop(shard);
            // What has expired is gone either way, which may already be enough.
            if after > most && after > self.list.bytes() {
                return Added::Full;
            }
            self.swap(lock, copy);
        } else {
            drop(shard);
        }
        lock.write().push(hash, &seen, &self.list.hasher);
        self.list.count_entries(seen.kind, 1);
        Added::New
    }

    /// Takes a target out. Says whether it was in force.
    pub(crate) fn lift(&mut self, target: &Target, now: u64) -> bool {
        let Target { kind, issuer, value } = target;
        let hash = hash(&self.list.hasher, *kind as u8, issuer.as_str().as_bytes(), value.as_bytes());
        let Some(lock) = self.list.shard(hash) else { return false };
        let mut shard = lock.write();
        let Some((offset, seen)) = shard.find(hash, *kind, issuer.as_str(), value) else { return false };
        let (length, over) = (seen.length, is_over(seen.expires_at, now));
        if let Ok(found) = shard.table.find_entry(hash, |held| *held == offset) {
            found.remove();
        }
        shard.holes += length;
        drop(shard);
        self.list.count_entries(*kind as u8, -1);
        !over
    }

    /// Forgets what is over, and gives its memory and that of holes back.
    pub(crate) fn sweep(&mut self, now: u64) {
        for lock in &self.list.shards {
            let shard = lock.read();
            let expired = !shard.table.is_empty() && is_over(shard.earliest, now);
            if expired || shard.holes > shard.text.len() / 8 {
                let copy = shard.copied(now, 0, &self.list.hasher);
                drop(shard);
                self.swap(lock, copy);
            }
        }
    }

    fn swap(&self, lock: &RwLock<Shard>, copy: Shard) {
        let after = copy.bytes();
        let mut counts = [0_i64; Kind::ALL.len()];
        let mut count = |shard: &Shard, by| {
            for seen in shard.entries() {
                if let Some(count) = counts.get_mut(usize::from(seen.kind)) {
                    *count += by;
                }
            }
        };
        count(&copy, 1);
        let old = std::mem::replace(&mut *lock.write(), copy);
        count(&old, -1);
        for (kind, by) in counts.into_iter().enumerate() {
            self.list.counts[kind].fetch_add(by, Ordering::Relaxed);
        }
        // Both are changed here alone.
        self.list.bytes.store(self.list.bytes() + after - old.bytes(), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    const PLENTY: usize = usize::MAX;

    fn target(kind: Kind, value: &str) -> Target {
        let value = if kind == Kind::Issuer { "" } else { value };
        Target { kind, issuer: IssuerName::new("corp").unwrap(), value: value.into() }
    }

    fn token(jti: &str, expires_at: u32) -> Record {
        Record { target: target(Kind::Token, jti), issued_before: 0, expires_at }
    }

    #[test]
    fn one_issuers_revocation_is_not_anothers_nor_one_kinds_that_of_another() {
        let (list, mut writer) = List::new();
        assert_eq!(writer.add(&token("a", 10), 0, PLENTY), Added::New);
        assert!(list.find(Kind::Token, "corp", "a", 0).is_some());
        for (kind, issuer, value) in [
            (Kind::Token, "cor", "pa"),
            (Kind::Token, "other", "a"),
            (Kind::Token, "corp", "b"),
            (Kind::Token, "corp", "A"),
            (Kind::Token, "corp", ""),
            (Kind::Subject, "corp", "a"),
            (Kind::Key, "corp", "a"),
        ] {
            assert!(list.find(kind, issuer, value, 0).is_none(), "{kind:?} {issuer} {value}");
        }
        assert!(list.has(Kind::Token) && !list.has(Kind::Key));
    }

    #[test]
    fn a_full_list_says_so_and_keeps_what_it_has() {
        let (list, mut writer) = List::new();
        let most = 100_000;
        let mut added = 0;
        for i in 0..10_000 {
            match writer.add(&token(&format!("token-{i}"), 1000), 0, most) {
                Added::New => added += 1,
                Added::Full => assert!(list.find(Kind::Token, "corp", &format!("token-{i}"), 0).is_none()),
                other => assert_eq!(other, Added::New),
            }
            assert!(list.bytes() <= most, "{} at {i}", list.bytes());
        }
        assert!((1000..5000).contains(&added), "{added}");
        assert_eq!(list.count(Kind::Token), added);
        // When all that has expired there is room again.
        let later = 1000 + GRACE;
        assert_eq!(writer.add(&token("late", 5000), later, most), Added::New);
        writer.sweep(later);
        assert_eq!(list.count(Kind::Token), 1);
        assert!(list.bytes() < 1000, "{}", list.bytes());
    }

    #[test]
    fn what_is_lifted_gives_its_memory_back() {
        let (list, mut writer) = List::new();
        (0..10_000).for_each(|i| assert_eq!(writer.add(&token(&format!("{i}"), 10), 0, PLENTY), Added::New));
        let before = list.bytes();
        (0..9_000).for_each(|i| assert!(writer.lift(&target(Kind::Token, &format!("{i}")), 0)));
        assert!(!writer.lift(&target(Kind::Token, "0"), 0));
        writer.sweep(0);
        assert_eq!(list.count(Kind::Token), 1_000);
        assert!(list.bytes() * 5 < before, "{} of {before}", list.bytes());
        assert!((9_000..10_000).all(|i| list.find(Kind::Token, "corp", &format!("{i}"), 0).is_some()));
    }

    #[derive(Debug, Clone)]
    enum Step {
        Add(Kind, u8, u32, u32),
        Lift(Kind, u8),
        Pass(u64),
        Sweep,
    }

    fn kinds() -> impl Strategy<Value = Kind> {
        (0..4_usize).prop_map(|index| Kind::ALL[index])
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            6 => (kinds(), 0..12_u8, 1..2000_u32, 1..2000_u32).prop_map(|(k, v, b, e)| Step::Add(k, v, b, e)),
            2 => (kinds(), 0..12_u8).prop_map(|(k, v)| Step::Lift(k, v)),
            1 => (0..400_u64).prop_map(Step::Pass),
            1 => Just(Step::Sweep),
        ];
        proptest::collection::vec(step, 0..200)
    }

    proptest! {
        /// The naive one: a map, whose entries are looked through in full and forgotten when they are over.
        #[test]
        fn it_says_what_a_naive_list_says(steps in steps()) {
            let (list, mut writer) = List::new();
            let mut naive: HashMap<(Kind, String), (u32, u32)> = HashMap::new();
            let mut now = 0;
            for step in steps {
                match step {
                    Step::Add(kind, value, issued_before, expires_at) => {
                        let target = target(kind, &value.to_string());
                        let over = u64::from(expires_at) + GRACE <= now;
                        let key = (kind, target.value.clone());
                        let added = writer.add(&Record { target, issued_before, expires_at }, now, PLENTY);
                        prop_assert_eq!(added == Added::Expired, over);
                        if !over {
                            let old = naive.get(&key).copied().unwrap_or_default();
                            let new = (old.0.max(issued_before), old.1.max(expires_at));
                            prop_assert_eq!(added == Added::Known, old == new);
                            naive.insert(key, new);
                        }
                    }
                    Step::Lift(kind, value) => {
                        let target = target(kind, &value.to_string());
                        let was = naive.remove(&(kind, target.value.clone())).is_some();
                        prop_assert_eq!(writer.lift(&target, now), was);
                    }
                    Step::Pass(seconds) => now += seconds,
                    Step::Sweep => writer.sweep(now),
                }
                naive.retain(|_, (_, expires_at)| u64::from(*expires_at) + GRACE > now);
                for kind in Kind::ALL {
                    for value in 0..12_u8 {
                        let target = target(kind, &value.to_string());
                        let found = list.find(kind, "corp", &target.value, now);
                        prop_assert_eq!(found, naive.get(&(kind, target.value)).map(|(before, _)| *before));
                    }
                }
            }
            writer.sweep(now);
            for kind in Kind::ALL {
                let of_kind = naive.keys().filter(|(k, _)| *k == kind).count() as u64;
                prop_assert_eq!(list.count(kind), of_kind);
            }
        }
    }
}
