//! Requests to other services.
//!
//! A plugin's phase waits for the answer without holding a thread: the exchange is a task of the background runtime, which
//! ends with the call that waits for it. What bounds it: the origins that were granted, the addresses that their names may
//! lead to, sizes, how many are under way at once, and how long a phase may wait in all.

mod address;
mod client;
mod grant;
mod origin;
mod question;
mod resolver;

use std::collections::BTreeMap;
use std::path::{Path as FilePath, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use prometheus_client::metrics::counter::Counter;
use rustls::RootCertStore;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use serde_json::{Value, json};
use sluice_vocabulary::clock::Clock;
use sluice_vocabulary::histogram::DurationHistogram;
use sluice_vocabulary::{Fault, Path, PluginName};
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinHandle;
use wasmtime::Trap;

use crate::call::Call;
use crate::contract::outbound_http::{self, OutboundFault, OutboundRequest, OutboundResponse};
use crate::failure::Misuse;

use client::{Client, NoAnswer};
pub use grant::HttpGrant;
pub use origin::Origin;
use question::Question;
use resolver::Checked;
pub use resolver::{Resolver, SystemResolver};

/// The largest file of certificate authorities that is read.
const LARGEST_CA: u64 = 1024 * 1024;

/// What became of a request, as the `result` label of its metric names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
pub(crate) enum Outcome {
    Success,
    Redirect,
    ClientError,
    ServerError,
    Invalid,
    NotGranted,
    PrivateAddress,
    TooMany,
    Timeout,
    Unreachable,
    BadResponse,
    /// Nobody waited for it any more: the client was gone, or the phase had had its time.
    Cancelled,
}

impl Outcome {
    pub(crate) const ALL: [Self; 12] = [
        Self::Success,
        Self::Redirect,
        Self::ClientError,
        Self::ServerError,
        Self::Invalid,
        Self::NotGranted,
        Self::PrivateAddress,
        Self::TooMany,
        Self::Timeout,
        Self::Unreachable,
        Self::BadResponse,
        Self::Cancelled,
    ];

    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Success => "2xx",
            Self::Redirect => "3xx",
            Self::ClientError => "4xx",
            Self::ServerError => "5xx",
            Self::Invalid => "invalid",
            Self::NotGranted => "not_granted",
            Self::PrivateAddress => "private_address",
            Self::TooMany => "too_many",
            Self::Timeout => "timeout",
            Self::Unreachable => "unreachable",
            Self::BadResponse => "bad_response",
            Self::Cancelled => "cancelled",
        }
    }

    const fn of(result: &Result<OutboundResponse, NoAnswer>) -> Self {
        match result {
            Ok(OutboundResponse { status: ..300, .. }) => Self::Success,
            Ok(OutboundResponse { status: ..400, .. }) => Self::Redirect,
            Ok(OutboundResponse { status: ..500, .. }) => Self::ClientError,
            Ok(_) => Self::ServerError,
            Err(NoAnswer { fault, .. }) => match fault {
                OutboundFault::Invalid => Self::Invalid,
                OutboundFault::NotGranted => Self::NotGranted,
                OutboundFault::PrivateAddress => Self::PrivateAddress,
                OutboundFault::TooMany => Self::TooMany,
                OutboundFault::Timeout => Self::Timeout,
                OutboundFault::Unreachable => Self::Unreachable,
                OutboundFault::BadResponse => Self::BadResponse,
            },
        }
    }
}

/// One plugin's handles.
#[derive(Debug)]
pub(crate) struct OutboundMetrics {
    pub(crate) results: [Counter; Outcome::ALL.len()],
    pub(crate) duration: DurationHistogram,
}

impl OutboundMetrics {
    const fn result(&self, outcome: Outcome) -> &Counter {
        &self.results[outcome as usize]
    }
}

/// What one plugin asks other services through.
#[derive(Debug)]
pub(crate) struct Outbound {
    grant: HttpGrant,
    /// What the file of certificate authorities held.
    ca: Option<Vec<u8>>,
    client: Arc<Client>,
    /// Requests that may be under way.
    places: Arc<Semaphore>,
    background: Handle,
    metrics: OutboundMetrics,
    /// Why the last request that had no answer had none.
    last_fault: Mutex<Option<String>>,
}

/// A request that was found good and is about to be sent.
struct Ready {
    question: Question,
    place: OwnedSemaphorePermit,
    bound: Duration,
}

impl Outbound {
    /// Whether it may be sent now.
    fn ready(&self, asked: OutboundRequest, left: Duration) -> Result<Ready, NoAnswer> {
        let no = |fault, why: &str| NoAnswer { fault, why: why.to_owned() };
        let wanted = asked.timeout.map_or(left, |millis| Duration::from_millis(millis.into()));
        let question = Question::of(asked).map_err(|why| no(OutboundFault::Invalid, why))?;
        if !self.grant.origins.contains(&question.origin) {
            let why = format!("{} was not granted", question.origin);
            return Err(NoAnswer { fault: OutboundFault::NotGranted, why });
        }
        let bound = wanted.min(left);
        if bound.is_zero() {
            return Err(no(OutboundFault::Timeout, "there is no time left to wait"));
        }
        let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else {
            return Err(no(OutboundFault::TooMany, "as many are under way as may be"));
        };
        Ok(Ready { question, place, bound })
    }

