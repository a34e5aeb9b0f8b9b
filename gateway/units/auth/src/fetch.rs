//! Reading an issuer's key set, by URL, by discovery or from a file, within bounds of time and size.
//!
//! One document is one connection: it is made, used and closed within the call, so nothing is left behind when the call is
//! dropped at its deadline. Redirects are refused, since whoever answers one would choose the keys; so is every status
//! but 200. Time and size are bounded whatever the other side does.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use http::header::{ACCEPT, ETAG, HOST, IF_NONE_MATCH, USER_AGENT};
use http::{HeaderValue, Request, StatusCode, Uri};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1;
use hyper::service::Service as _;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::service::TowerToHyperService;
use parking_lot::Mutex;
use rustix::fs::OFlags;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use crate::discovery::{BadMetadata, Discovery};
use crate::freshness;
use crate::jwk::BadKeySet;

/// Why a key set could not be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FetchFault {
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    #[error("cannot connect: {0}")]
    Connect(String),
    #[error("the exchange broke off: {0}")]
    Transfer(String),
    #[error("status {0}, expected 200")]
    Status(StatusCode),
    #[error("the document is larger than {0} bytes")]
    TooLarge(usize),
    #[error("cannot read {path}: {cause}")]
    File { path: String, cause: io::Error },
    #[error(transparent)]
    Malformed(#[from] BadKeySet),
    #[error(transparent)]
    Metadata(#[from] BadMetadata),
    #[error("of the metadata: {0}")]
    OfMetadata(Box<Self>),
}

impl FetchFault {
    /// Every value of [`Self::slug`].
    pub(crate) const SLUGS: [&'static str; 8] =
        ["timeout", "connect", "transfer", "status", "too-large", "file", "malformed", "metadata"];

    /// The stable name, for metrics.
    pub(crate) const fn slug(&self) -> &'static str {
        match self {
            Self::Timeout(_) => "timeout",
            Self::Connect(_) => "connect",
            Self::Transfer(_) => "transfer",
            Self::Status(_) => "status",
            Self::TooLarge(_) => "too-large",
            Self::File { .. } => "file",
            Self::Malformed(_) => "malformed",
            // Whatever kept the metadata from being read, it is there that the operator has to look.
            Self::Metadata(_) | Self::OfMetadata(_) => "metadata",
        }
    }
}

/// A document, and for how long it says it is good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fetched {
    pub(crate) document: Bytes,
    /// The answer's `max-age`, as it said it; see [`crate::freshness`].
    pub(crate) max_age: Option<Duration>,
    /// Its entity tag, if it has one.
    pub(crate) etag: Option<HeaderValue>,
}

/// Where an issuer's keys are read.
#[derive(Debug)]
pub(crate) enum Source {
    Url(UrlSource),
    /// Where the issuer's metadata say.
    Discovered(Discovery),
    File(FileSource),
    /// They stand in the configuration, and are read with it.
    Inline,
    /// They are secrets that the configuration names, and are read with it.
    Secrets,
}

impl Source {
    /// Reads the document, `now` being the time.
    pub(crate) async fn read(&self, now: Instant) -> Result<Fetched, FetchFault> {
        let (deadline, outcome) = match self {
            Self::Url(source) => {
                let get = source.client.get(&source.url, Document::KeySet);
                (source.client.timeout, tokio::time::timeout(source.client.timeout, get).await)
            }
            Self::Discovered(discovery) => {
                (discovery.timeout(), tokio::time::timeout(discovery.timeout(), discovery.read(now)).await)
            }
            // A file may lie on a network that is down.
            Self::File(source) => (source.timeout, tokio::time::timeout(source.timeout, source.read()).await),
            Self::Inline | Self::Secrets => return std::future::pending().await,
        };
        outcome.unwrap_or(Err(FetchFault::Timeout(deadline)))
    }

    /// As the operator wrote it.
    pub(crate) fn describe(&self) -> String {
        match self {
            Self::Url(source) => source.url.to_string(),
            Self::Discovered(discovery) => discovery.describe(),
            Self::File(source) => source.path.display().to_string(),
            Self::Inline => "the configuration".into(),
            Self::Secrets => "secrets of the configuration".into(),
        }
    }
}

/// A document behind a URL.
#[derive(Debug)]
pub(crate) struct UrlSource {
    url: Uri,
    client: HttpClient,
}

impl UrlSource {
    /// A source at `url`. The error says what is wrong with the URL.
    pub(crate) fn new(url: &str, client: HttpClient) -> Result<Self, String> {
        let url: Uri = url.parse().map_err(|error| format!("{url:?} is not a URL: {error}"))?;
        Ok(Self { url, client })
    }

