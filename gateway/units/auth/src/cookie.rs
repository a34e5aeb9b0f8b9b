//! One cookie among a request's (RFC 6265 section 4.2): found so that no two readers can differ on it, and taken out without
//! another byte being touched.
//!
//! Cookies that are not the one looked for are let be, however they are written: they are somebody else's. What a lenient
//! reader could take for the one looked for, and a strict one not, refuses the request.

use http::header::COOKIE;
use http::{HeaderMap, HeaderValue};

/// The most cookies looked at.
const MOST: usize = 512;

/// The value of the cookie `name`. The error says why there is not one reading of it.
pub(crate) fn find<'r>(headers: &'r HeaderMap, name: &str) -> Result<Option<&'r [u8]>, &'static str> {
    let mut found = None;
    let mut count = 0;
    for field in headers.get_all(COOKIE) {
        for pair in field.as_bytes().split(|byte| *byte == b';') {
            count += 1;
            if count > MOST {
                return Err("more than 512 cookies");
            }
            match read(pair, name) {
                Reading::Other => {}
                Reading::Value(_) if found.is_some() => return Err("more than one cookie of the token's name"),
                Reading::Value(value) => found = Some(value),
                Reading::Blurred => return Err("a cookie that some take for the token's and some do not"),
            }
        }
    }
    Ok(found)
}

/// The field `value` without the cookie `name`, all else as it was; `None` where nothing is left.
pub(crate) fn without(field: &HeaderValue, name: &str) -> Option<HeaderValue> {
    let bytes = field.as_bytes();
    let mut start = 0;
    for pair in bytes.split(|byte| *byte == b';') {
        let end = start + pair.len();
        if !matches!(read(pair, name), Reading::Value(_)) {
            start = end + 1;
            continue;
        }
        // The first of several takes the separator behind it along, every other the one before it.
        let (kept, rest) = match (start, bytes.get(end + 1..)) {
            (0, None) => return None,
            (0, Some(rest)) => (&bytes[..0], rest.strip_prefix(b" ").unwrap_or(rest)),
            (_, _) => (&bytes[..start - 1], &bytes[end..]),
        };
        // Parts of a field's value are one too.
        return HeaderValue::from_bytes(&[kept, rest].concat()).ok();
    }
    Some(field.clone())
}

enum Reading<'c> {
    Other,
    Value(&'c [u8]),
    Blurred,
}

/// Reads one pair, as it stands between semicolons.
fn read<'c>(pair: &'c [u8], name: &str) -> Reading<'c> {
    let pair = pair.strip_prefix(b" ").unwrap_or(pair);
    let (own, value) = match memchr::memchr(b'=', pair) {
        Some(at) => (&pair[..at], Some(&pair[at + 1..])),
        None => (pair, None),
    };
    match value {
        Some(value) if own == name.as_bytes() => Reading::Value(value),
        _ if own.trim_ascii() == name.as_bytes() => Reading::Blurred,
        _ => Reading::Other,
    }
}

/// Why `name` is not a cookie's name (a `token` of RFC 9110 section 5.6.2), if it is not.
pub(crate) fn judge_name(name: &str) -> Result<(), String> {
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    if (1..=128).contains(&name.len()) && name.bytes().all(is_token) {
        Ok(())
    } else {
        Err(format!("{name:?} is not a cookie's name: expected 1 to 128 letters, digits and marks such as - and _"))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use proptest::prelude::*;

    fn headers(fields: &[&str]) -> HeaderMap {
        fields.iter().map(|field| (COOKIE, HeaderValue::from_str(field).unwrap())).collect()
    }

    #[test]
    fn a_cookie_is_found_by_its_whole_name_among_whatever_else_there_is() {
        for fields in [
            &["t=a.b.c"][..],
            &["x=1; t=a.b.c"],
            &["t=a.b.c; x=1"],
            &["x=1; t=a.b.c; y=2"],
            &["x=1;t=a.b.c;y=2"],
            &["x=1", "t=a.b.c"],
            &["T=no; tt=no; xt=no; t2=no; t=a.b.c"],
            &["x={\"a\": 1, \"b\": [\"t\"]}; t=a.b.c; ; =; y"],
            &["x=t; t=a.b.c"],
        ] {
            assert_eq!(find(&headers(fields), "t"), Ok(Some(&b"a.b.c"[..])), "{fields:?}");
        }
        for none in [&[][..], &[""], &["x=1"], &["tt=1"], &["x=t"], &["x= t=1"]] {
            assert_eq!(find(&headers(none), "t"), Ok(None), "{none:?}");
        }
        assert_eq!(find(&headers(&["t=a=b"]), "t"), Ok(Some(&b"a=b"[..])), "a value goes on to the semicolon");
    }

    #[test]
    fn what_could_be_read_in_two_ways_refuses_the_request() {
        for blurred in [
            &["t=a; t=a"][..],
            &["t=a", "t=b"],
            &["t=; t=b"],
            &["t=a; t"],
            &["t"],
            &["t =a"],
            &["  t=a"],
            &["x=1;\tt=a"],
            &["t=a; t =b"],
        ] {
            assert!(find(&headers(blurred), "t").is_err(), "{blurred:?}");
        }
        let many = vec!["x=1"; MOST].join("; ");
        assert_eq!(find(&headers(&[&many]), "t"), Ok(None));
        assert!(find(&headers(&[&format!("{many}; t=a")]), "t").is_err());
    }

    #[test]
    fn a_cookie_leaves_and_every_other_byte_stays() {
        for (before, after) in [
            ("t=a", None),
            ("t=a; x=1", Some("x=1")),
            ("t=a;x=1", Some("x=1")),
            ("x=1; t=a", Some("x=1")),
            ("x=1;t=a", Some("x=1")),
            ("x=1; t=a; y=2", Some("x=1; y=2")),
            ("x=1;t=a;  y=\"2\" ;", Some("x=1;  y=\"2\" ;")),
            ("x=1; tt=a", Some("x=1; tt=a")),
            (";t=a", Some("")),
            ("x=t=a", Some("x=t=a")),
        ] {
            let left = without(&HeaderValue::from_str(before).unwrap(), "t");
            assert_eq!(left.as_ref().map(|left| left.to_str().unwrap()), after, "{before}");
        }
    }

    proptest! {
        #[test]
        fn a_cookie_that_was_found_is_gone_once_it_was_taken_out_and_the_others_are_not(
            field in r#"([tx ][=t]?|[; ="\t]){0,24}"#
        ) {
            let before = headers(&[&field]);
            if let Ok(Some(value)) = find(&before, "t") {
                let left = without(&before[COOKIE], "t");
                let after: HeaderMap = left.iter().map(|left| (COOKIE, left.clone())).collect();
                prop_assert_eq!(find(&after, "t"), Ok(None));
                let left = left.as_ref().map_or("", |left| left.to_str().unwrap());
                // What left is the cookie and the separators around it.
                let gone = field.len() - left.len();
                prop_assert!((value.len() + 2..=value.len() + 5).contains(&gone), "{field:?} {left:?}");
            }
        }
    }

    #[test]
    fn a_name_is_what_rfc_6265_takes() {
        for good in ["t", "access_token", "__Host-token", "a.b", "a~!"] {
            assert!(judge_name(good).is_ok(), "{good}");
        }
        for bad in ["", "a b", "a=b", "a;b", "a,b", "\"a\"", "é", &"x".repeat(129)] {
            assert!(judge_name(bad).is_err(), "{bad}");
        }
    }
}
