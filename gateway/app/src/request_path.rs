//! THE request path: what happens to a request, in order, and why.
//!
//! ```text
//! request_filter    1 arrive → 2 route → 3 authenticate → 4 identify the tenant, admit → 5 plugins
//! proxy_upstream_filter, upstream_peer
//!                   6 choose an endpoint            (again for each retry)
//!                     connect, send; bodies stream both ways under the deadlines
//! response_filter   7 the answer's header: plugins, edits    (its body: `answer_body.rs`)
//! logging           8 account for all of it
//! ```
//!
//! Steps 1 to 5 end early with an answer or a [`Refusal`]; both are written in `answers.rs`. Each step's proof is a slot of
//! [`Request`] that only the step's own unit can fill. Upgrade requests take the very same path.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use http::header::{CONTENT_LENGTH, HeaderName, TRANSFER_ENCODING};
use http::{Method, StatusCode, Version};
use pingora_core::modules::http::HttpModules;
use pingora_core::protocols::Digest;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_error::{Error, ErrorSource, ErrorType, Result};
use pingora_http::{RequestHeader, ResponseHeader};
use pingora_proxy::{FailToProxy, ProxyHttp, Session};
use sluice_auth::Withheld;
use sluice_downstream::hop_by_hop;
use sluice_plugins::{Chain, Ended, Outcome, Passage, RequestHead, ResponseHead, Visit};
use sluice_resilience::{Deadlines, Exchange};
use sluice_routing::{Decision, DirectAnswer};
use sluice_vocabulary::request::RequestView;
use sluice_vocabulary::{Reason, Refusal};

use crate::access::record;
use crate::answer_body::{self, AnswerBody};
use crate::answers::{self, Answer};
use crate::bodies;
use crate::compose::Units;
use crate::headers::{
    apply, apply_to_response, broken, forget_case, host_of, join_cookies, owned_head, round_trip, set_target, who,
    withhold,
};
use crate::outgoing;
use crate::request::{Arrived, LastTry, Pending, Request};
use crate::returning;

/// The proxy as Pingora sees it.
pub(crate) struct RequestPath {
    units: Arc<Units>,
}

/// Where the steps before the upstream lead.
enum Lead {
    /// On to the upstream.
    Forward,
    /// Back to the client with this.
    Direct(Box<DirectAnswer>),
    /// Back to the client with what the service that authorises requests says to it.
    Rebuff(sluice_auth::Rebuff),
    /// Back to the client with what a plugin answered.
    Plugin(sluice_plugins::Answer),
}

impl RequestPath {
    pub(crate) fn new(units: Arc<Units>) -> Self {
        Self { units }
    }

