//! An HTTP/2 connection: its options, its streams, and what of a request the libraries do not judge.
//!
//! The HTTP/2 library bounds a header block (SETTINGS_MAX_HEADER_LIST_SIZE, and from it the number of CONTINUATION
//! frames), the streams that a client resets before they are answered ("rapid reset", CVE-2023-44487), and those that we
//! must reset ourselves. Pingora refuses ambiguous lengths and authorities. What is left to us: deadlines (the guard's,
//! and the idle one here), how many malformed requests one connection may send, and [`validate`].

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, Method, Version, header};
use pingora_core::apps::HttpServerApp;
use pingora_core::protocols::Digest;
use pingora_core::protocols::http::ServerSession;
use pingora_core::protocols::http::v2::server::{H2Accept, H2Options, HttpSession, default_h2_options, handshake};
use pingora_core::protocols::{GetProxyDigest, GetSocketDigest, Ssl};
use pingora_http::{RequestHeader, ResponseHeader};
use sluice_vocabulary::Refusal;
use sluice_vocabulary::measure::ByteSize;
use sluice_vocabulary::request::Connection;
use tokio::sync::Notify;
use tokio::time::timeout;

use crate::breach::Breach;
use crate::config::Http2Config;
use crate::connection::Link;
use crate::guard::Guard;
use crate::head::is_target_byte;
use crate::host;
use crate::metrics::ConnectionRefusal;
use crate::settings::Settings;

/// What a client sends first (RFC 9113 3.4).
pub(crate) const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Malformed requests after which a connection is ended: a client that sends more is not mistaken but hostile.
const MALFORMED: usize = 32;

/// Streams that a client may have reset while we have not even looked at them; and that we may have reset for its
/// errors, over the connection's life. Beyond either the library ends the connection.
const RESET_BEFORE_ACCEPTED: usize = 20;
const RESET_FOR_ERRORS: usize = 128;

/// The library's options for connections under this configuration.
pub(crate) fn options(config: &Http2Config, header_size: ByteSize) -> H2Options {
    let small = |size: ByteSize| u32::try_from(size.get()).unwrap_or(u32::MAX);
    let mut options = default_h2_options();
    options
        .max_concurrent_streams(config.streams.get())
        .max_header_list_size(small(header_size))
        .initial_window_size(small(config.stream_window))
        .initial_connection_window_size(small(config.connection_window))
        .max_send_buffer_size(config.send_buffer.as_usize())
        .max_pending_accept_reset_streams(RESET_BEFORE_ACCEPTED)
        .max_local_error_reset_streams(Some(RESET_FOR_ERRORS));
    options
}

/// Serves streams until the connection ends: by the client, by being idle, or by a stop, which lets those in flight
/// finish.
pub(crate) async fn serve<A>(mut guard: Box<Guard>, connection: &Connection, link: &Link<A>)
where
    A: HttpServerApp + Send + Sync + 'static,
{
    let Some(core) = guard.core_mut() else { return };
    core.begin_http2();
    let settings = Arc::clone(&core.settings);
    let digest = Arc::new(Digest {
        ssl_digest: guard.get_ssl_digest(),
        timing_digest: Vec::new(),
        proxy_digest: guard.get_proxy_digest(),
        socket_digest: guard.get_socket_digest(),
    });
    let begun = timeout(settings.header_timeout, handshake(guard, Some(settings.h2.clone()))).await;
    let Ok(Ok(mut streams)) = begun else {
        link.shared.metrics.connection_refused(ConnectionRefusal::Http2Preface);
        tracing::debug!(client.addr = %connection.client, connection = connection.id, "HTTP/2 preface refused");
        return;
    };

    let active = Arc::new(Active::default());
    let mut shutdown = link.shutdown.clone();
    let mut stopping = false;
    let mut malformed = 0_usize;
    loop {
        let accepted = tokio::select! {
            biased;
            _ = shutdown.wait_for(|stop| *stop), if !stopping => {
                streams.graceful_shutdown();
                stopping = true;
                continue;
            }
            // Drives the whole connection, and loses nothing when it is dropped.
            accepted = HttpSession::from_h2_conn(&mut streams, Arc::clone(&digest)) => accepted,
            () = active.idle_for(settings.idle_timeout) => {
                if stopping {
                    return;
                }
                // Says goodbye; a client that does not take it is left after another such wait.
                streams.graceful_shutdown();
                stopping = true;
                continue;
            }
        };
        match accepted {
            Ok(Some(H2Accept::Session(session))) => match validate(session.req_header(), &settings) {
                Ok(()) => {
                    let session = ServerSession::new_http2(session);
                    let (app, shutdown, busy) = (Arc::clone(&link.app), link.shutdown.clone(), active.enter());
                    link.tracker.spawn(async move {
                        let _busy = busy;
                        app.process_new_http(session, &shutdown).await;
                    });
                }
                Err(breach) => {
                    malformed += 1;
                    let shared = &link.shared;
                    shared.metrics.request_refused(breach);
                    shared.refusals.log(connection, breach, shared.clock.unix_seconds(), &settings);
                    let (request_id, busy) = (format!("{:032x}", shared.random.bits128()), active.enter());
                    link.tracker.spawn(async move {
                        let _busy = busy;
                        refuse(session, breach, &request_id).await;
                    });
                }
            },
            Ok(Some(H2Accept::Rejected)) => {
                malformed += 1;
                link.shared.metrics.http2_rejected_streams.inc();
            }
            Ok(None) | Err(_) => return,
        }
        if malformed >= MALFORMED {
            tracing::debug!(client.addr = %connection.client, connection = connection.id, "too many malformed requests: cut");
            return;
        }
    }
}

