//! The state of one call of one phase: what the host functions read and write.

use std::fmt;
use std::sync::Arc;

use std::time::Instant;

use http::StatusCode;
use sluice_vocabulary::clock::{Clock, Entropy};
use sluice_vocabulary::{PluginName, UpstreamName};

use crate::config::Told;
use crate::counts::Counts;
use crate::edits::Edits;
use crate::effects::Effects;
use crate::failure::Misuse;
use crate::limits::Bounds;
use crate::message::{RequestHead, ResponseHead, Who};
use crate::metrics::PluginMetrics;
use crate::plugin::Plugin;
use crate::store::Store;

/// A phase of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
pub(crate) enum Phase {
    RequestHeaders,
    ResponseHeaders,
}

impl Phase {
    pub(crate) const ALL: [Self; 2] = [Self::RequestHeaders, Self::ResponseHeaders];

    /// As metrics, logs and the contract name it.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::RequestHeaders => "request-headers",
            Self::ResponseHeaders => "response-headers",
        }
    }
}

impl Phase {
    /// Whether nothing of what it does shows before it ends well, so that another implementation can be tried.
    pub(crate) const fn can_be_undone(self) -> bool {
        matches!(self, Self::RequestHeaders | Self::ResponseHeaders)
    }

    /// Whether a request that it refuses never reaches the upstream.
    pub(crate) const fn can_refuse_a_request(self) -> bool {
        matches!(self, Self::RequestHeaders)
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

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
}

/// The message that the phase is about, with the changes it has asked for.
#[derive(Debug)]
pub(crate) enum Subject {
    Request { head: RequestHead, edits: Edits },
    Response { request: Arc<RequestHead>, head: ResponseHead, edits: Edits, status: Option<StatusCode> },
}

impl Subject {
    /// Nobody's message, for an instance that runs no phase.
    pub(crate) fn none() -> Self {
        Self::Request { head: RequestHead::none(), edits: Edits::default() }
    }

    /// As it was before the phase began.
    pub(crate) fn start_over(&mut self) {
        drop(self.take_changes());
    }

    /// The changes asked for, which the subject is then without.
    pub(crate) fn take_changes(&mut self) -> Changes {
        match self {
            Self::Request { edits, .. } => Changes { edits: std::mem::take(edits), status: None },
            Self::Response { edits, status, .. } => Changes { edits: std::mem::take(edits), status: status.take() },
        }
    }

    /// Puts changes that were taken from it in the place of those it has.
    pub(crate) fn put_changes(&mut self, changes: Changes) {
        match self {
            Self::Request { edits, .. } => *edits = changes.edits,
            Self::Response { edits, status, .. } => {
                *edits = changes.edits;
                *status = changes.status;
            }
        }
    }

    /// Whether the header has room for the changes asked for.
    pub(crate) fn fits(&self) -> bool {
        match self {
            Self::Request { head, edits } => edits.fits(&head.headers),
            Self::Response { head, edits, .. } => edits.fits(&head.headers),
        }
    }

    /// Whether the message would be the same with one set of changes as with the other.
    pub(crate) fn becomes_the_same(&self, one: &Changes, other: &Changes) -> bool {
        let (headers, status) = match self {
            Self::Request { head, .. } => (&head.headers, None),
            Self::Response { head, .. } => (&head.headers, Some(head.status)),
        };
        let with = |changes: &Changes| {
            let mut headers = headers.clone();
            let made = changes.edits.clone().apply(&mut headers);
            made.map(|_| (headers, changes.status.or(status), changes.edits.effects.clone()))
        };
        with(one) == with(other)
    }

    /// What was asked for beside changes of the message.
    pub(crate) const fn effects(&self) -> &Effects {
        match self {
            Self::Request { edits, .. } | Self::Response { edits, .. } => &edits.effects,
        }
    }

    pub(crate) const fn effects_mut(&mut self) -> &mut Effects {
        match self {
            Self::Request { edits, .. } | Self::Response { edits, .. } => &mut edits.effects,
        }
    }

    pub(crate) const fn phase(&self) -> Phase {
        match self {
            Self::Request { .. } => Phase::RequestHeaders,
            Self::Response { .. } => Phase::ResponseHeaders,
        }
    }
}

/// What a phase has asked for and what is not made yet.
#[derive(Debug)]
pub(crate) struct Changes {
    edits: Edits,
    status: Option<StatusCode>,
}

impl Changes {
    /// The names of the header fields that change.
    pub(crate) fn names(&self) -> Vec<&str> {
        self.edits.names().collect()
    }
}

/// One call. It owns the message meanwhile; whoever made the call takes it back afterwards.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) subject: Subject,
    pub(crate) shared: Arc<Shared>,
    pub(crate) who: Who,
    pub(crate) bounds: Bounds,
    /// Ticks of the engine that may still pass while the guest runs.
    pub(crate) ticks_left: u64,
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
            ticks_left: plugin.ticks,
            lines_logged: 0,
            lines_said_before: 0,
        }
    }

    /// The next phase of the same request.
    pub(crate) fn next_phase(&mut self, subject: Subject, ticks: u64) {
        self.subject = subject;
        self.ticks_left = ticks;
        self.lines_logged = 0;
        self.lines_said_before = 0;
    }

    /// As it was before the phase began, but for what cannot be taken back.
    pub(crate) fn start_over(&mut self, plugin: &Plugin) {
        self.subject.start_over();
        self.bounds = plugin.bounds();
        self.lines_said_before = self.lines_logged;
        self.lines_logged = 0;
    }

    /// The request, whatever the phase.
    pub(crate) fn request(&self) -> &RequestHead {
        match &self.subject {
            Subject::Request { head, .. } => head,
            Subject::Response { request, .. } => request,
        }
    }

    /// The response and the changes to it.
    pub(crate) fn response(&self) -> Result<(&ResponseHead, &Edits, Option<StatusCode>), Misuse> {
        match &self.subject {
            Subject::Request { .. } => Err(Misuse::NoResponse),
            Subject::Response { head, edits, status, .. } => Ok((head, edits, *status)),
        }
    }
}
