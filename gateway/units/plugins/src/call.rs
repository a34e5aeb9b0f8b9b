//! The state of one call of one phase: what the host functions read and write.

use std::sync::Arc;
use std::time::{Duration, Instant};

use sluice_vocabulary::clock::{Clock, Entropy};
use sluice_vocabulary::{PluginName, UpstreamName};

use crate::config::Told;
use crate::counts::Counts;
use crate::failure::Misuse;
use crate::limits::Bounds;
use crate::message::{ResponseHead, Who};
use crate::metrics::PluginMetrics;
use crate::outbound::Outbound;
use crate::plugin::Plugin;
use crate::running::Running;
use crate::store::Store;
use crate::subject::Subject;

/// What all plugins share.
#[derive(Debug)]
pub(crate) struct Ports {
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) entropy: Arc<dyn Entropy>,
    /// Where the plugins' monotonic clock begins.
    pub(crate) began: Instant,
}

/// What all calls of one plugin share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) name: PluginName,
    pub(crate) told: Told,
    pub(crate) metrics: PluginMetrics,
    pub(crate) host: Arc<Ports>,
    pub(crate) counts: Arc<Counts>,
    pub(crate) store: Arc<Store>,
    /// The upstreams that it may choose.
    pub(crate) upstreams: Vec<UpstreamName>,
    /// The other services that it may ask.
    pub(crate) outbound: Option<Arc<Outbound>>,
}

/// One call. It owns the message meanwhile; whoever made the call takes it back afterwards.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) subject: Subject,
    pub(crate) shared: Arc<Shared>,
    pub(crate) who: Who,
    pub(crate) bounds: Bounds,
    /// How long the guest may still run.
    pub(crate) running: Running,
    /// How long the phase may still wait for other services.
    pub(crate) may_wait: Duration,
    /// Where nobody can wait: what the thread had run, all in all, when the first tick came.
    pub(crate) ran_at_first_tick: Option<Duration>,
    pub(crate) lines_logged: u32,
    /// Lines that were said before the phase was begun anew.
    pub(crate) lines_said_before: u32,
}

impl Call {
    pub(crate) fn new(plugin: &Plugin, subject: Subject, who: Who) -> Self {
        Self {
            subject,
            shared: Arc::clone(&plugin.shared),
            who,
            bounds: plugin.bounds(),
            running: Running::new(plugin.ticks),
            may_wait: plugin.config.limits.host_calls.get(),
            ran_at_first_tick: None,
            lines_logged: 0,
            lines_said_before: 0,
        }
    }

    /// The next phase of the same request.
    pub(crate) fn next_phase(&mut self, subject: Subject, plugin: &Plugin) {
        self.subject = subject;
        self.running = Running::new(plugin.ticks);
        self.may_wait = plugin.config.limits.host_calls.get();
        self.lines_logged = 0;
        self.lines_said_before = 0;
    }

    /// Another request, in the same instance. Say which phase is next.
    pub(crate) fn next_request(&mut self, who: Who) {
        self.who = who;
        self.bounds.begin_anew();
    }

    /// Its request is over: nothing of it is held on to.
    pub(crate) fn forget_request(&mut self) {
        self.subject = Subject::none();
        (self.who.identity, self.who.link, self.who.upstream) = (None, None, None);
    }

    /// As it was before the phase began, but for what cannot be taken back.
    pub(crate) fn start_over(&mut self, plugin: &Plugin) {
        self.subject.start_over();
        self.bounds = plugin.bounds();
        self.lines_said_before = self.lines_logged;
        self.lines_logged = 0;
    }

    /// The response's header.
    pub(crate) fn response(&self) -> Result<&ResponseHead, Misuse> {
        match &self.subject {
            Subject::Response { head, .. } => Ok(head),
            Subject::Piece { seen, .. } | Subject::Trailers { seen, .. } => {
                seen.response.as_deref().ok_or(Misuse::NoResponse)
            }
            Subject::Request { .. } | Subject::End { .. } => Err(Misuse::NoResponse),
        }
    }
}
