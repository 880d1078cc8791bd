//! The results of probes and uploads, and what follows from them. No I/O; the time is passed in.

use std::time::Duration;

use tokio::time::Instant;

/// Failed probes in a row that count as an outage, if one transient error can cause the failure.
const OUTAGE_FAILURES: u32 = 2;

/// How long denied uploads count. Images are retried more often while they are needed.
const DENIED_FOR: Duration = Duration::from_hours(1);

/// Why the backup registry cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    pub kind: TroubleKind,
    /// The error, without secrets.
    pub reason: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TroubleKind {
    /// No response, or not that of a registry.
    Unavailable,
    Certificate,
    Login,
    /// The login is accepted, but uploads are denied.
    Uploads,
}

#[derive(Debug, Default)]
pub(super) struct State {
    /// Failed probes in a row.
    failures: u32,
    probed: Option<Trouble>,
    /// The first repository whose uploads were denied. Permissions may differ between repositories.
    denied: Option<Denied>,
    /// The trouble that was last reported.
    reported: Option<TroubleKind>,
}

#[derive(Debug)]
struct Denied {
    repository: String,
    reason: String,
    until: Instant,
}

/// A change to report.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Change {
    Trouble(Trouble),
    Recovered,
}

impl State {
    /// Returns whether the next probe is not urgent.
    pub(super) fn is_settled(&self) -> bool {
        self.failures == 0
    }

    pub(super) fn probed(&mut self, result: Result<(), Trouble>, now: Instant) -> Option<Change> {
        self.denied.take_if(|denied| denied.until <= now);
        match result {
            Ok(()) => {
                self.failures = 0;
                self.probed = None;
            }
            Err(trouble) => {
                self.failures = self.failures.saturating_add(1);
                if trouble.kind.is_definite() || self.failures >= OUTAGE_FAILURES {
                    self.probed = Some(trouble);
                }
            }
        }
        self.change()
    }

    pub(super) fn upload_denied(
        &mut self,
        repository: &str,
        reason: String,
        now: Instant,
    ) -> Option<Change> {
        let denied = self.denied.get_or_insert_with(|| Denied {
            repository: repository.to_owned(),
            reason,
            until: now,
        });
        denied.until = now + DENIED_FOR;
        self.change()
    }

    pub(super) fn uploaded(&mut self, repository: &str) -> Option<Change> {
        self.denied
            .take_if(|denied| denied.repository == repository);
        self.change()
    }

    /// Returns the change to report, if any.
    fn change(&mut self) -> Option<Change> {
        let denied = self.denied.as_ref().map(|denied| Trouble {
            kind: TroubleKind::Uploads,
            reason: denied.reason.clone(),
        });
        let trouble = self.probed.clone().or(denied);
        let kind = trouble.as_ref().map(|trouble| trouble.kind);
        let before = std::mem::replace(&mut self.reported, kind);
        if before == kind {
            return None;
        }
        Some(trouble.map_or(Change::Recovered, Change::Trouble))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trouble(kind: TroubleKind) -> Trouble {
        Trouble {
            kind,
            reason: "a reason".to_owned(),
        }
    }

    fn kinds(changes: impl IntoIterator<Item = Option<Change>>) -> Vec<Option<TroubleKind>> {
        let changes = changes.into_iter().flatten();
        changes
            .map(|change| match change {
                Change::Trouble(trouble) => Some(trouble.kind),
                Change::Recovered => None,
            })
            .collect()
    }

    #[tokio::test(start_paused = true)]
    async fn each_change_is_reported_once() {
        use TroubleKind::{Certificate, Login, Unavailable};
        let mut state = State::default();
        let now = Instant::now();
        let probes = [
            Ok(()),
            // A transient error.
            Err(Unavailable),
            Ok(()),
            Err(Unavailable),
            Err(Unavailable),
            Err(Unavailable),
            Err(Login),
            Err(Login),
            Ok(()),
            Ok(()),
            Err(Certificate),
        ];
        let changes = probes.map(|probe| state.probed(probe.map_err(trouble), now));
        let expected = [Some(Unavailable), Some(Login), None, Some(Certificate)];
        assert_eq!(kinds(changes), expected);
    }

    #[tokio::test(start_paused = true)]
    async fn denied_uploads_are_over_when_the_same_one_is_accepted_or_none_was_denied_for_long() {
        let mut state = State::default();
        let now = Instant::now();
        let denied = |state: &mut State, repository| {
            state.upload_denied(repository, "a reason".to_owned(), now)
        };
        let changes = [
            denied(&mut state, "copies/a"),
            // Another repository may have other permissions.
            state.uploaded("copies/b"),
            denied(&mut state, "copies/c"),
            state.probed(Ok(()), now),
            state.uploaded("copies/a"),
            denied(&mut state, "copies/a"),
            state.probed(Ok(()), now + DENIED_FOR),
        ];
        let uploads = Some(TroubleKind::Uploads);
        assert_eq!(kinds(changes), [uploads, None, uploads, None]);
    }

    #[tokio::test(start_paused = true)]
    async fn denied_uploads_are_reported_again_after_an_outage() {
        let mut state = State::default();
        let now = Instant::now();
        let login = || Err(trouble(TroubleKind::Login));
        let changes = [
            state.upload_denied("copies/a", "a reason".to_owned(), now),
            state.probed(login(), now),
            state.probed(Ok(()), now),
        ];
        let expected = [
            TroubleKind::Uploads,
            TroubleKind::Login,
            TroubleKind::Uploads,
        ]
        .map(Some);
        assert_eq!(kinds(changes), expected);
    }
}
