//! `sluice demo`: a whole gateway on embedded defaults. No file, no server, no privilege is needed.
//!
//! The gateway is the real one, started from a configuration written into a folder of its own just as an operator would
//! write it; only the origin, the token issuer and the client that plays the scenes live in the same process.

mod issuer;
mod origin;
mod play;
mod scenes;

use std::io::Write;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sluice_vocabulary::ports::Inspect;
use sluice_vocabulary::unit::State;

use self::issuer::{AUDIENCE, ISSUER, Issuer};
use self::origin::Origins;
use super::{Failure, load};
use crate::compose::{Gateway, Log, Start, StartError};

/// How the demo is played.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  sluice demo            serve, and print commands to try\n  \
    sluice demo --once     play every scene, say how each went, and end\n  \
    sluice demo --once --json | jq .ok")]
pub(crate) struct Arguments {
    /// Play every scene, then end: exit code 0 only if all went as expected
    #[arg(long)]
    once: bool,
    /// With --once: JSON instead of text
    #[arg(long, requires = "once")]
    json: bool,
    /// Where the gateway listens; port 0 takes any free one
    #[arg(long, default_value = "127.0.0.1:0", value_name = "ADDRESS")]
    listen: SocketAddr,
}

const CONFIG: &str = include_str!("demo.yaml");
const COMPONENTS: &[(&str, &[u8])] = &[
    (
        "add-region.wasm",
        include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../plugins/prebuilt/add_region_rust.wasm")),
    ),
    (
        "add-region-as.wasm",
        include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../plugins/prebuilt/add_region_as.wasm")),
    ),
    ("hostile.wasm", include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../plugins/prebuilt/hostile.wasm"))),
];

/// How long the kernel's last counts are waited for.
const KERNEL_PATIENCE: Duration = Duration::from_millis(2500);

/// How long the gateway may take to listen.
const START_PATIENCE: Duration = Duration::from_secs(10);

/// A gateway with everything around it.
struct World {
    gateway: Gateway,
    issuer: Issuer,
    address: SocketAddr,
    /// Keeps the origins' runtime.
    _origins: tokio::runtime::Runtime,
    _folder: tempfile::TempDir,
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let began = Instant::now();
    let mut world = World::start(arguments)?;
    if arguments.once {
        return once(world, arguments.json, began);
    }
    introduce(&world, began)?;
    world.gateway.background.block_on(world.gateway.stop_signals.next());
    world.gateway.stop();
    Ok(())
}

impl World {
    fn start(arguments: &Arguments) -> Result<Self, Failure> {
        let issuer = Issuer::new().map_err(Failure::run)?;
        let key_set = issuer.key_set().map_err(Failure::run)?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("demo-origin")
            .enable_all()
            .build()
            .map_err(Failure::run)?;
        let origins = runtime.block_on(origin::start(key_set)).map_err(Failure::run)?;
        let folder = tempfile::Builder::new().prefix("sluice-demo-").tempdir().map_err(Failure::run)?;
        for (name, bytes) in COMPONENTS {
            std::fs::write(folder.path().join(name), bytes).map_err(Failure::run)?;
        }
        let file = folder.path().join("demo.yaml");
        std::fs::write(&file, config(arguments.listen, &origins)).map_err(Failure::run)?;

        let loaded = load::read(&file).map_err(|faults| Failure::Run(faults.for_terminal()))?;
        let log = Log::install(&loaded.config.telemetry.logs).map_err(Failure::run)?;
        let start =
            Start { config: loaded.config.clone(), folder: folder.path(), file: None, watch_plugins: false, log };
        let gateway = Gateway::start(start).map_err(|error| match error {
            StartError::Config(faults) => Failure::Run(loaded.explain(&faults)),
            StartError::Machine(why) => Failure::Run(why),
        })?;
        gateway.wait_until_listening(START_PATIENCE).map_err(Failure::run)?;
        let address =
            gateway.addresses().first().copied().ok_or_else(|| Failure::run("the gateway listens nowhere"))?;
        Ok(Self { gateway, issuer, address, _origins: runtime, _folder: folder })
    }
}

/// The embedded configuration with its addresses filled in.
fn config(listen: SocketAddr, origins: &Origins) -> String {
    let replacements = [
        ("@listen@", listen.to_string()),
        ("@issuer@", ISSUER.to_owned()),
        ("@audience@", AUDIENCE.to_owned()),
        ("@jwks@", format!("http://{}/.well-known/jwks.json", origins.echo)),
        ("@echo@", origins.echo.to_string()),
        ("@resets@", origins.resets.to_string()),
        ("@closed@", origins.closed.to_string()),
    ];
    replacements.iter().fold(CONFIG.to_owned(), |config, (place, value)| config.replace(place, value))
}

fn once(world: World, as_json: bool, began: Instant) -> Result<(), Failure> {
    let scenes = scenes::scenes(&world.issuer).map_err(Failure::run)?;
    wait_for_probes(&world);
    let mut out = std::io::stdout().lock();
    if !as_json {
        let started = began.elapsed().as_secs_f64();
        writeln!(out, "sluice {}: gateway, origin and issuer are up after {started:.2} s\n", env!("CARGO_PKG_VERSION"))
            .map_err(Failure::run)?;
    }
    let mut played = Vec::with_capacity(scenes.len());
    for (index, scene) in scenes.iter().enumerate() {
        let outcome = world.gateway.background.block_on(play::play(scene, world.address));
        if !as_json {
            play::print(index + 1, &outcome, &mut out).map_err(Failure::run)?;
        }
        played.push(outcome);
    }
    let kernel = kernel_view(&world);
    let kernel_faults = kernel_faults(&kernel);
    let ok = played.iter().all(play::Played::went_well) && kernel_faults.is_empty();
    if as_json {
        writeln!(out, "{:#}", json!({ "ok": ok, "scenes": played, "kernel": kernel, "kernel_faults": kernel_faults }))
            .map_err(Failure::run)?;
    } else {
        writeln!(out, "\nWhat the kernel saw of this run:\n{}", kernel_text(&kernel)).map_err(Failure::run)?;
        for fault in &kernel_faults {
            writeln!(out, "  FAILED: {fault}").map_err(Failure::run)?;
        }
        let good = played.iter().filter(|played| played.went_well()).count();
        writeln!(out, "{good} of {} scenes went as expected", played.len()).map_err(Failure::run)?;
    }
    drop(out);
    world.gateway.stop();
    if ok { Ok(()) } else { Err(Failure::run("not every scene went as expected")) }
}

/// Probes are attached a moment after the gateway serves. What they can see from the start, they should.
fn wait_for_probes(world: &World) {
    let mut kernel = world.gateway.units.kernel.health().watch();
    let settled =
        async { tokio::time::timeout(KERNEL_PATIENCE, kernel.wait_for(|state| *state != State::Starting)).await };
    // Without them the demo plays all the same, and says so.
    let _ = world.gateway.background.block_on(settled).is_ok();
}

/// The kernel's view. Its counts are read once a second, so the last scene's are waited for, but not for long.
fn kernel_view(world: &World) -> Value {
    let kernel = &world.gateway.units.kernel;
    let before = kernel.snapshot();
    let until = Instant::now() + KERNEL_PATIENCE;
    while Arc::ptr_eq(&before, &kernel.snapshot()) && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(20));
    }
    Inspect::inspect(kernel)
}

