//! Changes to headers, ready to be applied.

use std::collections::BTreeMap;

use http::HeaderMap;
use http::header::{self, HeaderName, HeaderValue};
use sluice_vocabulary::{Fault, Faults, Path};

use crate::config;

/// Changes to a header, in the order in which they are made: `remove`, `set`, `add`.
#[derive(Debug, Default)]
pub struct HeaderEdits {
    remove: Box<[HeaderName]>,
    set: Box<[(HeaderName, HeaderValue)]>,
    add: Box<[(HeaderName, HeaderValue)]>,
}

/// Which header is changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Request,
    Response,
}

impl HeaderEdits {
    pub(crate) fn compile(config: &config::HeaderEdits, side: Side, at: &Path, faults: &mut Faults) -> Self {
        let mut remove = Vec::with_capacity(config.remove.len());
        for (position, name) in config.remove.iter().enumerate() {
            remove.extend(field_name(name, side, &at.key("remove").index(position), faults));
        }
        Self {
            remove: remove.into(),
            set: fields(&config.set, side, &at.key("set"), faults),
            add: fields(&config.add, side, &at.key("add"), faults),
        }
    }

    /// Fields to take away, first of all.
    pub fn remove(&self) -> &[HeaderName] {
        &self.remove
    }

    /// Fields to put in place of any of the same name.
    pub fn set(&self) -> &[(HeaderName, HeaderValue)] {
        &self.set
    }

    /// Fields to put beside any of the same name.
    pub fn add(&self) -> &[(HeaderName, HeaderValue)] {
        &self.add
    }

    /// Whether nothing is to be changed.
    pub fn is_empty(&self) -> bool {
        self.remove.is_empty() && self.set.is_empty() && self.add.is_empty()
    }

    /// Makes the changes to a plain header map.
    pub fn apply(&self, headers: &mut HeaderMap) {
        for name in &self.remove {
            headers.remove(name);
        }
        for (name, value) in &self.set {
            headers.insert(name, value.clone());
        }
        for (name, value) in &self.add {
            headers.append(name, value.clone());
        }
    }
}

/// Compiles fields by name; also for the header of a direct answer.
pub(crate) fn fields(
    config: &BTreeMap<String, String>,
    side: Side,
    at: &Path,
    faults: &mut Faults,
) -> Box<[(HeaderName, HeaderValue)]> {
    let mut compiled: Vec<(HeaderName, HeaderValue)> = Vec::with_capacity(config.len());
    for (name, value) in config {
        let at = at.key(name);
        let Some(name) = field_name(name, side, &at, faults) else { continue };
        // The value may be a secret: it is not repeated.
        let Ok(value) = HeaderValue::from_str(value) else {
            faults.error(
                &at,
                format!("the value cannot be one of header field {name}: expected visible ASCII, blanks and tabs"),
            );
            continue;
        };
        if compiled.iter().any(|(other, _)| *other == name) {
            faults.error(&at, format!("header field {name} is given twice, differing only in case"));
            continue;
        }
        compiled.push((name, value));
    }
    compiled.into()
}

fn field_name(text: &str, side: Side, at: &Path, faults: &mut Faults) -> Option<HeaderName> {
    /// They frame the message or belong to one connection (RFC 9110 7.6.1), so that the proxy alone may write them.
    const OURS: [&str; 9] = [
        "connection",
        "content-length",
        "keep-alive",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "http2-settings",
    ];
    let Ok(name) = HeaderName::from_bytes(text.as_bytes()) else {
        faults.error(at, format!("{text:?} is not a header field's name"));
        return None;
    };
    if OURS.contains(&name.as_str()) {
        faults.error(at, format!("header field {name} belongs to the connection and cannot be changed"));
        return None;
    }
    if side == Side::Request && name == header::HOST {
        faults.push(Fault::error(at, "the host is not changed as a header field").help("use rewrite.host"));
        return None;
    }
    Some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(set: &[(&str, &str)], add: &[(&str, &str)], remove: &[&str]) -> config::HeaderEdits {
        let map = |pairs: &[(&str, &str)]| pairs.iter().map(|(n, v)| (n.to_string(), v.to_string())).collect();
        config::HeaderEdits { set: map(set), add: map(add), remove: remove.iter().map(ToString::to_string).collect() }
    }

    #[test]
    fn removing_comes_before_setting_before_adding() {
        let mut faults = Faults::new();
        let config = config(&[("x-a", "new")], &[("X-A", "more"), ("x-b", "more")], &["x-a", "x-c"]);
        let edits = HeaderEdits::compile(&config, Side::Request, &Path::root(), &mut faults);
        assert!(faults.is_empty());
        let mut headers = HeaderMap::new();
        for name in ["x-a", "x-b", "x-c"] {
            headers.append(name, HeaderValue::from_static("old"));
        }
        edits.apply(&mut headers);
        let all = |name| headers.get_all(name).iter().map(HeaderValue::as_bytes).collect::<Vec<_>>();
        assert_eq!(all("x-a"), [b"new" as &[u8], b"more"]);
        assert_eq!(all("x-b"), [b"old" as &[u8], b"more"]);
        assert!(all("x-c").is_empty());
    }

    #[test]
    fn framing_belongs_to_the_proxy_and_secrets_are_not_repeated() {
        let mut faults = Faults::new();
        let config = config(
            &[("Transfer-Encoding", "chunked"), ("host", "a"), ("x-ok", "secret\nvalue"), ("x b", "1")],
            &[("Content-Length", "1")],
            &["connection"],
        );
        HeaderEdits::compile(&config, Side::Request, &Path::root(), &mut faults);
        assert_eq!(faults.iter().count(), 6);
        assert!(faults.iter().all(|fault| !fault.to_string().contains("secret")));
    }
}
