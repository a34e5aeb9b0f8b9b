//! The client of one plugin: HTTP/1.1 and HTTP/2 over kept connections, within bounds of size.
//!
//! Connections are made, driven and kept by the background runtime. Certificates are verified, redirects are not followed,
//! no proxy of the environment is used. Time is bounded by the caller, who drops the exchange; that closes its connection.

use std::error::Error as StdError;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Body as _, Incoming};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioTimer;
use rustls::{ClientConfig, RootCertStore};
use tokio::runtime::Handle;

use super::question::Question;
use super::resolver::{Checked, NotResolved};
use crate::contract::outbound_http::{OutboundFault, OutboundResponse};
use crate::edits::belongs_to_the_connection;
use crate::host::text;

/// Bytes of an answer's header, and its fields.
const LONGEST_HEADER: usize = 64 * 1024;
const MOST_FIELDS: usize = 128;
/// Bytes of an answer's body.
const LONGEST_BODY: usize = 256 * 1024;
/// How long connecting may take, over all addresses of a name.
const CONNECT: Duration = Duration::from_secs(1);
/// How long an unused connection is kept, and how many of one origin.
const KEEP: Duration = Duration::from_secs(15);
const MOST_KEPT: usize = 8;

/// Why there is no answer: for the plugin, and for the operator.
#[derive(Debug)]
pub(super) struct NoAnswer {
    pub(super) fault: OutboundFault,
    pub(super) why: String,
}

#[derive(Debug)]
pub(super) struct Client {
    inner: legacy::Client<HttpsConnector<HttpConnector<Checked>>, Full<Bytes>>,
}

impl Client {
    pub(super) fn new(names: Checked, roots: Arc<RootCertStore>, background: Handle) -> Result<Self, rustls::Error> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let mut tcp = HttpConnector::new_with_resolver(names);
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(CONNECT));
        let connector =
            HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_all_versions().wrap_connector(tcp);
        let inner = legacy::Client::builder(Background(background))
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(KEEP)
            .pool_max_idle_per_host(MOST_KEPT)
            .http1_max_buf_size(LONGEST_HEADER)
            .http1_max_headers(MOST_FIELDS)
            .http2_max_header_list_size(LONGEST_HEADER as u32)
            .build(connector);
        Ok(Self { inner })
    }

    /// Asks, and takes all of the answer. To be called on the background runtime.
    pub(super) async fn ask(&self, question: Question) -> Result<OutboundResponse, NoAnswer> {
        let again = question.may_be_repeated().then(|| question.request.clone());
        let mut outcome = self.inner.request(question.request).await;
        if let Some(again) = again.filter(|_| outcome.as_ref().is_err_and(was_cut)) {
            // A kept connection may be closed by the other side in the moment in which it is used again.
            outcome = self.inner.request(again).await;
        }
        let (head, body) = outcome.map_err(|error| NoAnswer::of(&error)).and_then(final_answer)?.into_parts();
        // The library's own bounds are on what it buffers, and differ by version of HTTP.
        let bytes: usize = head.headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
        if head.headers.len() > MOST_FIELDS || bytes > LONGEST_HEADER {
            let why = format!("its header is larger than {MOST_FIELDS} fields or {LONGEST_HEADER} bytes");
            return Err(NoAnswer::bad(why));
        }
        let body = whole(body).await?;
        Ok(OutboundResponse { status: head.status.as_u16(), headers: told(&head.headers), body: body.into() })
    }
}

fn final_answer(response: Response<Incoming>) -> Result<Response<Incoming>, NoAnswer> {
    match response.status().as_u16() {
        200..=599 => Ok(response),
        other => Err(NoAnswer::bad(format!("its status is {other}: expected 200 to 599"))),
    }
}

/// The fields of an answer, but for those that belong to its connection.
fn told(headers: &HeaderMap) -> Vec<(String, String)> {
    let fields = headers.iter().filter(|(name, _)| !belongs_to_the_connection(name));
    fields.map(|(name, value)| (name.as_str().to_owned(), text(value))).collect()
}

async fn whole(mut body: Incoming) -> Result<BytesMut, NoAnswer> {
    let too_large = || NoAnswer::bad(format!("its body is larger than {LONGEST_BODY} bytes"));
    if body.size_hint().lower() > LONGEST_BODY as u64 {
        return Err(too_large());
    }
    let mut whole = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| NoAnswer::of(&error))?;
        if let Ok(data) = frame.into_data() {
            if whole.len() + data.len() > LONGEST_BODY {
                return Err(too_large());
            }
            whole.extend_from_slice(&data);
        }
    }
    Ok(whole)
}

impl NoAnswer {
    fn bad(why: String) -> Self {
        Self { fault: OutboundFault::BadResponse, why }
    }

    fn of(error: &(dyn StdError + 'static)) -> Self {
        let mut fault = OutboundFault::Unreachable;
        let mut why = String::new();
        let mut cause = Some(error);
        while let Some(inner) = cause {
            if let Some(NotResolved::Private { .. }) = inner.downcast_ref() {
                fault = OutboundFault::PrivateAddress;
            }
            if inner.downcast_ref::<hyper::Error>().is_some_and(|error| error.is_parse() || error.is_parse_too_large())
            {
                fault = OutboundFault::BadResponse;
            }
            // Libraries put the telling one last.
            why = if why.is_empty() { inner.to_string() } else { format!("{why}: {inner}") };
            cause = inner.source();
        }
        Self { fault, why }
    }
}

/// Whether the connection ended before anything was answered, as kept ones do.
fn was_cut(error: &legacy::Error) -> bool {
    if error.is_connect() {
        return false;
    }
    let mut cause = error.source();
    while let Some(inner) = cause {
        if inner.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_incomplete_message) {
            return true;
        }
        if let Some(broken) = inner.downcast_ref::<io::Error>() {
            use io::ErrorKind as Kind;
            return matches!(broken.kind(), Kind::ConnectionReset | Kind::ConnectionAborted | Kind::BrokenPipe);
        }
        cause = inner.source();
    }
    false
}

/// Spawns on the background runtime, whoever asks.
#[derive(Debug, Clone)]
struct Background(Handle);

impl<F> hyper::rt::Executor<F> for Background
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, future: F) {
        self.0.spawn(future);
    }
}
