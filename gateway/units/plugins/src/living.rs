//! An instance and all that it holds: its place among the instances there may be, its store, the call it is about.

use std::fmt;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant as Moment};

use sluice_vocabulary::share::{Patience, Seat};
use wasmtime::component::{Instance, TypedFunc};
use wasmtime::{Store, StoreContextMut, Trap, UpdateDeadline};

use crate::call::{Call, Shared};
use crate::contract::actions::{self, Action};
use crate::contract::streams::StreamAction;
use crate::engine::{MOST_BYTES_PER_CALL, Sandbox};
use crate::failure::{Failure, Misuse};
use crate::message::Who;
use crate::phase::{Phase, Returns};
use crate::plugin::Plugin;
use crate::running::Tick;
use crate::subject::Subject;

/// What a phase that cannot give its thread back may run after the first tick that it meets. A little less than lies between
/// two ticks, so that it is the next tick that ends it, however late the first one was seen.
const RUN_AFTER_FIRST_TICK: Duration = Duration::from_micros(900);

/// What a guest's function returned, whatever its phase.
#[derive(Debug)]
pub(crate) enum Word {
    /// Go on: all that a function says which returns nothing.
    Continue,
    Answer(actions::Answer),
    Refuse(actions::Refusal),
    Abort,
}

impl From<Action> for Word {
    fn from(action: Action) -> Self {
        match action {
            Action::Continue => Self::Continue,
            Action::Answer(answer) => Self::Answer(answer),
            Action::Refuse(refusal) => Self::Refuse(refusal),
        }
    }
}

impl From<StreamAction> for Word {
    fn from(action: StreamAction) -> Self {
        match action {
            StreamAction::Continue => Self::Continue,
            StreamAction::Abort => Self::Abort,
        }
    }
}

/// A slot of the sandbox, given back when it is dropped.
struct Slot {
    sandbox: Arc<Sandbox>,
    shared: Arc<Shared>,
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.shared.metrics.instances.dec();
        self.sandbox.release();
    }
}

/// The right of one instance to be, given back when it is dropped.
pub(crate) struct Place {
    pub(crate) plugin: Arc<Plugin>,
    /// Its place among those of its tenant.
    _seat: Seat,
    slot: Slot,
}

impl Place {
    /// A place for an instance of this plugin, waited for if need be.
    pub(crate) async fn of(plugin: &Arc<Plugin>, seat: Seat, patience: &mut Patience) -> Result<Self, Failure> {
        plugin.sandbox.admit(patience).await?.forget();
        plugin.shared.metrics.instances.inc();
        let slot = Slot { sandbox: Arc::clone(&plugin.sandbox), shared: Arc::clone(&plugin.shared) };
        Ok(Self { plugin: Arc::clone(plugin), _seat: seat, slot })
    }
}

/// Bytes that an instance is charged for while no phase of it runs, until they are given back.
struct Charge {
    sandbox: Arc<Sandbox>,
    bytes: usize,
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.sandbox.give_up_keeping(self.bytes);
    }
}

/// An instance, made when its first phase begins.
pub(crate) struct Living {
    // In this order: a slot of the pool is free when its place is, and what is charged is never more than there is.
    kept: Option<Charge>,
    store: Store<Call>,
    instance: Option<Instance>,
    served: Served,
    place: Place,
}

/// What an instance has behind it.
#[derive(Debug, Clone, Copy, Default)]
struct Served {
    /// Requests before the present one.
    requests: u32,
    /// Bytes of memory that it had after the first of them.
    bytes_after_first: usize,
}

/// An instance between two requests of one tenant.
pub(crate) struct Rested {
    // In this order, as above.
    resting: Resting,
    store: Store<Call>,
    instance: Instance,
    served: Served,
    slot: Slot,
    since: Moment,
}

/// The same as [`Charge`], of the room that there is for instances between requests.
struct Resting {
    sandbox: Arc<Sandbox>,
    bytes: usize,
}

impl Drop for Resting {
    fn drop(&mut self) {
        self.sandbox.end_rest(self.bytes);
    }
}

impl Rested {
    pub(crate) fn has_rested(&self, now: Moment) -> Duration {
        now.saturating_duration_since(self.since)
    }
}

impl fmt::Debug for Rested {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rested").field("plugin", &self.slot.shared.name).finish_non_exhaustive()
    }
}

impl Living {
    pub(crate) fn new(place: Place, subject: Subject, who: &Who) -> Self {
        let call = Call::new(&place.plugin, subject, who.clone());
        Self::with(place, call)
    }

    fn with(place: Place, call: Call) -> Self {
        let mut store = Store::new(&place.plugin.sandbox.engine, call);
        store.limiter(|call| &mut call.bounds);
        store.set_hostcall_fuel(MOST_BYTES_PER_CALL);
        Self { kept: None, store, instance: None, served: Served::default(), place }
    }

