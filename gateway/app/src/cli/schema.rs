//! `sluice schema`.

use super::Failure;

pub(crate) fn run() -> Result<(), Failure> {
    print!("{}", crate::config::schema());
    Ok(())
}
