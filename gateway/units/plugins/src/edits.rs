//! Changes that a phase has asked for and that are not made yet.
//!
//! The head itself stays as it is while a phase runs. Reads look through the changes first, so that a plugin sees what it
//! wrote; when the phase succeeds the changes are made, otherwise they are forgotten. Undoing is thus dropping a list, and
//! a head is never cloned. A phase makes a handful of changes, at most [`MOST_CHANGES`]: walking the list beats a map.

use http::header::{self, HeaderMap, HeaderName, HeaderValue};

use crate::contract::fields::HeaderFault;
use crate::effects::Effects;
use crate::message::{HeaderOp, Operations};

/// Changes that one phase may make.
pub(crate) const MOST_CHANGES: usize = 64;
/// Bytes of names and values that one phase may write.
pub(crate) const MOST_BYTES: usize = 32 * 1024;
/// Bytes of one value: what common upstreams accept in one field.
pub(crate) const LONGEST_VALUE: usize = 8 * 1024;
/// Bytes of one name.
pub(crate) const LONGEST_NAME: usize = 256;

/// Fields that a header may hold after a phase. Far above what any server takes, below where the map's type panics (24 576).
const MOST_FIELDS: usize = 8 * 1024;

/// A phase went beyond what it may write: it fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TooMuch {
    #[error("more than {MOST_CHANGES} header changes in one phase")]
    Changes,
    #[error("more than {MOST_BYTES} bytes of header changes in one phase")]
    Bytes,
}

/// The changes of one phase to one message.
#[derive(Debug, Clone, Default)]
pub(crate) struct Edits {
    operations: Operations,
    bytes: usize,
    /// What was asked for beside the header.
    pub(crate) effects: Effects,
}

impl Edits {
    pub(crate) fn set(&mut self, name: &str, value: String) -> Result<Result<(), HeaderFault>, TooMuch> {
        match (field_name(name), field_value(value)) {
            (Ok(name), Ok(value)) => self.push(HeaderOp::Set(name, value)).map(Ok),
            (Err(fault), _) | (_, Err(fault)) => Ok(Err(fault)),
        }
    }

    pub(crate) fn append(&mut self, name: &str, value: String) -> Result<Result<(), HeaderFault>, TooMuch> {
        match (field_name(name), field_value(value)) {
            (Ok(name), Ok(value)) => self.push(HeaderOp::Append(name, value)).map(Ok),
            (Err(fault), _) | (_, Err(fault)) => Ok(Err(fault)),
        }
    }

    pub(crate) fn remove(&mut self, name: &str) -> Result<Result<(), HeaderFault>, TooMuch> {
        match field_name(name) {
            Ok(name) => self.push(HeaderOp::Remove(name)).map(Ok),
            Err(fault) => Ok(Err(fault)),
        }
    }

    fn push(&mut self, operation: HeaderOp) -> Result<(), TooMuch> {
        if self.operations.len() == MOST_CHANGES {
            return Err(TooMuch::Changes);
        }
        self.bytes += operation.name().as_str().len()
            + match &operation {
                HeaderOp::Set(_, value) | HeaderOp::Append(_, value) => value.len(),
                HeaderOp::Remove(_) => 0,
            };
        if self.bytes > MOST_BYTES {
            return Err(TooMuch::Bytes);
        }
        self.operations.push(operation);
        Ok(())
    }

    /// The first value of a field as the phase has left it.
    pub(crate) fn first<'a>(&'a self, base: &'a HeaderMap, name: &str) -> Option<&'a HeaderValue> {
        let (kept, since) = self.view(name);
        let from_base = if kept { base.get(name) } else { None };
        from_base.or_else(|| values_of(since, name).next())
    }

