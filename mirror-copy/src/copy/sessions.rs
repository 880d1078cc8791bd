//! Upload sessions of a failed copy: they are cancelled, so that the target does not keep their content.

use crate::lock::lock;
use crate::registry::{Repository, Session};
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::time::timeout;

/// Timeout of cancelling all sessions; registries expire those that are left open.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// Sessions whose transfer was cancelled because another part of the copy failed.
#[derive(Default)]
pub(super) struct Abandoned(Mutex<Vec<Arc<Session>>>);

/// A session in use. It counts as abandoned if it is dropped before [`Self::done`].
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

    /// The session was closed.
    pub(super) fn done(mut self) {
        self.is_done = true;
    }
}

impl Drop for InUse<'_> {
    fn drop(&mut self) {
        if !self.is_done {
            let mut abandoned = lock(&self.abandoned.0);
            abandoned.push(Arc::clone(&self.session));
        }
    }
}

impl Abandoned {
    /// Cancels all abandoned sessions. Failures are ignored.
    pub(super) async fn close(&self, target: &Repository) {
        let sessions = {
            let mut abandoned = lock(&self.0);
            std::mem::take(&mut *abandoned)
        };
        let mut closing: FuturesUnordered<_> = sessions
            .iter()
            .map(|session| target.cancel(session))
            .collect();
        let all = async { while closing.next().await.is_some() {} };
        if timeout(CLOSE_TIMEOUT, all).await.is_err() {
            tracing::debug!("upload sessions left to expire");
        }
    }
}
