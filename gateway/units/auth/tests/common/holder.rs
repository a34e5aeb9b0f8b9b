//! A client that has a key, and proves it (RFC 9449).

use std::sync::atomic::{AtomicU64, Ordering};

use aws_lc_rs::digest;
use serde_json::{Value, json};
use sluice_auth::Algorithm;

use super::{NOW, Signer, b64, without};

/// Where its requests go.
const URL: &str = "https://api.example.com:8443/orders/7";

pub fn sha256(bytes: impl AsRef<[u8]>) -> Vec<u8> {
    digest::digest(&digest::SHA256, bytes.as_ref()).as_ref().to_vec()
}

/// RFC 7638, written once more.
pub fn thumbprint(jwk: &Value) -> String {
    let text = |name: &str| jwk[name].as_str().unwrap();
    b64(sha256(match text("kty") {
        "RSA" => format!(r#"{{"e":"{}","kty":"RSA","n":"{}"}}"#, text("e"), text("n")),
        "EC" => format!(r#"{{"crv":"{}","kty":"EC","x":"{}","y":"{}"}}"#, text("crv"), text("x"), text("y")),
        _ => format!(r#"{{"crv":"{}","kty":"OKP","x":"{}"}}"#, text("crv"), text("x")),
    }))
}

/// A client that has a key.
pub struct Client {
    pub signer: Signer,
    made: AtomicU64,
}

impl Client {
    pub fn new(algorithm: Algorithm) -> Self {
        Self { signer: Signer::new("", algorithm), made: AtomicU64::new(0) }
    }

    pub fn jwk(&self) -> Value {
        without(self.signer.jwk(), "kid")
    }

    pub fn thumbprint(&self) -> String {
        thumbprint(&self.jwk())
    }

    pub fn header(&self) -> Value {
        json!({"typ": "dpop+jwt", "alg": self.signer.algorithm.name(), "jwk": self.jwk()})
    }

    /// Claims that are good for a GET of [`URL`] with `token`, with a `jti` of their own.
    pub fn claims(&self, token: &str) -> Value {
        let number = self.made.fetch_add(1, Ordering::Relaxed);
        json!({"jti": format!("proof-{number}"), "htm": "GET", "htu": URL, "iat": NOW, "ath": b64(sha256(token))})
    }

    pub fn sign(&self, header: &Value, claims: &Value) -> String {
        self.signer.sign_raw(header.to_string(), claims.to_string())
    }

    pub fn proof(&self, token: &str) -> String {
        self.sign(&self.header(), &self.claims(token))
    }
}
