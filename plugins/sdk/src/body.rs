//! The body, or the piece of one, that a phase is about, and trailers.

use crate::HeaderFault;
use crate::bindings::messages::sluice::plugin::{body, trailers};

/// A body, or a piece of one. It can be read and replaced; what is done takes effect when the phase goes on.
#[derive(Debug)]
pub struct Body {
    _made_by_the_phase: (),
}

impl Body {
    pub(crate) const fn current() -> Self {
        Self { _made_by_the_phase: () }
    }

    /// How many bytes there are, as this phase has left them.
    pub fn size(&self) -> usize {
        body::size() as usize
    }

    /// All of them.
    pub fn bytes(&self) -> Vec<u8> {
        body::read(0, u32::MAX)
    }

    /// At most `length` bytes from `offset` on: fewer where the body ends, none beyond it.
    pub fn read(&self, offset: usize, length: usize) -> Vec<u8> {
        let capped = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        body::read(capped(offset), capped(length))
    }

    /// Puts these in the place of all of them; none takes them away. At most 256 KiB, beyond which the phase fails.
    pub fn replace(&self, bytes: &[u8]) {
        body::replace(bytes);
    }

    /// Whether nothing of this body follows.
    pub fn is_last(&self) -> bool {
        body::is_last()
    }
}

/// The trailer fields of a response.
#[derive(Debug)]
pub struct Trailers {
    _made_by_the_phase: (),
}

impl Trailers {
    pub(crate) const fn current() -> Self {
        Self { _made_by_the_phase: () }
    }

    /// The first value of a field.
    pub fn get(&self, name: &str) -> Option<String> {
        trailers::get(name)
    }

    /// Every field and value, in order.
    pub fn all(&self) -> Vec<(String, String)> {
        trailers::all()
    }

    /// Puts one value in the place of all values of a field.
    ///
    /// # Errors
    /// If the name or value is not well-formed, or the field is not a plugin's to change; nothing has changed then.
    pub fn set(&self, name: &str, value: &str) -> Result<(), HeaderFault> {
        trailers::set(name, value)
    }

    /// Removes every value of a field; no error if there is none.
    ///
    /// # Errors
    /// As [`set`](Self::set).
    pub fn remove(&self, name: &str) -> Result<(), HeaderFault> {
        trailers::remove(name)
    }
}
