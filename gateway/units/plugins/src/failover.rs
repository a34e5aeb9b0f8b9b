//! Two implementations of one job: the second takes over where the first fails, and may be compared with it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use sluice_vocabulary::Refusal;

use crate::answer;
use crate::failure::Failure;
use crate::fallback::Fallback;
use crate::living::Word;
use crate::message::Answer;
use crate::metrics::StandbyMetrics;
use crate::plugin::Plugin;
use crate::quarantine::{Change, Probe, Quarantine, Turn};
use crate::subject::{Changes, Subject};
use crate::visit::Visit;

/// What a phase decided, checked: nothing in it that a client must not see.
#[derive(Debug)]
pub(crate) enum Decision {
    /// Go on, with the changes that came back with the subject.
    Continue,
    Answer(Answer),
    Refuse(Refusal),
}

/// The second implementation of a plugin's job.
#[derive(Debug)]
pub(crate) struct Standby {
    pub(crate) second: Arc<Plugin>,
    pub(crate) quarantine: Quarantine,
    /// The share of calls in which both run, and how many calls there were: so it is every tenth, not one in ten by chance.
    share: f64,
    calls: AtomicU64,
    pub(crate) metrics: StandbyMetrics,
}

impl Standby {
    pub(crate) fn new(second: Arc<Plugin>, config: &Fallback, metrics: StandbyMetrics, now: Instant) -> Self {
        Self {
            second,
            quarantine: Quarantine::new(config.quarantine, now),
            share: config.compare.share(),
            calls: AtomicU64::new(0),
            metrics,
        }
    }

    /// Whether this call is one of those in which both run.
    fn compares(&self) -> bool {
        if self.share <= 0.0 {
            return false;
        }
        let call = self.calls.fetch_add(1, Ordering::Relaxed);
        let upto = |calls: u64| (calls as f64 * self.share).floor();
        upto(call.wrapping_add(1)) > upto(call)
    }
}

/// How the second's decision compares with the first's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
pub(crate) enum Comparison {
    Same,
    /// One goes on where the other answers or refuses.
    Action,
    /// Both go on, with other header fields or another status.
    Changes,
    /// Both answer, or both refuse, in other words.
    Answer,
    /// The second failed.
    Failure,
}

impl Comparison {
    pub(crate) const ALL: [Self; 5] = [Self::Same, Self::Action, Self::Changes, Self::Answer, Self::Failure];

    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Same => "same",
            Self::Action => "action",
            Self::Changes => "changes",
            Self::Answer => "answer",
            Self::Failure => "failure",
        }
    }

    fn of(first: (&Decision, &Changes), second: (&Result<Decision, Failure>, &Changes), subject: &Subject) -> Self {
        let Ok(decision) = second.0 else { return Self::Failure };
        match (first.0, decision) {
            (Decision::Continue, Decision::Continue) if subject.becomes_the_same(first.1, second.1) => Self::Same,
            (Decision::Continue, Decision::Continue) => Self::Changes,
            (Decision::Answer(one), Decision::Answer(other)) if one == other => Self::Same,
            // Why a request is refused is for the operator's log; what the client is told must not differ.
            (Decision::Refuse(one), Decision::Refuse(other)) if one.detail == other.detail => Self::Same,
            (Decision::Answer(_), Decision::Answer(_)) | (Decision::Refuse(_), Decision::Refuse(_)) => Self::Answer,
            _ => Self::Action,
        }
    }
}

impl Plugin {
    /// Calls one phase whose changes can be undone; the second implementation's where the first failed or is out of service.
    /// The subject comes back whatever happens, with the changes of whoever decided and none of them made.
    pub(crate) async fn decide(
        self: &Arc<Self>,
        subject: Subject,
        visit: &mut Visit,
    ) -> (Subject, Result<Decision, Failure>) {
        match &self.standby {
            None => self.tried(subject, visit).await,
            // Boxed, since it is large: whoever awaits a plugin without a second would carry room for it.
            Some(standby) => Box::pin(self.with(standby, subject, visit)).await,
        }
    }