    /// An instance that served another request of the same tenant, for this one.
    pub(crate) fn again(rested: Rested, plugin: &Arc<Plugin>, seat: Seat, who: &Who) -> Result<Self, Failure> {
        let Rested { resting, mut store, instance, served, slot, .. } = rested;
        drop(resting);
        // After that: whoever makes the ticks looks at how many run.
        if let Err(failure) = plugin.sandbox.is_watched() {
            // Before its slot, as always.
            drop(store);
            return Err(failure);
        }
        plugin.shared.metrics.reused.inc();
        store.data_mut().next_request(who.clone());
        let place = Place { plugin: Arc::clone(plugin), _seat: seat, slot };
        Ok(Self { kept: None, store, instance: Some(instance), served, place })
    }

    /// Its request is over, and all went well: it rests until the next one of its tenant, where that is allowed and there is
    /// room.
    pub(crate) fn retire(mut self) {
        // Taken apart only where it rests: what ends here ends in the order of its fields.
        let (Some(reuse), Some(instance)) = (self.place.plugin.config.reuse, self.instance) else { return };
        self.kept = None;
        let bytes = self.store.data().bounds.granted();
        self.served.requests += 1;
        if self.served.requests == 1 {
            self.served.bytes_after_first = bytes;
        }
        let Plugin { config, sandbox, .. } = &*self.place.plugin;
        // One that grows from request to request would fail one of them when it meets its bound.
        let is_growing = bytes > self.served.bytes_after_first && bytes > config.limits.memory.as_usize() / 2;
        if self.served.requests >= reuse.requests || is_growing || !sandbox.rest(bytes) {
            return;
        }
        let Self { mut store, served, place, .. } = self;
        let resting = Resting { sandbox: Arc::clone(&place.plugin.sandbox), bytes };
        let (tenant, since) = (store.data().who.tenant.clone(), place.plugin.clock.coarse());
        // Nothing of the request is held on to meanwhile, and its tenant's seat is free.
        store.data_mut().forget_request();
        let Place { plugin, slot, .. } = place;
        plugin.shelf.put(tenant.as_ref(), Rested { resting, store, instance, served, slot, since });
    }

    pub(crate) fn is_of(&self, plugin: &Arc<Plugin>) -> bool {
        Arc::ptr_eq(&self.place.plugin, plugin)
    }

    /// Whether it may be kept for the request's next phase: not if too many are, or its tenant uses many, or it is too large.
    pub(crate) fn keep(&mut self) -> bool {
        let bytes = self.store.data().bounds.granted();
        if !self.store.data().who.claim.has_room() {
            return false;
        }
        let kept = self.place.plugin.sandbox.keep(bytes);
        self.kept = kept.then(|| Charge { sandbox: Arc::clone(&self.place.plugin.sandbox), bytes });
        kept
    }

    /// It rests until the next piece of the body that it was admitted for. What it has grown by is charged, whether there is
    /// room or not: it cannot be made anew.
    pub(crate) fn rest(&mut self) {
        let bytes = self.store.data().bounds.granted();
        self.place.plugin.sandbox.keep_on(bytes);
        self.kept = Some(Charge { sandbox: Arc::clone(&self.place.plugin.sandbox), bytes });
    }

    /// Makes a kept instance ready to run again.
    pub(crate) fn wake(&mut self) -> Result<(), Failure> {
        self.kept = None;
        // After that: whoever makes the ticks looks at how many run.
        self.place.plugin.sandbox.is_watched()
    }

    /// What the next phase is about.
    pub(crate) fn next_phase(&mut self, subject: Subject) {
        self.store.data_mut().next_phase(subject, &self.place.plugin);
    }

    /// The message, with the changes asked for.
    pub(crate) fn take_subject(&mut self) -> Subject {
        std::mem::replace(&mut self.store.data_mut().subject, Subject::none())
    }

    /// The bound on memory, if the guest has asked for more.
    pub(crate) fn overstepped(&self) -> Option<usize> {
        self.store.data().bounds.overstepped()
    }

    /// Runs a phase on the caller's stack. None where a tick came before its end: [`begin_anew`](Self::begin_anew) then.
    ///
    /// A stack of its own costs a native plugin a good tenth of its call, and only a guest that has to give its thread back
    /// in the middle needs one. Whether this one does is not known before: it runs until the next tick, which is a
    /// millisecond away at most, and is begun anew, with its whole deadline, if that was not enough. Nothing is lost but the
    /// time, since nothing that a phase does shows before it ends, but for its log lines, which are not said twice.
    pub(crate) fn at_once(&mut self, phase: Phase) -> Option<wasmtime::Result<Word>> {
        self.store.epoch_deadline_trap();
        self.store.set_epoch_deadline(1);
        match self.run(phase) {
            Err(error) if error.downcast_ref() == Some(&Trap::Interrupt) => None,
            result => Some(result),
        }
    }

