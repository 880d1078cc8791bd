//! Which kinds were listed completely, and the number of the list in progress.

use std::collections::BTreeMap;

use crate::cluster::workload_kind::Kind;

/// How far the index can be relied on for a kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SyncState {
    /// Not listed completely yet.
    #[default]
    Pending,
    /// Listed completely and watched since. Another list does not change this.
    Complete,
    /// The API server does not serve the kind.
    NotServed,
}

#[derive(Debug, Default)]
pub(super) struct SyncStates(BTreeMap<Kind, KindState>);

#[derive(Debug, Default)]
struct KindState {
    state: SyncState,
    is_failing: bool,
    /// Number of the list. It may wrap around: only neighbours must differ.
    epoch: u32,
}

impl SyncStates {
    pub(super) fn state(&self, kind: Kind) -> SyncState {
        self.0
            .get(&kind)
            .map_or_else(SyncState::default, |kind| kind.state)
    }

    pub(super) fn is_failing(&self, kind: Kind) -> bool {
        self.0.get(&kind).is_some_and(|kind| kind.is_failing)
    }

    pub(super) fn epoch(&self, kind: Kind) -> u32 {
        self.0.get(&kind).map_or(0, |kind| kind.epoch)
    }

    /// Begins a list.
    pub(super) fn init(&mut self, kind: Kind) {
        let kind = self.0.entry(kind).or_default();
        kind.epoch = kind.epoch.wrapping_add(1);
    }

    /// Returns `true` if the state changed.
    pub(super) fn set(&mut self, kind: Kind, state: SyncState) -> bool {
        let kind = self.0.entry(kind).or_default();
        std::mem::replace(&mut kind.state, state) != state
    }

    /// Returns `true` if the state changed. A kind that was listed stays complete: if one wrong response made it unknown,
    /// Secrets in use would seem unused.
    pub(super) fn set_not_served(&mut self, kind: Kind) -> bool {
        self.state(kind) == SyncState::Pending && self.set(kind, SyncState::NotServed)
    }

    /// Returns `true` if that changed.
    pub(super) fn set_failing(&mut self, kind: Kind, is_failing: bool) -> bool {
        let kind = self.0.entry(kind).or_default();
        std::mem::replace(&mut kind.is_failing, is_failing) != is_failing
    }
}
