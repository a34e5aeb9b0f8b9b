//! What the deciders that ask other services have in common: whom they ask, how long, how often at once, and when no more.
//!
//! [`Service`] is one service behind all its bounds: a place among the calls under way, leave from the breaker, the call
//! itself within its time, and the answer read strictly. Whatever goes wrong is a [`RemoteFault`], which is never a verdict:
//! who cannot be heard has not said no. [`flights`] lets requests with the same question share it, [`cache`] keeps answers.

pub(crate) mod breaker;
pub(crate) mod cache;
pub(crate) mod config;
pub(crate) mod flights;
pub(crate) mod metrics;

use std::path::{Path as FilePath, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Request, StatusCode};
use http_body_util::Full;
use parking_lot::Mutex;
use rustls::RootCertStore;
use serde_json::{Value, json};
use sluice_vocabulary::clock::Clock;
use sluice_vocabulary::{Reason, Refusal};
use tokio::runtime::Handle;
use tokio::sync::{Notify, Semaphore};

use crate::client::{Answer, CallFault, Client};
use crate::fetch;
use crate::remotes::SystemRoots;
use breaker::Breaker;
use config::Bounds;
use flights::Grounded;
use metrics::CallMetrics;

/// The largest body taken from a service.
const MAX_BODY: usize = 64 * 1024;

