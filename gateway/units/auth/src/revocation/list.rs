//! The revocations in force, in little memory, asked on every request.
//!
//! An entry is found by a keyed hash of its kind, issuer and value, and every byte of them is compared, so no collision can
//! revoke another token, and what is in force can be listed and stored anew. A million tokens named by UUIDs take 75 to 84
//! MB: a line of 64 bytes for each and a byte for its hash, and slots that are not used. See [`Shard`].
//!
//! A look-up takes one shard's read lock, which excludes no other look-up. There is one [`Writer`]; where an entry does not
//! fit, it copies the shard while readers go on and holds them off for the swap alone. Slots of entries that are lifted are
//! used again; the next copy closes what holes they leave elsewhere, and forgets what has expired.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};

use foldhash::quality::RandomState;
use parking_lot::RwLock;

use super::record::{Kind, Record, Target};
use super::shard::{About, Shard, is_over};

const SHARDS: usize = 64;

/// For so long after its `expires_at` a revocation is kept: the most that an issuer's `leeway` may add to a token's life.
pub(crate) const GRACE: u64 = 300;

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
        let about = About::new(kind, issuer, value);
        let hash = about.hash(&self.hasher);
        let shard = self.shard(hash)?.read();
        let (expires_at, issued_before) = shard.dates(shard.find(hash, &about)?);
        (!is_over(expires_at, now)).then_some(issued_before)
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
        // The index inside uses the low half and the top byte; the middle is free.
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

impl Target {
    fn about(&self) -> About<'_> {
        About::new(self.kind, self.issuer.as_str(), &self.value)
    }
}

impl Writer {
    /// Puts a record in force, or the later of both dates where its target has one already; takes at most `most` bytes for
    /// the whole list.
    pub(crate) fn add(&mut self, record: &Record, now: u64, most: usize) -> Added {
        if is_over(record.expires_at, now) {
            return Added::Expired;
        }
        let about = record.target.about();
        let hash = about.hash(&self.list.hasher);
        let Some(lock) = self.list.shard(hash) else { return Added::Full };
        let shard = lock.read();
        // There is no other writer, so what was read stays so between the locks.
        if let Some(slot) = shard.find(hash, &about) {
            let (expires_at, issued_before) = shard.dates(slot);
            let later = if is_over(expires_at, now) {
                (record.expires_at, record.issued_before)
            } else {
                (expires_at.max(record.expires_at), issued_before.max(record.issued_before))
            };
            if later == (expires_at, issued_before) {
                return Added::Known;
            }
            drop(shard);
            lock.write().set_dates(slot, later.0, later.1);
            return Added::New;
        }
        if shard.has_room_for(&about) {
            drop(shard);
        } else {
            let others = self.list.bytes() - shard.bytes();
            let is_too_much = |bytes: usize| others + bytes > most && others + bytes > self.list.bytes();
            // A full list may be told of a million more, and none of them is worth a copy that cannot be kept.
            if !shard.may_be_over(now) && is_too_much(shard.grown(&about)) {
                return Added::Full;
            }
            let copy = shard.copied(now, Some(&about), &self.list.hasher);
            drop(shard);
            // What has expired is gone either way, which may already be enough.
            if is_too_much(copy.bytes()) {
                return Added::Full;
            }
            self.swap(lock, copy);
        }
        lock.write().push(hash, &about, (record.expires_at, record.issued_before));
        self.list.count_entries(about.kind, 1);
        Added::New
    }

    /// Takes a target out. Says whether it was in force.
    pub(crate) fn lift(&mut self, target: &Target, now: u64) -> bool {
        let about = target.about();
        let hash = about.hash(&self.list.hasher);
        let Some(lock) = self.list.shard(hash) else { return false };
        let mut shard = lock.write();
        let Some(slot) = shard.find(hash, &about) else { return false };
        let (expires_at, _) = shard.dates(slot);
        shard.remove(slot);
        drop(shard);
        self.list.count_entries(about.kind, -1);
        !is_over(expires_at, now)
    }

    /// Forgets what is over, and gives its memory and that of what was lifted back.
    pub(crate) fn sweep(&mut self, now: u64) {
        for lock in &self.list.shards {
            let shard = lock.read();
            if shard.wants_copy(now) {
                let copy = shard.copied(now, None, &self.list.hasher);
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
    use sluice_vocabulary::IssuerName;
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
        let most = 1 << 20;
        let mut added = 0;
        for i in 0..20_000 {
            match writer.add(&token(&format!("token-{i}"), 1000), 0, most) {
                Added::New => added += 1,
                Added::Full => assert!(list.find(Kind::Token, "corp", &format!("token-{i}"), 0).is_none()),
                other => assert_eq!(other, Added::New),
            }
            assert!(list.bytes() <= most, "{} at {i}", list.bytes());
        }
        assert!((12_000..15_000).contains(&added), "{added}");
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
