//! When an object gets its write, so that neither an image that changes all the time nor somebody who keeps editing an object
//! causes many of them.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use super::plan::Urgency;
use crate::token_bucket::TokenBucket;

/// Writes of one object: so many in short order, then one in this time.
const BURST: u32 = 5;
const INTERVAL: Duration = Duration::from_mins(1);

/// How long a change that is not urgent lasts before it is written.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

/// How long an image is not in use before its object is removed: Jobs and rollouts use many images again and again.
pub(super) const UNUSED_FOR: Duration = Duration::from_secs(30);

/// Longest wait for the watch to report an own write.
const AWAITED_FOR: Duration = Duration::from_secs(30);

/// The objects that are to be written, or were written lately.
#[derive(Debug, Default)]
pub(super) struct Paces {
    by_name: BTreeMap<String, Pace>,
}

#[derive(Debug)]
struct Pace {
    writes: TokenBucket,
    last_write: Option<Instant>,
    /// Since when it needs a write that is not urgent.
    pending_since: Option<Instant>,
    unused_since: Option<Instant>,
    /// The version of the own write that the watch has not reported, and when it was written.
    awaited: Option<(Option<String>, Instant)>,
    /// It needed a write when it was last considered.
    is_considered: bool,
}

impl Paces {
    /// Returns whether the object may be written now. `version` is that of the stored object.
    pub(super) fn may_write(
        &mut self,
        name: &str,
        version: Option<&str>,
        urgency: Urgency,
        now: Instant,
    ) -> bool {
        let pace = self.of(name);
        pace.is_considered = true;
        pace.unused_since = None;
        let since = *pace.pending_since.get_or_insert(now);
        if pace.is_awaited(version, now) || !pace.writes.has_token(now.into_std()) {
            return false;
        }
        let may_again = pace.last_write.is_none_or(|last| now >= last + INTERVAL);
        urgency == Urgency::Urgent || (may_again && now >= since + PATIENCE)
    }

    /// Returns whether the object of an image that is not in use may be removed now.
    pub(super) fn may_remove(&mut self, name: &str, version: Option<&str>, now: Instant) -> bool {
        let pace = self.of(name);
        pace.is_considered = true;
        let since = *pace.unused_since.get_or_insert(now);
        !pace.is_awaited(version, now) && now >= since + UNUSED_FOR
    }

    /// Records a write; `version` is that of its result, `None` if the object was removed.
    pub(super) fn written(&mut self, name: &str, version: Option<String>, now: Instant) {
        let pace = self.of(name);
        pace.writes.take(now.into_std());
        pace.last_write = Some(now);
        pace.pending_since = None;
        pace.awaited = Some((version, now));
    }

    /// Forgets what was not considered since the last call, and has no recent write.
    pub(super) fn forget(&mut self, now: Instant) {
        self.by_name.retain(|_, pace| {
            if !std::mem::take(&mut pace.is_considered) {
                pace.pending_since = None;
                pace.unused_since = None;
            }
            let writes = INTERVAL * BURST;
            let is_recent = pace.last_write.is_some_and(|last| now < last + writes);
            is_recent || pace.pending_since.is_some() || pace.unused_since.is_some()
        });
    }

    fn of(&mut self, name: &str) -> &mut Pace {
        self.by_name.entry(name.to_owned()).or_insert_with(|| Pace {
            writes: TokenBucket::new(INTERVAL, BURST),
            last_write: None,
            pending_since: None,
            unused_since: None,
            awaited: None,
            is_considered: false,
        })
    }
}

impl Pace {
    fn is_awaited(&mut self, version: Option<&str>, now: Instant) -> bool {
        let is_awaited = self.awaited.as_ref().is_some_and(|(awaited, since)| {
            awaited.as_deref() != version && now < *since + AWAITED_FOR
        });
        if !is_awaited {
            self.awaited = None;
        }
        is_awaited
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn an_object_that_is_edited_all_the_time_gets_a_write_a_minute() {
        let (mut paces, start) = (Paces::default(), Instant::now());
        let mut writes = 0;
        for second in 0..600 {
            let now = start + SECOND * second;
            if paces.may_write("a", None, Urgency::Urgent, now) {
                paces.written("a", None, now);
                writes += 1;
            }
            paces.forget(now);
        }
        assert_eq!(writes, 5 + 9);
    }

    #[test]
    fn what_is_not_urgent_must_last_for_a_while() {
        let (mut paces, start) = (Paces::default(), Instant::now());
        let mut may_write = |second, is_pending| {
            let now = start + SECOND * second;
            let may_write = is_pending && paces.may_write("a", None, Urgency::Patient, now);
            paces.forget(now);
            may_write
        };
        assert_eq!([0, 29].map(|second| may_write(second, true)), [false; 2]);
        assert!(!may_write(30, false));
        assert_eq!(
            [31, 60, 61].map(|second| may_write(second, true)),
            [false, false, true]
        );
    }

    #[test]
    fn nothing_follows_an_own_write_before_the_watch_reports_it() {
        let (mut paces, start) = (Paces::default(), Instant::now());
        paces.written("a", Some("7".to_owned()), start);
        let mut may_write =
            |version| paces.may_write("a", version, Urgency::Urgent, start + SECOND);
        assert!(!may_write(Some("6")));
        assert!(may_write(Some("7")));
        paces.written("a", Some("8".to_owned()), start);
        assert!(paces.may_write("a", None, Urgency::Urgent, start + AWAITED_FOR));
    }

    #[test]
    fn an_image_that_is_used_again_keeps_its_object() {
        let (mut paces, start) = (Paces::default(), Instant::now());
        let mut may_remove = |second, is_unused| {
            let now = start + SECOND * second;
            let may_remove = is_unused && paces.may_remove("a", None, now);
            paces.forget(now);
            may_remove
        };
        assert_eq!([0, 29].map(|second| may_remove(second, true)), [false; 2]);
        assert!(!may_remove(30, false));
        assert_eq!(
            [31, 60, 61].map(|second| may_remove(second, true)),
            [false, false, true]
        );
    }
}
