//! State that the completeness checks of one registry share: a limit of reads, and the entries of indexes.

use crate::lock::lock;
use crate::manifest::{self, Descriptor};
use crate::platform::Platform;
use oci_spec::image::Digest;
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex};
use tokio::sync::Semaphore;

/// Manifests that all checks of one registry read concurrently: each may have 8 MiB.
const READS_AT_ONCE: usize = 2;

/// Maximum number of index entries per registry, at about 200 bytes each.
const MAX_REMEMBERED: usize = 8192;

/// Longest text of a platform that is kept, in bytes: authors of images choose it.
const MAX_PLATFORM: usize = 64;

pub(super) struct CheckState {
    pub(super) reads: Semaphore,
    /// Cached, since reading a manifest may be limited where `HEAD` is not.
    pub(super) indexes: Mutex<Indexes>,
}

/// The entries of manifests that were read, by digest; only indexes have any.
#[derive(Default)]
pub(super) struct Indexes {
    pub(super) entries: HashMap<Digest, Arc<[Entry]>>,
    /// The oldest first.
    pub(super) order: VecDeque<Digest>,
    pub(super) count: usize,
}

/// A manifest to check.
#[derive(Clone)]
pub(super) struct Entry {
    pub(super) digest: Digest,
    pub(super) may_be_index: bool,
    /// Build caches put blobs into an index.
    pub(super) may_be_blob: bool,
    /// The platform that the index names, such as `linux/amd64`. Attestations have `unknown/unknown`, which is left out.
    pub(super) platform: Option<Box<str>>,
}

impl Default for CheckState {
    fn default() -> Self {
        Self {
            reads: Semaphore::new(READS_AT_ONCE),
            indexes: Mutex::default(),
        }
    }
}

impl CheckState {
    pub(super) fn indexes(&self) -> std::sync::MutexGuard<'_, Indexes> {
        lock(&self.indexes)
    }
}

impl Entry {
    pub(super) fn of_root(digest: &Digest, media_type: &str) -> Self {
        Self {
            digest: digest.clone(),
            may_be_index: !manifest::is_image(media_type),
            may_be_blob: false,
            platform: None,
        }
    }

    pub(super) fn of_child(child: &Descriptor) -> Self {
        Self {
            digest: child.digest.clone(),
            may_be_index: manifest::is_index(&child.media_type),
            may_be_blob: !child.is_manifest(),
            platform: child.platform.as_ref().and_then(shown),
        }
    }
}

/// Returns the text of a platform, unless it is unknown, longer than any that exists, or has other characters than they have:
/// tools show it as it is.
fn shown(platform: &Platform) -> Option<Box<str>> {
    let text = platform.to_string();
    let is_valid = text.len() <= MAX_PLATFORM && text.parse::<Platform>().is_ok();
    (is_valid && !text.starts_with("unknown")).then(|| text.into())
}

impl Indexes {
    pub(super) fn insert(&mut self, digest: &Digest, entries: &Arc<[Entry]>) {
        if entries.len() > MAX_REMEMBERED / 8 || self.entries.contains_key(digest) {
            return;
        }
        self.count += entries.len().max(1);
        self.entries.insert(digest.clone(), Arc::clone(entries));
        self.order.push_back(digest.clone());
        while self.count > MAX_REMEMBERED
            && let Some(oldest) = self.order.pop_front()
            && let Some(entries) = self.entries.remove(&oldest)
        {
            self.count = self.count.saturating_sub(entries.len().max(1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case::plain("linux", "arm", Some("linux/arm/v7"))]
    #[case::unknown("unknown", "unknown", None)]
    #[case::control("linux", "amd64\u{1b}[2J", None)]
    #[case::slash("linux", "amd64/../x", None)]
    #[case::long(
        "linux",
        "abcdefghijklmnopqrstuvwxyzabcdefghijklmnopqrstuvwxyzabcdefghij",
        None
    )]
    fn platforms_are_shown_if_tools_can_show_them(
        #[case] os: &str,
        #[case] architecture: &str,
        #[case] expected: Option<&str>,
    ) {
        let platform = Platform {
            os: os.to_owned(),
            architecture: architecture.to_owned(),
            variant: (architecture == "arm").then(|| "v7".to_owned()),
        };
        assert_eq!(shown(&platform).as_deref(), expected);
    }
}