    /// Every value of a field as the phase has left it.
    pub(crate) fn values<'a>(&'a self, base: &'a HeaderMap, name: &'a str) -> impl Iterator<Item = &'a HeaderValue> {
        let (kept, since) = self.view(name);
        let from_base = kept.then(|| base.get_all(name).into_iter()).into_iter().flatten();
        from_base.chain(values_of(since, name))
    }

    /// Every field and value as the phase has left them.
    pub(crate) fn all<'a>(&'a self, base: &'a HeaderMap) -> impl Iterator<Item = (&'a HeaderName, &'a HeaderValue)> {
        let from_base = base.iter().filter(|(name, _)| self.view(name.as_str()).0);
        let written = self.operations.iter().enumerate().filter_map(|(index, operation)| match operation {
            HeaderOp::Set(name, value) | HeaderOp::Append(name, value) => {
                let overwritten = self.operations[index + 1..].iter().any(|later| resets(later, name.as_str()));
                (!overwritten).then_some((name, value))
            }
            HeaderOp::Remove(_) => None,
        });
        from_base.chain(written)
    }

    /// The names of the fields that change.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.operations.iter().map(|operation| operation.name().as_str())
    }

    /// Whether the header would not hold too many fields.
    pub(crate) fn fits(&self, base: &HeaderMap) -> bool {
        base.len() + self.operations.len() <= MOST_FIELDS
    }

    /// Makes the changes and tells them. None, and nothing made, where the header might then hold too many fields.
    pub(crate) fn apply(self, base: &mut HeaderMap) -> Option<Operations> {
        if !self.fits(base) {
            return None;
        }
        for operation in &self.operations {
            match operation {
                HeaderOp::Set(name, value) => {
                    base.insert(name, value.clone());
                }
                HeaderOp::Append(name, value) => {
                    base.append(name, value.clone());
                }
                HeaderOp::Remove(name) => {
                    base.remove(name);
                }
            }
        }
        Some(self.operations)
    }

    /// Whether what the message came with still counts for this field, and the changes that count on top of it.
    fn view(&self, name: &str) -> (bool, &[HeaderOp]) {
        match self.operations.iter().rposition(|operation| resets(operation, name)) {
            Some(index) => (false, &self.operations[index..]),
            None => (true, &self.operations),
        }
    }
}

fn resets(operation: &HeaderOp, name: &str) -> bool {
    match operation {
        HeaderOp::Set(changed, _) | HeaderOp::Remove(changed) => changed == name,
        HeaderOp::Append(..) => false,
    }
}

fn values_of<'a, 'n>(operations: &'a [HeaderOp], name: &'n str) -> impl Iterator<Item = &'a HeaderValue> + use<'a, 'n> {
    operations.iter().filter_map(move |operation| match operation {
        HeaderOp::Set(changed, value) | HeaderOp::Append(changed, value) if changed == name => Some(value),
        _ => None,
    })
}

/// A field name that a plugin may change.
pub(crate) fn field_name(name: &str) -> Result<HeaderName, HeaderFault> {
    if name.len() > LONGEST_NAME {
        return Err(HeaderFault::InvalidName);
    }
    let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| HeaderFault::InvalidName)?;
    if belongs_to_the_connection(&name) { Err(HeaderFault::Forbidden) } else { Ok(name) }
}

/// A field value that a plugin may write.
pub(crate) fn field_value(value: String) -> Result<HeaderValue, HeaderFault> {
    if value.len() > LONGEST_VALUE {
        return Err(HeaderFault::InvalidValue);
    }
    HeaderValue::try_from(value).map_err(|_| HeaderFault::InvalidValue)
}

