//! Makes the Secret of one namespace as it should be.

use std::sync::Arc;

use mirror_contract::Mode;
use tokio::time::Instant;

use super::Inner;
use super::conflict_backoff::login_in;
use super::dockerconfigjson::Others;
use super::error::PullSecretError;
use super::login::DesiredLogin;
use super::object::{Seen, Version};
use super::plan::{Duty, How, Step, duty, renewal, step};
use crate::cluster::index::NamespaceState;
use crate::metrics::SecretWrite;

/// How often it is looked again after somebody else was faster. More often means a conflict, which a pause may end.
const ATTEMPTS: usize = 3;

impl Inner {
    /// Makes the Secret as it should be; with [`Mode::Peek`] only says whether that would succeed.
    pub(super) async fn bring(
        &self,
        namespace: &Arc<str>,
        mode: Mode,
    ) -> Result<(), PullSecretError> {
        let content = self.content();
        let mut seen = self.last_seen(namespace);
        for _ in 0..ATTEMPTS {
            let seen_now = seen.as_ref();
            let wanted = self.wanted(&self.state(), namespace, seen_now, content.as_deref());
            let step = if self.excluded.contains(namespace) {
                renewal(seen_now, wanted)
            } else {
                step(seen_now, wanted)
            };
            let before = (seen_now, content.as_deref());
            match self.take(step, namespace, before, mode).await {
                Ok(()) => return Ok(()),
                Err(PullSecretError::Contended { .. }) => {
                    seen = self.api.get(namespace).await?;
                    self.note(namespace, seen.clone());
                }
                Err(trouble) => return Err(trouble),
            }
        }
        Err(PullSecretError::Contended {
            name: self.api.name().to_owned(),
            namespace: namespace.to_string(),
        })
    }

    /// Removes the Secret, unless something happened that makes it needed.
    pub(super) async fn remove(&self, namespace: &Arc<str>) -> Result<(), PullSecretError> {
        let Some(version) = self.removable(namespace) else {
            return Ok(());
        };
        match self.api.delete(namespace, &version).await {
            // The watch tells what is there instead.
            Err(PullSecretError::Contended { .. }) => Ok(()),
            Ok(()) => {
                self.metrics.secret_written(SecretWrite::Removed);
                tracing::info!(%namespace, "removed the pull Secret, which nothing names any more");
                let mut state = self.state();
                state.there.lose(namespace, &version.uid);
                state
                    .conflicts
                    .forget(Instant::now(), |other| *other == **namespace);
                Ok(())
            }
            Err(trouble) => {
                self.metrics.secret_written(SecretWrite::Failed);
                Err(trouble)
            }
        }
    }

    /// What is known to be there. In a namespace that is being deleted nothing is known: the API server must say whether
    /// that is still so, and says it to who creates something.
    fn last_seen(&self, namespace: &str) -> Option<Seen> {
        let told = self.cluster.read(|index| index.namespace_state(namespace));
        if told == NamespaceState::Terminating {
            return None;
        }
        let state = self.state();
        state.there.get(namespace).map(|record| record.seen.clone())
    }

    /// Which version may be removed, as all that is known at this moment says.
    fn removable(&self, namespace: &str) -> Option<Version> {
        let (is_needed, knows_all) = self.cluster.read(|index| {
            let mut needed = index.namespaces_naming(self.place);
            (
                needed.any(|needed| needed == namespace),
                index.is_complete(),
            )
        });
        let state = self.state();
        let record = state.there.get(namespace)?;
        let wanted = self.any_login();
        let duty = duty(is_needed, Some(record), wanted, knows_all, Instant::now());
        (duty == Duty::Remove).then(|| record.seen.version.clone())
    }

    async fn take(
        &self,
        step: Step,
        namespace: &Arc<str>,
        (seen, content): (Option<&Seen>, Option<&DesiredLogin>),
        mode: Mode,
    ) -> Result<(), PullSecretError> {
        let (name, place) = (|| self.api.name().to_owned(), || namespace.to_string());
        let how = match step {
            Step::Nothing => return Ok(()),
            Step::LeaveAlone => {
                return Err(PullSecretError::Foreign {
                    name: name(),
                    namespace: place(),
                });
            }
            Step::Wait => {
                return Err(PullSecretError::Leaving {
                    name: name(),
                    namespace: place(),
                });
            }
            Step::Write(how) => how,
        };
        let content = content.ok_or(PullSecretError::NoCredentials)?;
        match (how, mode) {
            (How::Create, Mode::Peek) => {
                let config = content.encoded(Others::default());
                let could_be = self.api.create(namespace, &config, mode).await;
                could_be.map(drop)
            }
            // What is there would be made right.
            (_, Mode::Peek) => Ok(()),
            (how, Mode::Ensure) => {
                let written = self.write(how, namespace, seen, content).await?;
                self.record_write(namespace, seen, content);
                self.note(namespace, Some(written));
                Ok(())
            }
        }
    }

    /// Notes that it was written, and tells if others do not leave it so.
    fn record_write(&self, namespace: &Arc<str>, seen: Option<&Seen>, content: &DesiredLogin) {
        let (before, now) = (login_in(seen, &self.key), Instant::now());
        let conflicts = &mut self.state().conflicts;
        if conflicts.wrote(namespace, content.fingerprint(), before, now) {
            tracing::warn!(
                %namespace,
                name = self.api.name(),
                "somebody else keeps changing or deleting this Secret; it is made right less and less often"
            );
        }
    }

    async fn write(
        &self,
        how: How,
        namespace: &Arc<str>,
        seen: Option<&Seen>,
        content: &DesiredLogin,
    ) -> Result<Seen, PullSecretError> {
        let write = match how {
            How::Create => SecretWrite::Created,
            How::Change(_) => SecretWrite::Changed,
            How::Replace(_) => SecretWrite::Replaced,
        };
        let result = self.send(how, namespace, seen, content).await;
        match &result {
            Ok(_) => {
                self.metrics.secret_written(write);
                tracing::debug!(%namespace, ?write, "wrote the pull Secret");
            }
            // No failure, but a reason to look again.
            Err(PullSecretError::Contended { .. }) => {}
            Err(_) => self.metrics.secret_written(SecretWrite::Failed),
        }
        result
    }

    async fn send(
        &self,
        how: How,
        namespace: &Arc<str>,
        seen: Option<&Seen>,
        content: &DesiredLogin,
    ) -> Result<Seen, PullSecretError> {
        let (How::Change(version) | How::Replace(version)) = &how else {
            let config = content.encoded(Others::default());
            return self.api.create(namespace, &config, Mode::Ensure).await;
        };
        // They are not kept here, so they are read again.
        let held = seen.and_then(Seen::held);
        let others = if held.is_some_and(|held| held.has_others(&self.key)) {
            self.api.others(namespace, version, &self.key).await?
        } else {
            Others::default()
        };
        let config = content.encoded(others);
        if let How::Change(version) = &how {
            return self.api.change(namespace, &config, version).await;
        }
        self.api.delete(namespace, version).await?;
        self.state().there.lose(namespace, &version.uid);
        self.api.create(namespace, &config, Mode::Ensure).await
    }
}
