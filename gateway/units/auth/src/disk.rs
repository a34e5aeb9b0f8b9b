//! The last good keys of an issuer on disk, so that a restart finds them while the issuer is down.
//!
//! One file for each issuer: a line of JSON that says whose keys these are, where they came from, when the issuer last
//! confirmed them and what the rest must hash to; then the key set as it was fetched. It is replaced as a whole, private,
//! and synced before it takes its name, so that a crash leaves the old one or the new one.
//!
//! What is read back is held for hostile all the same, since whoever writes this file chooses who may sign: it must be a
//! file and no link, ours, and writable by nobody else; of bounded size; of the configured issuer and source; younger than
//! the stale window, by a clock that has not gone back; and then a key set by every rule that a fetched one is held to.
//! A file that fails in anything is not used, and the next one written replaces it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use aws_lc_rs::digest;
use parking_lot::Mutex;
use rustix::fs::OFlags;
use serde_json::{Value, json};
use sluice_vocabulary::IssuerName;

use crate::algorithm::AlgorithmSet;
use crate::base64url;
use crate::jwk::{BadKeySet, KeySet};
use crate::strict_json::{self, BadJson};

/// The longest first line: both of the URLs in it have at most 2048 characters, some of which JSON may escape.
const MAX_LINE: usize = 32 * 1024;

/// The form of the file; another one is not read.
const FORM: u64 = 1;

/// How long the time of the last confirmation may be behind on disk where nothing else changed. A restart then counts the
/// keys as that much older than they are, and the disk is spared.
const BEHIND: u64 = 60;

