//! A revocation as it is written: one JSON object on a line, the same for every way in and in the store.
//!
//! ```text
//! {"issuer":"corp","jti":"4f1c…","expires_at":1790000000}                            one token
//! {"issuer":"corp","sub":"user-7","issued_before":1789990000,"expires_at":1790000000}  a subject's tokens until then
//! {"issuer":"corp","kid":"2026-09","expires_at":1790000000}                            whatever a key signed
//! {"issuer":"corp","issued_before":1789990000,"expires_at":1790000000}                 an issuer's tokens until then
//! ```
//!
//! `issuer` is the operator's name for it, not its `iss`. `expires_at` is when the last token that is meant has expired: the
//! token's own `exp`, or that of the youngest one. Dates are whole seconds since the Unix epoch. Every other member is
//! refused, so that a slip of the pen does not revoke less than was meant.

use serde::Serialize;
use serde_json::{Map, Value};
use sluice_vocabulary::IssuerName;
use sluice_vocabulary::ports::BadLine;

use crate::strict_json;

/// The longest line taken, with room for a value of [`MAX_VALUE`] written in escapes.
pub(crate) const MAX_LINE: usize = 4096;

/// The longest `jti`, `sub` or `kid`, in bytes.
pub(crate) const MAX_VALUE: usize = 512;

/// The latest date taken: the beginning of the year 2100. A later one is milliseconds taken for seconds.
const LAST_DATE: u64 = 4_102_444_800;

/// The bad lines of one document that are told; all are counted.
pub(crate) const MAX_TOLD: usize = 20;

/// What a revocation is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// One token, by its `jti`.
    Token,
    /// The tokens of a `sub`, issued before an instant.
    Subject,
    /// Whatever the key of a `kid` signed.
    Key,
    /// All tokens of an issuer, issued before an instant.
    Issuer,
}

impl Kind {
    pub(crate) const ALL: [Self; 4] = [Self::Token, Self::Subject, Self::Key, Self::Issuer];

    /// The stable name, for metrics and pages.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Token => "token",
            Self::Subject => "subject",
            Self::Key => "key",
            Self::Issuer => "issuer",
        }
    }

    /// Whether such a revocation has an `issued_before`.
    const fn is_dated(self) -> bool {
        matches!(self, Self::Subject | Self::Issuer)
    }
}

/// What tells one revocation from another.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(crate) struct Target {
    pub(crate) kind: Kind,
    pub(crate) issuer: IssuerName,
    /// The `jti`, `sub` or `kid`; empty for an issuer.
    pub(crate) value: String,
}

impl std::fmt::Debug for Target {
    /// Without the value: a subject is somebody's name.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Target").field("kind", &self.kind).field("issuer", &self.issuer).finish_non_exhaustive()
    }
}

/// A revocation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) target: Target,
    /// Tokens issued before this are meant; 0 where the kind has no such date.
    pub(crate) issued_before: u32,
    /// When the last token that is meant has expired.
    pub(crate) expires_at: u32,
}

/// A line of the store: a revocation, or that one was lifted.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Entry {
    Revoked(Record),
    Lifted(Target),
}

#[derive(Serialize)]
struct Line<'r> {
    issuer: &'r str,
    #[serde(skip_serializing_if = "Option::is_none")]
    jti: Option<&'r str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sub: Option<&'r str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    kid: Option<&'r str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    issued_before: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at: Option<u32>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    lifted: bool,
}

impl Target {
    fn line(&self) -> Line<'_> {
        let value = |kind| (self.kind == kind).then_some(self.value.as_str());
        Line {
            issuer: self.issuer.as_str(),
            jti: value(Kind::Token),
            sub: value(Kind::Subject),
            kid: value(Kind::Key),
            issued_before: None,
            expires_at: None,
            lifted: false,
        }
    }
}

impl Record {
    fn line(&self) -> Line<'_> {
        let issued_before = self.target.kind.is_dated().then_some(self.issued_before);
        Line { issued_before, expires_at: Some(self.expires_at), ..self.target.line() }
    }

    /// As JSON, for the admin's page.
    pub(crate) fn to_value(&self) -> Value {
        serde_json::to_value(self.line()).unwrap_or_default()
    }

    /// Adds the line, with its line break.
    pub(crate) fn write(&self, out: &mut String) {
        push(&self.line(), out);
    }

    /// Reads one revocation; the error is fit for whoever wrote it and quotes no value.
    pub(crate) fn parse(line: &[u8]) -> Result<Self, String> {
        Self::read(&strict_json::object(line).map_err(|bad| bad.to_string())?)
    }

    fn read(members: &Map<String, Value>) -> Result<Self, String> {
        refuse_others(members)?;
        let target = target(members)?;
        let expires_at = date(members, "expires_at")?.ok_or("expires_at is missing")?;
        let issued_before = date(members, "issued_before")?;
        let issued_before = match (target.kind.is_dated(), issued_before) {
            (true, Some(date)) => date,
            (false, None) => 0,
            (true, None) => return Err("issued_before is missing: a subject or an issuer needs it".into()),
            (false, Some(_)) => return Err("issued_before has no meaning beside jti or kid".into()),
        };
        Ok(Self { target, issued_before, expires_at })
    }
}

