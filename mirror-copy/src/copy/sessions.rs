//! Upload sessions of a copy that failed: they are closed, so that the target need not keep what was sent.

use crate::registry::{Repository, Session};
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::timeout;

/// How long closing all sessions may take; registries expire what is left open.
const PATIENCE: Duration = Duration::from_secs(2);

/// Sessions whose transfer was given up because something else failed.
#[derive(Default)]
pub(super) struct Abandoned(Mutex<Vec<Arc<Session>>>);

/// A session in use. Dropped before [`Self::done`] it counts as abandoned.
pub(super) struct InUse<'a> {
    session: Arc<Session>,
    is_done: bool,
    abandoned: &'a Abandoned,
}

impl Abandoned {
    pub(super) fn unless_done(&self, session: Session) -> InUse<'_> {
        InUse {
            session: Arc::new(session),
            is_done: false,
            abandoned: self,
        }
    }
}

impl InUse<'_> {
    pub(super) fn session(&self) -> &Session {
        &self.session
    }

    /// The session needs no closing any more.
    pub(super) fn done(mut self) {
        self.is_done = true;
    }
}

impl Drop for InUse<'_> {
    fn drop(&mut self) {
        if !self.is_done {
            let mut abandoned = self
                .abandoned
                .0
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            abandoned.push(Arc::clone(&self.session));
        }
    }
}

impl Abandoned {
    /// Closes what was abandoned, as well as it goes.
    pub(super) async fn close(&self, target: &Repository) {
        let sessions = {
            let mut abandoned = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::take(&mut *abandoned)
        };
        let mut closing: FuturesUnordered<_> = sessions
            .iter()
            .map(|session| target.cancel(session))
            .collect();
        let all = async { while closing.next().await.is_some() {} };
        if timeout(PATIENCE, all).await.is_err() {
            tracing::debug!("upload sessions left to expire");
        }
    }
}
