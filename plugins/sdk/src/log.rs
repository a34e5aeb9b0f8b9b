//! The gateway's log. Each line gets the plugin's name, the phase and the request's id; a line is cut at 1 KiB, and after
//! 16 lines in a phase the rest is dropped and counted.

use crate::bindings::host::sluice::plugin::log::{Level, write};

/// For the plugin's author; not shown unless the operator asks.
pub fn debug(message: &str) {
    write(Level::Debug, message);
}

/// Worth knowing.
pub fn info(message: &str) {
    write(Level::Info, message);
}

/// Something is not as it should be.
pub fn warn(message: &str) {
    write(Level::Warn, message);
}

/// Something failed.
pub fn error(message: &str) {
    write(Level::Error, message);
}
