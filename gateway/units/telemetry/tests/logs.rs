//! What the log promises, through real files and pipes.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::fs::{self, File};
use std::io::Read as _;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use prometheus_client::encoding::text;
use prometheus_client::registry::Registry;
use serde_json::Value;
use sluice_telemetry::config::{AccessFormat, Output};
use sluice_telemetry::sink::{Buffering, LineStyle, Sink, SinkMetrics};
use sluice_telemetry::{AccessLog, AccessLogConfig, AccessRecord, Format, Logs, LogsConfig};
use sluice_vocabulary::clock::SystemRandom;
use sluice_vocabulary::ports::LogLevel as _;

const PATIENCE: Duration = Duration::from_secs(10);

fn to_file(path: &Path, format: Format) -> LogsConfig {
    LogsConfig { format, level: "info".to_owned(), output: Output::File(path.to_owned()) }
}

fn lines(path: &Path) -> Vec<Value> {
    fs::read_to_string(path).unwrap().lines().map(|line| serde_json::from_str(line).expect(line)).collect()
}

fn page(metrics: &SinkMetrics) -> String {
    let mut registry = Registry::default();
    metrics.register(&mut registry);
    let mut page = String::new();
    text::encode(&mut page, &registry).unwrap();
    page
}

#[test]
fn a_line_is_flat_json_and_a_value_cannot_forge_one() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log");
    let (dispatch, handle) = Logs::open(&to_file(&path, Format::Json), &SinkMetrics::default()).unwrap();
    tracing::dispatcher::with_default(&dispatch, || {
        let hostile = "x\"}\n{\"level\":\"ERROR\",\"message\":\"forged";
        tracing::info!(address = %hostile, count = 3_u64, level = "mine", ok = true, "admin listening");
    });
    assert!(handle.flush(PATIENCE));
    let lines = lines(&path);
    assert_eq!(lines.len(), 1);
    let line = &lines[0];
    assert_eq!(line["level"], "INFO");
    assert_eq!(line["message"], "admin listening");
    assert_eq!(line["target"], "logs");
    assert_eq!(line["count"], 3);
    assert_eq!(line["ok"], true);
    assert_eq!(line["field.level"], "mine");
    assert!(line["address"].as_str().unwrap().ends_with("forged"));
    assert!(line["timestamp"].as_str().unwrap().ends_with('Z'));
}

#[test]
fn a_human_line_stays_one_line_without_colour_outside_a_terminal() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log");
    let (dispatch, handle) = Logs::open(&to_file(&path, Format::Human), &SinkMetrics::default()).unwrap();
    tracing::dispatcher::with_default(&dispatch, || {
        tracing::warn!(host = "a\nb\x1b[2J", "odd host");
    });
    assert!(handle.flush(PATIENCE));
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.ends_with("  WARN logs: odd host host=a\\nb\\u{1b}[2J\n"), "{text:?}");
    assert_eq!(text.lines().count(), 1);
}

#[test]
fn the_level_changes_while_running_and_a_bad_one_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log");
    let (dispatch, handle) = Logs::open(&to_file(&path, Format::Json), &SinkMetrics::default()).unwrap();
    tracing::dispatcher::with_default(&dispatch, || {
        tracing::debug!("before");
        handle.set("debug").unwrap();
        tracing::debug!("after");
        assert!(handle.set("loud").unwrap_err().contains("\"loud\""));
        assert_eq!(handle.get(), "debug");
        tracing::debug!("still");
    });
    assert!(handle.flush(PATIENCE));
    let messages: Vec<_> = lines(&path).iter().map(|line| line["message"].clone()).collect();
    assert_eq!(messages, ["after", "still"]);
}

#[test]
fn a_full_disk_loses_lines_counts_them_and_says_so_once_it_has_room() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log");
    std::os::unix::fs::symlink("/dev/full", &path).unwrap();
    let metrics = SinkMetrics::default();
    let buffering = Buffering { shards: 1, bytes_per_shard: 1 << 20, linger: Duration::ZERO };
    let sink = Sink::open("log", &Output::File(path.clone()), LineStyle::Json, buffering, &metrics).unwrap();
    for _ in 0..3 {
        sink.put(b"{\"n\":1}\n");
        assert!(sink.flush(PATIENCE));
    }
    assert!(page(&metrics).contains("lines_lost_total{output=\"log\",cause=\"write\"} 3\n"), "{}", page(&metrics));

    fs::remove_file(&path).unwrap();
    sink.put(b"{\"n\":2}\n");
    assert!(sink.flush(PATIENCE));
    let lines = lines(&path);
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert_eq!(lines[0]["message"], "lines were lost");
    assert_eq!(lines[0]["lost.write"], 3);
    assert!(lines[0]["error"].as_str().unwrap().contains("No space left"), "{lines:?}");
    assert_eq!(lines[1]["n"], 2);
}

