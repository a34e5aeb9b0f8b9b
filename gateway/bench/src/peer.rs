//! The proxies: how each is told to do a scenario's job, and how it is started.

use std::path::{Path, PathBuf};
use std::process::Command;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::duty::{Duty, Introspect};
use crate::error::{Context, Result};
use crate::material::{ISSUER, Material};
use crate::process::{PROXY_CORE, Process, pinned};
use crate::room::Room;
use crate::scenario::{Scenario, TokenKind};
use crate::tools;

/// How many tokens Envoy's cache holds where it has one; far fewer than there are.
const ENVOY_CACHE: &str = "jwt_cache_config: { jwt_cache_size: 1000 }";

/// A proxy that is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Peer {
    /// The gateway.
    Sluice,
    /// Pingora that does nothing but proxy.
    Pingora,
    /// Envoy.
    Envoy,
    /// Envoy with its cache of verified tokens.
    EnvoyCached,
    /// HAProxy.
    Haproxy,
    /// nginx.
    Nginx,
}

/// What a proxy is started with.
pub(crate) struct Stage<'a> {
    pub(crate) room: &'a Room,
    pub(crate) material: &'a Material,
    /// The gateway's binary.
    pub(crate) sluice: &'a Path,
    /// Where the proxy is to listen, and where the origin does.
    pub(crate) port: u16,
    pub(crate) origin: u16,
}

impl Peer {
    pub(crate) const ALL: &[Self] =
        &[Self::Sluice, Self::Pingora, Self::Envoy, Self::EnvoyCached, Self::Haproxy, Self::Nginx];

    /// The name on the command line and in results.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Sluice => "sluice",
            Self::Pingora => "pingora",
            Self::Envoy => "envoy",
            Self::EnvoyCached => "envoy-cached",
            Self::Haproxy => "haproxy",
            Self::Nginx => "nginx",
        }
    }

    /// Whether it can do a scenario's job as Debian or its makers ship it.
    pub(crate) fn does(self, scenario: Scenario) -> bool {
        match self {
            Self::Envoy | Self::Sluice | Self::Haproxy => true,
            Self::EnvoyCached => scenario.token().is_some(),
            Self::Nginx => scenario.token().is_none(),
            Self::Pingora => scenario.token().is_none() && scenario != Scenario::Plugin,
        }
    }

    /// What it calls its version.
    pub(crate) fn version(self, room: &Room, sluice: &Path) -> String {
        let (program, argument): (PathBuf, &str) = match self {
            Self::Pingora => return tools::locked_version(room, "pingora-proxy"),
            Self::Sluice => (sluice.to_owned(), "--version"),
            Self::Envoy | Self::EnvoyCached => (tools::envoy(room).unwrap_or_default(), "--version"),
            Self::Haproxy => ("haproxy".into(), "-v"),
            Self::Nginx => ("nginx".into(), "-v"),
        };
        let Ok(output) = Command::new(&program).arg(argument).output() else { return "unknown".to_owned() };
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&text);
        let line = text.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or("unknown");
        // Some begin with their own path, which is of no interest elsewhere.
        let path = program.to_string_lossy();
        line.strip_prefix(&*path).unwrap_or(line).trim_start_matches([' ', ':']).to_owned()
    }

    /// Writes its configuration, starts it on its core, and waits until it listens.
    pub(crate) fn start(self, duty: Duty, stage: &Stage<'_>) -> Result<Process> {
        let folder = stage.room.scratch();
        let command = match self {
            Self::Sluice => sluice(duty, stage, &folder)?,
            Self::Pingora => bare_pingora(duty, stage),
            Self::Envoy => envoy(duty, stage, &folder, "")?,
            Self::EnvoyCached => envoy(duty, stage, &folder, ENVOY_CACHE)?,
            Self::Haproxy => haproxy(duty, stage, &folder)?,
            Self::Nginx => nginx(duty, stage, &folder)?,
        };
        Process::start(self.name(), command, &folder, stage.port)
    }
}

