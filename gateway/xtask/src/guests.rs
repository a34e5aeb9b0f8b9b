//! The sample and hostile plugins: built so that two machines with the same compilers get the same bytes.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use crate::{
    error::{Error, Result},
    prebuilt::{self, Artifact},
    toolchain::{self, Compiler, repository},
};

/// Where the results go, relative to the repository.
pub(crate) const DIRECTORY: &str = "plugins/prebuilt";

/// Stack of a guest. The usual megabyte would be most of what a fresh instance touches; header logic needs little.
const STACK_BYTES: u32 = 32 * 1024;

/// A guest written in Rust: its package, which is also its folder's last part.
struct RustGuest {
    package: &'static str,
    folder: &'static str,
    /// A file of another guest that it is built of too.
    shares: Option<&'static str>,
}

impl RustGuest {
    const fn new(package: &'static str, folder: &'static str) -> Self {
        Self { package, folder, shares: None }
    }
}

const RUST_GUESTS: &[RustGuest] = &[
    RustGuest::new("add-region-rust", "plugins/examples/add-region-rust"),
    RustGuest::new("canary", "plugins/examples/canary"),
    RustGuest::new("choose-upstream", "plugins/examples/choose-upstream"),
    RustGuest::new("outside-decision", "plugins/examples/outside-decision"),
    RustGuest::new("quota", "plugins/examples/quota"),
    RustGuest::new("response-policy", "plugins/examples/response-policy"),
    RustGuest::new("signed-urls", "plugins/examples/signed-urls"),
    RustGuest::new("hostile", "plugins/hostile"),
    RustGuest::new("bodies", "plugins/bodies"),
    RustGuest { shares: Some("plugins/bodies/src/act.rs"), ..RustGuest::new("chunks", "plugins/chunks") },
    RustGuest::new("probe", "plugins/probe"),
    RustGuest::new("asking", "plugins/asking"),
];

/// What every guest in Rust is built of, beside its own folder.
const RUST_SOURCES: [&str; 5] =
    ["plugins/Cargo.lock", "plugins/Cargo.toml", "plugins/sdk/Cargo.toml", "plugins/sdk/src", "wit"];

/// How npm fetches what a lock file names. None of the packages has anything to run when it is installed.
pub(crate) const FETCH: [&str; 5] = ["ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"];

const SCRIPT_FOLDER: &str = "plugins/examples/add-region-as";
const SCRIPT_RESULT: &str = "add_region_as.wasm";
const SCRIPT_SOURCES: [&str; 5] = [
    "plugins/examples/add-region-as/assembly",
    "plugins/examples/add-region-as/build.mjs",
    "plugins/examples/add-region-as/package-lock.json",
    "plugins/examples/add-region-as/package.json",
    "wit",
];

impl RustGuest {
    /// The component's file name, as cargo derives it.
    fn file(&self) -> String {
        format!("{}.wasm", self.package.replace('-', "_"))
    }

    fn sources(&self) -> Vec<String> {
        let own = ["Cargo.toml", "src"].map(|part| format!("{}/{part}", self.folder));
        RUST_SOURCES.into_iter().map(str::to_owned).chain(own).chain(self.shares.map(str::to_owned)).collect()
    }
}

/// `cargo xtask guests`.
pub(crate) fn build() -> Result<()> {
    let compiler = Compiler::ensure()?;
    let directory = repository().join(DIRECTORY);
    fs::create_dir_all(&directory).map_err(Error::file("create", &directory))?;
    build_rust_to(&compiler, &directory)?;
    build_script_to(&directory)?;
    let built_with = rust_provenance(&compiler)?;
    let mut artifacts = Vec::new();
    for guest in RUST_GUESTS {
        let sources = guest.sources();
        let sources: Vec<&str> = sources.iter().map(String::as_str).collect();
        artifacts.push(Artifact::of(&directory, &guest.file(), &sources, built_with.clone())?);
    }
    artifacts.push(Artifact::of(&directory, SCRIPT_RESULT, &SCRIPT_SOURCES, script_provenance()?)?);
    for artifact in &artifacts {
        let path = directory.join(&artifact.file);
        println!("{} ({} bytes)", path.display(), fs::metadata(&path).map_or(0, |metadata| metadata.len()));
    }
    prebuilt::record(&directory, artifacts)
}

/// Builds the guests again and compares them with the committed ones, as far as this machine has the compilers.
pub(crate) fn compare() -> Result<()> {
    let directory = repository().join(DIRECTORY);
    let fresh = toolchain::build_dir().join("guests");
    fs::create_dir_all(&fresh).map_err(Error::file("create", &fresh))?;
    match Compiler::find() {
        Some(compiler) => {
            build_rust_to(&compiler, &fresh)?;
            for guest in RUST_GUESTS {
                let file = guest.file();
                prebuilt::compare(&directory, &file, &fresh.join(&file), &rust_provenance(&compiler)?)?;
            }
        }
        None => println!("{DIRECTORY}: guests in Rust not rebuilt, `cargo xtask toolchain` fetches the compiler"),
    }
    if repository().join(SCRIPT_FOLDER).join("node_modules").exists() {
        build_script_to(&fresh)?;
        prebuilt::compare(&directory, SCRIPT_RESULT, &fresh.join(SCRIPT_RESULT), &script_provenance()?)?;
    } else {
        println!("{DIRECTORY}: the guest in AssemblyScript not rebuilt, `cargo xtask guests` fetches its compiler");
    }
    Ok(())
}

