//! Owns the one tokio runtime on which the blocking API of this crate runs its futures.

use std::sync::LazyLock;

use tokio::runtime::{Builder, Handle, Runtime};

/// Two workers: what is run here waits for the network nearly all the time.
static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("e2e-io")
        .enable_all()
        .build()
        .expect("a tokio runtime can be started")
});

/// Runs a future to its end on this crate's runtime and blocks the caller meanwhile.
///
/// It may be called from anywhere, also from inside another runtime (then it needs a thread of its own).
pub fn run<F>(future: F) -> F::Output
where
    F: Future + Send,
    F::Output: Send,
{
    off_runtime(|| RUNTIME.block_on(future))
}

/// Starts a task of this crate's own on the same runtime.
pub fn spawn(task: impl Future<Output = ()> + Send + 'static) -> tokio::task::JoinHandle<()> {
    RUNTIME.spawn(task)
}

/// Calls `work` on a thread that is not inside a tokio runtime: the caller's own one if it qualifies.
///
/// # Panics
/// When `work` panics.
pub fn off_runtime<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    if Handle::try_current().is_err() {
        return work();
    }
    std::thread::scope(|scope| match scope.spawn(work).join() {
        Ok(value) => value,
        Err(panic) => std::panic::resume_unwind(panic),
    })
}
