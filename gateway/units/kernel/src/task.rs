//! The work in the background: start the observer, read it every so often, start it anew when the configuration changes.
//!
//! Loading and reading are system calls without end to their number, so they run on the runtime's blocking threads, one
//! at a time, and each is awaited: when the task returns, nothing of it is left.

use std::sync::Arc;
use std::time::Duration;

use sluice_observer::{Event, Observer, StartError};
use sluice_vocabulary::unit::{BoxFuture, Health, State, Stop, Task};
use tokio::sync::watch;
use tokio::task::{JoinError, spawn_blocking};
use tokio::time::{MissedTickBehavior, interval, sleep};

use crate::config::{Config, Enabled, Scope};
use crate::snapshot::Snapshot;
use crate::unit::{Core, Running, options};

/// How long after a start that failed it is tried again. What fails is nearly always a matter of privileges, which a
/// process does not gain; but memory or a control group may come.
const RETRY: Duration = Duration::from_secs(60);

/// The unit's task.
#[derive(Debug)]
pub struct KernelTask {
    core: Arc<Core>,
}

impl KernelTask {
    pub(crate) fn new(core: Arc<Core>) -> Self {
        Self { core }
    }
}

impl Task for KernelTask {
    fn health(&self) -> &Health {
        &self.core.health
    }

    fn run(&mut self, stop: Stop) -> BoxFuture<'_, ()> {
        Box::pin(run(Arc::clone(&self.core), stop))
    }
}

async fn run(core: Arc<Core>, mut stop: Stop) {
    let mut configs = core.config.subscribe();
    loop {
        let config = configs.borrow_and_update().clone();
        // Of an earlier run that panicked, or of the configuration before. Whoever finds nothing watched finds the reason too.
        let off = config.enabled == Enabled::Off;
        take_down(&core, if off { "switched off by configuration" } else { "starting" }).await;
        let pause = if off {
            core.health.set(State::Ready);
            None
        } else if start(&core, &config).await {
            Some(config.refresh.get())
        } else {
            None
        };
        let next = match pause {
            Some(every) => watch(&core, every, &mut stop, &mut configs).await,
            None => idle(config.enabled, &mut stop, &mut configs).await,
        };
        match next {
            Next::Again => {}
            Next::Stop => break,
        }
    }
    // What was counted since the last reading.
    read(&core).await;
    take_down(&core, "stopped").await;
    core.health.set(State::Stopped);
}

/// Why watching, or not watching, came to an end.
enum Next {
    /// Another configuration, or time to try once more.
    Again,
    /// Told to stop.
    Stop,
}

/// Waits, while nothing is watched, for a reason to begin.
async fn idle(enabled: Enabled, stop: &mut Stop, configs: &mut watch::Receiver<Config>) -> Next {
    tokio::select! {
        () = stop.stopped() => Next::Stop,
        changed = configs.changed() => if changed.is_ok() { Next::Again } else { Next::Stop },
        () = sleep(RETRY), if enabled != Enabled::Off => Next::Again,
    }
}

/// Reads until there is a reason to end. A reading that was begun is awaited, whatever happens meanwhile.
async fn watch(core: &Arc<Core>, every: Duration, stop: &mut Stop, configs: &mut watch::Receiver<Config>) -> Next {
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.stopped() => return Next::Stop,
            changed = configs.changed() => return if changed.is_ok() { Next::Again } else { Next::Stop },
            _ = ticks.tick() => {}
        }
        if !read(core).await {
            core.health.set(State::Degraded("cannot read what the kernel counted".to_owned()));
            return idle(Enabled::Auto, stop, configs).await;
        }
    }
}

