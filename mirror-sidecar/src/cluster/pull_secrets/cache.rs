//! Which Secrets of our name are there, as the watch and our own writes tell.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tokio::time::Instant;

use super::object::Seen;
use super::plan::IDLE_FOR;

/// The Secrets of our name, by namespace. There are as many as the cluster has, whatever anybody asks.
#[derive(Debug, Default)]
pub(super) struct Cache {
    records: BTreeMap<Arc<str>, Record>,
    epoch: u32,
    is_listed: bool,
}

/// What is known about one.
#[derive(Clone, Debug)]
pub(super) struct Record {
    pub seen: Seen,
    /// Since when nothing names it.
    pub idle_since: Option<Instant>,
    /// Which list it was told in last.
    epoch: u32,
}

impl Record {
    pub(super) fn new(seen: Seen, epoch: u32) -> Self {
        Self {
            seen,
            idle_since: None,
            epoch,
        }
    }

    /// From when on nobody needs it, unless something happens until then; `None` while something names it.
    pub(super) fn useless_from(&self) -> Option<Instant> {
        Some(self.idle_since? + IDLE_FOR)
    }
}

impl Cache {
    /// All of them will be told.
    pub(super) fn begin(&mut self) {
        self.epoch = self.epoch.wrapping_add(1);
    }

    /// They were told; those that were not exist no more.
    pub(super) fn end(&mut self) {
        let epoch = self.epoch;
        self.records.retain(|_, record| record.epoch == epoch);
        self.is_listed = true;
    }

    /// Whether all of them were told, at least once.
    pub(super) fn is_listed(&self) -> bool {
        self.is_listed
    }

    /// One is there, as the watch, an answer of the API server or our own write says.
    pub(super) fn see(&mut self, namespace: Arc<str>, seen: Seen) {
        let epoch = self.epoch;
        let record = self.records.entry(namespace);
        let record = record.or_insert_with(|| Record::new(seen.clone(), epoch));
        record.seen = seen;
        record.epoch = epoch;
    }

    /// One is gone; a successor of its name is not.
    pub(super) fn lose(&mut self, namespace: &str, uid: &str) {
        let is_it = |record: &Record| uid.is_empty() || &*record.seen.version.uid == uid;
        if self.records.get(namespace).is_some_and(is_it) {
            self.records.remove(namespace);
        }
    }

    /// None is there.
    pub(super) fn forget(&mut self, namespace: &str) {
        self.records.remove(namespace);
    }

    pub(super) fn get(&self, namespace: &str) -> Option<&Record> {
        self.records.get(namespace)
    }

    /// The uid of the one that is in the way.
    pub(super) fn foreign(&self, namespace: &str) -> Option<&str> {
        let foreign = self.get(namespace).filter(|record| !record.seen.is_ours());
        foreign.map(|record| &*record.seen.version.uid)
    }

    /// Notes which of them something names.
    pub(super) fn record_needs(&mut self, needed: &BTreeSet<Arc<str>>, now: Instant) {
        for (namespace, record) in &mut self.records {
            if needed.contains(namespace) {
                record.idle_since = None;
            } else {
                record.idle_since.get_or_insert(now);
            }
        }
    }

    /// Something may have named any of them without being seen.
    pub(super) fn doubt_needs(&mut self) {
        for record in self.records.values_mut() {
            record.idle_since = None;
        }
    }

    pub(super) fn namespaces(&self) -> impl Iterator<Item = &Arc<str>> {
        self.records.keys()
    }

    /// How many are ours.
    pub(super) fn ours(&self) -> usize {
        let records = self.records.values();
        records.filter(|record| record.seen.is_ours()).count()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::cluster::pull_secrets::object::{State, Version};

    fn seen(uid: &str) -> Seen {
        Seen {
            version: Version {
                uid: uid.into(),
                resource_version: "7".into(),
            },
            state: State::Foreign,
        }
    }

    #[test]
    fn a_list_forgets_what_it_does_not_tell_but_not_what_was_made_meanwhile() {
        let mut there = Cache::default();
        there.begin();
        there.see("gone".into(), seen("a"));
        there.see("stays".into(), seen("b"));
        there.end();
        assert!(there.is_listed());
        there.begin();
        there.see("made".into(), seen("c"));
        there.see("stays".into(), seen("b"));
        assert_eq!(there.namespaces().count(), 3);
        there.end();
        assert_eq!(
            there.namespaces().map(|name| &**name).collect::<Vec<_>>(),
            ["made", "stays"]
        );
    }

    #[test]
    fn the_time_without_a_need_begins_when_nothing_can_be_missed() {
        let (mut there, start) = (Cache::default(), Instant::now());
        there.see("shop".into(), seen("a"));
        let useless_from = |there: &Cache| there.get("shop").unwrap().useless_from();
        there.record_needs(&BTreeSet::new(), start);
        let later = start + Duration::from_mins(30);
        there.record_needs(&BTreeSet::new(), later);
        assert_eq!(useless_from(&there), Some(start + IDLE_FOR));
        there.doubt_needs();
        assert_eq!(useless_from(&there), None);
        there.record_needs(&BTreeSet::new(), later);
        assert_eq!(useless_from(&there), Some(later + IDLE_FOR));
        there.record_needs(&BTreeSet::from(["shop".into()]), later);
        assert_eq!(useless_from(&there), None);
    }

    #[test]
    fn the_end_of_a_predecessor_is_not_the_end_of_its_successor() {
        let mut there = Cache::default();
        there.see("shop".into(), seen("new"));
        there.lose("shop", "old");
        assert!(there.get("shop").is_some());
        there.lose("shop", "new");
        assert!(there.get("shop").is_none());
    }
}
