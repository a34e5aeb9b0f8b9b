//! One parameter among a query's (`application/x-www-form-urlencoded`): found so that no two readers can differ on it, taken
//! out without another byte being touched, and hidden where a query is written down.

use std::borrow::Cow;

/// The most parameters looked at.
const MOST: usize = 512;

/// What stands in a record in place of a token.
const HIDDEN: &str = "[redacted]";

/// The value of the parameter `name`, decoded. The error says why there is not one reading of it.
pub(crate) fn find<'r>(query: &'r str, name: &str) -> Result<Option<Cow<'r, [u8]>>, &'static str> {
    let mut found = None;
    for (count, pair) in query.split('&').enumerate() {
        if count == MOST {
            return Err("more than 512 parameters");
        }
        let (own, value) = split(pair);
        if own != name {
            if is_spelt_otherwise(own, name) {
                return Err("a parameter that some take for the token's and some do not");
            }
            continue;
        }
        let value = value.ok_or("the token's parameter has no value")?;
        if found.replace(value).is_some() {
            return Err("more than one parameter of the token's name");
        }
    }
    match found {
        None => Ok(None),
        // A plus sign is a space to some and itself to others.
        Some(value) if value.contains('+') => Err("the token's parameter holds a plus sign"),
        Some(value) if !value.contains('%') => Ok(Some(value.as_bytes().into())),
        Some(value) => Ok(Some(decode(value).ok_or("the token's parameter is not percent-encoded")?.into())),
    }
}

/// The query without the parameter `name`, all else as it was; `None` where nothing is left.
pub(crate) fn without(query: &str, name: &str) -> Option<String> {
    let mut left: Option<String> = None;
    for pair in query.split('&').filter(|pair| split(pair).0 != name) {
        match &mut left {
            None => left = Some(pair.to_owned()),
            Some(left) => {
                left.push('&');
                left.push_str(pair);
            }
        }
    }
    left
}

/// The query with every value hidden of which one of `names` could be the name, however it is spelt.
pub(crate) fn hide<'q>(query: &'q str, names: &[Box<str>]) -> Cow<'q, str> {
    let is_hidden = |pair: &str| {
        let own = split(pair).0;
        names.iter().any(|name| own.eq_ignore_ascii_case(name) || is_spelt_otherwise(own, name))
    };
    if !query.split('&').any(is_hidden) {
        return query.into();
    }
    let pairs = query.split('&').map(|pair| match is_hidden(pair) {
        true => format!("{}={HIDDEN}", split(pair).0).into(),
        false => Cow::Borrowed(pair),
    });
    pairs.collect::<Vec<_>>().join("&").into()
}

fn split(pair: &str) -> (&str, Option<&str>) {
    pair.split_once('=').map_or((pair, None), |(name, value)| (name, Some(value)))
}

/// Whether `own`, which is not `name`, becomes it when it is decoded and trimmed.
fn is_spelt_otherwise(own: &str, name: &str) -> bool {
    // A name has no character that must be encoded, so that most are told by their length.
    if own.len() <= name.len() {
        return false;
    }
    let spaced = own.replace('+', " ");
    decode(&spaced).is_some_and(|decoded| decoded.trim_ascii().eq_ignore_ascii_case(name.as_bytes()))
}

fn decode(text: &str) -> Option<Vec<u8>> {
    let mut bytes = text.bytes();
    let mut out = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        out.push(match byte {
            b'%' => digit(bytes.next()?)? << 4 | digit(bytes.next()?)?,
            other => other,
        });
    }
    Some(out)
}

