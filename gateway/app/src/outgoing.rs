//! The request's header as the upstream gets it: nothing that belongs to the client's connection, who the client is, the
//! request's identifiers, the route's edits, who sent it, and what the route's authorising service says of it.
//!
//! The order matters. What is for one connection only goes first, so that no client can have anything taken away that
//! the gateway says; what the identity and then the authorising service say comes last, so that neither client, plugin nor
//! edit can say otherwise.

use http::header::{self, HeaderName, HeaderValue};
use http::request::Parts;
use http::{HeaderMap, Version};
use pingora_error::{Error, ErrorType, Result};
use pingora_http::RequestHeader;
use sluice_downstream::hop_by_hop;
use sluice_telemetry::trace::TRACE_HEADERS;

use crate::answers::X_REQUEST_ID;
use crate::bodies;
use crate::headers::change;
use crate::request::Request;

/// Makes it of the client's.
pub(crate) fn prepare(
    downstream: &sluice_downstream::Handle,
    upstream: &mut RequestHeader,
    request: &Request,
) -> Result<()> {
    let (Some(arrived), Some(matched)) = (&request.arrived, &request.matched) else {
        return Err(Error::explain(ErrorType::InternalError, "a request without a route reached the upstream"));
    };
    change(upstream, |parts| {
        strip(parts, &request.plugin_fields);
        let headers = &mut parts.headers;
        bodies::frame(headers, request);
        let told = downstream.forwarded_headers(&arrived.connection, &arrived.client, headers, &arrived.host);
        for (name, value) in told {
            match value {
                Some(value) => drop(headers.insert(name, value)),
                None => drop(headers.remove(name)),
            }
        }
        headers.insert(X_REQUEST_ID, arrived.id.to_header());
        // What the client said of a trace is continued or not; it never travels beside what is said now.
        if headers.keys().any(|name| TRACE_HEADERS.contains(name)) {
            TRACE_HEADERS.iter().for_each(|name| drop(headers.remove(name)));
        }
        for (name, value) in arrived.trace.headers() {
            headers.insert(name, value);
        }
        matched.request_headers().apply(headers);
        if let Some(host) = matched.rewrite_host() {
            headers.insert(header::HOST, host.clone());
        }
        if let (Some(proof), Some(policy)) = (&request.proof, request.route().and_then(|route| route.policy.as_ref())) {
            for (name, value) in policy.identity_headers(proof) {
                headers.insert(name, value);
            }
        }
        if let Some(allowed) = &request.allowed {
            // In place of whatever is there; of one name there may be several.
            allowed.headers().iter().for_each(|(name, _)| drop(headers.remove(name)));
            for (name, value) in allowed.headers() {
                headers.append(name, value.clone());
            }
        }
    })?;
    if let Some(path) = matched.rewrite_path(upstream.uri.path()) {
        let query = upstream.uri.query().map(|query| format!("?{query}")).unwrap_or_default();
        upstream.set_raw_path(format!("{path}{query}").as_bytes())?;
    }
    Ok(())
}

/// Takes away what is for the client's connection only. What a plugin had a say in is not the client's to name in
/// `Connection`.
fn strip(parts: &mut Parts, plugin_fields: &[HeaderName]) {
    let is_websocket = hop_by_hop::is_websocket(&parts.method, &parts.headers);
    for name in hop_by_hop::to_remove(&parts.headers, plugin_fields) {
        parts.headers.remove(name);
    }
    if parts.version != Version::HTTP_2 {
        without_trailers(&mut parts.headers);
    }
    if is_websocket {
        parts.headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        parts.headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    }
}

/// Over HTTP/1 no trailers are passed on, so none are asked for or announced.
fn without_trailers(headers: &mut HeaderMap) {
    for name in [header::TE, header::TRAILER] {
        headers.remove(name);
    }
}
