//! Kubernetes Events about workloads and the backup.
//!
//! Reporting never waits and never fails: notices go into a bounded queue, and one task writes them slowly ([`writer`]),
//! each of them at most once an hour ([`dedup`]). Their text is in [`notice`]. Callers report as long as a condition holds:
//! notices that the queue or the API server does not accept are accepted the next time.

mod dedup;
mod metrics;
mod notice;
#[cfg(test)]
mod tests;
mod writer;

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::mpsc;
use tokio::time::Instant;

use super::api_server::ApiServer;
use super::workload::{Key, Owner};
use dedup::{Memory, Name};
pub use metrics::EventMetrics;
use metrics::EventResult;
pub use notice::{About, Notice};
use writer::{Item, Writer};

/// Notices in the queue: about five minutes of writing, at 1 KiB each.
const QUEUE_LEN: usize = 500;

/// Room in the queue that is reserved for warnings.
const RESERVED_FOR_WARNINGS: usize = QUEUE_LEN / 2;

/// Reports notices. Clones share the queue.
#[derive(Clone)]
pub struct Events {
    memory: Arc<Mutex<Memory>>,
    queue: Option<Queue>,
}

#[derive(Clone)]
struct Queue {
    sender: mpsc::Sender<Item>,
    metrics: EventMetrics,
}

impl Events {
    /// Writes nothing, but still deduplicates.
    #[must_use]
    pub fn none() -> Self {
        Self {
            memory: Arc::new(Mutex::new(Memory::new())),
            queue: None,
        }
    }

    /// Writes Events in the name of `replica` until all clones are dropped.
    #[must_use]
    pub fn start(
        server: impl Into<ApiServer>,
        replica: Option<&str>,
        metrics: EventMetrics,
    ) -> Self {
        let (sender, items) = mpsc::channel(QUEUE_LEN);
        let memory = Arc::new(Mutex::new(Memory::new()));
        let writer = Writer::new(server.into(), replica, Arc::clone(&memory), metrics.clone());
        tokio::spawn(writer.run(items));
        Self {
            memory,
            queue: Some(Queue { sender, metrics }),
        }
    }

    /// Reports a notice without waiting. Callers repeat it while the condition holds, since notices beyond the rate are
    /// dropped. Returns whether it is news: it was accepted, and the same notice about the same object was not within
    /// the last hour.
    pub fn report(&self, about: About, notice: Notice) -> bool {
        let name = Name::of(&about, &notice);
        let mut memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now().into_std();
        let Some(due) = memory.take(name, now) else {
            return false;
        };
        let notice = notice.shortened();
        // A notice about a namespace as a whole is not counted.
        let counts = due.is_news && !notice.is_of_namespace();
        if counts
            && !memory
                .shares
                .take(&about.namespace, notice.is_warning(), now)
        {
            memory.put_back(name, due);
            if let Some(queue) = &self.queue {
                queue.metrics.event(EventResult::Dropped);
            }
            return false;
        }
        let Some(queue) = &self.queue else {
            return due.is_news;
        };
        let namespace = about.namespace.clone();
        let is_taken = queue.take(Item {
            name,
            about,
            notice,
            count: due.count,
        });
        if !is_taken {
            memory.put_back(name, due);
            if counts {
                memory.shares.put_back(&namespace);
            }
        }
        is_taken && due.is_news
    }
}

impl Queue {
    /// Returns `false` if there is no room.
    fn take(&self, item: Item) -> bool {
        let is_full = !item.notice.is_warning() && self.sender.capacity() <= RESERVED_FOR_WARNINGS;
        let is_taken = !is_full && self.sender.try_send(item).is_ok();
        if !is_taken {
            self.metrics.event(EventResult::Dropped);
        }
        is_taken
    }
}

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_written = self.queue.is_some();
        let mut shown = f.debug_struct("Events");
        shown
            .field("is_written", &is_written)
            .finish_non_exhaustive()
    }
}

impl About {
    #[must_use]
    pub fn workload(key: &Key, uid: &str) -> Self {
        let group = key.kind.group();
        Self {
            api_version: if group.is_empty() {
                "v1".into()
            } else {
                format!("{group}/v1")
            },
            kind: key.kind.name().into(),
            namespace: key.namespace.to_string(),
            name: key.name.to_string(),
            uid: uid.into(),
        }
    }
}

impl Owner {
    /// This owner of an object in `namespace`.
    #[must_use]
    pub fn about(&self, namespace: &str) -> About {
        About {
            api_version: self.api_version.to_string(),
            kind: self.kind.to_string(),
            namespace: namespace.to_owned(),
            name: self.name.to_string(),
            uid: self.uid.to_string(),
        }
    }
}