    /// Gets the document in time; `None` if it is still the one of `etag`.
    pub(crate) async fn get_if_changed(
        &self,
        wanted: Document,
        etag: Option<&HeaderValue>,
    ) -> Result<Option<Fetched>, FetchFault> {
        let timeout = self.client.timeout;
        let got = tokio::time::timeout(timeout, self.client.get_if_changed(&self.url, wanted, etag)).await;
        got.unwrap_or(Err(FetchFault::Timeout(timeout)))
    }
}

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Document {
    KeySet,
    Metadata,
    Revocations,
}

impl Document {
    const fn accept(self) -> &'static str {
        match self {
            Self::KeySet => "application/jwk-set+json, application/json",
            Self::Metadata => "application/json",
            Self::Revocations => "application/jsonl, application/json",
        }
    }
}

/// Gets documents, each over a connection of its own.
#[derive(Debug)]
pub(crate) struct HttpClient {
    connector: TowerToHyperService<HttpsConnector<HttpConnector>>,
    /// The time for all that one attempt takes. It is the caller who keeps it.
    pub(crate) timeout: Duration,
    max_size: usize,
}

impl HttpClient {
    /// A client that trusts `roots`, and takes documents of at most `max_size` bytes.
    pub(crate) fn new(roots: Arc<RootCertStore>, timeout: Duration, max_size: usize) -> Result<Self, String> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| format!("no TLS: {error}"))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(timeout));
        let connector =
            HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1().wrap_connector(tcp);
        Ok(Self { connector: TowerToHyperService::new(connector), timeout, max_size })
    }

    /// Gets what is at `url`, within the bound of size and without one of time.
    pub(crate) async fn get(&self, url: &Uri, wanted: Document) -> Result<Fetched, FetchFault> {
        // Unasked for, an answer that it is unchanged is none.
        self.get_if_changed(url, wanted, None).await?.ok_or(FetchFault::Status(StatusCode::NOT_MODIFIED))
    }

    /// The same, unless it is still the document of `etag`.
    pub(crate) async fn get_if_changed(
        &self,
        url: &Uri,
        wanted: Document,
        etag: Option<&HeaderValue>,
    ) -> Result<Option<Fetched>, FetchFault> {
        let authority = url.authority().map_or("", |authority| authority.as_str());
        let io = self.connector.call(url.clone()).await.map_err(|error| FetchFault::Connect(chain(&*error)))?;
        let (mut sender, connection) = http1::Builder::new()
            .max_buf_size(64 * 1024)
            .handshake(io)
            .await
            .map_err(|error| FetchFault::Connect(chain(&error)))?;
        let path = url.path_and_query().map_or("/", |path| path.as_str());
        let mut request =
            Request::get(path).header(HOST, authority).header(ACCEPT, wanted.accept()).header(USER_AGENT, "sluice");
        if let Some(etag) = etag {
            request = request.header(IF_NONE_MATCH, etag);
        }
        let request = request.body(Empty::<Bytes>::new()).map_err(|error| FetchFault::Transfer(error.to_string()))?;
        let exchange = async {
            let response = sender.send_request(request).await.map_err(|error| FetchFault::Transfer(chain(&error)))?;
            match response.status() {
                StatusCode::OK => {
                    let max_age = freshness::max_age(response.headers());
                    let etag = response.headers().get(ETAG).cloned();
                    Ok(Some(Fetched { document: self.collect(response.into_body()).await?, max_age, etag }))
                }
                StatusCode::NOT_MODIFIED if etag.is_some() => Ok(None),
                status => Err(FetchFault::Status(status)),
            }
        };
        // The connection is driven here and not by a task of its own; when it ends first, what it read is still there for
        // the exchange to take.
        let driver = async {
            let _ = connection.await;
            std::future::pending::<()>().await;
        };
        tokio::select! {
            outcome = exchange => outcome,
            () = driver => Err(FetchFault::Transfer("the connection ended".into())),
        }
    }

    async fn collect(&self, mut body: hyper::body::Incoming) -> Result<Bytes, FetchFault> {
        let mut document = Vec::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| FetchFault::Transfer(chain(&error)))?;
            if let Ok(data) = frame.into_data() {
                if document.len() + data.len() > self.max_size {
                    return Err(FetchFault::TooLarge(self.max_size));
                }
                document.extend_from_slice(&data);
            }
        }
        Ok(document.into())
    }
}

/// A key set in a file.
#[derive(Debug)]
pub(crate) struct FileSource {
    path: PathBuf,
    timeout: Duration,
    max_size: usize,
    /// Held while it is read, however long its reader waits for that.
    reading: Arc<Mutex<()>>,
    /// Held while its stamp is looked at.
    looking: Arc<Mutex<()>>,
}