/// The origin that stands behind every proxy, and an introspection service for each of `delays_ms`, on the core that is
/// not theirs.
pub(crate) fn start_origin(room: &Room, material: &Material, port: u16, delays_ms: &[u32]) -> Result<Process> {
    let folder = room.scratch();
    let text = include_str!("../peers/origin-nginx.conf");
    let mut claims = material.claims(TokenKind::Rs256)?;
    claims.insert("active".to_owned(), true.into());
    let values = [
        ("services", delays_ms.iter().copied().map(introspection_service).collect()),
        ("origin", port.to_string()),
        ("dir", show(&folder)),
        ("body", "x".repeat(1024)),
        ("forged", material.forged(TokenKind::Rs256)?),
        ("active", Value::Object(claims).to_string()),
    ];
    let config = write(&folder, "origin.conf", &fill(text, &values))?;
    let mut command = pinned(crate::process::LOAD_CORE, "nginx");
    command.arg("-p").arg(&folder).arg("-c").arg(config);
    Process::start("origin", command, &folder, port)
}

/// The service that takes so long.
fn introspection_service(delay_ms: u32) -> String {
    let sleep = if delay_ms == 0 { String::new() } else { format!("echo_sleep {:.3};", f64::from(delay_ms) / 1e3) };
    let values = [("delay", delay_ms.to_string()), ("sleep", sleep)];
    fill(include_str!("../peers/origin-introspection.conf"), &values)
}

/// Where the service that takes so long judges the token of the request itself, by status.
fn status_path(asked: Introspect) -> (&'static str, String) {
    ("path", format!("/introspect-{}ms", asked.delay_ms))
}

fn sluice(duty: Duty, stage: &Stage<'_>, folder: &Path) -> Result<Command> {
    const AUTH: &str = "auth: { issuer: corp, scopes: { all: [\"orders:read\"] } }";
    let mut values = common(stage);
    let (mut tls, mut issuers, mut plugins, mut route) = ("", String::new(), String::new(), "");
    match duty {
        Duty::Introspect(asked) => {
            let secret = write(folder, "client.secret", "bench")?;
            let cache = if asked.cached { "{}" } else { "{ positive: 0s, negative: 0s, size: 0B }" };
            values.extend([("secret", show(&secret)), ("cache", cache.to_owned())]);
            values.push(("delay", asked.delay_ms.to_string()));
            issuers = fill(include_str!("../peers/sluice-introspect.yaml"), &values);
            route = AUTH;
        }
        Duty::Scenario(scenario) if scenario.token().is_some() => {
            issuers = fill(include_str!("../peers/sluice-jwt.yaml"), &values);
            route = AUTH;
        }
        Duty::Scenario(Scenario::Plugin) => {
            values.push(("component", show(&stage.room.component())));
            plugins = fill(include_str!("../peers/sluice-plugin.yaml"), &values);
            route = "plugins: [add-region]";
        }
        Duty::Scenario(scenario) if scenario.tls() => {
            tls = "tls: { certificates: [{ cert: \"@dir@/edge.crt\", key: \"@dir@/edge.key\" }] }\n    http2: true";
        }
        Duty::Scenario(_) => {}
    }
    let tls = fill(tls, &values);
    values.extend([("tls", tls), ("issuers", issuers), ("plugins", plugins), ("route", route.to_owned())]);
    let config = write(folder, "sluice.yaml", &fill(include_str!("../peers/sluice.yaml"), &values))?;
    let mut command = pinned(PROXY_CORE, stage.sluice);
    command.args(["run", "-c"]).arg(config);
    Ok(command)
}

fn bare_pingora(duty: Duty, stage: &Stage<'_>) -> Command {
    let mut command = pinned(PROXY_CORE, stage.room.bare_pingora());
    command.arg(format!("127.0.0.1:{}", stage.port)).arg(format!("127.0.0.1:{}", stage.origin));
    if duty.scenario().is_some_and(Scenario::tls) {
        let folder = stage.material.folder();
        command.arg(folder.join("edge.crt")).arg(folder.join("edge.key"));
    }
    command
}

fn envoy(duty: Duty, stage: &Stage<'_>, folder: &Path, cache: &str) -> Result<Command> {
    let mut values = common(stage);
    let (mut filters, mut transport) = (String::new(), String::new());
    match duty {
        Duty::Introspect(asked) => {
            values.push(status_path(asked));
            filters = fill(include_str!("../peers/envoy-introspect.yaml"), &values);
        }
        Duty::Scenario(scenario) if scenario.token().is_some() => {
            values.extend([("jwks", stage.material.jwks()?), ("cache", cache.to_owned())]);
            filters = fill(include_str!("../peers/envoy-jwt.yaml"), &values);
        }
        Duty::Scenario(Scenario::Plugin) => filters = include_str!("../peers/envoy-plugin.yaml").to_owned(),
        Duty::Scenario(scenario) if scenario.tls() => {
            transport = fill(include_str!("../peers/envoy-tls.yaml"), &values);
        }
        Duty::Scenario(_) => {}
    }
    values.extend([("filters", filters), ("transport", transport)]);
    let config = write(folder, "envoy.yaml", &fill(include_str!("../peers/envoy.yaml"), &values))?;
    let mut command = pinned(PROXY_CORE, tools::envoy(stage.room)?);
    command.args(["--concurrency", "1", "--disable-hot-restart", "--log-level", "warning", "-c"]).arg(config);
    Ok(command)
}

