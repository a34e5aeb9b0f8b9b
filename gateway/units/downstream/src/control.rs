//! What the application can learn of, and say to, the connection that a request came on.
//!
//! Pingora carries one slot of user data per connection, in its proxy digest, to both its HTTP/1 and HTTP/2 sessions. We
//! put there what the vocabulary calls a [`Connection`] and, for HTTP/1, the control of the request's guard.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};

use pingora_core::protocols::Digest;
use pingora_core::protocols::raw_connect::ProxyDigest;
use pingora_http::ResponseHeader;
use sluice_vocabulary::Reason;
use sluice_vocabulary::request::Connection;

use crate::breach::Breach;

/// The connection that a session belongs to. None for a session that did not come through this unit's listeners.
///
/// Cheap: two pointer hops and one type comparison, alike for HTTP/1 and HTTP/2.
pub fn connection(digest: &Digest) -> Option<&Arc<Connection>> {
    told(digest).map(|told| &told.connection)
}

/// The control of an HTTP/1 request's guard. None for HTTP/2, whose requests share one guard: there the application
/// counts body bytes itself.
pub fn control(digest: &Digest) -> Option<&StreamControl> {
    told(digest).map(|told| &*told.control).filter(|control| !control.retired.load(Ordering::Relaxed))
}

fn told(digest: &Digest) -> Option<&Told> {
    digest.proxy_digest.as_ref()?.user_data.as_ref()?.downcast_ref()
}

struct Told {
    connection: Arc<Connection>,
    control: Arc<StreamControl>,
}

/// Wraps both for the slot in which Pingora carries them.
pub(crate) fn digest(connection: Arc<Connection>, control: Arc<StreamControl>) -> Option<Arc<ProxyDigest>> {
    // The slot belongs to CONNECT proxies, hence the response that nobody looks at.
    let response = ResponseHeader::build_no_case(200, Some(0)).ok()?;
    Some(Arc::new(ProxyDigest::new(Box::new(response), Some(Box::new(Told { connection, control })))))
}

/// What the application may tell the guard about the HTTP/1 request in progress, and ask it after a failure. All of it
/// is about that one request: the next one on the connection begins afresh.
#[derive(Debug)]
pub struct StreamControl {
    body_limit: AtomicU64,
    streaming: AtomicBool,
    breach: AtomicU8,
    /// The connection speaks HTTP/2.
    retired: AtomicBool,
}

const NONE: u8 = u8::MAX;

impl StreamControl {
    pub(crate) fn new() -> Self {
        Self {
            body_limit: AtomicU64::new(u64::MAX),
            streaming: AtomicBool::new(false),
            breach: AtomicU8::new(NONE),
            retired: AtomicBool::new(false),
        }
    }

    pub(crate) fn retire(&self) {
        self.retired.store(true, Ordering::Relaxed);
    }

    /// Lowers the limit on the body's payload, for a route that asks for less than `limits.body_size`. A body that has
    /// announced more fails at the next read, and [`refusal`](Self::refusal) then gives [`Reason::BodyTooLarge`].
    pub fn limit_body(&self, bytes: u64) {
        self.body_limit.fetch_min(bytes, Ordering::Relaxed);
    }

    /// Lifts the deadlines on the body, for a route whose requests may rightly be silent for long.
    pub fn lift_body_deadlines(&self) {
        self.streaming.store(true, Ordering::Relaxed);
    }

    /// Why the guard ended the request's body, if it did: what to answer when reading from the client failed. If nothing
    /// is answered, the guard answers itself.
    pub fn refusal(&self) -> Option<Reason> {
        self.breach().map(Breach::reason)
    }

    /// As [`refusal`](Self::refusal), in the operator's words.
    pub fn breach(&self) -> Option<Breach> {
        Breach::ALL.get(usize::from(self.breach.load(Ordering::Relaxed))).copied()
    }

    pub(crate) fn begin(&self, body_limit: u64) {
        self.body_limit.store(body_limit, Ordering::Relaxed);
        self.streaming.store(false, Ordering::Relaxed);
        self.breach.store(NONE, Ordering::Relaxed);
    }

    pub(crate) fn body_limit(&self) -> u64 {
        self.body_limit.load(Ordering::Relaxed)
    }

    pub(crate) fn is_streaming(&self) -> bool {
        self.streaming.load(Ordering::Relaxed)
    }

    pub(crate) fn set_breach(&self, breach: Breach) {
        self.breach.store(breach as u8, Ordering::Relaxed);
    }
}
