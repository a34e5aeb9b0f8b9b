//! A compact JWS (RFC 7515 section 7.1), taken apart once and strictly.
//!
//! [`Compact`] splits and bounds; [`Header`] reads the few members that matter. `crit` and `b64` are refused whatever
//! they hold, since no extension is understood here (RFC 7515 section 4.1.11, RFC 7797). Keys that a token brings along
//! (`jwk`, `jku`, `x5u`, `x5c`) are well-formed or the header is refused, and are never looked at: a token does not
//! choose who may have signed it.

use std::borrow::Cow;

use crate::algorithm::Alg;
use crate::base64url;
use crate::error::{Part, TokenFault};
use crate::scan::{self, Item};
use crate::strict_json;

/// The longest signature taken: RSA with 8192 bits.
pub(crate) const MAX_SIGNATURE: usize = 1024;

/// The longest header taken, encoded. Real ones have under 200 bytes; the rest is somebody's certificate chain.
const MAX_HEADER: usize = 8 * 1024;

/// The most members a header may have. Claims are bounded by the token's size alone.
const MAX_MEMBERS: usize = 32;

/// A token's three parts, still encoded.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Compact<'t> {
    pub(crate) header: &'t [u8],
    pub(crate) payload: &'t [u8],
    pub(crate) signature: &'t [u8],
    /// What is signed: header, dot, payload, as sent.
    pub(crate) signed: &'t [u8],
}

impl<'t> Compact<'t> {
    /// Splits `token`, of at most `longest` bytes.
    pub(crate) fn split(token: &'t [u8], longest: usize) -> Result<Self, TokenFault> {
        if token.len() > longest {
            return Err(TokenFault::TooLong { found: token.len(), most: longest });
        }
        let mut dots = memchr::memchr_iter(b'.', token);
        // Five parts are an encrypted token (RFC 7516), two an unsecured one with its end cut off; neither is ours.
        let (Some(first), Some(second), None) = (dots.next(), dots.next(), dots.next()) else {
            return Err(TokenFault::NotThreeParts);
        };
        let header = &token[..first];
        if header.len() > MAX_HEADER {
            return Err(TokenFault::TooLong { found: header.len(), most: MAX_HEADER });
        }
        Ok(Self {
            header,
            payload: &token[first + 1..second],
            signature: &token[second + 1..],
            signed: &token[..second],
        })
    }

    /// Decodes the signature into `room`.
    pub(crate) fn decode_signature<'r>(&self, room: &'r mut [u8; MAX_SIGNATURE]) -> Result<&'r [u8], TokenFault> {
        base64url::decode_slice(self.signature, room).map_err(|_| TokenFault::Encoding(Part::Signature))
    }
}

/// What a header says that a verifier needs.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Header<'h> {
    pub(crate) algorithm: Alg,
    pub(crate) kid: Option<Cow<'h, str>>,
    /// Its `typ`, as it is written.
    pub(crate) typ: Option<Cow<'h, str>>,
    /// Whether its `typ` says that it is an access token (RFC 9068 section 2.1), and not a JWT of any kind.
    pub(crate) is_at_jwt: bool,
}

impl<'h> Header<'h> {
    /// Reads a decoded header.
    pub(crate) fn parse(json: &'h [u8]) -> Result<Self, TokenFault> {
        let mut alg = None;
        let mut kid = None;
        let mut typ = None;
        let mut critical = None;
        let mut count = 0;
        let bad = |bad| TokenFault::Json(Part::Header, bad);
        scan::members(strict_json::text(json).map_err(bad)?, |name, item| {
            match (&*name.content, item) {
                ("alg", Item::Text(text)) => alg = Some(text.content),
                ("kid", Item::Text(text)) => kid = Some(text.content),
                ("typ", Item::Text(text)) => typ = Some(text.content),
                ("alg" | "kid" | "typ", Item::Other { .. }) => return Err("alg, kid and typ are strings"),
                ("crit", _) => critical = Some("crit"),
                ("b64", _) => critical = Some("b64"),
                _ => {}
            }
            count += 1;
            if count > MAX_MEMBERS { Err("more than 32 members") } else { Ok(()) }
        })
        .map_err(bad)?;

        if let Some(name) = critical {
            return Err(TokenFault::Critical(name));
        }
        let alg = alg.ok_or(TokenFault::NoAlgorithm)?;
        let Some(algorithm) = Alg::by_name(&alg) else {
            // Any spelling: so that the attempt has its own name in the log.
            return Err(if alg.eq_ignore_ascii_case("none") {
                TokenFault::Unsecured
            } else {
                TokenFault::AlgorithmUnknown
            });
        };
        let is_at_jwt = match typ.as_deref().map(short_type) {
            None => false,
            Some(typ) if typ.eq_ignore_ascii_case("JWT") => false,
            Some(typ) if typ.eq_ignore_ascii_case("at+jwt") => true,
            // Other kinds of JWT, such as DPoP proofs and logout tokens, name themselves and are no credentials.
            Some(_) => return Err(TokenFault::WrongType),
        };
        Ok(Self { algorithm, kid, typ, is_at_jwt })
    }
}