    /// Steps 1 to 5.
    async fn lead(&self, session: &mut Session, request: &mut Request) -> Result<Lead, Refusal> {
        // 1. Take it in: a place in flight, an address within its rate, one client, one host, one path.
        self.arrive(session, request)?;
        let Some(arrived) = &request.arrived else {
            return Err(Refusal::new(Reason::Internal).internal("a request that did not arrive"));
        };

        // 2. Route. Redirects, fixed answers and preflights end here, denied addresses too.
        let header = session.req_header();
        let view = arrived.view(header);
        let counted = |refusal: &Refusal| self.units.routing_metrics.refused(refusal.reason);
        let matched = request.matched.insert(request.snapshot.table.lookup(&view).inspect_err(counted)?);
        request.answer_fields.extend(matched.cors_headers(&view));
        if let Decision::Direct(answer) = matched.decide(&view).inspect_err(counted)? {
            self.units.routing_metrics.answered(answer.kind);
            return Ok(Lead::Direct(answer));
        }
        let snapshot = Arc::clone(&request.snapshot);
        let Some(route) = snapshot.routes.get(matched.index()) else {
            return Err(Refusal::new(Reason::Internal).internal("the table knows a route that the snapshot does not"));
        };
        let announced = header.headers.get(CONTENT_LENGTH).and_then(|n| n.to_str().ok()).and_then(|n| n.parse().ok());
        if announced.is_some_and(|length: u64| length > route.max_body) {
            return Err(
                Refusal::new(Reason::BodyTooLarge).internal(format!("the route allows {} bytes", route.max_body))
            );
        }

        // 3. Who sent it. A route with a policy goes no further without a proof.
        if let Some(policy) = &route.policy {
            let proof = self.units.auth.authenticate(policy, &view).await?;
            request.answer_fields.extend(proof.answer_fields());
            request.proof = Some(proof);
        }

        // And whether it may pass, where another service decides that.
        if let Some(forward_auth) = &route.forward_auth {
            // It is told the query with the rest of the target; a token that is to go no further is not for it.
            let withheld =
                route.policy.as_ref().zip(request.proof.as_ref()).map(|(policy, proof)| policy.withheld(proof));
            let query = match withheld {
                Some(Withheld::Parameter(parameter)) => Some(view.query.and_then(|query| parameter.without(query))),
                _ => None,
            };
            let view = query.as_ref().map_or(view, |query| RequestView { query: query.as_deref(), ..view });
            match self.units.auth.authorize(forward_auth, &view).await? {
                sluice_auth::Decision::Allowed(allowed) => request.allowed = Some(allowed),
                sluice_auth::Decision::Rebuff(rebuff) => return Ok(Lead::Rebuff(rebuff)),
            }
        }

        // 4. Whose it is: the identity's word counts first. Then whether that tenant may go on now.
        let identity = request.proof.as_ref().and_then(|proof| proof.identity()).map(|identity| &**identity);
        request.tenant = self.units.tenancy.identify(identity, &view)?;
        // Only where somebody was checked can time have passed that matters.
        let checked = identity.is_some() || request.allowed.is_some();
        let now = if checked { self.units.clock.coarse() } else { request.started };
        let admitted = self.units.tenancy.admit(request.tenant.as_ref(), now)?;
        request.answer_fields.extend(admitted.rate_limit_headers());
        request.admitted = Some(admitted);

        // Now that it has served, a token is nobody else's to see, where the route says so.
        if let (Some(policy), Some(proof)) = (&route.policy, &request.proof) {
            withhold(session.req_header_mut(), policy.withheld(proof)).map_err(broken)?;
        }

        // What this route's requests may cost from here on.
        let chains = [snapshot.chain_of(request.tenant.as_ref()), &route.chain];
        let gathers = chains.iter().any(|chain| chain.has_request_body_phase());
        if let Some(control) = session.digest().and_then(sluice_downstream::control) {
            control.limit_body(route.max_body);
            // A body that is gathered must come to an end.
            if route.streaming && !gathers {
                control.lift_body_deadlines();
            }
        }

        // 5. The tenant's plugins, then the route's. Each sees what those before it changed.
        if chains.iter().all(|chain| chain.is_empty()) {
            return Ok(Lead::Forward);
        }
        let mut head = owned_head(session.req_header(), request)?;
        let asked = chains.iter().any(|chain| chain.asks_for_round_trip());
        let round_trip = if asked { round_trip(session) } else { None };
        request.visit = Some(Visit::new(who(request, round_trip)));
        for chain in chains {
            if chain.has_request_phase() {
                match self.pass_request(chain, head, session, request).await? {
                    ControlFlow::Continue(back) => head = back,
                    ControlFlow::Break(answer) => return Ok(Lead::Plugin(answer)),
                }
            }
        }
        if gathers {
            let mut body = bodies::gather(session, request).await?;
            for chain in chains {
                if chain.has_request_body_phase() {
                    match self.pass_request_body(chain, head, body, session, request).await? {
                        ControlFlow::Continue(back) => (head, body) = back,
                        ControlFlow::Break(answer) => return Ok(Lead::Plugin(answer)),
                    }
                }
            }
            request.gathered = Some(body);
        }
        if chains.iter().any(|chain| chain.outlives_request()) {
            request.sent_head = Some(Arc::new(head));
        }
        Ok(Lead::Forward)
    }

