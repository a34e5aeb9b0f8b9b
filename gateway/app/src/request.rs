//! What the gateway knows of a request while it is under way: one typed slot per step, filled in order.
//!
//! A slot is empty until its step has been taken, and holds that step's proof afterwards: routing's [`Matched`], auth's
//! [`Proof`], tenancy's [`Admitted`], the upstream's [`Chosen`]. Later steps ask for the proofs of earlier ones, so that no
//! step can be left out by mistake. Dropping the context gives everything back: the place in flight, the tenant's
//! concurrency, the endpoint's connection.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Version};
use pingora_core::upstreams::peer::HttpPeer;
use pingora_http::RequestHeader;
use sluice_auth::{Allowed, Proof};
use sluice_downstream::ClientAddress;
use sluice_plugins::{Effects, Ends, Passage, RequestHead, Visit};
use sluice_resilience::{Deadlines, InFlight};
use sluice_routing::Matched;
use sluice_telemetry::requests::ActiveRequest;
use sluice_telemetry::{RequestId, TraceContext};
use sluice_tenancy::Admitted;
use sluice_upstream::{Chosen, Tried};
use sluice_vocabulary::request::{Connection, RequestView};
use sluice_vocabulary::{Reason, Refusal, TenantId, UpstreamName};
use smallvec::SmallVec;

use crate::snapshot::{Route, Snapshot};

/// Header fields that belong to whatever answer the request gets.
pub(crate) type AnswerFields = SmallVec<[(HeaderName, HeaderValue); 4]>;

/// A request under way.
pub(crate) struct Request {
    /// When it began, for durations; and by the clock on the wall.
    pub(crate) started: Instant,
    /// Read only where access records tell it.
    pub(crate) started_at: Option<SystemTime>,
    /// The configuration it began with and keeps.
    pub(crate) snapshot: Arc<Snapshot>,
    pub(crate) _active: ActiveRequest,

    /// 1. It arrived: where from, under which names.
    pub(crate) arrived: Option<Arrived>,
    /// 2. Its route.
    pub(crate) matched: Option<Matched>,
    /// 3. Who sent it, where the route asks: somebody, or nobody where that is enough.
    pub(crate) proof: Option<Proof>,
    /// And that the route's authorising service lets it pass, where there is one.
    pub(crate) allowed: Option<Allowed>,
    /// 4. Whose it is, and the leave to go on.
    pub(crate) tenant: Option<TenantId>,
    pub(crate) admitted: Option<Admitted>,
    /// 5. What plugins saw, kept for their response side, and the time they took.
    pub(crate) sent_head: Option<Arc<RequestHead>>,
    /// Holds instances for the response side: given up as soon as that is over, or will not be.
    pub(crate) visit: Option<Visit>,
    pub(crate) plugin_time: Duration,
    /// What they asked for beside changes of its header.
    pub(crate) effects: Effects,
    /// Plugins that it passed and that are told of its end.
    pub(crate) ends: Ends,
    /// Its whole body, as plugins left it that see it before it is sent.
    pub(crate) gathered: Option<Bytes>,
    /// The way of its body through plugins that see it while it is sent. Begun anew with each try.
    pub(crate) sending: Option<Passage>,
    /// Fields that plugins had a say in: not the client's to have removed.
    pub(crate) plugin_fields: SmallVec<[HeaderName; 2]>,
    /// 6. The endpoint of the present try, and what is left of the time.
    pub(crate) deadlines: Option<Deadlines>,
    pub(crate) tried: Tried,
    pub(crate) retries: u32,
    pub(crate) chosen: Option<Chosen>,
    /// The way to it, chosen where a refusal can still be answered; taken by the first try.
    pub(crate) first_peer: Option<Box<HttpPeer>>,
    pub(crate) last_try: LastTry,

