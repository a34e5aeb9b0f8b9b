//! Compiled components on disk, so that a restart does not compile what an earlier process did.
//!
//! One file for each component and way of compiling: its name is made of a hash over the engine's version and every setting
//! that machine code depends on, and of the component's own SHA-256. It holds a MAC and then the machine code as the engine
//! serialises it.
//!
//! Machine code is run, so only what this gateway itself wrote may be loaded. The folder is ours and closed to all others
//! ([`Folder`]), so is each file; and what is in it must bear a MAC (HMAC-SHA256) under a key that lies beside it, readable by us
//! alone. A plain digest would find what is torn or rotten as well. The key adds that a file which came about otherwise is
//! not run: restored from somebody else's copy, put there through a mount that knows no owners, moved to another name. Who
//! can read the key can read and write everything of ours, and is not kept out by anything here. The MAC is checked over
//! the very bytes that are then loaded, copied from the file once: nothing can change them in between, or later under the
//! code that runs, as it could under a mapping.
//!
//! Nothing here is ever an error of the configuration. What does not fit is thrown away, counted and compiled anew; what
//! cannot be written is counted, and compiled again at the next start. Both bounds, of files and of bytes, are kept by removing what was not used for longest.

use std::hash::{Hash, Hasher};
use std::path::Path;
use std::sync::Arc;

use aws_lc_rs::hmac;
use sha2::{Digest, Sha256};
use sluice_vocabulary::clock::{Clock, Entropy};
use wasmtime::Engine;
use wasmtime::component::Component;

use crate::folder::{Entry, Folder, NoFolder, Unfit};
use crate::metrics::CacheMetrics;

/// The folder under the gateway's state folder.
const FOLDER: &str = "components";
/// The file of the key, in the same folder.
const KEY: &str = "key";
const KEY_LENGTH: usize = 32;
const MAC_LENGTH: usize = 32;
/// How the name of a compiled component ends.
const ENDING: &str = ".component";
/// The form of the files: part of what their names are made of.
const FORM: &str = "sluice compiled component 1";
/// The largest file that is read: machine code is a few times as large as what it was made of.
const LARGEST: u64 = 512 << 20;

/// How much may be kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CacheBounds {
    /// Compiled components. Default 1000, ten times what a large gateway runs.
    pub components: usize,
    /// Bytes of all of them together. Default 1 GiB: a native plugin takes 0.2 MiB, one with an interpreter inside up to 80.
    pub bytes: u64,
}

impl Default for CacheBounds {
    fn default() -> Self {
        Self { components: 1000, bytes: 1 << 30 }
    }
}

/// Why a file was thrown away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Discarded {
    /// It is not a plain file of ours that is closed to others.
    Foreign,
    /// It does not bear the MAC that it should: torn, rotten, or not written by this gateway.
    Damaged,
    /// The engine would not have it.
    Incompatible,
    /// It could not be read.
    Unreadable,
    /// It was not used for longest when room was needed.
    Room,
}

impl Discarded {
    pub(crate) const ALL: [Self; 5] = [Self::Foreign, Self::Damaged, Self::Incompatible, Self::Unreadable, Self::Room];

    /// As metrics tell it.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Foreign => "foreign",
            Self::Damaged => "damaged",
            Self::Incompatible => "incompatible",
            Self::Unreadable => "unreadable",
            Self::Room => "room",
        }
    }
}

/// Why there is no cache.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NoCache {
    #[error(transparent)]
    Folder(#[from] NoFolder),
    #[error("the key in {path} {why}")]
    Key { path: String, why: String },
}

/// The compiled components of one folder.
pub(crate) struct Cache {
    folder: Folder,
    key: hmac::Key,
    /// What the names of files begin with that the present engine can load.
    engine: String,
    bounds: CacheBounds,
    clock: Arc<dyn Clock>,
    metrics: CacheMetrics,
}