#[test]
fn a_reader_that_stands_still_never_holds_up_who_logs() {
    let (mut reader, writer) = std::io::pipe().unwrap();
    let metrics = SinkMetrics::default();
    let buffering = Buffering { shards: 1, bytes_per_shard: 64 * 1024, linger: Duration::ZERO };
    let file = File::from(OwnedFd::from(writer));
    let sink = Sink::into_file("log", file, LineStyle::Json, buffering, &metrics).unwrap();
    let line = [&b"\""[..], &[b'x'; 997], b"\"\n"].concat();
    let began = Instant::now();
    // The first burst may just fit into buffer and pipe; nothing makes room, so a later one cannot.
    let mut stuck = false;
    for _ in 0..8 {
        (0..2_000).for_each(|_| sink.put(&line));
        stuck |= !sink.flush(Duration::from_millis(50));
    }
    assert!(began.elapsed() < PATIENCE);
    assert!(stuck, "nobody reads, so not all can be written");

    // Once somebody reads, what was kept arrives, whole, and the first line after the gap tells of it.
    let collector = std::thread::spawn(move || {
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        text
    });
    assert!(sink.flush(PATIENCE));
    sink.put(b"\"last\"\n");
    drop(sink);
    let text = collector.join().unwrap();
    assert!(text.ends_with("\"last\"\n"));
    let notices: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).expect(line))
        .filter(|line: &Value| line["message"] == "lines were lost")
        .collect();
    let said: u64 = notices.iter().map(|notice| notice["lost.full"].as_u64().unwrap()).sum();
    assert!(said >= 10_000, "{said}");
    assert!(page(&metrics).contains(&format!("cause=\"full\"}} {said}\n")), "{said} in {}", page(&metrics));
}

#[test]
fn a_closed_pipe_ends_nothing() {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let metrics = SinkMetrics::default();
    let buffering = Buffering { shards: 1, bytes_per_shard: 64 * 1024, linger: Duration::ZERO };
    let sink =
        Sink::into_file("log", File::from(OwnedFd::from(writer)), LineStyle::Human, buffering, &metrics).unwrap();
    sink.put(b"a\nb\n");
    assert!(sink.flush(PATIENCE));
    assert!(page(&metrics).contains("lines_lost_total{output=\"log\",cause=\"write\"} 1\n"), "{}", page(&metrics));
}

#[test]
fn a_file_moved_away_is_opened_anew() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("access");
    let metrics = SinkMetrics::default();
    let buffering = Buffering { shards: 4, bytes_per_shard: 64 * 1024, linger: Duration::from_millis(100) };
    let sink = Sink::open("access", &Output::File(path.clone()), LineStyle::Json, buffering, &metrics).unwrap();
    sink.put(b"1\n");
    assert!(sink.flush(PATIENCE));
    fs::rename(&path, folder.path().join("access.1")).unwrap();
    let began = Instant::now();
    while !path.exists() {
        assert!(began.elapsed() < PATIENCE, "the file was not opened anew");
        sink.put(b"2\n");
        assert!(sink.flush(PATIENCE));
    }
    assert!(fs::read_to_string(&path).unwrap().starts_with("2\n"));
    assert!(fs::read_to_string(folder.path().join("access.1")).unwrap().starts_with("1\n"));
}

#[test]
fn an_access_record_tells_what_is_known_and_keeps_back_what_is_personal() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("access");
    let config = AccessLogConfig {
        format: AccessFormat::Json,
        output: Output::File(path.clone()),
        sample: 0.0,
        ..AccessLogConfig::default()
    };
    let log = AccessLog::open(&config, 2, Arc::new(SystemRandom), &SinkMetrics::default()).unwrap();
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_709_210_096);
    let record = AccessRecord {
        method: "GET",
        protocol: "HTTP/1.1",
        host: "api.example.com",
        path: "/orders/7",
        query: Some("token=secret"),
        subject: Some("ann"),
        route: Some("orders"),
        status: 403,
        refusal: Some("scope-missing"),
        duration: Duration::from_micros(1_234),
        ..AccessRecord::new(time, "id-1", [127, 0, 0, 1].into())
    };
    log.record(&record);
    log.record(&AccessRecord { status: 200, refusal: None, ..record });
    assert!(log.flush(PATIENCE));
    let expected = serde_json::json!([{
        "timestamp": "2024-02-29T12:34:56.000000Z", "request_id": "id-1", "client.address": "127.0.0.1",
        "protocol": "HTTP/1.1", "method": "GET", "host": "api.example.com", "path": "/orders/7", "route": "orders",
        "status": 403, "refusal": "scope-missing", "bytes_in": 0, "bytes_out": 0, "duration_us": 1234
    }]);
    assert_eq!(Value::from(lines(&path)), expected);
}

#[test]
fn a_human_access_record_is_one_line_whatever_the_path_holds() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("access");
    let config = AccessLogConfig {
        format: AccessFormat::Human,
        output: Output::File(path.clone()),
        ..AccessLogConfig::default()
    };
    let log = AccessLog::open(&config, 1, Arc::new(SystemRandom), &SinkMetrics::default()).unwrap();
    log.record(&AccessRecord {
        method: "GET",
        host: "h",
        path: "/a\n1970 200 GET forged",
        status: 200,
        duration: Duration::from_micros(5),
        ..AccessRecord::new(SystemTime::UNIX_EPOCH, "id-1", [127, 0, 0, 1].into())
    });
    assert!(log.flush(PATIENCE));
    let text = fs::read_to_string(&path).unwrap();
    assert_eq!(
        text,
        "1970-01-01T00:00:00.000000Z 200 GET h/a\\n1970 200 GET forged 0.005ms client=127.0.0.1 id=id-1\n"
    );
}
