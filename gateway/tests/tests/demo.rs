//! `sluice demo` shows everything with nothing prepared: no file, no server, no privilege.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::process::Stdio;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use sluice_testkit::{Outcome, binary, run_to_end, run_to_end_unprivileged, within};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

#[tokio::test]
async fn every_scene_goes_as_expected_within_ten_seconds() {
    let began = Instant::now();
    let outcome = run_to_end(["demo", "--once"]).await;
    assert_eq!(outcome.code, Some(0), "{}{}", outcome.stdout, outcome.stderr);
    assert!(began.elapsed() < Duration::from_secs(10), "it took {:?}", began.elapsed());
    assert!(outcome.stdout.contains("scenes went as expected"), "{}", outcome.stdout);
    assert!(!outcome.stdout.contains("FAILED"), "{}", outcome.stdout);
    assert!(outcome.stdout.contains("What the kernel saw"), "{}", outcome.stdout);
}

/// The scenes that must be among those played, by a word of their names, with the answer each must have got.
const SCENES: &[(&str, u64)] = &[
    ("good token", 200),
    ("no token", 401),
    ("expired", 401),
    ("another audience", 401),
    ("without the scope", 403),
    ("forged", 401),
    ("alg: none", 401),
    ("adds a header", 200),
    ("plugin refuses", 403),
    ("plugin traps", 500),
    ("upstream down", 502),
    ("reset by upstream", 502),
];

fn hold_against_the_promise(outcome: &Outcome) -> Value {
    assert_eq!(outcome.code, Some(0), "{}{}", outcome.stdout, outcome.stderr);
    let report: Value = serde_json::from_str(&outcome.stdout).unwrap();
    assert_eq!(report["ok"], true);
    let scenes = report["scenes"].as_array().unwrap();
    assert!(scenes.len() >= 12, "{} scenes", scenes.len());
    for (name, status) in SCENES {
        let scene = scenes.iter().find(|scene| scene["scene"].as_str().unwrap().contains(name));
        let scene = scene.unwrap_or_else(|| panic!("no scene of {name:?} in {report:#}"));
        assert_eq!(scene["status"], *status, "{scene:#}");
        assert!(scene["faults"].as_array().unwrap().is_empty(), "{scene:#}");
    }
    report
}

#[tokio::test]
async fn the_json_report_tells_the_same() {
    hold_against_the_promise(&run_to_end(["demo", "--once", "--json"]).await);
}

#[tokio::test]
async fn without_privileges_every_scene_goes_as_expected_and_the_kernels_silence_is_explained() {
    let report = hold_against_the_promise(&run_to_end_unprivileged(["demo", "--once", "--json"]).await);
    assert_eq!(report["kernel"]["health"]["state"], "degraded", "{report:#}");
    let reason = report["kernel"]["health"]["reason"].as_str().unwrap();
    assert!(!reason.is_empty());
    let text = run_to_end_unprivileged(["demo", "--once"]).await;
    assert_eq!(text.code, Some(0), "{}{}", text.stdout, text.stderr);
    assert!(text.stdout.contains("sluice kernel doctor"), "{}", text.stdout);
}

/// The interactive demo, with what it printed.
async fn interactive() -> (Child, String) {
    let began = Instant::now();
    let mut child = Command::new(binary())
        .arg("demo")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut text = String::new();
    while !text.contains("Ctrl-C") {
        let line = within("the next line", lines.next_line()).await.unwrap().expect("a demo that runs on");
        text.push_str(&line);
        text.push('\n');
    }
    assert!(began.elapsed() < Duration::from_secs(3), "it took {:?} to say what to try", began.elapsed());
    (child, text)
}

#[tokio::test]
async fn the_printed_commands_work_when_pasted() {
    let (mut child, text) = interactive().await;
    let tokens: Vec<&str> = text
        .lines()
        .filter(|line| line.split_once('=').is_some_and(|(name, _)| name.chars().all(|c| c.is_ascii_uppercase())))
        .collect();
    assert_eq!(tokens.len(), 3, "three tenants' tokens: {text}");
    // Each command says in its comment which status it shows.
    let promised = |line: &str| {
        let comment = line.rsplit_once("  # ").map(|(_, comment)| comment.to_owned())?;
        comment.split(':').next().and_then(|status| status.trim().parse::<u16>().ok())
    };
    let commands: Vec<_> = text.lines().filter(|line| line.starts_with("curl ") || line.starts_with("for ")).collect();
    assert!(commands.len() >= 8, "{text}");
    if std::process::Command::new("curl").arg("--version").output().is_err() {
        eprintln!("SKIPPED: there is no curl here to paste the demo's commands for");
    } else {
        for command in &commands {
            let script = format!("{}\n{command}\n", tokens.join("\n"));
            let pasted = Command::new("sh").arg("-c").arg(&script).kill_on_drop(true).output();
            let pasted = within(format!("{command} to end"), pasted).await.unwrap();
            let said = String::from_utf8_lossy(&pasted.stdout).into_owned();
            assert!(pasted.status.success(), "{command}: {said}{}", String::from_utf8_lossy(&pasted.stderr));
            assert!(!said.is_empty(), "{command} showed nothing");
            match promised(command) {
                Some(status) if command.starts_with("curl") => {
                    assert!(said.starts_with(&format!("HTTP/1.1 {status}")), "{command}: {said}");
                }
                Some(status) => assert!(said.lines().any(|line| line == status.to_string()), "{command}: {said}"),
                None => assert!(!said.starts_with("HTTP/1.1 5"), "{command}: {said}"),
            }
        }
    }
    let pid = Pid::from_raw(child.id().unwrap().cast_signed()).unwrap();
    kill_process(pid, Signal::INT).unwrap();
    let status = within("the demo to end", child.wait()).await.unwrap();
    assert!(status.success(), "{status}");
}