impl Cache {
    /// Opens the cache under `state_dir`; makes it where there is none. Waits for the disk.
    pub(crate) fn open(
        state_dir: &Path,
        engine: &Engine,
        bounds: CacheBounds,
        (clock, entropy): (Arc<dyn Clock>, Arc<dyn Entropy>),
        metrics: CacheMetrics,
    ) -> Result<Self, NoCache> {
        let folder = Folder::open(state_dir, FOLDER, Arc::clone(&entropy))?;
        let key = key(&folder, &*entropy)
            .map_err(|why| NoCache::Key { path: folder.path().join(KEY).display().to_string(), why })?;
        let key = hmac::Key::new(hmac::HMAC_SHA256, &key);
        Ok(Self { folder, key, engine: engine_name(engine), bounds, clock, metrics })
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    /// The component of this digest, if it was kept and is sound.
    pub(crate) fn get(&self, engine: &Engine, sha256: &[u8; 32]) -> Option<Component> {
        let name = self.name(sha256);
        match self.load(engine, &name) {
            Ok(Some(component)) => {
                self.metrics.hits.inc();
                return Some(component);
            }
            Ok(None) => {}
            Err((reason, why)) => self.discard(&name, reason, &why),
        }
        self.metrics.misses.inc();
        None
    }

    fn load(&self, engine: &Engine, name: &str) -> Result<Option<Component>, (Discarded, String)> {
        let Some(bytes) = self.folder.read(name, LARGEST).map_err(|unfit| (reason_of(&unfit), unfit.to_string()))?
        else {
            return Ok(None);
        };
        let damaged = |why: &str| (Discarded::Damaged, why.to_owned());
        let (mac, code) = bytes.split_at_checked(MAC_LENGTH).ok_or_else(|| damaged("is shorter than its MAC"))?;
        if aws_lc_rs::constant_time::verify_slices_are_equal(self.mac(name, code).as_ref(), mac).is_err() {
            return Err(damaged("does not bear our MAC"));
        }
        let component = deserialize(engine, code);
        component.map(Some).map_err(|error| (Discarded::Incompatible, format!("was refused by the engine: {error:#}")))
    }

    /// Keeps a component that was just compiled. Waits for the disk.
    pub(crate) fn put(&self, sha256: &[u8; 32], component: &Component) {
        let name = self.name(sha256);
        let kept = component.serialize().map_err(|error| format!("{error:#}")).and_then(|code| {
            // What would push out all others is better compiled each time.
            if (MAC_LENGTH + code.len()) as u64 > self.bounds.bytes.min(LARGEST) {
                return Err(format!("{} bytes of machine code are too many to keep", code.len()));
            }
            let mac = self.mac(&name, &code);
            self.folder.write(&name, &[mac.as_ref(), &code]).map_err(|error| error.to_string())
        });
        if let Err(why) = kept {
            self.metrics.write_failures.inc();
            tracing::warn!(folder = %self.path().display(), why, "a compiled component could not be kept on disk");
        }
    }

    /// Removes what was not used for longest until the bounds hold.
    pub(crate) fn make_room(&self) {
        let entries = match self.folder.entries(self.clock.unix_seconds()) {
            Ok(entries) => entries,
            Err(error) => {
                tracing::warn!(folder = %self.path().display(), %error, "compiled components cannot be listed");
                return;
            }
        };
        let mut kept: Vec<Entry> = entries.into_iter().filter(|entry| entry.name.ends_with(ENDING)).collect();
        kept.sort_unstable_by_key(|entry| std::cmp::Reverse(entry.used));
        let (mut components, mut bytes) = (0, 0);
        for entry in kept {
            components += 1;
            bytes += entry.bytes;
            if components > self.bounds.components || bytes > self.bounds.bytes {
                components -= 1;
                bytes -= entry.bytes;
                self.discard(&entry.name, Discarded::Room, "was not used for longest");
            }
        }
    }

    fn discard(&self, name: &str, reason: Discarded, why: &str) {
        self.metrics.discarded(reason).inc();
        if reason == Discarded::Room {
            tracing::debug!(file = name, "a compiled component made room on disk");
        } else {
            let folder = self.path().display();
            tracing::warn!(%folder, file = name, why, "a compiled component on disk is not used");
        }
        if let Err(error) = self.folder.remove(name) {
            tracing::warn!(folder = %self.path().display(), file = name, %error, "it cannot be removed either");
        }
    }

    fn name(&self, sha256: &[u8; 32]) -> String {
        format!("{}-{}{ENDING}", self.engine, hex::encode(sha256))
    }

    /// Over the name too, so that nothing goes for what it is not.
    fn mac(&self, name: &str, code: &[u8]) -> hmac::Tag {
        let mut mac = hmac::Context::with_key(&self.key);
        mac.update(name.as_bytes());
        mac.update(&[0]);
        mac.update(code);
        mac.sign()
    }
}

impl std::fmt::Debug for Cache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cache").field("folder", &self.folder).field("engine", &self.engine).finish_non_exhaustive()
    }
}

/// The one unsafe call of the gateway.
#[expect(unsafe_code, reason = "machine code that an earlier process compiled is taken over as it is")]
fn deserialize(engine: &Engine, code: &[u8]) -> wasmtime::Result<Component> {
    // SAFETY: `Component::deserialize` demands bytes that `Component::serialize` or `Engine::precompile_component` made; it
    // checks the engine's version and settings itself, and takes everything else on trust. The only caller has found a MAC
    // over exactly these bytes, under a key that was made in a folder of our own, mode 700, and never left it; and the only
    // place that makes such MACs is `Cache::put`, over what `Component::serialize` returned. The MAC covers the file's name,
    // and with it the engine's version and settings and the digest of the component, so that sound code is not taken for
    // another component's or another version's. The bytes are in memory that nobody else can write, and are copied by the
    // call.
    unsafe { Component::deserialize(engine, code) }
}