    /// Step 1. What is known of the request is noted first, so that one which is refused here is told of like any other.
    fn arrive(&self, session: &mut Session, request: &mut Request) -> Result<(), Refusal> {
        let internal = |why: &str| Refusal::new(Reason::Internal).internal(why);
        let digest = session.digest().ok_or_else(|| internal("a session without a digest"))?;
        let connection =
            sluice_downstream::connection(digest).ok_or_else(|| internal("a session without a connection"))?;
        let connection = Arc::clone(connection);
        let snapshot = Arc::clone(&request.snapshot);
        let header = session.req_header();
        let client = self.units.downstream.resolve_client(&connection, &header.headers);
        let arrived = request.arrived.insert(Arrived {
            id: snapshot.tracing.request_id(&header.headers, client.through_proxy),
            trace: snapshot.tracing.context(&header.headers, client.through_proxy),
            connection,
            client,
            host: Box::default(),
            port: None,
            version: header.version,
            in_flight: None,
        });
        arrived.in_flight = Some(self.units.shedder.enter()?);
        self.units.downstream.admit_address(client.ip, request.started)?;
        (arrived.host, arrived.port) = host_of(header)?;
        hop_by_hop::judge_connection(&header.headers).map_err(|why| Refusal::new(Reason::BadRequest).internal(why))?;
        // What is matched, authorised and forwarded is one and the same path.
        let normal = self.normal_target(header)?;
        if session.is_http2() {
            // A stream whose reader stands still stalls only itself, so that the guard does not see it.
            session.set_write_timeout(Some(self.units.downstream.write_timeout()));
            join_cookies(session.req_header_mut())?;
        }
        let header = session.req_header_mut();
        forget_case(header).map_err(broken)?;
        if let Some(target) = normal {
            set_target(header, &target).map_err(broken)?;
        }
        // Identity is the gateway's to say: what clients say of it goes before anybody can believe it.
        if !snapshot.stripped.names().is_empty() {
            let spoofed: Vec<HeaderName> =
                header.headers.keys().filter(|name| snapshot.stripped.covers(name)).cloned().collect();
            for name in spoofed {
                header.remove_header(&name);
            }
        }
        Ok(())
    }

    /// The target in its one form, if it came in another.
    fn normal_target(&self, header: &RequestHeader) -> Result<Option<String>, Refusal> {
        let raw = header.raw_path();
        let normal = self.units.downstream.normalise_path(raw);
        let normal = normal.map_err(|bad| Refusal::new(Reason::BadTarget).internal(bad.to_string()))?;
        Ok(normal.is_changed().then(|| normal.to_target().into_owned()))
    }

    /// Step 5 for one chain. Gives the head as it is sent on.
    async fn pass_request(
        &self,
        chain: &Chain,
        head: RequestHead,
        session: &mut Session,
        request: &mut Request,
    ) -> Result<ControlFlow<sluice_plugins::Answer, RequestHead>, Refusal> {
        let mut visit = request.visit.take().unwrap_or_else(|| Visit::new(who(request, None)));
        let began = self.units.clock.now();
        let (head, outcome) = chain.on_request(head, &mut visit).await;
        self.passed(began, visit, request);
        Self::go_on(outcome, head, session, request)
    }

    /// Step 5 for one chain and the whole body. Gives head and body as they are sent on.
    async fn pass_request_body(
        &self,
        chain: &Chain,
        head: RequestHead,
        body: Bytes,
        session: &mut Session,
        request: &mut Request,
    ) -> Result<ControlFlow<sluice_plugins::Answer, (RequestHead, Bytes)>, Refusal> {
        let mut visit = request.visit.take().unwrap_or_else(|| Visit::new(who(request, None)));
        let began = self.units.clock.now();
        let (head, body, outcome) = chain.on_request_body(head, body, &mut visit).await;
        self.passed(began, visit, request);
        Ok(match Self::go_on(outcome, head, session, request)? {
            ControlFlow::Continue(head) => ControlFlow::Continue((head, body)),
            ControlFlow::Break(answer) => ControlFlow::Break(answer),
        })
    }

    /// Notes what a chain asked for beside changes of the message, and the time it took.
    fn passed(&self, began: Instant, mut visit: Visit, request: &mut Request) {
        request.effects.add(visit.take_effects());
        request.ends.add(visit.take_ends());
        request.visit = Some(visit);
        request.plugin_time += self.units.clock.now().duration_since(began);
    }

