//! The answer's header as the client gets it: nothing that belongs to the upstream's connection, the route's edits, and what
//! the gateway itself has to say. Between the two functions the plugins see it.

use http::StatusCode;
use http::header::{ACCEPT_RANGES, CONTENT_LENGTH, ETAG, HeaderName, HeaderValue, TRANSFER_ENCODING};
use pingora_error::Result;
use pingora_http::ResponseHeader;
use sluice_downstream::hop_by_hop;

use crate::answers::X_REQUEST_ID;
use crate::headers::make_private;
use crate::request::Request;

/// Takes away what is for the upstream's connection only.
pub(crate) fn strip(response: &mut ResponseHeader) {
    for name in hop_by_hop::to_remove(&response.headers, &[]) {
        response.remove_header(&name);
    }
}

/// Whether a body may follow an answer's header.
pub(crate) fn may_have_body(response: &ResponseHeader) -> bool {
    let is_empty = response.headers.get(CONTENT_LENGTH).is_some_and(|length| length.as_bytes() == b"0");
    !is_empty && !matches!(response.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
}

/// Digests of the bytes as the origin sent them (RFC 9530, RFC 1864).
const DIGESTS: [HeaderName; 3] = [
    HeaderName::from_static("content-digest"),
    HeaderName::from_static("content-md5"),
    HeaderName::from_static("digest"),
];

/// Says of an answer that its bytes are no longer those of the origin: it has no length that is known and no digest, cannot
/// be had in parts, and its validator is weak.
pub(crate) fn rewritten(response: &mut ResponseHeader) {
    response.remove_header(&CONTENT_LENGTH);
    response.remove_header(&ACCEPT_RANGES);
    for digest in &DIGESTS {
        response.remove_header(digest);
    }
    if let Some(strong) = response.headers.get(ETAG).filter(|tag| !tag.as_bytes().starts_with(b"W/"))
        && let Ok(weak) = HeaderValue::from_bytes(&[b"W/", strong.as_bytes()].concat())
    {
        let _ = response.insert_header(ETAG, weak);
    }
    // HTTP/2 drops this on its way.
    let _ = response.insert_header(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
}

/// Makes the route's edits, and then says what only the gateway may say.
pub(crate) fn complete(response: &mut ResponseHeader, request: &Request) -> Result<()> {
    if let Some(matched) = &request.matched {
        let edits = matched.response_headers();
        for name in edits.remove() {
            response.remove_header(name);
        }
        for (name, value) in edits.set() {
            response.insert_header(name.clone(), value.clone())?;
        }
        for (name, value) in edits.add() {
            response.append_header(name.clone(), value.clone())?;
        }
        if matched.has_cors() {
            forget_cors(response);
        }
    }
    if request.wants_private_answer() {
        make_private(response)?;
    }
    for (name, value) in &request.answer_fields {
        response.append_header(name.clone(), value.clone())?;
    }
    if let Some(arrived) = &request.arrived {
        response.insert_header(X_REQUEST_ID, arrived.id.to_header())?;
    }
    Ok(())
}

/// Who may read an answer is the route's to say, where it says anything.
fn forget_cors(response: &mut ResponseHeader) {
    let theirs: Vec<HeaderName> =
        response.headers.keys().filter(|name| name.as_str().starts_with("access-control-")).cloned().collect();
    for name in theirs {
        response.remove_header(&name);
    }
}