/// What changes when a file does, be it written over or replaced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FileStamp {
    modified: Option<SystemTime>,
    length: u64,
    inode: u64,
}

impl FileSource {
    pub(crate) fn new(path: PathBuf, timeout: Duration, max_size: usize) -> Self {
        Self { path, timeout, max_size, reading: Arc::default(), looking: Arc::default() }
    }

    async fn read(&self) -> Result<Fetched, FetchFault> {
        let fault = |cause| FetchFault::File { path: self.path.display().to_string(), cause };
        let (path, reading) = (self.path.clone(), Arc::clone(&self.reading));
        // One byte more than allowed tells a file that fits from one that does not.
        let most = self.max_size as u64 + 1;
        let work = tokio::task::spawn_blocking(move || {
            // One that hangs must not gather others behind it.
            let _reading = reading.try_lock().ok_or_else(|| io::Error::other("it is still being read"))?;
            let mut document = Vec::new();
            open_file(&path)?.take(most).read_to_end(&mut document)?;
            Ok(document)
        });
        let document = work.await.unwrap_or_else(|error| Err(io::Error::other(error))).map_err(fault)?;
        if document.len() > self.max_size {
            return Err(FetchFault::TooLarge(self.max_size));
        }
        Ok(Fetched { document: document.into(), max_age: None, etag: None })
    }

    /// The file's stamp now; `None` where there is no file, and where its file system does not say in time.
    pub(crate) async fn stamp(&self) -> Option<FileStamp> {
        use std::os::unix::fs::MetadataExt as _;
        let (path, looking) = (self.path.clone(), Arc::clone(&self.looking));
        let work = tokio::task::spawn_blocking(move || {
            // One that hangs must not gather others behind it.
            let _looking = looking.try_lock()?;
            let metadata = std::fs::metadata(path).ok()?;
            Some(FileStamp { modified: metadata.modified().ok(), length: metadata.len(), inode: metadata.ino() })
        });
        tokio::time::timeout(self.timeout, work).await.ok()?.ok()?
    }
}

/// Opens a file to be read. What is no file is refused at once: a pipe that nobody writes to would hold its reader for ever,
/// at its opening already.
pub(crate) fn open_file(path: &Path) -> io::Result<File> {
    let file = File::options().read(true).custom_flags(OFlags::NONBLOCK.bits().cast_signed()).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file"));
    }
    Ok(file)
}

/// The roots in a PEM file. The error says what is wrong.
pub(crate) fn roots_from_file(path: &Path) -> Result<RootCertStore, String> {
    let at = path.display();
    let certificates = CertificateDer::pem_file_iter(path).map_err(|error| format!("cannot read {at}: {error}"))?;
    let mut roots = RootCertStore::empty();
    for certificate in certificates {
        let certificate = certificate.map_err(|error| format!("{at} is not PEM: {error}"))?;
        roots.add(certificate).map_err(|error| format!("{at} holds a certificate that cannot be trusted: {error}"))?;
    }
    if roots.is_empty() {
        return Err(format!("{at} holds no certificate"));
    }
    Ok(roots)
}

/// The system's roots. The error says why there are none.
pub(crate) fn system_roots() -> Result<RootCertStore, String> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        let cause = found.errors.first().map_or("none is installed".into(), ToString::to_string);
        return Err(format!("the system has no certificate authorities: {cause}"));
    }
    Ok(roots)
}

/// An error with its causes, since libraries put the telling one last.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::await_holding_lock, reason = "tests")]
    use super::*;

    #[tokio::test]
    async fn a_pipe_that_nobody_writes_to_holds_nobody() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("jwks.json");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        let source = FileSource::new(pipe, Duration::from_secs(5), 1024);
        let read = tokio::time::timeout(Duration::from_secs(5), source.read()).await.unwrap();
        assert!(read.unwrap_err().to_string().contains("not a regular file"));
    }

    #[tokio::test]
    async fn a_look_at_a_file_that_hangs_gathers_none_behind_it() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("jwks.json");
        std::fs::write(&file, "{}").unwrap();
        let source = FileSource::new(file, Duration::from_secs(5), 1024);
        let hangs = source.looking.lock();
        assert!(source.stamp().await.is_none());
        drop(hangs);
        assert!(source.stamp().await.is_some());
    }

    #[tokio::test]
    async fn a_file_that_is_still_being_read_is_not_read_twice_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("jwks.json");
        std::fs::write(&path, "{}").unwrap();
        let source = FileSource::new(path, Duration::from_secs(5), 1024);
        let hangs = source.reading.lock();
        assert!(source.read().await.unwrap_err().to_string().contains("still being read"));
        drop(hangs);
        assert_eq!(source.read().await.unwrap().document, "{}");
    }
}
