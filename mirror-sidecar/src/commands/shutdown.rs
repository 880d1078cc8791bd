//! The signals that ask the program to stop.

use tokio::signal::unix::{SignalKind, signal};

/// What asks the program to stop.
#[derive(Clone, Copy, Debug)]
pub(super) enum StopSignal {
    /// SIGINT, which Ctrl-C sends.
    Interrupt,
    /// SIGTERM.
    Terminate,
}

/// Waits for the first SIGTERM or SIGINT.
pub(super) async fn stop_signal() -> StopSignal {
    let (Ok(mut terminate), Ok(mut interrupt)) = (
        signal(SignalKind::terminate()),
        signal(SignalKind::interrupt()),
    ) else {
        // Without handlers the signals end the process by themselves, which loses nothing either.
        return std::future::pending().await;
    };
    tokio::select! {
        _ = terminate.recv() => StopSignal::Terminate,
        _ = interrupt.recv() => StopSignal::Interrupt,
    }
}
