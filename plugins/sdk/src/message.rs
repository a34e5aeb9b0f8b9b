//! The request and the response of this phase.
//!
//! The types hold nothing: they are tokens that say which functions may be called in which phase, so that a mistake which
//! the gateway would answer with a trap does not compile. Reading copies a text out of the gateway; nothing is cached here.

use crate::bindings::host::sluice::plugin::{request, response};

pub use crate::bindings::host::sluice::plugin::fields::HeaderFault;

macro_rules! request_reading {
    () => {
        /// The method, as sent.
        pub fn method(&self) -> String {
            request::method()
        }

        /// `http` or `https`: what the client used.
        pub fn scheme(&self) -> String {
            request::scheme()
        }

        /// The host without port, in lower case.
        pub fn host(&self) -> String {
            request::host()
        }

        /// The path, normalised: what was authorised and what is forwarded.
        pub fn path(&self) -> String {
            request::path()
        }

        /// The query without its `?`, as sent.
        pub fn query(&self) -> Option<String> {
            request::query()
        }

        /// The first value of a header field. A client may send a field twice: where a decision hangs on it, look at
        /// [`header_values`](Self::header_values).
        pub fn header(&self, name: &str) -> Option<String> {
            request::header(name)
        }

        /// Every value of a header field, in order.
        pub fn header_values(&self, name: &str) -> Vec<String> {
            request::header_values(name)
        }

        /// Every header field and value, in order.
        pub fn headers(&self) -> Vec<(String, String)> {
            request::headers()
        }
    };
}

macro_rules! response_reading {
    () => {
        /// The status code.
        pub fn status(&self) -> u16 {
            response::status()
        }

        /// The first value of a header field.
        pub fn header(&self, name: &str) -> Option<String> {
            response::header(name)
        }

        /// Every value of a header field, in order.
        pub fn header_values(&self, name: &str) -> Vec<String> {
            response::header_values(name)
        }

        /// Every header field and value, in order.
        pub fn headers(&self) -> Vec<(String, String)> {
            response::headers()
        }
    };
}

macro_rules! changing {
    ($interface:ident) => {
        /// Puts one value in the place of all values of a field.
        ///
        /// # Errors
        /// If the name or value is not well-formed, or the field is not a plugin's to change; nothing has changed then.
        pub fn set_header(&self, name: &str, value: &str) -> Result<(), HeaderFault> {
            $interface::set_header(name, value)
        }

        /// Adds a value after those that are there.
        ///
        /// # Errors
        /// As [`set_header`](Self::set_header).
        pub fn append_header(&self, name: &str, value: &str) -> Result<(), HeaderFault> {
            $interface::append_header(name, value)
        }

        /// Removes every value of a field; no error if there is none.
        ///
        /// # Errors
        /// As [`set_header`](Self::set_header).
        pub fn remove_header(&self, name: &str) -> Result<(), HeaderFault> {
            $interface::remove_header(name)
        }
    };
}

/// The request before it is sent: it can be read and changed.
#[derive(Debug)]
pub struct Request {
    _made_by_the_phase: (),
}

impl Request {
    pub(crate) const fn current() -> Self {
        Self { _made_by_the_phase: () }
    }

    request_reading!();
    changing!(request);
}

/// The request as it was sent upstream: it can be read.
#[derive(Debug)]
pub struct SentRequest {
    _made_by_the_phase: (),
}

impl SentRequest {
    pub(crate) const fn current() -> Self {
        Self { _made_by_the_phase: () }
    }

    request_reading!();
}

/// The upstream's response, before it is sent to the client.
#[derive(Debug)]
pub struct Response {
    _made_by_the_phase: (),
}

impl Response {
    pub(crate) const fn current() -> Self {
        Self { _made_by_the_phase: () }
    }

    response_reading!();

    /// Sets the status code; false, and nothing changed, for one that cannot be (see the contract).
    #[must_use]
    pub fn set_status(&self, status: u16) -> bool {
        response::set_status(status)
    }

    changing!(response);
}

/// The response whose header is on its way: it can be read.
#[derive(Debug)]
pub struct SentResponse {
    _made_by_the_phase: (),
}

impl SentResponse {
    pub(crate) const fn current() -> Self {
        Self { _made_by_the_phase: () }
    }

    response_reading!();
}
