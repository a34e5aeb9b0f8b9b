//! `sluice plugin new`: a project that builds, is tested and can be served.

mod project;

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use self::project::{File, Language};
use crate::cli::{Failure, say};

/// The longest name: what cargo and npm both take, and a plugin's name in the configuration.
const LONGEST_NAME: usize = 64;

/// What to make.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  sluice plugin new --lang rust add-tenant\n  \
    sluice plugin new --lang javascript add-tenant --path plugins/add-tenant\n\n\
    Needs no network. The project holds the contract and the SDK as this gateway knows them.\n\n\
    Exit codes: 0 made, 1 it could not be written, 2 bad usage, or there is something in its place.")]
pub(crate) struct Arguments {
    /// The language
    #[arg(long, value_enum)]
    lang: Language,
    /// The plugin's name: a-z, 0-9 and -, beginning with a letter
    #[arg(value_name = "NAME")]
    name: String,
    /// The project's folder, which must not exist or be empty. Default: NAME in the present one
    #[arg(long, value_name = "FOLDER")]
    path: Option<PathBuf>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let name = arguments.name.as_str();
    let is_plain =
        |text: &str| text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
    if !name.starts_with(|first: char| first.is_ascii_lowercase()) || !is_plain(name) || name.len() > LONGEST_NAME {
        return Err(Failure::Usage(format!(
            "{name:?} is no name: expected 1 to {LONGEST_NAME} of a-z, 0-9 and -, beginning with a letter"
        )));
    }
    let folder = arguments.path.clone().unwrap_or_else(|| PathBuf::from(name));
    is_free(&folder)?;
    for file in arguments.lang.files(name) {
        write(&folder, &file)
            .map_err(|error| Failure::Run(format!("cannot write {}: {error}", folder.join(file.path).display())))?;
    }
    let shown = folder.display();
    say(format_args!(
        "{shown}: a plugin in {}\n\nNext:\n  cd {shown}\n  {}\n  sluice plugin test\n\nREADME.md there says what else there is.\n",
        arguments.lang.spoken(),
        arguments.lang.build(),
    ))
}

/// Nothing is ever written over.
fn is_free(folder: &Path) -> Result<(), Failure> {
    let is_empty = fs::read_dir(folder).map(|mut entries| entries.next().is_none());
    match is_empty {
        Ok(true) => Ok(()),
        Ok(false) => Err(Failure::Usage(format!("{} is not empty: name another folder by --path", folder.display()))),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(Failure::Usage(format!("{} cannot be used: {error}", folder.display()))),
    }
}

fn write(folder: &Path, file: &File) -> std::io::Result<()> {
    let path = folder.join(file.path);
    if let Some(parent) = path.parent() {
        DirBuilder::new().recursive(true).mode(0o755).create(parent)?;
    }
    let mode = if file.is_program { 0o755 } else { 0o644 };
    let mut made = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
    made.write_all(file.text.as_bytes())
}
