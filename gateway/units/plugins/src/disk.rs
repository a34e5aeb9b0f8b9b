//! Plugins' stores on disk: what is granted `key_value: { persist: true }` outlives the process.
//!
//! Requests are served from memory alone ([`Store`](crate::store::Store)), and no thread that serves them ever waits for the
//! disk. What they change is noted by key, and written some time later, all of it in one transaction: at most a second later
//! where the disk keeps up, and at once when the gateway ends in order. A crash loses that second, and nothing in part: the
//! file is as one of the transactions left it. What cannot be written stays noted and is tried again; where too much waits
//! for the disk, new changes are refused like those for which there is no room in memory.
//!
//! One file holds the stores of all plugins, in a folder of our own that is closed to everybody else. It is locked while a
//! gateway runs. Times are kept as the wall clock tells them, so that setting it moves what expires.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use redb::backends::FileBackend;
use redb::{Database, ReadableDatabase as _, TableDefinition};
use sluice_vocabulary::clock::{Clock, Entropy};
use sluice_vocabulary::{PluginName, TenantId};

use crate::folder::{Folder, NoFolder, Unfit};
use crate::store::{Record, Space};

/// The folder under the gateway's state folder, and the file in it.
const FOLDER: &str = "plugin-stores";
const FILE: &str = "key-value.redb";
/// Memory for the file's pages. They are read once, at the start.
const PAGES: usize = 8 << 20;
/// Changed keys that may wait for the disk, of all plugins and tenants together.
const MOST_WAITING: usize = 1 << 18;

