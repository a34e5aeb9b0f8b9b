//! A file that is looked at again and again: has its content changed, and is whoever writes it done?
//!
//! It is looked at rather than watched by the kernel's notification: that sees through symbolic links that are swapped (as
//! Kubernetes does with config maps), network file systems and editors that replace files, and costs one system call. Only
//! when the file's identity differs is its content read and compared, so that a touched file is no change. A change is told
//! of once the file was left alone for one look, so that nobody reads half of a file.

use std::fs::{File, Metadata};
use std::hash::{DefaultHasher, Hasher as _};
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// Bytes that are read at once, to be compared.
const PIECE: usize = 64 * 1024;

/// A file, what was last told of it, and what the look before found.
#[derive(Debug)]
pub(crate) struct Looked {
    path: PathBuf,
    /// What is larger is not read: it counts as changed whenever it was written to.
    largest: u64,
    told: Seen,
    /// What the look before found, while it differs from what was told.
    unsettled: Option<Option<Identity>>,
}

/// What a look found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Look {
    pub(crate) finding: Finding,
    /// Why the file cannot be seen, where it cannot.
    pub(crate) missing: Option<io::ErrorKind>,
}

/// What there is to tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Finding {
    /// Nothing: its content is what was told.
    Same,
    /// Nothing yet: it may still be written to.
    Unsettled,
    /// It has other content, and was left alone since the look before.
    Changed,
}

/// What a file looks like from outside; the same for as long as nobody wrote to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Identity {
    device: u64,
    inode: u64,
    length: u64,
    modified: (i64, i64),
    /// Which no writer can set back.
    changed: (i64, i64),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Seen {
    identity: Option<Identity>,
    content: Option<u64>,
}

impl Looked {
    /// Its content now is what later content is compared with. Waits for the disk.
    pub(crate) fn new(path: &Path, largest: u64) -> Self {
        let identity = std::fs::metadata(path).ok().map(|metadata| Identity::of(&metadata));
        let content = fingerprint(path, largest).ok().flatten();
        Self { path: path.to_owned(), largest, told: Seen { identity, content }, unsettled: None }
    }

    /// Looks at it once. Waits for the disk.
    pub(crate) fn look(&mut self) -> Look {
        let (identity, missing) = match std::fs::metadata(&self.path) {
            Ok(metadata) => (Some(Identity::of(&metadata)), None),
            Err(error) => (None, Some(error.kind())),
        };
        let finding = if identity == self.told.identity {
            self.unsettled = None;
            Finding::Same
        } else if self.unsettled != Some(identity) {
            self.unsettled = Some(identity);
            Finding::Unsettled
        } else {
            self.unsettled = None;
            self.settled(identity)
        };
        Look { finding, missing }
    }

    /// It differs from outside and was left alone since the look before.
    fn settled(&mut self, identity: Option<Identity>) -> Finding {
        self.told.identity = identity;
        if identity.is_none() {
            // Its content is kept to compare with: a file that comes back as it was is no change.
            return Finding::Same;
        }
        // What cannot be read or is too large is told of: reading will say why it is refused.
        let content = fingerprint(&self.path, self.largest).ok().flatten();
        if content.is_some() && content == self.told.content {
            return Finding::Same;
        }
        self.told.content = content;
        Finding::Changed
    }
}

impl Identity {
    fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            length: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

/// Tells contents apart; not a defence against somebody who makes two contents alike, since they could write either. None
/// for what has more than `largest` bytes, or is no plain file: opening a pipe would wait for somebody to write.
fn fingerprint(path: &Path, largest: u64) -> io::Result<Option<u64>> {
    let fits = |metadata: &Metadata| metadata.is_file() && metadata.len() <= largest;
    if !fits(&std::fs::metadata(path)?) {
        return Ok(None);
    }
    let mut file = File::open(path)?.take(largest + 1);
    let (mut hasher, mut piece, mut length) = (DefaultHasher::new(), Vec::with_capacity(PIECE), 0);
    // Each piece is filled, so that the same content is always hashed in the same pieces.
    while file.by_ref().take(PIECE as u64).read_to_end(&mut piece)? > 0 {
        hasher.write(&piece);
        length += piece.len() as u64;
        piece.clear();
    }
    Ok((length <= largest).then(|| hasher.finish()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    const LARGEST: u64 = 1 << 20;

    fn findings<const N: usize>(looked: &mut Looked) -> [Finding; N] {
        std::array::from_fn(|_| looked.look().finding)
    }

    #[test]
    fn a_file_that_is_written_to_between_looks_is_not_told_of_before_it_rests() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("f");
        std::fs::write(&path, "whole").unwrap();
        let mut looked = Looked::new(&path, LARGEST);
        for half in ["a", "an", "anot"] {
            std::fs::write(&path, half).unwrap();
            assert_eq!(findings(&mut looked), [Finding::Unsettled]);
        }
        assert_eq!(findings(&mut looked), [Finding::Changed, Finding::Same]);
    }

    #[test]
    fn a_file_that_goes_is_missing_and_one_that_comes_back_changed_only_if_it_is_another() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("f");
        std::fs::write(&path, "one").unwrap();
        let mut looked = Looked::new(&path, LARGEST);
        for (content, finding) in [("one", Finding::Same), ("two", Finding::Changed)] {
            std::fs::remove_file(&path).unwrap();
            assert_eq!(looked.look().missing, Some(io::ErrorKind::NotFound));
            assert_eq!(looked.look(), Look { finding: Finding::Same, missing: Some(io::ErrorKind::NotFound) });
            std::fs::write(&path, content).unwrap();
            assert_eq!(findings(&mut looked), [Finding::Unsettled, finding], "{content}");
        }
    }

    #[test]
    fn a_file_whose_times_were_set_back_is_seen_all_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("f");
        std::fs::write(&path, "one").unwrap();
        let before = std::fs::metadata(&path).unwrap().modified().unwrap();
        let mut looked = Looked::new(&path, LARGEST);
        std::fs::write(&path, "two").unwrap();
        File::options().write(true).open(&path).unwrap().set_modified(before).unwrap();
        assert_eq!(findings(&mut looked), [Finding::Unsettled, Finding::Changed]);
    }

    #[test]
    fn what_is_too_large_to_be_read_is_told_of_whenever_it_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("f");
        std::fs::write(&path, "small").unwrap();
        let mut looked = Looked::new(&path, 8);
        for content in ["much too large", "much too large"] {
            std::fs::remove_file(&path).unwrap();
            std::fs::write(&path, content).unwrap();
            assert_eq!(findings(&mut looked), [Finding::Unsettled, Finding::Changed, Finding::Same]);
        }
    }
}
