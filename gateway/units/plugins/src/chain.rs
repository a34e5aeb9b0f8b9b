//! A chain: plugins in a fixed order, bound to a route or a tenant.

use std::sync::Arc;
use std::time::Duration;

use http::header::RETRY_AFTER;
use sluice_vocabulary::{Reason, Refusal};

use crate::call::{Phase, Subject};
use crate::edits::Edits;
use crate::failover::Decision;
use crate::failure::Failure;
use crate::message::{Operations, Outcome, RequestHead, ResponseHead, Who};
use crate::plugin::Plugin;
use crate::visit::Visit;

/// Plugins in order. Made once with the configuration; each phase holds only those that have it, so a phase that no plugin
/// exports costs a look at an empty list.
#[derive(Debug, Default)]
pub struct Chain {
    request: Vec<Arc<Plugin>>,
    /// In reverse: what saw the request last sees the response first.
    response: Vec<Arc<Plugin>>,
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
        Self {
            request: having(Phase::RequestHeaders).collect(),
            response: having(Phase::ResponseHeaders).rev().collect(),
        }
    }

    /// Whether there is nothing to call in any phase.
    pub fn is_empty(&self) -> bool {
        self.request.is_empty() && self.response.is_empty()
    }

    /// Whether [`on_request`](Self::on_request) would call anything: if not, spare making the head.
    pub fn has_request_phase(&self) -> bool {
        !self.request.is_empty()
    }

    /// Whether [`on_response`](Self::on_response) would call anything: if not, the request's head need not be kept.
    pub fn has_response_phase(&self) -> bool {
        !self.response.is_empty()
    }

    /// Whether a plugin may ask for the connection's round trip: if not, spare asking the kernel.
    pub fn asks_for_round_trip(&self) -> bool {
        self.request.iter().chain(&self.response).any(|plugin| plugin.config.grants.connection)
    }

    /// Calls the request phase of each plugin in turn, until one answers, refuses, or fails and may not be skipped.
    ///
    /// The head comes back in every case. If the future is dropped (the client is gone) the guest is ended where it is.
    pub async fn on_request(&self, mut head: RequestHead, visit: &mut Visit) -> (RequestHead, Outcome) {
        let mut operations = Operations::new();
        for plugin in &self.request {
            let (subject, result) = plugin.decide(Subject::Request { head, edits: Edits::default() }, visit).await;
            let Subject::Request { head: back, mut edits } = subject else { unreachable!("{SAME_SUBJECT}") };
            head = back;
            let effects = std::mem::take(&mut edits.effects);
            let applied = |made: &mut Operations| extend(made, edits.apply(&mut head.headers));
            match step(plugin, Phase::RequestHeaders, result, &visit.who, || applied(&mut operations)) {
                Step::Succeeded => visit.add_effects(effects),
                Step::Skipped => {}
                Step::Ends(outcome) => return (head, outcome),
            }
        }
        (head, Outcome::Continue(operations))
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
        let internal = format!("plugin {} in {phase}: {failure}", plugin.shared.name);
        let refusal = match failure.retry_after() {
            Some(after) => Refusal::new(Reason::PluginOverloaded).header(RETRY_AFTER, whole_seconds(after).into()),
            None => Refusal::new(Reason::PluginFailed),
        };
        Step::Ends(Outcome::Refuse(refusal.internal(internal)))
    })
}

/// Rounded up, and never 0: to wait a little too long is right, too short is not.
fn whole_seconds(span: Duration) -> u64 {
    (span.as_secs() + u64::from(span.subsec_nanos() > 0)).max(1)
}

fn extend(made: &mut Operations, applied: Option<Operations>) -> Result<(), Failure> {
    made.extend(applied.ok_or_else(|| Failure::Output("the header would hold more fields than it can".to_owned()))?);
    Ok(())
}
