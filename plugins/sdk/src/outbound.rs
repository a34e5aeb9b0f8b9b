//! Requests to other services. Granted by `http: [ORIGIN, …]`. The phase waits for the answer, within the operator's bound.
//!
//! Not in the phases about a response that is under way, and not at the end of an exchange: the phase fails there.
//!
//! ```no_run
//! use std::time::Duration;
//! use sluice_plugin_sdk::outbound::{self, Request};
//!
//! let question = Request::get("https://decide.example.com/v1/check?user=7")
//!     .header("accept", "application/json")
//!     .timeout(Duration::from_millis(200));
//! let may_pass = outbound::send(&question).is_ok_and(|answer| answer.is_success());
//! ```

use std::time::Duration;

use crate::bindings::granted::sluice::plugin::outbound_http;

pub use crate::bindings::granted::sluice::plugin::outbound_http::{
    OutboundFault as Fault, OutboundRequest as Request, OutboundResponse as Response,
};

/// Asks and waits. A redirect is an answer like any other.
///
/// # Errors
/// If there is no answer, or none that can be handed over.
pub fn send(request: &Request) -> Result<Response, Fault> {
    outbound_http::send(request)
}

impl Request {
    /// A request without a body.
    pub fn new(method: impl Into<String>, url: impl Into<String>) -> Self {
        Self { method: method.into(), url: url.into(), headers: Vec::new(), body: Vec::new(), timeout: None }
    }

    /// A GET.
    pub fn get(url: impl Into<String>) -> Self {
        Self::new("GET", url)
    }

    /// A POST of these bytes, at most 64 KiB.
    pub fn post(url: impl Into<String>, body: impl Into<Vec<u8>>) -> Self {
        Self::new("POST", url).body(body)
    }

    /// With a header field after those that are there.
    #[must_use]
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// With a body of at most 64 KiB.
    #[must_use]
    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    /// Waits no longer than this, in whole milliseconds. Without it, as long as the phase may wait in all.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX));
        self
    }
}

impl Response {
    /// Whether the status is one of success: 200 to 299.
    pub const fn is_success(&self) -> bool {
        matches!(self.status, 200..=299)
    }

    /// The first value of a header field.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut found = self.headers.iter().filter(|(known, _)| known.eq_ignore_ascii_case(name));
        found.next().map(|(_, value)| value.as_str())
    }
}
