//! The message that every call is about.

use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use sluice_plugins::{RequestHead, ResponseHead};
use sluice_vocabulary::request::Scheme;

/// Twelve fields of usual length.
pub(crate) fn headers() -> HeaderMap {
    (0..12)
        .map(|n| {
            let name = HeaderName::from_bytes(format!("x-field-{n}").as_bytes()).expect("a name");
            (name, HeaderValue::from_static("a value of usual length"))
        })
        .collect()
}

pub(crate) fn request() -> RequestHead {
    RequestHead {
        method: Method::GET,
        scheme: Scheme::Https,
        host: "api.example.com".into(),
        path: "/orders/7".into(),
        query: None,
        headers: headers(),
    }
}

pub(crate) fn response() -> ResponseHead {
    ResponseHead { status: StatusCode::OK, headers: headers() }
}
