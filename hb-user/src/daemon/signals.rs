//! What signals mean to a daemon.

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::RunError;

/// The signals that a daemon hears of.
#[derive(Debug)]
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
    user1: Signal,
    user2: Signal,
}

/// What one of them asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    /// To leave.
    Leave(&'static str),
    /// To read the configuration again.
    Reload,
    /// Nothing.
    Nothing(&'static str),
}

impl Signals {
    /// Catches them from now on; one that comes before it is asked for is kept. Needs a runtime.
    ///
    /// # Errors
    ///
    /// [`RunError::System`].
    pub fn catch() -> Result<Self, RunError> {
        let system = |action| move |source| RunError::System { action, source };
        Ok(Self {
            terminate: signal(SignalKind::terminate()).map_err(system("catch SIGTERM"))?,
            interrupt: signal(SignalKind::interrupt()).map_err(system("catch SIGINT"))?,
            hangup: signal(SignalKind::hangup()).map_err(system("catch SIGHUP"))?,
            user1: signal(SignalKind::user_defined1()).map_err(system("catch SIGUSR1"))?,
            user2: signal(SignalKind::user_defined2()).map_err(system("catch SIGUSR2"))?,
        })
    }

    /// Waits for the next one. Dropping the future loses none.
    pub(super) async fn next(&mut self) -> Asked {
        let Self { terminate, interrupt, hangup, user1, user2 } = self;
        tokio::select! {
            biased;
            _ = terminate.recv() => Asked::Leave("SIGTERM"),
            _ = interrupt.recv() => Asked::Leave("SIGINT"),
            _ = hangup.recv() => Asked::Reload,
            _ = user1.recv() => Asked::Nothing("SIGUSR1"),
            _ = user2.recv() => Asked::Nothing("SIGUSR2"),
        }
    }
}

/// Says of a signal that nothing comes of it.
pub(super) fn log_ignored(signal: &'static str) {
    tracing::info!(signal, "signal ignored: it means nothing to hb");
}
