//! Tokens taken back before they expire, without asking anybody about each.
//!
//! What is revoked is a token by its `jti`, a subject's tokens or an issuer's that were issued before an instant, or
//! whatever a key signed; a token without a `jti` can only be meant by one of the last three, and one without an `iat`
//! counts as issued before any instant. It comes by the operator's door, from a file and from a URL, in one form
//! (`record`), into one list in memory (`list`), which every request asks, whether its token is new or was verified before:
//! so a revocation is in force as soon as it is in the list. From there it goes on to a store on disk (`store`), if one is
//! configured. Each is forgotten when the last token that it may concern has expired.
//!
//! A feed only ever adds. What its document leaves out stays revoked, as does everything while it cannot be read: nothing
//! is lifted but by an operator, at the door.
//!
//! Fail closed: with a store that was not read, and with `required` feeds that were never heard, nobody knows what is
//! revoked; tokens are then answered 503.
//!
//! In reading order: what may be configured ([`config`]), `record`, `list` with its `shard`s and their `index`, `store`, what
//! ties them together (here), what feeds it (`feed`), what operators see and order (`door`), what is counted (`metrics`).

pub(crate) mod config;
mod record;
mod index;
mod shard;
mod list;
mod store;
mod feed;
mod door;
mod metrics;
#[doc(hidden)]
pub mod measure;

use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use prometheus_client::registry::Registry;
use rustls::RootCertStore;
use sluice_vocabulary::claims::Raw;
use sluice_vocabulary::clock::Clock;
use sluice_vocabulary::{Identity, IssuerName};

use crate::claims;
use crate::fetch::{self, HttpClient, UrlSource};
use config::RevocationConfig;
pub(crate) use feed::tend;
use list::{Added, List, Writer};
use metrics::Metrics;
pub(crate) use metrics::Sizes;
pub(crate) use record::Kind;
use record::{BadLines, Entry, Record, Target};
use store::{Store, StoreFault};

/// How revocations come here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    Door,
    File,
    Url,
}

impl Way {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Door => "door",
            Self::File => "file",
            Self::Url => "url",
        }
    }
}

/// What revocations say of a token.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Judgement {
    /// Nothing.
    Good,
    /// It was revoked, by this.
    Revoked(Kind),
    /// It is not known what was revoked: why, for the operator.
    Unknown(&'static str),
}

/// A validated configuration, made ready.
#[derive(Debug)]
pub(crate) struct Plan {
    config: RevocationConfig,
    store: Option<PathBuf>,
    file: Option<PathBuf>,
    url: Option<UrlSource>,
}

impl Plan {
    fn nothing() -> Self {
        Self { config: RevocationConfig::default(), store: None, file: None, url: None }
    }
}

/// How it is with a file or a URL.
#[derive(Debug, Clone, Default)]
struct Heard {
    /// When it was last read without a fault.
    last: Option<Instant>,
    reads: u64,
    /// Why the last reading failed, if it did.
    error: Option<String>,
    /// What was wrong in the last document.
    bad: BadLines,
}

/// How it is with the store.
#[derive(Debug, Default)]
struct Kept {
    /// The folder whose store was read.
    loaded: Option<PathBuf>,
    /// Why it cannot be read or written, if it cannot.
    fault: Option<String>,
}

/// What changes the list, and what of that is yet to be stored.
#[derive(Debug)]
struct Desk {
    writer: Writer,
    journal: Journal,
    /// Lines for the store, in the order in which the list changed.
    pending: String,
    /// Whether records found no memory since the last that did.
    full: bool,
}

/// How changes reach the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Journal {
    /// There is none.
    Off,
    /// By lines.
    On,
    /// Not at all, since it could not be written: next time, it is written anew as a whole.
    Behind,
}

/// What became of some records.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Taken {
    /// In force now and not before.
    new: u64,
    /// In force already.
    known: u64,
    /// About what has expired.
    expired: u64,
    /// Without memory for them.
    full: u64,
}

