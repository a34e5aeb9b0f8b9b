//! What a signed URL says, read so that nobody behind the gateway can read it otherwise.
//!
//! A signature is worth nothing if the upstream finds another value than the one that was signed. So a parameter that matters is there at
//! most once, and nothing may turn into one by decoding: neither an escape in a name (`us%65r`) nor a `;`, at which some split.

use std::borrow::Cow;

/// Parameters that speak of the signature.
const EXPIRES: &str = "expires";
const KEY: &str = "key";
const SIGNATURE: &str = "signature";

/// What becomes of a URL with parameters that the signature does not cover.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Others {
    Refuse,
    Pass,
}

/// A signed URL, as far as its query tells.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Target<'a> {
    pub(crate) expires: u64,
    pub(crate) key: &'a str,
    pub(crate) signature: &'a str,
    /// What is covered and there, in the order in which it is signed: `name=value`.
    covered: Vec<&'a str>,
}

impl<'a> Target<'a> {
    /// Reads a query; says why for the log.
    pub(crate) fn read(query: &'a str, signed: &[String], others: Others) -> Result<Self, &'static str> {
        if query.bytes().any(|byte| byte.is_ascii_control()) {
            return Err("its query holds a control character");
        }
        let mut found: [Option<&str>; 3] = [None; 3];
        let mut covered: Vec<Option<&str>> = vec![None; signed.len()];
        for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
            let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
            let plain = decoded(name);
            let index_of = |names: &[&str]| names.iter().position(|known| *known == plain);
            let (slot, keep) = if let Some(index) = index_of(&[EXPIRES, KEY, SIGNATURE]) {
                (&mut found[index], value)
            } else if let Some(index) = signed.iter().position(|known| *known == plain) {
                (&mut covered[index], parameter)
            } else if others == Others::Refuse {
                return Err("it has a parameter that is not signed");
            } else if parameter.contains(';') {
                return Err("it has a `;` in what is not signed");
            } else {
                continue;
            };
            if plain != name {
                return Err("it has an escape in the name of a parameter that counts");
            }
            if slot.replace(keep).is_some() {
                return Err("it has a parameter that counts twice");
            }
        }
        let [Some(expires), Some(key), Some(signature)] = found else {
            return Err("it lacks `expires`, `key` or `signature`");
        };
        if !is_key_name(key) {
            return Err("its key is not a name");
        }
        let expires = seconds(expires).ok_or("its `expires` is not a number of seconds")?;
        Ok(Self { expires, key, signature, covered: covered.into_iter().flatten().collect() })
    }

    /// What was signed. No part can hold a line feed, so that no two URLs come to the same text.
    pub(crate) fn message(&self, method: &str, host: &str, path: &str) -> String {
        let mut message = format!("sluice signed url 1\n{method}\n{host}\n{path}\n{}\n", self.expires);
        for parameter in &self.covered {
            message.push_str(parameter);
            message.push('\n');
        }
        message
    }
}

/// As it would be signed: digits without a sign and without zeros before them.
fn seconds(text: &str) -> Option<u64> {
    let is_plain = text.bytes().all(|byte| byte.is_ascii_digit()) && !text.starts_with('0');
    text.parse().ok().filter(|_| is_plain)
}

/// A name that is one step of a JSON Pointer as it stands.
fn is_key_name(text: &str) -> bool {
    (1..=64).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
}

/// A name as a reader of forms would see it.
fn decoded(name: &str) -> Cow<'_, str> {
    if !name.contains(['%', '+']) {
        return Cow::Borrowed(name);
    }
    let mut bytes = Vec::with_capacity(name.len());
    let mut rest = name.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        let digit = |at: usize| tail.get(at).and_then(|byte| char::from(*byte).to_digit(16));
        match (byte, digit(0), digit(1)) {
            (b'%', Some(high), Some(low)) => {
                bytes.push((high * 16 + low) as u8);
                rest = &tail[2..];
            }
            _ => {
                bytes.push(if byte == b'+' { b' ' } else { byte });
                rest = tail;
            }
        }
    }
    Cow::Owned(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const END: &str = "expires=1767225600&key=k1&signature=abc";

    fn read(query: &str, others: Others) -> Result<String, &'static str> {
        let signed = ["user".to_owned(), "size".to_owned()];
        Target::read(query, &signed, others).map(|target| target.message("GET", "h", "/p"))
    }

    #[test]
    fn what_is_signed_does_not_hang_on_the_order_of_the_query() {
        let expected = "sluice signed url 1\nGET\nh\n/p\n1767225600\nuser=u%207\nsize=9\n";
        assert_eq!(read(&format!("size=9&user=u%207&{END}"), Others::Refuse).as_deref(), Ok(expected));
        assert_eq!(read(&format!("{END}&user=u%207&&size=9"), Others::Refuse).as_deref(), Ok(expected));
    }

    #[test]
    fn a_parameter_that_is_there_and_empty_is_not_one_that_is_missing() {
        let messages: Vec<_> = ["", "user&", "user=&", "size=&"]
            .iter()
            .map(|query| read(&format!("{query}{END}"), Others::Refuse).unwrap())
            .collect();
        for (index, message) in messages.iter().enumerate() {
            assert!(messages[..index].iter().all(|other| other != message), "{message:?}");
        }
    }

    #[test]
    fn nothing_can_be_slipped_in_beside_what_was_signed() {
        for query in [
            "user=a&user=b",
            "user=a&us%65r=b",
            "us%65r=b",
            "user=a&%75ser",
            "e%78pires=9999999999",
            "expires=9999999999",
            "key=k2",
            "signature=x",
        ] {
            for others in [Others::Refuse, Others::Pass] {
                assert!(read(&format!("{query}&{END}"), others).is_err(), "{query} {others:?}");
            }
        }
        assert!(read(&format!("x=1;user=b&{END}"), Others::Pass).is_err());
        assert!(read(&format!("x=1&{END}"), Others::Refuse).is_err());
        assert!(read(&format!("x=1&us+er=1&%zz=1&{END}"), Others::Pass).is_ok());
    }

    #[test]
    fn what_is_missing_or_malformed_is_not_signed() {
        for query in [
            "",
            "&&&",
            "key=k1&signature=abc",
            "expires=1767225600&signature=abc",
            "expires=1767225600&key=k1",
            "expires=+1767225600&key=k1&signature=abc",
            "expires=01767225600&key=k1&signature=abc",
            "expires=&key=k1&signature=abc",
            "expires=99999999999999999999999&key=k1&signature=abc",
            "expires=1767225600&key=&signature=abc",
            "expires=1767225600&key=a/b&signature=abc",
            "expires=1767225600&key=a~1b&signature=abc",
            "expires=1767225600\n&key=k1&signature=abc",
        ] {
            assert!(read(query, Others::Pass).is_err(), "{query:?}");
        }
    }
}