impl Target {
    /// Reads what is to be lifted: a revocation's line, of which the dates may be left out.
    pub(crate) fn parse(line: &[u8]) -> Result<Self, String> {
        let members = strict_json::object(line).map_err(|bad| bad.to_string())?;
        refuse_others(&members)?;
        date(&members, "expires_at")?;
        date(&members, "issued_before")?;
        target(&members)
    }

    /// Adds the store's line that says it was lifted.
    pub(crate) fn write_lifted(&self, out: &mut String) {
        push(&Line { lifted: true, ..self.line() }, out);
    }
}

impl Entry {
    /// Reads a line of the store.
    pub(crate) fn parse(line: &[u8]) -> Result<Self, String> {
        let mut members = strict_json::object(line).map_err(|bad| bad.to_string())?;
        match members.remove("lifted") {
            None => Record::read(&members).map(Self::Revoked),
            Some(Value::Bool(true)) => {
                refuse_others(&members)?;
                target(&members).map(Self::Lifted)
            }
            Some(_) => Err("lifted is not true".into()),
        }
    }
}

fn push(line: &Line<'_>, out: &mut String) {
    // Strings and numbers always serialise.
    out.push_str(&serde_json::to_string(line).unwrap_or_default());
    out.push('\n');
}

fn refuse_others(members: &Map<String, Value>) -> Result<(), String> {
    const KNOWN: [&str; 6] = ["issuer", "jti", "sub", "kid", "issued_before", "expires_at"];
    match members.keys().find(|name| !KNOWN.contains(&name.as_str())) {
        None => Ok(()),
        Some(name) => {
            let name: String = name.chars().take(32).collect();
            Err(format!("unknown member {name:?}: expected issuer, one of jti, sub and kid, issued_before, expires_at"))
        }
    }
}

fn target(members: &Map<String, Value>) -> Result<Target, String> {
    let issuer = match members.get("issuer") {
        Some(Value::String(name)) => IssuerName::new(name).map_err(|bad| bad.to_string())?,
        Some(_) => return Err("issuer is not a string".into()),
        None => return Err("issuer is missing".into()),
    };
    let mut found = (Kind::Issuer, None);
    for (name, kind) in [("jti", Kind::Token), ("sub", Kind::Subject), ("kid", Kind::Key)] {
        match members.get(name) {
            None => {}
            Some(_) if found.1.is_some() => return Err("more than one of jti, sub and kid: expected one".into()),
            Some(Value::String(value)) if (1..=MAX_VALUE).contains(&value.len()) => found = (kind, Some(value)),
            Some(Value::String(value)) => {
                return Err(format!("{name} has {} bytes: expected 1 to {MAX_VALUE}", value.len()));
            }
            Some(_) => return Err(format!("{name} is not a string")),
        }
    }
    let (kind, value) = found;
    Ok(Target { kind, issuer, value: value.cloned().unwrap_or_default() })
}

fn date(members: &Map<String, Value>, name: &str) -> Result<Option<u32>, String> {
    let Some(value) = members.get(name) else { return Ok(None) };
    let date = value.as_u64().filter(|date| (1..=LAST_DATE).contains(date)).and_then(|date| u32::try_from(date).ok());
    date.map(Some).ok_or_else(|| format!("{name} is not a date: expected whole seconds from 1 to {LAST_DATE}"))
}

/// What was wrong in a document, by line.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct BadLines {
    /// How many lines.
    pub(crate) count: usize,
    /// The first of them.
    pub(crate) told: Vec<BadLine>,
}

impl BadLines {
    pub(crate) fn push(&mut self, line: usize, fault: String) {
        self.count += 1;
        if self.told.len() < MAX_TOLD {
            self.told.push(BadLine { line, fault });
        }
    }
}

impl std::fmt::Display for BadLines {
    /// The first one, and how many more there are.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Some(first) = self.told.first() else { return f.write_str("no bad lines") };
        write!(f, "line {}: {}", first.line, first.fault)?;
        if self.count > 1 { write!(f, " ({} bad lines in all)", self.count) } else { Ok(()) }
    }
}

/// The lines of a document with their numbers, counted from 1; blank ones are skipped. What is longer than [`MAX_LINE`]
/// is an error.
pub(crate) fn lines(document: &[u8]) -> impl Iterator<Item = (usize, Result<&[u8], String>)> {
    document.split(|byte| *byte == b'\n').enumerate().filter_map(|(index, line)| {
        let line = line.trim_ascii();
        (!line.is_empty()).then(|| (index + 1, checked(line)))
    })
}