const OPEN: u8 = 0;
const STORE_NOT_READ: u8 = 1;
const FEED_NOT_HEARD: u8 = 2;

/// All about revocations, for the life of the unit.
pub(crate) struct Revocations {
    list: Arc<List>,
    /// Whether it is known what is revoked.
    gate: AtomicU8,
    /// Held while that is found out: who began before a change must not have the last word after it.
    settling: Mutex<()>,
    plan: ArcSwap<Plan>,
    /// The issuers that a record may name.
    issuers: ArcSwap<HashSet<IssuerName>>,
    /// Taken for moments only, never while the disk works.
    desk: Mutex<Desk>,
    /// Held while the disk works. Taken before `desk` where both are.
    store: Mutex<Option<Store>>,
    store_bytes: AtomicU64,
    kept: Mutex<Kept>,
    file: Mutex<Heard>,
    url: Mutex<Heard>,
    clock: Arc<dyn Clock>,
    metrics: Metrics,
}

impl std::fmt::Debug for Revocations {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Revocations").field("list", &self.list).finish_non_exhaustive()
    }
}

impl Revocations {
    pub(crate) fn new(clock: Arc<dyn Clock>, registry: &mut Registry) -> Arc<Self> {
        let (list, writer) = List::new();
        let revocations = Arc::new(Self {
            list,
            gate: AtomicU8::new(OPEN),
            settling: Mutex::new(()),
            plan: ArcSwap::from_pointee(Plan::nothing()),
            issuers: ArcSwap::default(),
            desk: Mutex::new(Desk { writer, journal: Journal::Off, pending: String::new(), full: false }),
            store: Mutex::new(None),
            store_bytes: AtomicU64::new(0),
            kept: Mutex::default(),
            file: Mutex::default(),
            url: Mutex::default(),
            clock,
            metrics: Metrics::new(registry),
        });
        registry.register_collector(Box::new(Sizes(Arc::clone(&revocations))));
        revocations
    }

    /// Judges a token that is good in all else. `kid` is that of the key which verified it, if it has one. Takes no lock
    /// that excludes another request.
    pub(crate) fn judge(&self, identity: &Identity, kid: Option<&str>, now: u64) -> Judgement {
        let judgement = self.look(identity, kid, now);
        if let Judgement::Revoked(kind) = &judgement {
            self.metrics.hit(*kind);
        }
        judgement
    }

    /// The same, for who only asks: nothing is counted.
    pub(crate) fn look(&self, identity: &Identity, kid: Option<&str>, now: u64) -> Judgement {
        match self.gate.load(Ordering::Acquire) {
            OPEN => {}
            STORE_NOT_READ => return Judgement::Unknown("the store of revocations was not read"),
            _ => return Judgement::Unknown("a required feed of revocations was never heard"),
        }
        match self.find(identity, kid, now) {
            None => Judgement::Good,
            Some(kind) => Judgement::Revoked(kind),
        }
    }

    fn find(&self, identity: &Identity, kid: Option<&str>, now: u64) -> Option<Kind> {
        let issuer = identity.issuer.as_str();
        let (list, find) = (&*self.list, |kind, value: &str| self.list.find(kind, issuer, value, now));
        if list.has(Kind::Token)
            && let Some(Raw::Text(jti)) = identity.claims().raw("jti")
            && find(Kind::Token, jti).is_some()
        {
            return Some(Kind::Token);
        }
        let issued_before = |instant: u32| {
            // Rounded down, which compares alike with whole seconds. It was found to be a date before.
            let issued = claims::date(identity.claims(), "iat", f64::floor).ok().flatten();
            issued.is_none_or(|issued| issued < u64::from(instant))
        };
        if list.has(Kind::Subject)
            && let Some(subject) = identity.subject()
            && find(Kind::Subject, subject).is_some_and(issued_before)
        {
            return Some(Kind::Subject);
        }
        if list.has(Kind::Key)
            && let Some(kid) = kid
            && find(Kind::Key, kid).is_some()
        {
            return Some(Kind::Key);
        }
        (list.has(Kind::Issuer) && find(Kind::Issuer, "").is_some_and(issued_before)).then_some(Kind::Issuer)
    }