    /// Makes a chain's changes to the request's header, if it goes on.
    fn go_on(
        outcome: Outcome,
        head: RequestHead,
        session: &mut Session,
        request: &mut Request,
    ) -> Result<ControlFlow<sluice_plugins::Answer, RequestHead>, Refusal> {
        let instead = match outcome {
            Outcome::Continue(mut operations) => {
                let asked_for = operations.len();
                // Who sent a request is not for a plugin to say either.
                operations.retain(|operation| !request.snapshot.stripped.covers(operation.name()));
                let all_made = operations.len() == asked_for;
                request.plugin_fields.extend(operations.iter().map(|operation| operation.name().clone()));
                apply(session.req_header_mut(), operations.into_iter()).map_err(broken)?;
                // The head that came back has every change made, those that are not a plugin's too.
                let head = if all_made { head } else { owned_head(session.req_header(), request)? };
                return Ok(ControlFlow::Continue(head));
            }
            Outcome::Answer(answer) => Ok(ControlFlow::Break(answer)),
            Outcome::Refuse(refusal) => Err(refusal),
        };
        // It goes no further: there is only its end to be told.
        request.visit = None;
        if !request.ends.is_empty() {
            request.sent_head = Some(Arc::new(head));
        }
        instead
    }

    /// Step 6: an endpoint for this try, within what is left of the time.
    async fn choose(&self, session: &Session, request: &mut Request) -> Result<Box<HttpPeer>, Refusal> {
        let now = self.units.clock.now();
        let snapshot = Arc::clone(&request.snapshot);
        let route = request.matched.as_ref().and_then(|matched| snapshot.routes.get(matched.index()));
        let cluster = match request.effects.upstream() {
            Some(chosen) => snapshot.detours.get(chosen),
            None => route.and_then(|route| route.cluster.as_ref()),
        };
        let Some((route, cluster)) = route.zip(cluster) else {
            return Err(Refusal::new(Reason::Internal).internal("a request without a route that has an upstream"));
        };
        let is_shown = route.policy.as_ref().is_none_or(|policy| policy.is_met_by(request.proof.as_ref()))
            && (route.forward_auth.is_none() || request.allowed.is_some());
        if request.admitted.is_none() || !is_shown {
            return Err(Refusal::new(Reason::Internal).internal("a request that was not admitted"));
        }
        let header = session.req_header();
        let exchange = match (hop_by_hop::is_websocket(&header.method, &header.headers), route.streaming) {
            (true, _) => Exchange::Upgrade,
            (false, true) => Exchange::Streaming,
            (false, false) => Exchange::Plain,
        };
        let started = request.started;
        let deadlines = request
            .deadlines
            .get_or_insert_with(|| Deadlines::new(cluster.timeouts(), &route.timeouts, exchange, started));
        let limits = deadlines.try_limits(now)?;
        // With each try the body is sent from its beginning.
        request.sending = None;
        if request.gathered.is_none() {
            request.bytes_in = 0;
        }
        let mut chosen = cluster.choose(&request.tried).await?;
        request.last_try = LastTry { endpoint: Some(chosen.endpoint()), began: Some(now), ..LastTry::default() };
        let peer = chosen.peer(&limits);
        request.chosen = Some(chosen);
        Ok(peer)
    }

    /// Bodies: neither side may go on past the deadline.
    fn keep_time(&self, request: &Request, piece: Option<&Bytes>) -> Result<()> {
        // The mere end of a body takes no time.
        if piece.is_none_or(Bytes::is_empty) {
            return Ok(());
        }
        if let Some(deadlines) = &request.deadlines {
            deadlines.check(self.units.clock.coarse()).map_err(|refusal| sluice_upstream::past_deadline(&refusal))?;
        }
        if let Some(chosen) = &request.chosen {
            chosen.progress();
        }
        Ok(())
    }

    /// Step 7 for one chain. An answer or refusal of a plugin replaces what the upstream sent.
    async fn pass_response(
        &self,
        chain: &Chain,
        header: &mut ResponseHeader,
        request: &mut Request,
    ) -> Result<(), Pending> {
        let Some(sent) = request.sent_head.clone() else { return Ok(()) };
        let head = ResponseHead { status: header.status, headers: header.headers.clone() };
        let mut visit = request.visit.take().unwrap_or_else(|| Visit::new(who(request, None)));
        let began = self.units.clock.now();
        let (head, outcome) = chain.on_response(sent, head, &mut visit).await;
        self.passed(began, visit, request);
        match outcome {
            Outcome::Continue(operations) => {
                let applied = header.set_status(head.status).and_then(|()| apply_to_response(header, operations));
                applied.map_err(|error| Pending::Refusal(broken(error)))
            }
            Outcome::Answer(answer) => Err(Pending::Answer(answer)),
            Outcome::Refuse(refusal) => Err(Pending::Refusal(refusal)),
        }
    }