    /// Fields for any answer: CORS, rate limits.
    pub(crate) answer_fields: AnswerFields,
    /// What stopped it in a phase that could not answer itself; the failure's answer is made from it.
    pub(crate) pending: Option<Pending>,
    /// What the last try failed of.
    pub(crate) failure: Option<Reason>,
    /// Why it was refused, once the client was told.
    pub(crate) refused: Option<Reason>,
    /// Why, in the operator's words.
    pub(crate) internal: Option<Box<str>>,
    /// Body bytes from the client so far.
    pub(crate) bytes_in: u64,
}

/// A request that was taken in: its identifiers, its sender, its place in flight.
pub(crate) struct Arrived {
    pub(crate) id: RequestId,
    pub(crate) trace: TraceContext,
    pub(crate) connection: Arc<Connection>,
    /// The client: behind trusted proxies, the one they vouch for.
    pub(crate) client: ClientAddress,
    pub(crate) host: Box<str>,
    /// The port named beside it.
    pub(crate) port: Option<u16>,
    pub(crate) version: Version,
    /// Its place among the requests in flight; none where there was none to be had.
    pub(crate) in_flight: Option<InFlight>,
}

/// What is to be sent in place of what was under way.
pub(crate) enum Pending {
    /// No.
    Refusal(Refusal),
    /// A plugin's own answer, given when it saw the upstream's.
    Answer(sluice_plugins::Answer),
}

/// What is worth telling of the last try when it is over.
#[derive(Default)]
pub(crate) struct LastTry {
    pub(crate) endpoint: Option<SocketAddr>,
    pub(crate) reused: Option<bool>,
    pub(crate) began: Option<Instant>,
    pub(crate) connected: Option<Duration>,
    pub(crate) answered: Option<Duration>,
}

impl Request {
    /// A request that has just begun.
    pub(crate) fn new(snapshot: Arc<Snapshot>, active: ActiveRequest) -> Self {
        Self {
            started: Instant::now(),
            started_at: snapshot.access_log.is_on().then(SystemTime::now),
            snapshot,
            _active: active,
            arrived: None,
            matched: None,
            proof: None,
            allowed: None,
            tenant: None,
            admitted: None,
            sent_head: None,
            visit: None,
            plugin_time: Duration::ZERO,
            effects: Effects::default(),
            ends: Ends::default(),
            gathered: None,
            sending: None,
            plugin_fields: SmallVec::new(),
            deadlines: None,
            tried: Tried::default(),
            retries: 0,
            chosen: None,
            first_peer: None,
            last_try: LastTry::default(),
            answer_fields: AnswerFields::new(),
            pending: None,
            failure: None,
            refused: None,
            internal: None,
            bytes_in: 0,
        }
    }

    /// The route's part of the configuration, once the route is known.
    pub(crate) fn route(&self) -> Option<&Route> {
        self.matched.as_ref().and_then(|matched| self.snapshot.routes.get(matched.index()))
    }

    /// The upstream it goes to: the route's, or what a plugin chose.
    pub(crate) fn upstream(&self) -> Option<&UpstreamName> {
        self.effects.upstream().or_else(|| self.route()?.upstream.as_ref())
    }

    /// Whether its answer is for its client alone, since its token came in the URL.
    pub(crate) fn wants_private_answer(&self) -> bool {
        let policy = self.route().and_then(|route| route.policy.as_ref());
        policy.zip(self.proof.as_ref()).is_some_and(|(policy, proof)| policy.wants_private_answer(proof))
    }

    /// The request's id, or nothing before it has one.
    pub(crate) fn id(&self) -> &str {
        self.arrived.as_ref().map_or("", |arrived| arrived.id.as_str())
    }
}

impl Arrived {
    /// The request as every unit may see it.
    pub(crate) fn view<'a>(&'a self, header: &'a RequestHeader) -> RequestView<'a> {
        RequestView {
            method: &header.method,
            scheme: self.client.scheme,
            host: &self.host,
            port: self.port,
            path: header.uri.path(),
            query: header.uri.query(),
            headers: &header.headers,
            client: self.client.ip,
            connection: &self.connection,
        }
    }
}
