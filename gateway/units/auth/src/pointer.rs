//! Where in a token a claim stands: a JSON pointer (RFC 6901), parsed once, or a dotted path.

use serde_json::Value;
use sluice_vocabulary::claims::Claims;

/// The longest pointer or path taken, in bytes.
const MAX_LENGTH: usize = 512;

/// The most names in a pointer. No claim is nested deeper: see [`crate::strict_json`].
const MAX_DEPTH: usize = 16;

/// A JSON pointer into the claims. Never empty: the claims as a whole are no claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pointer(Box<[Box<str>]>);

impl Pointer {
    /// Parses `/realm/tenant` and its like. The error is fit for the operator.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        if text.len() > MAX_LENGTH {
            return Err(format!("a JSON pointer of {} bytes: at most {MAX_LENGTH} are taken", text.len()));
        }
        let bad = || format!("{text:?} is not a JSON pointer: expected a / before each name, as in /realm/tenant");
        let names = text.strip_prefix('/').ok_or_else(bad)?.split('/').map(unescape);
        let names = names.collect::<Option<Box<[_]>>>();
        let names = names.ok_or_else(|| format!("{text:?} is not a JSON pointer: ~ is written ~0, and / is ~1"))?;
        if names.len() > MAX_DEPTH {
            return Err(format!("{text:?} has {} names: no claim is nested deeper than {MAX_DEPTH}", names.len()));
        }
        Ok(Self(names))
    }

    /// What it points to, if that is there.
    pub(crate) fn find(&self, claims: &Claims) -> Option<Value> {
        let (first, rest) = self.0.split_first()?;
        rest.iter().try_fold(claims.raw(first)?.read()?, |value, name| match value {
            Value::Object(mut members) => members.remove(&**name),
            Value::Array(mut elements) => {
                let index = index(name)?;
                (index < elements.len()).then(|| elements.swap_remove(index))
            }
            _ => None,
        })
    }
}

/// A name as it is between slashes: `~1` stands for `/`, `~0` for `~`, and nothing else follows a `~`.
fn unescape(name: &str) -> Option<Box<str>> {
    let mut pieces = name.split('~');
    let mut plain = pieces.next()?.to_owned();
    for piece in pieces {
        let (stands_for, rest) = match piece.as_bytes().first()? {
            b'0' => ('~', &piece[1..]),
            b'1' => ('/', &piece[1..]),
            _ => return None,
        };
        plain.push(stands_for);
        plain.push_str(rest);
    }
    Some(plain.into())
}

/// An index of an array: digits without leading zeros. `-`, the element after the last, is never there.
fn index(name: &str) -> Option<usize> {
    let digits = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_digit());
    (digits && (name == "0" || !name.starts_with('0'))).then(|| name.parse().ok()).flatten()
}

/// A claim's place as an operator may write it: `/realm_access/roles` or `realm_access.roles`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ClaimPath {
    Pointer(Pointer),
    /// As [`Claims::get`] reads it.
    Dotted(Box<str>),
}

impl ClaimPath {
    /// Parses either form: what begins with `/` is a pointer. The error is fit for the operator.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        match text {
            "" => Err("a claim's name cannot be empty".into()),
            _ if text.starts_with('/') => Pointer::parse(text).map(Self::Pointer),
            _ if text.len() > MAX_LENGTH => {
                Err(format!("a claim's path of {} bytes: at most {MAX_LENGTH} are taken", text.len()))
            }
            _ => Ok(Self::Dotted(text.into())),
        }
    }

    /// The claim, if it is there.
    pub(crate) fn find(&self, claims: &Claims) -> Option<Value> {
        match self {
            Self::Pointer(pointer) => pointer.find(claims),
            Self::Dotted(path) => claims.get(path),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]
    use super::*;
    use serde_json::json;

    #[test]
    fn pointers_find_what_those_of_rfc_6901_find() {
        // The document of section 5, as far as it is about members and elements.
        let Value::Object(claims) = json!({
            "foo": ["bar", "baz"], "": 0, "a/b": 1, "c%d": 2, "e^f": 3, "g|h": 4, "i\\j": 5, "k\"l": 6, " ": 7, "m~n": 8,
            "deep": {"~1": {"0": [[], [{"x": true}]]}}
        }) else {
            panic!("an object")
        };
        let claims = claims.into();
        let at = |pointer: &str| Pointer::parse(pointer).unwrap().find(&claims);
        for (pointer, expected) in [
            ("/foo", json!(["bar", "baz"])),
            ("/foo/0", json!("bar")),
            ("/", json!(0)),
            ("/a~1b", json!(1)),
            ("/c%d", json!(2)),
            ("/e^f", json!(3)),
            ("/g|h", json!(4)),
            ("/i\\j", json!(5)),
            ("/k\"l", json!(6)),
            ("/ ", json!(7)),
            ("/m~0n", json!(8)),
            ("/deep/~01/0/1/0/x", json!(true)),
        ] {
            assert_eq!(at(pointer), Some(expected), "{pointer}");
        }
        for absent in ["/foo/2", "/foo/-", "/foo/00", "/foo/01", "/foo/+1", "/foo/", "/foo/bar", "/a", "/a/b", "/ /x"] {
            assert_eq!(at(absent), None, "{absent}");
        }
        assert_eq!(at("/foo/99999999999999999999999"), None);
    }

    #[test]
    fn what_is_no_pointer_is_refused() {
        let (long, deep) = (format!("/{}", "a".repeat(512)), "/a".repeat(17));
        for bad in ["", "a", "a/b", "#/a", "/a~", "/a~2", "/~/b", &long, &deep] {
            assert!(Pointer::parse(bad).is_err(), "{bad}");
        }
        assert!(Pointer::parse(&"/a".repeat(16)).is_ok());
    }
}