    /// Step 7 for what follows the header: readies the plugins that see it, if there is anything to follow.
    async fn follow_response(
        &self,
        chains: [&Arc<Chain>; 2],
        header: &mut ResponseHeader,
        session: &mut Session,
        request: &mut Request,
    ) -> Result<(), Pending> {
        if !chains.iter().any(|chain| chain.follows_response()) {
            return Ok(());
        }
        if !returning::may_have_body(header) {
            return Ok(());
        }
        if session.req_header().method != Method::HEAD
            && let Some(sent) = request.sent_head.clone()
        {
            let head = Arc::new(ResponseHead { status: header.status, headers: header.headers.clone() });
            let mut visit = request.visit.take().unwrap_or_else(|| Visit::new(who(request, None)));
            let passage = Passage::of_response(&[chains[0], chains[1]], sent, head, &mut visit)
                .await
                .map_err(Pending::Refusal)?;
            if let Some(body) = AnswerBody::of(session) {
                body.passes(passage);
            }
        }
        if chains.iter().any(|chain| chain.sees_response_body()) {
            returning::rewritten(header);
            if session.req_header().version == Version::HTTP_10 {
                // There a body of unknown length ends with its connection.
                header.remove_header(&TRANSFER_ENCODING);
                session.set_keepalive(None);
            }
        }
        Ok(())
    }

    /// A piece of the request's body through the plugins that see it while it is sent.
    async fn send_piece(&self, body: &mut Option<Bytes>, is_last: bool, request: &mut Request) -> Result<(), Refusal> {
        let Some(route) = request.route() else { return Ok(()) };
        let snapshot = &request.snapshot;
        let chains = [snapshot.chain_of(request.tenant.as_ref()), &route.chain];
        if !chains.iter().any(|chain| chain.has_request_chunk_phase()) {
            return Ok(());
        }
        let Some(sent) = request.sent_head.clone() else { return Ok(()) };
        let chains = chains.map(Arc::clone);
        let piece = body.take().unwrap_or_default();
        let began = self.units.clock.now();
        let sending = match request.sending.take() {
            Some(sending) => Some(sending),
            // No body at all has no pieces.
            None if piece.is_empty() => None,
            None => {
                let mut visit = request.visit.take().unwrap_or_else(|| Visit::new(who(request, None)));
                let sending = Passage::of_request(&[&chains[0], &chains[1]], sent, &mut visit).await;
                request.visit = Some(visit);
                Some(sending?)
            }
        };
        let piece = match sending {
            Some(mut sending) => {
                let piece = sending.piece(piece, is_last).await?;
                request.sending = (!is_last).then_some(sending);
                piece
            }
            None => piece,
        };
        request.plugin_time += self.units.clock.now().duration_since(began);
        // Nothing at all would be taken for the end.
        *body = (!is_last || !piece.is_empty()).then_some(piece);
        Ok(())
    }

    /// Tells the client no, and notes why.
    async fn refuse(&self, session: &mut Session, request: &mut Request, refusal: Refusal) -> Result<()> {
        request.refused = Some(refusal.reason);
        self.units.request_metrics.refused(refusal.reason);
        let sent = answers::refuse(session, &refusal, request.id(), &request.answer_fields).await;
        request.internal = refusal.internal;
        sent
    }

    /// Sends what a plugin answered.
    async fn answer_of_plugin(session: &mut Session, request: &Request, plugins: sluice_plugins::Answer) -> Result<()> {
        let headers: Vec<_> = plugins.headers.iter().map(|(name, value)| (name.clone(), value.clone())).collect();
        let answer = Answer { status: plugins.status, headers: &headers, body: plugins.body };
        answers::answer(session, answer, request).await
    }

