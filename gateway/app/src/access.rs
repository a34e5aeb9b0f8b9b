//! The access record of a request: one line for each, whatever became of it.

use std::time::Duration;

use pingora_error::Error;
use pingora_proxy::Session;
use sluice_telemetry::AccessRecord;
use sluice_vocabulary::Reason;

use crate::request::Request;

pub(crate) fn record(session: &Session, error: Option<&Error>, request: &Request, status: u16, duration: Duration) {
    let header = session.req_header();
    let (Some(arrived), Some(started_at)) = (&request.arrived, request.started_at) else { return };
    let trace_id = arrived.trace.trace_id();
    let identity = request.proof.as_ref().and_then(sluice_auth::Proof::identity);
    let error = error.map(ToString::to_string);
    // Whatever became of it, and whichever route it took.
    let query = header.uri.query().map(|query| request.snapshot.token_parameters.hide(query));
    request.snapshot.access_log.record(&AccessRecord {
        trace_id: Some(trace_id.as_str()),
        protocol: match arrived.version {
            http::Version::HTTP_2 => "HTTP/2",
            http::Version::HTTP_10 => "HTTP/1.0",
            _ => "HTTP/1.1",
        },
        tls_version: arrived.connection.tls.as_ref().map(|tls| tls.version),
        method: header.method.as_str(),
        host: &arrived.host,
        path: header.uri.path(),
        query: query.as_deref(),
        route: request.route().map(|route| route.name.as_str()),
        tenant: request.tenant.as_ref().map(|tenant| tenant.as_str()),
        issuer: identity.map(|identity| identity.issuer.as_str()),
        subject: identity.and_then(|identity| identity.subject()),
        status,
        refusal: request.refused.map(Reason::slug),
        error: request.internal.as_deref().or(error.as_deref()),
        bytes_in: request.bytes_in,
        bytes_out: session.body_bytes_sent() as u64,
        duration,
        plugins: (!request.plugin_time.is_zero()).then_some(request.plugin_time),
        tags: request.effects.tags(),
        upstream: request.upstream().map(|name| name.as_str()),
        endpoint: request.last_try.endpoint,
        upstream_connect: request.last_try.connected,
        upstream_response: request.last_try.answered,
        upstream_reused: request.last_try.reused,
        retries: request.retries,
        ..AccessRecord::new(started_at, arrived.id.as_str(), arrived.client.ip)
    });
}
