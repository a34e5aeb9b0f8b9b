//! The projects that `sluice plugin new` makes, built and tested as a plugin's author would.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use crate::{
    error::{Error, Result},
    guests::FETCH,
    toolchain::{self, Compiler, repository},
};

/// `cargo xtask templates`.
pub(crate) fn run() -> Result<()> {
    let sluice = repository().join("target/debug/sluice");
    if !sluice.exists() {
        return Err(Error::Missing(format!("{} is missing: make build", sluice.display())));
    }
    let folder = toolchain::build_dir().join("templates");
    if folder.exists() {
        fs::remove_dir_all(&folder).map_err(Error::file("remove", &folder))?;
    }
    fs::create_dir_all(&folder).map_err(Error::file("create", &folder))?;

    let rust = made(&sluice, &folder, "rust")?;
    let compiler = Compiler::ensure()?;
    // What the project's own script would run by the name of cargo, with the compiler that this machine has.
    let mut build = compiler.cargo_like("./build.sh");
    toolchain::check(build.current_dir(&rust).args(["-Z", "build-std=std,panic_abort"]))?;
    tested(&sluice, &rust)?;

    for language in ["assemblyscript", "javascript"] {
        let project = made(&sluice, &folder, language)?;
        toolchain::check(Command::new("npm").args(FETCH).current_dir(&project))?;
        toolchain::check(Command::new("npm").args(["run", "--silent", "build"]).current_dir(&project))?;
        tested(&sluice, &project)?;
    }

    let python = made(&sluice, &folder, "python")?;
    toolchain::check(Command::new("./build.sh").current_dir(&python))?;
    tested(&sluice, &python)
}

fn made(sluice: &Path, folder: &Path, language: &str) -> Result<PathBuf> {
    println!("== a plugin in {language} ==");
    let name = format!("made-in-{language}");
    toolchain::check(Command::new(sluice).args(["plugin", "new", "--lang", language, &name]).current_dir(folder))?;
    Ok(folder.join(name))
}

fn tested(sluice: &Path, project: &Path) -> Result<()> {
    toolchain::check(Command::new(sluice).args(["plugin", "test"]).current_dir(project))?;
    toolchain::check(Command::new(sluice).args(["plugin", "check", "plugin.wasm"]).current_dir(project))
}
