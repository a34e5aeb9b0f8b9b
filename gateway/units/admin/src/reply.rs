//! Answers, each with the fields that keep caches and browsers from making more of it than it is.

use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderValue, Response, StatusCode};
use http_body_util::Full;
use serde_json::{Value, json};
use sluice_vocabulary::ports::BadLine;

pub(crate) type Reply = Response<Full<Bytes>>;

pub(crate) fn with(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Reply {
    let mut reply = Response::new(Full::new(body.into()));
    *reply.status_mut() = status;
    let headers = reply.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    reply
}

pub(crate) fn text(status: StatusCode, body: impl Into<Bytes>) -> Reply {
    with(status, "text/plain; charset=utf-8", body)
}

/// Indented, since people read these with curl.
pub(crate) fn json(status: StatusCode, value: &Value) -> Reply {
    let mut body = serde_json::to_vec_pretty(value).unwrap_or_default();
    body.push(b'\n');
    with(status, "application/json", body)
}

/// RFC 9457.
pub(crate) fn problem(status: StatusCode, detail: &str) -> Reply {
    let title = status.canonical_reason().unwrap_or_default();
    let value = json!({ "title": title, "status": status.as_u16(), "detail": detail });
    let mut body = serde_json::to_vec_pretty(&value).unwrap_or_default();
    body.push(b'\n');
    with(status, "application/problem+json", body)
}

/// The same, with the lines that are at fault: the first of `count`.
pub(crate) fn bad_lines(lines: &[BadLine], count: usize) -> Reply {
    let status = StatusCode::BAD_REQUEST;
    let title = status.canonical_reason().unwrap_or_default();
    let detail = format!("nothing was done, since lines are at fault: {count}");
    let value = json!({ "title": title, "status": status.as_u16(), "detail": detail, "lines": lines });
    let mut body = serde_json::to_vec_pretty(&value).unwrap_or_default();
    body.push(b'\n');
    with(status, "application/problem+json", body)
}

pub(crate) fn not_allowed(allow: &'static str) -> Reply {
    let mut reply = problem(StatusCode::METHOD_NOT_ALLOWED, &format!("this page answers {allow}"));
    reply.headers_mut().insert(ALLOW, HeaderValue::from_static(allow));
    reply
}
