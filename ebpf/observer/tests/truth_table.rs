//! What the probes say of connections whose fate is known, over IPv4 and IPv6.
//!
//! Each case makes a real connection over loopback, ends it in a certain way and asks the observer. Where the machine
//! does not allow probes, the cases say so on standard error and pass.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod world;

use std::{
    io::{Read, Write},
    net::TcpStream,
    thread,
    time::{Duration, Instant},
};

use sluice_observer::{Cgroup, Direction, End, EndpointStats, Observer, Options, Probe, TcpState};
use world::{Family, World, abort, each_family};

const ECONNRESET: u32 = 104;
const ECONNREFUSED: u32 = 111;
const EPIPE: u32 = 32;

#[test]
fn a_reset_by_the_peer_of_an_open_connection_is_the_peers() {
    each_family(|world| {
        let (_client, server) = world.connected();
        abort(server);
        let stats = world.outgoing(|stats| stats.ends(End::PeerReset) == 1);
        assert_eq!(stats.resets_received(TcpState::ESTABLISHED), 1);
        assert_eq!(stats.resets_sent_total(), 0);
        let event = world.event(End::PeerReset);
        assert_eq!((event.error, event.reset_state), (ECONNRESET, Some(TcpState::ESTABLISHED)));
        assert_eq!(event.remote, world.address());
    });
}

#[test]
fn an_abort_is_ours() {
    each_family(|world| {
        let (client, _server) = world.connected();
        abort(client);
        let stats = world.outgoing(|stats| stats.resets_sent_total() == 1);
        assert_eq!(stats.ends(End::LocalReset), 1);
        assert_eq!(stats.resets_sent(TcpState::ESTABLISHED), 1);
        assert_eq!(stats.resets_received_total(), 0);
        assert_eq!(world.event(End::LocalReset).error, 0);
    });
}

#[test]
fn closing_with_unread_data_is_an_abort_of_ours() {
    each_family(|world| {
        let (client, mut server) = world.connected();
        server.write_all(b"never read").unwrap();
        client.peek(&mut [0]).unwrap();
        drop(client);
        let stats = world.outgoing(|stats| stats.resets_sent_total() == 1);
        assert_eq!(stats.ends(End::LocalReset), 1);
    });
}

#[test]
fn a_closed_port_refuses() {
    each_family(|mut world| {
        world.stop_listening();
        TcpStream::connect(world.address()).expect_err("nobody listens");
        let stats = world.outgoing(|stats| stats.ends(End::ConnectRefused) == 1);
        assert_eq!(stats.resets_received(TcpState::SYN_SENT), 1);
        assert_eq!((stats.opened, stats.established, stats.connect_failures()), (1, 0, 1));
        let event = world.event(End::ConnectRefused);
        assert_eq!((event.error, event.connect), (ECONNREFUSED, None));
    });
}

#[test]
fn writing_into_a_stale_connection_is_told_apart() {
    each_family(|world| {
        let (mut client, server) = world.connected();
        drop(server);
        assert_eq!(client.read(&mut [0]).unwrap(), 0, "the peer has closed");
        client.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
        let stats = world.outgoing(|stats| stats.ends(End::PeerResetAfterClose) == 1);
        assert_eq!(stats.resets_received(TcpState::CLOSE_WAIT), 1);
        assert_eq!(stats.ends(End::PeerReset), 0);
        let event = world.event(End::PeerResetAfterClose);
        assert_eq!((event.error, event.reset_state), (EPIPE, Some(TcpState::CLOSE_WAIT)));
    });
}

#[test]
fn an_orderly_close_by_us_is_ours_and_no_event() {
    each_family(|world| {
        let (client, mut server) = world.connected();
        drop(client);
        assert_eq!(server.read(&mut [0]).unwrap(), 0);
        drop(server);
        let stats = world.outgoing(|stats| stats.ended == 1);
        assert_eq!(stats.ends(End::LocalClose), 1);
        assert_eq!((stats.resets_received_total(), stats.resets_sent_total()), (0, 0));
        assert_eq!(stats.idle_ms.count(), 0);
        assert_eq!(world.events(), []);
    });
}

