//! The eBPF object: built so that two machines with the same compiler get the same bytes.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use crate::{
    error::{Error, Result},
    prebuilt::{self, Artifact},
    toolchain::{self, BPF_LINKER, BpfTools, Compiler, repository},
};

/// Where the result goes, relative to the repository.
pub(crate) const DIRECTORY: &str = "ebpf/prebuilt";

/// The result.
const OBJECT: &str = "sluice.bpf.o";

/// What the object is built of. The observer is not among them: it only loads it.
const SOURCES: &[&str] = &[
    "ebpf/common/Cargo.toml",
    "ebpf/common/src",
    "ebpf/probes/Cargo.lock",
    "ebpf/probes/Cargo.toml",
    "ebpf/probes/src",
];

/// `cargo xtask bpf`.
pub(crate) fn build() -> Result<()> {
    let compiler = Compiler::ensure()?;
    let tools = BpfTools::ensure(&compiler)?;
    let directory = repository().join(DIRECTORY);
    fs::create_dir_all(&directory).map_err(Error::file("create", &directory))?;
    let object = directory.join(OBJECT);
    build_to(&compiler, &tools, &object)?;
    let artifact = Artifact::of(&directory, OBJECT, SOURCES, provenance(&compiler)?)?;
    println!("{} ({} bytes)", object.display(), fs::metadata(&object).map_or(0, |metadata| metadata.len()));
    prebuilt::record(&directory, vec![artifact])
}

/// Builds the object again and compares it with the committed one, where this machine has the compilers for it.
pub(crate) fn compare() -> Result<()> {
    let (Some(compiler), Some(tools)) = (Compiler::find(), BpfTools::find()) else {
        println!("{DIRECTORY}: not rebuilt, the compilers are not here (`cargo xtask toolchain` fetches them)");
        return Ok(());
    };
    let fresh = toolchain::build_dir().join(OBJECT);
    build_to(&compiler, &tools, &fresh)?;
    prebuilt::compare(&repository().join(DIRECTORY), OBJECT, &fresh, &provenance(&compiler)?)
}

fn provenance(compiler: &Compiler) -> Result<String> {
    Ok(format!("{}, bpf-linker {BPF_LINKER}", compiler.version()?))
}

fn build_to(compiler: &Compiler, tools: &BpfTools, object: &Path) -> Result<()> {
    let probes = repository().join("ebpf/probes");
    let target = toolchain::build_dir().join("probes");
    let mut cargo = compiler.cargo();
    cargo.current_dir(&probes).env("CARGO_ENCODED_RUSTFLAGS", flags(compiler, tools)?.join("\x1f"));
    cargo.env("LD_LIBRARY_PATH", toolchain::libraries());
    cargo.args(["build", "--quiet", "--locked", "--release", "--target", "bpfel-unknown-none"]);
    cargo.args(["-Z", "build-std=core", "--target-dir"]).arg(&target);
    toolchain::check(&mut cargo)?;
    let built = target.join("bpfel-unknown-none/release/sluice-probes");
    match &tools.objcopy {
        // The kernel reads type and line information in BTF; DWARF is five times the size of all the rest.
        Some(objcopy) => toolchain::check(
            Command::new(objcopy)
                .env("LD_LIBRARY_PATH", toolchain::libraries())
                .arg("--strip-debug")
                .arg(&built)
                .arg(object),
        ),
        None => fs::copy(&built, object).map(drop).map_err(Error::file("write", object)),
    }
}

fn flags(compiler: &Compiler, tools: &BpfTools) -> Result<Vec<String>> {
    let mut flags = vec![
        "-C".to_owned(),
        format!("linker={}", tools.linker.display()),
        // BTF is made from debug information.
        "-C".to_owned(),
        "debuginfo=2".to_owned(),
        "-C".to_owned(),
        "link-arg=--btf".to_owned(),
        // Chooses a register layout for probes that read registers. Ours do not: the object serves every little-endian
        // machine, and is built the same everywhere.
        "--cfg=bpf_target_arch=\"x86_64\"".to_owned(),
    ];
    // Line information holds paths. Where several of these match, the last one counts.
    let cargo = cargo_home()?;
    let mut remapped = vec![(repository(), "/sluice"), (cargo.clone(), "/cargo"), (compiler.sysroot()?, "/rustc")];
    // Sources from a registry lie in a folder named after it, and a mirror is another registry with the same sources.
    let sources = cargo.join("registry/src");
    for entry in fs::read_dir(&sources).map_err(Error::file("read", &sources))? {
        remapped.push((entry.map_err(Error::file("read", &sources))?.path(), "/crates"));
    }
    flags.extend(remapped.iter().map(|(from, to)| format!("--remap-path-prefix={}={to}", from.display())));
    Ok(flags)
}

/// Where cargo keeps the sources of dependencies.
pub(crate) fn cargo_home() -> Result<PathBuf> {
    env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| env::home_dir().map(|home| home.join(".cargo")))
        .ok_or_else(|| Error::Missing("neither CARGO_HOME nor a home directory is known".to_owned()))
}