/// A media type without the prefix that may be left out (RFC 7515 section 4.1.9).
fn short_type(typ: &str) -> &str {
    let prefix = "application/";
    match typ.get(..prefix.len()) {
        Some(start) if start.eq_ignore_ascii_case(prefix) => &typ[prefix.len()..],
        _ => typ,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn a_compact_token_has_exactly_three_parts() {
        let token = Compact::split(b"a.b.c", 10).unwrap();
        assert_eq!(
            (token.header, token.payload, token.signature, token.signed),
            (&b"a"[..], &b"b"[..], &b"c"[..], &b"a.b"[..])
        );
        for bad in ["", "a", "a.b", "a.b.c.d", "a.b.c.d.e"] {
            assert_eq!(Compact::split(bad.as_bytes(), 10).unwrap_err(), TokenFault::NotThreeParts, "{bad}");
        }
        assert!(matches!(Compact::split(b"a.b.c", 4), Err(TokenFault::TooLong { found: 5, most: 4 })));
    }

    #[test]
    fn a_header_that_brings_its_own_key_gains_nothing_by_it() {
        let plain = Header::parse(br#"{"alg":"RS256","kid":"k"}"#).unwrap();
        let laden =
            br#"{"alg":"RS256","kid":"k","jwk":{"kty":"RSA"},"jku":"https://evil","x5u":"https://evil","x5c":["MII"]}"#;
        assert_eq!(Header::parse(laden).unwrap(), plain);
    }

    #[test]
    fn what_a_header_must_not_say() {
        use TokenFault as F;
        type Expected = fn(&F) -> bool;
        let cases: &[(&str, Expected)] = &[
            ("{}", |f| *f == F::NoAlgorithm),
            (r#"{"alg":"none"}"#, |f| *f == F::Unsecured),
            (r#"{"alg":"nOnE"}"#, |f| *f == F::Unsecured),
            (r#"{"alg":"hs256"}"#, |f| *f == F::AlgorithmUnknown),
            (r#"{"alg":"rs256"}"#, |f| *f == F::AlgorithmUnknown),
            (r#"{"alg":"RS256","crit":["exp"]}"#, |f| *f == F::Critical("crit")),
            (r#"{"alg":"RS256","crit":[]}"#, |f| *f == F::Critical("crit")),
            (r#"{"alg":"RS256","b64":true}"#, |f| *f == F::Critical("b64")),
            (r#"{"alg":"RS256","typ":"dpop+jwt"}"#, |f| *f == F::WrongType),
            (r#"{"alg":"RS256","typ":"logout+jwt"}"#, |f| *f == F::WrongType),
            (r#"{"alg":["RS256"]}"#, |f| matches!(f, F::Json(..))),
            (r#"{"alg":"RS256","kid":7}"#, |f| matches!(f, F::Json(..))),
            (r#"{"alg":"RS256","alg":"none"}"#, |f| matches!(f, F::Json(..))),
        ];
        for (header, expected) in cases {
            let fault = Header::parse(header.as_bytes()).unwrap_err();
            assert!(expected(&fault), "{header}: {fault:?}");
        }
    }

    #[test]
    fn the_types_of_access_tokens_are_read_in_any_case() {
        let parse = |typ: &str| {
            let header = serde_json::json!({"alg": "RS256", "typ": typ}).to_string();
            Header::parse(header.as_bytes()).map(|header| header.is_at_jwt)
        };
        for typ in ["JWT", "jwt", "Application/JWT"] {
            assert_eq!(parse(typ), Ok(false), "{typ}");
        }
        for typ in ["at+jwt", "AT+JWT", "application/at+jwt", "APPLICATION/At+Jwt"] {
            assert_eq!(parse(typ), Ok(true), "{typ}");
        }
        for typ in ["", "JOSE", "id+jwt", "application/", "application", "JWTX", "at+jwt ", "text/at+jwt", "äääääääjwt"]
        {
            assert_eq!(parse(typ), Err(TokenFault::WrongType), "{typ}");
        }
        assert_eq!(Header::parse(br#"{"alg":"RS256"}"#).map(|header| header.is_at_jwt), Ok(false));
    }
}
