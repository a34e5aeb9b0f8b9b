//! What a plugin asks, checked: nothing in it that could be read as something else on the way.

use bytes::Bytes;
use http::header::{HeaderValue, USER_AGENT};
use http::{HeaderMap, Method, Request, Uri};
use http_body_util::Full;

use super::origin::Origin;
use crate::contract::outbound_http::OutboundRequest;
use crate::edits::{field_name, field_value};

/// Fields of a request, and bytes of their names and values.
const MOST_FIELDS: usize = 32;
const MOST_FIELD_BYTES: usize = 16 * 1024;
/// Bytes of a request's body.
const LONGEST_BODY: usize = 64 * 1024;
/// Bytes of an address: what common servers take.
const LONGEST_URL: usize = 8 * 1024;

const OURS: HeaderValue = HeaderValue::from_static(concat!("sluice/", env!("CARGO_PKG_VERSION")));

/// A request that can be sent, and whom it is for.
#[derive(Debug)]
pub(super) struct Question {
    pub(super) origin: Origin,
    pub(super) request: Request<Full<Bytes>>,
}

impl Question {
    /// The error says what is wrong.
    pub(super) fn of(asked: OutboundRequest) -> Result<Self, &'static str> {
        let OutboundRequest { method, url, headers, body, timeout: _ } = asked;
        let method = Method::from_bytes(method.as_bytes()).map_err(|_| "not a method")?;
        if method == Method::CONNECT {
            return Err("CONNECT asks for a tunnel");
        }
        let url = address(&url)?;
        if body.len() > LONGEST_BODY {
            return Err("the body is larger than 64 KiB");
        }
        let origin = Origin::of(&url)?;
        let mut request = Request::new(Full::new(Bytes::from(body)));
        *request.method_mut() = method;
        *request.uri_mut() = url;
        *request.headers_mut() = fields(headers)?;
        request.headers_mut().entry(USER_AGENT).or_insert(OURS);
        Ok(Self { origin, request })
    }

    /// Whether it may be sent again where the connection broke without a word (RFC 9110 9.2.2).
    pub(super) fn may_be_repeated(&self) -> bool {
        self.request.method().is_idempotent()
    }
}

fn address(url: &str) -> Result<Uri, &'static str> {
    if url.len() > LONGEST_URL {
        return Err("the address is longer than 8 KiB");
    }
    // The parser drops a fragment silently and lets some bytes pass that others read differently.
    if !url.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#' && byte != b'\\') {
        return Err("not an address: a blank, a control character, a fragment, or what is not ASCII");
    }
    url.parse().map_err(|_| "not an address")
}

fn fields(given: Vec<(String, String)>) -> Result<HeaderMap, &'static str> {
    if given.len() > MOST_FIELDS {
        return Err("more than 32 fields");
    }
    if given.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>() > MOST_FIELD_BYTES {
        return Err("more than 16 KiB of fields");
    }
    let mut fields = HeaderMap::with_capacity(given.len() + 2);
    for (name, value) in given {
        let name = field_name(&name).map_err(|_| "not a field's name, or one that belongs to the connection")?;
        fields.append(name, field_value(value).map_err(|_| "not a field's value")?);
    }
    Ok(fields)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn asked(method: &str, url: &str, headers: &[(&str, &str)], body: usize) -> OutboundRequest {
        let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        OutboundRequest { method: method.into(), url: url.into(), headers, body: vec![b'x'; body], timeout: None }
    }

    #[test]
    fn what_could_be_read_as_something_else_is_not_sent() {
        let good = "https://a.example/";
        let many = vec![("x", "y"); MOST_FIELDS + 1];
        let long = "v".repeat(8 * 1024);
        for (method, url, headers) in [
            ("", good, &[][..]),
            ("GET /", good, &[]),
            ("GET\r\n", good, &[]),
            ("CONNECT", good, &[]),
            ("GET", "", &[]),
            ("GET", "/path", &[]),
            ("GET", "a.example", &[]),
            ("GET", "ftp://a.example/", &[]),
            ("GET", "https://me@a.example/", &[]),
            ("GET", "https://b.example:443@a.example/", &[]),
            ("GET", "https://a.example/#part", &[]),
            ("GET", "https://a.example/ HTTP/1.1\r\nx: y", &[]),
            ("GET", "https://a.example/\n", &[]),
            ("GET", "https://a.example/\u{e4}", &[]),
            ("GET", "https://a.example\\@b.example/", &[]),
            ("GET", &format!("https://a.example/{}", "p".repeat(LONGEST_URL)), &[]),
            ("GET", good, &[("host", "b.example")]),
            ("GET", good, &[("Content-Length", "1")]),
            ("GET", good, &[("transfer-encoding", "chunked")]),
            ("GET", good, &[("connection", "close")]),
            ("GET", good, &[("upgrade", "websocket")]),
            ("GET", good, &[("x", "y\r\nz: a")]),
            ("GET", good, &[("x", "y\0")]),
            ("GET", good, &[("x y", "z")]),
            ("GET", good, &[(":path", "/")]),
            ("GET", good, &many),
            ("GET", good, &[("x", &long), ("y", &long)]),
        ] {
            assert!(Question::of(asked(method, url, headers, 0)).is_err(), "{method:?} {url:?} {headers:?}");
        }
        assert!(Question::of(asked("POST", good, &[], LONGEST_BODY)).is_ok());
        assert!(Question::of(asked("POST", good, &[], LONGEST_BODY + 1)).is_err());
    }

    #[test]
    fn a_request_is_sent_as_it_was_asked_with_the_gateways_name() {
        let headers = [("X-Many", "1"), ("x-many", "2"), ("authorization", "Bearer t")];
        let question = Question::of(asked("PUT", "https://A.example:443/p?q=1", &headers, 3)).unwrap();
        assert_eq!(question.origin.to_string(), "https://a.example");
        let request = &question.request;
        assert_eq!((request.method(), request.uri().path_and_query().unwrap().as_str()), (&Method::PUT, "/p?q=1"));
        assert_eq!(request.headers().get_all("x-many").iter().collect::<Vec<_>>(), ["1", "2"]);
        assert!(request.headers()[USER_AGENT].to_str().unwrap().starts_with("sluice/"));
        assert!(question.may_be_repeated());
        let own = Question::of(asked("POST", "https://a.example", &[("user-agent", "mine")], 0)).unwrap();
        assert_eq!(own.request.headers()[USER_AGENT], "mine");
        assert!(!own.may_be_repeated());
    }
}
