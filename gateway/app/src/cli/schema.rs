//! `sluice schema`.

use super::Failure;

pub(crate) fn run() -> Result<(), Failure> {
    super::say(crate::config::schema())
}
