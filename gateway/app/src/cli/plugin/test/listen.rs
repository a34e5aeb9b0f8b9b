//! What plugins and their host say while a request is played: the log, heard and not printed.

use std::fmt::{Debug, Write as _};
use std::sync::{Arc, Mutex, PoisonError};

use tracing::field::{Field, Visit};
use tracing::span;
use tracing::{Event, Metadata, Subscriber};

use super::format::Level;

/// A line that a plugin logged.
#[derive(Debug, Clone)]
pub(super) struct Line {
    pub(super) level: Level,
    pub(super) phase: String,
    pub(super) text: String,
}

/// A phase that failed.
#[derive(Debug, Clone)]
pub(super) struct Failed {
    pub(super) phase: String,
    /// As what it is counted.
    pub(super) kind: String,
    /// Why, in words.
    pub(super) why: String,
    /// What became of the message: `refuse`, `skip`, `fallback`, `nothing`.
    pub(super) then: String,
}

/// What was heard.
#[derive(Debug, Default)]
pub(super) struct Heard {
    pub(super) lines: Vec<Line>,
    pub(super) failed: Vec<Failed>,
}

/// Hears what is said on the thread that it is the default of.
#[derive(Debug, Clone, Default)]
pub(super) struct Ear {
    heard: Arc<Mutex<Heard>>,
}

impl Ear {
    /// What was heard since this was last asked.
    pub(super) fn take(&self) -> Heard {
        std::mem::take(&mut self.heard.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Lines of the plugins' own.
const OF_PLUGINS: &str = "sluice::plugin";
/// Lines of their host.
const OF_THE_HOST: &str = "sluice_plugins";

impl Subscriber for Ear {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target() == OF_PLUGINS || metadata.target().starts_with(OF_THE_HOST)
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let Fields { message, phase, reason, error, then } = fields;
        let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        if event.metadata().target() == OF_PLUGINS {
            let level = match *event.metadata().level() {
                tracing::Level::ERROR => Level::Error,
                tracing::Level::WARN => Level::Warn,
                tracing::Level::INFO => Level::Info,
                _ => Level::Debug,
            };
            heard.lines.push(Line { level, phase, text: message });
        } else if message == "plugin failed" {
            heard.failed.push(Failed { phase, kind: reason, why: error, then });
        }
    }

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

/// The fields of an event that matter here.
#[derive(Default)]
struct Fields {
    message: String,
    phase: String,
    reason: String,
    error: String,
    then: String,
}

impl Fields {
    fn of(&mut self, field: &Field) -> Option<&mut String> {
        match field.name() {
            "message" => Some(&mut self.message),
            "phase" => Some(&mut self.phase),
            "reason" => Some(&mut self.reason),
            "error" => Some(&mut self.error),
            "then" => Some(&mut self.then),
            _ => None,
        }
    }
}

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        if let Some(text) = self.of(field) {
            value.clone_into(text);
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        if let Some(text) = self.of(field) {
            text.clear();
            // Writing into a string cannot fail.
            let _ = write!(text, "{value:?}");
        }
    }
}
