//! A client that holds a key which its tokens are bound to, and proves so for every request (DPoP, RFC 9449).

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::digest;
use serde_json::{Value, json};

use crate::issuer::keys::base64url;
use crate::{Algorithm, SigningKey};

/// A key and the proofs made with it. Each proof has a `jti` of its own.
pub struct Holder {
    key: SigningKey,
    made: AtomicU64,
}

/// Makes a client with a new key on P-256.
#[must_use]
pub fn holder() -> Holder {
    Holder { key: SigningKey::generate(Algorithm::ES256, "", 0), made: AtomicU64::new(0) }
}

impl Holder {
    /// What a token names that is bound to this key: `cnf`, with the key's thumbprint (RFC 7638).
    #[must_use]
    pub fn confirmation(&self) -> Value {
        let jwk = self.key.public_jwk();
        // The required members in the order of their names, without blanks.
        let canonical = format!(r#"{{"crv":"P-256","kty":"EC","x":{},"y":{}}}"#, jwk["x"], jwk["y"]);
        json!({ "jkt": sha256(canonical) })
    }

    /// A proof for one request: its method, its URL without query, and the token that goes with it.
    #[must_use]
    pub fn proof(&self, method: &str, url: &str, token: &str) -> String {
        self.proof_with(method, url, token, &json!({}))
    }

    /// The same with these claims over the usual ones.
    #[must_use]
    pub fn proof_with(&self, method: &str, url: &str, token: &str, claims: &Value) -> String {
        let mut jwk = self.key.public_jwk();
        for name in ["kid", "use"] {
            jwk.as_object_mut().expect("a key is an object").shift_remove(name);
        }
        let header = json!({ "typ": "dpop+jwt", "alg": "ES256", "jwk": jwk });
        let number = self.made.fetch_add(1, Ordering::Relaxed);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970").as_secs();
        let mut all = json!({
            "jti": format!("{}-{number}", base64url(now.to_be_bytes())),
            "htm": method,
            "htu": url,
            "iat": now,
            "ath": sha256(token),
        });
        for (name, value) in claims.as_object().into_iter().flatten() {
            all[name] = value.clone();
        }
        let input = format!("{}.{}", base64url(header.to_string()), base64url(all.to_string()));
        format!("{input}.{}", base64url(self.key.sign(Algorithm::ES256, input.as_bytes())))
    }
}

pub(crate) fn sha256(bytes: impl AsRef<[u8]>) -> String {
    base64url(digest::digest(&digest::SHA256, bytes.as_ref()))
}
