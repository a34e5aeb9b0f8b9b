//! `sluice kernel events`: connections that ended abnormally, one line each, as they end.

use std::fmt::Write as _;
use std::io::{self, Write};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::json;
use sluice_observer::host::monotonic_ns;
use sluice_observer::{Direction, Event};

use super::text::span;
use super::{CliError, Selection, until_closed};

/// How events are shown.
#[derive(Debug, Clone)]
pub struct EventsOptions {
    /// Which connections.
    pub selection: Selection,
    /// JSON objects, one on each line, instead of text.
    pub json: bool,
    /// End after this time; `None` to go on until interrupted.
    pub duration: Option<Duration>,
    /// How often the probes' buffer is emptied.
    pub interval: Duration,
}

impl Default for EventsOptions {
    fn default() -> Self {
        Self { selection: Selection::default(), json: false, duration: None, interval: Duration::from_millis(100) }
    }
}

/// Writes events to standard output.
///
/// # Errors
/// Where observing cannot begin, or reading or writing fails.
pub fn events(options: &EventsOptions) -> Result<(), CliError> {
    events_to(options, &mut io::stdout().lock())
}

/// The same into any writer.
///
/// # Errors
/// As for [`events`].
pub fn events_to(options: &EventsOptions, out: &mut dyn Write) -> Result<(), CliError> {
    until_closed(rounds(options, out))
}

fn rounds(options: &EventsOptions, out: &mut dyn Write) -> Result<(), CliError> {
    let observer = options.selection.observe()?;
    let began = Instant::now();
    let mut lost = 0;
    loop {
        let last = options.duration.is_some_and(|duration| began.elapsed() >= duration);
        let mut lines = String::new();
        observer.drain_events(|event| {
            let line = if options.json { as_json(&event) } else { as_text(&event) };
            lines.push_str(&line);
            lines.push('\n');
        });
        let seen = observer.globals()?.events_lost;
        if seen > lost {
            let missed = seen - lost;
            let line = if options.json {
                json!({ "lost": missed }).to_string()
            } else {
                format!("({missed} events found the buffer full)")
            };
            lines.push_str(&line);
            lines.push('\n');
            lost = seen;
        }
        if !lines.is_empty() {
            out.write_all(lines.as_bytes())?;
            out.flush()?;
        }
        if last {
            return Ok(());
        }
        thread::sleep(options.interval);
    }
}

fn as_json(event: &Event) -> String {
    let mut value = json!(event.connection);
    if let Some(object) = value.as_object_mut() {
        object.insert("time_unix_ms".to_owned(), json!(unix_time(event).as_millis()));
    }
    value.to_string()
}

/// `12:34:56.789 peer_reset 127.0.0.1:4711 → 10.0.0.5:8080 established, errno 104, after 12.5 s, idle 3.02 s, rtt 85 µs`
fn as_text(event: &Event) -> String {
    let connection = &event.connection;
    let time = unix_time(event);
    let day = time.as_secs() % 86_400;
    let arrow = match connection.direction {
        Direction::Outgoing => "→",
        Direction::Incoming => "←",
    };
    let mut text = format!(
        "{:02}:{:02}:{:02}.{:03} {:<22} {} {arrow} {} in {}, after {}",
        day / 3_600,
        day / 60 % 60,
        day % 60,
        time.subsec_millis(),
        connection.end.name(),
        connection.local,
        connection.remote,
        connection.state,
        span(Some(connection.age)),
    );
    // Writing to a string cannot fail.
    if connection.error != 0 {
        let _ = write!(text, ", errno {}", connection.error);
    }
    if let Some(idle) = connection.idle {
        let _ = write!(text, ", idle {}", span(Some(idle)));
    }
    if connection.srtt.is_some() {
        let _ = write!(text, ", rtt {}", span(connection.srtt));
    }
    if connection.retransmits != 0 {
        let _ = write!(text, ", {} retransmits", connection.retransmits);
    }
    if let Some(process) = connection.process {
        let _ = write!(text, ", process {process}");
    }
    text
}

/// The kernel stamps with the clock that never jumps; the wall clock is as far ahead of it as it is now.
fn unix_time(event: &Event) -> Duration {
    let ago = Duration::from_nanos(monotonic_ns()).saturating_sub(event.at);
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().saturating_sub(ago)
}
