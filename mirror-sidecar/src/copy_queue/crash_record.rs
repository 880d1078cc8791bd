//! Which copies ran when the process died, so that one image cannot end it again and again.
//!
//! In a cluster the record is an annotation of the replica's Lease. A replica that ends in order deletes its Lease, and the
//! record with it. A Lease that is there when a replica starts under the same name, or that expires, belongs to a process
//! that died: the images that it was copying are isolated. Each of them is copied while nothing else is, after a pause that
//! grows with each death.
//!
//! Normally the list of running copies is stored with the renewal every few seconds, without a write of its own. Within an
//! hour after a death no copy starts before the list with its image is stored, so the second death within two seconds after
//! a start finds it. Without a cluster nothing is stored.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use crate::backoff::doubling;

/// How long the first copy waits for the record of the process before this one.
const LOAD_WITHIN: Duration = Duration::from_secs(5);

/// How long every start is recorded first after a process died.
const CAREFUL_FOR: Duration = Duration::from_hours(1);

/// How long a start waits for that. An API server that is away must not stop all copies.
const STORE_WITHIN: Duration = Duration::from_secs(3);

/// Images that are isolated at most. A death adds those that ran, of which most are innocent.
const MAX_ISOLATED: usize = 64;

/// Longest text that is accepted as a record, in bytes: 64 isolated images and as many running ones with the longest names.
/// All annotations of an object together may have 256 KiB.
const MAX_TEXT: usize = 128 * 1024;

/// Pause after the first death; it is quadrupled with each further one.
const FIRST_PAUSE: Duration = Duration::from_mins(1);

/// Longest pause.
const LONGEST_PAUSE: Duration = Duration::from_hours(24);

/// The record. Clones share it.
#[derive(Clone)]
pub struct CrashRecord(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    /// The version of what is to be stored, and of what is.
    wanted: watch::Sender<u64>,
    stored: watch::Sender<u64>,
}

struct State {
    is_persistent: bool,
    /// Until when the record of the process before is waited for.
    loading_until: Option<Instant>,
    is_loaded: bool,
    careful_until: Option<Instant>,
    process: String,
    running: BTreeMap<u64, String>,
    isolated: BTreeMap<String, Isolated>,
    /// What other replicas recorded last.
    others: BTreeMap<String, Text>,
    /// The wall clock at a moment of the monotonic one.
    clock: (Duration, Instant),
}

/// An image that is copied alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Isolation {
    /// How often a process died while the image was being copied.
    pub(super) crashes: u32,
    /// How long it must wait still.
    pub(super) pause: Duration,
}

#[derive(Clone, Copy, Debug)]
struct Isolated {
    crashes: u32,
    /// Seconds since 1970.
    retry_at: u64,
}

/// The annotation.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Text {
    process: String,
    running: Vec<String>,
    isolated: Vec<IsolatedText>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct IsolatedText {
    image: String,
    crashes: u32,
    retry_at: u64,
}

