//! The next step for a Secret, as pure functions of its stored and its desired state and the time.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::cache::{Record, State, StoredSecret, Version};
use super::desired::Desired;
use super::dockerconfigjson::Fingerprint;
use crate::backoff::{Backoff, doubling, jittered};

/// Backoff after the first failure in a namespace.
const FIRST_BACKOFF: Duration = Duration::from_secs(1);
const MAX_BACKOFF: Duration = Duration::from_mins(5);
/// Time without an undone write that ends a conflict. Longer than any backoff in one.
const CONFLICT_ENDS_AFTER: Duration = Duration::from_mins(10);
/// A write that is undone within this time after the backoff lengthens the next backoff, a later one shortens it: two
/// programs in conflict undo each other's writes immediately, and people take longer.
const UNDONE_WITHIN: Duration = Duration::from_mins(1);
/// Undone writes that are a conflict. A single one may be a mistake.
const REPORT_AT: u32 = 2;

/// The step that brings a Secret to the desired state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Nothing,
    Write(Write),
    /// The previous Secret is still being deleted.
    Wait,
    /// The Secret is not managed here.
    LeaveAlone,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Write {
    Create,
    Change(Version),
    /// This version cannot be changed, so it is deleted and created.
    Replace(Version),
}

/// The next action of the controller in a namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    Nothing,
    After(Instant),
    Apply,
    Remove,
    ReportForeign,
}

/// Backoff of writes that another program undoes: another sidecar with another login, or a tool that deletes objects that
/// it does not know.
///
/// A write that is undone is repeated immediately, and then with exponential backoff, until nothing was undone for a while.
/// The backoff counts from our own last write, so a Secret that is seldom changed never waits. Neither does a write because
/// of new credentials.
#[derive(Debug, Default)]
pub(super) struct ConflictBackoff(HashMap<Arc<str>, Conflict>);

#[derive(Clone, Copy, Debug)]
struct Conflict {
    /// The logins of the last write.
    logins: Fingerprint,
    written: Instant,
    /// Number of writes that were undone.
    undone: u32,
    /// The exponent of the backoff.
    failures: u32,
    /// End of the backoff.
    until: Instant,
}

/// Returns the next step for a Secret. Nothing is created without a login.
pub(super) fn step(stored: Option<&StoredSecret>, desired: &Desired<'_>) -> Step {
    let Some(StoredSecret { version, state }) = stored else {
        return if desired.can_create() {
            Step::Write(Write::Create)
        } else {
            Step::Nothing
        };
    };
    match state {
        State::Foreign => Step::LeaveAlone,
        State::Leaving => Step::Wait,
        State::WrongType if desired.can_create() => Step::Write(Write::Replace(version.clone())),
        State::WrongType => Step::Nothing,
        State::Ours { held, .. } if desired.is_met_by(held) => Step::Nothing,
        State::Ours {
            is_immutable: true, ..
        } => Step::Write(Write::Replace(version.clone())),
        State::Ours { .. } => Step::Write(Write::Change(version.clone())),
    }
}

/// Returns the next step in an excluded namespace. A login that was written before the namespace was excluded is kept
/// current, since it would expire one day, and Pods would fail. Nothing else is done.
pub(super) fn renewal(stored: Option<&StoredSecret>, desired: &Desired<'_>) -> Step {
    match step(stored, desired) {
        renewal @ Step::Write(Write::Change(_)) => renewal,
        _ => Step::Nothing,
    }
}

/// Returns the next action in a namespace. A Secret is removed only if all workloads are known, and none names it.
pub(super) fn action(
    is_needed: bool,
    record: Option<&Record>,
    desired: &Desired<'_>,
    knows_all: bool,
    now: Instant,
) -> Action {
    let step = step(record.map(|record| &record.secret), desired);
    if is_needed {
        return match step {
            Step::Nothing | Step::Wait => Action::Nothing,
            Step::LeaveAlone => Action::ReportForeign,
            Step::Write(_) => Action::Apply,
        };
    }
    let Some(record) = record.filter(|record| record.secret.is_ours()) else {
        return Action::Nothing;
    };
    match (knows_all.then(|| record.expires()).flatten(), step) {
        (_, Step::Wait) => Action::Nothing,
        (Some(from), _) if from <= now => Action::Remove,
        (_, Step::Write(_)) => Action::Apply,
        (Some(from), _) => Action::After(from),
        (None, _) => Action::Nothing,
    }
}

/// The backoff of a namespace in which jobs fail.
pub(super) fn failure_backoff() -> Backoff {
    Backoff::new(FIRST_BACKOFF, MAX_BACKOFF).with_jitter()
}

impl ConflictBackoff {
    /// Records that logins replaced `before`; returns whether a conflict must be reported now.
    pub(super) fn record_write(
        &mut self,
        namespace: &Arc<str>,
        logins: Fingerprint,
        before: Option<Fingerprint>,
        now: Instant,
    ) -> bool {
        let last = self.0.remove(namespace);
        let last = last.filter(|last| now < last.written + CONFLICT_ENDS_AFTER);
        let is_undone = last.is_some_and(|last| before != Some(last.logins));
        let mut conflict = Conflict {
            logins,
            written: now,
            ..last.unwrap_or(Conflict {
                logins,
                written: now,
                undone: 0,
                failures: 0,
                until: now,
            })
        };
        if is_undone {
            conflict.record_undone(now);
        }
        self.0.insert(Arc::clone(namespace), conflict);
        is_undone && conflict.undone == REPORT_AT
    }

    /// The end of the backoff in a namespace in which these logins are stored.
    pub(super) fn until(
        &self,
        namespace: &str,
        stored: Option<Fingerprint>,
        now: Instant,
    ) -> Option<Instant> {
        let conflict = self.0.get(namespace)?;
        let is_ours = stored == Some(conflict.logins);
        (conflict.until > now && !is_ours).then_some(conflict.until)
    }

    /// Removes conflicts that ended, and those whose namespace ended.
    pub(super) fn prune(&mut self, now: Instant, is_over: impl Fn(&str) -> bool) {
        self.0.retain(|namespace, conflict| {
            now < conflict.written + CONFLICT_ENDS_AFTER && !is_over(namespace)
        });
    }

    pub(super) fn namespaces(&self) -> impl Iterator<Item = &Arc<str>> {
        self.0.keys()
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Conflict {
    fn record_undone(&mut self, now: Instant) {
        self.undone = self.undone.saturating_add(1);
        self.failures = if now < self.until + UNDONE_WITHIN {
            self.failures.saturating_add(1)
        } else {
            self.failures.saturating_sub(1)
        };
        self.until = match self.failures {
            0 => now,
            failures => now + jittered(doubling(FIRST_BACKOFF, MAX_BACKOFF, failures)),
        };
    }
}

#[cfg(test)]
mod tests;
