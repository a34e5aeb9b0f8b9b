//! The unit as the composer uses it: its task runs, connections are made, the handle and the metrics page tell of them.
//! Where the machine does not allow probes, the cases that need them say so on standard error and pass.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::io::Read as _;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use prometheus_client::registry::Registry;
use rustix::thread::{CapabilitySet, CapabilitySets, set_capabilities};
use sluice_kernel::{Config, Deps, Enabled, Handle, KernelTask, Unit};
use sluice_vocabulary::UpstreamName;
use sluice_vocabulary::measure::Span;
use sluice_vocabulary::ports::{EndpointFacts as _, EndpointNames};
use sluice_vocabulary::unit::{Health, State, Stop, Stopper, Task as _};
use socket2::SockRef;
use tokio::task::JoinHandle;

/// One endpoint has a name.
#[derive(Debug)]
struct Named(SocketAddr);

impl EndpointNames for Named {
    fn upstream_of(&self, endpoint: SocketAddr) -> Option<UpstreamName> {
        (endpoint == self.0).then(|| UpstreamName::new("orders").unwrap())
    }
}

/// A unit at work, and an upstream for it to watch.
struct World {
    listener: TcpListener,
    handle: Handle,
    registry: Registry,
    stopper: Stopper,
    task: JoinHandle<KernelTask>,
}

fn quick(enabled: Enabled) -> Config {
    Config { enabled, refresh: Span::millis(100), ..Config::default() }
}

impl World {
    fn new(config: &Config, loopback: &str) -> Self {
        let listener = TcpListener::bind(loopback).unwrap();
        let names = Arc::new(Named(listener.local_addr().unwrap()));
        let mut registry = Registry::with_prefix("sluice_kernel");
        let (handle, task) = Unit::new(config, Deps { names }, &mut registry);
        let (stopper, stop) = Stop::new();
        Self { listener, handle, registry, stopper, task: tokio::spawn(until(task, stop)) }
    }

    /// Waits until the unit is at work. `false`, with the reason on standard error, where it cannot be here.
    async fn watches(&self) -> bool {
        match settled(self.handle.health()).await {
            State::Ready => true,
            State::Degraded(reason) if reason.contains("missing CAP_") || reason.contains("the kernel refuses") => {
                eprintln!("SKIPPED: {reason}");
                false
            }
            state => panic!("{state:?}"),
        }
    }

    fn address(&self) -> SocketAddr {
        self.listener.local_addr().unwrap()
    }

    fn connected(&self) -> (TcpStream, TcpStream) {
        let client = TcpStream::connect(self.address()).unwrap();
        let (server, _) = self.listener.accept().unwrap();
        (client, server)
    }

    fn page(&self) -> String {
        encode(&self.registry)
    }

