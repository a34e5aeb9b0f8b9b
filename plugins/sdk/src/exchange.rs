//! How an exchange went.

use std::time::Duration;

use crate::bindings::messages::sluice::plugin::exchange;

/// An exchange that is over.
#[derive(Debug)]
pub struct Exchange {
    _made_by_the_phase: (),
}

impl Exchange {
    pub(crate) const fn current() -> Self {
        Self { _made_by_the_phase: () }
    }

    /// The status that the client was sent; none where it was sent none.
    pub fn status(&self) -> Option<u16> {
        Some(exchange::status()).filter(|status| *status != 0)
    }

    /// From the first byte of the request to the end of the response.
    pub fn duration(&self) -> Duration {
        Duration::from_micros(exchange::duration())
    }

    /// Bytes of the request's body.
    pub fn request_bytes(&self) -> u64 {
        exchange::request_bytes()
    }

    /// Bytes of the response's body as it was sent.
    pub fn response_bytes(&self) -> u64 {
        exchange::response_bytes()
    }

    /// The upstream that was chosen, by its name in the configuration; none where no upstream was asked.
    pub fn upstream(&self) -> Option<String> {
        exchange::upstream()
    }

    /// Why the gateway refused or gave up, as its access log names it; none where it did not.
    pub fn refused(&self) -> Option<String> {
        exchange::refused()
    }
}
