//! Committed build results, and the manifest that says of which sources each one is.
//!
//! A folder of results holds a `MANIFEST.json` with one entry per file: its hash, the sources it was built of, their
//! hash, and what built it. Checking recomputes both hashes: it needs no compiler, so every machine can refuse a change
//! of sources whose results were not rebuilt.

use std::{
    fs,
    path::{Path, PathBuf},
};

use clap::Args;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{
    bpf,
    error::{Error, Result},
    guests,
    toolchain::repository,
};

/// Every folder of results, relative to the repository. One that is not there is passed over: nothing claims it.
const DIRECTORIES: &[&str] = &[bpf::DIRECTORY, guests::DIRECTORY];

const MANIFEST: &str = "MANIFEST.json";

/// What to do about the committed results.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Compare the hashes in every manifest with the files. Always done; the flag is for saying so.
    #[arg(long)]
    check: bool,
    /// Besides, build again what this machine has the compilers for, and compare the bytes.
    #[arg(long)]
    rebuild: bool,
}

/// One committed result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Artifact {
    /// File name, beside the manifest.
    pub(crate) file: String,
    /// SHA-256 of the file.
    pub(crate) sha256: String,
    /// Files and folders it was built of, relative to the repository.
    pub(crate) sources: Vec<String>,
    /// SHA-256 over all of them, paths included.
    pub(crate) sources_sha256: String,
    /// The tools that built it. Bytes can only be compared where they are the same.
    pub(crate) built_with: String,
}

impl Artifact {
    /// Describes the file `file` in `directory`, just built of `sources`.
    pub(crate) fn of(directory: &Path, file: &str, sources: &[&str], built_with: String) -> Result<Self> {
        let sources: Vec<String> = sources.iter().map(|source| (*source).to_owned()).collect();
        Ok(Self {
            file: file.to_owned(),
            sha256: hash_file(&directory.join(file))?,
            sources_sha256: hash_sources(&repository(), &sources)?,
            sources,
            built_with,
        })
    }
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Manifest {
    artifacts: Vec<Artifact>,
}

/// `cargo xtask prebuilt`.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let mut stale = Vec::new();
    let mut checked = 0;
    for directory in DIRECTORIES {
        let path = repository().join(directory);
        if !path.join(MANIFEST).exists() {
            continue;
        }
        for artifact in read(&path)?.artifacts {
            checked += 1;
            if let Some(reason) = why_stale(&repository(), &path, &artifact)? {
                stale.push(format!("{directory}/{}: {reason}", artifact.file));
            }
        }
    }
    if !stale.is_empty() {
        let list = stale.join("\n  ");
        return Err(Error::Stale(format!(
            "committed build results do not match their sources:\n  {list}\nbuild them again with `make prebuilt` and commit them"
        )));
    }
    println!("{checked} committed build results match their sources");
    if arguments.rebuild {
        bpf::compare()?;
        guests::compare()?;
    }
    Ok(())
}

/// Writes the entries of `artifacts` into the manifest in `directory`, in place of older ones for the same files.
pub(crate) fn record(directory: &Path, artifacts: Vec<Artifact>) -> Result<()> {
    let mut manifest =
        if directory.join(MANIFEST).exists() { read(directory)? } else { Manifest { artifacts: Vec::new() } };
    manifest.artifacts.retain(|old| !artifacts.iter().any(|new| new.file == old.file));
    manifest.artifacts.retain(|old| directory.join(&old.file).exists());
    manifest.artifacts.extend(artifacts);
    manifest.artifacts.sort_by(|a, b| a.file.cmp(&b.file));
    let path = directory.join(MANIFEST);
    let mut text =
        serde_json::to_string_pretty(&manifest).map_err(|source| Error::Manifest { path: path.clone(), source })?;
    text.push('\n');
    fs::write(&path, text).map_err(Error::file("write", &path))
}

/// Compares the committed `file` with one that was just built, if the same tools built both.
pub(crate) fn compare(directory: &Path, file: &str, fresh: &Path, built_with: &str) -> Result<()> {
    let manifest = read(directory)?;
    let Some(committed) = manifest.artifacts.iter().find(|artifact| artifact.file == file) else {
        return Err(Error::Stale(format!("{} has no entry for {file}", directory.join(MANIFEST).display())));
    };
    if committed.built_with != built_with {
        println!("{file}: bytes not compared, it was built with {} and here is {built_with}", committed.built_with);
        return Ok(());
    }
    let seen = hash_file(fresh)?;
    if seen != committed.sha256 {
        return Err(Error::Stale(format!(
            "{file} built again is {} (sha256 {seen}), committed is {}",
            fresh.display(),
            committed.sha256
        )));
    }
    println!("{file}: built again, the same bytes");
    Ok(())
}

fn read(directory: &Path) -> Result<Manifest> {
    let path = directory.join(MANIFEST);
    let text = fs::read_to_string(&path).map_err(Error::file("read", &path))?;
    serde_json::from_str(&text).map_err(|source| Error::Manifest { path, source })
}

