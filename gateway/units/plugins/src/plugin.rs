//! One plugin, ready to be called: a component with its limits, its configuration and its metrics.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use sluice_vocabulary::clock::Clock;
use wasmtime::{Store, StoreContextMut, UpdateDeadline};

use crate::call::{Call, Phase, Shared, Subject};
use crate::component::Checked;
use crate::config::{Limits, OnFailure, PluginConfig};
use crate::contract::actions::Action;
use crate::engine::{MOST_BYTES_PER_CALL, Sandbox};
use crate::failure::Failure;
use crate::limits::Bounds;
use crate::message::Who;
use crate::ticker::TICK;

/// Between two warnings about one plugin: a plugin that fails at every request must not fill the log.
const WARN_EVERY: Duration = Duration::from_secs(10);

/// One plugin.
#[derive(Debug)]
pub(crate) struct Plugin {
    pub(crate) shared: Arc<Shared>,
    pub(crate) component: Arc<Checked>,
    pub(crate) config: PluginConfig,
    sandbox: Arc<Sandbox>,
    clock: Arc<dyn Clock>,
    ticks: u64,
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
        Self { shared: Arc::new(shared), component, config, sandbox, clock, ticks, warned_at: AtomicU64::new(0) }
    }

    pub(crate) fn has(&self, phase: Phase) -> bool {
        match phase {
            Phase::RequestHeaders => self.component.request_headers.is_some(),
            Phase::ResponseHeaders => self.component.response_headers.is_some(),
        }
    }

    pub(crate) fn skips_on_failure(&self) -> bool {
        self.config.on_failure == OnFailure::Skip
    }

    /// Calls one phase in an instance of its own. The subject comes back whatever happens, with the changes asked for in
    /// it and none of them made.
    pub(crate) async fn call(&self, subject: Subject, who: &Who) -> (Subject, Result<Action, Failure>) {
        // Held until after the store is gone: a slot of the pool is free when its permit is.
        let _permit = match self.sandbox.admit().await {
            Ok(permit) => permit,
            Err(failure) => return (subject, Err(failure)),
        };
        let metrics = &self.shared.metrics;
        let phase = subject.phase();
        metrics.phase(phase).invocations.inc();
        let _alive = Alive::new(&metrics.instances);

        let mut store = Store::new(
            &self.sandbox.engine,
            Call {
                subject,
                shared: Arc::clone(&self.shared),
                who: who.clone(),
                bounds: Bounds::new(self.config.limits.memory.as_usize()),
                ticks_left: self.ticks,
                lines_logged: 0,
            },
        );
        store.limiter(|call| &mut call.bounds);
        store.set_hostcall_fuel(MOST_BYTES_PER_CALL);
        store.set_epoch_deadline(1);
        store.epoch_deadline_callback(end_of_slice);

        let result = self.timed(phase, self.run(&mut store, phase)).await;
        let call = store.into_data();
        let result = result.map_err(|error| Failure::of(&error, self.ticks, call.bounds.overstepped()));
        (call.subject, result)
    }

    async fn run(&self, store: &mut Store<Call>, phase: Phase) -> wasmtime::Result<Action> {
        let instance = self.component.instance_pre.instantiate_async(&mut *store).await?;
        match (phase, &self.component.request_headers, &self.component.response_headers) {
            (Phase::RequestHeaders, Some(indices), _) => {
                indices.load(&mut *store, &instance)?.call_on_request_headers(store).await
            }
            (Phase::ResponseHeaders, _, Some(indices)) => {
                indices.load(&mut *store, &instance)?.call_on_response_headers(store).await
            }
            // A chain holds a plugin for a phase only if it has that phase; without it there is nothing to decide.
            (Phase::RequestHeaders, None, _) | (Phase::ResponseHeaders, _, None) => Ok(Action::Continue),
        }
    }

    /// Accounts for the time of a call: the whole of it, and the part in which it held a thread.
    async fn timed<T>(&self, phase: Phase, call: impl Future<Output = T>) -> T {
        let mut call = pin!(call);
        let mut begun = None;
        let mut held = Duration::ZERO;
        poll_fn(|context| {
            let slice_begun = self.clock.now();
            let result = call.as_mut().poll(context);
            let now = self.clock.now();
            held += now.saturating_duration_since(slice_begun);
            let begun = *begun.get_or_insert(slice_begun);
            if result.is_ready() {
                let metrics = &self.shared.metrics;
                metrics.phase(phase).duration.observe(now.saturating_duration_since(begun));
                metrics.guest_time.inc_by(held.as_secs_f64());
            }
            result
        })
        .await
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

/// A tick came while the guest ran: it gives its thread back, or has had its time.
///
/// The first slice ends with the tick that is under way, so a guest gets between its deadline and one tick more. Only
/// ticks in which it ran are counted: while it waits for its thread none is.
fn end_of_slice(mut store: StoreContextMut<'_, Call>) -> wasmtime::Result<UpdateDeadline> {
    let call = store.data_mut();
    if call.ticks_left == 0 {
        return Ok(UpdateDeadline::Interrupt);
    }
    call.ticks_left -= 1;
    Ok(UpdateDeadline::YieldCustom(1, Box::pin(tokio::task::yield_now())))
}

/// Counts an instance while it lives, even if the call is dropped in the middle.
struct Alive<'a>(&'a prometheus_client::metrics::gauge::Gauge);

impl<'a> Alive<'a> {
    fn new(gauge: &'a prometheus_client::metrics::gauge::Gauge) -> Self {
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for Alive<'_> {
    fn drop(&mut self) {
        self.0.dec();
    }
}