impl CrashRecord {
    /// An empty record that is stored nowhere.
    #[must_use]
    pub fn new() -> Self {
        let since_1970 = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
        let state = State {
            is_persistent: false,
            loading_until: None,
            is_loaded: false,
            careful_until: None,
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

    /// The record is stored from now on. No copy starts before [`Self::load`], for a few seconds at most.
    pub fn persist(&self) {
        let mut state = self.state();
        state.is_persistent = true;
        state.loading_until = Some(Instant::now() + LOAD_WITHIN);
    }

    /// The process before this one ended in order. Only the first call of this or [`Self::load`] counts.
    pub fn load_nothing(&self) {
        let mut state = self.state();
        state.loading_until = None;
        state.is_loaded = true;
    }

    /// Accepts the record of the process before this one, which died.
    pub fn load(&self, text: Option<&str>) {
        let mut state = self.state();
        state.loading_until = None;
        if std::mem::replace(&mut state.is_loaded, true) {
            return;
        }
        let text = text.and_then(Text::parse).unwrap_or_default();
        // It may be this process's own Lease: the response to its creation was lost.
        if text.process != state.process {
            state.crashed(text);
            drop(state);
            self.change();
        }
    }

    /// The version and the text of what is to be stored.
    #[must_use]
    pub fn to_store(&self) -> (u64, String) {
        let version = *self.0.wanted.borrow();
        (version, self.state().text())
    }

    /// This version is stored.
    pub fn stored(&self, version: u64) {
        self.0.stored.send_if_modified(|stored| {
            let is_news = *stored < version;
            *stored = version.max(*stored);
            is_news
        });
    }

    /// Returns when a copy waits until the record is stored.
    pub async fn waits_to_be_stored(&self) {
        let mut wanted = self.0.wanted.subscribe();
        loop {
            let is_behind = *self.0.stored.borrow() < *wanted.borrow_and_update();
            if is_behind && self.state().is_careful(Instant::now()) {
                return;
            }
            if wanted.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }

    /// Another replica recorded this.
    pub fn see(&self, replica: &str, text: Option<&str>) {
        let mut state = self.state();
        match text.and_then(Text::parse) {
            Some(text) => _ = state.others.insert(replica.to_owned(), text),
            None => _ = state.others.remove(replica),
        }
    }

    /// Another replica ended in order.
    pub fn forget(&self, replica: &str) {
        self.state().others.remove(replica);
    }

    /// Only these other replicas are there; the rest ended in order.
    pub fn keep(&self, is_there: impl Fn(&str) -> bool) {
        self.state().others.retain(|replica, _| is_there(replica));
    }

    /// Another replica died.
    pub fn adopt(&self, replica: &str) {
        let mut state = self.state();
        if let Some(text) = state.others.remove(replica) {
            state.crashed(text);
            drop(state);
            self.change();
        }
    }

    /// Images that are isolated.
    #[must_use]
    pub fn isolated(&self) -> usize {
        self.state().isolated.len()
    }

    pub(super) fn is_loading(&self, now: Instant) -> bool {
        self.state().loading_until.is_some_and(|until| now < until)
    }

    /// Whether the image must be copied alone, and when.
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
            pause: Duration::from_secs(isolated.retry_at.saturating_sub(now)).min(LONGEST_PAUSE),
        })
    }

    /// The copy is about to start. Waits until that is stored, if a process died lately.
    pub async fn start(&self, id: u64, image: &str) {
        self.state().running.insert(id, image.to_owned());
        let version = self.change();
        if !self.state().is_careful(Instant::now()) {
            return;
        }
        let mut stored = self.0.stored.subscribe();
        let is_stored = stored.wait_for(|stored| *stored >= version);
        if timeout(STORE_WITHIN, is_stored).await.is_err() {
            tracing::warn!(
                image,
                "the start of a copy is not recorded: the API server is slow; if the process dies now, the image may end it again"
            );
        }
    }

    /// The copy ended, and the process is alive.
    pub fn end(&self, id: u64) {
        if self.state().running.remove(&id).is_some() {
            self.change();
        }
    }

    /// The isolated image was copied alone, and the process is alive.
    pub(super) fn clear(&self, image: &str) {
        let mut state = self.state();
        for text in state.others.values_mut() {
            text.isolated.retain(|isolated| isolated.image != image);
        }
        if state.isolated.remove(image).is_some() {
            drop(state);
            self.change();
            tracing::info!(image, "image is not isolated any more");
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
    /// Isolates what a process was copying when it died.
    fn crashed(&mut self, text: Text) {
        self.careful_until = self.is_persistent.then(|| Instant::now() + CAREFUL_FOR);
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
            entry.retry_at = now.saturating_add(pause(entry.crashes).as_secs());
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
            "a process ended without notice while these images were being copied; each is copied alone later. \
             If the container was killed for its memory, raise its limit or exclude the image"
        );
    }

    fn is_careful(&self, now: Instant) -> bool {
        self.careful_until.is_some_and(|until| now < until)
    }

    fn seconds(&self) -> u64 {
        let (since_1970, at) = self.clock;
        (since_1970 + at.elapsed()).as_secs()
    }

    fn text(&self) -> String {
        let isolated = self.isolated.iter().map(|(image, isolated)| IsolatedText {
            image: image.clone(),
            crashes: isolated.crashes,
            retry_at: isolated.retry_at,
        });
        let text = Text {
            process: self.process.clone(),
            running: self.running.values().cloned().collect(),
            isolated: isolated.collect(),
        };
        // No field of it can fail to be written.
        serde_json::to_string(&text).unwrap_or_default()
    }
}

impl Text {
    /// `None` if it is no record; a longer list than this program writes is cut.
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

/// The pause before an image is copied alone: 1, 4, 16 and 64 minutes, up to a day.
fn pause(crashes: u32) -> Duration {
    let doublings = crashes.saturating_sub(1).saturating_mul(2);
    doubling(FIRST_PAUSE, LONGEST_PAUSE, doublings.saturating_add(1))
}
