//! One plugin, ready to be called: a component with its limits, its configuration and its metrics.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::Poll;
use std::time::{Duration, Instant};

use sluice_vocabulary::clock::Clock;
use sluice_vocabulary::share::{Claim, OverShare, Patience, Turn};

use crate::call::Shared;
use crate::component::Checked;
use crate::config::{Limits, OnFailure, PluginConfig};
use crate::engine::Sandbox;
use crate::failover::Standby;
use crate::failure::Failure;
use crate::limits::Bounds;
use crate::living::{Living, Place, Word};
use crate::message::Who;
use crate::phase::Phase;
use crate::reuse::Shelf;
use crate::subject::Subject;
use crate::ticker::TICK;
use crate::visit::Visit;

/// Between two warnings about one plugin: a plugin that fails at every request must not fill the log.
const WARN_EVERY: Duration = Duration::from_secs(10);

/// A phase that took less is expected to take as little the next time. Of those that take this long one in twenty meets a
/// tick and is begun anew, half way through: what that costs on average is what a stack of its own would.
const BRIEF: Duration = Duration::from_micros(50);

/// One plugin.
#[derive(Debug)]
pub(crate) struct Plugin {
    pub(crate) shared: Arc<Shared>,
    pub(crate) component: Arc<Checked>,
    pub(crate) config: PluginConfig,
    pub(crate) sandbox: Arc<Sandbox>,
    pub(crate) clock: Arc<dyn Clock>,
    /// Where its instances rest between two requests, if they are used again.
    pub(crate) shelf: Arc<Shelf>,
    /// The other implementation of its job.
    pub(crate) standby: Option<Standby>,
    /// Ticks that one phase may run for.
    pub(crate) ticks: u64,
    /// Whether the last call of each phase was [`BRIEF`]. What was never called is not: its first call finds nothing warm.
    is_brief: [AtomicBool; Phase::ALL.len()],
    /// When a failure was last said aloud, in seconds since the epoch and one more; 0 for never.
    warned_at: AtomicU64,
}

impl Plugin {
    pub(crate) fn new(
        shared: Arc<Shared>,
        component: Arc<Checked>,
        config: PluginConfig,
        sandbox: Arc<Sandbox>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let Limits { deadline, .. } = config.limits;
        let ticks = u64::try_from(deadline.get().as_millis() / TICK.as_millis()).unwrap_or(u64::MAX).max(1);
        let shelf = Arc::default();
        if config.reuse.is_some() {
            sandbox.knows_of(&shelf);
        }
        Self {
            shared,
            component,
            config,
            sandbox,
            clock,
            shelf,
            standby: None,
            ticks,
            is_brief: Default::default(),
            warned_at: AtomicU64::new(0),
        }
    }

    pub(crate) fn has(&self, phase: Phase) -> bool {
        self.component.function(phase).is_some()
    }

    pub(crate) fn bounds(&self) -> Bounds {
        Bounds::new(self.config.limits.memory.as_usize())
    }

    pub(crate) fn skips_on_failure(&self) -> bool {
        self.config.on_failure == OnFailure::Skip
    }

