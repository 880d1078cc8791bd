//! Records which copies were running when the process died, so that one image cannot kill it repeatedly.
//!
//! In a cluster the record is an annotation of the replica's Lease. A replica that shuts down cleanly deletes its Lease
//! with the record. A Lease that exists when a replica starts under the same name, or that expires, belongs to a
//! process that died: the images that it was copying are isolated. Each of them is copied while nothing else is, after
//! a backoff that grows with each crash.
//!
//! Normally the list of running copies is stored with the renewal every few seconds, without a write of its own. Within
//! an hour after a crash no copy starts before the list with its image is stored, so that a second crash finds it even
//! if it follows within two seconds after a start. Without a cluster nothing is stored.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use crate::backoff::doubling;

/// How long the first copy waits for the record of the previous process.
const LOAD_WITHIN: Duration = Duration::from_secs(5);

/// How long every start is stored first after a crash.
const STORE_FIRST_FOR: Duration = Duration::from_hours(1);

/// How long a start waits to be stored. An unavailable API server must not stop all copies.
const STORE_WITHIN: Duration = Duration::from_secs(3);

/// Limit of isolated images. A crash adds all that were running, of which most are innocent.
const MAX_ISOLATED: usize = 64;

/// Longest accepted record, in bytes: 64 isolated and 64 running images with the longest names. All annotations of an
/// object together may have 256 KiB.
const MAX_TEXT: usize = 128 * 1024;

/// Wait after the first crash; each further one quadruples it.
const FIRST_BACKOFF: Duration = Duration::from_mins(1);

const LONGEST_BACKOFF: Duration = Duration::from_hours(24);

/// The record. Clones share it.
#[derive(Clone)]
pub struct CrashRecord(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    /// Versions of the record: the current one, and the stored one.
    wanted: watch::Sender<u64>,
    stored: watch::Sender<u64>,
}

struct State {
    is_persistent: bool,
    /// Copies wait until then for the record of the previous process.
    loading_until: Option<Instant>,
    is_loaded: bool,
    store_first_until: Option<Instant>,
    process: String,
    running: BTreeMap<u64, String>,
    isolated: BTreeMap<String, Isolated>,
    /// The last records of other replicas.
    others: BTreeMap<String, StoredRecord>,
    /// The wall clock (since 1970) at a moment of the monotonic one.
    clock: (Duration, Instant),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Isolation {
    /// Crashes while the image was being copied.
    pub(super) crashes: u32,
    /// Remaining wait.
    pub(super) backoff: Duration,
}

#[derive(Clone, Copy, Debug)]
struct Isolated {
    crashes: u32,
    /// Seconds since 1970.
    retry_at: u64,
}

/// The format of the annotation.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct StoredRecord {
    process: String,
    running: Vec<String>,
    isolated: Vec<StoredIsolation>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct StoredIsolation {
    image: String,
    crashes: u32,
    retry_at: u64,
}

impl CrashRecord {
    /// An empty record that is not stored.
    #[must_use]
    pub fn new() -> Self {
        let since_1970 = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
        let state = State {
            is_persistent: false,
            loading_until: None,
            is_loaded: false,
            store_first_until: None,
            process: format!("{:016x}", fastrand::u64(..)),
            running: BTreeMap::new(),
            isolated: BTreeMap::new(),
            others: BTreeMap::new(),
            clock: (since_1970, Instant::now()),
        };
        Self(Arc::new(Shared {
            state: Mutex::new(state),
            wanted: watch::Sender::new(0),
            stored: watch::Sender::new(0),
        }))
    }

    /// From now on the record is stored. No copy starts before [`Self::load`], for at most [`LOAD_WITHIN`].
    pub fn persist(&self) {
        let mut state = self.state();
        state.is_persistent = true;
        state.loading_until = Some(Instant::now() + LOAD_WITHIN);
    }