fn haproxy(duty: Duty, stage: &Stage<'_>, folder: &Path) -> Result<Command> {
    let mut values = common(stage);
    let (mut global, mut bind, mut rules) = (String::new(), String::new(), String::new());
    let scenario = duty.scenario();
    if let Some(kind) = scenario.and_then(Scenario::token) {
        values.extend([("algorithm", kind.algorithm().to_owned()), ("key", kind.stem().to_owned())]);
        rules = fill(include_str!("../peers/haproxy-jwt.cfg"), &values);
    } else if scenario == Some(Scenario::Plugin) {
        let script = write(folder, "haproxy-plugin.lua", include_str!("../peers/haproxy-plugin.lua"))?;
        global = format!("lua-load {}", show(&script));
        rules = concat!(
            "http-request lua.add_region\n",
            "    http-request deny if { var(txn.refused) -m found }\n",
            "    http-response lua.add_region_out"
        )
        .to_owned();
    } else if scenario.is_some_and(Scenario::tls) {
        global = "ssl-default-bind-options ssl-min-ver TLSv1.3".to_owned();
        bind = fill("ssl crt @dir@/edge.pem alpn h2,http/1.1", &values);
    }
    values.extend([("global", global), ("bind", bind), ("rules", rules)]);
    let config = write(folder, "haproxy.cfg", &fill(include_str!("../peers/haproxy.cfg"), &values))?;
    let mut command = pinned(PROXY_CORE, "haproxy");
    command.args(["-db", "-f"]).arg(config);
    Ok(command)
}

fn nginx(duty: Duty, stage: &Stage<'_>, folder: &Path) -> Result<Command> {
    let mut values = vec![("port", stage.port.to_string()), ("origin", stage.origin.to_string())];
    let (mut modules, mut listen, mut tls) = ("", "", String::new());
    let (mut access, mut service) = ("", String::new());
    match duty {
        Duty::Introspect(asked) => {
            values.push(status_path(asked));
            access = "auth_request /_introspect;";
            service = fill(include_str!("../peers/nginx-introspect.conf"), &values);
        }
        Duty::Scenario(Scenario::Plugin) => {
            modules = include_str!("../peers/nginx-modules.conf");
            access = include_str!("../peers/nginx-plugin.conf");
        }
        Duty::Scenario(scenario) if scenario.tls() => {
            listen = "ssl http2";
            tls = fill(include_str!("../peers/nginx-tls.conf"), &common(stage));
        }
        Duty::Scenario(_) => {}
    }
    values.extend([("modules", modules.to_owned()), ("listen", listen.to_owned()), ("tls", tls)]);
    values.extend([("access", access.to_owned()), ("service", service), ("dir", show(folder))]);
    let config = write(folder, "nginx.conf", &fill(include_str!("../peers/nginx.conf"), &values))?;
    let mut command = pinned(PROXY_CORE, "nginx");
    command.arg("-p").arg(folder).arg("-c").arg(config);
    Ok(command)
}

/// What every template may name; `dir` is the folder of keys and certificates.
fn common(stage: &Stage<'_>) -> Vec<(&'static str, String)> {
    vec![
        ("port", stage.port.to_string()),
        ("origin", stage.origin.to_string()),
        ("dir", show(stage.material.folder())),
        ("issuer", ISSUER.to_owned()),
    ]
}

/// Puts values in the place of `@name@`.
fn fill(template: &str, values: &[(&str, String)]) -> String {
    values.iter().fold(template.to_owned(), |text, (name, value)| text.replace(&format!("@{name}@"), value))
}

fn write(folder: &Path, name: &str, text: &str) -> Result<PathBuf> {
    let path = folder.join(name);
    std::fs::write(&path, text).context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}

fn show(path: &Path) -> String {
    path.display().to_string()
}
