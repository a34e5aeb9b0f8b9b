//! What a phase decides.

pub use crate::bindings::host::sluice::plugin::actions::{Action, Answer, Refusal};
pub use crate::bindings::host::sluice::plugin::streams::StreamAction;

impl Action {
    /// Turns the request away with status 403 and this public sentence (cut at 256 bytes; never internals).
    pub fn refuse(detail: impl Into<String>) -> Self {
        Self::Refuse(Refusal { detail: Some(detail.into()), reason: None })
    }
}

impl Refusal {
    /// A refusal that tells the client nothing beyond its status.
    pub const fn new() -> Self {
        Self { detail: None, reason: None }
    }

    /// With a public sentence for the client, cut at 256 bytes.
    #[must_use]
    pub fn detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = Some(detail.into());
        self
    }

    /// With a reason for the operator's log alone.
    #[must_use]
    pub fn reason(mut self, reason: impl Into<String>) -> Self {
        self.reason = Some(reason.into());
        self
    }
}

impl Default for Refusal {
    fn default() -> Self {
        Self::new()
    }
}

impl Answer {
    /// An empty answer with this status, 200 to 599.
    pub const fn new(status: u16) -> Self {
        Self { status, headers: Vec::new(), body: Vec::new() }
    }

    /// With a header field after those that are there.
    #[must_use]
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// With a body of at most 256 KiB. The gateway sets `content-length`.
    #[must_use]
    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }
}

impl From<Answer> for Action {
    fn from(answer: Answer) -> Self {
        Self::Answer(answer)
    }
}

impl From<Refusal> for Action {
    fn from(refusal: Refusal) -> Self {
        Self::Refuse(refusal)
    }
}
