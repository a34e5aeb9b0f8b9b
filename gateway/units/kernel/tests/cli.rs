//! The commands, on connections made while they run.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::io;
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use sluice_kernel::cli::{self, CliError, EventsOptions, Selection, TopOptions};

/// Runs a command while connections to a closed and to an open port are made, and gives what it wrote. `None`, with the
/// reason on standard error, where the machine does not let us observe.
fn while_connecting(
    loopback: &str,
    command: impl FnOnce(Selection, &mut dyn io::Write) -> Result<(), CliError>,
) -> Option<(String, u16)> {
    let open = TcpListener::bind(loopback).unwrap();
    let closed = TcpListener::bind(loopback).unwrap().local_addr().unwrap();
    let address = open.local_addr().unwrap();
    let done = AtomicBool::new(false);
    let mut written = Vec::new();
    let outcome = thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                let _client = TcpStream::connect(address).unwrap();
                // Taken off the queue, which a slow machine would otherwise fill.
                let _server = open.accept().unwrap();
                TcpStream::connect(closed).expect_err("nobody listens");
                thread::sleep(Duration::from_millis(5));
            }
        });
        let selection = Selection { ports: vec![address.port(), closed.port()], ..Selection::default() };
        let outcome = command(selection, &mut written);
        done.store(true, Ordering::Relaxed);
        outcome
    });
    match outcome {
        Ok(()) => Some((String::from_utf8(written).unwrap(), address.port())),
        Err(CliError::Start(error)) => {
            eprintln!("SKIPPED: {error}");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn top_shows_endpoints_of_both_families() {
    for (loopback, shown) in [("127.0.0.1:0", "127.0.0.1"), ("[::1]:0", "[::1]")] {
        let outcome = while_connecting(loopback, |selection, out| {
            let interval = Duration::from_millis(300);
            cli::top_to(&TopOptions { selection, interval, rounds: Some(2), ..TopOptions::default() }, out, false)
        });
        let Some((text, port)) = outcome else { return };
        assert!(text.starts_with("endpoint "), "{text}");
        assert!(text.contains(&format!("{shown}:{port} ")), "{text}");
        assert!(text.contains(&format!("clients of :{port} ")), "{text}");
    }
}

#[test]
fn top_as_json_is_one_object_for_each_round() {
    let outcome = while_connecting("127.0.0.1:0", |selection, out| {
        let interval = Duration::from_millis(200);
        cli::top_to(
            &TopOptions { selection, interval, rounds: Some(2), json: true, ..TopOptions::default() },
            out,
            false,
        )
    });
    let Some((text, port)) = outcome else { return };
    let rounds: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(rounds.len(), 2);
    let endpoints = rounds[1]["endpoints"].as_array().unwrap();
    let wanted = format!("127.0.0.1:{port}");
    let ours = endpoints.iter().find(|endpoint| endpoint["address"] == wanted.as_str()).expect("our endpoint");
    assert!(ours["opened"].as_u64() > Some(0), "{ours}");
}

#[test]
fn events_are_told_as_text_and_as_json_lines() {
    for json in [false, true] {
        let outcome = while_connecting("127.0.0.1:0", |selection, out| {
            let duration = Some(Duration::from_millis(400));
            cli::events_to(&EventsOptions { selection, json, duration, ..EventsOptions::default() }, out)
        });
        let Some((text, _)) = outcome else { return };
        assert!(text.lines().count() > 1, "{text}");
        for line in text.lines() {
            if json {
                let event: serde_json::Value = serde_json::from_str(line).unwrap();
                assert_eq!(event["end"], "connect_refused");
                assert_eq!(event["error"], 111);
            } else {
                assert!(line.contains("connect_refused") && line.contains("errno 111"), "{line}");
            }
        }
    }
}

#[test]
fn the_doctor_speaks_json_too() {
    let report: serde_json::Value = serde_json::from_str(&cli::doctor(true)).unwrap();
    assert_eq!(report["probes"].as_array().unwrap().len(), 4);
    assert!(report["checks"].as_array().unwrap().iter().any(|check| check["name"] == "CAP_BPF"));
    assert!(cli::doctor(false).contains("sock_ops"));
}