    /// Calls one phase, in the instance that this request's phase before left, or in one of its own. The subject comes back
    /// whatever happens, with the changes asked for in it and none of them made.
    pub(crate) async fn call(
        self: &Arc<Self>,
        subject: Subject,
        visit: &mut Visit,
    ) -> (Subject, Result<Word, Failure>) {
        let phase = subject.phase();
        let claim = visit.who.claim.clone();
        let mut patience = Patience::new(self.sandbox.queue);
        // What was kept would hold a place that others can use while its tenant waits for time.
        if !claim.is_at_ease(self.clock.coarse()) {
            visit.let_go();
        }
        let kept = visit.take(self);
        // In this order: whoever waits on account of its tenant holds nothing that other tenants need.
        let seat = match &kept {
            Some(_) => None,
            None => match claim.seat(&mut patience).await {
                Ok(seat) => Some(seat),
                Err(over) => return (subject, Err(over.into())),
            },
        };
        let turn = match claim.begin(&*self.clock, &mut patience).await {
            Ok(turn) => turn,
            Err(over) => return (subject, Err(over.into())),
        };
        let mut living = match kept {
            Some(mut kept) => {
                if let Err(failure) = kept.wake() {
                    return (subject, Err(failure));
                }
                kept.next_phase(subject);
                kept
            }
            None => {
                let Some(seat) = seat else {
                    return (subject, Err(Failure::Host("a call without a place among its tenant's".to_owned())));
                };
                // The shelf has a lock, which nobody needs who uses nothing again.
                let rested = self.config.reuse.and_then(|_| self.shelf.take(visit.who.tenant.as_ref()));
                let living = match rested {
                    Some(rested) => Living::again(rested, self, seat, &visit.who),
                    None => {
                        let place = Place::of(self, seat, &mut patience).await;
                        place.map(|place| Living::new(place, Subject::none(), &visit.who))
                    }
                };
                match living {
                    Ok(mut living) => {
                        living.next_phase(subject);
                        living
                    }
                    Err(failure) => return (subject, Err(failure)),
                }
            }
        };
        self.called(phase);

        let mut spent = Spent::begins(self.clock.now());
        let mut result = None;
        // What a phase has stored or counted is done, and would be done twice if it were begun anew.
        let may_begin_anew = !self.config.grants.has_lasting_effects();
        if may_begin_anew && self.is_brief[phase as usize].load(Ordering::Relaxed) {
            result = living.at_once(phase);
            let slice = spent.held_until(self.clock.now());
            claim.charge(slice, spent.until);
            if result.is_none() {
                living = living.begin_anew();
            }
        }
        let result = match result {
            Some(result) => Ok(result),
            None => {
                let mut taking = TakingTurns { claim: &claim, turn: Some(turn), patience };
                // Boxed, since it is large and seldom needed: whoever awaits a call would carry room for it.
                Box::pin(self.timed(&mut spent, &mut taking, living.in_slices(phase))).await
            }
        };
        self.account(phase, &spent);

        let result = self.outcome(result, &living);
        let subject = living.take_subject();
        match result {
            Ok(Word::Continue) if self.component.has_phase_after(phase) || visit.keeps_all => visit.keep(living),
            Ok(_) => living.retire(),
            Err(_) => {}
        }
        (subject, result)
    }

    /// An instance for a body that is under way: what this request's phase before left, or a new one. It is the body's until
    /// its end, so that there must be room to keep it.
    pub(crate) async fn settle(self: &Arc<Self>, visit: &mut Visit) -> Result<Living, Failure> {
        if let Some(kept) = visit.take(self) {
            return Ok(kept);
        }
        let mut patience = Patience::new(self.sandbox.queue);
        let seat = visit.who.claim.seat(&mut patience).await?;
        let place = Place::of(self, seat, &mut patience).await?;
        let mut living = Living::new(place, Subject::none(), &visit.who);
        if living.keep() {
            Ok(living)
        } else {
            Err(Failure::Crowded("as many instances as may be kept are kept for other messages".to_owned()))
        }
    }

    /// Calls a phase about a piece of a body in the instance that sees all of them, slice by slice.
    pub(crate) async fn see(
        &self,
        living: &mut Living,
        subject: Subject,
        claim: &Claim,
    ) -> (Subject, Result<Word, Failure>) {
        let phase = subject.phase();
        let mut patience = Patience::new(self.sandbox.queue);
        let turn = match claim.begin(&*self.clock, &mut patience).await {
            Ok(turn) => turn,
            Err(over) => return (subject, Err(over.into())),
        };
        if let Err(failure) = living.wake() {
            return (subject, Err(failure));
        }
        living.next_phase(subject);
        self.called(phase);
        let mut spent = Spent::begins(self.clock.now());
        let mut taking = TakingTurns { claim, turn: Some(turn), patience };
        let result = Box::pin(self.timed(&mut spent, &mut taking, living.in_slices(phase))).await;
        self.account(phase, &spent);
        let result = self.outcome(result, living);
        living.rest();
        (living.take_subject(), result)
    }

    /// The same where nobody can wait: it has one slice. What its tenant owes then is for the caller to wait for.
    pub(crate) fn see_now(
        &self,
        living: &mut Living,
        subject: Subject,
        claim: &Claim,
    ) -> (Subject, Result<Word, Failure>) {
        let phase = subject.phase();
        if let Err(failure) = living.wake() {
            return (subject, Err(failure));
        }
        living.next_phase(subject);
        self.called(phase);
        let mut spent = Spent::begins(self.clock.now());
        let result = living.in_one_slice(phase);
        let slice = spent.held_until(self.clock.now());
        claim.charge(slice, spent.until);
        self.account(phase, &spent);
        let result = result.map_err(|error| Failure::of(&error, 1, living.overstepped()));
        living.rest();
        (living.take_subject(), result)
    }