/// Why a service said nothing that counts.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RemoteFault {
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    #[error(transparent)]
    Call(#[from] CallFault),
    #[error("status {0}, expected {1}")]
    Status(StatusCode, &'static str),
    #[error("the answer is not as it must be: {0}")]
    Malformed(Arc<str>),
    #[error("it failed too often of late, and is asked again in {0:?}")]
    Resting(Duration),
    #[error("too many requests wait for it")]
    Crowded,
    #[error("the call was lost")]
    Lost,
}

impl RemoteFault {
    /// Every value of [`Self::slug`].
    pub(crate) const SLUGS: [&'static str; 9] =
        ["timeout", "connect", "transfer", "too-large", "status", "malformed", "resting", "crowded", "lost"];

    /// The stable name, for metrics.
    pub(crate) const fn slug(&self) -> &'static str {
        match self {
            Self::Timeout(_) => "timeout",
            Self::Call(CallFault::Connect(_)) => "connect",
            Self::Call(CallFault::Transfer(_)) => "transfer",
            Self::Call(CallFault::TooLarge(_)) => "too-large",
            Self::Status(..) => "status",
            Self::Malformed(_) => "malformed",
            Self::Resting(_) => "resting",
            Self::Crowded => "crowded",
            Self::Lost => "lost",
        }
    }

    /// The answer to a request that could not be decided. `who` is the service in the operator's words.
    pub(crate) fn refusal(&self, reason: Reason, who: &str) -> Refusal {
        let wait = match self {
            Self::Resting(left) => left.as_secs() + u64::from(left.subsec_nanos() > 0),
            _ => 1,
        };
        Refusal::new(reason)
            .header(http::header::RETRY_AFTER, HeaderValue::from(wait.max(1)))
            .internal(format!("{who}: {self}"))
    }
}

impl From<Grounded> for RemoteFault {
    fn from(grounded: Grounded) -> Self {
        match grounded {
            Grounded::Full => Self::Crowded,
            Grounded::Lost => Self::Lost,
        }
    }
}

/// What a service needs of its surroundings.
#[derive(Debug, Clone)]
pub(crate) struct Surroundings {
    pub(crate) clock: Arc<dyn Clock>,
    /// Where relative file names begin.
    pub(crate) base_dir: PathBuf,
    /// The runtime that calls run on.
    pub(crate) background: Handle,
    /// Told when a breaker opens or closes.
    pub(crate) changed: Arc<Notify>,
}

/// One service, behind all its bounds.
#[derive(Debug)]
pub(crate) struct Service {
    client: Client,
    timeout: Duration,
    places: Semaphore,
    breaker: Breaker,
    clock: Arc<dyn Clock>,
    metrics: CallMetrics,
    last_error: Mutex<Option<Arc<str>>>,
}

impl Service {
    /// The service at `url`. The error is fit for the operator.
    pub(crate) fn new(
        url: &str,
        roots: Arc<RootCertStore>,
        bounds: &Bounds<'_>,
        around: &Surroundings,
        metrics: CallMetrics,
    ) -> Result<Self, String> {
        let timeout = bounds.timeout.get();
        let in_flight = bounds.max_in_flight as usize;
        let breaker = Breaker::new(
            bounds.breaker.failures,
            bounds.breaker.rest.get(),
            metrics.breaker_open.clone(),
            Arc::clone(&around.changed),
        );
        Ok(Self {
            client: Client::new(url, roots, timeout, in_flight, MAX_BODY, around.background.clone())?,
            timeout,
            places: Semaphore::new(in_flight),
            breaker,
            clock: Arc::clone(&around.clock),
            metrics,
            last_error: Mutex::default(),
        })
    }

    /// Asks, and reads the answer with `read`. What `read` refuses counts against the service. To be called on the
    /// background runtime; ends within twice the timeout: once for a place, once for the call.
    pub(crate) async fn ask<T>(
        &self,
        request: Request<Full<Bytes>>,
        read: impl FnOnce(Answer) -> Result<T, RemoteFault>,
    ) -> Result<T, RemoteFault> {
        let outcome = self.ask_uncounted(request, read).await;
        self.metrics.ended(outcome.as_ref().map(|_| ()));
        outcome
    }

    async fn ask_uncounted<T>(
        &self,
        request: Request<Full<Bytes>>,
        read: impl FnOnce(Answer) -> Result<T, RemoteFault>,
    ) -> Result<T, RemoteFault> {
        let place = tokio::time::timeout(self.timeout, self.places.acquire()).await;
        let Ok(Ok(_place)) = place else { return Err(RemoteFault::Crowded) };
        let began = self.clock.now();
        let pass = self.breaker.enter(began).map_err(RemoteFault::Resting)?;
        let _flying = self.metrics.flying();
        let answer = match tokio::time::timeout(self.timeout, self.client.call(request)).await {
            Ok(answer) => answer.map_err(RemoteFault::from),
            Err(_) => Err(RemoteFault::Timeout(self.timeout)),
        };
        let outcome = answer.and_then(read);
        let now = self.clock.now();
        *self.last_error.lock() = outcome.as_ref().err().map(|fault| fault.to_string().into());
        pass.end(outcome.is_ok(), now);
        self.metrics.took(now.saturating_duration_since(began));
        outcome
    }

    /// Whether it is not worth asking now. It spares a request the way through the background.
    pub(crate) fn rests(&self) -> Result<(), RemoteFault> {
        match self.breaker.rests(self.clock.now()) {
            Some(left) => {
                let fault = RemoteFault::Resting(left);
                self.metrics.ended(Err(&fault));
                Err(fault)
            }
            None => Ok(()),
        }
    }

    /// What keeps it from being heard, if anything does.
    pub(crate) fn complaint(&self) -> Option<String> {
        if self.breaker.is_closed() {
            return None;
        }
        let error = self.last_error.lock().clone();
        Some(format!("{} cannot be heard: {}", self.client.url(), error.as_deref().unwrap_or("it failed too often")))
    }

    /// Its part of the operator's page.
    pub(crate) fn inspect(&self) -> Value {
        json!({
            "url": self.client.url().to_string(),
            "breaker": self.breaker.name(self.clock.now()),
            "in_flight": self.metrics.in_flight.get(),
            "last_error": self.last_error.lock().as_deref(),
        })
    }
}

/// The roots to trust for `url`: those of the file `ca`, or the system's by `system_roots`. Roots cost tens of milliseconds
/// to read, which a cleartext URL need not pay.
pub(crate) fn roots(
    url: &str,
    ca: Option<&FilePath>,
    base_dir: &FilePath,
    system_roots: SystemRoots<'_>,
) -> Result<Arc<RootCertStore>, String> {
    match ca {
        Some(ca) => fetch::roots_from_file(&base_dir.join(ca)).map(Arc::new),
        None if url.starts_with("http:") => Ok(Arc::new(RootCertStore::empty())),
        None => system_roots(),
    }
}
