//! A folder of our own under the gateway's state folder: files that are written whole, and read with suspicion.
//!
//! Everything goes through the folder's descriptor, so that the folder which was looked at is the one that is used,
//! whatever its path comes to mean later. It must be ours and closed to everybody else. A file is written under a name
//! that nobody can foretell, private, synced, and only then takes its own name: a crash leaves the old one, the new one or
//! none. What is read must be a plain file, ours, private, and of bounded size.

use std::ffi::CStr;
use std::fs::{DirBuilder, File};
use std::io::{self, Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT};
use rustix::io::Errno;
use sluice_vocabulary::clock::Entropy;

/// How the name of a file begins that has not taken its own yet.
const DRAFT: &str = ".new-";
/// A draft this old was left by a process that is gone. No file takes so long to be written.
const DRAFT_LIVES: Duration = Duration::from_secs(600);

/// The mode of a file that only we may read and write.
const PRIVATE_FILE: Mode = Mode::RUSR.union(Mode::WUSR);

/// Why a folder is not used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NoFolder {
    #[error("{path} cannot be opened: {source}")]
    Io { path: String, source: io::Error },
    #[error("{path} belongs to user {owner}: expected {us}")]
    NotOurs { path: String, owner: u32, us: u32 },
    #[error("{path} is open to others (mode {mode:o}): expected 700")]
    Open { path: String, mode: u32 },
}

/// Why a file is not used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unfit {
    #[error("cannot be read: {0}")]
    Io(#[from] io::Error),
    #[error("is not a plain file")]
    NotAFile,
    #[error("belongs to user {owner}: expected {us}")]
    NotOurs { owner: u32, us: u32 },
    #[error("is open to others (mode {0:o}): expected 600")]
    Open(u32),
    #[error("has {found} bytes: expected at most {most}")]
    TooLarge { found: u64, most: u64 },
}

/// A file, as a look at the folder finds it.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) name: String,
    pub(crate) bytes: u64,
    /// When it was written or last used: seconds and nanoseconds since the epoch.
    pub(crate) used: (i64, u64),
}

/// The folder.
#[derive(Debug)]
pub(crate) struct Folder {
    folder: OwnedFd,
    path: PathBuf,
    entropy: Arc<dyn Entropy>,
}

impl Folder {
    /// Opens the folder `name` in `parent`. Both are made, private, where they are missing.
    pub(crate) fn open(parent: &Path, name: &str, entropy: Arc<dyn Entropy>) -> Result<Self, NoFolder> {
        let path = parent.join(name);
        let shown = || path.display().to_string();
        let failed = |source| NoFolder::Io { path: shown(), source };
        DirBuilder::new().recursive(true).mode(0o700).create(&path).map_err(failed)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let folder = rustix::fs::open(&path, flags, Mode::empty()).map_err(|error| failed(error.into()))?;
        let stat = rustix::fs::fstat(&folder).map_err(|error| failed(error.into()))?;
        let us = rustix::process::geteuid().as_raw();
        if stat.st_uid != us {
            return Err(NoFolder::NotOurs { path: shown(), owner: stat.st_uid, us });
        }
        if mode(&stat).intersects(EVERYBODY_ELSE) {
            return Err(NoFolder::Open { path: shown(), mode: mode(&stat).bits() });
        }
        Ok(Self { folder, path, entropy })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The bytes of a file, of which there may be `most`; `None` where there is no such file. It counts as used now.
    pub(crate) fn read(&self, name: &str, most: u64) -> Result<Option<Vec<u8>>, Unfit> {
        // Neither a link nor a pipe that nobody writes to is to be followed or waited for.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = match rustix::fs::openat(&self.folder, name, flags, Mode::empty()) {
            Ok(file) => file,
            Err(Errno::NOENT) => return Ok(None),
            Err(Errno::LOOP) => return Err(Unfit::NotAFile),
            Err(error) => return Err(Unfit::Io(error.into())),
        };
        let stat = ours(&file)?;
        let found = u64::try_from(stat.st_size).unwrap_or(0);
        if found > most {
            return Err(Unfit::TooLarge { found, most });
        }
        let now = Timestamps {
            last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
            last_modification: Timespec { tv_sec: 0, tv_nsec: UTIME_NOW },
        };
        // On a disk that may only be read, files do not age by use.
        let _ = rustix::fs::futimens(&file, &now);
        let mut bytes = Vec::with_capacity(usize::try_from(found).unwrap_or(0));
        File::from(file).take(most + 1).read_to_end(&mut bytes)?;
        match bytes.len() as u64 {
            found if found > most => Err(Unfit::TooLarge { found, most }),
            _ => Ok(Some(bytes)),
        }
    }

