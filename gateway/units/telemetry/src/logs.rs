//! The gateway's own log: `tracing` events, and records of libraries that use the `log` crate, as one line each.
//!
//! A line is flat: the time, the level, the target, the message, then the event's own fields under their own names. There
//! are no spans in it; what joins lines of one request is its id, given as a field. A value can never end a line or forge
//! one: in JSON it is a JSON string, in human form control characters are escaped.

use std::cell::RefCell;
use std::fmt::{self, Write as _};
use std::io::Write as _;
use std::str::FromStr as _;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use sluice_vocabulary::ports::LogLevel;
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::{Dispatch, Event, Level, Subscriber};
use tracing_log::{AsLog as _, NormalizeEvent as _};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::{Context, Layer, SubscriberExt as _};
use tracing_subscriber::{Registry, reload};

use crate::config::{Format, LogsConfig};
use crate::sink::{Buffering, LineStyle, OpenError, Sink, SinkMetrics, is_terminal};
use crate::stamp;

/// What libraries underneath may say unless the operator names them: Pingora and wasmtime report at `info` and below what
/// the gateway says better itself, HTTP/2's frames drown everything else at `debug`.
const LIBRARIES: &str = "pingora=warn,h2=warn,hyper=warn,rustls=warn,tokio=warn,mio=warn,wasmtime=warn,cranelift=warn,\
                         regalloc2=warn,aya=warn";

/// The most bytes of one line: a longer value is cut, so that one bad message cannot fill the buffer.
const LONGEST_VALUE: usize = 8 * 1024;

/// Installs the log.
#[derive(Debug)]
pub struct Logs;

/// The log in force: changes what is logged, and waits for lines to be written.
#[derive(Debug, Clone)]
pub struct LogHandle {
    filter: reload::Handle<Targets, Registry>,
    directives: Arc<Mutex<String>>,
    sink: Sink,
}

/// Why there is no log.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// The output cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The level is not one.
    #[error("{0}")]
    Level(String),
    /// The process has a log already; there can be one.
    #[error("a log is installed already")]
    Twice,
}

impl Logs {
    /// Makes this the process's log, for `tracing` and for `log`. To be done once, first thing.
    pub fn install(config: &LogsConfig, metrics: &SinkMetrics) -> Result<LogHandle, InstallError> {
        let (dispatch, handle) = Self::open(config, metrics)?;
        tracing::dispatcher::set_global_default(dispatch).map_err(|_| InstallError::Twice)?;
        tracing_log::LogTracer::builder()
            .with_max_level(LevelFilter::current().as_log())
            .init()
            .map_err(|_| InstallError::Twice)?;
        Ok(handle)
    }

    /// The same, without making it the process's: the dispatcher may be used for a scope.
    pub fn open(config: &LogsConfig, metrics: &SinkMetrics) -> Result<(Dispatch, LogHandle), InstallError> {
        let terminal = is_terminal(&config.output);
        let style = match config.format {
            Format::Json => LineStyle::Json,
            Format::Human => LineStyle::Human,
            Format::Auto if terminal => LineStyle::Human,
            Format::Auto => LineStyle::Json,
        };
        // https://no-color.org: set to anything but the empty string.
        let colour = terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        let targets = parse_directives(&config.level).map_err(InstallError::Level)?;
        // One shard, so that lines stay in order; at once, since somebody may be watching.
        let buffering = Buffering { shards: 1, bytes_per_shard: 1024 * 1024, linger: Duration::ZERO };
        let sink = Sink::open("log", &config.output, style, buffering, metrics)?;
        let (filter, reload) = reload::Layer::new(targets);
        let lines = Lines { sink: sink.clone(), style, colour };
        let dispatch = Dispatch::new(Registry::default().with(filter).with(lines));
        let directives = Arc::new(Mutex::new(config.level.clone()));
        Ok((dispatch, LogHandle { filter: reload, directives, sink }))
    }
}

impl LogHandle {
    /// Waits until what was logged before is written, at most `patience`: for the end of the process.
    pub fn flush(&self, patience: Duration) -> bool {
        self.sink.flush(patience)
    }
}

impl LogLevel for LogHandle {
    fn get(&self) -> String {
        self.directives.lock().clone()
    }

    fn set(&self, directives: &str) -> Result<(), String> {
        let targets = parse_directives(directives)?;
        let mut current = self.directives.lock();
        self.filter.reload(targets).map_err(|_| "the log was shut down".to_owned())?;
        tracing_log::log::set_max_level(LevelFilter::current().as_log());
        directives.trim().clone_into(&mut current);
        Ok(())
    }
}