/// Judges what neither the HTTP/2 library nor Pingora does, so that a request that came by HTTP/2 keeps every promise
/// that one which came by HTTP/1 does (RFC 9113 8.2.2, 8.3.1, 8.5, and the limits).
fn validate(request: &RequestHeader, settings: &Settings) -> Result<(), Breach> {
    validate_h2(request)?;
    if request.headers.len() > settings.head.fields {
        return Err(Breach::HeaderFields);
    }
    match request.headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok()) {
        Some(length) if length > settings.body.size => Err(Breach::BodySize),
        _ => Ok(()),
    }
}

/// The checks of an HTTP/2 request that need no configuration: fields that belong to HTTP/1 connections, the form of the
/// path, the host. This unit applies it to every stream before the application sees it.
///
/// # Errors
/// The first breach found.
pub fn validate_h2(request: &RequestHeader) -> Result<(), Breach> {
    debug_assert_eq!(request.version, Version::HTTP_2);
    if request.method == Method::CONNECT {
        return Err(Breach::Connect);
    }
    const CONNECTION_SPECIFIC: [HeaderName; 3] = [header::CONNECTION, header::UPGRADE, header::TRANSFER_ENCODING];
    let specific = CONNECTION_SPECIFIC.iter().any(|name| request.headers.contains_key(name))
        || request.headers.contains_key("keep-alive")
        || request.headers.contains_key("proxy-connection")
        || request.headers.get_all(header::TE).iter().any(|value| value != "trailers");
    if specific {
        return Err(Breach::FieldName);
    }
    if request.headers.get(header::EXPECT).is_some_and(|value| !value.as_bytes().eq_ignore_ascii_case(b"100-continue"))
    {
        return Err(Breach::Expectation);
    }
    let path = request.raw_path();
    let form = path.first() == Some(&b'/') || (path == b"*" && request.method == Method::OPTIONS);
    if !form || !path.iter().all(|&byte| is_target_byte(byte)) {
        return Err(Breach::Target);
    }
    let host = match request.uri.authority() {
        Some(authority) => authority.as_str().as_bytes(),
        None => request.headers.get(header::HOST).ok_or(Breach::HostMissing)?.as_bytes(),
    };
    if host::is_valid(host) { Ok(()) } else { Err(Breach::HostInvalid) }
}

async fn refuse(mut session: HttpSession, breach: Breach, request_id: &str) {
    let problem = Refusal::new(breach.reason()).problem(request_id);
    let Ok(mut answer) = ResponseHeader::build(breach.reason().status(), Some(4)) else { return };
    let fields = [
        (header::CONTENT_TYPE, "application/problem+json"),
        (header::CACHE_CONTROL, "no-store"),
        (HeaderName::from_static("x-request-id"), request_id),
    ];
    for (name, value) in fields {
        if answer.insert_header(name, value).is_err() {
            return;
        }
    }
    let bodyless = session.req_header().method == Method::HEAD;
    // A failure means that the client has reset the stream.
    if session.write_response_header(Box::new(answer), bodyless).is_ok() && !bodyless {
        let _ = session.write_body(Bytes::from(problem), true).await;
    }
}

/// The streams in flight on one connection.
#[derive(Default)]
struct Active {
    count: AtomicUsize,
    ended: Notify,
}

struct Busy(Arc<Active>);

impl Active {
    fn enter(self: &Arc<Self>) -> Busy {
        self.count.fetch_add(1, Ordering::AcqRel);
        Busy(Arc::clone(self))
    }

    /// Returns once nothing was in flight for so long.
    async fn idle_for(&self, span: Duration) {
        while self.count.load(Ordering::Acquire) > 0 {
            self.ended.notified().await;
        }
        tokio::time::sleep(span).await;
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        if self.0.count.fetch_sub(1, Ordering::AcqRel) == 1 {
            // Kept for a waiter that is not there yet.
            self.0.ended.notify_one();
        }
    }
}
