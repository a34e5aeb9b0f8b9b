//! What a phase is about: the message, or the part of one, with the changes that the phase has asked for.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, StatusCode};

use crate::edits::Edits;
use crate::effects::Effects;
use crate::message::{Ended, RequestHead, ResponseHead};
use crate::phase::Phase;

/// The subject of one call. It moves into the call and back out.
#[derive(Debug)]
pub(crate) enum Subject {
    /// A request that was not sent yet: its header, and its whole body in the phase that is about that.
    Request { head: RequestHead, edits: Edits, body: Option<Body> },
    /// The header of a response.
    Response { request: Arc<RequestHead>, head: ResponseHead, edits: Edits, status: Option<StatusCode> },
    /// A body that is under way, or a piece of one.
    Piece { phase: Phase, seen: Seen, body: Body },
    /// The trailers of a response.
    Trailers { seen: Seen, trailers: HeaderMap, edits: Edits },
    /// An exchange that is over.
    End { request: Arc<RequestHead>, ended: Arc<Ended> },
}

/// The headers of an exchange that is under way.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) request: Arc<RequestHead>,
    /// None before there is one.
    pub(crate) response: Option<Arc<ResponseHead>>,
}

/// The body, or the piece of one, that a phase is about.
#[derive(Debug)]
pub(crate) struct Body {
    bytes: Bytes,
    replaced: Option<Bytes>,
    pub(crate) is_last: bool,
}

impl Body {
    pub(crate) const fn new(bytes: Bytes, is_last: bool) -> Self {
        Self { bytes, replaced: None, is_last }
    }

    /// As the phase has left it.
    pub(crate) const fn present(&self) -> &Bytes {
        match &self.replaced {
            Some(replaced) => replaced,
            None => &self.bytes,
        }
    }

    pub(crate) fn replace(&mut self, bytes: Vec<u8>) {
        self.replaced = Some(bytes.into());
    }

    /// As it was before the phase.
    pub(crate) fn into_original(self) -> Bytes {
        self.bytes
    }

    pub(crate) fn into_present(self) -> Bytes {
        self.replaced.unwrap_or(self.bytes)
    }
}

impl Subject {
    /// Nobody's message, for an instance that runs no phase.
    pub(crate) fn none() -> Self {
        Self::Request { head: RequestHead::none(), edits: Edits::default(), body: None }
    }

    pub(crate) const fn phase(&self) -> Phase {
        match self {
            Self::Request { body: None, .. } => Phase::RequestHeaders,
            Self::Request { body: Some(_), .. } => Phase::RequestBody,
            Self::Response { .. } => Phase::ResponseHeaders,
            Self::Piece { phase, .. } => *phase,
            Self::Trailers { .. } => Phase::ResponseTrailers,
            Self::End { .. } => Phase::ExchangeEnd,
        }
    }

    /// The request, whatever the phase.
    pub(crate) fn request(&self) -> &RequestHead {
        match self {
            Self::Request { head, .. } => head,
            Self::Response { request, .. } | Self::End { request, .. } => request,
            Self::Piece { seen, .. } | Self::Trailers { seen, .. } => &seen.request,
        }
    }

    /// The body, in a phase that is about one.
    pub(crate) const fn body(&self) -> Option<&Body> {
        match self {
            Self::Request { body: Some(body), .. } | Self::Piece { body, .. } => Some(body),
            _ => None,
        }
    }

    pub(crate) const fn body_mut(&mut self) -> Option<&mut Body> {
        match self {
            Self::Request { body: Some(body), .. } | Self::Piece { body, .. } => Some(body),
            _ => None,
        }
    }

    /// What was asked for beside changes of the message; none in a phase that is too late for that.
    pub(crate) const fn effects_mut(&mut self) -> Option<&mut Effects> {
        match self {
            Self::Request { edits, .. } | Self::Response { edits, .. } => Some(&mut edits.effects),
            Self::Piece { .. } | Self::Trailers { .. } | Self::End { .. } => None,
        }
    }

    /// As it was before the phase began.
    pub(crate) fn start_over(&mut self) {
        drop(self.take_changes());
    }

    /// The changes asked for, which the subject is then without.
    pub(crate) fn take_changes(&mut self) -> Changes {
        let mut changes = Changes::default();
        match self {
            Self::Request { edits, body, .. } => {
                changes.edits = std::mem::take(edits);
                changes.body = body.as_mut().and_then(|body| body.replaced.take());
            }
            Self::Response { edits, status, .. } => {
                changes.edits = std::mem::take(edits);
                changes.status = status.take();
            }
            Self::Piece { body, .. } => changes.body = body.replaced.take(),
            Self::Trailers { edits, .. } => changes.edits = std::mem::take(edits),
            Self::End { .. } => {}
        }
        changes
    }

    /// Puts changes that were taken from it in the place of those it has.
    pub(crate) fn put_changes(&mut self, changes: Changes) {
        match self {
            Self::Request { edits, body, .. } => {
                *edits = changes.edits;
                if let Some(body) = body {
                    body.replaced = changes.body;
                }
            }
            Self::Response { edits, status, .. } => {
                *edits = changes.edits;
                *status = changes.status;
            }
            Self::Piece { body, .. } => body.replaced = changes.body,
            Self::Trailers { edits, .. } => *edits = changes.edits,
            Self::End { .. } => {}
        }
    }

    /// Whether the header, or the trailers, have room for the changes asked for.
    pub(crate) fn fits(&self) -> bool {
        match self {
            Self::Request { head, edits, .. } => edits.fits(&head.headers),
            Self::Response { head, edits, .. } => edits.fits(&head.headers),
            Self::Trailers { trailers, edits, .. } => edits.fits(trailers),
            Self::Piece { .. } | Self::End { .. } => true,
        }
    }

    /// Whether the message would be the same with one set of changes as with the other.
    pub(crate) fn becomes_the_same(&self, one: &Changes, other: &Changes) -> bool {
        let (headers, status) = match self {
            Self::Request { head, .. } => (Some(&head.headers), None),
            Self::Response { head, .. } => (Some(&head.headers), Some(head.status)),
            Self::Trailers { trailers, .. } => (Some(trailers), None),
            Self::Piece { .. } | Self::End { .. } => (None, None),
        };
        let with = |changes: &Changes| {
            let mut headers = headers.cloned().unwrap_or_default();
            let made = changes.edits.clone().apply(&mut headers);
            let body = changes.body.as_ref().or_else(|| self.body().map(|body| &body.bytes)).cloned();
            made.map(|_| (headers, changes.status.or(status), body, changes.edits.effects.clone()))
        };
        with(one) == with(other)
    }
}

/// What a phase has asked for and what is not made yet.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    edits: Edits,
    status: Option<StatusCode>,
    body: Option<Bytes>,
}

impl Changes {
    /// The names of the header fields that change.
    pub(crate) fn names(&self) -> Vec<&str> {
        self.edits.names().collect()
    }
}
