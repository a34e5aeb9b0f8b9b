//! Tokens, good and bad.

use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::hmac;
use serde_json::{Map, Value, json};

use super::keys::{Algorithm, SigningKey, base64url};

/// A token in preparation. Until told otherwise it is one that its issuer would mint for the audience `edge`: RS256,
/// subject `user-1`, issued now, good for five minutes.
#[derive(Clone)]
pub struct TokenBuilder {
    keys: Vec<SigningKey>,
    algorithm: Algorithm,
    signer: Option<SigningKey>,
    header: Map<String, Value>,
    claims: Map<String, Value>,
}

impl TokenBuilder {
    pub(crate) fn new(issuer: &str, keys: Vec<SigningKey>) -> Self {
        let now = now();
        let claims = json!({
            "iss": issuer,
            "aud": "edge",
            "sub": "user-1",
            "iat": now,
            "exp": now + 300,
        });
        let Value::Object(claims) = claims else { unreachable!("an object was written") };
        Self { keys, algorithm: Algorithm::RS256, signer: None, header: Map::new(), claims }
    }

    /// Signs by this algorithm, with the issuer's key for it.
    #[must_use]
    pub fn algorithm(mut self, algorithm: Algorithm) -> Self {
        self.algorithm = algorithm;
        self
    }

    /// Signs with this key rather than with one of the issuer's; `kid` is that key's.
    #[must_use]
    pub fn signed_with(mut self, key: &SigningKey) -> Self {
        self.signer = Some(key.clone());
        self
    }

    /// `sub`.
    #[must_use]
    pub fn subject(self, subject: &str) -> Self {
        self.claim("sub", subject)
    }

    /// `iss`, instead of the issuer's own.
    #[must_use]
    pub fn issued_by(self, issuer: &str) -> Self {
        self.claim("iss", issuer)
    }

    /// `aud` as a string.
    #[must_use]
    pub fn audience(self, audience: &str) -> Self {
        self.claim("aud", audience)
    }

    /// `aud` as a list.
    #[must_use]
    pub fn audiences(self, audiences: &[&str]) -> Self {
        self.claim("aud", json!(audiences))
    }

    /// `scope`, joined by spaces as RFC 8693 has it.
    #[must_use]
    pub fn scopes(self, scopes: &[&str]) -> Self {
        self.claim("scope", scopes.join(" "))
    }

    /// `tenant`.
    #[must_use]
    pub fn tenant(self, tenant: &str) -> Self {
        self.claim("tenant", tenant)
    }

    /// `exp`, this many seconds from now; negative for a token that has expired.
    #[must_use]
    pub fn expires_in(self, seconds: i64) -> Self {
        self.claim("exp", now() + seconds)
    }

    /// `nbf`, this many seconds from now.
    #[must_use]
    pub fn not_before_in(self, seconds: i64) -> Self {
        self.claim("nbf", now() + seconds)
    }

    /// Any claim.
    #[must_use]
    pub fn claim(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.claims.insert(name.to_owned(), value.into());
        self
    }

    /// Leaves a claim out.
    #[must_use]
    pub fn without(mut self, name: &str) -> Self {
        self.claims.shift_remove(name);
        self
    }

    /// Any header member, over the usual ones; `null` leaves one out.
    #[must_use]
    pub fn header(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.header.insert(name.to_owned(), value.into());
        self
    }

    /// Names this key identifier, whatever key signs.
    #[must_use]
    pub fn kid(self, kid: &str) -> Self {
        self.header("kid", kid)
    }

    /// The token, properly signed.
    #[must_use]
    pub fn sign(&self) -> String {
        let signer = self.signer();
        let input = self.signing_input(self.algorithm.name(), Some(signer.kid()));
        let signature = signer.sign(self.algorithm, input.as_bytes());
        format!("{input}.{}", base64url(signature))
    }

    /// The token with one bit of its signature turned.
    #[must_use]
    pub fn forged(&self) -> String {
        let signer = self.signer();
        let input = self.signing_input(self.algorithm.name(), Some(signer.kid()));
        let mut signature = signer.sign(self.algorithm, input.as_bytes());
        let middle = signature.len() / 2;
        signature[middle] ^= 1;
        format!("{input}.{}", base64url(signature))
    }

    /// The token signed, and then given another subject.
    #[must_use]
    pub fn tampered(&self) -> String {
        let signed = self.sign();
        let (head, rest) = signed.split_once('.').expect("a token of three parts");
        let (_, signature) = rest.split_once('.').expect("a token of three parts");
        let mut claims = self.claims.clone();
        claims.insert("sub".to_owned(), "administrator".into());
        format!("{head}.{}.{signature}", base64url(Value::Object(claims).to_string()))
    }

    /// The token signed by a stranger's key of the same kind, under the issuer's `kid`.
    #[must_use]
    pub fn signed_by_stranger(&self) -> String {
        /// Far from the generations that rotation reaches.
        const STRANGER: usize = 3;
        let own = self.signer();
        let stranger = SigningKey::generate(self.algorithm, own.kid(), STRANGER);
        self.clone().signed_with(&stranger).sign()
    }

    /// `alg: none` with an empty signature.
    #[must_use]
    pub fn unsigned(&self) -> String {
        format!("{}.", self.signing_input("none", Some(self.signer().kid())))
    }

    /// `alg: HS256` with the issuer's public key as the secret: the classic confusion of algorithms.
    #[must_use]
    pub fn confused(&self) -> String {
        let signer = self.signer();
        let input = self.signing_input("HS256", Some(signer.kid()));
        let secret = hmac::Key::new(hmac::HMAC_SHA256, &signer.public_der());
        format!("{input}.{}", base64url(hmac::sign(&secret, input.as_bytes())))
    }

    /// Signs these bytes as the payload, in place of the claims: not JSON, doubled members, whatever a test needs.
    #[must_use]
    pub fn sign_payload(&self, payload: &[u8]) -> String {
        let signer = self.signer();
        let input =
            format!("{}.{}", self.encoded_header(self.algorithm.name(), Some(signer.kid())), base64url(payload));
        let signature = signer.sign(self.algorithm, input.as_bytes());
        format!("{input}.{}", base64url(signature))
    }

    fn signer(&self) -> &SigningKey {
        self.signer
            .as_ref()
            .or_else(|| self.keys.iter().find(|key| key.fits(self.algorithm)))
            .unwrap_or_else(|| panic!("the issuer has no key for {}", self.algorithm.name()))
    }

    fn signing_input(&self, algorithm: &str, kid: Option<&str>) -> String {
        let claims = Value::Object(self.claims.clone()).to_string();
        format!("{}.{}", self.encoded_header(algorithm, kid), base64url(claims))
    }

    fn encoded_header(&self, algorithm: &str, kid: Option<&str>) -> String {
        let mut header = Map::new();
        header.insert("alg".to_owned(), algorithm.into());
        header.insert("typ".to_owned(), "JWT".into());
        if let Some(kid) = kid {
            header.insert("kid".to_owned(), kid.into());
        }
        for (name, value) in &self.header {
            if value.is_null() {
                header.shift_remove(name);
            } else {
                header.insert(name.clone(), value.clone());
            }
        }
        base64url(Value::Object(header).to_string())
    }
}

/// Seconds since the epoch.
fn now() -> i64 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock past 1970");
    i64::try_from(since_epoch.as_secs()).expect("a clock before the year 292 billion")
}
