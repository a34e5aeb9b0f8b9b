//! The host functions: the contract's imports, on the state of one call.
//!
//! Each is short and bounded: texts that come in were bounded by the engine before they were copied
//! ([`MOST_BYTES_PER_CALL`](crate::engine::MOST_BYTES_PER_CALL)), texts that go out are parts of one header.

use http::{HeaderMap, HeaderValue, StatusCode};

use crate::call::Call;
use crate::contract::fields::HeaderFault;
use crate::contract::{actions, configuration, fields, log, request, response};
use crate::edits::Edits;
use crate::failure::Misuse;
use crate::subject::Subject;

/// Lines that one phase may log.
const MOST_LINES: u32 = 16;
/// Bytes of one line.
pub(crate) const LONGEST_LINE: usize = 1024;

const LONGEST_METRIC_NAME: usize = 64;

type Changed = wasmtime::Result<Result<(), HeaderFault>>;

impl actions::Host for Call {}
impl fields::Host for Call {}

impl request::Host for Call {
    fn method(&mut self) -> wasmtime::Result<String> {
        Ok(self.subject.request().method.as_str().to_owned())
    }

    fn scheme(&mut self) -> wasmtime::Result<String> {
        Ok(self.subject.request().scheme.as_str().to_owned())
    }

    fn host(&mut self) -> wasmtime::Result<String> {
        Ok(self.subject.request().host.as_ref().to_owned())
    }

    fn path(&mut self) -> wasmtime::Result<String> {
        Ok(self.subject.request().path.as_ref().to_owned())
    }

    fn query(&mut self) -> wasmtime::Result<Option<String>> {
        Ok(self.subject.request().query.as_deref().map(str::to_owned))
    }

    fn header(&mut self, name: String) -> wasmtime::Result<Option<String>> {
        Ok(match &self.subject {
            Subject::Request { head, edits, .. } => edits.first(&head.headers, &name).map(text),
            other => other.request().headers.get(&name).map(text),
        })
    }

    fn header_values(&mut self, name: String) -> wasmtime::Result<Vec<String>> {
        Ok(match &self.subject {
            Subject::Request { head, edits, .. } => edits.values(&head.headers, &name).map(text).collect(),
            other => other.request().headers.get_all(&name).into_iter().map(text).collect(),
        })
    }

    fn headers(&mut self) -> wasmtime::Result<Vec<(String, String)>> {
        Ok(match &self.subject {
            Subject::Request { head, edits, .. } => all(&head.headers, edits),
            other => all(&other.request().headers, &Edits::default()),
        })
    }

    fn set_header(&mut self, name: String, value: String) -> Changed {
        self.change_request(|edits| Ok(edits.set(&name, value)?))
    }

    fn append_header(&mut self, name: String, value: String) -> Changed {
        self.change_request(|edits| Ok(edits.append(&name, value)?))
    }

    fn remove_header(&mut self, name: String) -> Changed {
        self.change_request(|edits| Ok(edits.remove(&name)?))
    }
}

impl response::Host for Call {
    fn status(&mut self) -> wasmtime::Result<u16> {
        Ok(match &self.subject {
            Subject::Response { head, status, .. } => status.unwrap_or(head.status),
            _ => self.response()?.status,
        }
        .as_u16())
    }

