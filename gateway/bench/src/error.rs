//! Why a measurement could not be made.

use std::error::Error;
use std::fmt::{self, Display};

/// What was tried, and why it failed where something else knows.
#[derive(Debug)]
pub(crate) struct Failure {
    what: String,
    source: Option<Box<dyn Error + Send + Sync>>,
}

pub(crate) type Result<T> = std::result::Result<T, Failure>;

impl Failure {
    pub(crate) fn new(what: impl Display) -> Self {
        Self { what: what.to_string(), source: None }
    }

    pub(crate) fn because(what: impl Display, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self { what: what.to_string(), source: Some(source.into()) }
    }
}

/// Prints the whole chain: this is what the person at the terminal reads.
impl Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)?;
        let mut source = self.source.as_deref().map(|source| source as &dyn Error);
        while let Some(error) = source {
            write!(f, ": {error}")?;
            source = error.source();
        }
        Ok(())
    }
}

/// Says what was tried when an operation fails.
pub(crate) trait Context<T> {
    fn context(self, what: impl FnOnce() -> String) -> Result<T>;
}

impl<T, E: Into<Box<dyn Error + Send + Sync>>> Context<T> for std::result::Result<T, E> {
    fn context(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|error| Failure::because(what(), error))
    }
}
