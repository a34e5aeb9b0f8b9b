//! A chain: plugins in a fixed order, bound to a route or a tenant.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::RETRY_AFTER;
use sluice_vocabulary::{Reason, Refusal};

use crate::edits::Edits;
use crate::failover::Decision;
use crate::failure::Failure;
use crate::message::{Operations, Outcome, RequestHead, ResponseHead, Who};
use crate::phase::Phase;
use crate::plugin::Plugin;
use crate::subject::{Body, Subject};
use crate::visit::Visit;

/// Bytes of a body that plugins get as a whole.
pub const LONGEST_BODY: usize = 64 * 1024;

/// Plugins in order. Made once with the configuration; each phase holds only those that have it, so a phase that no plugin
/// exports costs a look at an empty list.
#[derive(Debug, Default)]
pub struct Chain {
    request: Vec<Arc<Plugin>>,
    request_body: Vec<Arc<Plugin>>,
    request_chunk: Vec<Arc<Plugin>>,
    /// This and what follows in reverse: what saw the request last sees the response first.
    response: Vec<Arc<Plugin>>,
    /// Those that see anything of the response behind its header.
    response_stages: Vec<Arc<Plugin>>,
    /// Each with how many of `request` stand before it: a request that ends at one of those never reaches it.
    end: Vec<(usize, Arc<Plugin>)>,
}

/// A call moves its subject into the sandbox's state and back out; nothing in between can put another in its place.
const SAME_SUBJECT: &str = "a call hands back the subject it was given";

/// What one plugin came to.
enum Step {
    /// On to the next, with its changes made.
    Succeeded,
    /// On to the next, as if it were not there.
    Skipped,
    Ends(Outcome),
}

impl Chain {
    pub(crate) fn new(plugins: &[Arc<Plugin>]) -> Self {
        let having = |phase| plugins.iter().filter(move |plugin| plugin.has(phase)).cloned();
        let follow = |plugin: &&Arc<Plugin>| {
            [Phase::ResponseBody, Phase::ResponseChunk, Phase::ResponseTrailers].iter().any(|phase| plugin.has(*phase))
        };
        let mut before = 0;
        let mut end = Vec::new();
        for plugin in plugins {
            if plugin.has(Phase::ExchangeEnd) {
                end.push((before, Arc::clone(plugin)));
            }
            before += usize::from(plugin.has(Phase::RequestHeaders));
        }
        Self {
            request: having(Phase::RequestHeaders).collect(),
            request_body: having(Phase::RequestBody).collect(),
            request_chunk: having(Phase::RequestChunk).collect(),
            response: having(Phase::ResponseHeaders).rev().collect(),
            response_stages: plugins.iter().rev().filter(follow).cloned().collect(),
            end,
        }
    }

    fn all(&self) -> impl Iterator<Item = &Arc<Plugin>> {
        let by_phase = [&self.request, &self.request_body, &self.request_chunk, &self.response, &self.response_stages];
        by_phase.into_iter().flatten().chain(self.end.iter().map(|(_, plugin)| plugin))
    }

    /// Whether there is nothing to call in any phase.
    pub fn is_empty(&self) -> bool {
        self.all().next().is_none()
    }

    /// Whether [`on_request`](Self::on_request) would call anything, or note whom to call at the end: if not, spare making
    /// the head.
    pub fn has_request_phase(&self) -> bool {
        !self.request.is_empty() || !self.end.is_empty()
    }

    /// Whether [`on_request_body`](Self::on_request_body) would call anything: if not, the body need not be gathered.
    pub fn has_request_body_phase(&self) -> bool {
        !self.request_body.is_empty()
    }

    /// Whether anything sees the request's body piece by piece.
    pub fn has_request_chunk_phase(&self) -> bool {
        !self.request_chunk.is_empty()
    }

    /// Whether [`on_response`](Self::on_response) would call anything.
    pub fn has_response_phase(&self) -> bool {
        !self.response.is_empty()
    }

    /// Whether anything sees the response's body or trailers.
    pub fn follows_response(&self) -> bool {
        !self.response_stages.is_empty()
    }

    /// Whether anything may change the response's body.
    pub fn sees_response_body(&self) -> bool {
        let sees = |plugin: &Arc<Plugin>| plugin.has(Phase::ResponseBody) || plugin.has(Phase::ResponseChunk);
        self.response_stages.iter().any(sees)
    }

    /// Whether any phase follows those of the request's header: if not, its head need not be kept.
    pub fn outlives_request(&self) -> bool {
        !self.end.is_empty() || self.all().any(|plugin| plugin.component.has_phase_after(Phase::RequestHeaders))
    }

    pub(crate) fn request_chunk(&self) -> &[Arc<Plugin>] {
        &self.request_chunk
    }

    pub(crate) fn response_stages(&self) -> &[Arc<Plugin>] {
        &self.response_stages
    }

    /// Whether a plugin may ask for the connection's round trip: if not, spare asking the kernel.
    pub fn asks_for_round_trip(&self) -> bool {
        self.all().any(|plugin| plugin.config.grants.connection)
    }

    /// Calls the request phase of each plugin in turn, until one answers, refuses, or fails and may not be skipped.
    ///
    /// The head comes back in every case. If the future is dropped (the client is gone) the guest is ended where it is.
    pub async fn on_request(&self, mut head: RequestHead, visit: &mut Visit) -> (RequestHead, Outcome) {
        let mut operations = Operations::new();
        for (index, plugin) in self.request.iter().enumerate() {
            let subject = Subject::Request { head, edits: Edits::default(), body: None };
            let (subject, result) = plugin.decide(subject, visit).await;
            let Subject::Request { head: back, mut edits, .. } = subject else { unreachable!("{SAME_SUBJECT}") };
            head = back;
            let effects = std::mem::take(&mut edits.effects);
            let applied = |made: &mut Operations| extend(made, edits.apply(&mut head.headers));
            match step(plugin, Phase::RequestHeaders, result, &visit.who, || applied(&mut operations)) {
                Step::Succeeded => visit.add_effects(effects),
                Step::Skipped => {}
                Step::Ends(outcome) => {
                    self.note_ends(index, visit);
                    return (head, outcome);
                }
            }
        }
        self.note_ends(self.request.len(), visit);
        (head, Outcome::Continue(operations))
    }

