//! The question to an introspection endpoint (RFC 7662 section 2.1), with the client's credentials (RFC 6749 section 2.3.1).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderValue, Method, Request};
use http_body_util::Full;
use sluice_vocabulary::secret::Secret;

use super::config::ClientMethod;

/// How every question of one client looks.
pub(crate) struct Question {
    authorization: Option<HeaderValue>,
    /// What follows the token in the body.
    rest: Secret,
}

impl Question {
    /// For the client `id`. None where the credentials cannot be sent, which validated ones can.
    pub(crate) fn new(id: &str, secret: &Secret, method: ClientMethod) -> Option<Self> {
        let (mut encoded_id, mut encoded_secret) = (Vec::new(), Vec::new());
        encode(id.as_bytes(), &mut encoded_id);
        encode(secret.expose(), &mut encoded_secret);
        let hint = b"&token_type_hint=access_token";
        match method {
            ClientMethod::Basic => {
                // Both are form-encoded before they are joined, so that a colon in either is none.
                let pair = [&encoded_id[..], b":", &encoded_secret].concat();
                let mut value = HeaderValue::try_from(format!("Basic {}", STANDARD.encode(pair))).ok()?;
                value.set_sensitive(true);
                Some(Self { authorization: Some(value), rest: Secret::new(&hint[..]) })
            }
            ClientMethod::Post => {
                let parts = [&hint[..], b"&client_id=", &encoded_id, b"&client_secret=", &encoded_secret];
                Some(Self { authorization: None, rest: Secret::new(parts.concat()) })
            }
        }
    }

    /// Asks about `token`.
    pub(crate) fn about(&self, token: &[u8]) -> Request<Full<Bytes>> {
        let mut body = b"token=".to_vec();
        encode(token, &mut body);
        body.extend_from_slice(self.rest.expose());
        let mut request = Request::new(Full::new(Bytes::from(body)));
        *request.method_mut() = Method::POST;
        let headers = request.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        if let Some(authorization) = &self.authorization {
            headers.insert(AUTHORIZATION, authorization.clone());
        }
        request
    }
}

impl std::fmt::Debug for Question {
    /// Without the credentials.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Question").finish_non_exhaustive()
    }
}

/// Appends `bytes` as `application/x-www-form-urlencoded` has them (RFC 6749 appendix B).
fn encode(bytes: &[u8], out: &mut Vec<u8>) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    for byte in bytes {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'*' | b'-' | b'.' | b'_' => out.push(*byte),
            b' ' => out.push(b'+'),
            _ => out.extend([b'%', DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use http_body_util::BodyExt as _;

    #[test]
    fn the_example_of_rfc_6749_appendix_b_is_encoded_as_it_says() {
        let mut out = Vec::new();
        encode(" %&+£€".as_bytes(), &mut out);
        assert_eq!(out, b"+%25%26%2B%C2%A3%E2%82%AC");
    }

    #[tokio::test]
    async fn credentials_go_where_the_method_says_and_nowhere_else() {
        let secret = Secret::new(*b"p:w %");
        let body = |request: Request<Full<Bytes>>| async { request.into_body().collect().await.unwrap().to_bytes() };

        let basic = Question::new("ed:ge", &secret, ClientMethod::Basic).unwrap().about(b"a+b/c=");
        let authorization = &basic.headers()[AUTHORIZATION];
        assert!(authorization.is_sensitive());
        let pair = STANDARD.decode(&authorization.as_bytes()[b"Basic ".len()..]).unwrap();
        assert_eq!(pair, b"ed%3Age:p%3Aw+%25");
        assert_eq!(body(basic).await, "token=a%2Bb%2Fc%3D&token_type_hint=access_token");

        let post = Question::new("ed:ge", &secret, ClientMethod::Post).unwrap().about(b"t");
        assert!(!post.headers().contains_key(AUTHORIZATION));
        let expected = "token=t&token_type_hint=access_token&client_id=ed%3Age&client_secret=p%3Aw+%25";
        assert_eq!(body(post).await, expected);
    }

    #[test]
    fn credentials_never_print() {
        let question = Question::new("edge", &Secret::new(*b"hunter2"), ClientMethod::Post).unwrap();
        assert_eq!(format!("{question:?}"), "Question { .. }");
    }
}