#[test]
fn the_idle_age_at_the_peers_close_is_that_of_the_last_data() {
    each_family(|world| {
        let (mut client, mut server) = world.connected();
        // The age counts from the last data, not from the beginning.
        thread::sleep(Duration::from_millis(150));
        let last_data = Instant::now();
        client.write_all(b"ping").unwrap();
        server.read_exact(&mut [0; 4]).unwrap();
        server.write_all(b"pong").unwrap();
        client.read_exact(&mut [0; 4]).unwrap();
        thread::sleep(Duration::from_millis(250));
        drop(server);
        assert_eq!(client.read(&mut [0]).unwrap(), 0);
        let stats = world.outgoing(|stats| stats.idle_ms.count() == 1);
        let idle = stats.idle_last.expect("an age");
        // The kernel's stamps have the resolution of a tick, of which the slowest timer's takes 10 ms.
        let ticks = Duration::from_millis(20);
        let most = last_data.elapsed() + ticks;
        assert!(idle + ticks >= Duration::from_millis(250) && idle <= most, "{idle:?}, at most {most:?}");
        drop(client);
        let stats = world.outgoing(|stats| stats.ended == 1);
        assert_eq!(stats.ends(End::PeerClose), 1);
        // Four of payload; the kernel numbers, and so counts, SYN and FIN too.
        assert!((4..=6).contains(&stats.bytes_sent) && (4..=6).contains(&stats.bytes_received), "{stats:?}");
        assert_eq!(world.events(), []);
    });
}

#[test]
fn connect_latency_and_round_trips_are_measured() {
    each_family(|world| {
        let (mut client, mut server) = world.connected();
        for _ in 0..10 {
            client.write_all(b"ping").unwrap();
            server.read_exact(&mut [0; 4]).unwrap();
            server.write_all(b"pong").unwrap();
            client.read_exact(&mut [0; 4]).unwrap();
        }
        let stats = world.outgoing(|stats| stats.srtt.is_some());
        assert_eq!((stats.opened, stats.established), (1, 1));
        assert_eq!(stats.connect_us.count(), 1);
        let connect = stats.connect_mean().expect("a latency");
        assert!(connect > Duration::ZERO && connect < Duration::from_millis(500), "{connect:?}");
        assert!(stats.srtt.unwrap() < Duration::from_millis(500));
    });
}

#[test]
fn a_connection_is_found_by_its_cookie_while_it_lives_and_after_it_failed() {
    each_family(|world| {
        let (client, server) = world.connected();
        let cookie = rustix::net::sockopt::socket_cookie(&client).unwrap();
        let facts = world.observer().connection(cookie).expect("a living connection");
        assert_eq!(facts.end, End::Open);
        assert_eq!(facts.state, TcpState::ESTABLISHED);
        assert_eq!(facts.local, client.local_addr().unwrap());
        assert_eq!(facts.remote, world.address());
        assert!(facts.connect.is_some());
        abort(server);
        world.outgoing(|stats| stats.ends(End::PeerReset) == 1);
        let facts = world.observer().connection(cookie).expect("one that failed");
        assert_eq!((facts.end, facts.error), (End::PeerReset, ECONNRESET));
        assert_eq!(world.observer().connection(u64::MAX), None);
    });
}

#[test]
fn clients_are_counted_together_under_the_port_they_came_to() {
    each_family(|world| {
        for _ in 0..3 {
            let (client, server) = world.connected();
            abort(client);
            drop(server);
        }
        let stats = world.incoming(|stats| stats.ends(End::PeerReset) == 3);
        assert_eq!((stats.opened, stats.established), (3, 3));
        assert_eq!(stats.id.address.port(), world.address().port());
    });
}

#[test]
fn an_ipv4_host_is_one_endpoint_for_sockets_of_both_families() {
    let Some(world) = World::new(Family::V4) else { return };
    let port = world.address().port();
    let _plain = TcpStream::connect(("127.0.0.1", port)).unwrap();
    let _mapped = TcpStream::connect(("::ffff:127.0.0.1", port)).unwrap();
    let stats = world.outgoing(|stats| stats.established == 2);
    assert_eq!(stats.id.address, world.address());
}

#[test]
fn other_ports_and_incoming_connections_can_be_left_out() {
    let Some(world) = World::with(Family::V4, Options { incoming: false, ..Options::default() }) else { return };
    let other = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let _elsewhere = TcpStream::connect(other.local_addr().unwrap()).unwrap();
    let _pair = world.connected();
    world.outgoing(|stats| stats.established == 1);
    let all = world.observer().endpoints().unwrap();
    assert_eq!(all.len(), 1, "{all:?}");
}