fn build_rust_to(compiler: &Compiler, directory: &Path) -> Result<()> {
    let target = toolchain::build_dir().join("guests-target");
    let tools = linker_folder()?;
    let mut cargo = compiler.cargo();
    cargo.current_dir(repository().join("plugins"));
    cargo.env("CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER", tools.join("wasm-component-ld"));
    // wasm-component-ld runs wasm-ld by that name.
    cargo.env("PATH", prepend_to_path(&tools.join("gcc-ld"))?);
    cargo.env("CARGO_ENCODED_RUSTFLAGS", flags(compiler)?.join("\x1f"));
    cargo.args(["build", "--quiet", "--locked", "--release", "--target", "wasm32-unknown-unknown"]);
    cargo.args(["-Z", "build-std=std,panic_abort", "--target-dir"]).arg(&target);
    for guest in RUST_GUESTS {
        cargo.args(["--package", guest.package]);
    }
    toolchain::check(&mut cargo)?;
    for guest in RUST_GUESTS {
        let (from, to) =
            (target.join("wasm32-unknown-unknown/release").join(guest.file()), directory.join(guest.file()));
        fs::copy(&from, &to).map_err(Error::file("write", &to))?;
    }
    Ok(())
}

fn flags(compiler: &Compiler) -> Result<Vec<String>> {
    let mut flags = vec!["-C".to_owned(), format!("link-arg=-zstack-size={STACK_BYTES}")];
    // Panic messages hold paths; these are the only three roots they can have.
    for (from, to) in [(repository(), "/sluice"), (cargo_home()?, "/cargo"), (compiler.sysroot()?, "/rustc")] {
        flags.push(format!("--remap-path-prefix={}={to}", from.display()));
    }
    Ok(flags)
}

/// Where cargo keeps the sources of dependencies.
fn cargo_home() -> Result<PathBuf> {
    let beside_home = || env::home_dir().map(|home| home.join(".cargo"));
    env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(beside_home)
        .ok_or_else(|| Error::Missing("neither CARGO_HOME nor a home directory is known".to_owned()))
}

/// Where the linkers lie that come with every Rust installation.
fn linker_folder() -> Result<PathBuf> {
    let sysroot = PathBuf::from(toolchain::output(Command::new("rustc").args(["--print", "sysroot"]))?.trim());
    let host = toolchain::output(Command::new("rustc").args(["--print", "host-tuple"]))?;
    let folder = sysroot.join("lib/rustlib").join(host.trim()).join("bin");
    if folder.join("wasm-component-ld").exists() && folder.join("gcc-ld/wasm-ld").exists() {
        Ok(folder)
    } else {
        Err(Error::Missing(format!("{} lacks wasm-component-ld or gcc-ld/wasm-ld", folder.display())))
    }
}

fn prepend_to_path(folder: &Path) -> Result<std::ffi::OsString> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::join_paths(std::iter::once(folder.to_owned()).chain(env::split_paths(&path)))
        .map_err(|_| Error::Missing(format!("{} cannot stand in PATH", folder.display())))
}

fn build_script_to(directory: &Path) -> Result<()> {
    let folder = repository().join(SCRIPT_FOLDER);
    if !folder.join("node_modules").exists() {
        println!("fetching the AssemblyScript compiler into {SCRIPT_FOLDER}/node_modules");
        toolchain::check(Command::new("npm").args(FETCH).current_dir(&folder))?;
    }
    toolchain::check(Command::new("node").arg("build.mjs").arg(directory.join(SCRIPT_RESULT)).current_dir(&folder))
}

fn rust_provenance(compiler: &Compiler) -> Result<String> {
    let linker = toolchain::output(Command::new("rustc").arg("--version"))?;
    Ok(format!("{}, wasm-component-ld of {}", compiler.version()?, linker.trim()))
}

/// The pinned packages: their versions decide the bytes, whatever runs them.
fn script_provenance() -> Result<String> {
    let path = repository().join(SCRIPT_FOLDER).join("package.json");
    let text = fs::read_to_string(&path).map_err(Error::file("read", &path))?;
    let package: serde_json::Value = serde_json::from_str(&text).map_err(|source| Error::Manifest { path, source })?;
    let pinned = package["devDependencies"].as_object().into_iter().flatten();
    let pinned: Vec<String> =
        pinned.map(|(name, version)| format!("{name} {}", version.as_str().unwrap_or("?"))).collect();
    Ok(pinned.join(", "))
}