const fn reason_of(unfit: &Unfit) -> Discarded {
    match unfit {
        Unfit::Io(_) => Discarded::Unreadable,
        Unfit::NotAFile | Unfit::NotOurs { .. } | Unfit::Open(_) => Discarded::Foreign,
        Unfit::TooLarge { .. } => Discarded::Damaged,
    }
}

/// The key of a folder; made where there is none. One that is unsound is replaced: what was kept under it is lost.
fn key(folder: &Folder, entropy: &dyn Entropy) -> Result<Vec<u8>, String> {
    let read = || match folder.read(KEY, KEY_LENGTH as u64) {
        Ok(Some(key)) if key.len() == KEY_LENGTH => Ok(Some(key)),
        Ok(Some(key)) => Err(format!("has {} bytes: expected {KEY_LENGTH}", key.len())),
        Ok(None) => Ok(None),
        Err(unfit) => Err(unfit.to_string()),
    };
    match read() {
        Ok(Some(key)) => return Ok(key),
        Ok(None) => {}
        Err(why) => {
            tracing::warn!(why, folder = %folder.path().display(), "the key of compiled components is replaced");
            folder.remove(KEY).map_err(|error| format!("cannot be removed: {error}"))?;
        }
    }
    let mut key = [0; KEY_LENGTH];
    if !entropy.fill(&mut key) {
        return Err("cannot be made: the machine has no random bytes to give".to_owned());
    }
    folder.write_once(KEY, &[&key]).map_err(|error| format!("cannot be written: {error}"))?;
    // Whichever process was first: its key is everybody's.
    read()?.ok_or_else(|| "is gone again".to_owned())
}

/// A name for all that machine code depends on but the component itself: the engine's version, the processor's features
/// and every setting of the compiler.
fn engine_name(engine: &Engine) -> String {
    struct Into256(Sha256);
    impl Hasher for Into256 {
        fn write(&mut self, bytes: &[u8]) {
            self.0.update(bytes);
        }

        fn finish(&self) -> u64 {
            0
        }
    }
    let mut hasher = Into256(Sha256::new());
    FORM.hash(&mut hasher);
    engine.precompile_compatibility_hash().hash(&mut hasher);
    hex::encode(&hasher.0.finalize()[..16])
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use sluice_vocabulary::clock::{SystemClock, SystemEntropy};
    use wasmtime::Config;

    use super::*;

    const DIGEST: [u8; 32] = [7; 32];

    fn engine(with_epochs: bool) -> Engine {
        Engine::new(Config::new().epoch_interruption(with_epochs)).unwrap()
    }

    fn cache(folder: &Path, engine: &Engine) -> Cache {
        let ports: (Arc<dyn Clock>, Arc<dyn Entropy>) = (Arc::new(SystemClock), Arc::new(SystemEntropy));
        Cache::open(folder, engine, CacheBounds::default(), ports, CacheMetrics::default()).unwrap()
    }

    fn component(engine: &Engine) -> Component {
        Component::from_binary(engine, &wat::parse_str("(component)").unwrap()).unwrap()
    }

    #[test]
    fn what_was_compiled_with_other_settings_is_not_found() {
        let folder = tempfile::tempdir().unwrap();
        let (ours, other) = (engine(true), engine(false));
        cache(folder.path(), &ours).put(&DIGEST, &component(&ours));
        assert!(cache(folder.path(), &other).get(&other, &DIGEST).is_none());
        assert!(cache(folder.path(), &engine(true)).get(&ours, &DIGEST).is_some());
    }

    #[test]
    fn what_the_engine_refuses_is_thrown_away_even_if_it_bears_our_mac() {
        let folder = tempfile::tempdir().unwrap();
        let (ours, other) = (engine(true), engine(false));
        let cache = cache(folder.path(), &ours);
        // As if the names of both engines were the same.
        cache.put(&DIGEST, &component(&other));
        assert!(cache.get(&ours, &DIGEST).is_none());
        assert_eq!(cache.metrics.discarded(Discarded::Incompatible).get(), 1);
        assert_eq!(cache.folder.entries(0).unwrap().iter().filter(|entry| entry.name.ends_with(ENDING)).count(), 0);
    }

    #[test]
    fn drafts_that_a_crash_left_are_removed_in_time() {
        let folder = tempfile::tempdir().unwrap();
        let cache = cache(folder.path(), &engine(true));
        let draft = cache.path().join(".new-0011");
        std::fs::write(&draft, "half").unwrap();
        cache.make_room();
        assert!(draft.exists(), "it may still be being written");
        let aged = SystemClock.unix_seconds() + 3600;
        cache.folder.entries(aged).unwrap();
        assert!(!draft.exists());
    }
}
