//! The interface of the pull Secrets, and the credentials in them.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use mirror_contract::{Mode, PullSecretStatus, Refusal, RefusalKind};
use mirror_copy::{Credential, CredentialError, Credentials};
use secrecy::ExposeSecret as _;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::apply::{Applier, Known, SecretApi};
use super::controller::{Controller, Jobs};
use super::dockerconfigjson::{DesiredLogin, key_of};
use super::metrics::SecretMetrics;
use crate::cluster::api_server::ApiServer;
use crate::cluster::events::Events;
use crate::cluster::excluded::ExcludedNamespaces;
use crate::cluster::index::CURRENT_NAME;
use crate::cluster::replicas::Replicas;
use crate::cluster::shared_index::SharedIndex;
use crate::cluster::supervision::supervise;
use crate::exit::UsageError;
use crate::lookup::ANSWER_WITHIN;

/// How long the start waits for the credentials. A credential helper may take longer, and then the start continues.
const START_TIMEOUT: Duration = Duration::from_secs(5);
/// Interval between reads of a file. New credentials must be in every namespace within a minute.
const READ_INTERVAL: Duration = Duration::from_secs(15);
/// Interval between calls of a credential helper. The shortest notice is that of Google's metadata server, which returns a
/// new token five minutes before the old one expires.
const HELPER_INTERVAL: Duration = Duration::from_mins(2);
/// Interval after a new login. A helper without a cache creates a new token each time, all of which are valid for
/// hours, and each is a write in every namespace.
const HELPER_PAUSE_AFTER_NEW: Duration = Duration::from_mins(10);

/// The pull Secret that Pods need for copies, and the namespaces where it is used.
pub struct PullSecrets {
    pub provision: Provision,
    /// Namespaces in which workloads get no pull Secret.
    pub excluded_namespaces: ExcludedNamespaces,
}

/// The origin of the pull Secret.
#[derive(Clone)]
pub enum Provision {
    /// Copies can be pulled without one.
    NotNeeded,
    /// The Secret of this name is in every namespace.
    Existing(String),
    /// It is created where it is needed.
    Managed(ManagedSecrets),
}

/// The pull Secrets that are managed here. Clones share them.
#[derive(Clone)]
pub struct ManagedSecrets(pub(super) Arc<Controller>);

/// Settings and collaborators of [`ManagedSecrets`].
pub struct Setup {
    pub name: String,
    /// Former names: where a workload lists one, the Secret is kept up to date, but no response names it.
    pub former_names: Vec<String>,
    /// Contain the login for the backup registry.
    pub credentials: Credentials,
    /// The backup registry, named as in image references.
    pub registry: String,
    pub excluded_namespaces: ExcludedNamespaces,
    pub cluster: Arc<SharedIndex>,
    pub replicas: Replicas,
    pub events: Events,
    pub metrics: SecretMetrics,
}

/// The login for one registry.
#[derive(Clone, Debug)]
pub(super) struct CredentialSource {
    pub credentials: Credentials,
    /// Named as in image references.
    pub registry: String,
}

#[derive(Debug, thiserror::Error)]
pub(super) enum SourceError {
    #[error(transparent)]
    Broken(#[from] CredentialError),
    #[error("--pull-docker-config holds no login for {registry}; add one")]
    Absent { registry: String },
    #[error("the password for pulling from {registry} is empty")]
    Empty { registry: String },
}

impl Provision {
    /// The Secret of this name that exists already, if one is needed.
    #[must_use]
    pub fn given(name: Option<&str>) -> Self {
        name.map_or(Self::NotNeeded, |name| Self::Existing(name.to_owned()))
    }
}

impl PullSecrets {
    /// The name of the Secret, if one is needed.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        match &self.provision {
            Provision::NotNeeded => None,
            Provision::Existing(name) => Some(name),
            Provision::Managed(secrets) => Some(secrets.name()),
        }
    }

    /// Returns what Pods in a namespace need; see [`ManagedSecrets::request`].
    ///
    /// # Errors
    /// [`Refusal`] is the response for now.
    pub async fn request(
        &self,
        namespace: &str,
        mode: Mode,
    ) -> Result<PullSecretStatus<'_>, Refusal<'static>> {
        let Some(name) = self.name() else {
            return Ok(PullSecretStatus::NotNeeded);
        };
        if self.excluded_namespaces.contains(namespace) {
            let reason = format!("namespace {namespace} is excluded");
            return Err(Refusal::new(RefusalKind::Failed, &reason));
        }
        if let Provision::Managed(secrets) = &self.provision {
            secrets.request(namespace, mode).await?;
        }
        Ok(PullSecretStatus::Ready { name: name.into() })
    }
}