/// The line, if it is not too long.
pub(crate) fn checked(line: &[u8]) -> Result<&[u8], String> {
    if line.len() <= MAX_LINE {
        return Ok(line);
    }
    Err(format!("the line has {} bytes: expected at most {MAX_LINE}", line.len()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_kind_reads_back_as_it_was_written() {
        for line in [
            r#"{"issuer":"corp","jti":"a\"b\u0000é","expires_at":1790000000}"#,
            r#"{"issuer":"corp","sub":"user-7","issued_before":1,"expires_at":4102444800}"#,
            r#"{"issuer":"corp","kid":"2026-09","expires_at":1}"#,
            r#"{"issuer":"corp","issued_before":1789990000,"expires_at":1790000000}"#,
        ] {
            let record = Record::parse(line.as_bytes()).unwrap();
            let mut written = String::new();
            record.write(&mut written);
            assert_eq!(Record::parse(written.trim_end().as_bytes()).unwrap(), record, "{line}");
            assert_eq!(Entry::parse(written.trim_end().as_bytes()).unwrap(), Entry::Revoked(record.clone()));
            let mut lifted = String::new();
            record.target.write_lifted(&mut lifted);
            assert_eq!(Entry::parse(lifted.trim_end().as_bytes()).unwrap(), Entry::Lifted(record.target.clone()));
            assert!(Record::parse(lifted.trim_end().as_bytes()).is_err(), "nobody but the store may lift by a line");
        }
    }

    #[test]
    fn what_could_mean_less_than_was_meant_is_refused() {
        let long = format!(r#"{{"issuer":"corp","jti":"{}","expires_at":9}}"#, "x".repeat(MAX_VALUE + 1));
        for (line, why) in [
            ("", "strict json"),
            ("[]", "expected an object"),
            (r#"{"issuer":"corp","jti":"a","jti":"b","expires_at":9}"#, "duplicate member"),
            (r#"{"jti":"a","expires_at":9}"#, "issuer is missing"),
            (r#"{"issuer":"c/d","jti":"a","expires_at":9}"#, "not a issuer name"),
            (r#"{"issuer":7,"jti":"a","expires_at":9}"#, "issuer is not a string"),
            (r#"{"issuer":"corp","jti":"a"}"#, "expires_at is missing"),
            (r#"{"issuer":"corp","jti":"a","exp":9}"#, "unknown member \"exp\""),
            (r#"{"issuer":"corp","jti":"","expires_at":9}"#, "jti has 0 bytes"),
            (&long, "jti has 513 bytes: expected 1 to 512"),
            (r#"{"issuer":"corp","jti":7,"expires_at":9}"#, "jti is not a string"),
            (r#"{"issuer":"corp","jti":"a","sub":"b","expires_at":9}"#, "more than one of"),
            (r#"{"issuer":"corp","jti":"a","issued_before":5,"expires_at":9}"#, "no meaning beside"),
            (r#"{"issuer":"corp","sub":"a","expires_at":9}"#, "issued_before is missing"),
            (r#"{"issuer":"corp","expires_at":9}"#, "issued_before is missing"),
            (r#"{"issuer":"corp","jti":"a","expires_at":0}"#, "not a date"),
            (r#"{"issuer":"corp","jti":"a","expires_at":-9}"#, "not a date"),
            (r#"{"issuer":"corp","jti":"a","expires_at":9.5}"#, "not a date"),
            (r#"{"issuer":"corp","jti":"a","expires_at":"9"}"#, "not a date"),
            (r#"{"issuer":"corp","jti":"a","expires_at":1790000000000}"#, "not a date"),
        ] {
            let told = Record::parse(line.as_bytes()).unwrap_err();
            assert!(told.contains(why), "{line}: {told}");
        }
    }

    #[test]
    fn a_bad_line_is_named_by_its_number_and_blank_ones_count() {
        let document = format!("\n{{}}\r\n\n{}\n[]", "x".repeat(MAX_LINE + 1));
        let seen: Vec<_> = lines(document.as_bytes()).map(|(number, line)| (number, line.is_ok())).collect();
        assert_eq!(seen, [(2, true), (4, false), (5, true)]);
        let mut bad = BadLines::default();
        (1..100).for_each(|number| bad.push(number, "wrong".into()));
        assert_eq!((bad.count, bad.told.len()), (99, MAX_TOLD));
        assert_eq!(bad.to_string(), "line 1: wrong (99 bad lines in all)");
    }

    proptest! {
        #[test]
        fn hostile_bytes_never_panic_and_no_error_quotes_a_value(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Record::parse(&bytes);
            let _ = Entry::parse(&bytes);
            let _ = Target::parse(&bytes);
        }
    }
}
