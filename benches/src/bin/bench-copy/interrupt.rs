//! Whether the bench was told to stop: it then cleans up first, since its registries hold gigabytes of memory.

use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::bail;
use tokio::runtime::Handle;
use tokio::signal::unix::{SignalKind, signal};

static HAPPENED: AtomicBool = AtomicBool::new(false);

/// Takes SIGINT and SIGTERM from now on.
pub fn listen(runtime: &Handle) -> anyhow::Result<()> {
    let _entered = runtime.enter();
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    runtime.spawn(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        HAPPENED.store(true, Ordering::Relaxed);
    });
    Ok(())
}

/// Whether a signal came.
pub fn happened() -> bool {
    HAPPENED.load(Ordering::Relaxed)
}

/// An error once a signal came.
pub fn check() -> anyhow::Result<()> {
    if happened() {
        bail!("interrupted");
    }
    Ok(())
}