fn digit(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

/// Why `name` is not one that a parameter with a token may have, if it is not: it must have one spelling.
pub(crate) fn judge_name(name: &str) -> Result<(), String> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~');
    if (1..=128).contains(&name.len()) && name.bytes().all(is_plain) {
        Ok(())
    } else {
        Err(format!("{name:?} is not a parameter's name: expected 1 to 128 of letters, digits, - . _ and ~"))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use proptest::prelude::*;

    fn found(query: &str) -> Result<Option<String>, &'static str> {
        find(query, "access_token").map(|value| value.map(|value| String::from_utf8(value.into_owned()).unwrap()))
    }

    #[test]
    fn a_parameter_is_found_by_its_whole_name_and_decoded() {
        for query in [
            "access_token=a.b.c",
            "x=1&access_token=a.b.c",
            "access_token=a.b.c&x=1",
            "x=access_token&access_token=a.b.c&&=&y",
            "xaccess_token=1&access_tokens=2&access_token=a.b.c",
            "access_token=%61.b%2Ec",
            "x=%zz&%zz=1&access_token=a.b.c",
        ] {
            assert_eq!(found(query), Ok(Some("a.b.c".into())), "{query}");
        }
        for none in ["", "x=1", "x=access_token", "access_token2=a", "token=a", "x;access_token=a"] {
            assert_eq!(found(none), Ok(None), "{none}");
        }
        assert_eq!(found("access_token=a%2Bb%3D"), Ok(Some("a+b=".into())));
    }

    #[test]
    fn what_could_be_read_in_two_ways_refuses_the_request() {
        for blurred in [
            "access_token=a&access_token=a",
            "access_token=a&access%5Ftoken=b",
            "access%5ftoken=b",
            "%61ccess_token=b",
            "+access_token=b",
            "access_token%20=b",
            "access_token",
            "access_token=a&access_token",
            "access_token=a+b",
            "access_token=a%2",
            "access_token=a%zz",
        ] {
            assert!(found(blurred).is_err(), "{blurred}");
        }
        let many = vec!["x=1"; MOST].join("&");
        assert_eq!(found(&many), Ok(None));
        assert!(found(&format!("{many}&access_token=a")).is_err());
    }

    #[test]
    fn a_parameter_leaves_and_every_other_byte_stays() {
        for (before, after) in [
            ("access_token=a", None),
            ("access_token=a&x=1", Some("x=1")),
            ("x=1&access_token=a", Some("x=1")),
            ("x=%2f&access_token=a&&y=+;&", Some("x=%2f&&y=+;&")),
            ("&access_token=a", Some("")),
            ("x=access_token", Some("x=access_token")),
        ] {
            assert_eq!(without(before, "access_token").as_deref(), after, "{before}");
        }
    }

    #[test]
    fn a_token_is_hidden_however_its_parameter_is_spelt() {
        let names = ["access_token".into(), "t".into()];
        for (query, shown) in [
            ("", ""),
            ("x=1&y", "x=1&y"),
            ("access_token=secret", "access_token=[redacted]"),
            ("x=1&access_token=secret&t=secret&y=2", "x=1&access_token=[redacted]&t=[redacted]&y=2"),
            ("access%5Ftoken=secret", "access%5Ftoken=[redacted]"),
            ("Access_Token=secret", "Access_Token=[redacted]"),
            ("+access_token%20=secret", "+access_token%20=[redacted]"),
            ("access_token=secret&access_token=secret", "access_token=[redacted]&access_token=[redacted]"),
            ("tt=1", "tt=1"),
        ] {
            assert_eq!(hide(query, &names), shown);
        }
        assert_eq!(hide("access_token=x", &[]), "access_token=x");
    }

    proptest! {
        #[test]
        fn a_token_that_was_found_is_gone_once_it_was_taken_out_and_is_never_recorded(
            query in "([tx]=?|%7[4-9]|[&=+s]){0,24}"
        ) {
            let shown = hide(&query, &["t".into()]).into_owned();
            if let Ok(Some(value)) = find(&query, "t") {
                let left = without(&query, "t").unwrap_or_default();
                prop_assert_eq!(find(&left, "t"), Ok(None), "{:?} {:?}", query, left);
                prop_assert!(left.len() < query.len());
                prop_assert!(value.is_empty() || shown.contains("t=[redacted]"), "{query:?} {shown:?}");
            }
            // However often it is there, and however it is spelt.
            for pair in shown.split('&').filter(|pair| !pair.ends_with("=[redacted]")) {
                let decoded = decode(&split(pair).0.replace('+', " ")).unwrap_or_default();
                prop_assert_ne!(decoded.trim_ascii(), b"t", "{:?} {:?}", query, shown);
            }
        }
    }

    #[test]
    fn a_name_has_one_spelling() {
        for good in ["access_token", "t", "a-b.c~"] {
            assert!(judge_name(good).is_ok(), "{good}");
        }
        for bad in ["", "a b", "a+b", "a%20", "a[]", "é", "a&b", &"x".repeat(129)] {
            assert!(judge_name(bad).is_err(), "{bad}");
        }
    }
}