    /// A file to be read and written in place; made, empty, where there is none.
    pub(crate) fn open_or_make(&self, name: &str) -> Result<File, Unfit> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = match rustix::fs::openat(&self.folder, name, flags, PRIVATE_FILE) {
            Ok(file) => file,
            Err(Errno::LOOP) => return Err(Unfit::NotAFile),
            Err(error) => return Err(Unfit::Io(error.into())),
        };
        ours(&file)?;
        Ok(File::from(file))
    }

    /// Writes a file of these parts, in place of what has its name.
    pub(crate) fn write(&self, name: &str, parts: &[&[u8]]) -> io::Result<()> {
        self.drafted(parts, |draft| rustix::fs::renameat(&self.folder, draft, &self.folder, name))
    }

    /// Writes a file of these parts, unless there is one of its name, which then stays as it is.
    pub(crate) fn write_once(&self, name: &str, parts: &[&[u8]]) -> io::Result<()> {
        let settle = |draft: &str| match rustix::fs::linkat(&self.folder, draft, &self.folder, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::EXIST) => rustix::fs::unlinkat(&self.folder, draft, AtFlags::empty()),
            Err(error) => Err(error),
        };
        self.drafted(parts, settle)
    }

    fn drafted(&self, parts: &[&[u8]], settle: impl FnOnce(&str) -> rustix::io::Result<()>) -> io::Result<()> {
        let mut random = [0; 12];
        if !self.entropy.fill(&mut random) {
            return Err(io::Error::other("the machine has no random bytes to give"));
        }
        let draft = format!("{DRAFT}{}", hex::encode(random));
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut file = File::from(rustix::fs::openat(&self.folder, draft.as_str(), flags, PRIVATE_FILE)?);
        let written = parts
            .iter()
            .try_for_each(|part| file.write_all(part))
            .and_then(|()| file.sync_all())
            .and_then(|()| settle(&draft).map_err(io::Error::from))
            .and_then(|()| rustix::fs::fsync(&self.folder).map_err(io::Error::from));
        if written.is_err() {
            let _ = self.remove(&draft);
        }
        written
    }

    /// Removes a file, if it is there.
    pub(crate) fn remove(&self, name: &str) -> io::Result<()> {
        match rustix::fs::unlinkat(&self.folder, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// The files that are there, in no order; drafts that somebody left are removed on the way. `now` is in seconds since
    /// the epoch.
    pub(crate) fn entries(&self, now: u64) -> io::Result<Vec<Entry>> {
        let mut entries = Vec::new();
        let mut folder = Dir::read_from(&self.folder)?;
        while let Some(found) = folder.read() {
            let found = found?;
            let Some(name) = plain(found.file_name()) else { continue };
            // Another process may have removed it since.
            let Ok(stat) = rustix::fs::statat(&self.folder, name, AtFlags::SYMLINK_NOFOLLOW) else { continue };
            let used = (seconds(&stat), nanoseconds(&stat));
            if name.starts_with(DRAFT) {
                let age = now.saturating_sub(u64::try_from(used.0).unwrap_or(0));
                if age > DRAFT_LIVES.as_secs() {
                    self.remove(name)?;
                }
                continue;
            }
            let bytes = u64::try_from(stat.st_size).unwrap_or(0);
            entries.push(Entry { name: name.to_owned(), bytes, used });
        }
        Ok(entries)
    }
}

/// What is known of an open file, if it is a plain one, ours, and closed to everybody else.
fn ours(file: &OwnedFd) -> Result<Stat, Unfit> {
    let stat = rustix::fs::fstat(file).map_err(io::Error::from)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(Unfit::NotAFile);
    }
    let us = rustix::process::geteuid().as_raw();
    if stat.st_uid != us {
        return Err(Unfit::NotOurs { owner: stat.st_uid, us });
    }
    if mode(&stat).intersects(EVERYBODY_ELSE) {
        return Err(Unfit::Open(mode(&stat).bits()));
    }
    Ok(stat)
}

/// What everybody but the owner may do.
const EVERYBODY_ELSE: Mode = Mode::RWXG.union(Mode::RWXO);

const fn mode(stat: &Stat) -> Mode {
    Mode::from_raw_mode(stat.st_mode)
}

fn plain(name: &CStr) -> Option<&str> {
    name.to_str().ok().filter(|name| !matches!(*name, "." | ".."))
}

#[allow(clippy::unnecessary_cast, clippy::useless_conversion, reason = "the type differs between architectures")]
fn seconds(stat: &Stat) -> i64 {
    stat.st_mtime as i64
}

#[allow(clippy::unnecessary_cast, clippy::useless_conversion, reason = "the type differs between architectures")]
fn nanoseconds(stat: &Stat) -> u64 {
    stat.st_mtime_nsec as u64
}