/// Why kept keys are not used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KeptFault {
    #[error("cannot be read: {0}")]
    Io(#[from] io::Error),
    #[error("is not a regular file")]
    NotAFile,
    #[error("belongs to user {owner}, expected {us}")]
    NotOurs { owner: u32, us: u32 },
    #[error("may be written by others (mode {0:o}), expected 600")]
    Shared(u32),
    #[error("is larger than {0} bytes")]
    TooLarge(usize),
    #[error("has no first line of at most {MAX_LINE} bytes")]
    NoLine,
    #[error("has a first line that is {0}")]
    Json(#[from] BadJson),
    #[error("has a first line without a good {0}")]
    Member(&'static str),
    #[error("is of another issuer or source")]
    Other,
    #[error("does not hash to what it says")]
    Hash,
    #[error("was written in the future, {ahead} s from now")]
    Future { ahead: u64 },
    #[error("is {age} s old, expected less than {most}")]
    Stale { age: u64, most: u64 },
    #[error(transparent)]
    Malformed(#[from] BadKeySet),
}

/// Keys that an earlier process had.
#[derive(Debug)]
pub(crate) struct Kept {
    pub(crate) keys: KeySet,
    /// How long ago the issuer confirmed them.
    pub(crate) age: Duration,
}

/// The place on disk of one issuer's keys.
#[derive(Debug)]
pub(crate) struct Shelf {
    path: PathBuf,
    /// What the keys are tied to: the issuer's `iss`, and all that says where they are read.
    iss: String,
    source: String,
    max_size: usize,
    /// What is there now, as far as it was written by this process. Held while writing.
    written: Mutex<Option<Written>>,
}

#[derive(Debug)]
struct Written {
    hash: String,
    heard: u64,
}

impl Shelf {
    /// The shelf of the issuer `name` in `folder`, for documents of at most `max_size` bytes.
    pub(crate) fn new(folder: &Path, name: &IssuerName, iss: String, source: String, max_size: usize) -> Self {
        // A name holds no slash and cannot leave the folder, whatever else it is.
        let path = folder.join(format!("keys-{name}.json"));
        Self { path, iss, source, max_size, written: Mutex::default() }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Reads the keys at `now` (seconds since the epoch), if there are any and they are not older than `stale`.
    pub(crate) fn load(&self, now: u64, stale: Duration, allowed: AlgorithmSet) -> Result<Option<Kept>, KeptFault> {
        match self.read() {
            Ok(bytes) => self.parse(&bytes, now, stale, allowed).map(Some),
            Err(KeptFault::Io(error)) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(fault) => Err(fault),
        }
    }

    fn read(&self) -> Result<Vec<u8>, KeptFault> {
        // Neither a link nor a pipe that nobody writes to is to be waited for or followed.
        let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits();
        let file = OpenOptions::new().read(true).custom_flags(flags.cast_signed()).open(&self.path)?;
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(KeptFault::NotAFile);
        }
        let us = rustix::process::geteuid().as_raw();
        if metadata.uid() != us {
            return Err(KeptFault::NotOurs { owner: metadata.uid(), us });
        }
        if metadata.mode() & 0o022 != 0 {
            return Err(KeptFault::Shared(metadata.mode() & 0o7777));
        }
        let most = MAX_LINE + self.max_size;
        let mut bytes = Vec::new();
        file.take(most as u64 + 1).read_to_end(&mut bytes)?;
        if bytes.len() > most {
            return Err(KeptFault::TooLarge(most));
        }
        Ok(bytes)
    }

    /// Reads what a file holds.
    pub(crate) fn parse(
        &self,
        bytes: &[u8],
        now: u64,
        stale: Duration,
        allowed: AlgorithmSet,
    ) -> Result<Kept, KeptFault> {
        let end = memchr::memchr(b'\n', &bytes[..bytes.len().min(MAX_LINE)]).ok_or(KeptFault::NoLine)?;
        let (line, document) = (&bytes[..end], &bytes[end + 1..]);
        let members = strict_json::object(line)?;
        let text = |name| members.get(name).and_then(Value::as_str).ok_or(KeptFault::Member(name));
        let number = |name| members.get(name).and_then(Value::as_u64).ok_or(KeptFault::Member(name));
        if number("form")? != FORM || members.len() != 5 {
            return Err(KeptFault::Member("form"));
        }
        if text("issuer")? != self.iss || text("source")? != self.source {
            return Err(KeptFault::Other);
        }
        let heard = number("heard")?;
        let age = now.checked_sub(heard).ok_or(KeptFault::Future { ahead: heard.saturating_sub(now) })?;
        if age >= stale.as_secs() {
            return Err(KeptFault::Stale { age, most: stale.as_secs() });
        }
        if text("sha256")? != hash(document) {
            return Err(KeptFault::Hash);
        }
        if document.len() > self.max_size {
            return Err(KeptFault::TooLarge(self.max_size));
        }
        Ok(Kept { keys: KeySet::parse(document, allowed)?, age: Duration::from_secs(age) })
    }

    /// Writes the key set `document`, which the issuer confirmed at `heard` (seconds since the epoch). It waits for the
    /// disk, so it is not for an asynchronous thread. The error is fit for the operator.
    pub(crate) fn store(&self, document: &[u8], heard: u64) -> Result<(), String> {
        let at = self.path.display();
        // One that hangs must not gather others behind it.
        let mut written = self.written.try_lock().ok_or_else(|| format!("{at} is still being written"))?;
        let hash = hash(document);
        let same = |old: &Written| old.hash == hash && heard.checked_sub(old.heard).is_some_and(|by| by < BEHIND);
        if written.as_ref().is_some_and(same) {
            return Ok(());
        }
        let line = json!({"form": FORM, "issuer": self.iss, "source": self.source, "heard": heard, "sha256": hash});
        let bytes = [line.to_string().as_bytes(), b"\n", document].concat();
        if let Err(error) = self.replace(&bytes) {
            *written = None;
            // What is there may hold a key that the issuer has withdrawn since.
            let _ = fs::remove_file(&self.path);
            return Err(format!("cannot write {at}: {error}"));
        }
        *written = Some(Written { hash, heard });
        Ok(())
    }

    fn replace(&self, bytes: &[u8]) -> io::Result<()> {
        let folder = self.path.parent().ok_or(io::ErrorKind::InvalidInput)?;
        fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        let fresh = self.path.with_extension("new");
        match fs::remove_file(&fresh) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        // Created and not opened, so that nothing which stands there is followed or written into.
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&fresh)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&fresh, &self.path)?;
        File::open(folder)?.sync_all()
    }
}

fn hash(document: &[u8]) -> String {
    base64url::encode(digest::digest(&digest::SHA256, document).as_ref())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::Algorithm;
    use proptest::prelude::*;

    const NOW: u64 = 1_800_000_000;
    const STALE: Duration = Duration::from_secs(600);
    const KEYS: &[u8] =
        br#"{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"a","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#;

    fn all() -> AlgorithmSet {
        Algorithm::ALL.iter().collect()
    }

    fn shelf(folder: &Path) -> Shelf {
        let name = IssuerName::new("corp").unwrap();
        Shelf::new(folder, &name, "https://id.example.com".into(), "https://id.example.com/keys".into(), 4096)
    }

    fn load(shelf: &Shelf, now: u64) -> Result<Option<Duration>, String> {
        let kept = shelf.load(now, STALE, all()).map_err(|fault| fault.to_string())?;
        Ok(kept.map(|kept| {
            assert!(kept.keys.has_kid("a"));
            kept.age
        }))
    }

    #[test]
    fn what_is_kept_is_found_again_by_another_process_with_its_age() {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join("not/there/yet");
        assert_eq!(load(&shelf(&state), NOW), Ok(None));
        shelf(&state).store(KEYS, NOW).unwrap();
        assert_eq!(load(&shelf(&state), NOW + 599), Ok(Some(Duration::from_secs(599))));
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
        assert_eq!((mode(&state), mode(shelf(&state).path())), (0o700, 0o600));
        let names: Vec<_> = fs::read_dir(&state).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["keys-corp.json"], "nothing else is left behind");
    }

    #[test]
    fn keys_as_old_as_the_window_or_of_the_future_are_not_used() {
        let folder = tempfile::tempdir().unwrap();
        shelf(folder.path()).store(KEYS, NOW).unwrap();
        assert_eq!(load(&shelf(folder.path()), NOW + 600).unwrap_err(), "is 600 s old, expected less than 600");
        assert_eq!(load(&shelf(folder.path()), NOW - 1).unwrap_err(), "was written in the future, 1 s from now");
    }

    #[test]
    fn keys_of_another_issuer_or_source_are_not_used() {
        let folder = tempfile::tempdir().unwrap();
        shelf(folder.path()).store(KEYS, NOW).unwrap();
        let name = IssuerName::new("corp").unwrap();
        for (iss, source) in [
            ("https://id.example.com/", "https://id.example.com/keys"),
            ("https://id.example.com", "https://id.example.com/keys2"),
        ] {
            let other = Shelf::new(folder.path(), &name, iss.into(), source.into(), 4096);
            assert_eq!(load(&other, NOW).unwrap_err(), "is of another issuer or source");
        }
    }

    #[test]
    fn a_file_that_others_may_write_or_that_is_no_file_is_not_used() {
        let folder = tempfile::tempdir().unwrap();
        let shelf = shelf(folder.path());
        shelf.store(KEYS, NOW).unwrap();
        let path = shelf.path();
        fs::set_permissions(path, fs::Permissions::from_mode(0o660)).unwrap();
        assert_eq!(load(&shelf, NOW).unwrap_err(), "may be written by others (mode 660), expected 600");
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
        let aside = folder.path().join("aside");
        fs::rename(path, &aside).unwrap();
        std::os::unix::fs::symlink(&aside, path).unwrap();
        assert!(load(&shelf, NOW).unwrap_err().contains("cannot be read"), "a link");
        fs::remove_file(path).unwrap();
        rustix::fs::mknodat(rustix::fs::CWD, path, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
        assert_eq!(load(&shelf, NOW).unwrap_err(), "is not a regular file");
        fs::remove_file(path).unwrap();
        fs::write(path, vec![b' '; MAX_LINE + 4097]).unwrap();
        assert!(load(&shelf, NOW).unwrap_err().contains("larger than"));
    }

    #[test]
    fn a_spoilt_file_is_not_used_and_the_next_one_replaces_it() {
        let folder = tempfile::tempdir().unwrap();
        let shelf = shelf(folder.path());
        shelf.store(KEYS, NOW).unwrap();
        let good = fs::read(shelf.path()).unwrap();
        let text = String::from_utf8(good.clone()).unwrap();
        for (what, bytes) in [
            ("empty", Vec::new()),
            ("cut short", good[..good.len() - 1].to_vec()),
            ("longer", [&good[..], b" "].concat()),
            ("without a document", text.lines().next().unwrap().into()),
            ("a key changed", text.replace("11qYAY", "11qYAZ").into()),
            ("another form", text.replace(r#""form":1"#, r#""form":2"#).into()),
            ("a member more", text.replace(r#""form":1"#, r#""form":1,"x":1"#).into()),
            ("a member twice", text.replace(r#""form":1"#, r#""form":1,"form":1"#).into()),
            ("a negative time", text.replace(&NOW.to_string(), "-1").into()),
            ("a time as text", text.replace(&NOW.to_string(), "\"1\"").into()),
            ("a page", b"<html>\n</html>".to_vec()),
        ] {
            fs::write(shelf.path(), &bytes).unwrap();
            assert!(load(&shelf, NOW).is_err(), "{what}");
        }
        shelf.store(KEYS, NOW + 60).unwrap();
        assert_eq!(load(&shelf, NOW + 60), Ok(Some(Duration::ZERO)));
    }

    #[test]
    fn the_disk_is_spared_unless_keys_change_or_a_minute_has_passed() {
        let folder = tempfile::tempdir().unwrap();
        let shelf = shelf(folder.path());
        let inode = || fs::metadata(shelf.path()).unwrap().ino();
        shelf.store(KEYS, NOW).unwrap();
        let first = inode();
        shelf.store(KEYS, NOW + 59).unwrap();
        assert_eq!(inode(), first);
        shelf.store(br#"{"keys":[]}"#, NOW + 59).unwrap();
        let second = inode();
        assert_ne!(second, first);
        shelf.store(br#"{"keys":[]}"#, NOW + 119).unwrap();
        assert_ne!(inode(), second);
    }

    #[test]
    fn keys_that_cannot_be_replaced_are_taken_away() {
        let folder = tempfile::tempdir().unwrap();
        let shelf = shelf(folder.path());
        shelf.store(KEYS, NOW).unwrap();
        // A folder stands where the new file would be made, and is not empty.
        fs::create_dir_all(folder.path().join("keys-corp.new/x")).unwrap();
        let error = shelf.store(br#"{"keys":[]}"#, NOW).unwrap_err();
        assert!(error.contains("cannot write") && error.contains("keys-corp.json"), "{error}");
        assert_eq!(load(&shelf, NOW), Ok(None), "the withdrawn key would come back with a restart");
    }

    proptest! {
        #[test]
        fn hostile_files_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300), line in "\\{.{0,80}\\}") {
            let shelf = shelf(Path::new("/nowhere"));
            prop_assert!(shelf.parse(&bytes, NOW, STALE, all()).is_err());
            let with_line = [line.as_bytes(), b"\n", KEYS].concat();
            prop_assert!(shelf.parse(&with_line, NOW, STALE, all()).is_err());
        }
    }
}
