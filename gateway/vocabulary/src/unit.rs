//! What a unit is: an autonomous part with its own configuration, metrics, state, start and stop.
//!
//! `Unit::new` may open things but starts nothing. It gives a `Handle`, cheap to clone and all that the request path
//! sees, and a [`Task`] that owns and joins all background work. The composer runs each task under a supervisor: one
//! that panics is restarted with back-off and counted, and its unit is degraded meanwhile.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use serde::Serialize;
use tokio::sync::watch;

/// How a unit is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "state", content = "reason", rename_all = "lowercase")]
pub enum State {
    /// Made, not yet at work.
    Starting,
    /// All is well.
    Ready,
    /// At work, with less than it should have: why.
    Degraded(String),
    /// Cannot do its work: why. The process is not ready while a unit is here.
    Unavailable(String),
    /// Ended by request.
    Stopped,
}

impl State {
    /// Whether a process with a unit in this state may take traffic. Fails closed: only ready and degraded may.
    pub fn serves(&self) -> bool {
        matches!(self, Self::Ready | Self::Degraded(_))
    }
}

/// A unit's state, set by the unit and read by the admin's readiness page.
#[derive(Debug, Clone)]
pub struct Health {
    unit: &'static str,
    state: Arc<watch::Sender<State>>,
}

impl Health {
    /// A unit that is starting.
    pub fn new(unit: &'static str) -> Self {
        Self { unit, state: Arc::new(watch::Sender::new(State::Starting)) }
    }

    /// The unit's name, as in metrics and on the readiness page.
    pub fn unit(&self) -> &'static str {
        self.unit
    }

    /// Sets the state; says it in the log when it changes.
    pub fn set(&self, state: State) {
        self.state.send_if_modified(|current| {
            if *current == state {
                return false;
            }
            match &state {
                State::Degraded(reason) => tracing::warn!(unit = self.unit, reason, "unit degraded"),
                State::Unavailable(reason) => tracing::error!(unit = self.unit, reason, "unit unavailable"),
                State::Starting | State::Ready | State::Stopped => {
                    tracing::debug!(unit = self.unit, ?state, "unit state");
                }
            }
            *current = state;
            true
        });
    }

    /// The state now.
    pub fn get(&self) -> State {
        self.state.borrow().clone()
    }

    /// To await changes.
    pub fn watch(&self) -> watch::Receiver<State> {
        self.state.subscribe()
    }
}

/// The signal to stop: held by every task, fired once.
#[derive(Debug, Clone)]
pub struct Stop(watch::Receiver<bool>);

/// Fires [`Stop`]. Dropping it fires too, so that no task outlives its owner.
#[derive(Debug)]
pub struct Stopper(watch::Sender<bool>);

impl Stop {
    /// A signal and what fires it.
    pub fn new() -> (Stopper, Self) {
        let (sender, receiver) = watch::channel(false);
        (Stopper(sender), Self(receiver))
    }

    /// Returns when it has fired.
    pub async fn stopped(&mut self) {
        // An error means that the other end is gone, which is the signal too.
        let _ = self.0.wait_for(|stopped| *stopped).await;
    }

    /// Whether it has fired.
    pub fn is_stopped(&self) -> bool {
        *self.0.borrow() || self.0.has_changed().is_err()
    }

    /// As a plain watch channel that turns `true`.
    pub fn into_watch(self) -> watch::Receiver<bool> {
        self.0
    }
}

impl Stopper {
    /// Tells every holder of the signal to stop.
    pub fn stop(&self) {
        self.0.send_replace(true);
    }

    /// Another holder of the same signal.
    pub fn signal(&self) -> Stop {
        Stop(self.0.subscribe())
    }
}

/// A boxed future, as object-safe traits need it.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A unit's background work. It must return soon after `stop` fires, having joined whatever it started.
///
/// `run` borrows, so that after a panic the supervisor can run it again: keep in `self` what must survive.
pub trait Task: Send + 'static {
    /// The unit's health; its name labels restarts.
    fn health(&self) -> &Health;

    /// Does the work until stopped. Returning early without a stop counts as a failure.
    fn run(&mut self, stop: Stop) -> BoxFuture<'_, ()>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readiness_fails_closed() {
        assert!(State::Ready.serves() && State::Degraded(String::new()).serves());
        assert!(!State::Starting.serves() && !State::Unavailable(String::new()).serves() && !State::Stopped.serves());
    }

    #[tokio::test]
    async fn dropping_the_stopper_stops() {
        let (stopper, mut stop) = Stop::new();
        assert!(!stop.is_stopped());
        drop(stopper);
        stop.stopped().await;
        assert!(stop.is_stopped());
    }
}
