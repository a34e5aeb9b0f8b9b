//! Where things lie in the repository.

use std::fs::File;
use std::path::{Path, PathBuf};

use crate::error::{Context, Failure, Result};

/// The repository, seen from here.
pub(crate) struct Room {
    root: PathBuf,
}

impl Room {
    /// The repository that the working directory lies in.
    pub(crate) fn find() -> Result<Self> {
        let here = std::env::current_dir().context(|| "no working directory".to_owned())?;
        let root = here.ancestors().find(|folder| folder.join("gateway/bench/peers").is_dir());
        let root =
            root.ok_or_else(|| Failure::new(format_args!("{} lies in no checkout of Sluice", here.display())))?;
        Ok(Self { root: root.to_owned() })
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// What is installed or built for measuring, and survives from run to run.
    pub(crate) fn build(&self) -> PathBuf {
        self.root.join(".build")
    }

    /// Keys, tokens and certificates, made once.
    pub(crate) fn material(&self) -> PathBuf {
        self.build().join("bench/material")
    }

    /// Configurations and logs of the processes of a run.
    pub(crate) fn scratch(&self) -> PathBuf {
        self.build().join("bench/scratch")
    }

    /// Taken for as long as something is measured: two measurements at once would share cores, scratch files and
    /// certificates, and both be wrong.
    pub(crate) fn lock(&self) -> Result<File> {
        let folder = self.build().join("bench");
        std::fs::create_dir_all(&folder).context(|| format!("cannot make {}", folder.display()))?;
        let path = folder.join("lock");
        let file = File::create(&path).context(|| format!("cannot write {}", path.display()))?;
        file.try_lock().context(|| "another measurement is under way in this checkout".to_owned())?;
        Ok(file)
    }

    pub(crate) fn bare_pingora(&self) -> PathBuf {
        self.build().join("bare-pingora/release/bare-pingora")
    }

    /// The gateway's binary: the one named, or the release build.
    pub(crate) fn sluice_or(&self, named: Option<PathBuf>) -> Result<PathBuf> {
        let path = named.unwrap_or_else(|| self.root.join("target/release/sluice"));
        let path = std::path::absolute(&path).context(|| format!("{} is no path", path.display()))?;
        if path.is_file() {
            return Ok(path);
        }
        let advice = "build it first: cargo build --release -p sluice-app";
        Err(Failure::new(format_args!("{} does not exist; {advice}", path.display())))
    }

    /// The component that the plugin scenario runs.
    pub(crate) fn component(&self) -> PathBuf {
        self.root.join("plugins/prebuilt/add_region_rust.wasm")
    }

    fn results(&self) -> PathBuf {
        self.root.join("gateway/bench/results")
    }

    /// The file for new figures of a kind: kind and time, so that names sort by age, and commit.
    pub(crate) fn new_results(&self, kind: &str, began: &str, commit: &str) -> PathBuf {
        let commit: String = commit.chars().take(12).collect();
        self.results().join(format!("{kind}-{}-{commit}.json", began.replace(':', "")))
    }

    /// The newest figures of a kind, if there are any.
    pub(crate) fn newest_results(&self, kind: &str) -> Result<Option<PathBuf>> {
        let folder = self.results();
        let entries = std::fs::read_dir(&folder).context(|| format!("cannot read {}", folder.display()))?;
        let files = entries.filter_map(|entry| Some(entry.ok()?.path()));
        let is_of_kind = |path: &PathBuf| {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            name.strip_prefix(kind).is_some_and(|rest| rest.starts_with('-')) && name.ends_with(".json")
        };
        Ok(files.filter(is_of_kind).max())
    }
}