    /// Notes what is to be sent instead and ends the phase with an error, which is all that some phases can end with;
    /// `fail_to_proxy` sends it. In a phase about the request's body the error must be one of the client's side: toward an
    /// HTTP/2 upstream the library takes any other for the upstream's, and waits for an answer.
    fn stop(request: &mut Request, pending: Pending) -> Box<Error> {
        request.pending = Some(pending);
        Error::explain(ErrorType::InternalError, "ended by the gateway")
    }
}

#[async_trait]
impl ProxyHttp for RequestPath {
    /// Boxed, since the library's futures hand it on by value from one to the next.
    type CTX = Box<Request>;

    /// Only ours: the library's own compression is not used, see `compression.rs`.
    fn init_downstream_modules(&self, modules: &mut HttpModules) {
        modules.add_module(Box::new(answer_body::Builder));
    }

    fn new_ctx(&self) -> Self::CTX {
        Box::new(Request::new(self.units.snapshot(), self.units.request_metrics.begin()))
    }

    async fn request_filter(&self, session: &mut Session, request: &mut Self::CTX) -> Result<bool> {
        match self.lead(session, request).await {
            Ok(Lead::Forward) => return Ok(false),
            Ok(Lead::Direct(direct)) => {
                let answer = Answer { status: direct.status, headers: &direct.headers, body: direct.body };
                answers::answer(session, answer, request).await?;
            }
            Ok(Lead::Rebuff(rebuff)) => {
                let answer = Answer { status: rebuff.status, headers: &rebuff.headers, body: rebuff.body };
                answers::answer(session, answer, request).await?;
            }
            Ok(Lead::Plugin(answer)) => Self::answer_of_plugin(session, request, answer).await?,
            Err(refusal) => self.refuse(session, request, refusal).await?,
        }
        Ok(true)
    }

    /// The first endpoint is chosen here, where a refusal is an answer like any other: after an error in `upstream_peer`
    /// the library closes the client's connection, and a thousand clients that connect again are no help to a gateway
    /// which has just said that it is overloaded.
    async fn proxy_upstream_filter(&self, session: &mut Session, request: &mut Self::CTX) -> Result<bool> {
        match self.choose(session, request).await {
            Ok(peer) => {
                request.first_peer = Some(peer);
                Ok(true)
            }
            Err(refusal) => self.refuse(session, request, refusal).await.map(|()| false),
        }
    }

    async fn upstream_peer(&self, session: &mut Session, request: &mut Self::CTX) -> Result<Box<HttpPeer>> {
        if let Some(peer) = request.first_peer.take() {
            return Ok(peer);
        }
        match self.choose(session, request).await {
            Ok(peer) => Ok(peer),
            Err(refusal) => Err(Self::stop(request, Pending::Refusal(refusal))),
        }
    }

    async fn connected_to_upstream(
        &self,
        _session: &mut Session,
        reused: bool,
        _peer: &HttpPeer,
        fd: std::os::fd::RawFd,
        _digest: Option<&Digest>,
        request: &mut Self::CTX,
    ) -> Result<()> {
        if let Some(chosen) = &mut request.chosen {
            chosen.connected(fd, reused);
        }
        request.last_try.reused = Some(reused);
        // A pooled connection took no time to make: no look at the clock.
        request.last_try.connected = match request.last_try.began {
            Some(began) if !reused => Some(self.units.clock.now().duration_since(began)),
            began => began.map(|_| Duration::ZERO),
        };
        Ok(())
    }

    /// What the upstream is sent: see `outgoing.rs`.
    async fn upstream_request_filter(
        &self,
        _session: &mut Session,
        upstream: &mut RequestHeader,
        request: &mut Self::CTX,
    ) -> Result<()> {
        outgoing::prepare(&self.units.downstream, upstream, request)?;
        if let Some(chosen) = &mut request.chosen {
            let now = request.last_try.began.zip(request.last_try.connected).map(|(began, took)| began + took);
            chosen.sending(upstream.version, now.unwrap_or_else(|| self.units.clock.now()));
        }
        Ok(())
    }