    /// Runs a phase on the caller's stack, in which nobody can wait: it may run until the tick after the next, which is one
    /// to two milliseconds, and fails then. What counts is how long its thread ran: on a busy machine a thread may stand for
    /// many ticks, and a plugin that did nothing wrong must not cost the exchange then.
    pub(crate) fn in_one_slice(&mut self, phase: Phase) -> wasmtime::Result<Word> {
        self.store.data_mut().ran_at_first_tick = None;
        self.store.epoch_deadline_callback(end_of_the_only_slice);
        self.store.set_epoch_deadline(1);
        if self.place.plugin.shared.outbound.is_none() {
            return self.run(phase);
        }
        // What could wait elsewhere is called as if it could here: the engine takes it no other way. It is asked once, since
        // the host function that would wait refuses to in this phase.
        match pin!(self.run_on_a_stack(phase)).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(result) => result,
            Poll::Pending => Err(Misuse::CannotWait(phase).into()),
        }
    }

    fn run(&mut self, phase: Phase) -> wasmtime::Result<Word> {
        let component = &self.place.plugin.component;
        // A chain holds a plugin for a phase only if it has that phase; without it there is nothing to decide.
        let Some(function) = component.function(phase) else { return Ok(Word::Continue) };
        let instance = match self.instance {
            Some(instance) => instance,
            None => *self.instance.insert(component.instance_pre.instantiate(&mut self.store)?),
        };
        let store = &mut self.store;
        match phase.returns() {
            Returns::Action => {
                let function: TypedFunc<(), (Action,)> = instance.get_typed_func(&mut *store, function)?;
                Ok(function.call(store, ())?.0.into())
            }
            Returns::StreamAction => {
                let function: TypedFunc<(), (StreamAction,)> = instance.get_typed_func(&mut *store, function)?;
                Ok(function.call(store, ())?.0.into())
            }
            Returns::Nothing => {
                let function: TypedFunc<(), ()> = instance.get_typed_func(&mut *store, function)?;
                function.call(store, ()).map(|()| Word::Continue)
            }
        }
    }

    /// A new instance in the same place, about the same message as it was before the phase.
    pub(crate) fn begin_anew(self) -> Self {
        let Self { kept: _kept, store, place, .. } = self;
        let mut call = store.into_data();
        call.start_over(&place.plugin);
        Self::with(place, call)
    }

    /// Runs a phase on a stack of its own, a slice until each tick, and lets the thread do other things in between.
    pub(crate) async fn in_slices(&mut self, phase: Phase) -> wasmtime::Result<Word> {
        self.store.epoch_deadline_callback(end_of_slice);
        self.store.set_epoch_deadline(1);
        self.run_on_a_stack(phase).await
    }

    async fn run_on_a_stack(&mut self, phase: Phase) -> wasmtime::Result<Word> {
        let component = &self.place.plugin.component;
        let Some(function) = component.function(phase) else { return Ok(Word::Continue) };
        let instance = match self.instance {
            Some(instance) => instance,
            None => *self.instance.insert(component.instance_pre.instantiate_async(&mut self.store).await?),
        };
        let store = &mut self.store;
        match phase.returns() {
            Returns::Action => {
                let function: TypedFunc<(), (Action,)> = instance.get_typed_func(&mut *store, function)?;
                Ok(function.call_async(store, ()).await?.0.into())
            }
            Returns::StreamAction => {
                let function: TypedFunc<(), (StreamAction,)> = instance.get_typed_func(&mut *store, function)?;
                Ok(function.call_async(store, ()).await?.0.into())
            }
            Returns::Nothing => {
                let function: TypedFunc<(), ()> = instance.get_typed_func(&mut *store, function)?;
                function.call_async(store, ()).await.map(|()| Word::Continue)
            }
        }
    }
}

impl fmt::Debug for Living {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Living").field("plugin", &self.place.plugin.shared.name).finish_non_exhaustive()
    }
}

/// A tick came while the guest ran: it gives its thread back, or has had its time.
///
/// The first slice ends with the tick that is under way, so a guest gets between its deadline and one tick more. Only
/// ticks in which it ran are counted: while it waits for its thread none is.
fn end_of_slice(mut store: StoreContextMut<'_, Call>) -> wasmtime::Result<UpdateDeadline> {
    let Call { running, shared, .. } = store.data_mut();
    Ok(match running.tick(|| shared.host.clock.now()) {
        Tick::Over => UpdateDeadline::Interrupt,
        Tick::Counted => UpdateDeadline::YieldCustom(1, Box::pin(tokio::task::yield_now())),
        Tick::Forgiven => UpdateDeadline::Continue(1),
    })
}

/// A tick came while a guest ran that cannot give its thread back: it goes on until its thread has run for long enough.
fn end_of_the_only_slice(mut store: StoreContextMut<'_, Call>) -> wasmtime::Result<UpdateDeadline> {
    let ran = thread_time();
    let at_first_tick = *store.data_mut().ran_at_first_tick.get_or_insert(ran);
    let is_over = ran.saturating_sub(at_first_tick) >= RUN_AFTER_FIRST_TICK;
    Ok(if is_over { UpdateDeadline::Interrupt } else { UpdateDeadline::Continue(1) })
}

/// How long the calling thread has run, all in all.
fn thread_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::try_from(time).unwrap_or_default()
}