    fn called(&self, phase: Phase) {
        if let Some(of_phase) = self.shared.metrics.phase(phase) {
            of_phase.invocations.inc();
        }
    }

    fn outcome(&self, result: Result<wasmtime::Result<Word>, OverShare>, living: &Living) -> Result<Word, Failure> {
        match result {
            Ok(result) => result.map_err(|error| Failure::of(&error, self.ticks, living.overstepped())),
            Err(over) => Err(over.into()),
        }
    }

    /// Runs a call slice by slice: in turn with the others of its tenant, and on that one's account.
    async fn timed<T>(
        &self,
        spent: &mut Spent,
        taking: &mut TakingTurns<'_>,
        call: impl Future<Output = T>,
    ) -> Result<T, OverShare> {
        let mut call = pin!(call);
        loop {
            let slice = poll_fn(|context| Poll::Ready(call.as_mut().poll(context))).await;
            let held = spent.held_until(self.clock.now());
            taking.claim.charge(held, spent.until);
            taking.turn = None;
            match slice {
                Poll::Ready(result) => return Ok(result),
                Poll::Pending => woken().await,
            }
            taking.turn = Some(taking.claim.go_on(&*self.clock, &mut taking.patience).await?);
            spent.resumes(self.clock.now());
        }
    }

    /// Accounts for the time of a call: the whole of it, and the part in which it held a thread. The latter tells how to
    /// make the next one.
    fn account(&self, phase: Phase, spent: &Spent) {
        let metrics = &self.shared.metrics;
        if let Some(of_phase) = metrics.phase(phase) {
            of_phase.duration.observe(spent.until.saturating_duration_since(spent.begun));
        }
        metrics.guest_time.inc_by(spent.held.as_secs_f64());
        let (is_brief, was_brief) = (spent.held < BRIEF, &self.is_brief[phase as usize]);
        if is_brief != was_brief.load(Ordering::Relaxed) {
            was_brief.store(is_brief, Ordering::Relaxed);
        }
    }

    /// Whether it is time for another warning about this plugin; then the next has to wait.
    pub(crate) fn may_warn(&self) -> bool {
        let now = self.clock.unix_seconds();
        let said = self.warned_at.load(Ordering::Relaxed);
        let due = said == 0 || now >= said.saturating_add(WARN_EVERY.as_secs());
        due && self.warned_at.compare_exchange(said, now + 1, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    /// Counts a failure, and says it unless it was said a moment ago; `then` is what becomes of the request.
    pub(crate) fn failed(&self, phase: Phase, failure: &Failure, who: &Who, then: &'static str) {
        self.shared.metrics.failures(failure.kind()).inc();
        if self.may_warn() {
            tracing::warn!(
                plugin = %self.shared.name,
                %phase,
                request.id = %who.request_id,
                reason = failure.kind().as_str(),
                then,
                error = %failure,
                "plugin failed"
            );
        } else {
            tracing::debug!(
                plugin = %self.shared.name,
                %phase,
                request.id = %who.request_id,
                reason = failure.kind().as_str(),
                then,
                error = %failure,
                "plugin failed"
            );
        }
    }
}

/// When a call began, until when it ran, and how long it held a thread meanwhile.
struct Spent {
    begun: Instant,
    slice_begun: Instant,
    until: Instant,
    held: Duration,
}

impl Spent {
    const fn begins(now: Instant) -> Self {
        Self { begun: now, slice_begun: now, until: now, held: Duration::ZERO }
    }

    const fn resumes(&mut self, now: Instant) {
        self.slice_begun = now;
    }

    /// A slice ended; another may follow at once. Gives its length.
    fn held_until(&mut self, now: Instant) -> Duration {
        let slice = now.saturating_duration_since(self.slice_begun);
        self.held += slice;
        self.slice_begun = now;
        self.until = now;
        slice
    }
}

/// Leave to run, slice by slice.
struct TakingTurns<'a> {
    claim: &'a Claim,
    turn: Option<Turn<'a>>,
    patience: Patience,
}

/// Waits until whoever polls is woken: by what was polled just before with the same waker.
async fn woken() {
    let mut first = true;
    poll_fn(|_| if std::mem::take(&mut first) { Poll::Pending } else { Poll::Ready(()) }).await;
}
