//! The compilers for what is not built by stable Rust.
//!
//! Both the eBPF object and the guests need a standard library built from source for a target that rustup's stable
//! toolchain does not ship. There are two ways to it:
//!
//! 1. A nightly toolchain of rustup with the component `rust-src`, where one is installed.
//! 2. Debian's packages of a newer rustc, unpacked into `.build/rustc-web/root` without installing anything. A stable
//!    compiler builds its own library from its own sources when told to by `RUSTC_BOOTSTRAP`.
//!
//! The second comes first where it is already there, so that a machine always builds with the same one.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use crate::error::{Error, Result};

/// Enough for guests: the compiler, its library, the library's sources, and LLVM with what it links to beyond the
/// packages that every Debian has. Versions of the first four must match, so they are fetched together.
const COMPILER: &[&str] = &[
    "rustc-web",
    "libstd-rust-web-1.96",
    "libstd-rust-web-dev",
    "rust-web-src",
    "libllvm22",
    "libz3-4",
    "libedit2",
    "libbsd0",
    "libmd0",
    "libffi8",
    "libxml2",
    "libicu72",
];

/// What bpf-linker is built with beyond that.
const LLVM: &[&str] = &["llvm-22", "llvm-22-dev"];

/// The linker for eBPF objects, and its version: what it emits depends on it.
pub(crate) const BPF_LINKER: &str = "0.13.0";

/// The repository.
pub(crate) fn repository() -> PathBuf {
    // Two levels up from this crate, wherever the repository was cloned to.
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.ancestors().nth(2).unwrap_or(manifest).to_owned()
}

/// Where everything fetched or built by chores goes; ignored by git.
pub(crate) fn build_dir() -> PathBuf {
    repository().join(".build")
}

/// A compiler that can build a standard library from source.
#[derive(Debug)]
pub(crate) enum Compiler {
    /// Unpacked packages; holds the wrapper around rustc.
    Packages { rustc: PathBuf },
    /// rustup's nightly with sources.
    Nightly,
}

impl Compiler {
    /// The compiler on this machine, if there is one yet.
    pub(crate) fn find() -> Option<Self> {
        let rustc = wrapper();
        if COMPILER.iter().all(|package| stamp(package).exists()) && rustc.exists() {
            return Some(Self::Packages { rustc });
        }
        nightly_has_sources().then_some(Self::Nightly)
    }

    /// The compiler on this machine; fetched where there is none.
    pub(crate) fn ensure() -> Result<Self> {
        if let Some(found) = Self::find() {
            return Ok(found);
        }
        fetch(COMPILER)?;
        write_wrapper()?;
        Ok(Self::Packages { rustc: wrapper() })
    }

    /// `cargo`, set up to build with this compiler and to accept `-Z build-std`.
    pub(crate) fn cargo(&self) -> Command {
        self.cargo_like("cargo")
    }

    /// The same of a program that runs `cargo`.
    pub(crate) fn cargo_like(&self, program: &str) -> Command {
        let mut cargo = Command::new(program);
        // What the cargo that runs this chore has set for itself must not reach the other one.
        for inherited in ["RUSTC", "RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS", "CARGO_TARGET_DIR", "RUSTC_WRAPPER"] {
            cargo.env_remove(inherited);
        }
        match self {
            Self::Packages { rustc } => cargo.env("RUSTC", rustc).env("RUSTC_BOOTSTRAP", "1"),
            Self::Nightly => cargo.env("RUSTUP_TOOLCHAIN", "nightly").env_remove("CARGO"),
        };
        cargo
    }

    /// What `rustc --version` says: part of a result's provenance.
    pub(crate) fn version(&self) -> Result<String> {
        let mut rustc = match self {
            Self::Packages { rustc } => Command::new(rustc),
            Self::Nightly => {
                let mut rustc = Command::new("rustup");
                rustc.args(["run", "nightly", "rustc"]);
                rustc
            }
        };
        Ok(output(rustc.arg("--version"))?.trim().to_owned())
    }

    /// The compiler's own library sources and programs lie here: a path to remap.
    pub(crate) fn sysroot(&self) -> Result<PathBuf> {
        match self {
            Self::Packages { .. } => Ok(prefix().join("usr")),
            Self::Nightly => {
                let mut rustc = Command::new("rustup");
                Ok(output(rustc.args(["run", "nightly", "rustc", "--print", "sysroot"]))?.trim().into())
            }
        }
    }
}

/// The eBPF linker and, where it came with packages, the tool that strips what only debuggers want.
#[derive(Debug)]
pub(crate) struct BpfTools {
    pub(crate) linker: PathBuf,
    pub(crate) objcopy: Option<PathBuf>,
}

impl BpfTools {
    /// The tools on this machine, if they are there yet.
    pub(crate) fn find() -> Option<Self> {
        let linker = build_dir().join("bpf-linker/bin/bpf-linker");
        let objcopy = prefix().join("usr/lib/llvm-22/bin/llvm-objcopy");
        linker.exists().then(|| Self { linker, objcopy: objcopy.exists().then_some(objcopy) })
    }