/// The same as a few lines of text: the gateway's connections to its upstreams.
fn kernel_text(view: &Value) -> String {
    let endpoints = view["endpoints"].as_array().map(Vec::as_slice).unwrap_or_default();
    let upstreams: Vec<_> = endpoints.iter().filter(|endpoint| endpoint["upstream"].is_string()).collect();
    if upstreams.is_empty() {
        let why = view["health"]["reason"].as_str().unwrap_or("no connection was seen");
        return format!("  nothing: {why}\n  (`sluice kernel doctor` says what would turn it on)\n");
    }
    let mut text =
        String::from("  upstream  endpoint               opened  connect    rtt  resets: by peer  by us  refused\n");
    for endpoint in upstreams {
        let counted = &endpoint["counted"];
        let number = |value: &Value| value.as_u64().unwrap_or(0);
        let opened = number(&counted["opened"]);
        let connect = number(&counted["connect_sum"]).checked_div(number(&counted["established"]));
        text.push_str(&format!(
            "  {:<8}  {:<21}  {opened:>6}  {:>7}  {:>5}  {:>15}  {:>5}  {:>7}\n",
            endpoint["upstream"].as_str().unwrap_or_default(),
            counted["address"].as_str().unwrap_or_default(),
            connect.map_or_else(|| "-".to_owned(), |micros| format!("{micros} µs")),
            counted["srtt"].as_u64().map_or_else(|| "-".to_owned(), |micros| format!("{micros} µs")),
            number(&counted["ends"]["peer_reset"]),
            number(&counted["ends"]["local_reset"]),
            number(&counted["ends"]["connect_refused"]),
        ));
    }
    text
}

