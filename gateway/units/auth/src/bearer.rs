//! The token in `Authorization`: `Bearer` (RFC 6750 section 2.1) or `DPoP` (RFC 9449 section 7.1). Where else one may be,
//! [`crate::places`] says.

use http::HeaderMap;
use http::header::AUTHORIZATION;

use crate::binding::Scheme;

/// What a request has where a token should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Found<'r> {
    /// What follows the scheme. Whether it is a token at all is for [`is_token`] to say, where it cannot be read as one.
    Token(&'r [u8], Scheme),
    /// Nothing, or another scheme's credentials.
    Nothing,
    /// Credentials that break the grammar or are given twice.
    Malformed(&'static str),
}

/// Finds the token. The scheme is compared without case (RFC 9110 section 11.1).
pub(crate) fn find(headers: &HeaderMap) -> Found<'_> {
    let mut fields = headers.get_all(AUTHORIZATION).iter();
    let Some(field) = fields.next() else { return Found::Nothing };
    if fields.next().is_some() {
        // Which one counts is a matter of opinion; the upstream may hold the other.
        return Found::Malformed("more than one Authorization field");
    }
    let bytes = field.as_bytes();
    let length = bytes.iter().position(|byte| *byte == b' ').unwrap_or(bytes.len());
    let (scheme, rest) = bytes.split_at(length);
    let scheme = match scheme {
        _ if scheme.eq_ignore_ascii_case(b"bearer") => Scheme::Bearer,
        _ if scheme.eq_ignore_ascii_case(b"dpop") => Scheme::Dpop,
        _ => return Found::Nothing,
    };
    let spaces = rest.iter().take_while(|byte| **byte == b' ').count();
    match (&rest[spaces..], scheme) {
        (b"", Scheme::Bearer) => Found::Malformed("no token after Bearer"),
        (b"", Scheme::Dpop) => Found::Malformed("no token after DPoP"),
        (token, _) => Found::Token(token, scheme),
    }
}

/// Whether this is one `b64token`: `1*( ALPHA / DIGIT / "-" / "." / "_" / "~" / "+" / "/" ) *"="`.
pub(crate) fn is_token(token: &[u8]) -> bool {
    let end = token.iter().rposition(|byte| *byte != b'=').map_or(0, |last| last + 1);
    end > 0 && token[..end].iter().all(|byte| IN_B64TOKEN[usize::from(*byte)])
}

/// A table, since every byte of every token passes here.
static IN_B64TOKEN: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] =
            matches!(byte as u8, b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'+' | b'/');
        byte += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use http::HeaderValue;

    fn headers(values: &[&[u8]]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for value in values {
            map.append(AUTHORIZATION, HeaderValue::from_bytes(value).unwrap());
        }
        map
    }

    #[test]
    fn a_token_follows_the_scheme_in_any_case() {
        for value in ["Bearer a.b-c_d", "bearer a.b-c_d", "BEARER   a.b-c_d"] {
            assert_eq!(find(&headers(&[value.as_bytes()])), Found::Token(b"a.b-c_d", Scheme::Bearer), "{value}");
        }
        for value in ["DPoP a.b-c_d", "dpop a.b-c_d", "DPOP   a.b-c_d"] {
            assert_eq!(find(&headers(&[value.as_bytes()])), Found::Token(b"a.b-c_d", Scheme::Dpop), "{value}");
        }
        assert_eq!(find(&headers(&[b"Bearer aa=="])), Found::Token(b"aa==", Scheme::Bearer));
    }

    #[test]
    fn other_credentials_are_no_token() {
        assert_eq!(find(&HeaderMap::new()), Found::Nothing);
        for value in ["", "Basic dTpw", "Bear", "Bearertoken", "DPoPa.b.c", "Bearer2 a", "Bearer\ta"] {
            assert_eq!(find(&headers(&[value.as_bytes()])), Found::Nothing, "{value}");
        }
    }

    #[test]
    fn credentials_that_break_the_grammar_are_told_from_bad_tokens() {
        for value in ["Bearer", "Bearer ", "DPoP", "DPoP  "] {
            assert!(matches!(find(&headers(&[value.as_bytes()])), Found::Malformed(_)), "{value}");
        }
        assert!(matches!(find(&headers(&[b"Bearer a", b"Bearer a"])), Found::Malformed(_)));
        assert!(matches!(find(&headers(&[b"Basic a", b"Bearer a"])), Found::Malformed(_)));
        for bad in [&b""[..], b"a b", b"a,b", b"===", b"a=b", b"\xff", b"\ta", b"a\t", b"\"a\""] {
            assert!(!is_token(bad), "{bad:?}");
        }
        for good in [&b"a"[..], b"a.b-c_d~e+f/g", b"aa=="] {
            assert!(is_token(good), "{good:?}");
        }
    }
}