/// Plugin, tenant (empty for requests without one; no tenant is called so), key.
type Key = (&'static str, &'static str, &'static str);
/// Version, when it expires in milliseconds since the epoch (0 for never), value.
type Value = (u64, u64, &'static [u8]);
/// The form of what is in it is part of its name.
const TABLE: TableDefinition<'_, Key, Value> = TableDefinition::new("key-value 1");

/// Why there are no stores on disk.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{0}")]
pub(crate) struct NoDisk(String);

impl NoDisk {
    /// There is no folder for it.
    pub(crate) fn nowhere() -> Self {
        Self("there is no state_dir to keep it in".to_owned())
    }

    /// Whoever was to look has not come back.
    pub(crate) fn panicked(error: &tokio::task::JoinError) -> Self {
        Self(format!("the look at it ended: {error}"))
    }
}

impl From<NoFolder> for NoDisk {
    fn from(error: NoFolder) -> Self {
        Self(error.to_string())
    }
}

/// Whose a space is.
#[derive(Debug, Clone)]
pub(crate) struct Owner {
    pub(crate) plugin: PluginName,
    pub(crate) tenant: Option<TenantId>,
}

impl Owner {
    fn tenant(&self) -> &str {
        self.tenant.as_ref().map_or("", TenantId::as_str)
    }
}

/// One record, as the file has it.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) tenant: Option<TenantId>,
    pub(crate) key: Box<str>,
    pub(crate) record: Record,
}

/// What has changed in a space: none for a key that is not there any more.
pub(crate) type Changes = Vec<(Box<str>, Option<Record>)>;

/// The file, and what waits to be written to it.
pub(crate) struct Disk {
    path: String,
    database: Database,
    clock: Arc<dyn Clock>,
    /// Who has taken changes writes them before anybody takes newer ones.
    writing: Mutex<()>,
    /// Spaces in which something has changed, each once.
    changed: Mutex<Vec<(Owner, Arc<Space>)>>,
    /// Keys that wait, in all of them.
    waiting: AtomicUsize,
    /// Beyond every version that an earlier process gave out, written or not.
    first_version: u64,
}

impl Disk {
    /// Opens the file under `state_dir`; makes it where there is none. Waits for the disk.
    pub(crate) fn open(
        state_dir: &Path,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
    ) -> Result<Arc<Self>, NoDisk> {
        let folder = Folder::open(state_dir, FOLDER, entropy)?;
        let path = folder.path().join(FILE).display().to_string();
        let file = folder.open_or_make(FILE).map_err(|unfit: Unfit| NoDisk(format!("{path} {unfit}")))?;
        let database = FileBackend::new(file)
            .and_then(|backend| Database::builder().set_cache_size(PAGES).create_with_backend(backend));
        let database = database.map_err(|error| match error {
            redb::DatabaseError::DatabaseAlreadyOpen => {
                NoDisk(format!("{path} is in use: another gateway runs with this state_dir"))
            }
            error => NoDisk(format!("{path} cannot be used: {error}; move it away to begin with empty stores")),
        })?;
        // No process gives out a million versions in a millisecond, so that none of them came this far.
        let first_version = u64::try_from(clock.since_epoch().as_millis()).unwrap_or(0) << 20;
        let (writing, changed, waiting) = (Mutex::default(), Mutex::default(), AtomicUsize::new(0));
        Ok(Arc::new(Self { path, database, clock, writing, changed, waiting, first_version }))
    }

    pub(crate) fn path(&self) -> &str {
        &self.path
    }

    pub(crate) const fn first_version(&self) -> u64 {
        self.first_version
    }

    /// Keys whose change is not on disk yet.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Whether one more changed key may wait; then it counts.
    pub(crate) fn admit(&self) -> bool {
        let admitted = self.waiting.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |waiting| {
            (waiting < MOST_WAITING).then_some(waiting + 1)
        });
        admitted.is_ok()
    }

    /// So many keys wait, room or not: what was removed or has expired, and what could not be written.
    pub(crate) fn admit_anyway(&self, keys: usize) {
        self.waiting.fetch_add(keys, Ordering::Relaxed);
    }

    /// Something has changed in a space in which nothing had since it was written last.
    pub(crate) fn has_changed(&self, owner: Owner, space: Arc<Space>) {
        self.changed.lock().push((owner, space));
    }

    /// Writes all that has changed, as one step. Waits for the disk.
    pub(crate) fn write(self: &Arc<Self>) -> Result<(), redb::Error> {
        let _writing = self.writing.lock();
        let spaces = std::mem::take(&mut *self.changed.lock());
        if spaces.is_empty() {
            return Ok(());
        }
        let changes: Vec<_> = spaces.into_iter().map(|(owner, space)| (space.take_changes(), owner, space)).collect();
        let result = self.commit(&changes);
        for (changes, owner, space) in changes {
            self.waiting.fetch_sub(changes.len(), Ordering::Relaxed);
            if result.is_err() {
                space.put_back(changes.into_iter().map(|(key, _)| key), self, owner);
            }
        }
        result
    }

    fn commit(&self, changes: &[(Changes, Owner, Arc<Space>)]) -> Result<(), redb::Error> {
        let (now, unix) = self.now();
        let transaction = self.database.begin_write()?;
        {
            let mut table = transaction.open_table(TABLE)?;
            for (changes, owner, _) in changes {
                for (key, record) in changes {
                    let key = (owner.plugin.as_str(), owner.tenant(), &**key);
                    match record {
                        Some(record) => {
                            let expires = record.expires.map_or(0, |expires| unix_millis(expires, now, unix));
                            table.insert(key, (record.version, expires, &*record.value))?;
                        }
                        None => drop(table.remove(key)?),
                    }
                }
            }
        }
        transaction.commit()?;
        Ok(())
    }

    /// What is there of a plugin; what has expired, or is not what we write, is removed. Waits for the disk.
    pub(crate) fn read(self: &Arc<Self>, plugin: &PluginName) -> Result<Vec<Found>, NoDisk> {
        let unusable = |error: redb::Error| NoDisk(format!("{} cannot be read: {error}", self.path));
        // What waits is of an earlier life of this plugin.
        self.write().map_err(unusable)?;
        let (found, stale) = self.find(plugin).map_err(unusable)?;
        if !stale.is_empty() {
            self.remove(plugin, &stale).map_err(unusable)?;
        }
        Ok(found)
    }

    /// Removes all that is there of a plugin. Waits for the disk.
    pub(crate) fn forget(self: &Arc<Self>, plugin: &PluginName) -> Result<(), NoDisk> {
        let found = self.read(plugin)?;
        let keys = found.into_iter().map(|found| {
            (found.tenant.map(|tenant| tenant.as_str().to_owned()).unwrap_or_default(), String::from(found.key))
        });
        let keys: Vec<_> = keys.collect();
        self.remove(plugin, &keys).map_err(|error| NoDisk(format!("{} cannot be written: {error}", self.path)))
    }

    #[expect(clippy::type_complexity, reason = "two lists of one reading")]
    fn find(&self, plugin: &PluginName) -> Result<(Vec<Found>, Vec<(String, String)>), redb::Error> {
        let (now, unix) = self.now();
        let (mut found, mut stale) = (Vec::new(), Vec::new());
        let transaction = self.database.begin_read()?;
        let table = match transaction.open_table(TABLE) {
            Ok(table) => table,
            Err(redb::TableError::TableDoesNotExist(_)) => return Ok((found, stale)),
            Err(error) => return Err(error.into()),
        };
        for entry in table.range((plugin.as_str(), "", "")..)? {
            let (key, value) = entry?;
            let (owner, tenant, key) = key.value();
            if owner != plugin.as_str() {
                break;
            }
            let (version, expires, value) = value.value();
            let expires = (expires != 0).then(|| instant(expires, now, unix));
            let record = Record { value: value.into(), version, expires: expires.flatten() };
            let tenant_id = if tenant.is_empty() { Ok(None) } else { TenantId::new(tenant).map(Some) };
            let is_over = expires.is_some_and(|expires| expires.is_none());
            match tenant_id {
                Ok(tenant) if !is_over && record.is_sound(key) => {
                    found.push(Found { tenant, key: key.into(), record });
                }
                _ => stale.push((tenant.to_owned(), key.to_owned())),
            }
        }
        Ok((found, stale))
    }

    fn remove(&self, plugin: &PluginName, keys: &[(String, String)]) -> Result<(), redb::Error> {
        let transaction = self.database.begin_write()?;
        {
            let mut table = transaction.open_table(TABLE)?;
            for (tenant, key) in keys {
                table.remove((plugin.as_str(), &**tenant, &**key))?;
            }
        }
        transaction.commit()?;
        Ok(())
    }

    fn now(&self) -> (Instant, Duration) {
        (self.clock.now(), self.clock.since_epoch())
    }
}