    /// The previous process shut down cleanly. Only the first call of this or [`Self::load`] counts.
    pub fn load_nothing(&self) {
        let mut state = self.state();
        state.loading_until = None;
        state.is_loaded = true;
    }

    /// Loads the record of the previous process, which died.
    pub fn load(&self, text: Option<&str>) {
        let mut state = self.state();
        state.loading_until = None;
        if std::mem::replace(&mut state.is_loaded, true) {
            return;
        }
        let text = text.and_then(StoredRecord::parse).unwrap_or_default();
        // The Lease may be this process's own, if the response to its creation was lost.
        if text.process != state.process {
            state.crashed(text);
            drop(state);
            self.change();
        }
    }

    /// The version and the text to store.
    #[must_use]
    pub fn to_store(&self) -> (u64, String) {
        let version = *self.0.wanted.borrow();
        (version, self.state().text())
    }

    /// Confirms that this version is stored.
    pub fn stored(&self, version: u64) {
        self.0.stored.send_if_modified(|stored| {
            let is_news = *stored < version;
            *stored = version.max(*stored);
            is_news
        });
    }

    /// Returns when a copy waits for the record to be stored.
    pub async fn waits_to_be_stored(&self) {
        let mut wanted = self.0.wanted.subscribe();
        loop {
            let is_behind = *self.0.stored.borrow() < *wanted.borrow_and_update();
            if is_behind && self.state().stores_first(Instant::now()) {
                return;
            }
            if wanted.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }

    /// Updates the record of another replica.
    pub fn observe(&self, replica: &str, text: Option<&str>) {
        let mut state = self.state();
        match text.and_then(StoredRecord::parse) {
            Some(text) => _ = state.others.insert(replica.to_owned(), text),
            None => _ = state.others.remove(replica),
        }
    }

    /// Removes the record of another replica, which shut down cleanly.
    pub fn forget(&self, replica: &str) {
        self.state().others.remove(replica);
    }

    /// Keeps only the records of these replicas; the others shut down cleanly.
    pub fn keep(&self, is_there: impl Fn(&str) -> bool) {
        self.state().others.retain(|replica, _| is_there(replica));
    }

    /// Isolates the images of another replica, which died.
    pub fn adopt(&self, replica: &str) {
        let mut state = self.state();
        if let Some(text) = state.others.remove(replica) {
            state.crashed(text);
            drop(state);
            self.change();
        }
    }

    #[must_use]
    pub fn isolated(&self) -> usize {
        self.state().isolated.len()
    }

    pub(super) fn is_loading(&self, now: Instant) -> bool {
        self.state().loading_until.is_some_and(|until| now < until)
    }

    /// Returns when the image may be copied, if it must be copied alone.
    pub(super) fn isolation(&self, image: &str) -> Option<Isolation> {
        let state = self.state();
        let own = state.isolated.get(image).copied();
        let others = state.others.values().flat_map(|text| &text.isolated);
        let others = others.filter(|isolated| isolated.image == image);
        let all = others.map(|isolated| Isolated {
            crashes: isolated.crashes,
            retry_at: isolated.retry_at,
        });
        let isolated = all.chain(own).max_by_key(|isolated| isolated.retry_at)?;
        let now = state.seconds();
        Some(Isolation {
            crashes: isolated.crashes,
            backoff: Duration::from_secs(isolated.retry_at.saturating_sub(now))
                .min(LONGEST_BACKOFF),
        })
    }

    /// Records the start of a copy. Waits until that is stored, if a process died lately.
    pub async fn start(&self, id: u64, image: &str) {
        self.state().running.insert(id, image.to_owned());
        let version = self.change();
        if !self.state().stores_first(Instant::now()) {
            return;
        }
        let mut stored = self.0.stored.subscribe();
        let is_stored = stored.wait_for(|stored| *stored >= version);
        if timeout(STORE_WITHIN, is_stored).await.is_err() {
            tracing::warn!(
                image,
                "cannot store the start of a copy in time; if the process dies now, the image is not isolated after the restart. Check the API server"
            );
        }
    }

    /// Records the end of a copy.
    pub fn end(&self, id: u64) {
        if self.state().running.remove(&id).is_some() {
            self.change();
        }
    }

    /// Ends the isolation of an image that was copied alone.
    pub(super) fn clear(&self, image: &str) {
        let mut state = self.state();
        for text in state.others.values_mut() {
            text.isolated.retain(|isolated| isolated.image != image);
        }
        if state.isolated.remove(image).is_some() {
            drop(state);
            self.change();
            tracing::info!(image, "image is no longer isolated");
        }
    }

    fn change(&self) -> u64 {
        let mut version = 0;
        self.0.wanted.send_modify(|wanted| {
            *wanted += 1;
            version = *wanted;
        });
        version
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for CrashRecord {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for CrashRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("CrashRecord")
            .field(&self.state().text())
            .finish()
    }
}

impl State {
    /// Isolates the images that a process was copying when it died.
    fn crashed(&mut self, text: StoredRecord) {
        self.store_first_until = self.is_persistent.then(|| Instant::now() + STORE_FIRST_FOR);
        for isolated in text.isolated {
            let entry = self.isolated.entry(isolated.image).or_insert(Isolated {
                crashes: 0,
                retry_at: 0,
            });
            entry.crashes = entry.crashes.max(isolated.crashes);
            entry.retry_at = entry.retry_at.max(isolated.retry_at);
        }
        let now = self.seconds();
        for image in &text.running {
            let entry = self.isolated.entry(image.clone()).or_insert(Isolated {
                crashes: 0,
                retry_at: 0,
            });
            entry.crashes = entry.crashes.saturating_add(1);
            entry.retry_at = now.saturating_add(backoff(entry.crashes).as_secs());
        }
        while self.isolated.len() > MAX_ISOLATED {
            let least = self
                .isolated
                .iter()
                .min_by_key(|(_, isolated)| isolated.crashes);
            let Some(image) = least.map(|(image, _)| image.clone()) else {
                break;
            };
            self.isolated.remove(&image);
        }
        tracing::warn!(
            images = text.running.join(", "),
            "process died while copying these images; each is copied alone later. If the container was killed for its \
             memory, raise its limit or exclude the image"
        );
    }

    fn stores_first(&self, now: Instant) -> bool {
        self.store_first_until.is_some_and(|until| now < until)
    }

    fn seconds(&self) -> u64 {
        let (since_1970, at) = self.clock;
        (since_1970 + at.elapsed()).as_secs()
    }

    fn text(&self) -> String {
        let isolated = self
            .isolated
            .iter()
            .map(|(image, isolated)| StoredIsolation {
                image: image.clone(),
                crashes: isolated.crashes,
                retry_at: isolated.retry_at,
            });
        let text = StoredRecord {
            process: self.process.clone(),
            running: self.running.values().cloned().collect(),
            isolated: isolated.collect(),
        };
        // No field can fail to be serialized.
        serde_json::to_string(&text).unwrap_or_default()
    }
}

impl StoredRecord {
    /// Returns `None` for an invalid record; lists longer than this program writes are cut.
    fn parse(text: &str) -> Option<Self> {
        if text.len() > MAX_TEXT {
            return None;
        }
        let mut text: Self = serde_json::from_str(text).ok()?;
        text.running.truncate(MAX_ISOLATED);
        text.isolated.truncate(MAX_ISOLATED);
        Some(text)
    }
}

/// Returns the wait before an isolated image is copied: 1, 4, 16 and 64 minutes, up to a day.
fn backoff(crashes: u32) -> Duration {
    let doublings = crashes.saturating_sub(1).saturating_mul(2);
    doubling(FIRST_BACKOFF, LONGEST_BACKOFF, doublings.saturating_add(1))
}
