//! One plugin, ready to be called: a component with its limits, its configuration and its metrics.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use sluice_vocabulary::clock::Clock;

use crate::call::{Phase, Shared, Subject};
use crate::component::Checked;
use crate::config::{Limits, OnFailure, PluginConfig};
use crate::contract::actions::Action;
use crate::engine::Sandbox;
use crate::failure::Failure;
use crate::limits::Bounds;
use crate::living::{Living, Place};
use crate::message::Who;
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
    clock: Arc<dyn Clock>,
    /// Ticks that one phase may run for.
    pub(crate) ticks: u64,
    /// Whether the last call of each phase was [`BRIEF`]. What was never called is not: its first call finds nothing warm.
    is_brief: [AtomicBool; Phase::ALL.len()],
    /// When a failure was last said aloud, in seconds since the epoch and one more; 0 for never.
    warned_at: AtomicU64,
}

impl Plugin {
    pub(crate) fn new(
        shared: Shared,
        component: Arc<Checked>,
        config: PluginConfig,
        sandbox: Arc<Sandbox>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let Limits { deadline, .. } = config.limits;
        let ticks = u64::try_from(deadline.get().as_millis() / TICK.as_millis()).unwrap_or(u64::MAX).max(1);
        Self {
            shared: Arc::new(shared),
            component,
            config,
            sandbox,
            clock,
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
    ) -> (Subject, Result<Action, Failure>) {
        let phase = subject.phase();
        let mut living = match visit.take(self) {
            Some(mut kept) => {
                if let Err(failure) = kept.wake() {
                    return (subject, Err(failure));
                }
                kept.next_phase(subject);
                kept
            }
            None => match Place::of(self).await {
                Ok(place) => Living::new(place, subject, &visit.who),
                Err(failure) => return (subject, Err(failure)),
            },
        };
        self.shared.metrics.phase(phase).invocations.inc();

        let mut spent = Spent::begins(self.clock.now());
        let mut result = None;
        // What a phase has stored or counted is done, and would be done twice if it were begun anew.
        let may_begin_anew = !self.config.grants.has_lasting_effects();
        if may_begin_anew && self.is_brief[phase as usize].load(Ordering::Relaxed) {
            result = living.at_once(phase);
            spent.held_until(self.clock.now());
            if result.is_none() {
                living = living.begin_anew();
            }
        }
        let result = match result {
            Some(result) => result,
            // Boxed, since it is large and seldom needed: whoever awaits a call would carry room for it.
            None => Box::pin(self.timed(&mut spent, living.in_slices(phase))).await,
        };
        self.account(phase, &spent);

        let result = result.map_err(|error| Failure::of(&error, self.ticks, living.overstepped()));
        let subject = living.take_subject();
        let has_more = phase == Phase::RequestHeaders && self.has(Phase::ResponseHeaders);
        if has_more && matches!(result, Ok(Action::Continue)) {
            visit.keep(living);
        }
        (subject, result)
    }

    /// Notes when a call holds a thread.
    async fn timed<T>(&self, spent: &mut Spent, call: impl Future<Output = T>) -> T {
        let mut call = pin!(call);
        let mut first = true;
        poll_fn(|context| {
            if !std::mem::take(&mut first) {
                spent.resumes(self.clock.now());
            }
            let result = call.as_mut().poll(context);
            spent.held_until(self.clock.now());
            result
        })
        .await
    }

    /// Accounts for the time of a call: the whole of it, and the part in which it held a thread. The latter tells how to
    /// make the next one.
    fn account(&self, phase: Phase, spent: &Spent) {
        let metrics = &self.shared.metrics;
        metrics.phase(phase).duration.observe(spent.until.saturating_duration_since(spent.begun));
        metrics.guest_time.inc_by(spent.held.as_secs_f64());
        let (is_brief, was_brief) = (spent.held < BRIEF, &self.is_brief[phase as usize]);
        if is_brief != was_brief.load(Ordering::Relaxed) {
            was_brief.store(is_brief, Ordering::Relaxed);
        }
    }

    /// Counts a failure, and says it unless it was said a moment ago.
    pub(crate) fn failed(&self, phase: Phase, failure: &Failure, who: &Who) {
        self.shared.metrics.failures(failure.kind()).inc();
        let now = self.clock.unix_seconds();
        let said = self.warned_at.load(Ordering::Relaxed);
        let due = said == 0 || now >= said.saturating_add(WARN_EVERY.as_secs());
        if due && self.warned_at.compare_exchange(said, now + 1, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            tracing::warn!(
                plugin = %self.shared.name,
                %phase,
                request.id = %who.request_id,
                reason = failure.kind().as_str(),
                on_failure = self.config.on_failure.as_str(),
                error = %failure,
                "plugin failed"
            );
        } else {
            tracing::debug!(plugin = %self.shared.name, %phase, request.id = %who.request_id, error = %failure, "plugin failed");
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

    /// A slice ended; another may follow at once.
    fn held_until(&mut self, now: Instant) {
        self.held += now.saturating_duration_since(self.slice_begun);
        self.slice_begun = now;
        self.until = now;
    }
}
