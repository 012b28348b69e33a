//! The signals of a running sidecar.

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::Error;

/// SIGTERM and SIGINT end it, SIGHUP reloads.
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
}

/// What a signal asks for.
pub(super) enum Asked {
    /// The configuration to be read again.
    Reload,
    /// An end.
    Stop,
}

impl Signals {
    pub(super) fn new() -> Result<Self, Error> {
        let install = |kind| signal(kind).map_err(|source| Error::Start(source.to_string()));
        Ok(Self {
            terminate: install(SignalKind::terminate())?,
            interrupt: install(SignalKind::interrupt())?,
            hang_up: install(SignalKind::hangup())?,
        })
    }

    pub(super) async fn next(&mut self) -> Asked {
        tokio::select! {
            _ = self.terminate.recv() => Asked::Stop,
            _ = self.interrupt.recv() => Asked::Stop,
            _ = self.hang_up.recv() => Asked::Reload,
        }
    }

    /// Resolves when an end is asked for.
    pub(super) async fn stop(&mut self) {
        while !matches!(self.next().await, Asked::Stop) {}
    }
}
