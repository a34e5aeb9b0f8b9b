//! The signals that end the process, heard from before anything serves: one that comes while the gateway is still being
//! built stops it in order too, instead of killing it.

use tokio::signal::unix::{Signal, SignalKind, signal};

/// SIGTERM and SIGINT, kept from the moment this is made.
#[derive(Debug)]
pub(crate) struct StopSignals {
    terminate: Signal,
    interrupt: Signal,
}

impl StopSignals {
    /// Begins to listen, on the present runtime. From here on a SIGHUP is a wish to reload and no longer the end, even
    /// before anybody heeds it.
    pub(crate) fn listen() -> std::io::Result<Self> {
        drop(signal(SignalKind::hangup())?);
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// Returns the name of the next one.
    pub(crate) async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}
