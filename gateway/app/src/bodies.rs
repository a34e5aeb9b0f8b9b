//! Requests' bodies on their way through plugins: gathered before an upstream is chosen, or piece by piece while they are
//! sent. What comes back is in `answer_body.rs`.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http::header::{ACCEPT_ENCODING, CONTENT_LENGTH, EXPECT, HeaderValue, IF_RANGE, RANGE, TRANSFER_ENCODING};
use pingora_proxy::Session;
use sluice_downstream::hop_by_hop;
use sluice_plugins::{Chain, LONGEST_BODY};
use sluice_vocabulary::{Reason, Refusal};

use crate::request::Request;

/// How long a body may take to arrive that is gathered, where its route says nothing of its time.
const LONGEST_GATHERING: Duration = Duration::from_secs(30);

/// The whole body of a request, if it is no larger than plugins get one. The library keeps what it reads for sending it on.
pub(crate) async fn gather(session: &mut Session, request: &mut Request) -> Result<Bytes, Refusal> {
    let header = session.req_header();
    // What follows an upgrade is no body.
    if hop_by_hop::is_websocket(&header.method, &header.headers) {
        return Ok(Bytes::new());
    }
    let downstream = session.as_downstream_mut();
    downstream.enable_retry_buffering();
    if downstream.is_body_done() {
        return Ok(Bytes::new());
    }
    // The client waits to be asked, and whom it could be told by is not asked before its body is here.
    if downstream.req_header().headers.contains_key(EXPECT) {
        downstream.req_header_mut().remove_header(&EXPECT);
        downstream.write_continue_response().await.map_err(|error| gone(&error))?;
    }
    let within = request.route().and_then(|route| route.timeouts.total).unwrap_or(LONGEST_GATHERING);
    let whole = tokio::time::timeout(within, read(session, request)).await;
    whole.unwrap_or_else(|_| {
        let why = format!("its body was not whole after {} ms", within.as_millis());
        Err(Refusal::new(Reason::RequestTimeout).internal(why))
    })
}

async fn read(session: &mut Session, request: &mut Request) -> Result<Bytes, Refusal> {
    let most = request.route().map_or(u64::MAX, |route| route.max_body).min(LONGEST_BODY as u64);
    let mut whole = BytesMut::new();
    loop {
        match session.as_downstream_mut().read_request_body().await {
            Ok(Some(piece)) => {
                request.bytes_in += piece.len() as u64;
                if request.bytes_in > most {
                    let why = format!("more than {most} bytes, where plugins see bodies whole");
                    return Err(Refusal::new(Reason::BodyTooLarge).internal(why));
                }
                whole.extend_from_slice(&piece);
            }
            Ok(None) => return Ok(whole.freeze()),
            Err(error) => {
                session.set_keepalive(None);
                let breach =
                    session.digest().and_then(sluice_downstream::control).and_then(|control| control.refusal());
                return Err(match breach {
                    Some(reason) => Refusal::new(reason).internal("the client's body broke a bound"),
                    None => gone(&error),
                });
            }
        }
    }
}

/// The client went away, or spoke nonsense: whatever it is told, it hardly hears it.
fn gone(error: &pingora_error::Error) -> Refusal {
    Refusal::new(Reason::BadRequest).internal(error.to_string())
}

/// Says in a request's header how its body is sent, where plugins see that; and asks for the whole answer as it is, where
/// they see that.
pub(crate) fn frame(headers: &mut HeaderMap, request: &Request) {
    let Some(route) = request.route() else { return };
    let chains = [&**request.snapshot.chain_of(request.tenant.as_ref()), &*route.chain];
    frame_for(&chains, request.gathered.as_ref(), headers);
}

/// The same for these chains; `gathered` is the whole body, where they see it before it is sent.
pub(crate) fn frame_for(chains: &[&Chain], gathered: Option<&Bytes>, headers: &mut HeaderMap) {
    if let Some(whole) = gathered {
        let had_body = headers.contains_key(CONTENT_LENGTH) || headers.contains_key(TRANSFER_ENCODING);
        headers.remove(TRANSFER_ENCODING);
        if had_body || !whole.is_empty() {
            headers.insert(CONTENT_LENGTH, HeaderValue::from(whole.len()));
        }
    }
    let has_body = headers.get(CONTENT_LENGTH).is_some_and(|length| length.as_bytes() != b"0");
    if has_body && chains.iter().any(|chain| chain.has_request_chunk_phase()) {
        // The library sends a body of unknown length in chunks.
        headers.remove(CONTENT_LENGTH);
    }
    if chains.iter().any(|chain| chain.sees_response_body()) {
        headers.remove(RANGE);
        headers.remove(IF_RANGE);
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    }
}
