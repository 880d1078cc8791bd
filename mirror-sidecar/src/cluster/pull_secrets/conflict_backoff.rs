//! Others that undo what is written here: another sidecar with another login, or a tool that deletes what it does not know.
//!
//! A write that is undone is repeated at once, and then after growing pauses, until there was peace for a while. Pauses
//! count from our own last write, so that what is seldom undone never waits. Neither does what we replace by ourselves,
//! because the credentials are new.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::controller::pause;
use super::login::Fingerprint;
use super::object::Seen;

/// Peace that ends a conflict. Longer than any pause in one.
const PEACE: Duration = Duration::from_mins(10);
/// What is undone within this time after the pause makes the next pause longer, else shorter: in a conflict of two programs
/// it is undone all the while, and what people do takes longer.
const RESPITE: Duration = Duration::from_mins(1);
/// Once may be a mistake of somebody. Twice within minutes is a conflict.
const TELL_AT: u32 = 2;

/// The namespaces in which something was written lately.
#[derive(Debug, Default)]
pub(super) struct ConflictBackoff(HashMap<Arc<str>, Conflict>);

#[derive(Clone, Copy, Debug)]
struct Conflict {
    /// What was written last.
    login: Fingerprint,
    written: Instant,
    /// How often what was written was undone.
    undone: u32,
    /// How long the pause is: one of so many failures.
    step: u32,
    /// End of the pause.
    until: Instant,
}

/// The login in a Secret that is ours, if it is usable.
pub(super) fn login_in(seen: Option<&Seen>, key: &str) -> Option<Fingerprint> {
    seen?.held()?.usable(key)
}

impl ConflictBackoff {
    /// We wrote a login where this one was before; `true` if others must be told of a conflict now.
    pub(super) fn wrote(
        &mut self,
        namespace: &Arc<str>,
        login: Fingerprint,
        before: Option<Fingerprint>,
        now: Instant,
    ) -> bool {
        let last = self.0.remove(namespace);
        let last = last.filter(|last| now < last.written + PEACE);
        let is_undone = last.is_some_and(|last| before != Some(last.login));
        let conflict = match last {
            Some(last) if is_undone => last.goes_on(login, now),
            Some(last) => Conflict {
                login,
                written: now,
                ..last
            },
            None => Conflict {
                login,
                written: now,
                undone: 0,
                step: 0,
                until: now,
            },
        };
        self.0.insert(Arc::clone(namespace), conflict);
        is_undone && conflict.undone == TELL_AT
    }

    /// The end of the pause in a namespace in which this login is now; `None` if there is none.
    pub(super) fn until(
        &self,
        namespace: &str,
        there: Option<Fingerprint>,
        now: Instant,
    ) -> Option<Instant> {
        let conflict = self.0.get(namespace)?;
        let has_its_way = there == Some(conflict.login);
        (conflict.until > now && !has_its_way).then_some(conflict.until)
    }

    /// Forgets what ended, in peace or with its namespace.
    pub(super) fn forget(&mut self, now: Instant, is_over: impl Fn(&str) -> bool) {
        self.0
            .retain(|namespace, conflict| now < conflict.written + PEACE && !is_over(namespace));
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
    fn goes_on(self, login: Fingerprint, now: Instant) -> Self {
        let step = if now < self.until + RESPITE {
            self.step.saturating_add(1)
        } else {
            self.step.saturating_sub(1)
        };
        Self {
            login,
            written: now,
            undone: self.undone.saturating_add(1),
            step,
            until: if step == 0 { now } else { now + pause(step) },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const NEARLY_PEACE: Duration = Duration::from_secs(599);

    fn ours() -> Fingerprint {
        Fingerprint::of(b"ours")
    }

    fn theirs() -> Fingerprint {
        Fingerprint::of(b"theirs")
    }

    #[test]
    fn it_is_told_once_and_grows_slow_until_there_is_peace() {
        let (mut conflicts, shop) = (ConflictBackoff::default(), Arc::from("shop"));
        let mut now = Instant::now();
        assert!(!conflicts.wrote(&shop, ours(), None, now));
        assert_eq!(
            conflicts.until("shop", Some(theirs()), now),
            None,
            "the first is mended"
        );
        let mut told = Vec::new();
        for _ in 0..20 {
            told.push(conflicts.wrote(&shop, ours(), Some(theirs()), now));
            assert_eq!(conflicts.until("shop", Some(ours()), now), None);
            let until = conflicts.until("shop", Some(theirs()), now).unwrap();
            assert_eq!(
                conflicts.until("shop", None, now),
                Some(until),
                "also if it is gone"
            );
            assert!(until - now < PEACE);
            now = until;
            assert_eq!(conflicts.until("shop", Some(theirs()), now), None);
        }
        assert_eq!(told.iter().filter(|told| **told).count(), 1, "{told:?}");
        assert!(told[1], "{told:?}");
        now += PEACE;
        assert!(!conflicts.wrote(&shop, ours(), Some(theirs()), now));
        assert_eq!(conflicts.until("shop", Some(theirs()), now), None);
    }

    #[test]
    fn new_credentials_are_no_quarrel_and_end_none() {
        let (mut conflicts, shop) = (ConflictBackoff::default(), Arc::from("shop"));
        let now = Instant::now();
        conflicts.wrote(&shop, ours(), None, now);
        let newer = Fingerprint::of(b"newer");
        conflicts.wrote(&shop, newer, Some(ours()), now);
        assert_eq!(conflicts.until("shop", Some(theirs()), now), None);
        conflicts.wrote(&shop, newer, Some(theirs()), now);
        let until = conflicts.until("shop", Some(theirs()), now);
        assert!(until.is_some());
        conflicts.wrote(&shop, ours(), Some(newer), now);
        assert_eq!(conflicts.until("shop", Some(theirs()), now), until);
    }

    #[test]
    fn what_is_seldom_undone_is_mended_at_once_and_told_too() {
        let (mut conflicts, shop) = (ConflictBackoff::default(), Arc::from("shop"));
        let mut now = Instant::now();
        conflicts.wrote(&shop, ours(), None, now);
        for _ in 0..4 {
            conflicts.wrote(&shop, ours(), None, now);
        }
        let mut told = 0;
        for _ in 0..20 {
            now += NEARLY_PEACE;
            assert_eq!(conflicts.until("shop", None, now), None);
            told += u32::from(conflicts.wrote(&shop, ours(), None, now));
        }
        assert_eq!(conflicts.until("shop", None, now), None, "no pause by now");
        assert_eq!(told, 0, "that was told before");
        now += PEACE;
        for undone in 0..3 {
            let is_told = conflicts.wrote(&shop, ours(), None, now);
            assert_eq!(is_told, undone == 2);
            now += NEARLY_PEACE;
        }
    }

    #[test]
    fn what_is_over_is_forgotten() {
        let mut conflicts = ConflictBackoff::default();
        let now = Instant::now();
        for namespace in ["shop", "ending"] {
            conflicts.wrote(&namespace.into(), ours(), None, now);
        }
        conflicts.forget(now + SECOND, |namespace| namespace == "ending");
        assert_eq!(conflicts.0.len(), 1);
        conflicts.forget(now + PEACE, |_| false);
        assert!(conflicts.is_empty());
    }
}
