//! What is asked about a token: a JSON object, read so that no fault found in it quotes what may be a token.

use std::net::IpAddr;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderName, HeaderValue};
use serde_json::{Map, Value};
use sluice_routing::Question;

/// A request, with the token in it where there is one.
pub(crate) struct TokenQuestion {
    pub(crate) request: Question,
}

impl TokenQuestion {
    /// Reads `{"token", "request", "headers", "client", "certificate"}`, of which `request` alone must be there:
    /// - `request`: the method and the URL, as in `GET https://host/path`;
    /// - `token`: goes into `Authorization`, by the scheme DPoP where `headers` has a proof, else by Bearer; it may also have
    ///   its scheme before it;
    /// - `headers`: further fields, each a text or a list of texts;
    /// - `client`: the client's IP address, 127.0.0.1 by default;
    /// - `certificate`: the SHA-256 of the certificate that the client's connection showed, in hexadecimal or base64url.
    ///
    /// The error says what is wrong and quotes nothing.
    pub(crate) fn read(json: &[u8]) -> Result<Self, String> {
        let Ok(Value::Object(members)) = serde_json::from_slice::<Value>(json) else {
            return Err("the body is not a JSON object".to_owned());
        };
        if members.keys().any(|name| !["token", "request", "headers", "client", "certificate"].contains(&name.as_str()))
        {
            return Err("a member is not known: expected token, request, headers, client, certificate".to_owned());
        }
        let text =
            text(&members, "request")?.ok_or("there is no request: expected the form 'GET https://host/path'")?;
        let request = Question::parse(text);
        let mut request = request.map_err(|_| "request is not of the form 'GET https://host/path'")?;
        request.headers = headers(&members)?;
        if let Some(client) = self::text(&members, "client")? {
            request.client = client.parse::<IpAddr>().map_err(|_| "client is not an IP address")?;
        }
        if let Some(certificate) = self::text(&members, "certificate")? {
            let digest = digest(certificate).ok_or("certificate is not a SHA-256 in hexadecimal or base64url")?;
            request = request.with_certificate(digest);
        }
        if let Some(token) = self::text(&members, "token")? {
            if request.headers.contains_key(AUTHORIZATION) {
                return Err("there are a token and an Authorization in headers: expected one of them".to_owned());
            }
            let field = credentials(token, request.headers.contains_key("dpop"))?;
            request.headers.insert(AUTHORIZATION, field);
        }
        Ok(Self { request })
    }
}

fn text<'m>(members: &'m Map<String, Value>, name: &str) -> Result<Option<&'m str>, String> {
    match members.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(format!("{name} is not a text")),
    }
}

fn headers(members: &Map<String, Value>) -> Result<HeaderMap, &'static str> {
    let fields = match members.get("headers") {
        None | Some(Value::Null) => return Ok(HeaderMap::new()),
        Some(Value::Object(fields)) => fields,
        Some(_) => return Err("headers is not an object of names and texts"),
    };
    let mut headers = HeaderMap::new();
    for (name, values) in fields {
        let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| "a name in headers is not one of a field")?;
        let values = match values {
            Value::Array(values) => values.as_slice(),
            one => std::slice::from_ref(one),
        };
        for value in values {
            let value = value.as_str().ok_or("a value in headers is neither a text nor a list of texts")?;
            let value =
                HeaderValue::from_str(value).map_err(|_| "a value in headers is not one that a field can have")?;
            headers.try_append(&name, value).map_err(|_| "headers has too many fields")?;
        }
    }
    Ok(headers)
}

/// `Authorization` for a token, which may have its scheme with it.
fn credentials(token: &str, has_proof: bool) -> Result<HeaderValue, &'static str> {
    let token = token.trim();
    let scheme = token.split_once(' ').map(|(scheme, _)| scheme);
    let has_scheme =
        scheme.is_some_and(|scheme| ["bearer", "dpop"].iter().any(|known| scheme.eq_ignore_ascii_case(known)));
    let text = match (has_scheme, has_proof) {
        (true, _) => token.to_owned(),
        (false, true) => format!("DPoP {token}"),
        (false, false) => format!("Bearer {token}"),
    };
    let mut field = HeaderValue::try_from(text).map_err(|_| "token has characters that no header field can have")?;
    field.set_sensitive(true);
    Ok(field)
}