/// Where the kernel is observed, it must have seen what the scenes brought about: the reset by the upstream, and the port
/// that is closed.
fn kernel_faults(view: &Value) -> Vec<String> {
    if view["health"]["state"] != "ready" {
        return Vec::new();
    }
    let endpoints = view["endpoints"].as_array().map(Vec::as_slice).unwrap_or_default();
    let saw = |upstream: &str, end: &str| {
        let mut of_upstream = endpoints.iter().filter(|endpoint| endpoint["upstream"] == upstream);
        of_upstream.any(|endpoint| endpoint["counted"]["ends"][end].as_u64().is_some_and(|count| count > 0))
    };
    let expected = [("resets", "peer_reset"), ("down", "connect_refused")];
    let missed = expected.iter().filter(|(upstream, end)| !saw(upstream, end));
    missed.map(|(upstream, end)| format!("the kernel saw no {end} of upstream {upstream}")).collect()
}

fn introduce(world: &World, began: Instant) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    let mut text = format!(
        "sluice {} serves http://{} (up after {:.2} s). Three tenants have tokens, good for an hour:\n\n",
        env!("CARGO_PKG_VERSION"),
        world.address,
        began.elapsed().as_secs_f64()
    );
    for (tenant, token) in scenes::tenants_tokens(&world.issuer).map_err(Failure::run)? {
        text.push_str(&format!("{}={token}\n", tenant.to_uppercase()));
    }
    let gateway = world.address;
    text.push_str(&format!(
        "\nPaste the lines above into a shell, then try:\n\n\
         curl -i http://{gateway}/orders/42 -H \"Authorization: Bearer $ACME\"      # 200: verified, passed a plugin, proxied\n\
         curl -i http://{gateway}/orders/42                                      # 401: no token\n\
         curl -i http://{gateway}/orders/42 -H \"Authorization: Bearer ${{ACME}}x\"   # 401: forged\n\
         curl -i http://{gateway}/orders/42 -H \"Authorization: Bearer $ACME\" -H 'x-blocked: yes'   # 403: a plugin refuses\n\
         curl -i http://{gateway}/fragile/1 -H 'x-trap: now'                     # 500: a plugin traps, and harms nobody\n\
         curl -i http://{gateway}/parcels/7 -H \"Authorization: Bearer $GLOBEX\"    # the same plugin, written in AssemblyScript\n\
         for i in 1 2 3 4; do curl -s -o /dev/null -w '%{{http_code}}\\n' http://{gateway}/orders/1 -H \"Authorization: Bearer $INITECH\"; done   # 429: over its rate\n\
         curl -i http://{gateway}/down/1                                         # 502: nobody listens there\n\
         curl -i http://{gateway}/resets/1                                       # 502: reset by the upstream\n"
    ));
    if let sluice_admin::Address::Tcp(admin) = world.gateway.admin {
        text.push_str(&format!(
            "\ncurl -s http://{admin}/metrics | grep sluice_          # what was counted\n\
             curl -s http://{admin}/upstreams                       # endpoints, with what was learned of them\n\
             curl -s http://{admin}/kernel                          # what the kernel saw\n"
        ));
    }
    text.push_str("\nCtrl-C ends it.\n");
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(Failure::run)
}