/// Starts the observer and says how the unit is. Whether it runs.
async fn start(core: &Arc<Core>, config: &Config) -> bool {
    let wanted = config.clone();
    let outcome = spawn_blocking(move || observe(&wanted)).await;
    let reason = match outcome {
        Ok(Ok(running)) => {
            let off: Vec<_> = running
                .observer
                .probes()
                .iter()
                .filter(|(_, state)| !state.is_on())
                .map(|(probe, _)| probe.name())
                .collect();
            let health = match off.as_slice() {
                [] => State::Ready,
                off => State::Degraded(format!("probes that are off: {}", off.join(", "))),
            };
            tracing::info!(probes.off = ?off, options = ?running.options.cgroup, "watching connections in the kernel");
            core.running.store(Some(Arc::new(running)));
            core.health.set(health);
            return true;
        }
        Ok(Err(error)) => chain(&error),
        Err(error) => format!("starting the observer panicked: {error}"),
    };
    core.why_not.store(Arc::new(reason.clone()));
    core.health.set(match config.enabled {
        Enabled::Required => State::Unavailable(reason),
        Enabled::Auto | Enabled::Off => State::Degraded(reason),
    });
    false
}

fn observe(config: &Config) -> Result<Running, StartError> {
    let mut options = options(config);
    let outcome = match Observer::start(&options) {
        // Before 6.10 the kernel cannot tell the gateway's connections from its neighbours' in the control group. They
        // do not mix as long as no neighbour connects to the same endpoints.
        Err(StartError::NoProcess) if config.scope == Scope::Process => {
            options.processes.clear();
            Observer::start(&options)
        }
        outcome => outcome,
    };
    outcome.map(|observer| Running { observer, options })
}

/// Reads once. Whether that worked, or there was nothing to read.
async fn read(core: &Arc<Core>) -> bool {
    let reader = Arc::clone(core);
    match spawn_blocking(move || read_blocking(&reader)).await {
        Ok(done) => done,
        Err(error) => resume(error),
    }
}

fn read_blocking(core: &Core) -> bool {
    let Some(running) = core.running.load_full() else { return true };
    running.observer.drain_events(|event| tell(core, &event));
    let read = running.observer.endpoints().and_then(|endpoints| Ok((endpoints, running.observer.globals()?)));
    match read {
        Ok((endpoints, globals)) => {
            core.totals.lock().add(&endpoints, globals, &*core.names);
            core.snapshot.store(Arc::new(Snapshot::new(endpoints, globals)));
            true
        }
        Err(error) => {
            tracing::warn!(error = chain(&error), "cannot read what the kernel counted");
            false
        }
    }
}

/// An abnormal end of a connection to an upstream goes into the log, for whoever looks for a single one; the metrics
/// count them all.
fn tell(core: &Core, event: &Event) {
    let connection = &event.connection;
    if let Some(upstream) = core.names.upstream_of(connection.remote) {
        tracing::debug!(
            upstream = upstream.as_str(),
            endpoint.addr = %connection.remote,
            cookie = connection.cookie,
            end = connection.end.name(),
            state = %connection.state,
            errno = connection.error,
            age_ms = u64::try_from(connection.age.as_millis()).unwrap_or(u64::MAX),
            "connection ended abnormally"
        );
    }
}

/// Detaches the probes, if any are attached. Waiting for the kernel to let go of them can take milliseconds, so it is
/// done where waiting is allowed. A request that holds the observer at this moment lets go of it when it is done.
async fn take_down(core: &Arc<Core>, why: &str) {
    core.why_not.store(Arc::new(why.to_owned()));
    core.snapshot.store(Arc::default());
    core.totals.lock().forget_readings();
    if let Some(running) = core.running.swap(None)
        && let Err(error) = spawn_blocking(move || drop(running)).await
    {
        resume::<()>(error);
    }
}

/// A panic on a blocking thread is this task's own: its supervisor counts it and runs the task again.
fn resume<T>(error: JoinError) -> T
where
    T: Default,
{
    match error.try_into_panic() {
        Ok(panic) => std::panic::resume_unwind(panic),
        // Cancelled, since the runtime is going away.
        Err(_) => T::default(),
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(error.to_string().split(". Verifier output").next().unwrap_or_default());
        cause = error.source();
    }
    text
}