    fn set_status(&mut self, wanted: u16) -> wasmtime::Result<bool> {
        let Subject::Response { head, status, .. } = &mut self.subject else {
            return self.response().map(|_| false).map_err(Into::into);
        };
        match StatusCode::from_u16(wanted) {
            Ok(wanted) if (200..600).contains(&wanted.as_u16()) && has_body(head.status) && has_body(wanted) => {
                *status = Some(wanted);
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    fn header(&mut self, name: String) -> wasmtime::Result<Option<String>> {
        Ok(match &self.subject {
            Subject::Response { head, edits, .. } => edits.first(&head.headers, &name).map(text),
            _ => self.response()?.headers.get(&name).map(text),
        })
    }

    fn header_values(&mut self, name: String) -> wasmtime::Result<Vec<String>> {
        Ok(match &self.subject {
            Subject::Response { head, edits, .. } => edits.values(&head.headers, &name).map(text).collect(),
            _ => self.response()?.headers.get_all(&name).into_iter().map(text).collect(),
        })
    }

    fn headers(&mut self) -> wasmtime::Result<Vec<(String, String)>> {
        Ok(match &self.subject {
            Subject::Response { head, edits, .. } => all(&head.headers, edits),
            _ => all(&self.response()?.headers, &Edits::default()),
        })
    }

    fn set_header(&mut self, name: String, value: String) -> Changed {
        self.change_response(|edits| Ok(edits.set(&name, value)?))
    }

    fn append_header(&mut self, name: String, value: String) -> Changed {
        self.change_response(|edits| Ok(edits.append(&name, value)?))
    }

    fn remove_header(&mut self, name: String) -> Changed {
        self.change_response(|edits| Ok(edits.remove(&name)?))
    }
}

impl configuration::Host for Call {
    fn get(&mut self, key: String) -> wasmtime::Result<Option<String>> {
        Ok(self.shared.told.get(&key).map(|value| value.as_ref().to_owned()))
    }

    fn json(&mut self) -> wasmtime::Result<String> {
        Ok(self.shared.told.json.as_ref().to_owned())
    }
}

impl log::Host for Call {
    fn write(&mut self, level: log::Level, message: String) -> wasmtime::Result<()> {
        if self.lines_logged == MOST_LINES {
            self.shared.metrics.log_lines_dropped.inc();
            return Ok(());
        }
        self.lines_logged += 1;
        if self.lines_logged <= self.lines_said_before {
            return Ok(());
        }
        match level {
            log::Level::Debug => self.say_debug(&message),
            log::Level::Info => self.say_info(&message),
            log::Level::Warn => self.say_warn(&message),
            log::Level::Error => self.say_error(&message),
        }
        Ok(())
    }
}

macro_rules! say {
    ($($name:ident $level:ident),+) => {
        impl Call {
            $(fn $name(&self, message: &str) {
                if tracing::enabled!(target: "sluice::plugin", tracing::Level::$level) {
                    tracing::event!(
                        target: "sluice::plugin",
                        tracing::Level::$level,
                        plugin = %self.shared.name,
                        phase = %self.subject.phase(),
                        request.id = %self.who.request_id,
                        tenant = self.who.tenant.as_ref().map(tracing::field::display),
                        "{}", one_line(message, LONGEST_LINE)
                    );
                }
            })+
        }
    };
}

say!(say_debug DEBUG, say_info INFO, say_warn WARN, say_error ERROR);

impl Call {
    fn change_request(
        &mut self,
        change: impl FnOnce(&mut Edits) -> Result<Result<(), HeaderFault>, Misuse>,
    ) -> Changed {
        match &mut self.subject {
            Subject::Request { edits, .. } => Ok(change(edits)?),
            _ => Ok(Err(HeaderFault::ReadOnly)),
        }
    }

    fn change_response(
        &mut self,
        change: impl FnOnce(&mut Edits) -> Result<Result<(), HeaderFault>, Misuse>,
    ) -> Changed {
        match &mut self.subject {
            Subject::Response { edits, .. } => Ok(change(edits)?),
            _ => self.response().map(|_| Err(HeaderFault::ReadOnly)).map_err(Into::into),
        }
    }
}

/// Whether it can name a metric, a label or a tag.
pub(crate) fn is_metric_name(name: &str) -> bool {
    name.len() <= LONGEST_METRIC_NAME
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
}

/// Whether a response of this status may have a body (RFC 9110 6.4.1).
pub(crate) fn has_body(status: StatusCode) -> bool {
    !status.is_informational() && status != StatusCode::NO_CONTENT && status != StatusCode::NOT_MODIFIED
}

pub(crate) fn text(value: &HeaderValue) -> String {
    String::from_utf8_lossy(value.as_bytes()).into_owned()
}

pub(crate) fn all(base: &HeaderMap, edits: &Edits) -> Vec<(String, String)> {
    edits.all(base).map(|(name, value)| (name.as_str().to_owned(), text(value))).collect()
}

/// A guest's text as one line of at most `longest` bytes: a plugin must not forge log lines or move a terminal's cursor.
pub(crate) fn one_line(message: &str, longest: usize) -> String {
    let end = message.floor_char_boundary(longest);
    message[..end].chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plugin_cannot_forge_a_log_line() {
        assert_eq!(one_line("a\n2026 ERROR b\u{1b}[2J\r", 100), "a 2026 ERROR b [2J ");
        assert_eq!(one_line("ääää", 3), "ä");
        assert_eq!(one_line("", 3), "");
    }
}
