//! Where the content of the pull Secrets comes from: looked up again and again, since files are replaced and tokens end.

use std::sync::Arc;
use std::time::Duration;

use mirror_copy::{Credential, CredentialError, Credentials};
use secrecy::ExposeSecret as _;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use super::login::DesiredLogin;

/// Pause between two looks at a file. What is new must be in every namespace within a minute.
const LOOK_AGAIN: Duration = Duration::from_secs(15);
/// Pause between two calls of a credential helper. The shortest notice is that of Google's metadata server, which gives a
/// new token five minutes before the old one ends.
const ASK_AGAIN: Duration = Duration::from_mins(2);
/// Pause after a helper gave something new. One that keeps no cache makes a new token each time, all of which are good for
/// hours, and each is a write in every namespace.
const ASK_AFTER_NEWS: Duration = Duration::from_mins(10);

/// What is to be in the Secrets; `None` until it was read once.
pub(super) type Current = watch::Receiver<Option<Arc<DesiredLogin>>>;

/// The login for one registry.
#[derive(Clone, Debug)]
pub(super) struct CredentialSource {
    /// Where it is looked up.
    pub credentials: Credentials,
    /// The registry, named as in references.
    pub registry: String,
}

/// Why there is no login to be had.
#[derive(Debug, thiserror::Error)]
pub(super) enum SourceError {
    #[error(transparent)]
    Broken(#[from] CredentialError),
    #[error("--pull-docker-config holds no login for {registry}")]
    Absent { registry: String },
    #[error("the password for pulling from {registry} is empty")]
    Empty { registry: String },
}

impl CredentialSource {
    /// Looks it up.
    pub(super) async fn read(&self) -> Result<DesiredLogin, SourceError> {
        let registry = || self.registry.clone();
        let found = self.credentials.find(&self.registry).await?;
        let credential = found.ok_or_else(|| SourceError::Absent {
            registry: registry(),
        })?;
        // A file that is being replaced may be empty for a moment.
        if is_empty(&credential) {
            return Err(SourceError::Empty {
                registry: registry(),
            });
        }
        Ok(DesiredLogin::new(&self.registry, &credential))
    }

    /// Looks it up again and again, and publishes what is new. What cannot be read now changes nothing.
    pub(super) async fn follow(self, current: watch::Sender<Option<Arc<DesiredLogin>>>) {
        let mut is_failing = false;
        let mut helper_due = Instant::now();
        if current.borrow().is_some() {
            helper_due += rest(false, true);
            sleep(LOOK_AGAIN).await;
        }
        loop {
            let asks_helper = self.credentials.asks_helper(&self.registry).await;
            if !matches!(asks_helper, Ok(true)) || helper_due <= Instant::now() {
                let pause = match self.read().await {
                    Ok(content) => {
                        let had_one = current.borrow().is_some();
                        if std::mem::take(&mut is_failing) {
                            tracing::info!("the credentials for pulling can be read again");
                        }
                        rest(had_one, publish(&current, content))
                    }
                    Err(error) => {
                        if !std::mem::replace(&mut is_failing, true) {
                            tracing::warn!(%error, "cannot read the credentials for pulling; pull Secrets stay as they are");
                        }
                        if current.borrow().is_none() {
                            LOOK_AGAIN
                        } else {
                            ASK_AGAIN
                        }
                    }
                };
                helper_due = Instant::now() + pause;
            }
            sleep(LOOK_AGAIN).await;
        }
    }
}

/// How long a helper is left alone after an answer that `is_new`, or is the first one if there was none before. How old
/// the first one is cannot be told: a cached token may be about to be replaced.
fn rest(had_one: bool, is_new: bool) -> Duration {
    if had_one && is_new {
        ASK_AFTER_NEWS
    } else {
        ASK_AGAIN
    }
}

fn is_empty(credential: &Credential) -> bool {
    let secret = match credential {
        Credential::Login(login) => &login.password,
        Credential::IdentityToken(token) => token,
    };
    secret.expose_secret().is_empty()
}

/// `true` if it is not what is current already.
fn publish(current: &watch::Sender<Option<Arc<DesiredLogin>>>, content: DesiredLogin) -> bool {
    current.send_if_modified(|old| {
        let is_new = old
            .as_ref()
            .is_none_or(|old| old.fingerprint() != content.fingerprint());
        if is_new {
            *old = Some(Arc::new(content));
        }
        is_new
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Google's metadata server.
    const SHORTEST_NOTICE: Duration = Duration::from_mins(5);

    #[test]
    fn only_what_a_helper_just_made_is_known_to_be_fresh() {
        for (had_one, is_new) in [(false, true), (true, false)] {
            assert!(rest(had_one, is_new) + LOOK_AGAIN < SHORTEST_NOTICE);
        }
        assert_eq!(rest(true, true), ASK_AFTER_NEWS);
    }
}