    async fn request_body_filter(
        &self,
        session: &mut Session,
        body: &mut Option<Bytes>,
        end_of_stream: bool,
        request: &mut Self::CTX,
    ) -> Result<()> {
        if let Some(whole) = &request.gathered {
            // It came before, and goes on as its plugins left it.
            *body = Some(if end_of_stream { whole.clone() } else { Bytes::new() });
        } else {
            request.bytes_in += body.as_ref().map_or(0, |piece| piece.len() as u64);
        }
        if request.route().is_some_and(|route| request.bytes_in > route.max_body) {
            let refusal =
                Refusal::new(Reason::BodyTooLarge).internal(format!("{} bytes and more came", request.bytes_in));
            return Err(Self::stop(request, Pending::Refusal(refusal)).into_down());
        }
        self.keep_time(request, body.as_ref())?;
        if session.was_upgraded() {
            return Ok(());
        }
        let sent = self.send_piece(body, end_of_stream, request).await;
        sent.map_err(|refusal| Self::stop(request, Pending::Refusal(refusal)).into_down())
    }

    async fn upstream_response_filter(
        &self,
        _session: &mut Session,
        header: &mut ResponseHeader,
        request: &mut Self::CTX,
    ) -> Result<()> {
        let now = self.units.clock.now();
        if let Some(chosen) = &mut request.chosen {
            chosen.answered(header, now);
        }
        if !header.status.is_informational() {
            request.last_try.answered = request.last_try.began.map(|began| now.duration_since(began));
        }
        Ok(())
    }

    async fn response_filter(
        &self,
        session: &mut Session,
        response: &mut ResponseHeader,
        request: &mut Self::CTX,
    ) -> Result<()> {
        if response.status == StatusCode::SWITCHING_PROTOCOLS {
            // It may go on for hours, and no plugin is called for it any more.
            request.visit = None;
            if let Some(control) = session.digest().and_then(sluice_downstream::control) {
                control.lift_body_deadlines();
            }
            return Ok(());
        }
        if response.status.is_informational() {
            return Ok(());
        }
        returning::strip(response);
        let snapshot = Arc::clone(&request.snapshot);
        let Some(route) = request.matched.as_ref().and_then(|matched| snapshot.routes.get(matched.index())) else {
            return Ok(());
        };
        // Back through the plugins in the opposite order: what saw the request last sees the answer first.
        let chains = [&route.chain, snapshot.chain_of(request.tenant.as_ref())];
        for chain in chains {
            if chain.has_response_phase()
                && let Err(instead) = self.pass_response(chain, response, request).await
            {
                return Err(Self::stop(request, instead));
            }
        }
        if let Err(instead) = self.follow_response(chains, response, session, request).await {
            return Err(Self::stop(request, instead));
        }
        // The body may take its time: what plugins held that do not see it is free for others.
        request.visit = None;
        returning::complete(response, request)?;
        // Last, when everything that bears on it has been said.
        let Session { downstream_session, downstream_modules_ctx, .. } = session;
        if let Some(level) = route.compression
            && let Some(body) = downstream_modules_ctx.get_mut::<AnswerBody>()
        {
            body.compression.begin(level, downstream_session.req_header(), response);
        }
        Ok(())
    }

    fn response_body_filter(
        &self,
        session: &mut Session,
        body: &mut Option<Bytes>,
        _end_of_stream: bool,
        request: &mut Self::CTX,
    ) -> Result<Option<Duration>> {
        self.keep_time(request, body.as_ref())?;
        Ok(AnswerBody::of(session).and_then(|body| body.owed(|| self.units.clock.now())))
    }

    fn fail_to_connect(
        &self,
        session: &mut Session,
        _peer: &HttpPeer,
        request: &mut Self::CTX,
        error: Box<Error>,
    ) -> Box<Error> {
        judge(session, request, error)
    }

    fn error_while_proxy(
        &self,
        _peer: &HttpPeer,
        session: &mut Session,
        error: Box<Error>,
        request: &mut Self::CTX,
        _client_reused: bool,
    ) -> Box<Error> {
        judge(session, request, error)
    }