#[test]
fn only_the_connections_of_chosen_processes_are_watched() {
    let own = std::process::id();
    let options = Options { processes: vec![own], by_process: true, incoming: false, ..Options::default() };
    let Some(world) = World::with(Family::V4, options) else { return };
    let _pair = world.connected();
    let stats = world.outgoing(|stats| stats.established == 1);
    assert_eq!(stats.id.process, Some(own));

    let options = Options { processes: vec![own + 1], incoming: false, ..Options::default() };
    let world = World::with(Family::V4, options).expect("it worked before");
    let (client, _server) = world.connected();
    let cookie = rustix::net::sockopt::socket_cookie(&client).unwrap();
    assert_eq!(world.observer().connection(cookie), None);
    assert!(world.observer().endpoints().unwrap().is_empty());
}

#[test]
fn without_the_tracepoints_ends_are_still_told_apart() {
    let without = vec![Probe::SetState, Probe::ReceiveReset, Probe::SendReset];
    let Some(world) = World::with(Family::V4, Options { without, ..Options::default() }) else { return };
    let states = world.observer().probes();
    assert!(states.iter().all(|(probe, state)| state.is_on() == (*probe == Probe::SockOps)), "{states:?}");
    let (client, _server) = world.connected();
    abort(client);
    let (mut client, server) = world.connected();
    drop(server);
    assert_eq!(client.read(&mut [0]).unwrap(), 0);
    drop(client);
    let stats = world.outgoing(|stats: &EndpointStats| stats.ended == 2);
    assert_eq!((stats.ends(End::LocalReset), stats.ends(End::PeerClose)), (1, 1));
    assert_eq!(stats.idle_ms.count(), 1);
}

#[test]
fn the_group_of_this_process_is_enough_to_see_its_connections() {
    let Some(world) = World::with(Family::V4, Options { cgroup: Cgroup::Own, ..Options::default() }) else { return };
    let _pair = world.connected();
    let stats = world.outgoing(|stats| stats.established == 1);
    assert_eq!(stats.id.direction, Direction::Outgoing);
}

#[test]
fn more_events_than_the_buffer_holds_are_counted_as_lost() {
    let options = Options { event_buffer: 64 * 1024, ..Options::default() };
    let Some(mut world) = World::with(Family::V4, options) else { return };
    world.stop_listening();
    const ATTEMPTS: u64 = 1_000;
    for _ in 0..ATTEMPTS {
        TcpStream::connect(world.address()).expect_err("nobody listens");
    }
    let stats = world.outgoing(|stats| stats.ends(End::ConnectRefused) == ATTEMPTS);
    assert_eq!(stats.connect_failures(), ATTEMPTS);
    let received = world.events().len() as u64;
    let lost = world.observer().globals().unwrap().events_lost;
    assert!(lost > 0 && received > 0, "received {received}, lost {lost}");
    assert_eq!(received + lost, ATTEMPTS);
}

#[test]
fn without_the_capabilities_the_error_names_them() {
    // Capabilities belong to a thread, so that one can give them up without the rest of the tests.
    let outcome = thread::spawn(|| {
        let none = rustix::thread::CapabilitySet::empty();
        let sets = rustix::thread::CapabilitySets { effective: none, permitted: none, inheritable: none };
        rustix::thread::set_capabilities(None, sets).expect("giving up is always allowed");
        (Observer::start(&Options::default()).map(drop), sluice_observer::doctor(&Options::default()))
    });
    let (started, report) = outcome.join().unwrap();
    let error = started.expect_err("a thread without capabilities");
    assert!(error.to_string().starts_with("missing CAP_BPF, CAP_PERFMON, CAP_NET_ADMIN"), "{error}");
    assert!(!report.observes());
    let text = report.to_string();
    assert!(text.contains("CAP_NET_ADMIN") && text.contains("setcap"), "{text}");
}

#[test]
fn the_doctor_tells_what_really_loads() {
    let Some(_world) = World::new(Family::V4) else { return };
    let report = sluice_observer::doctor(&Options::default());
    assert!(report.observes(), "{report}");
    assert!(report.probes.iter().all(|probe| probe.state.is_on()), "{report}");
    let without = Options { without: vec![Probe::SendReset], ..Options::default() };
    let report = sluice_observer::doctor(&without);
    let off: Vec<_> = report.probes.iter().filter(|probe| !probe.state.is_on()).map(|probe| probe.probe).collect();
    assert_eq!(off, [Probe::SendReset]);
    assert!(report.to_string().contains("switched off"), "{report}");
}

#[test]
fn the_kernels_account_lists_every_attached_probe() {
    let without = vec![Probe::SendReset];
    let Some(world) = World::with(Family::V4, Options { without, ..Options::default() }) else { return };
    let listed: Vec<_> = world.observer().costs().iter().map(|cost| cost.probe).collect();
    assert_eq!(listed, [Probe::SetState, Probe::ReceiveReset, Probe::SockOps]);
}