/// Parses `info,sluice_auth=debug`, over the defaults for libraries.
pub(crate) fn parse_directives(text: &str) -> Result<Targets, String> {
    const LONGEST: usize = 1024;
    let text = text.trim();
    if text.is_empty() || text.len() > LONGEST {
        return Err(format!("a log level of {} bytes is not one: expected 1 to {LONGEST}", text.len()));
    }
    let mut targets = Targets::from_str(LIBRARIES).map_err(|error| error.to_string())?;
    for directive in text.split(',').map(str::trim) {
        let (target, level) = match directive.split_once('=') {
            Some((target, level)) => (Some(target.trim()), level.trim()),
            None => (None, directive),
        };
        // `LevelFilter` itself also takes numbers and an empty text; those are more likely slips than wishes.
        let known = ["off", "error", "warn", "info", "debug", "trace"].iter().any(|l| l.eq_ignore_ascii_case(level));
        let level: LevelFilter = match level.parse() {
            Ok(parsed) if known => parsed,
            _ => {
                let shown: String = level.chars().take(32).collect();
                return Err(format!("{shown:?} is not a log level: expected off, error, warn, info, debug or trace"));
            }
        };
        targets = match target {
            None => targets.with_default(level),
            Some(target)
                if !target.is_empty() && target.bytes().all(|b| b.is_ascii_alphanumeric() || b"_:-".contains(&b)) =>
            {
                targets.with_target(target, level)
            }
            Some(target) => {
                let shown: String = target.chars().take(32).collect();
                return Err(format!("{shown:?} is not a log target: expected one such as sluice_auth"));
            }
        };
    }
    Ok(targets)
}

/// Turns events into lines.
#[derive(Debug)]
struct Lines {
    sink: Sink,
    style: LineStyle,
    colour: bool,
}

thread_local! {
    static LINE: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

impl<S: Subscriber> Layer<S> for Lines {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        LINE.with(|line| {
            // A field whose Debug logs would come here again; it then gets a buffer of its own.
            let mut own = Vec::new();
            let mut kept = line.try_borrow_mut().ok();
            let out = kept.as_deref_mut().unwrap_or(&mut own);
            out.clear();
            match self.style {
                LineStyle::Json => json(event, out),
                LineStyle::Human => human(event, self.colour, out),
            }
            out.push(b'\n');
            self.sink.put(out);
            // What one long line took is not kept by every thread for ever.
            if out.capacity() > 64 * 1024 {
                *out = Vec::new();
            }
        });
    }
}

fn json(event: &Event<'_>, out: &mut Vec<u8>) {
    let normalized = event.normalized_metadata();
    let metadata = normalized.as_ref().unwrap_or_else(|| event.metadata());
    out.extend_from_slice(b"{\"timestamp\":\"");
    stamp::write(SystemTime::now(), out);
    out.extend_from_slice(b"\",\"level\":\"");
    out.extend_from_slice(metadata.level().as_str().as_bytes());
    out.extend_from_slice(b"\",\"target\":");
    json_text(metadata.target(), out);
    let mut message = Message::default();
    event.record(&mut message);
    out.extend_from_slice(b",\"message\":");
    json_text(&message.0, out);
    event.record(&mut JsonFields { out });
    out.push(b'}');
}

fn human(event: &Event<'_>, colour: bool, out: &mut Vec<u8>) {
    let normalized = event.normalized_metadata();
    let metadata = normalized.as_ref().unwrap_or_else(|| event.metadata());
    let (tint, name) = match *metadata.level() {
        Level::ERROR => ("\x1b[31m", "ERROR"),
        Level::WARN => ("\x1b[33m", " WARN"),
        Level::INFO => ("\x1b[32m", " INFO"),
        Level::DEBUG => ("\x1b[34m", "DEBUG"),
        Level::TRACE => ("\x1b[35m", "TRACE"),
    };
    let (tint, dim, plain) = if colour { (tint, "\x1b[2m", "\x1b[0m") } else { ("", "", "") };
    let mut message = Message::default();
    event.record(&mut message);
    // Writing into a vector cannot fail.
    out.extend_from_slice(dim.as_bytes());
    stamp::write(SystemTime::now(), out);
    let _ = write!(out, "{plain} {tint}{name}{plain} {dim}{}:{plain} ", metadata.target());
    escaped(&message.0, out);
    event.record(&mut HumanFields { out, dim, plain });
}

/// Whether the field is the message, or the `log` crate's bookkeeping, which are written elsewhere.
fn is_apart(field: &Field) -> bool {
    field.name() == "message" || field.name().starts_with("log.")
}

/// Finds the message.
#[derive(Default)]
struct Message(String);

impl Visit for Message {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            let _ = write!(Capped(&mut self.0), "{value:?}");
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            let _ = Capped(&mut self.0).write_str(value);
        }
    }
}

/// A text that takes no more than [`LONGEST_VALUE`] bytes.
struct Capped<'a>(&'a mut String);

impl fmt::Write for Capped<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = LONGEST_VALUE.saturating_sub(self.0.len());
        if text.len() <= room {
            self.0.push_str(text);
            return Ok(());
        }
        self.0.push_str(&text[..text.floor_char_boundary(room)]);
        // Ends the formatting of a value that nobody will see the rest of.
        Err(fmt::Error)
    }
}