impl ManagedSecrets {
    /// Keeps the Secrets in the background, until `stop`.
    ///
    /// # Errors
    /// [`UsageError`] when the credentials hold no login for the registry.
    pub async fn start(
        setup: Setup,
        server: impl Into<ApiServer>,
        stop: CancellationToken,
    ) -> Result<Self, UsageError> {
        let key = key_of(&setup.registry).to_owned();
        let source = CredentialSource {
            credentials: setup.credentials,
            registry: setup.registry,
        };
        let first = match timeout(START_TIMEOUT, source.read()).await {
            Ok(Ok(login)) => Some(Arc::new(login)),
            Ok(Err(error @ SourceError::Absent { .. })) => {
                return Err(UsageError(error.to_string()));
            }
            // Retried below; a failure is logged then.
            Ok(Err(_)) | Err(_) => None,
        };
        let sender = watch::Sender::new(first);
        let server = server.into();
        let start = |name_index: usize, name: String| {
            let controller = Arc::new(Controller {
                applier: Applier {
                    api: SecretApi {
                        server: server.clone(),
                        name,
                    },
                    name_index,
                    key: key.clone(),
                    login: sender.subscribe(),
                    excluded: setup.excluded_namespaces.clone(),
                    cluster: Arc::clone(&setup.cluster),
                    replicas: setup.replicas.clone(),
                    metrics: setup.metrics.clone(),
                    known: Mutex::new(Known::default()),
                    changed: watch::Sender::new(()),
                },
                events: setup.events.clone(),
                jobs: Mutex::new(Jobs::default()),
            });
            controller.start(stop.clone());
            controller
        };
        let present = start(CURRENT_NAME, setup.name);
        for (index, name) in setup.former_names.into_iter().enumerate() {
            start(CURRENT_NAME + 1 + index, name);
        }
        let follow = supervise(&["the credentials for pulling"], move |_| {
            source.clone().follow(sender.clone())
        });
        tokio::spawn(stop.run_until_cancelled_owned(follow));
        Ok(Self(present))
    }

    #[must_use]
    pub fn name(&self) -> &str {
        &self.0.applier.api.name
    }

    /// Checks that the Secret is in a namespace, and creates it if not; with [`Mode::Peek`] it is enough that it could be
    /// created. Returns within [`ANSWER_WITHIN`]; the work continues.
    ///
    /// # Errors
    /// [`Refusal`] is the response for now.
    pub async fn request(&self, namespace: &str, mode: Mode) -> Result<(), Refusal<'static>> {
        let request = Arc::clone(&self.0).request(namespace.into(), mode);
        match timeout(ANSWER_WITHIN, request).await {
            Ok(result) => result.map_err(|error| error.refusal()),
            Err(_) => Err(Refusal::new(
                RefusalKind::Pending,
                "the pull Secret is being created",
            )),
        }
    }
}

impl CredentialSource {
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

    /// Reads the login periodically, and publishes new ones. A failed read changes nothing.
    async fn follow(self, current: watch::Sender<Option<Arc<DesiredLogin>>>) {
        let mut is_failing = false;
        let mut helper_due = Instant::now();
        if current.borrow().is_some() {
            helper_due += helper_pause(false, true);
            sleep(READ_INTERVAL).await;
        }
        loop {
            let asks_helper = self.credentials.asks_helper(&self.registry).await;
            if !matches!(asks_helper, Ok(true)) || helper_due <= Instant::now() {
                let had_one = current.borrow().is_some();
                let pause = match self.read().await {
                    Ok(login) => {
                        if std::mem::take(&mut is_failing) {
                            tracing::info!("read the credentials for pulling again");
                        }
                        helper_pause(had_one, publish(&current, login))
                    }
                    Err(error) => {
                        if !std::mem::replace(&mut is_failing, true) {
                            tracing::warn!(%error, "cannot read the credentials for pulling; pull secrets are not updated. Check --pull-docker-config");
                        }
                        if had_one {
                            HELPER_INTERVAL
                        } else {
                            READ_INTERVAL
                        }
                    }
                };
                helper_due = Instant::now() + pause;
            }
            sleep(READ_INTERVAL).await;
        }
    }
}

/// Returns the time until the next call of a helper, after a response that `is_new`, or is the first one if `had_one` is
/// false. The age of the first one is not known: a cached token may expire soon.
fn helper_pause(had_one: bool, is_new: bool) -> Duration {
    if had_one && is_new {
        HELPER_PAUSE_AFTER_NEW
    } else {
        HELPER_INTERVAL
    }
}

fn is_empty(credential: &Credential) -> bool {
    let secret = match credential {
        Credential::Login(login) => &login.password,
        Credential::IdentityToken(token) => token,
    };
    secret.expose_secret().is_empty()
}

/// Returns whether the login is new.
fn publish(current: &watch::Sender<Option<Arc<DesiredLogin>>>, login: DesiredLogin) -> bool {
    current.send_if_modified(|old| {
        let is_new = old
            .as_ref()
            .is_none_or(|old| old.fingerprint() != login.fingerprint());
        if is_new {
            *old = Some(Arc::new(login));
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
    fn only_a_new_token_is_known_to_be_fresh() {
        for (had_one, is_new) in [(false, true), (true, false)] {
            assert!(helper_pause(had_one, is_new) + READ_INTERVAL < SHORTEST_NOTICE);
        }
        assert_eq!(helper_pause(true, true), HELPER_PAUSE_AFTER_NEW);
    }
}
