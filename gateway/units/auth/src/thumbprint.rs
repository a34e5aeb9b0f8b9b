//! The thumbprint of a key (RFC 7638): SHA-256 over its required members, in one spelling. It tells keys apart, is what a
//! token is bound to, and is what operators compare with what their issuer shows.

use aws_lc_rs::digest;
use serde_json::{Map, Value};

use crate::base64url;

/// A key's thumbprint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Thumbprint([u8; 32]);

impl Thumbprint {
    /// The thumbprint that `cnf.jkt` holds; none where it is no SHA-256 in strict base64url.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        digest_of(text).map(Self)
    }

    /// The thumbprint of a public key; the error says what is wrong with the key.
    pub(crate) fn of(jwk: &Map<String, Value>) -> Result<Self, &'static str> {
        let member = |name: &str| -> Result<&str, &'static str> {
            match jwk.get(name) {
                // Nothing in it needs an escape then, so that the spelling below is the only one.
                Some(Value::String(text)) if !text.is_empty() && text.bytes().all(is_plain) => Ok(text),
                _ => Err("a required member of the key is missing or is not base64url"),
            }
        };
        // Lexicographic order, no white space (RFC 7638 section 3.3).
        let json = match member("kty")? {
            "EC" => {
                let (crv, x, y) = (member("crv")?, member("x")?, member("y")?);
                format!(r#"{{"crv":"{crv}","kty":"EC","x":"{x}","y":"{y}"}}"#)
            }
            "OKP" => {
                let (crv, x) = (member("crv")?, member("x")?);
                format!(r#"{{"crv":"{crv}","kty":"OKP","x":"{x}"}}"#)
            }
            "RSA" => return Ok(Self::of_rsa_members(member("n")?, member("e")?)),
            _ => return Err("kty is not RSA, EC or OKP"),
        };
        Ok(Self::of_json(&json))
    }

    /// The thumbprint of an RSA key by its numbers, which have no leading zeros: however an issuer spelt them.
    pub(crate) fn of_rsa(n: &[u8], e: &[u8]) -> Self {
        Self::of_rsa_members(&base64url::encode(n), &base64url::encode(e))
    }

    fn of_rsa_members(n: &str, e: &str) -> Self {
        Self::of_json(&format!(r#"{{"e":"{e}","kty":"RSA","n":"{n}"}}"#))
    }

    fn of_json(json: &str) -> Self {
        let mut bytes = [0; 32];
        bytes.copy_from_slice(digest::digest(&digest::SHA256, json.as_bytes()).as_ref());
        Self(bytes)
    }

    pub(crate) fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// As JOSE writes it.
    pub(crate) fn encode(&self) -> String {
        base64url::encode(&self.0)
    }
}

/// A SHA-256 in strict base64url.
pub(crate) fn digest_of(text: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    // 43 characters: the decoder wants to know before it writes.
    let length = if text.len() == 43 { base64url::decode_slice(text.as_bytes(), &mut bytes).ok()?.len() } else { 0 };
    (length == 32).then_some(bytes)
}

/// A byte of base64url, of which names of curves and key types are made too.
fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_')
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]
    use super::*;
    use serde_json::json;

    fn of(jwk: Value) -> Result<String, &'static str> {
        let Value::Object(jwk) = jwk else { panic!("an object") };
        Thumbprint::of(&jwk).map(|print| print.encode())
    }

    #[test]
    fn the_example_of_rfc_7638_section_3_1() {
        let jwk = json!({
            "kty": "RSA",
            "n": concat!(
                "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhM",
                "stn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5",
                "hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw"
            ),
            "e": "AQAB", "alg": "RS256", "kid": "2011-04-29"
        });
        assert_eq!(of(jwk).unwrap(), "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs");
    }

    #[test]
    fn the_examples_of_rfc_8037_and_rfc_9449() {
        let okp = json!({"crv": "Ed25519", "kty": "OKP", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"});
        assert_eq!(of(okp).unwrap(), "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k");
        let ec = json!({"kty": "EC", "x": "l8tFrhx-34tV3hRICRDY9zCkDlpBhF42UQUfWVAWBFs",
                        "y": "9VE4jf_Ok_o64zbTTlcuNJajHmt6v9TDVrU0CdvGRDA", "crv": "P-256"});
        assert_eq!(of(ec).unwrap(), "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I");
    }

    #[test]
    fn a_key_that_has_no_one_spelling_has_no_thumbprint() {
        for bad in [
            json!({}),
            json!({"kty": "oct", "k": "AAAA"}),
            json!({"kty": "EC", "crv": "P-256", "x": "AA"}),
            json!({"kty": "EC", "crv": "P-256", "x": "AA", "y": "A\"A"}),
            json!({"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA=="}),
            json!({"kty": "EC", "crv": "P-256", "x": "AA", "y": 5}),
            json!({"kty": "RSA", "n": "", "e": "AQAB"}),
            json!({"kty": ["EC"]}),
        ] {
            assert!(of(bad.clone()).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_thumbprint_is_read_back_and_nothing_else_is_one() {
        let print = Thumbprint::parse("NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs").unwrap();
        assert_eq!(print.encode(), "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs");
        for bad in [
            "",
            "AA",
            "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs=",
            "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xt",
            "NzbLsXh8uDCcd+6MNwXF4W/7noWXFZAfHkxZsRGC9Xs",
        ] {
            assert_eq!(Thumbprint::parse(bad), None, "{bad}");
        }
    }
}