    /// Makes a validated configuration ready: the present plan where nothing about it changed. Reads a CA file if there is
    /// one. The error is about the section's `url`.
    pub(crate) fn prepare(
        &self,
        config: &RevocationConfig,
        base_dir: &Path,
        system_roots: &mut dyn FnMut() -> Result<Arc<RootCertStore>, String>,
    ) -> Result<Arc<Plan>, String> {
        let present = self.plan.load_full();
        if present.config == *config {
            return Ok(present);
        }
        let url = match &config.url {
            None => None,
            Some(wanted) => {
                let roots = match &wanted.ca {
                    Some(ca) => Arc::new(fetch::roots_from_file(&base_dir.join(ca))?),
                    None if wanted.url.starts_with("http:") => Arc::new(RootCertStore::empty()),
                    None => system_roots()?,
                };
                let client = HttpClient::new(roots, wanted.timeout.get(), wanted.max_size.as_usize())?;
                Some(UrlSource::new(&wanted.url, client)?)
            }
        };
        Ok(Arc::new(Plan {
            config: config.clone(),
            store: config.store.as_ref().map(|store| base_dir.join(store)),
            file: config.file.as_ref().map(|file| base_dir.join(file)),
            url,
        }))
    }

    /// Puts a plan in force. Tokens are held up at once where it asks for what was not read yet.
    pub(crate) fn adopt<'n>(&self, plan: Arc<Plan>, issuers: impl Iterator<Item = &'n IssuerName>) {
        let old = self.plan.swap(Arc::clone(&plan));
        self.issuers.store(Arc::new(issuers.cloned().collect()));
        // What was heard of another source says nothing of this one.
        if old.file != plan.file {
            *self.file.lock() = Heard::default();
        }
        let place = |plan: &Plan| plan.config.url.as_ref().map(|url| (url.url.clone(), url.ca.clone()));
        if place(&old) != place(&plan) {
            *self.url.lock() = Heard::default();
        }
        if old.store != plan.store {
            *self.kept.lock() = Kept::default();
        }
        self.settle();
    }

    /// Opens the gate, or closes it, by what is known now.
    fn settle(&self) {
        let _settling = self.settling.lock();
        let plan = self.plan.load();
        let unheard = |configured: bool, heard: &Mutex<Heard>| configured && heard.lock().last.is_none();
        let gate = if !self.is_loaded(&plan) {
            STORE_NOT_READ
        } else if plan.config.required
            && (unheard(plan.file.is_some(), &self.file) || unheard(plan.url.is_some(), &self.url))
        {
            FEED_NOT_HEARD
        } else {
            OPEN
        };
        self.gate.store(gate, Ordering::Release);
    }

    /// Whether the configured store was read, if there is one.
    fn is_loaded(&self, plan: &Plan) -> bool {
        plan.store.is_none() || self.kept.lock().loaded == plan.store
    }

    /// Reads the configured store, unless that was done, or closes one that is no longer configured. Blocks.
    fn load(&self) -> Result<(), String> {
        let plan = self.plan.load_full();
        let mut store = self.store.lock();
        let Some(folder) = &plan.store else {
            *store = None;
            self.store_bytes.store(0, Ordering::Relaxed);
            let mut desk = self.desk.lock();
            desk.journal = Journal::Off;
            desk.pending = String::new();
            return Ok(());
        };
        if self.is_loaded(&plan) {
            return Ok(());
        }
        // Closed first: its lock may be the one that is wanted.
        *store = None;
        let (now, most) = (self.clock.unix_seconds(), plan.config.max_memory.as_usize());
        let was_empty = Kind::ALL.iter().all(|kind| !self.list.has(*kind));
        let mut homeless = 0_u64;
        let opened = Store::open(folder, |entry| {
            let mut desk = self.desk.lock();
            match entry {
                Entry::Revoked(record) => homeless += u64::from(desk.writer.add(&record, now, most) == Added::Full),
                // A list that came from elsewhere is not what was lifted then.
                Entry::Lifted(target) if was_empty => {
                    desk.writer.lift(&target, now);
                }
                Entry::Lifted(_) => {}
            }
        });
        let outcome = match opened {
            Ok(_) if homeless > 0 => Err(format!("{homeless} of its revocations find no room in max_memory")),
            Ok((opened, torn)) => {
                if torn > 0 {
                    tracing::warn!(folder = %folder.display(), bytes = torn, "the torn end of the store of revocations was cut off");
                }
                self.store_bytes.store(opened.length(), Ordering::Relaxed);
                *store = Some(opened);
                self.desk.lock().journal = if was_empty { Journal::On } else { Journal::Behind };
                Ok(())
            }
            Err(fault) => Err(StoreFault::to_string(&fault)),
        };
        let mut kept = self.kept.lock();
        match &outcome {
            Ok(()) => *kept = Kept { loaded: Some(folder.clone()), fault: None },
            Err(why) => {
                self.metrics.store_errors.inc();
                *kept = Kept { loaded: None, fault: Some(why.clone()) };
            }
        }
        drop(kept);
        self.settle();
        outcome
    }

    /// Puts records in force, at once.
    fn take(&self, records: &[Record]) -> Taken {
        let (now, most) = (self.clock.unix_seconds(), self.plan.load().config.max_memory.as_usize());
        let mut taken = Taken::default();
        // The lock is given back now and then, so that nobody waits for a whole document.
        for some in records.chunks(256) {
            let mut desk = self.desk.lock();
            let Desk { writer, journal, pending, full } = &mut *desk;
            for record in some {
                match writer.add(record, now, most) {
                    Added::New => {
                        taken.new += 1;
                        *full = false;
                        if *journal == Journal::On {
                            record.write(pending);
                        }
                    }
                    Added::Known => taken.known += 1,
                    Added::Expired => taken.expired += 1,
                    Added::Full => {
                        taken.full += 1;
                        *full = true;
                    }
                }
            }
        }
        self.metrics.full.inc_by(taken.full);
        taken
    }

    /// Takes targets out of force, at once. Gives how many were in force.
    fn lift(&self, targets: &[Target]) -> u64 {
        let now = self.clock.unix_seconds();
        let mut lifted = 0;
        for target in targets {
            let mut desk = self.desk.lock();
            if desk.writer.lift(target, now) {
                lifted += 1;
                if desk.journal == Journal::On {
                    target.write_lifted(&mut desk.pending);
                }
            }
        }
        lifted
    }

    /// Stores what changed since the last time, and returns when it is on the disk. Blocks. The error is fit for the
    /// operator, and stands in the unit's health until it is mended.
    fn keep(&self) -> Result<(), String> {
        let mut store = self.store.lock();
        let outcome = self.write(&mut store).map_err(|error| format!("it cannot be written: {error}"));
        self.store_bytes.store(store.as_ref().map_or(0, Store::length), Ordering::Relaxed);
        if outcome.is_err() {
            self.metrics.store_errors.inc();
            let mut desk = self.desk.lock();
            desk.journal = Journal::Behind;
            desk.pending = String::new();
        }
        let mut kept = self.kept.lock();
        if kept.loaded.is_some() {
            kept.fault = outcome.as_ref().err().cloned();
        }
        outcome
    }

    fn write(&self, store: &mut Option<Store>) -> io::Result<()> {
        let Some(store) = store else { return Ok(()) };
        let (journal, pending) = {
            let mut desk = self.desk.lock();
            // From here on changes are written down; those until now are in the list, which is written as a whole below.
            let journal = std::mem::replace(&mut desk.journal, Journal::On);
            (journal, std::mem::take(&mut desk.pending))
        };
        if journal == Journal::On && !pending.is_empty() {
            store.append(&pending)?;
        }
        let living = Kind::ALL.iter().map(|kind| self.list.count(*kind)).sum();
        if journal == Journal::Behind || store.is_overgrown(living) {
            // A change that comes meanwhile may be in the new log and in `pending` too; read twice, it is the same.
            store.rewrite(|each| self.list.each(each))?;
        }
        Ok(())
    }

    /// Lets the store go: the process is ending, or another begins. What is in the list stays in force.
    pub(crate) fn close(&self) {
        let mut store = self.store.lock();
        // Nothing is owed to it: whoever was told that something is stored was told after it was.
        *store = None;
        self.desk.lock().journal = Journal::Behind;
        self.kept.lock().loaded = None;
    }

    /// Forgets what is over.
    fn sweep(&self) {
        self.desk.lock().writer.sweep(self.clock.unix_seconds());
    }

    fn heard(&self, way: Way) -> &Mutex<Heard> {
        match way {
            Way::Url => &self.url,
            Way::Door | Way::File => &self.file,
        }
    }

    pub(crate) fn list(&self) -> &List {
        &self.list
    }

    /// Length of the store, 0 where there is none.
    pub(crate) fn store_bytes(&self) -> u64 {
        self.store_bytes.load(Ordering::Relaxed)
    }

    /// The time since a feed was last heard without a fault.
    pub(crate) fn age(&self, way: Way) -> Option<Duration> {
        let last = self.heard(way).lock().last?;
        Some(self.clock.now().saturating_duration_since(last))
    }

    /// Whether the store or a feed was not tried yet.
    pub(crate) fn is_settling(&self) -> bool {
        let plan = self.plan.load();
        if !self.is_loaded(&plan) {
            return self.kept.lock().fault.is_none();
        }
        let untried = |configured: bool, heard: &Mutex<Heard>| configured && heard.lock().reads == 0;
        untried(plan.file.is_some(), &self.file) || untried(plan.url.is_some(), &self.url)
    }

    /// What is wrong, for the unit's health.
    pub(crate) fn complaints(&self) -> Vec<String> {
        let plan = self.plan.load();
        let mut complaints = Vec::new();
        let loaded = self.is_loaded(&plan);
        match (&self.kept.lock().fault, &plan.store) {
            (Some(fault), Some(_)) if loaded => complaints.push(format!("revocations: store: {fault}")),
            (Some(fault), Some(_)) => {
                complaints.push(format!("revocations: store: {fault}; tokens are answered 503 until it is read"));
            }
            (None, Some(_)) if !loaded => complaints.push("revocations: the store is not read yet".into()),
            _ => {}
        }
        if self.desk.lock().full {
            complaints.push("revocations: some found no room in max_memory".into());
        }
        for (way, configured) in [(Way::File, plan.file.is_some()), (Way::Url, plan.url.is_some())] {
            if !configured {
                continue;
            }
            let heard = self.heard(way).lock().clone();
            let stays = match (heard.last, plan.config.required) {
                (None, true) => "tokens are answered 503 until it is heard",
                _ => "what was heard before stays in force",
            };
            match &heard.error {
                Some(error) => complaints.push(format!("revocations: {}: {error}; {stays}", way.name())),
                None if heard.bad.count > 0 => {
                    complaints.push(format!(
                        "revocations: {}: {}; the other lines are in force",
                        way.name(),
                        heard.bad
                    ));
                }
                None => {}
            }
        }
        complaints
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use sluice_vocabulary::clock::ManualClock;

    fn records(from: u32, to: u32) -> Vec<Record> {
        let issuer = IssuerName::new("corp").unwrap();
        let record = |i: u32| {
            let target = Target { kind: Kind::Token, issuer: issuer.clone(), value: format!("token-{i}") };
            Record { target, issued_before: 0, expires_at: 1000 }
        };
        (from..to).map(record).collect()
    }

    fn started(folder: &Path, clock: &ManualClock) -> Arc<Revocations> {
        let revocations = Revocations::new(Arc::new(clock.clone()), &mut Registry::default());
        let config = RevocationConfig { store: Some(folder.join("state")), ..RevocationConfig::default() };
        let plan = revocations.prepare(&config, folder, &mut || Err("no roots here".into())).unwrap();
        revocations.adopt(plan, std::iter::empty());
        revocations
    }

    #[test]
    fn what_could_not_be_stored_is_in_force_is_said_and_is_stored_when_the_disk_is_well_again() {
        let folder = tempfile::tempdir().unwrap();
        let clock = ManualClock::at(10);
        let revocations = started(folder.path(), &clock);
        revocations.load().unwrap();
        revocations.take(&records(0, 10));
        revocations.keep().unwrap();
        revocations.store.lock().as_mut().unwrap().spoil();
        revocations.take(&records(10, 20));
        let why = revocations.keep().unwrap_err();
        assert!(why.contains("cannot be written"), "{why}");
        assert!(revocations.complaints().iter().any(|told| told.contains(&why)), "{:?}", revocations.complaints());
        assert_eq!((revocations.list.count(Kind::Token), revocations.metrics.store_errors.get()), (20, 1));
        // As the sweep does, without another change.
        revocations.keep().unwrap();
        assert!(revocations.complaints().is_empty());
        revocations.close();

        let again = started(folder.path(), &clock);
        again.load().unwrap();
        assert_eq!(again.list.count(Kind::Token), 20);
    }

    #[test]
    fn a_store_that_holds_more_than_memory_may_is_not_taken_in_part() {
        let folder = tempfile::tempdir().unwrap();
        let clock = ManualClock::at(10);
        let first = started(folder.path(), &clock);
        first.load().unwrap();
        first.take(&records(0, 100_000));
        first.keep().unwrap();
        first.close();
        let second = Revocations::new(Arc::new(clock), &mut Registry::default());
        let max_memory = sluice_vocabulary::measure::ByteSize::mib(1);
        let config = RevocationConfig { store: Some("state".into()), max_memory, ..RevocationConfig::default() };
        let plan = second.prepare(&config, folder.path(), &mut || Err("no roots here".into())).unwrap();
        second.adopt(plan, std::iter::empty());
        assert!(second.load().unwrap_err().contains("find no room in max_memory"));
        assert_eq!(second.gate.load(Ordering::Acquire), STORE_NOT_READ);
    }

    #[test]
    fn who_settles_during_a_change_does_not_open_the_gate_after_it() {
        let revocations = Revocations::new(Arc::new(ManualClock::at(10)), &mut Registry::default());
        let plan = |store: Option<&str>| {
            let config = RevocationConfig { store: store.map(Into::into), ..RevocationConfig::default() };
            revocations.prepare(&config, Path::new("."), &mut || Err("no roots here".into())).unwrap()
        };
        let (without, with) = (plan(None), plan(Some("state")));
        for round in 0..2_000 {
            revocations.adopt(Arc::clone(&without), std::iter::empty());
            std::thread::scope(|scope| {
                scope.spawn(|| (0..20).for_each(|_| revocations.settle()));
                scope.spawn(|| revocations.adopt(Arc::clone(&with), std::iter::empty()));
            });
            assert_eq!(revocations.gate.load(Ordering::Acquire), STORE_NOT_READ, "round {round}");
        }
    }

    #[test]
    fn a_log_of_what_is_over_is_written_anew() {
        let folder = tempfile::tempdir().unwrap();
        let clock = ManualClock::at(10);
        let revocations = started(folder.path(), &clock);
        revocations.load().unwrap();
        revocations.take(&records(0, 30_000));
        revocations.keep().unwrap();
        let before = revocations.store_bytes();
        clock.advance(Duration::from_secs(1000 + list::GRACE));
        revocations.sweep();
        revocations.keep().unwrap();
        assert!(revocations.store_bytes() < 100 && before > 1 << 20, "{before}, then {}", revocations.store_bytes());
    }
}
