//! Exit codes, usage errors, and the signals that stop the program.

use tokio::signal::unix::{SignalKind, signal};

/// A copy failed, or a port is in use.
pub const FAILURE: u8 = 1;

/// A flag, an environment variable, or a file that one of them names is invalid. The code that clap uses.
pub const USAGE: u8 = 2;

/// `verify` found an image that is not protected.
pub const NOT_PROTECTED: u8 = 2;

/// Added to the number of the signal that ended the command, as shells do.
pub const SIGNAL: u8 = 128;

/// A flag, an environment variable, or a file that one of them names is invalid.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct UsageError(pub String);

#[derive(Clone, Copy, Debug)]
pub enum StopSignal {
    Interrupt,
    Terminate,
}

/// Waits for the first SIGTERM or SIGINT.
pub async fn stop_signal() -> StopSignal {
    let (Ok(mut terminate), Ok(mut interrupt)) = (
        signal(SignalKind::terminate()),
        signal(SignalKind::interrupt()),
    ) else {
        // Without handlers, the signals end the process, which loses nothing.
        return std::future::pending().await;
    };
    tokio::select! {
        _ = terminate.recv() => StopSignal::Terminate,
        _ = interrupt.recv() => StopSignal::Interrupt,
    }
}