    async fn with(
        self: &Arc<Self>,
        standby: &Standby,
        subject: Subject,
        visit: &mut Visit,
    ) -> (Subject, Result<Decision, Failure>) {
        // Whoever saw the request sees its response: what it remembers of it is in its instance.
        if visit.holds(&standby.second) {
            return standby.second.tried(subject, visit).await;
        }
        let turn = standby.quarantine.turn(self.clock.now());
        let probe = match turn {
            Turn::First => None,
            Turn::Probe(probe) => Some(probe),
            Turn::Second => return standby.second.tried(subject, visit).await,
        };
        let phase = subject.phase();
        let in_service = probe.is_none();
        let (subject, result) = self.tried(subject, visit).await;
        match &result {
            Err(failure) if failure.is_its_own() => {
                self.first_failed(standby, probe);
                self.failed(phase, failure, &visit.who, "fallback");
                standby.metrics.failovers.inc();
                let mut subject = subject;
                subject.start_over();
                standby.second.tried(subject, visit).await
            }
            // There was no room for it, or no sandbox: that says nothing of it, and the second would find none either.
            Err(_) => (subject, result),
            Ok(decision) => {
                self.first_went_well(standby, probe);
                let subject = if in_service && standby.compares() {
                    self.compare(standby, decision, subject, visit).await
                } else {
                    subject
                };
                (subject, result)
            }
        }
    }

    /// Calls one phase of this implementation, and checks what it hands back.
    async fn tried(self: &Arc<Self>, subject: Subject, visit: &mut Visit) -> (Subject, Result<Decision, Failure>) {
        let (subject, result) = self.call(subject, visit).await;
        let decision = result.and_then(|word| match word {
            Word::Continue if subject.fits() => Ok(Decision::Continue),
            Word::Continue => Err(Failure::Output("the header would hold more fields than it can".to_owned())),
            Word::Answer(given) => answer::checked(given).map(Decision::Answer),
            Word::Refuse(refusal) => Ok(Decision::Refuse(answer::refusal(self.shared.name.as_str(), refusal))),
            Word::Abort => Err(Failure::Output("an abort of a message that is not under way".to_owned())),
        });
        (subject, decision)
    }

    fn first_failed(&self, standby: &Standby, probe: Option<Probe<'_>>) {
        let now = self.clock.now();
        match probe {
            Some(probe) => probe.failed(now),
            None if standby.quarantine.failed(now) == Change::Out => {
                standby.metrics.quarantined.set(1);
                tracing::warn!(
                    plugin = %self.shared.name,
                    component = %self.config.component,
                    "plugin quarantined: its fallback takes its place"
                );
            }
            None => {}
        }
    }

    fn first_went_well(&self, standby: &Standby, probe: Option<Probe<'_>>) {
        match probe {
            None => standby.quarantine.went_well(),
            Some(probe) => {
                if probe.went_well() == Change::Back {
                    standby.metrics.quarantined.set(0);
                    tracing::info!(
                        plugin = %self.shared.name,
                        component = %self.config.component,
                        "plugin back from quarantine"
                    );
                }
            }
        }
    }

    /// Runs the second on the message as the first found it, and notes how their decisions compare. Gives the subject with
    /// the first's changes: whatever the second does, the request does not feel it.
    async fn compare(&self, standby: &Standby, decision: &Decision, mut subject: Subject, visit: &Visit) -> Subject {
        let changes = subject.take_changes();
        let phase = subject.phase();
        // What it would keep for the next phase is not kept: that phase may not be compared.
        let mut elsewhere = Visit::new(visit.who.clone());
        let (mut subject, second) = standby.second.tried(subject, &mut elsewhere).await;
        let others = subject.take_changes();
        let comparison = Comparison::of((decision, &changes), (&second, &others), &subject);
        standby.metrics.comparisons(comparison).inc();
        if comparison != Comparison::Same && self.may_warn() {
            tracing::warn!(
                plugin = %self.shared.name,
                %phase,
                request.id = %visit.who.request_id,
                differs = comparison.as_str(),
                first = ?Shown(&Ok(decision), &changes),
                second = ?Shown(&second.as_ref(), &others),
                "the two implementations of a plugin decide differently"
            );
        }
        subject.put_changes(changes);
        subject
    }
}

/// A decision as an operator's log shows it: names of changed fields, and no values, which may be secrets.
struct Shown<'a>(&'a Result<&'a Decision, &'a Failure>, &'a Changes);

impl std::fmt::Debug for Shown<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Ok(Decision::Continue) => write!(f, "continue, changing {:?}", self.1.names()),
            Ok(Decision::Answer(answer)) => {
                write!(f, "answer {} with {} bytes", answer.status.as_u16(), answer.body.len())
            }
            Ok(Decision::Refuse(_)) => f.write_str("refuse"),
            Err(failure) => write!(f, "failed: {failure}"),
        }
    }
}
