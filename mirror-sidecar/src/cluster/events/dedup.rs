//! What was told already.

use std::collections::HashMap;
use std::fmt;
use std::time::Instant;

use sha2::{Digest as _, Sha256};

use super::notice::{About, Notice};
use super::shares::{AGAIN_AFTER, Shares};

/// Notices remembered, at about 50 bytes each. The writer needs longer than an hour for so many.
pub(super) const MAX_REMEMBERED: usize = 10_000;

/// Names a notice about an object. All replicas give the same notice the same name, also after a restart, so that there
/// is one Event of it in the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Name(u64);

/// What was told, and when.
#[derive(Debug)]
pub(super) struct Memory {
    told: HashMap<Name, Told>,
    /// Until when there is certainly no room, unless something is put back.
    full_until: Option<Instant>,
    /// How much of that is whose.
    pub(super) shares: Shares,
}

#[derive(Debug)]
struct Told {
    at: Instant,
    count: i32,
    /// Whether it did not reach the cluster.
    is_lost: bool,
}

/// Something to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Due {
    /// Which time it is that this is told.
    pub count: i32,
    /// Whether it was not told within the last hour; if it was, it did not reach the cluster.
    pub is_news: bool,
}

impl Memory {
    pub(super) fn new() -> Self {
        Self {
            told: HashMap::new(),
            full_until: None,
            shares: Shares::default(),
        }
    }

    /// Notes that something is told now; `None` when that is not due, or when so much is told that it must wait.
    pub(super) fn take(&mut self, name: Name, now: Instant) -> Option<Due> {
        if !self.told.contains_key(&name) && !self.has_room(now) {
            return None;
        }
        let told = self.told.entry(name).or_insert(Told {
            at: now,
            count: 0,
            is_lost: false,
        });
        let is_lost = std::mem::take(&mut told.is_lost);
        let is_news = told.count == 0 || AGAIN_AFTER <= now.saturating_duration_since(told.at);
        if is_news {
            told.at = now;
            told.count = told.count.saturating_add(1);
        }
        let count = told.count;
        (is_news || is_lost).then_some(Due { count, is_news })
    }

    /// There was no room for it, so it is due again, and as much news as it was.
    pub(super) fn put_back(&mut self, name: Name, due: Due) {
        if due.is_news {
            self.told.remove(&name);
        } else {
            self.lose(name);
        }
    }

    /// It did not reach the cluster, so it is due again. It is no news again: that the API server is away must not be
    /// told as often as it is tried.
    pub(super) fn lose(&mut self, name: Name) {
        if let Some(told) = self.told.get_mut(&name) {
            told.is_lost = true;
        }
    }

    /// Whether one more can be remembered. What is still true is never forgotten for it, or it would be news again.
    fn has_room(&mut self, now: Instant) -> bool {
        let is_full = MAX_REMEMBERED <= self.told.len();
        if is_full && self.full_until.is_none_or(|until| until <= now) {
            let told = &mut self.told;
            told.retain(|_, told| now.saturating_duration_since(told.at) < AGAIN_AFTER);
            let oldest = told.values().map(|told| told.at).min();
            self.full_until = oldest.map(|oldest| oldest + AGAIN_AFTER);
        }
        self.told.len() < MAX_REMEMBERED
    }
}

impl Name {
    pub(super) fn of(about: &About, notice: &Notice) -> Self {
        let mut hash = Sha256::new();
        let About {
            api_version,
            kind,
            namespace,
            name,
            uid,
        } = about;
        let parts = [api_version, kind, name, uid];
        let parts = parts.into_iter().filter(|_| !notice.is_of_namespace());
        for part in parts.chain([namespace]) {
            hash.update(part);
            hash.update([0]);
        }
        hash.update(notice.reason());
        match notice {
            Notice::Mirrored { image }
            | Notice::LastCopy { image }
            | Notice::ImageLost { image } => hash.update(image),
            Notice::NotMirrored { image, reason } => {
                hash.update(image);
                hash.update([0]);
                // Reasons have figures in them, such as how long to wait; those alone make no other notice.
                hash.update(reason.replace(|part: char| part.is_ascii_digit(), ""));
            }
            Notice::NotRewritten { images } => {
                for image in images {
                    hash.update(image);
                    hash.update([0]);
                }
            }
            // Reasons have figures in them, and one of them at a time is enough.
            Notice::InjectedNotRewritten { .. }
            | Notice::TooMuch { .. }
            | Notice::NoBudget
            | Notice::ForeignSecret
            | Notice::SecretRefused { .. }
            | Notice::ReadmissionRefused { .. }
            | Notice::OtherInstallation { .. }
            | Notice::BackupTrouble { .. }
            | Notice::BackupRecovered
            | Notice::FacadeCertificate { .. }
            | Notice::FacadeCertificateRenewed
            | Notice::RewriteLoop => {}
        }
        let hash = hash.finalize();
        let first = hash.iter().take(8);
        Self(first.fold(0, |number, byte| number << 8 | u64::from(*byte)))
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}
