//! Limits of reports: a notice that was reported already is not news, and each namespace has a share, so that a tenant with
//! many workloads cannot suppress the Events of others.

use std::collections::HashMap;
use std::fmt;
use std::time::{Duration, Instant};

use sha2::{Digest as _, Sha256};

use super::notice::{About, Notice};

/// A repeated notice is news again after this time: as long as API servers keep Events by default (`--event-ttl`).
pub(super) const REPEAT_AFTER: Duration = Duration::from_hours(1);

/// New notices about one namespace per [`REPEAT_AFTER`].
const MAX_NOTICES: u32 = 240;

/// Of these, the limit for notices that are no warnings.
const MAX_NORMAL: u32 = MAX_NOTICES / 2;

/// Number of namespaces at which expired ones are dropped.
const TIDY_AT: usize = 1024;

/// Limit of remembered notices, at about 50 bytes each. The writer needs more than an hour for this many.
pub(super) const MAX_REMEMBERED: usize = 10_000;

/// Identifies a notice about an object. All replicas give the same notice the same name, also after a restart, so that
/// the cluster has one Event of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Name(u64);

#[derive(Debug)]
pub(super) struct Memory {
    reported: HashMap<Name, Reported>,
    /// No room before this time, unless a notice is put back.
    full_until: Option<Instant>,
    pub(super) shares: Shares,
}

#[derive(Debug)]
struct Reported {
    at: Instant,
    count: i32,
    /// The Event was not written.
    is_lost: bool,
}

/// A notice to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Due {
    /// The count of the Event series.
    pub count: i32,
    /// Not reported within the last hour; `false` for a notice that is repeated because it was not written.
    pub is_news: bool,
}

#[derive(Debug, Default)]
pub(super) struct Shares {
    windows: HashMap<Box<str>, Window>,
    tidy_at: usize,
}

#[derive(Debug)]
struct Window {
    since: Instant,
    count: u32,
}

impl Memory {
    pub(super) fn new() -> Self {
        Self {
            reported: HashMap::new(),
            full_until: None,
            shares: Shares::default(),
        }
    }

    /// Records a notice; `None` if it is a duplicate, or if the limit is reached.
    pub(super) fn take(&mut self, name: Name, now: Instant) -> Option<Due> {
        if !self.reported.contains_key(&name) && !self.has_room(now) {
            return None;
        }
        let reported = self.reported.entry(name).or_insert(Reported {
            at: now,
            count: 0,
            is_lost: false,
        });
        let is_lost = std::mem::take(&mut reported.is_lost);
        let is_news =
            reported.count == 0 || REPEAT_AFTER <= now.saturating_duration_since(reported.at);
        if is_news {
            reported.at = now;
            reported.count = reported.count.saturating_add(1);
        }
        let count = reported.count;
        (is_news || is_lost).then_some(Due { count, is_news })
    }

    /// Reverts [`Self::take`]: the queue had no room.
    pub(super) fn put_back(&mut self, name: Name, due: Due) {
        if due.is_news {
            self.reported.remove(&name);
        } else {
            self.mark_lost(name);
        }
    }

    /// Marks a notice that was not written as due again. It does not become news: an unavailable API server must not
    /// cause a log line each time.
    pub(super) fn mark_lost(&mut self, name: Name) {
        if let Some(reported) = self.reported.get_mut(&name) {
            reported.is_lost = true;
        }
    }

    /// Returns whether one more can be remembered. Recent notices are never dropped for it, or they would be news
    /// again.
    fn has_room(&mut self, now: Instant) -> bool {
        let is_full = MAX_REMEMBERED <= self.reported.len();
        if is_full && self.full_until.is_none_or(|until| until <= now) {
            let reported = &mut self.reported;
            reported
                .retain(|_, reported| now.saturating_duration_since(reported.at) < REPEAT_AFTER);
            let oldest = reported.values().map(|reported| reported.at).min();
            self.full_until = oldest.map(|oldest| oldest + REPEAT_AFTER);
        }
        self.reported.len() < MAX_REMEMBERED
    }
}

impl Shares {
    /// Counts a notice about `namespace`; `false` if it exceeds the limit.
    pub(super) fn take(&mut self, namespace: &str, is_warning: bool, now: Instant) -> bool {
        let is_over = |window: &Window| REPEAT_AFTER <= now.saturating_duration_since(window.since);
        if self.windows.len() >= self.tidy_at.max(TIDY_AT) {
            self.windows.retain(|_, window| !is_over(window));
            self.tidy_at = self.windows.len().saturating_mul(2);
        }
        let window = self.windows.entry(namespace.into()).or_insert(Window {
            since: now,
            count: 0,
        });
        if is_over(window) {
            (window.since, window.count) = (now, 0);
        }
        let has_room = window.count < if is_warning { MAX_NOTICES } else { MAX_NORMAL };
        window.count = window.count.saturating_add(u32::from(has_room));
        has_room
    }

    /// Reverts [`Self::take`].
    pub(super) fn put_back(&mut self, namespace: &str) {
        if let Some(window) = self.windows.get_mut(namespace) {
            window.count = window.count.saturating_sub(1);
        }
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
                // Reasons contain figures, such as a retry delay; a notice that differs only in those is the same.
                hash.update(reason.replace(|part: char| part.is_ascii_digit(), ""));
            }
            Notice::NotRewritten { images } => {
                for image in images {
                    hash.update(image);
                    hash.update([0]);
                }
            }
            Notice::BackupTrouble { backup, .. } | Notice::BackupRecovered { backup } => {
                hash.update(backup.as_deref().unwrap_or_default());
            }
            // Their figures do not count, and one notice at a time is enough.
            Notice::InjectedNotRewritten { .. }
            | Notice::TooMuch { .. }
            | Notice::NoBudget
            | Notice::ForeignSecret
            | Notice::SecretRefused { .. }
            | Notice::ReadmissionRefused { .. }
            | Notice::OtherInstallation { .. }
            | Notice::FacadeCertificate { .. }
            | Notice::FacadeCertificateRenewed
            | Notice::RewriteLoop
            | Notice::PolicyInvalid { .. } => {}
            Notice::BackupUnknown { reason } | Notice::RuleConflict { reason } => {
                hash.update(reason);
            }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_has_a_limited_share() {
        let mut shares = Shares::default();
        let now = Instant::now();
        let mut taken = |namespace, is_warning, now| {
            (0..1000)
                .filter(|_| shares.take(namespace, is_warning, now))
                .count()
        };
        assert_eq!(taken("a", false, now), 120);
        assert_eq!(taken("a", true, now), 120, "bad news have room left");
        assert_eq!(taken("b", true, now), 240);
        assert_eq!(taken("a", true, now + REPEAT_AFTER), 240);
        shares.put_back("a");
        assert!(shares.take("a", true, now + REPEAT_AFTER));
        for number in 0..10 * TIDY_AT {
            let later = now + REPEAT_AFTER * u32::try_from(number / TIDY_AT).unwrap();
            shares.take(&number.to_string(), true, later);
        }
        assert!(
            shares.windows.len() <= 3 * TIDY_AT,
            "{}",
            shares.windows.len()
        );
    }
}