fn capped(value: &dyn fmt::Debug) -> String {
    let mut text = String::new();
    if write!(Capped(&mut text), "{value:?}").is_err() {
        text.push('…');
    }
    text
}

/// Writes `,"name":value` for each field.
struct JsonFields<'a> {
    out: &'a mut Vec<u8>,
}

impl JsonFields<'_> {
    fn name(&mut self, field: &Field) -> bool {
        if is_apart(field) {
            return false;
        }
        self.out.push(b',');
        // A field must not shadow what every line has: a reader that takes the last of two would be misled.
        match field.name() {
            "timestamp" | "level" | "target" => json_text(&format!("field.{}", field.name()), self.out),
            name => json_text(name.strip_prefix("r#").unwrap_or(name), self.out),
        }
        self.out.push(b':');
        true
    }
}

impl Visit for JsonFields<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if self.name(field) {
            json_text(&capped(value), self.out);
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        if self.name(field) {
            json_text(&value[..value.floor_char_boundary(LONGEST_VALUE)], self.out);
        }
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        if self.name(field) {
            let _ = write!(self.out, "{value}");
        }
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        if self.name(field) {
            let _ = write!(self.out, "{value}");
        }
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        if self.name(field) {
            let _ = write!(self.out, "{value}");
        }
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        if self.name(field) {
            // JSON has no infinity; serde_json writes null for it.
            let _ = serde_json::to_writer(&mut *self.out, &value);
        }
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        if self.name(field) {
            json_text(&chain(value), self.out);
        }
    }
}

/// Writes ` name=value` for each field.
struct HumanFields<'a> {
    out: &'a mut Vec<u8>,
    dim: &'static str,
    plain: &'static str,
}

impl HumanFields<'_> {
    fn name(&mut self, field: &Field) -> bool {
        if is_apart(field) {
            return false;
        }
        let _ = write!(self.out, " {}{}={}", self.dim, field.name(), self.plain);
        true
    }
}

impl Visit for HumanFields<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if self.name(field) {
            escaped(&capped(value), self.out);
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        if self.name(field) {
            escaped(&value[..value.floor_char_boundary(LONGEST_VALUE)], self.out);
        }
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        if self.name(field) {
            escaped(&chain(value), self.out);
        }
    }
}

/// An error and its causes: `a: b: c`.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = String::new();
    let mut next = Some(error);
    while let Some(error) = next {
        let separator = if text.is_empty() { "" } else { ": " };
        if write!(Capped(&mut text), "{separator}{error}").is_err() {
            break;
        }
        next = error.source();
    }
    text
}

/// Appends a JSON string.
fn json_text(text: &str, out: &mut Vec<u8>) {
    // Writing a string into a vector cannot fail.
    let _ = serde_json::to_writer(out, text);
}

/// Appends text with whatever could move a cursor, end a line or reverse one written out.
pub(crate) fn escaped(text: &str, out: &mut Vec<u8>) {
    let hazardous = |c: char| {
        c.is_control()
            || matches!(c, '\u{2028}' | '\u{2029}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    let mut rest = text;
    while let Some((at, bad)) = rest.char_indices().find(|(_, c)| hazardous(*c)) {
        out.extend_from_slice(&rest.as_bytes()[..at]);
        let _ = write!(out, "{}", bad.escape_default());
        rest = &rest[at + bad.len_utf8()..];
    }
    out.extend_from_slice(rest.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_may_name_parts() {
        let targets = parse_directives("info, sluice_auth=debug").unwrap_or_default();
        assert!(targets.would_enable("sluice_auth::keys", &Level::DEBUG));
        assert!(!targets.would_enable("sluice_routing", &Level::DEBUG));
        assert!(targets.would_enable("sluice_routing", &Level::INFO));
    }

    #[test]
    fn libraries_stay_quiet_until_they_are_named() {
        let quiet = parse_directives("trace").unwrap_or_default();
        assert!(!quiet.would_enable("pingora_core::services", &Level::INFO));
        assert!(quiet.would_enable("pingora_core::services", &Level::WARN));
        let named = parse_directives("info,pingora_core=debug").unwrap_or_default();
        assert!(named.would_enable("pingora_core::services", &Level::DEBUG));
        assert!(!named.would_enable("pingora_proxy", &Level::INFO));
    }

    #[test]
    fn what_is_not_a_level_is_refused() {
        for bad in ["", "  ", "loud", "info,", "3", "a=", "=info", "a b=info", "sluice[x]=info", &"a".repeat(2000)] {
            assert!(parse_directives(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn nothing_that_moves_a_cursor_or_ends_a_line_gets_through() {
        let mut out = Vec::new();
        escaped("a\nb\x1b[31mc\u{202e}d\u{9b}e ä", &mut out);
        assert_eq!(String::from_utf8_lossy(&out), "a\\nb\\u{1b}[31mc\\u{202e}d\\u{9b}e ä");
    }
}
