//! Which kinds were told completely, and in which list an object was told last.

use std::collections::BTreeMap;

use crate::cluster::workload_kind::Kind;

/// How far what is told about a kind can be relied on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SyncState {
    /// It was not told completely yet.
    #[default]
    Pending,
    /// It was told completely, and changes are told as they come. This stays so while it is told once more.
    Complete,
    /// The API server does not know the kind.
    NotServed,
}

#[derive(Debug, Default)]
pub(super) struct Lists(BTreeMap<Kind, List>);

#[derive(Debug, Default)]
struct List {
    state: SyncState,
    /// Whether changes are not told at the moment.
    has_trouble: bool,
    /// Which list this is. It may start again at 0 some day: only neighbours must differ.
    epoch: u32,
}

impl Lists {
    pub(super) fn begin(&mut self, kind: Kind) {
        let list = self.0.entry(kind).or_default();
        list.epoch = list.epoch.wrapping_add(1);
    }

    /// `true` if that is news.
    pub(super) fn end(&mut self, kind: Kind) -> bool {
        self.set(kind, SyncState::Complete)
    }

    /// `true` if that is news. A kind that was told before stays as it was told: were it forgotten because of one wrong
    /// answer, Secrets that are in use would seem useless.
    pub(super) fn not_served(&mut self, kind: Kind) -> bool {
        self.state(kind) == SyncState::Pending && self.set(kind, SyncState::NotServed)
    }

    pub(super) fn state(&self, kind: Kind) -> SyncState {
        self.0
            .get(&kind)
            .map_or_else(SyncState::default, |list| list.state)
    }

    /// `true` if that is news.
    pub(super) fn trouble(&mut self, kind: Kind, has_trouble: bool) -> bool {
        let list = self.0.entry(kind).or_default();
        std::mem::replace(&mut list.has_trouble, has_trouble) != has_trouble
    }

    pub(super) fn has_trouble(&self, kind: Kind) -> bool {
        self.0.get(&kind).is_some_and(|list| list.has_trouble)
    }

    pub(super) fn epoch(&self, kind: Kind) -> u32 {
        self.0.get(&kind).map_or(0, |list| list.epoch)
    }

    fn set(&mut self, kind: Kind, state: SyncState) -> bool {
        let list = self.0.entry(kind).or_default();
        let is_news = list.state != state;
        list.state = state;
        is_news
    }
}