    /// Sends it and waits, elsewhere; it ends when this is dropped.
    async fn answer(&self, ready: Ready) -> Result<OutboundResponse, NoAnswer> {
        let Ready { question, place, bound } = ready;
        let client = Arc::clone(&self.client);
        let origin = question.origin.clone();
        let exchange = self.background.spawn(async move {
            // Given back when the exchange has ended, however it does.
            let _place = place;
            match tokio::time::timeout(bound, client.ask(question)).await {
                Ok(answered) => answered,
                Err(_) => {
                    let why = format!("no answer within {} ms", bound.as_millis());
                    Err(NoAnswer { fault: OutboundFault::Timeout, why })
                }
            }
        });
        let ended = match EndsWhenDropped(exchange).await {
            Ok(answered) => answered,
            Err(error) => Err(NoAnswer { fault: OutboundFault::Unreachable, why: format!("it was not made: {error}") }),
        };
        ended.map_err(|no_answer| NoAnswer { why: format!("{origin}: {}", no_answer.why), ..no_answer })
    }

    /// For the operator's page.
    pub(crate) fn inspect(&self) -> Value {
        let told = |outcome: Outcome| (outcome.as_str().to_owned(), json!(self.metrics.result(outcome).get()));
        let results: serde_json::Map<String, Value> = Outcome::ALL.map(told).into_iter().collect();
        let (count, sum) = self.metrics.duration.totals();
        let mean_micros = if count == 0 { 0.0 } else { sum.as_secs_f64() * 1e6 / count as f64 };
        json!({
            "under_way": (self.grant.concurrency as usize).saturating_sub(self.places.available_permits()),
            "limit": self.grant.concurrency,
            "results": results,
            "mean_micros": mean_micros,
            "last_fault": *self.last_fault.lock(),
        })
    }

    fn is_of(&self, grant: &HttpGrant, ca: Option<&Vec<u8>>) -> bool {
        self.grant == *grant && self.ca.as_ref() == ca
    }
}

/// Counts a request when it is over, also if nobody waits for it any more.
struct Counted<'a> {
    metrics: &'a OutboundMetrics,
    outcome: Outcome,
    clock: &'a dyn Clock,
    /// When it was sent, if it was.
    sent: Option<Instant>,
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.metrics.result(self.outcome).inc();
        if let Some(sent) = self.sent {
            self.metrics.duration.observe(self.clock.now().saturating_duration_since(sent));
        }
    }
}

impl outbound_http::Host for Call {
    async fn send(&mut self, asked: OutboundRequest) -> wasmtime::Result<Result<OutboundResponse, OutboundFault>> {
        let phase = self.subject.phase();
        // Linked only where there is one.
        let Some(outbound) = self.shared.outbound.clone().filter(|_| phase.may_wait()) else {
            return Err(Misuse::CannotWait(phase).into());
        };
        let clock = Arc::clone(&self.shared.host.clock);
        let mut counted =
            Counted { metrics: &outbound.metrics, outcome: Outcome::Cancelled, clock: &*clock, sent: None };
        let result = match outbound.ready(asked, self.may_wait) {
            Ok(ready) => {
                let sent = clock.now();
                if !self.running.pauses(sent) {
                    return Err(Trap::Interrupt.into());
                }
                counted.sent = Some(sent);
                let answered = outbound.answer(ready).await;
                let now = clock.now();
                self.may_wait = self.may_wait.saturating_sub(now.saturating_duration_since(sent));
                self.running.resumes(now);
                answered
            }
            Err(no_answer) => Err(no_answer),
        };
        counted.outcome = Outcome::of(&result);
        drop(counted);
        Ok(result.map_err(|NoAnswer { fault, why }| {
            tracing::debug!(plugin = %self.shared.name, %phase, request.id = %self.who.request_id, %why, "a plugin's request has no answer");
            *outbound.last_fault.lock() = Some(why);
            fault
        }))
    }
}

/// A task that ends when nobody waits for it.
struct EndsWhenDropped<T>(JoinHandle<T>);

impl<T> Future for EndsWhenDropped<T> {
    type Output = Result<T, tokio::task::JoinError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(context)
    }
}

impl<T> Drop for EndsWhenDropped<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Why a plugin's services could not be asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NoClient {
    #[error("cannot read {file}: {why}")]
    Ca { file: String, why: String },
    #[error("the system has no certificate authorities: {0}")]
    NoAuthorities(String),
    #[error("no TLS: {0}")]
    Tls(#[from] rustls::Error),
    #[error("the gateway stops")]
    Stopped,
}

