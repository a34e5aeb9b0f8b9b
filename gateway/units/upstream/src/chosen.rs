//! One try of one request at one endpoint.
//!
//! The request path holds a [`Chosen`] from the choice of the endpoint until the answer is complete, and tells it what
//! happens, in this order:
//!
//! ```text
//! upstream_peer            chosen.peer(limits)
//! connected_to_upstream    chosen.connected(fd, reused)
//! upstream_request_filter  chosen.sending(version, now)
//! request_body_filter      chosen.progress()
//! upstream_response_filter chosen.answered(header, now)
//! response_body_filter     chosen.progress()
//! fail_to_connect, error_while_proxy   chosen.failed(error, …)
//! logging                  drop(chosen)
//! ```
//!
//! Each call costs a few atomics. Where a moment is measured the caller, who has just read the clock, hands it in;
//! deadlines go by the coarse clock. The drop settles the account: the endpoint's place, its failures and its ejection, the
//! outcome's counter.

use std::os::fd::RawFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{Method, StatusCode, Version};
use pingora_core::upstreams::peer::HttpPeer;
use pingora_error::{Error, ErrorType};
use pingora_http::ResponseHeader;
use sluice_vocabulary::deadline::TryLimits;
use sluice_vocabulary::{Refusal, UpstreamName};

use crate::cluster::{Cluster, Tried};
use crate::config::Protocol;
use crate::endpoint::Endpoint;
use crate::failure::{Failure, Outcome, classify, disowned};
use crate::line::{Awaiting, Line};
use crate::peer::pool_key;
use crate::retry::{Attempt, NoRetry, Retry, decide};
use crate::time::{Epoch, Ticks};

/// One try of one request at one endpoint; see the module.
#[derive(Debug)]
#[must_use = "dropping it gives the endpoint's place away"]
pub struct Chosen {
    cluster: Arc<Cluster>,
    endpoint: Arc<Endpoint>,
    line: Option<Arc<Line>>,
    /// Which request of its line this is.
    number: u32,
    key: u64,
    begun: bool,
    connected: bool,
    reused: bool,
    /// Only HTTP/1 has its connection to itself.
    alone: bool,
    sent: Option<Ticks>,
    response: Ticks,
    idle: Ticks,
    ends: Option<Ticks>,
    status: Option<StatusCode>,
    failure: Option<Failure>,
}

/// What a failed try comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verdict {
    /// What went wrong; its `reason()` is for the client.
    pub failure: Failure,
    /// Whether to try again.
    pub retry: Retry,
}

impl Chosen {
    pub(crate) fn new(cluster: Arc<Cluster>, endpoint: Arc<Endpoint>) -> Self {
        cluster.lasting.metrics.active.inc();
        Self {
            cluster,
            endpoint,
            line: None,
            number: 0,
            key: 0,
            begun: false,
            connected: false,
            reused: false,
            alone: false,
            sent: None,
            response: 0,
            idle: 0,
            ends: None,
            status: None,
            failure: None,
        }
    }

    /// The upstream's name.
    pub fn upstream(&self) -> &UpstreamName {
        &self.cluster.name
    }

    /// The endpoint's address.
    pub fn endpoint(&self) -> std::net::SocketAddr {
        self.endpoint.state.address
    }

    /// Whether the try went out on a connection that had served before.
    pub fn reused(&self) -> bool {
        self.reused
    }

    /// The status of its answer, once that is there.
    pub fn status(&self) -> Option<StatusCode> {
        self.status
    }

    /// The peer to hand to Pingora, held to these limits.
    pub fn peer(&mut self, limits: &TryLimits) -> Box<HttpPeer> {
        self.response = Epoch::length(limits.response);
        self.idle = Epoch::length(limits.idle);
        self.ends = limits.ends.map(|ends| self.cluster.core.epoch.at(ends));
        let state = &self.endpoint.state;
        let mut peer = Box::new(self.endpoint.peer.clone());
        peer.group_key = pool_key(peer.group_key, state);
        self.key = peer.group_key;
        let options = &mut peer.options;
        options.total_connection_timeout = Some(limits.establish);
        // Over HTTP/1 the line keeps time, without a timer for each read. Over HTTP/2 this is the only guard; it counts from
        // the request's header and does not see what the client sends: a stream may well be silent while its client speaks.
        options.read_timeout = (self.cluster.config.protocol != Protocol::Http1).then(|| {
            let silence = limits.response.max(limits.idle);
            if limits.ends.is_none() { silence.max(self.cluster.timeouts().upgraded_idle) } else { silence }
        });
        options.write_timeout = Some(limits.idle);
        let round_trip = self.cluster.core.round_trip(state.address);
        options.idle_timeout = Some(state.learned.idle_timeout(self.cluster.config.idle_timeout, round_trip));
        peer
    }