    /// Waits for a line on the metrics page.
    async fn line(&self, line: &str) {
        let line = format!("sluice_kernel_{line}\n");
        for _ in 0..100 {
            if self.page().contains(&line) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("{line} is not in\n{}", self.page());
    }

    async fn stop(self) -> KernelTask {
        self.stopper.stop();
        tokio::time::timeout(Duration::from_secs(5), self.task).await.expect("it ends soon").unwrap()
    }
}

async fn until(mut task: KernelTask, stop: Stop) -> KernelTask {
    task.run(stop).await;
    task
}

fn encode(registry: &Registry) -> String {
    let mut page = String::new();
    prometheus_client::encoding::text::encode(&mut page, registry).unwrap();
    page
}

/// The first state that is not starting.
async fn settled(health: &Health) -> State {
    let mut states = health.watch();
    let state = tokio::time::timeout(Duration::from_secs(10), states.wait_for(|state| *state != State::Starting));
    state.await.expect("it settles").unwrap().clone()
}

fn abort(stream: TcpStream) {
    SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
    drop(stream);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_befell_a_connection_is_told_under_the_upstreams_name() {
    for loopback in ["127.0.0.1:0", "[::1]:0"] {
        let world = World::new(&quick(Enabled::Auto), loopback);
        if !world.watches().await {
            return;
        }
        // The peer resets, then we abort, then the peer closes in order and we write no more.
        let (_client, server) = world.connected();
        abort(server);
        let (client, _server) = world.connected();
        abort(client);
        let (mut client, server) = world.connected();
        drop(server);
        assert_eq!(client.read(&mut [0]).unwrap(), 0);
        drop(client);

        world.line("connects_total{upstream=\"orders\"} 3").await;
        world.line("resets_total{upstream=\"orders\",side=\"peer\",state=\"established\"} 1").await;
        world.line("resets_total{upstream=\"orders\",side=\"local\",state=\"established\"} 1").await;
        world.line("closes_total{upstream=\"orders\",how=\"peer_reset\"} 1").await;
        world.line("closes_total{upstream=\"orders\",how=\"local_reset\"} 1").await;
        world.line("closes_total{upstream=\"orders\",how=\"peer_close\"} 1").await;
        world.line("connect_duration_seconds_count{upstream=\"orders\"} 3").await;
        world.line("idle_close_age_seconds_count{upstream=\"orders\"} 1").await;
        world.line("probe_on{probe=\"sock_ops\"} 1").await;
        world.line("events_lost_total 0").await;

        let facts = world.handle.endpoint(&world.address()).expect("an endpoint that was connected to");
        assert_eq!((facts.resets_by_peer, facts.stale_writes, facts.connect_failures), (1, 0, 0));
        assert!(facts.connect.is_some() && facts.idle_at_peer_close.is_some());
        assert_eq!(world.handle.round_trip(world.address()), facts.round_trip);
        world.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_is_found_by_its_cookie() {
    let world = World::new(&quick(Enabled::Auto), "127.0.0.1:0");
    if !world.watches().await {
        return;
    }
    let (client, _server) = world.connected();
    let cookie = rustix::net::sockopt::socket_cookie(&client).unwrap();
    let facts = world.handle.connection(cookie).expect("a living connection");
    assert_eq!(facts.remote, world.address());
    assert_eq!(facts.process, Some(std::process::id()));
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn totals_only_grow_when_the_probes_are_loaded_anew() {
    let world = World::new(&quick(Enabled::Auto), "127.0.0.1:0");
    if !world.watches().await {
        return;
    }
    let _first = world.connected();
    world.line("connects_total{upstream=\"orders\"} 1").await;

    world.handle.apply(&quick(Enabled::Off));
    world.line("probe_on{probe=\"sock_ops\"} 0").await;
    let _unseen = world.connected();
    assert!(world.handle.doctor().to_string().contains("switched off by configuration"));

    world.handle.apply(&quick(Enabled::Auto));
    world.line("probe_on{probe=\"sock_ops\"} 1").await;
    let _second = world.connected();
    world.line("connects_total{upstream=\"orders\"} 2").await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_task_has_read_the_last_counts_left_no_probe_and_runs_again() {
    let world = World::new(&Config { refresh: Span::secs(60), ..Config::default() }, "127.0.0.1:0");
    if !world.watches().await {
        return;
    }
    let _pair = world.connected();
    let World { listener, handle, registry, stopper, task } = world;
    let address = listener.local_addr().unwrap();
    stopper.stop();
    let mut task = tokio::time::timeout(Duration::from_secs(5), task).await.expect("it ends soon").unwrap();
    assert_eq!(handle.health().get(), State::Stopped);
    // The next regular reading would have come in a minute.
    let page = encode(&registry);
    assert!(page.contains("sluice_kernel_connects_total{upstream=\"orders\"} 1\n"), "{page}");
    assert_eq!(handle.endpoint(&address), None);
    assert!(!handle.doctor().observes());

    let (stopper, stop) = Stop::new();
    let mut states = handle.health().watch();
    let again = tokio::spawn(async move { task.run(stop).await });
    states.wait_for(|state| *state == State::Ready).await.unwrap();
    let client = TcpStream::connect(address).unwrap();
    let cookie = rustix::net::sockopt::socket_cookie(&client).unwrap();
    assert!(handle.connection(cookie).is_some());
    drop(listener);
    stopper.stop();
    again.await.unwrap();
}

#[tokio::test]
async fn switched_off_it_is_ready_and_knows_nothing() {
    let world = World::new(&quick(Enabled::Off), "127.0.0.1:0");
    assert_eq!(settled(world.handle.health()).await, State::Ready);
    let _pair = world.connected();
    assert_eq!(world.handle.endpoint(&world.address()), None);
    assert_eq!(world.handle.connection(1), None);
    world.stop().await;
}

/// Capabilities belong to threads, and a thread hands them on to those that it starts: a runtime begun in one that has
/// given them up has none.
fn without_capabilities(case: impl Future<Output = ()> + Send + 'static) {
    std::thread::spawn(move || {
        let none = CapabilitySet::empty();
        set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none })
            .expect("giving up is always allowed");
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(case);
    })
    .join()
    .unwrap();
}

#[test]
fn without_privileges_it_is_degraded_and_says_why() {
    without_capabilities(async {
        let world = World::new(&quick(Enabled::Auto), "127.0.0.1:0");
        let State::Degraded(reason) = settled(world.handle.health()).await else {
            panic!("{:?}", world.handle.health().get())
        };
        assert!(reason.starts_with("missing CAP_BPF, CAP_PERFMON, CAP_NET_ADMIN"), "{reason}");
        assert_eq!(world.handle.endpoint(&world.address()), None);
        assert!(!world.handle.doctor().observes());
        world.line("probe_on{probe=\"sock_ops\"} 0").await;
        world.stop().await;
    });
}

#[test]
fn required_but_without_privileges_it_is_unavailable() {
    without_capabilities(async {
        let world = World::new(&quick(Enabled::Required), "127.0.0.1:0");
        let state = settled(world.handle.health()).await;
        assert!(matches!(&state, State::Unavailable(reason) if reason.starts_with("missing CAP_BPF")), "{state:?}");
        world.stop().await;
    });
}
