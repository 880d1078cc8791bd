//! Tasks that never end, and are restarted if they do.
//!
//! A bug in one task must not stop the others, nor this one until the next restart of the process.

use std::collections::HashMap;
use std::fmt::Display;
use std::time::Duration;

use tokio::task::{Id, JoinError, JoinSet};

/// Pause before a task is restarted. Its end is a bug, which must not fill the log.
pub(super) const RESTART_AFTER: Duration = Duration::from_secs(10);

/// Runs a task for each name until it is dropped.
pub(super) async fn supervise<K, F>(names: &[K], task: impl Fn(K) -> F)
where
    K: Copy + Display,
    F: Future<Output = ()> + Send + 'static,
{
    let mut tasks = JoinSet::new();
    let mut name_of: HashMap<Id, K> = HashMap::new();
    for &name in names {
        name_of.insert(tasks.spawn(task(name)).id(), name);
    }
    while let Some(ended) = tasks.join_next_with_id().await {
        let (id, error) = match ended {
            Ok((id, ())) => (id, None),
            Err(error) => (error.id(), Some(error)),
        };
        let Some(name) = name_of.remove(&id) else {
            continue;
        };
        tracing::error!(
            task = %name,
            panicked = error.as_ref().is_some_and(JoinError::is_panic),
            "task ended unexpectedly and is restarted; report this as a bug, with the log"
        );
        let task = task(name);
        let restarted = tasks.spawn(async move {
            tokio::time::sleep(RESTART_AFTER).await;
            task.await;
        });
        name_of.insert(restarted.id(), name);
    }
}