impl std::fmt::Debug for Disk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Disk").field("path", &self.path).field("waiting", &self.waiting()).finish_non_exhaustive()
    }
}

/// When something expires by the wall clock, in milliseconds; never 0, which is for what does not.
fn unix_millis(expires: Instant, now: Instant, unix: Duration) -> u64 {
    let left = expires.saturating_duration_since(now);
    u64::try_from(unix.saturating_add(left).as_millis()).unwrap_or(u64::MAX).max(1)
}

/// The same the other way round; none for what has expired.
fn instant(expires: u64, now: Instant, unix: Duration) -> Option<Instant> {
    let left = Duration::from_millis(expires).checked_sub(unix).filter(|left| !left.is_zero())?;
    // What no clock can tell is as good as never, and a century will do.
    now.checked_add(left).or_else(|| now.checked_add(Duration::from_secs(100 * 365 * 86_400)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use sluice_vocabulary::clock::{ManualClock, SystemEntropy};

    use super::*;
    use crate::contract::key_value::StoreFault;
    use crate::store::{Room, Store};

    const ROOM: Room = Room { entries: 1_000, bytes: 1 << 20 };

    struct World {
        folder: tempfile::TempDir,
        clock: ManualClock,
    }

    impl World {
        fn new() -> Self {
            Self { folder: tempfile::tempdir().unwrap(), clock: ManualClock::at(1_700_000_000) }
        }

        fn disk(&self) -> Arc<Disk> {
            Disk::open(self.folder.path(), Arc::new(self.clock.clone()), Arc::new(SystemEntropy)).unwrap()
        }

        fn store(&self, disk: &Arc<Disk>, plugin: &str) -> Store {
            let store = Store::new(Arc::default(), ROOM);
            store.keep_on(disk, &PluginName::new(plugin).unwrap()).unwrap();
            store
        }

        fn value(&self, store: &Store, tenant: Option<&TenantId>, key: &str) -> Option<Vec<u8>> {
            store.get(tenant, key, self.clock.now()).unwrap().map(|entry| entry.value)
        }
    }

    #[test]
    fn what_was_written_is_there_for_the_next_process_each_tenants_apart() {
        let world = World::new();
        let acme = TenantId::new("acme").unwrap();
        let now = world.clock.now();
        let version = {
            let disk = world.disk();
            let (store, other) = (world.store(&disk, "quota"), world.store(&disk, "quota2"));
            store.set(Some(&acme), "k", b"of acme", None, now).unwrap();
            store.set(None, "k", b"of nobody", None, now).unwrap();
            store.set(None, "gone", b"x", None, now).unwrap();
            other.set(None, "k", b"of another", None, now).unwrap();
            disk.write().unwrap();
            store.delete(None, "gone", now).unwrap();
            store.increment(None, "n", 7, None, now).unwrap();
            disk.write().unwrap();
            assert_eq!(disk.waiting(), 0);
            store.get(None, "k", now).unwrap().unwrap().version
        };
        let disk = world.disk();
        let store = world.store(&disk, "quota");
        assert_eq!(world.value(&store, Some(&acme), "k").unwrap(), b"of acme");
        assert_eq!(world.value(&store, None, "k").unwrap(), b"of nobody");
        assert_eq!(world.value(&store, None, "n").unwrap(), b"7");
        assert!(world.value(&store, None, "gone").is_none());
        assert_eq!(store.held().0, 3);
        // A version is good over a restart, and none comes again.
        assert_eq!(store.get(None, "k", now).unwrap().unwrap().version, version);
        let next = store.compare_and_swap(None, "k", Some(version), b"new", None, now).unwrap().unwrap();
        assert!(next > version + 1, "{next} {version}");
    }

    #[test]
    fn what_has_expired_in_between_is_neither_found_nor_kept() {
        let world = World::new();
        {
            let disk = world.disk();
            let store = world.store(&disk, "p");
            store.set(None, "brief", b"b", Some(1_000), world.clock.now()).unwrap();
            store.set(None, "long", b"l", Some(60_000), world.clock.now()).unwrap();
            disk.write().unwrap();
        }
        world.clock.advance(Duration::from_secs(30));
        let disk = world.disk();
        let store = world.store(&disk, "p");
        assert!(world.value(&store, None, "brief").is_none());
        assert_eq!(world.value(&store, None, "long").unwrap(), b"l");
        let (found, stale) = disk.find(&PluginName::new("p").unwrap()).unwrap();
        assert_eq!((found.len(), stale.len()), (1, 0));
        // What is left of its time goes on, and its end reaches the disk.
        world.clock.advance(Duration::from_secs(30));
        assert!(world.value(&store, None, "long").is_none());
        store.sweep(world.clock.now());
        disk.write().unwrap();
        assert!(disk.find(&PluginName::new("p").unwrap()).unwrap().0.is_empty());
    }

    #[test]
    fn changes_of_one_key_are_written_once_and_the_last_one_holds() {
        let world = World::new();
        let disk = world.disk();
        let store = world.store(&disk, "p");
        for _ in 0..100 {
            store.increment(None, "n", 1, None, world.clock.now()).unwrap();
        }
        assert_eq!(disk.waiting(), 1);
        disk.write().unwrap();
        assert_eq!(disk.read(&PluginName::new("p").unwrap()).unwrap()[0].record.value[..], *b"100");
    }

    #[test]
    fn what_a_store_held_before_it_was_to_be_kept_is_kept_too() {
        let world = World::new();
        let now = world.clock.now();
        {
            let disk = world.disk();
            world.store(&disk, "p").set(None, "old", b"of the disk", None, now).unwrap();
            world.store(&disk, "p").set(None, "k", b"of the disk", None, now).unwrap();
            disk.write().unwrap();
        }
        let disk = world.disk();
        let store = Store::new(Arc::default(), ROOM);
        store.set(None, "k", b"of memory", None, now).unwrap();
        store.keep_on(&disk, &PluginName::new("p").unwrap()).unwrap();
        assert_eq!(world.value(&store, None, "k").unwrap(), b"of memory");
        assert_eq!(world.value(&store, None, "old").unwrap(), b"of the disk");
        disk.write().unwrap();
        let found = disk.read(&PluginName::new("p").unwrap()).unwrap();
        let value = |key: &str| found.iter().find(|found| &*found.key == key).map(|found| found.record.value.to_vec());
        assert_eq!((value("k").unwrap(), value("old").unwrap()), (b"of memory".to_vec(), b"of the disk".to_vec()));
    }

    #[test]
    fn a_store_that_is_no_longer_kept_leaves_nothing_behind() {
        let world = World::new();
        let disk = world.disk();
        let store = world.store(&disk, "p");
        store.set(None, "k", b"v", None, world.clock.now()).unwrap();
        disk.write().unwrap();
        store.set(None, "l", b"v", None, world.clock.now()).unwrap();
        store.keep_no_longer().unwrap();
        store.set(None, "m", b"v", None, world.clock.now()).unwrap();
        disk.write().unwrap();
        assert!(disk.read(&PluginName::new("p").unwrap()).unwrap().is_empty());
        assert_eq!((store.held().0, disk.waiting()), (3, 0), "it is in memory as before");
    }

    #[test]
    fn where_the_disk_does_not_keep_up_new_keys_are_refused_and_no_memory_is_lost_to_those_that_wait() {
        let world = World::new();
        let disk = world.disk();
        let store = world.store(&disk, "p");
        let now = world.clock.now();
        // Written and removed again, so that nothing is in the store: only their removal waits.
        let mut made = 0;
        while store.set(None, &format!("k{made}"), b"v", None, now).is_ok() {
            store.delete(None, &format!("k{made}"), now).unwrap();
            made += 1;
            assert!(made < 1_000_000, "nothing bounds what waits");
        }
        assert_eq!(store.set(None, &format!("k{made}"), b"v", None, now), Err(StoreFault::Full));
        assert!((1_000..=MOST_WAITING).contains(&disk.waiting()), "{}", disk.waiting());
        disk.write().unwrap();
        assert!(store.set(None, &format!("k{made}"), b"v", None, now).is_ok());
    }

    #[test]
    fn a_file_that_is_no_database_or_in_use_is_refused_by_name() {
        let world = World::new();
        let open = || Disk::open(world.folder.path(), Arc::new(world.clock.clone()), Arc::new(SystemEntropy));
        let disk = world.disk();
        let why = open().unwrap_err().to_string();
        assert!(why.contains("key-value.redb is in use: another gateway"), "{why}");
        drop(disk);
        let file = world.folder.path().join(FOLDER).join(FILE);
        std::fs::write(&file, vec![b'x'; 10_000]).unwrap();
        let why = open().unwrap_err().to_string();
        assert!(why.contains("key-value.redb cannot be used") && why.contains("move it away"), "{why}");
        std::fs::remove_file(&file).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", &file).unwrap();
        let why = open().unwrap_err().to_string();
        assert!(why.contains("is not a plain file"), "{why}");
    }

    #[test]
    fn a_file_that_others_may_read_is_refused() {
        use std::os::unix::fs::PermissionsExt as _;
        let world = World::new();
        drop(world.disk());
        let file = world.folder.path().join(FOLDER).join(FILE);
        assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
        let why = Disk::open(world.folder.path(), Arc::new(world.clock.clone()), Arc::new(SystemEntropy)).unwrap_err();
        assert!(why.to_string().contains("is open to others (mode 644): expected 600"), "{why}");
    }
}
