//! The one way in which other services are asked something: HTTP/1.1 to a fixed URL, over kept connections, within bounds
//! of size.
//!
//! Connections are made, driven and kept by the background runtime: nothing of them runs on the threads that serve
//! requests. Certificates are verified, redirects are not followed, and no more of a header or a body is taken than was
//! agreed. Time is bounded by the caller, who drops the call at its deadline; that closes its connection.
//!
//! A kept connection may be closed by the other side in the moment in which it is used again. The library sends anew what
//! it had not yet written; what was written and earned no single byte of an answer is sent once more here. So a call may
//! arrive twice, and must be a question.

use std::error::Error as StdError;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{HOST, USER_AGENT};
use http::{HeaderMap, HeaderValue, Request, StatusCode, Uri};
use http_body_util::{BodyExt, Full};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioTimer;
use rustls::{ClientConfig, RootCertStore};
use tokio::runtime::Handle;

/// The largest response header taken.
const MAX_HEADER: usize = 64 * 1024;

/// The most fields in a response header.
const MAX_FIELDS: usize = 64;

/// How long an unused connection is kept. Most servers keep theirs longer; where one does not, the call is sent again.
const KEEP: Duration = Duration::from_secs(15);

/// What a service answered.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CallFault {
    #[error("cannot connect: {0}")]
    Connect(Arc<str>),
    #[error("the exchange broke off: {0}")]
    Transfer(Arc<str>),
    #[error("the answer's body is larger than {0} bytes")]
    TooLarge(usize),
}

/// A client of one URL.
#[derive(Debug)]
pub(crate) struct Client {
    url: Uri,
    host: HeaderValue,
    inner: legacy::Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    max_body: usize,
}

impl Client {
    /// A client of `url` that trusts `roots`, connects within `connect`, keeps at most `idle` unused connections, and takes
    /// bodies of at most `max_body` bytes. The error says what is wrong with the URL.
    pub(crate) fn new(
        url: &str,
        roots: Arc<RootCertStore>,
        connect: Duration,
        idle: usize,
        max_body: usize,
        background: Handle,
    ) -> Result<Self, String> {
        let url: Uri = url.parse().map_err(|error| format!("{url:?} is not a URL: {error}"))?;
        let authority = url.authority().ok_or_else(|| format!("{url} names no host"))?;
        let host = HeaderValue::try_from(authority.as_str()).map_err(|_| format!("{url} names no host"))?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| format!("no TLS for {url}: {error}"))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(connect));
        let connector =
            HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1().wrap_connector(tcp);
        let inner = legacy::Client::builder(Background(background))
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(KEEP)
            .pool_max_idle_per_host(idle)
            .http1_max_buf_size(MAX_HEADER)
            .http1_max_headers(MAX_FIELDS)
            .build(connector);
        Ok(Self { url, host, inner, max_body })
    }

    /// The URL, as the operator wrote it.
    pub(crate) fn url(&self) -> &Uri {
        &self.url
    }

    /// Asks. URL and host are filled in. To be called on the background runtime.
    pub(crate) async fn call(&self, mut request: Request<Full<Bytes>>) -> Result<Answer, CallFault> {
        *request.uri_mut() = self.url.clone();
        request.headers_mut().insert(HOST, self.host.clone());
        request.headers_mut().entry(USER_AGENT).or_insert(HeaderValue::from_static("sluice"));
        let again = request.clone();
        let mut outcome = self.inner.request(request).await;
        if outcome.as_ref().is_err_and(was_cut) {
            outcome = self.inner.request(again).await;
        }
        let response = outcome.map_err(|error| match error.is_connect() {
            true => CallFault::Connect(chain(&error)),
            false => CallFault::Transfer(chain(&error)),
        })?;
        let (head, body) = response.into_parts();
        Ok(Answer { status: head.status, headers: head.headers, body: self.collect(body).await? })
    }

    async fn collect(&self, mut body: hyper::body::Incoming) -> Result<Bytes, CallFault> {
        let mut whole = Vec::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| CallFault::Transfer(chain(&error)))?;
            if let Ok(data) = frame.into_data() {
                if whole.len() + data.len() > self.max_body {
                    return Err(CallFault::TooLarge(self.max_body));
                }
                whole.extend_from_slice(&data);
            }
        }
        Ok(whole.into())
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

/// An error with its causes, since libraries put the telling one last.
fn chain(error: &(dyn StdError + 'static)) -> Arc<str> {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text.into()
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