fn why_stale(repository: &Path, directory: &Path, artifact: &Artifact) -> Result<Option<String>> {
    let path = directory.join(&artifact.file);
    if !path.exists() {
        return Ok(Some("the file is missing".to_owned()));
    }
    let seen = hash_file(&path)?;
    if seen != artifact.sha256 {
        return Ok(Some(format!("its sha256 is {seen}, the manifest says {}", artifact.sha256)));
    }
    let seen = hash_sources(repository, &artifact.sources)?;
    if seen != artifact.sources_sha256 {
        return Ok(Some(format!("its sources have changed ({})", artifact.sources.join(", "))));
    }
    Ok(None)
}

fn hash_file(path: &Path) -> Result<String> {
    let bytes = fs::read(path).map_err(Error::file("read", path))?;
    Ok(hex::encode(Sha256::digest(bytes)))
}

/// One hash over files and all files below folders. Each goes in with its path and length, so that moving a byte from
/// one file to the next changes it. Build folders, installed packages and hidden files are left out.
fn hash_sources(repository: &Path, sources: &[String]) -> Result<String> {
    let mut files = Vec::new();
    for source in sources {
        collect(repository, Path::new(source), &mut files)?;
    }
    files.sort();
    files.dedup();
    let mut hash = Sha256::new();
    for file in files {
        let path = repository.join(&file);
        let bytes = fs::read(&path).map_err(Error::file("read", &path))?;
        hash.update(file.to_string_lossy().as_bytes());
        hash.update([0]);
        hash.update((bytes.len() as u64).to_le_bytes());
        hash.update(&bytes);
    }
    Ok(hex::encode(hash.finalize()))
}

fn collect(repository: &Path, relative: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    let path = repository.join(relative);
    let metadata = fs::metadata(&path).map_err(Error::file("read", &path))?;
    if metadata.is_file() {
        files.push(relative.to_owned());
        return Ok(());
    }
    for entry in fs::read_dir(&path).map_err(Error::file("read", &path))? {
        let name = entry.map_err(Error::file("read", &path))?.file_name();
        let text = name.to_string_lossy();
        if text.starts_with('.') || text == "target" || text == "node_modules" {
            continue;
        }
        collect(repository, &relative.join(name), files)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]
    use super::*;

    fn write(root: &Path, file: &str, text: &str) {
        let path = root.join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn sources() -> Vec<String> {
        vec!["part/src".to_owned(), "part/lock".to_owned()]
    }

    #[test]
    fn any_change_of_a_source_changes_the_hash() {
        let root = tempfile::tempdir().unwrap();
        write(root.path(), "part/src/a.rs", "a");
        write(root.path(), "part/src/deep/b.rs", "bc");
        write(root.path(), "part/lock", "1");
        let hash = || hash_sources(root.path(), &sources()).unwrap();
        let first = hash();
        assert_eq!(hash(), first);

        write(root.path(), "part/src/a.rs", "ab");
        write(root.path(), "part/src/deep/b.rs", "c");
        let moved = hash();
        assert_ne!(moved, first, "a byte moved from one file to another");

        fs::rename(root.path().join("part/src/a.rs"), root.path().join("part/src/z.rs")).unwrap();
        let renamed = hash();
        assert_ne!(renamed, moved);

        write(root.path(), "part/src/new.rs", "");
        assert_ne!(hash(), renamed, "an empty file is a file");
    }

    #[test]
    fn what_builds_leave_behind_is_no_source() {
        let root = tempfile::tempdir().unwrap();
        write(root.path(), "part/src/a.rs", "a");
        write(root.path(), "part/lock", "1");
        let first = hash_sources(root.path(), &sources()).unwrap();
        write(root.path(), "part/src/target/x.o", "x");
        write(root.path(), "part/src/node_modules/y.js", "y");
        write(root.path(), "part/src/.swp", "z");
        assert_eq!(hash_sources(root.path(), &sources()).unwrap(), first);
    }

    #[test]
    fn a_result_is_stale_when_it_or_its_sources_changed_or_it_is_gone() {
        let root = tempfile::tempdir().unwrap();
        let results = root.path().join("results");
        write(root.path(), "part/src/a.rs", "a");
        write(root.path(), "part/lock", "1");
        write(root.path(), "results/out.o", "object");
        let artifact = Artifact {
            file: "out.o".to_owned(),
            sha256: hash_file(&results.join("out.o")).unwrap(),
            sources_sha256: hash_sources(root.path(), &sources()).unwrap(),
            sources: sources(),
            built_with: "by hand".to_owned(),
        };
        record(&results, vec![artifact.clone()]).unwrap();
        assert_eq!(read(&results).unwrap().artifacts, std::slice::from_ref(&artifact));
        let reason = || why_stale(root.path(), &results, &artifact).unwrap();
        assert_eq!(reason(), None);
        write(root.path(), "part/lock", "2");
        assert!(reason().unwrap().contains("sources have changed"));
        write(root.path(), "part/lock", "1");
        write(root.path(), "results/out.o", "other");
        assert!(reason().unwrap().contains("sha256"));
        fs::remove_file(results.join("out.o")).unwrap();
        assert!(reason().unwrap().contains("missing"));
    }
}
