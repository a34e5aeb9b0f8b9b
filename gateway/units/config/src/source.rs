//! Reading a configuration file, with a bound.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The largest file read. Ten thousand routes take about two MiB.
pub const LARGEST: u64 = 4 * 1024 * 1024;

/// A configuration's text and where it came from.
#[derive(Debug, Clone)]
pub struct Source {
    name: Arc<str>,
    text: Arc<str>,
}

/// Why a configuration cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The file cannot be opened or read.
    #[error("cannot read {}: {cause}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why not.
        cause: io::Error,
    },
    /// It is a directory, a pipe or another thing that is not a file.
    #[error("{} is not a file", .0.display())]
    NotAFile(PathBuf),
    /// It is too large.
    #[error("{name} is larger than {LARGEST} bytes, which is the largest configuration read")]
    TooLarge {
        /// The file's name.
        name: String,
    },
    /// It is not text.
    #[error("{name} is not UTF-8 text: byte {offset} (line {line}) belongs to no character")]
    NotText {
        /// The file's name.
        name: String,
        /// Where the text ends, in bytes from 0.
        offset: usize,
        /// The line that holds it, from 1.
        line: usize,
    },
}

impl Source {
    /// Reads a file.
    pub fn read(path: &Path) -> Result<Self, ReadError> {
        let failed = |cause| ReadError::Io { path: path.to_owned(), cause };
        // Asked before opening: opening a pipe would wait for somebody to write.
        if !std::fs::metadata(path).map_err(failed)?.is_file() {
            return Err(ReadError::NotAFile(path.to_owned()));
        }
        let mut bytes = Vec::new();
        // One byte more than allowed tells a file that grew or lied about its length.
        File::open(path).and_then(|file| file.take(LARGEST + 1).read_to_end(&mut bytes)).map_err(failed)?;
        Self::from_bytes(&path.display().to_string(), &bytes)
    }

    /// From bytes that are at hand; `name` stands for the file in what is told.
    pub fn from_bytes(name: &str, bytes: &[u8]) -> Result<Self, ReadError> {
        if bytes.len() as u64 > LARGEST {
            return Err(ReadError::TooLarge { name: name.to_owned() });
        }
        // A byte-order mark is no part of the text.
        let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
        match std::str::from_utf8(bytes) {
            Ok(text) => Ok(Self { name: name.into(), text: text.into() }),
            Err(error) => {
                let offset = error.valid_up_to();
                let line = bytes[..offset].iter().filter(|byte| **byte == b'\n').count() + 1;
                Err(ReadError::NotText { name: name.to_owned(), offset, line })
            }
        }
    }

    /// The file's name as it was given.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// Its text.
    pub fn text(&self) -> &str {
        &self.text
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn what_is_not_a_readable_text_file_is_refused_with_its_reason() {
        let folder = tempfile::tempdir().unwrap();
        assert!(matches!(Source::read(folder.path()), Err(ReadError::NotAFile(_))));
        let missing = Source::read(&folder.path().join("none")).unwrap_err();
        assert!(missing.to_string().contains("No such file"), "{missing}");
        let error = Source::from_bytes("c", b"a: 1\nb: \xff").unwrap_err();
        assert_eq!(error.to_string(), "c is not UTF-8 text: byte 8 (line 2) belongs to no character");
        let large = vec![b'#'; 4 * 1024 * 1024 + 1];
        assert!(matches!(Source::from_bytes("c", &large), Err(ReadError::TooLarge { .. })));
    }
}