    /// The tools on this machine; built where there are none.
    pub(crate) fn ensure(compiler: &Compiler) -> Result<Self> {
        if let Some(found) = Self::find() {
            return Ok(found);
        }
        let build = build_dir();
        let mut cargo = Command::new("cargo");
        cargo.args(["install", "bpf-linker", "--version", BPF_LINKER, "--locked", "--quiet", "--root"]);
        cargo.arg(build.join("bpf-linker")).arg("--target-dir").arg(build.join("bpf-linker-target"));
        if matches!(compiler, Compiler::Packages { .. }) {
            fetch(LLVM)?;
            let llvm = prefix().join("usr/lib/llvm-22");
            cargo.args(["--no-default-features", "--features", "llvm-22"]);
            cargo.env("LLVM_PREFIX", &llvm).env("LLVM_SYS_221_PREFIX", &llvm).env("LD_LIBRARY_PATH", libraries());
            cargo.env_remove("RUSTFLAGS").env("RUSTFLAGS", format!("-L native={}", libraries().display()));
        }
        println!("building bpf-linker {BPF_LINKER} (about a minute, once)");
        check(&mut cargo)?;
        Self::find().ok_or_else(|| Error::Missing("bpf-linker was installed but is not where it should be".to_owned()))
    }
}

/// `cargo xtask toolchain`.
pub(crate) fn prepare() -> Result<()> {
    let compiler = Compiler::ensure()?;
    println!(
        "compiler: {} ({})",
        compiler.version()?,
        match &compiler {
            Compiler::Packages { rustc } => rustc.display().to_string(),
            Compiler::Nightly => "rustup's nightly".to_owned(),
        }
    );
    let tools = BpfTools::ensure(&compiler)?;
    println!("eBPF linker: {}", tools.linker.display());
    Ok(())
}

/// Where packages are unpacked.
fn prefix() -> PathBuf {
    build_dir().join("rustc-web/root")
}

/// Where the unpacked programs find their libraries; set for them alone.
pub(crate) fn libraries() -> PathBuf {
    prefix().join("usr/lib").join(format!("{}-linux-gnu", env::consts::ARCH))
}

fn wrapper() -> PathBuf {
    build_dir().join("rustc-web/rustc")
}

/// Made when a package has been unpacked whole.
fn stamp(package: &str) -> PathBuf {
    build_dir().join("rustc-web/unpacked").join(package)
}

/// Downloads and unpacks those of `packages` that are not there yet.
fn fetch(packages: &[&str]) -> Result<()> {
    let missing: Vec<_> = packages.iter().copied().filter(|package| !stamp(package).exists()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    println!("fetching packages into {}: {}", build_dir().display(), missing.join(" "));
    let debs = build_dir().join("debs");
    // Of another run that was cut short: an older version beside a newer one would be unpacked too.
    if debs.exists() {
        fs::remove_dir_all(&debs).map_err(Error::file("clear", &debs))?;
    }
    for dir in [&debs, &prefix(), &build_dir().join("rustc-web/unpacked")] {
        fs::create_dir_all(dir).map_err(Error::file("create", dir))?;
    }
    let mut apt = Command::new("apt-get");
    // The user that apt drops to may not be able to write here.
    apt.args(["-qq", "-o", "APT::Sandbox::User=root", "download"]).args(&missing).current_dir(&debs);
    check_with_hint(
        &mut apt,
        ": without Debian's packages, `rustup toolchain install nightly --component rust-src` serves as well",
    )?;
    for entry in fs::read_dir(&debs).map_err(Error::file("read", &debs))? {
        let deb = entry.map_err(Error::file("read", &debs))?.path();
        check(Command::new("dpkg").arg("-x").arg(&deb).arg(prefix()))?;
    }
    for package in &missing {
        let stamp = stamp(package);
        fs::write(&stamp, b"").map_err(Error::file("write", &stamp))?;
    }
    fs::remove_dir_all(&debs).map_err(Error::file("clear", &debs))
}

/// A script that stands for rustc and gives it its libraries. It finds them beside itself, so that the folder can move.
fn write_wrapper() -> Result<()> {
    let script = format!(
        "#!/bin/sh\nroot=\"$(dirname \"$(readlink -f \"$0\")\")/root\"\n\
         LD_LIBRARY_PATH=\"$root/usr/lib/{}-linux-gnu\" exec \"$root/usr/bin/rustc\" \"$@\"\n",
        env::consts::ARCH
    );
    let path = wrapper();
    fs::write(&path, script).map_err(Error::file("write", &path))?;
    make_executable(&path)
}

fn make_executable(path: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).map_err(Error::file("make executable", path))
}

fn nightly_has_sources() -> bool {
    let sysroot = Command::new("rustup")
        .args(["run", "nightly", "rustc", "--print", "sysroot"])
        .stderr(Stdio::null())
        .output()
        .ok()
        .filter(|output| output.status.success());
    sysroot.is_some_and(|output| {
        let sysroot = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim());
        sysroot.join("lib/rustlib/src/rust/library/Cargo.lock").exists()
    })
}

/// Runs a program to its end; its output goes to ours.
pub(crate) fn check(command: &mut Command) -> Result<()> {
    check_with_hint(command, "")
}

fn check_with_hint(command: &mut Command, hint: &'static str) -> Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    match command.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(Error::Failed { program, status }),
        Err(source) => Err(Error::Start { program, hint, source }),
    }
}

/// Runs a program to its end and gives what it wrote.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.stderr(Stdio::inherit()).output();
    match output {
        Ok(output) if output.status.success() => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        Ok(output) => Err(Error::Failed { program, status: output.status }),
        Err(source) => Err(Error::Start { program, hint: "", source }),
    }
}