    /// Notes whom the request has passed when it came to an end at this plugin of the request phase, or beyond all of them.
    fn note_ends(&self, index: usize, visit: &mut Visit) {
        for (_, plugin) in self.end.iter().filter(|(before, _)| *before <= index) {
            visit.ends.push(plugin);
        }
    }

    /// Calls the phase of each plugin that is about the request's whole body, of at most [`LONGEST_BODY`], in turn. Nothing
    /// was sent upstream yet.
    ///
    /// Head and body come back in every case, with the changes of those that succeeded. A request without a body cannot be
    /// given one: there are upstreams that it could not be sent to.
    pub async fn on_request_body(
        &self,
        mut head: RequestHead,
        mut body: Bytes,
        visit: &mut Visit,
    ) -> (RequestHead, Bytes, Outcome) {
        let has_body = !body.is_empty();
        let mut operations = Operations::new();
        for plugin in &self.request_body {
            let whole = Body::new(body.clone(), true);
            let subject = Subject::Request { head, edits: Edits::default(), body: Some(whole) };
            let (subject, result) = plugin.decide(subject, visit).await;
            let Subject::Request { head: back, mut edits, body: Some(whole) } = subject else {
                unreachable!("{SAME_SUBJECT}")
            };
            head = back;
            let effects = std::mem::take(&mut edits.effects);
            let present = whole.into_present();
            let applied = |made: &mut Operations| {
                if !has_body && !present.is_empty() {
                    return Err(Failure::Output("a body for a request that has none".to_owned()));
                }
                extend(made, edits.apply(&mut head.headers))?;
                body = present;
                Ok(())
            };
            match step(plugin, Phase::RequestBody, result, &visit.who, || applied(&mut operations)) {
                Step::Succeeded => visit.add_effects(effects),
                Step::Skipped => {}
                Step::Ends(outcome) => return (head, body, outcome),
            }
        }
        (head, body, Outcome::Continue(operations))
    }

    /// Calls the response phase of each plugin in reverse order. `request` is what was sent upstream.
    ///
    /// The status of the head that comes back may have changed, beside the operations told.
    pub async fn on_response(
        &self,
        request: Arc<RequestHead>,
        mut head: ResponseHead,
        visit: &mut Visit,
    ) -> (ResponseHead, Outcome) {
        let mut operations = Operations::new();
        for plugin in &self.response {
            let subject =
                Subject::Response { request: Arc::clone(&request), head, edits: Edits::default(), status: None };
            let (subject, result) = plugin.decide(subject, visit).await;
            let Subject::Response { head: back, mut edits, status, .. } = subject else {
                unreachable!("{SAME_SUBJECT}")
            };
            head = back;
            let effects = std::mem::take(&mut edits.effects);
            let applied = |made: &mut Operations| {
                head.status = status.unwrap_or(head.status);
                extend(made, edits.apply(&mut head.headers))
            };
            match step(plugin, Phase::ResponseHeaders, result, &visit.who, || applied(&mut operations)) {
                Step::Succeeded => visit.add_effects(effects),
                Step::Skipped => {}
                Step::Ends(outcome) => return (head, outcome),
            }
        }
        (head, Outcome::Continue(operations))
    }
}

/// What follows from a plugin's result. `apply` makes its changes; only `continue` leads there.
fn step(
    plugin: &Plugin,
    phase: Phase,
    result: Result<Decision, Failure>,
    who: &Who,
    apply: impl FnOnce() -> Result<(), Failure>,
) -> Step {
    let decided = result.and_then(|decision| match decision {
        Decision::Continue => apply().map(|()| Step::Succeeded),
        Decision::Answer(answer) => Ok(Step::Ends(Outcome::Answer(answer))),
        Decision::Refuse(refusal) => Ok(Step::Ends(Outcome::Refuse(refusal))),
    });
    decided.unwrap_or_else(|failure| {
        plugin.failed(phase, &failure, who, plugin.config.on_failure.as_str());
        if plugin.skips_on_failure() {
            return Step::Skipped;
        }
        Step::Ends(Outcome::Refuse(refusal(plugin, phase, &failure)))
    })
}

/// What becomes of a request whose plugin failed and may not be skipped.
pub(crate) fn refusal(plugin: &Plugin, phase: Phase, failure: &Failure) -> Refusal {
    let refusal = match failure.retry_after() {
        Some(after) => Refusal::new(Reason::PluginOverloaded).header(RETRY_AFTER, whole_seconds(after).into()),
        None => Refusal::new(Reason::PluginFailed),
    };
    refusal.internal(format!("plugin {} in {phase}: {failure}", plugin.shared.name))
}

/// Rounded up, and never 0: to wait a little too long is right, too short is not.
fn whole_seconds(span: Duration) -> u64 {
    (span.as_secs() + u64::from(span.subsec_nanos() > 0)).max(1)
}

fn extend(made: &mut Operations, applied: Option<Operations>) -> Result<(), Failure> {
    made.extend(applied.ok_or_else(|| Failure::Output("the header would hold more fields than it can".to_owned()))?);
    Ok(())
}
