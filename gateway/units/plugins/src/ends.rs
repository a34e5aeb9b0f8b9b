//! The phase after everything else: the client has its response, or is gone, and nothing waits for what plugins do then.
//!
//! A request leaves word here and is over; the unit's task makes the calls, on threads that serve nobody. How many wait is
//! bounded, and what finds no room is dropped and counted: plugins that fall behind cost neither requests nor memory.

use std::sync::Arc;

use smallvec::SmallVec;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::contract::exchange;
use crate::failure::Misuse;
use crate::message::{Ended, RequestHead, Who};
use crate::phase::Phase;
use crate::plugin::Plugin;
use crate::subject::Subject;
use crate::visit::Visit;

/// Requests that may wait for their last phase.
pub(crate) const MOST_WAITING: usize = 1024;
/// Requests whose last phase may run at once: what requests under way need of the sandbox comes first.
const MOST_AT_ONCE: usize = 16;

/// Plugins that a request passed and that have a phase at its end, in the order of their chains.
#[derive(Debug, Default)]
pub struct Ends {
    plugins: SmallVec<[Arc<Plugin>; 1]>,
}

impl Ends {
    /// Whether there is nobody to tell.
    pub fn is_empty(&self) -> bool {
        self.plugins.is_empty()
    }

    /// Those of a further chain.
    pub fn add(&mut self, more: Self) {
        self.plugins.extend(more.plugins);
    }

    pub(crate) fn push(&mut self, plugin: &Arc<Plugin>) {
        self.plugins.push(Arc::clone(plugin));
    }

    fn dropped(&self) {
        for plugin in &self.plugins {
            plugin.shared.metrics.ends_dropped.inc();
        }
    }
}

/// A request that is over.
#[derive(Debug)]
pub(crate) struct Farewell {
    pub(crate) ends: Ends,
    pub(crate) request: Arc<RequestHead>,
    pub(crate) who: Who,
    pub(crate) ended: Arc<Ended>,
}

impl Farewell {
    /// Leaves word with the unit's task, if there is room.
    pub(crate) fn leave(self, waiting: &mpsc::Sender<Self>) {
        if let Err(error) = waiting.try_send(self) {
            let (mpsc::error::TrySendError::Full(farewell) | mpsc::error::TrySendError::Closed(farewell)) = error;
            farewell.ends.dropped();
        }
    }

    /// Calls each plugin in turn. One that fails is counted, and does not keep the others from being called.
    pub(crate) async fn call(self) {
        let Self { ends, request, who, ended } = self;
        for plugin in &ends.plugins {
            let (request, ended) = (Arc::clone(&request), Arc::clone(&ended));
            let subject = Subject::End { request, ended };
            let (_, result) = plugin.call(subject, &mut Visit::new(who.clone())).await;
            if let Err(failure) = result {
                plugin.failed(Phase::ExchangeEnd, &failure, &who, "nothing");
            }
        }
    }
}

/// Makes the calls that are waited for, until it is dropped.
pub(crate) async fn serve(waiting: &mut mpsc::Receiver<Farewell>) {
    let mut running = JoinSet::new();
    loop {
        tokio::select! {
            Some(_) = running.join_next(), if !running.is_empty() => {}
            next = waiting.recv(), if running.len() < MOST_AT_ONCE => match next {
                Some(farewell) => { running.spawn(farewell.call()); }
                // Nobody is left who could leave word.
                None => std::future::pending().await,
            },
        }
    }
}

/// The unit stops: what still waits is counted as dropped.
pub(crate) fn drop_all(waiting: &mut mpsc::Receiver<Farewell>) {
    while let Ok(farewell) = waiting.try_recv() {
        farewell.ends.dropped();
    }
}

impl exchange::Host for crate::call::Call {
    fn status(&mut self) -> wasmtime::Result<u16> {
        self.ended(|ended| ended.status)
    }

    fn duration(&mut self) -> wasmtime::Result<u64> {
        self.ended(|ended| u64::try_from(ended.duration.as_micros()).unwrap_or(u64::MAX))
    }

    fn request_bytes(&mut self) -> wasmtime::Result<u64> {
        self.ended(|ended| ended.request_bytes)
    }

    fn response_bytes(&mut self) -> wasmtime::Result<u64> {
        self.ended(|ended| ended.response_bytes)
    }

    fn upstream(&mut self) -> wasmtime::Result<Option<String>> {
        self.ended(|ended| ended.upstream.as_ref().map(|name| name.as_str().to_owned()))
    }

    fn refused(&mut self) -> wasmtime::Result<Option<String>> {
        self.ended(|ended| ended.refused.map(str::to_owned))
    }
}

impl crate::call::Call {
    fn ended<T>(&self, tell: impl FnOnce(&Ended) -> T) -> wasmtime::Result<T> {
        match &self.subject {
            Subject::End { ended, .. } => Ok(tell(ended)),
            _ => Err(Misuse::NotOver.into()),
        }
    }
}
