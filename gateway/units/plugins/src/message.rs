//! What crosses between the application and a chain: heads moved in and back, and what came of them.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Version};
use sluice_vocabulary::request::{Connection, Scheme};
use sluice_vocabulary::share::Claim;
use sluice_vocabulary::{Identity, Refusal, TenantId, UpstreamName};
use smallvec::SmallVec;

/// A request's head, owned: it moves into a phase and back out without a copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestHead {
    /// The method.
    pub method: Method,
    /// The scheme that the client used.
    pub scheme: Scheme,
    /// The host without port, in lower case; empty where there is none.
    pub host: Box<str>,
    /// The path, normalised.
    pub path: Box<str>,
    /// The query without its `?`.
    pub query: Option<Box<str>>,
    /// The header fields.
    pub headers: HeaderMap,
}

impl RequestHead {
    /// Nobody's; takes no memory.
    pub(crate) fn none() -> Self {
        Self {
            method: Method::GET,
            scheme: Scheme::Http,
            host: Box::default(),
            path: Box::default(),
            query: None,
            headers: HeaderMap::new(),
        }
    }
}

/// A response's head, owned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResponseHead {
    /// The status.
    pub status: StatusCode,
    /// The header fields.
    pub headers: HeaderMap,
}

/// How an exchange went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// The status that the client was sent; 0 where it was sent none.
    pub status: u16,
    /// From the start of the request to the end of the response.
    pub duration: Duration,
    /// Bytes of the request's body.
    pub request_bytes: u64,
    /// Bytes of the response's body, as it was sent.
    pub response_bytes: u64,
    /// The upstream that was asked, if any was.
    pub upstream: Option<UpstreamName>,
    /// Why the gateway refused or gave up, as the access record names it.
    pub refused: Option<&'static str>,
}

/// Whose request it is, and how it came: for the plugins' log lines, for what they may use, and for plugins that were granted more.
#[derive(Debug, Clone)]
pub struct Who {
    /// The request's id.
    pub request_id: Arc<str>,
    /// The tenant, where one is known.
    pub tenant: Option<TenantId>,
    /// On whose account plugins run: the tenant's, or the route's where there is none.
    pub claim: Claim,
    /// What its token says, where one was verified.
    pub identity: Option<Arc<Identity>>,
    /// The connection it came by; none where nobody knows, and who asks then fails.
    pub link: Option<Link>,
    /// Where it goes, if no plugin chooses otherwise.
    pub upstream: Option<UpstreamName>,
    /// Tags that it has already.
    pub(crate) tags: usize,
}

/// The connection that a request came by.
#[derive(Debug, Clone)]
pub struct Link {
    /// The connection itself.
    pub connection: Arc<Connection>,
    /// The client: behind trusted proxies, the one they vouch for.
    pub client: IpAddr,
    /// The version of HTTP that it speaks.
    pub protocol: Version,
    /// Its smoothed round trip, where the kernel tells and [a plugin may know](crate::Chain::asks_for_round_trip).
    pub round_trip: Option<Duration>,
}

impl Who {
    /// A request of which no more is known, on an account of its own.
    pub fn new(request_id: Arc<str>, tenant: Option<TenantId>) -> Self {
        let claim = Claim::alone();
        Self { request_id, tenant, claim, identity: None, link: None, upstream: None, tags: 0 }
    }
}

/// What came of a chain.
#[derive(Debug)]
pub enum Outcome {
    /// Go on. The head that came back has these changes already, in this order; they are told so that a caller whose own
    /// header type is another can make them there.
    Continue(Operations),
    /// Send this; the head that came back is as it was before the plugin that answered.
    Answer(Answer),
    /// Refuse; the head that came back is as it was before the plugin that refused or failed.
    Refuse(Refusal),
}

/// Changes to a header, in order. Most plugins make one or two.
pub type Operations = SmallVec<[HeaderOp; 2]>;

/// One change to a header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HeaderOp {
    /// One value in the place of all.
    Set(HeaderName, HeaderValue),
    /// One value more.
    Append(HeaderName, HeaderValue),
    /// All values gone.
    Remove(HeaderName),
}

impl HeaderOp {
    /// The field that changes.
    pub const fn name(&self) -> &HeaderName {
        match self {
            Self::Set(name, _) | Self::Append(name, _) | Self::Remove(name) => name,
        }
    }
}

/// An answer that a plugin gave. It has no framing fields: the caller adds `content-length`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// 200 to 599.
    pub status: StatusCode,
    /// The fields, checked.
    pub headers: HeaderMap,
    /// The body; empty where the status allows none.
    pub body: Bytes,
}