fn digest(text: &str) -> Option<[u8; 32]> {
    let bytes = match text.len() {
        64 if text.is_ascii() => {
            let pairs = (0..64).step_by(2).map(|at| u8::from_str_radix(text.get(at..at + 2)?, 16).ok());
            pairs.collect::<Option<Vec<_>>>()?
        }
        _ => URL_SAFE_NO_PAD.decode(text).ok()?,
    };
    bytes.try_into().ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]
    use super::*;
    use serde_json::json;

    fn read(question: Value) -> Result<TokenQuestion, String> {
        TokenQuestion::read(question.to_string().as_bytes())
    }

    fn authorization(question: Value) -> String {
        let headers = read(question).unwrap_or_else(|why| panic!("{why}")).request.headers;
        assert!(headers[AUTHORIZATION].is_sensitive());
        headers[AUTHORIZATION].to_str().unwrap().to_owned()
    }

    #[test]
    fn a_token_goes_where_a_client_would_put_it() {
        let request = "GET https://api.example.com/";
        assert_eq!(authorization(json!({"request": request, "token": " a.b.c\n"})), "Bearer a.b.c");
        assert_eq!(authorization(json!({"request": request, "token": "bearer a.b.c"})), "bearer a.b.c");
        let bound = json!({"request": request, "token": "a.b.c", "headers": {"DPoP": "d.e.f"}});
        assert_eq!(authorization(bound), "DPoP a.b.c");
        assert_eq!(authorization(json!({"request": request, "token": "DPoP a.b.c"})), "DPoP a.b.c");
        assert!(read(json!({"request": request})).is_ok_and(|question| question.request.headers.is_empty()));
    }

    #[test]
    fn all_of_the_request_is_as_it_was_asked() {
        let asked = json!({
            "request": "POST https://API.example.com:8443/a?b=c",
            "headers": {"x-one": "1", "x-two": ["2", "3"]},
            "client": "2001:db8::1",
            "certificate": "00".repeat(32),
        });
        let request = read(asked).unwrap_or_else(|why| panic!("{why}")).request;
        let view = request.view();
        assert_eq!((view.host, view.port, view.path, view.query), ("api.example.com", Some(8443), "/a", Some("b=c")));
        assert_eq!(view.client, "2001:db8::1".parse::<IpAddr>().unwrap());
        assert_eq!(view.headers.get_all("x-two").iter().count(), 2);
        assert_eq!(view.connection.tls.as_ref().unwrap().client_certificate_sha256, Some([0; 32]));
    }

    #[test]
    fn what_is_wrong_with_a_question_is_told_and_nothing_of_it_quoted() {
        let secret = "eyJhbGciOiJub25lIn0.e30.";
        let request = "GET https://api.example.com/";
        for bad in [
            json!(secret),
            json!([secret]),
            json!({"token": secret}),
            json!({"token": secret, "request": secret}),
            json!({"token": [secret], "request": request}),
            json!({secret: secret, "request": request}),
            json!({"request": request, "headers": secret}),
            json!({"request": request, "headers": {secret: {}}}),
            json!({"request": request, "headers": {"x": format!("{secret}\r\n")}}),
            json!({"request": request, "headers": {"x": [1, secret]}}),
            json!({"request": request, "client": secret}),
            json!({"request": request, "certificate": secret}),
            json!({"request": request, "token": format!("{secret}\n{secret}")}),
            json!({"request": request, "token": secret, "headers": {"authorization": secret}}),
        ] {
            let why = read(bad.clone()).err().unwrap_or_else(|| panic!("{bad} is a question"));
            assert!(!why.contains("eyJ") && why.len() > 10, "{bad}: {why}");
        }
        assert!(TokenQuestion::read(b"{\"request\": \"GET").is_err());
    }
}