impl NoClient {
    /// As a fault of the configuration; the grant is at `at`.
    pub(crate) fn fault(&self, at: &Path) -> Fault {
        match self {
            Self::Ca { .. } => Fault::error(&at.key("ca"), self.to_string())
                .help("give a PEM file with the certificates of those who vouch for these origins"),
            Self::NoAuthorities(_) => {
                Fault::error(at, self.to_string()).help("install them (ca-certificates), or name a file by `ca`")
            }
            Self::Tls(_) | Self::Stopped => Fault::error(at, self.to_string()),
        }
    }
}

/// One plugin's wish: its grant, what it had before, its metrics.
pub(crate) type Wanted = (PluginName, HttpGrant, Option<Arc<Outbound>>, OutboundMetrics);

/// Makes clients.
#[derive(Debug, Clone)]
pub(crate) struct Clients {
    background: Handle,
    resolver: Arc<dyn Resolver>,
}

impl Clients {
    pub(crate) const fn new(background: Handle, resolver: Arc<dyn Resolver>) -> Self {
        Self { background, resolver }
    }

    /// A client for each; the one of before where nothing about it changed, with its connections. Relative paths start at
    /// `base`. Files are read where waiting for the disk holds up nobody.
    pub(crate) async fn of(
        &self,
        wanted: Vec<Wanted>,
        base: PathBuf,
    ) -> BTreeMap<PluginName, Result<Arc<Outbound>, NoClient>> {
        let names: Vec<_> = wanted.iter().map(|(name, ..)| name.clone()).collect();
        let clients = self.clone();
        let made = self.background.spawn_blocking(move || {
            let mut system = None;
            wanted
                .into_iter()
                .map(|(name, grant, before, metrics)| (name, clients.one(grant, before, metrics, &base, &mut system)))
                .collect()
        });
        made.await.unwrap_or_else(|_| names.into_iter().map(|name| (name, Err(NoClient::Stopped))).collect())
    }

    fn one(
        &self,
        grant: HttpGrant,
        before: Option<Arc<Outbound>>,
        metrics: OutboundMetrics,
        base: &FilePath,
        system: &mut Option<Arc<RootCertStore>>,
    ) -> Result<Arc<Outbound>, NoClient> {
        let ca = grant.ca.as_ref().map(|file| base.join(file));
        let pem = ca.as_deref().map(read).transpose()?;
        if let Some(same) = before.filter(|before| before.is_of(&grant, pem.as_ref())) {
            return Ok(same);
        }
        let roots = match (&ca, &pem, &system) {
            (Some(file), Some(pem), _) => Arc::new(roots_of(file, pem)?),
            _ if !grant.origins.iter().any(Origin::is_secure) => Arc::new(RootCertStore::empty()),
            (_, _, Some(roots)) => Arc::clone(roots),
            (_, _, None) => Arc::clone(system.insert(Arc::new(system_roots()?))),
        };
        let names = Checked {
            resolver: Arc::clone(&self.resolver),
            background: self.background.clone(),
            private: grant.private,
            lookups: Arc::new(Semaphore::new(grant.concurrency as usize)),
        };
        Ok(Arc::new(Outbound {
            client: Arc::new(Client::new(names, roots, self.background.clone())?),
            places: Arc::new(Semaphore::new(grant.concurrency as usize)),
            background: self.background.clone(),
            metrics,
            last_fault: Mutex::default(),
            grant,
            ca: pem,
        }))
    }
}

fn read(file: &FilePath) -> Result<Vec<u8>, NoClient> {
    use std::io::Read as _;
    let unreadable = |why: String| NoClient::Ca { file: file.display().to_string(), why };
    let mut bytes = Vec::new();
    let opened = std::fs::File::open(file).map_err(|error| unreadable(error.to_string()))?;
    opened.take(LARGEST_CA + 1).read_to_end(&mut bytes).map_err(|error| unreadable(error.to_string()))?;
    if bytes.len() as u64 > LARGEST_CA {
        return Err(unreadable(format!("it has more than {LARGEST_CA} bytes")));
    }
    Ok(bytes)
}

fn roots_of(file: &FilePath, pem: &[u8]) -> Result<RootCertStore, NoClient> {
    let bad = |why: String| NoClient::Ca { file: file.display().to_string(), why };
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let certificate = certificate.map_err(|error| bad(error.to_string()))?;
        roots.add(certificate).map_err(|error| bad(error.to_string()))?;
    }
    if roots.is_empty() { Err(bad("it holds no certificate".to_owned())) } else { Ok(roots) }
}

fn system_roots() -> Result<RootCertStore, NoClient> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        let why = found.errors.first().map_or_else(|| "none is installed".to_owned(), ToString::to_string);
        return Err(NoClient::NoAuthorities(why));
    }
    Ok(roots)
}
