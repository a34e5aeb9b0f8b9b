//! The demo's token issuer: keys made at start, a key set to fetch, and tokens good and bad.

use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::rsa::{KeyPair, KeySize};
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};
use sluice_vocabulary::clock::{Clock, SystemClock};

use crate::cli::token::key_set;

/// The demo issuer's `iss`.
pub(super) const ISSUER: &str = "https://issuer.demo.sluice";
/// The audience that the demo's gateway is.
pub(super) const AUDIENCE: &str = "edge";

/// Holds the private keys, for the life of the process.
pub(super) struct Issuer {
    rsa: EncodingKey,
    elliptic: EncodingKey,
    /// A key that the issuer never published: what a forger has.
    forger: EncodingKey,
}

/// What a token is to say; the rest is as it should be.
#[derive(Clone, Copy)]
pub(super) struct Claims<'a> {
    pub(super) subject: &'a str,
    pub(super) tenant: &'a str,
    pub(super) scope: &'a str,
    pub(super) audience: &'a str,
    /// Seconds from now; negative is past.
    pub(super) expires_in: i64,
}

impl Issuer {
    /// Makes fresh keys.
    pub(super) fn new() -> Result<Self, String> {
        Ok(Self { rsa: fresh_rsa()?, elliptic: fresh_p256()?, forger: fresh_rsa()? })
    }

    /// The key set that is published: one RSA key, one P-256 key.
    pub(super) fn key_set(&self) -> Result<Value, String> {
        let mut keys = Vec::new();
        for (key, algorithm, kid) in
            [(&self.rsa, Algorithm::RS256, "demo-rsa"), (&self.elliptic, Algorithm::ES256, "demo-ec")]
        {
            if let Value::Array(one) = key_set(key, algorithm, kid)?["keys"].take() {
                keys.extend(one);
            }
        }
        Ok(json!({ "keys": keys }))
    }

    /// A token signed by the RSA key.
    pub(super) fn rs256(&self, claims: Claims<'_>) -> Result<String, String> {
        sign(&self.rsa, Algorithm::RS256, "demo-rsa", claims)
    }

    /// A token signed by the P-256 key.
    pub(super) fn es256(&self, claims: Claims<'_>) -> Result<String, String> {
        sign(&self.elliptic, Algorithm::ES256, "demo-ec", claims)
    }

    /// A token that claims the issuer's RSA key and was signed by another.
    pub(super) fn forged(&self, claims: Claims<'_>) -> Result<String, String> {
        sign(&self.forger, Algorithm::RS256, "demo-rsa", claims)
    }

    /// A token that asks not to be checked: `alg: none` and no signature.
    pub(super) fn unsigned(claims: Claims<'_>) -> String {
        let header = URL_SAFE_NO_PAD.encode(json!({ "alg": "none", "typ": "JWT" }).to_string());
        let body = URL_SAFE_NO_PAD.encode(body(claims).to_string());
        format!("{header}.{body}.")
    }
}

fn fresh_rsa() -> Result<EncodingKey, String> {
    let pair = KeyPair::generate(KeySize::Rsa2048).map_err(|e| format!("no RSA key could be made: {e}"))?;
    let pkcs8 = pair.as_der().map_err(|e| format!("the RSA key cannot be encoded: {e}"))?;
    let pem = pem("PRIVATE KEY", pkcs8.as_ref());
    EncodingKey::from_rsa_pem(pem.as_bytes()).map_err(|e| format!("the RSA key cannot be used: {e}"))
}

fn fresh_p256() -> Result<EncodingKey, String> {
    let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING)
        .map_err(|e| format!("no P-256 key could be made: {e}"))?;
    let pkcs8 = pair.to_pkcs8v1().map_err(|e| format!("the P-256 key cannot be encoded: {e}"))?;
    Ok(EncodingKey::from_ec_der(pkcs8.as_ref()))
}

fn pem(label: &str, der: &[u8]) -> String {
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let mut out = format!("-----BEGIN {label}-----\n");
    for line in text.as_bytes().chunks(64) {
        out.push_str(&String::from_utf8_lossy(line));
        out.push('\n');
    }
    out.push_str(&format!("-----END {label}-----\n"));
    out
}

fn body(claims: Claims<'_>) -> Value {
    let now = SystemClock.unix_seconds();
    json!({
        "iss": ISSUER,
        "sub": claims.subject,
        "aud": claims.audience,
        "iat": now,
        "exp": now.saturating_add_signed(claims.expires_in),
        "scope": claims.scope,
        "tenant": claims.tenant,
    })
}

fn sign(key: &EncodingKey, algorithm: Algorithm, kid: &str, claims: Claims<'_>) -> Result<String, String> {
    let header = Header { kid: Some(kid.to_owned()), ..Header::new(algorithm) };
    jsonwebtoken::encode(&header, &body(claims), key).map_err(|e| format!("the token cannot be signed: {e}"))
}
