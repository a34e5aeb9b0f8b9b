//! Answers that the gateway gives itself: refusals and direct answers, written to the client in the form it understands.
//!
//! A refusal becomes problem+json (RFC 9457) or, to a gRPC client, a response that is only trailers: HTTP 200 with
//! `grpc-status` and `grpc-message`, since a gRPC client does not look at HTTP statuses. Every answer carries the request
//! id, and none carries internals: those go to the log.

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HeaderName, HeaderValue};
use http::{HeaderMap, Method, StatusCode};
use pingora_core::protocols::http::HttpTask;
use pingora_error::Result;
use pingora_http::ResponseHeader;
use pingora_proxy::Session;
use sluice_vocabulary::Refusal;

use crate::headers::make_private;
use crate::request::Request;

/// The request id, in answers and toward upstreams.
pub(crate) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// More unread request body than this is not waited for: the connection is closed after the answer.
const LARGEST_DRAIN: u64 = 64 * 1024;

/// An answer of our own that is not a refusal.
pub(crate) struct Answer<'a> {
    pub(crate) status: StatusCode,
    pub(crate) headers: &'a [(HeaderName, HeaderValue)],
    pub(crate) body: Bytes,
}

/// Sends a refusal. `extra` are fields that this route adds to every answer (CORS, rate limits).
pub(crate) async fn refuse(
    session: &mut Session,
    refusal: &Refusal,
    request_id: &str,
    extra: &[(HeaderName, HeaderValue)],
) -> Result<()> {
    // An interim answer promised nothing; what follows one that switches protocols is no answer.
    let is_final = |status: StatusCode| !status.is_informational() || status == StatusCode::SWITCHING_PROTOCOLS;
    if session.response_written().is_some_and(|response| is_final(response.status)) {
        return Ok(());
    }
    if is_grpc(&session.req_header().headers) {
        return refuse_grpc(session, refusal, request_id, extra).await;
    }
    let body = Bytes::from(refusal.problem(request_id));
    let mut response = ResponseHeader::build(refusal.status(), Some(6 + extra.len() + refusal.headers.len()))?;
    response.insert_header(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"))?;
    // A refusal is about this request and this moment; nobody may keep it for another.
    response.insert_header(CACHE_CONTROL, HeaderValue::from_static("no-store"))?;
    for (name, value) in refusal.headers.iter().chain(extra) {
        response.append_header(name.clone(), value.clone())?;
    }
    send(session, response, body, request_id).await
}

/// Sends an answer of our own to `request`.
pub(crate) async fn answer(session: &mut Session, answer: Answer<'_>, request: &Request) -> Result<()> {
    let extra = &request.answer_fields;
    let mut response = ResponseHeader::build(answer.status, Some(4 + answer.headers.len() + extra.len()))?;
    for (name, value) in answer.headers.iter().chain(extra) {
        response.append_header(name.clone(), value.clone())?;
    }
    if request.wants_private_answer() {
        make_private(&mut response)?;
    }
    send(session, response, answer.body, request.id()).await
}

/// Whether the client speaks gRPC, and so reads grpc-status and not HTTP's.
pub(crate) fn is_grpc(headers: &HeaderMap) -> bool {
    headers.get(CONTENT_TYPE).is_some_and(|value| {
        value
            .as_bytes()
            .strip_prefix(b"application/grpc")
            .is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
    })
}

async fn send(session: &mut Session, mut response: ResponseHeader, body: Bytes, request_id: &str) -> Result<()> {
    if let Ok(id) = HeaderValue::from_str(request_id) {
        response.insert_header(X_REQUEST_ID, id)?;
    }
    let no_body_allowed = matches!(response.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    if !no_body_allowed {
        response.insert_header(CONTENT_LENGTH, HeaderValue::from(body.len()))?;
    }
    close_if_much_is_unread(session, &mut response)?;
    let ends_here = no_body_allowed || body.is_empty() || session.req_header().method == Method::HEAD;
    if ends_here {
        return send_head_alone(session, response).await;
    }
    session.write_response_header(Box::new(response), false).await?;
    session.write_response_body(Some(body), true).await
}

/// Sends an answer that ends with its header. Over HTTP/2 the header's own frame must say so: the simpler call leaves the
/// stream open, to be ended later by an empty piece of body or not at all, and gRPC clients take neither for a status.
async fn send_head_alone(session: &mut Session, response: ResponseHeader) -> Result<()> {
    session.write_response_tasks(vec![HttpTask::Header(Box::new(response), true)]).await.map(drop)
}

async fn refuse_grpc(
    session: &mut Session,
    refusal: &Refusal,
    request_id: &str,
    extra: &[(HeaderName, HeaderValue)],
) -> Result<()> {
    let mut response = ResponseHeader::build(StatusCode::OK, Some(5))?;
    response.insert_header(CONTENT_TYPE, HeaderValue::from_static("application/grpc"))?;
    response.insert_header(
        HeaderName::from_static("grpc-status"),
        HeaderValue::from(u16::from(refusal.reason.grpc_status())),
    )?;
    // Titles are plain ASCII, so that percent-encoding them (as the gRPC protocol asks) changes nothing.
    response
        .insert_header(HeaderName::from_static("grpc-message"), HeaderValue::from_static(refusal.reason.title()))?;
    if let Ok(id) = HeaderValue::from_str(request_id) {
        response.insert_header(X_REQUEST_ID, id)?;
    }
    for (name, value) in refusal.headers.iter().chain(extra) {
        response.append_header(name.clone(), value.clone())?;
    }
    close_if_much_is_unread(session, &mut response)?;
    send_head_alone(session, response).await
}

/// On HTTP/1.1 what remains of a request's body must be read before the next request. Where that is much, or its length
/// is unknown, or the client waits for `100 Continue`, closing is cheaper and safer than reading for nobody.
fn close_if_much_is_unread(session: &mut Session, response: &mut ResponseHeader) -> Result<()> {
    if session.as_downstream().is_http2() || session.as_downstream_mut().is_body_done() {
        return Ok(());
    }
    let headers = &session.req_header().headers;
    let announced = headers.get(CONTENT_LENGTH).and_then(|n| n.to_str().ok()).and_then(|n| n.parse::<u64>().ok());
    let cheap = announced.is_some_and(|length| length <= LARGEST_DRAIN) && !headers.contains_key(http::header::EXPECT);
    if !cheap {
        session.set_keepalive(None);
        response.insert_header(CONNECTION, HeaderValue::from_static("close"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grpc_is_told_by_its_content_type_and_nothing_like_it() {
        for (value, expected) in [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("application/grpc;charset=utf-8", true),
            ("application/grpc-web", false),
            ("application/json", false),
        ] {
            let headers = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(value))]);
            assert_eq!(is_grpc(&headers), expected, "{value}");
        }
        assert!(!is_grpc(&HeaderMap::new()));
    }

    #[test]
    fn every_title_is_plain_ascii_as_grpc_messages_need() {
        for reason in sluice_vocabulary::Reason::ALL {
            assert!(reason.title().bytes().all(|b| (0x20..0x7f).contains(&b) && b != b'%'), "{reason:?}");
        }
    }
}