    /// The one place where a failure on the way becomes an answer.
    async fn fail_to_proxy(&self, session: &mut Session, error: &Error, request: &mut Self::CTX) -> FailToProxy {
        let breach = session.digest().and_then(sluice_downstream::control).and_then(|control| control.refusal());
        session.set_keepalive(None);
        let refusal = match request.pending.take() {
            Some(Pending::Answer(answer)) => {
                let status = answer.status.as_u16();
                let sent = Self::answer_of_plugin(session, request, answer).await;
                return FailToProxy { error_code: sent.map_or(0, |()| status), can_reuse_downstream: false };
            }
            Some(Pending::Refusal(refusal)) => Some(refusal),
            None => AnswerBody::of(session).and_then(AnswerBody::take_refusal),
        };
        let refusal = if let Some(refusal) = refusal {
            refusal
        } else if let Some(reason) = breach {
            Refusal::new(reason).internal("the client's body broke a bound")
        } else if let Some(reason) = request.failure.take() {
            Refusal::new(reason).internal(error.to_string())
        } else if *error.esource() == ErrorSource::Downstream && *error.etype() == ErrorType::InvalidHTTPHeader {
            Refusal::new(Reason::BadRequest).internal(error.to_string())
        } else if *error.esource() == ErrorSource::Downstream {
            // The client is gone, or speaks nonsense half way through: there is nobody to answer.
            request.internal = Some(error.to_string().into());
            return FailToProxy { error_code: 0, can_reuse_downstream: false };
        } else {
            Refusal::new(Reason::Internal).internal(error.to_string())
        };
        let status = refusal.status().as_u16();
        if self.refuse(session, request, refusal).await.is_err() {
            return FailToProxy { error_code: 0, can_reuse_downstream: false };
        }
        FailToProxy { error_code: status, can_reuse_downstream: false }
    }

    /// Pingora's own line about a failure says less than our access record does, and says it in another form.
    fn suppress_error_log(&self, _session: &Session, _request: &Self::CTX, _error: &Error) -> bool {
        true
    }

    /// Without the query, which carries tokens and personal data.
    fn request_summary(&self, session: &Session, request: &Self::CTX) -> String {
        let header = session.req_header();
        format!("{} {}, request {}", header.method, header.uri.path(), request.id())
    }

    fn suppress_proxy_warn_log(
        &self,
        _session: &Session,
        _request: &Self::CTX,
        _error: &Error,
        _context: pingora_proxy::ProxyWarnLogContext,
    ) -> bool {
        true
    }

    /// Step 8: every request ends here, whatever became of it.
    async fn logging(&self, session: &mut Session, error: Option<&Error>, request: &mut Self::CTX) {
        let duration = self.units.clock.now().duration_since(request.started);
        let status = session.response_written().map_or(0, |response| response.status.as_u16());
        match request.route() {
            Some(route) => &route.metrics,
            None => self.units.request_metrics.unmatched(),
        }
        .ended(status, duration);
        if let Some(answered) = request.last_try.answered {
            self.units.request_metrics.overhead(duration.saturating_sub(answered));
        }
        if !request.ends.is_empty()
            && let Some(head) = request.sent_head.take()
        {
            let ended = Ended {
                status,
                duration,
                request_bytes: request.bytes_in,
                response_bytes: session.body_bytes_sent() as u64,
                // Where it was not sent to one, none was asked.
                upstream: request.last_try.began.and_then(|_| request.upstream().cloned()),
                refused: request.refused.map(Reason::slug),
            };
            self.units.plugins.ended(std::mem::take(&mut request.ends), head, who(request, None), ended);
        }
        // The endpoint's account is settled before anybody reads the record.
        request.chosen = None;
        if request.snapshot.access_log.is_on() {
            record(session, error, request, status, duration);
        }
    }
}

/// What a failed try comes to: whether it may be tried again, and if not, why it failed.
fn judge(session: &Session, request: &mut Request, mut error: Box<Error>) -> Box<Error> {
    let Some(mut chosen) = request.chosen.take() else { return error };
    if request.pending.is_some() {
        // We ended it ourselves.
        error.set_retry(false);
        return error;
    }
    let replayable = !session.as_downstream().retry_buffer_truncated();
    let verdict = chosen.failed(&error, &session.req_header().method, &mut request.tried, replayable);
    request.failure = verdict.failure.reason();
    request.retries += u32::from(verdict.retry.is_yes());
    error.set_retry(verdict.retry.is_yes());
    error
}