/// Fields about the connection, the framing and the routing of a message (RFC 9110 7.6.1, RFC 9112 6, RFC 9113 8.2.2).
/// A plugin that could change them could make two readers see two different messages.
pub(crate) fn belongs_to_the_connection(name: &HeaderName) -> bool {
    const NAMES: [HeaderName; 7] = [
        header::CONNECTION,
        header::CONTENT_LENGTH,
        header::HOST,
        header::TE,
        header::TRAILER,
        header::TRANSFER_ENCODING,
        header::UPGRADE,
    ];
    NAMES.contains(name) || matches!(name.as_str(), "keep-alive" | "proxy-connection" | "http2-settings")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use proptest::prelude::*;

    use super::*;

    fn base() -> HeaderMap {
        let mut base = HeaderMap::new();
        base.append("a", HeaderValue::from_static("1"));
        base.append("a", HeaderValue::from_static("2"));
        base.append("b", HeaderValue::from_static("3"));
        base
    }

    #[test]
    fn a_phase_reads_what_it_wrote_and_the_head_stays_as_it_was() {
        let base = base();
        let mut edits = Edits::default();
        edits.set("A", "9".into()).unwrap().unwrap();
        edits.append("a", "10".into()).unwrap().unwrap();
        edits.remove("b").unwrap().unwrap();
        assert_eq!(edits.first(&base, "a").unwrap(), "9");
        assert_eq!(edits.values(&base, "A").collect::<Vec<_>>(), ["9", "10"]);
        assert_eq!(edits.first(&base, "b"), None);
        assert_eq!(base, self::base());
    }

    #[test]
    fn what_belongs_to_the_connection_cannot_be_changed() {
        let mut edits = Edits::default();
        for name in [
            "Transfer-Encoding",
            "content-length",
            "HOST",
            "connection",
            "keep-alive",
            "te",
            "trailer",
            "upgrade",
            "proxy-connection",
        ] {
            assert_eq!(edits.set(name, "x".into()), Ok(Err(HeaderFault::Forbidden)), "{name}");
            assert_eq!(edits.remove(name), Ok(Err(HeaderFault::Forbidden)), "{name}");
        }
    }

    #[test]
    fn what_would_split_a_header_is_not_a_value() {
        let mut edits = Edits::default();
        for value in ["a\r\nb: c", "a\nb", "a\0b", "\u{7f}", &"x".repeat(LONGEST_VALUE + 1)] {
            assert_eq!(edits.set("x", value.into()), Ok(Err(HeaderFault::InvalidValue)), "{value:?}");
        }
        for name in ["", "a b", "a:b", "ä", "a\n", ":path", &"n".repeat(LONGEST_NAME + 1)] {
            assert_eq!(edits.append(name, "x".into()), Ok(Err(HeaderFault::InvalidName)), "{name:?}");
        }
    }

    #[test]
    fn changes_are_counted_and_weighed() {
        let mut edits = Edits::default();
        for _ in 0..MOST_CHANGES {
            edits.append("x", "y".into()).unwrap().unwrap();
        }
        assert_eq!(edits.append("x", "y".into()), Err(TooMuch::Changes));
        let mut edits = Edits::default();
        for _ in 0..4 {
            edits.append("x", "y".repeat(LONGEST_VALUE - 1)).unwrap().unwrap();
        }
        assert_eq!(edits.append("x", "y".into()), Err(TooMuch::Bytes));
    }

    proptest! {
        /// Reading through the changes and making them come to the same.
        #[test]
        fn reading_through_the_changes_is_reading_after_they_are_made(
            steps in prop::collection::vec((0..3u8, 0..3usize, "[a-z]{0,3}"), 0..20)
        ) {
            let names = ["a", "b", "c"];
            let mut edits = Edits::default();
            for (kind, name, value) in steps {
                match kind {
                    0 => edits.set(names[name], value).unwrap().unwrap(),
                    1 => edits.append(names[name], value).unwrap().unwrap(),
                    _ => edits.remove(names[name]).unwrap().unwrap(),
                }
            }
            let base = base();
            let read: Vec<Vec<HeaderValue>> =
                names.iter().map(|name| edits.values(&base, name).cloned().collect()).collect();
            let firsts: Vec<Option<HeaderValue>> = names.iter().map(|name| edits.first(&base, name).cloned()).collect();
            let mut all: Vec<(String, HeaderValue)> =
                edits.all(&base).map(|(name, value)| (name.to_string(), value.clone())).collect();
            let mut made = base.clone();
            edits.apply(&mut made).unwrap();
            for (index, name) in names.iter().enumerate() {
                prop_assert_eq!(&read[index], &made.get_all(*name).into_iter().cloned().collect::<Vec<_>>());
                prop_assert_eq!(&firsts[index], &made.get(*name).cloned());
            }
            let mut expected: Vec<(String, HeaderValue)> =
                made.iter().map(|(name, value)| (name.to_string(), value.clone())).collect();
            all.sort();
            expected.sort();
            prop_assert_eq!(all, expected);
        }
    }
}
