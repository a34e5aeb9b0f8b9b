//! What crosses between the application and a chain: heads moved in and back, and what came of them.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use sluice_vocabulary::request::Scheme;
use sluice_vocabulary::{Refusal, TenantId};
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

/// Whose request it is: for the plugins' log lines.
#[derive(Debug, Clone)]
pub struct Who {
    /// The request's id.
    pub request_id: Arc<str>,
    /// The tenant, where one is known.
    pub tenant: Option<TenantId>,
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