    /// There is a connection.
    pub fn connected(&mut self, fd: RawFd, reused: bool) {
        self.connected = true;
        self.reused = reused;
        let metrics = &self.cluster.lasting.metrics;
        if reused { &metrics.connections_reused } else { &metrics.connections_new }.inc();
        self.line = self.cluster.core.lines.get(fd);
    }

    /// The request's header is about to be sent, at `now` and in this version of HTTP.
    pub fn sending(&mut self, version: Version, now: Instant) {
        let now = self.cluster.core.epoch.at(now);
        self.sent = Some(now);
        self.alone = version != Version::HTTP_2;
        if let Some(line) = &self.line {
            self.number = line.begin(self.key);
            self.begun = true;
            if self.alone {
                line.ends(self.ends);
                line.expect(Awaiting::Header, now.saturating_add(self.response));
            }
        }
    }

    /// A piece of a body passed, in either direction.
    pub fn progress(&self) {
        if self.alone
            && let Some(line) = &self.line
        {
            let (awaiting, patience) = match self.status {
                // The time for the answer counts from the end of the request.
                None => (Awaiting::Header, self.response),
                Some(_) => (Awaiting::Body, self.idle),
            };
            line.expect(awaiting, self.cluster.core.epoch.coarse().saturating_add(patience));
        }
    }

    /// A response header came at `now`. Informational ones (1xx, but for 101) are not the answer yet, and buy no time.
    pub fn answered(&mut self, header: &ResponseHeader, now: Instant) {
        let informational = header.status.is_informational() && header.status != StatusCode::SWITCHING_PROTOCOLS;
        if informational {
            return;
        }
        self.status = Some(header.status);
        self.endpoint.state.learned.read(&header.headers);
        let now = self.cluster.core.epoch.at(now);
        if let Some(took) = self.took(now) {
            self.endpoint.state.latency.record(took, now);
            self.cluster.lasting.metrics.response.observe(took);
        }
        self.progress();
    }

    /// The try failed: what it comes to. `tried` is told of this endpoint, for the next choice; `replayable` says whether
    /// the request's body, if any, is held still.
    ///
    /// Set the error's retry flag to the verdict's. To be called in `fail_to_connect` and `error_while_proxy`, once.
    pub fn failed(&mut self, error: &Error, method: &Method, tried: &mut Tried, replayable: bool) -> Verdict {
        tried.add(self.endpoint());
        let cut = self.line.as_ref().is_some_and(|line| line.was_cut());
        let failure = match classify(error) {
            Failure::Reset | Failure::Protocol if cut => Failure::Timeout,
            failure => failure,
        };
        self.failure = Some(failure);
        let now = self.cluster.core.epoch.now();
        if failure == Failure::Timeout
            && let Some(took) = self.took(now)
            && self.status.is_none()
        {
            self.endpoint.state.latency.record(took, now);
        }
        let attempt = Attempt {
            method,
            tries: tried.count(),
            failure,
            may_be_sent: self.connected,
            disowned: disowned(error),
            answered: self.status.is_some(),
            replayable,
        };
        let lasting = &self.cluster.lasting;
        let retry = decide(&attempt, &self.cluster.config.retries, &lasting.budget);
        match retry {
            Retry::SameRequestOtherEndpoint => lasting.metrics.retries_granted.inc(),
            Retry::No(NoRetry::OverBudget) => lasting.metrics.retries_over_budget.inc(),
            Retry::No(_) => 0,
        };
        tracing::debug!(
            upstream = %self.cluster.name,
            endpoint = %self.endpoint(),
            ?failure,
            ?retry,
            reused = self.reused,
            error = %error,
            "try failed"
        );
        Verdict { failure, retry }
    }

    fn took(&self, now: Ticks) -> Option<Duration> {
        self.sent.map(|sent| Duration::from_nanos(now.saturating_sub(sent)))
    }
}

impl Drop for Chosen {
    fn drop(&mut self) {
        let state = &self.endpoint.state;
        if self.begun
            && let Some(line) = self.line.take()
        {
            line.end(self.number, self.cluster.core.epoch.coarse());
        }
        let lasting = &self.cluster.lasting;
        lasting.metrics.outcomes[Outcome::of(self.failure, self.status) as usize].inc();
        let ejection = &self.cluster.config.ejection;
        let failed = match (self.failure, self.status) {
            (Some(failure), _) => failure.counts(),
            (None, Some(status)) => ejection.statuses.contains(&status.as_u16()),
            (None, None) => false,
        };
        if failed {
            if state.failed(ejection) {
                self.cluster.eject(state);
            }
        } else if self.failure.is_none() && self.status.is_some() {
            state.succeeded();
        }
        state.release();
        lasting.metrics.active.dec();
        lasting.freed();
    }
}

/// The error to return from a body filter when the whole exchange has taken too long, so that it is accounted to the
/// upstream and not repeated.
pub fn past_deadline(refusal: &Refusal) -> Box<Error> {
    let why = refusal.internal.as_deref().unwrap_or("past the deadline").to_owned();
    Error::explain(ErrorType::ReadTimedout, why).into_up()
}
