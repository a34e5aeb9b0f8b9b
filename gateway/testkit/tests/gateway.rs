//! The kit starts, watches and ends a gateway's process as it says. A script stands where the binary would: here the
//! handling of processes is on trial, not the gateway.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use sluice_testkit::{GatewayBuilder, eventually, gateway, within};
use tempfile::TempDir;

/// A gateway that runs `script` after the lines that every gateway logs when it starts.
fn scripted(script: &str) -> (TempDir, GatewayBuilder) {
    let folder = tempfile::tempdir().unwrap();
    let path: PathBuf = folder.path().join("sluice");
    // A shell cannot trap what was ignored when it began, as SIGHUP is under `nohup`.
    let text = format!(
        r#"#!/usr/bin/env -S --default-signal=HUP sh
log() {{ echo "{{\"level\":\"INFO\",\"message\":\"$1\",\"address\":\"$2\"}}" >&2; }}
start() {{
    log listening 127.0.0.1:4001
    log listening 127.0.0.1:4002
    log 'admin listening' 127.0.0.1:4003
    log ready none
}}
{script}
"#
    );
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    (folder, gateway().binary(path))
}

#[tokio::test]
async fn addresses_come_from_the_log_and_a_stop_waits_for_the_end() {
    let (_folder, builder) = scripted("trap 'log stopped x; exit 0' TERM; start; while :; do sleep 0.01; done");
    let gateway = builder.run().await;
    assert_eq!((gateway.address().port(), gateway.listener(1).port(), gateway.admin().port()), (4001, 4002, 4003));
    assert_eq!(gateway.url("/x"), "http://127.0.0.1:4001/x");
    assert!(gateway.resident_bytes() > 0 && gateway.open_descriptors() > 0 && gateway.threads() == 1);
    gateway.stop().await;
}

#[tokio::test]
#[should_panic(expected = "the gateway ended with exit status: 3")]
async fn an_end_with_another_code_than_0_is_a_failure() {
    let (_folder, builder) = scripted("trap 'exit 3' TERM; start; while :; do sleep 0.01; done");
    builder.run().await.stop().await;
}

#[tokio::test]
#[should_panic(expected = "no such upstream")]
async fn a_gateway_that_does_not_start_shows_what_it_said() {
    let (_folder, builder) = scripted("log 'no such upstream' x; exit 2");
    builder.run().await;
}

#[tokio::test]
async fn a_refusal_gives_code_and_words() {
    let (_folder, builder) = scripted("echo 'no such upstream' >&2; exit 2");
    let outcome = builder.run_to_refusal().await;
    assert_eq!((outcome.code, outcome.stderr.trim()), (Some(2), "no such upstream"));
}

#[tokio::test]
async fn the_configuration_is_filled_in_and_replaced_whole() {
    let (_folder, builder) = scripted("trap 'log reloaded x' HUP; start; while :; do sleep 0.01; done");
    let gateway = builder.config("a: '@one@'\nb: '@dir@/f'\n").set("one", 1).file("sub/f", "content").run().await;
    let config = || std::fs::read_to_string(gateway.folder().join("sluice.yaml")).unwrap();
    let first = format!("a: '1'\nb: '{}/f'\n", gateway.folder().display());
    assert!(config().starts_with(&first), "{}", config());
    assert!(config().ends_with("listeners: [ { address: '127.0.0.1:0' } ]\n\nadmin: { address: '127.0.0.1:0' }\n"));
    assert_eq!(std::fs::read_to_string(gateway.folder().join("sub/f")).unwrap(), "content");
    gateway.reload("listeners: []\nadmin: {}\nc: '@one@'\n");
    gateway.log_line("a reload", |line| line.message() == "reloaded").await;
    assert_eq!(config(), "listeners: []\nadmin: {}\nc: '1'\n");
}

#[tokio::test]
async fn a_dropped_gateway_is_killed() {
    let (_folder, builder) = scripted("trap '' TERM; start; while :; do sleep 0.01; done");
    let gateway = builder.run().await;
    let process = format!("/proc/{}/stat", gateway.pid());
    drop(gateway);
    let gone = async || std::fs::read_to_string(&process).map_or(Some(()), |stat| stat.contains(") Z ").then_some(()));
    within("the process to be gone", eventually("the process to be gone", gone)).await;
}
