//! The interface of the pull Secrets, and the credentials in them.

use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::join_all;
use mirror_contract::{ImageRef, Mode, Place, PullSecretStatus, Refusal};
use mirror_copy::{Credential, CredentialError, Credentials};
use secrecy::ExposeSecret as _;
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::apply::{Applier, Known, SecretApi};
use super::controller::{Controller, Jobs};
use super::dockerconfigjson::{DesiredLogin, MAX_LOGIN};
use super::keyring::{CurrentLogins, Keyring};
use super::metrics::SecretMetrics;
use super::pull_login::PullLogins;
use crate::cluster::api_server::ApiServer;
use crate::cluster::events::Events;
use crate::cluster::excluded::ExcludedNamespaces;
use crate::cluster::index::CURRENT_NAME;
use crate::cluster::login_access::{LoginAccess, LoginSet};
use crate::cluster::policies::follow::Followed;
use crate::cluster::pull_locations::LoginOwner;
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

/// Credential helpers and files that are read at the same time. A helper is a process, and may hang for half a minute.
const PARALLEL_READS: usize = 8;
/// Longest wait for a namespace that the watch has not delivered yet, if its labels decide.
const NAMESPACE_TIMEOUT: Duration = Duration::from_millis(200);

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
    pub logins: ReadLogins,
    /// The policies that are followed; `None` if there are none to wait for.
    pub followed: Option<Followed>,
    pub excluded_namespaces: ExcludedNamespaces,
    pub cluster: Arc<SharedIndex>,
    pub replicas: Replicas,
    pub events: Events,
    pub metrics: SecretMetrics,
}

/// The logins of the configuration, which were read once. If a Secret has no room for all, it holds the first ones.
pub struct ReadLogins {
    keyring: Keyring,
    sources: Arc<[CredentialSource]>,
    current: CurrentLogins,
    /// Limits reads.
    reads: Arc<Semaphore>,
}

/// The origin of one login.
#[derive(Clone, Debug)]
pub(super) struct CredentialSource {
    pub credentials: Credentials,
    /// Named as in image references.
    pub registry: String,
    pub owner: LoginOwner,
    /// The flag or key of the login.
    pub origin: String,
}

/// The task that keeps the login with this index current.
#[derive(Clone, Copy)]
struct FollowTask(usize);

#[derive(Debug, thiserror::Error)]
pub(super) enum SourceError {
    #[error(transparent)]
    Broken(#[from] CredentialError),
    #[error("{origin} holds no login for {registry}; add one")]
    Absent { origin: String, registry: String },
    #[error("the login for pulling from {registry} is longer than {MAX_LOGIN} bytes")]
    TooLong { registry: String },
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

    /// Returns whether images in `place` are pulled with the Secret. `image` is the image itself if the place is the target of a
    /// rewrite. A Secret that is not managed is for the images of all backups.
    #[must_use]
    pub fn needs_secret(&self, place: &Place<'_>, image: &ImageRef<'_>) -> bool {
        match &self.provision {
            Provision::NotNeeded => false,
            Provision::Existing(_) => matches!(place, Place::Backup(_)),
            Provision::Managed(secrets) => secrets.has_login(place, image),
        }
    }

    /// Returns what Pods in a namespace need; see [`ManagedSecrets::status`].
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
            return Err(Refusal::failed(&reason));
        }
        if let Provision::Managed(secrets) = &self.provision
            && !secrets.status(namespace, mode).await?
        {
            return Ok(PullSecretStatus::NotNeeded);
        }
        Ok(PullSecretStatus::Ready { name: name.into() })
    }
}

impl ReadLogins {
    /// Reads the logins, and waits for them for at most [`START_TIMEOUT`].
    ///
    /// # Errors
    /// [`UsageError`] when there is no login for the default backup.
    pub async fn read(logins: PullLogins) -> Result<Self, UsageError> {
        let keyring = Keyring::new(&logins);
        let sources = logins.into_iter().map(|login| CredentialSource {
            credentials: login.credentials,
            registry: login.registry,
            owner: login.owner,
            origin: login.origin,
        });
        let sources: Arc<[CredentialSource]> = sources.collect();
        let reads = Arc::new(Semaphore::new(PARALLEL_READS));
        let current = || {
            sources
                .iter()
                .enumerate()
                .filter(|(_, source)| !source.owner.is_former())
        };
        let first =
            current().map(|(_, source)| timeout(START_TIMEOUT, source.read_in_turn(&reads)));
        let mut known = CurrentLogins::unknown(sources.len());
        for ((index, source), login) in current().zip(join_all(first).await) {
            match login {
                Ok(Ok(login)) => {
                    known.set(index, login);
                }
                Ok(Err(error @ SourceError::Absent { .. })) if source.owner.is_default() => {
                    return Err(UsageError(error.to_string()));
                }
                // Retried below; a failure is logged then.
                Ok(Err(_)) | Err(_) => {}
            }
        }
        Ok(Self {
            keyring,
            sources,
            current: known,
            reads,
        })
    }
}

impl ManagedSecrets {
    /// Keeps the Secrets in the background, until `stop`.
    #[must_use]
    pub fn start(setup: Setup, server: impl Into<ApiServer>, stop: CancellationToken) -> Self {
        let ReadLogins {
            keyring,
            sources,
            current,
            reads,
        } = setup.logins;
        let keyring = Arc::new(keyring);
        setup
            .cluster
            .set_pull_locations(keyring.locations().clone());
        let sender = watch::Sender::new(current);
        let server = server.into();
        let start = |name_index: usize, name: String| {
            let controller = Arc::new(Controller {
                applier: Applier {
                    api: SecretApi {
                        server: server.clone(),
                        name,
                    },
                    name_index,
                    keyring: Arc::clone(&keyring),
                    logins: sender.subscribe(),
                    excluded: setup.excluded_namespaces.clone(),
                    followed: setup.followed.clone(),
                    started: Instant::now(),
                    cluster: Arc::clone(&setup.cluster),
                    replicas: setup.replicas.clone(),
                    metrics: setup.metrics.clone(),
                    known: Mutex::new(Known::default()),
                    changed: watch::Sender::new(()),
                },
                events: setup.events.clone(),
                jobs: Mutex::new(Jobs::new(&setup.metrics)),
            });
            controller.start(stop.clone());
            controller
        };
        let present = start(CURRENT_NAME, setup.name);
        for (index, name) in setup.former_names.into_iter().enumerate() {
            start(CURRENT_NAME + 1 + index, name);
        }
        let tasks = sources.iter().enumerate();
        let tasks = tasks.filter(|(_, source)| !source.owner.is_former());
        let tasks: Vec<_> = tasks.map(|(index, _)| FollowTask(index)).collect();
        let follow = async move {
            supervise(&tasks, |FollowTask(index)| {
                let (sources, reads) = (Arc::clone(&sources), Arc::clone(&reads));
                let sender = sender.clone();
                async move {
                    if let Some(source) = sources.get(index) {
                        source.follow(index, &sender, &reads).await;
                    }
                }
            })
            .await;
        };
        tokio::spawn(stop.run_until_cancelled_owned(follow));
        Self(present)
    }

    #[must_use]
    pub fn name(&self) -> &str {
        &self.0.applier.api.name
    }

    /// Checks that the Secret is in a namespace, as [`Self::status`].
    ///
    /// # Errors
    /// [`Refusal`] is the response for now.
    pub async fn request(&self, namespace: &str, mode: Mode) -> Result<(), Refusal<'static>> {
        self.status(namespace, mode).await.map(drop)
    }

    /// Checks that the Secret is in a namespace, and creates it if not; with [`Mode::Peek`] it is enough that it could be
    /// created. Returns `false` if Pods there need no login. Returns within [`ANSWER_WITHIN`]; the work continues.
    ///
    /// # Errors
    /// [`Refusal`] is the response for now.
    pub async fn status(&self, namespace: &str, mode: Mode) -> Result<bool, Refusal<'static>> {
        match timeout(ANSWER_WITHIN, self.ensure(namespace, mode)).await {
            Ok(result) => result,
            Err(_) => Err(Refusal::pending("the pull Secret is being created")),
        }
    }

    async fn ensure(&self, namespace: &str, mode: Mode) -> Result<bool, Refusal<'static>> {
        if !self.0.applier.has_secret(namespace) {
            let access = self.settled_access(namespace).await;
            if access.allowed.is_empty() {
                if !access.possible.is_empty() {
                    let reason =
                        format!("the policies for namespace {namespace} are not known yet");
                    return Err(Refusal::pending(&reason));
                }
                if access.has_destinations {
                    return Ok(false);
                }
                let reason = format!("no policy mirrors images of namespace {namespace}");
                return Err(Refusal::failed(&reason));
            }
        }
        let request = Arc::clone(&self.0).request(namespace.into(), mode);
        let result = request.await;
        result.map(|()| true).map_err(|error| error.refusal())
    }

    /// Returns the logins that a namespace may have. Waits for its labels if they decide, because the namespace may be newer
    /// than what the watch has delivered.
    async fn settled_access(&self, namespace: &str) -> LoginAccess {
        let applier = &self.0.applier;
        let mut changes = applier.cluster.subscribe();
        let is_open =
            |access: &LoginAccess| access.allowed.is_empty() && !access.possible.is_empty();
        let settled = async {
            loop {
                let access = applier.access(namespace);
                if !is_open(&access) || changes.changed().await.is_err() {
                    return access;
                }
            }
        };
        let settled = timeout(NAMESPACE_TIMEOUT, settled).await;
        settled.unwrap_or_else(|_| applier.access(namespace))
    }

    fn has_login(&self, place: &Place<'_>, image: &ImageRef<'_>) -> bool {
        let locations = self.0.applier.keyring.locations();
        let login = match place {
            Place::Backup(name) => {
                locations.of_destination(&LoginOwner::Backup(name.clone().into_owned()))
            }
            Place::Target => locations.of_target_image(image),
            // The policy leaves the Secrets of originals alone.
            Place::Original(_) => LoginSet::NONE,
        };
        !login.is_empty()
    }
}

impl CredentialSource {
    pub(super) async fn read(&self) -> Result<DesiredLogin, SourceError> {
        let registry = || self.registry.clone();
        let found = self.credentials.find(&self.registry).await?;
        let credential = found.ok_or_else(|| SourceError::Absent {
            origin: self.origin.clone(),
            registry: registry(),
        })?;
        // A file that is being replaced may be empty for a moment.
        if is_empty(&credential) {
            return Err(SourceError::Empty {
                registry: registry(),
            });
        }
        let login = DesiredLogin::new(&credential);
        if login.bytes("") > MAX_LOGIN {
            return Err(SourceError::TooLong {
                registry: registry(),
            });
        }
        Ok(login)
    }

    async fn read_in_turn(&self, reads: &Semaphore) -> Result<DesiredLogin, SourceError> {
        // The semaphore is never closed.
        let _permit = reads.acquire().await.ok();
        self.read().await
    }

    /// Reads the login periodically, and publishes new ones. A failed read changes nothing.
    async fn follow(
        &self,
        index: usize,
        current: &watch::Sender<CurrentLogins>,
        reads: &Semaphore,
    ) {
        let is_known = || current.borrow().get(index).is_some();
        let mut is_failing = false;
        let mut helper_due = Instant::now();
        if is_known() {
            helper_due += helper_pause(false, true);
            sleep(READ_INTERVAL).await;
        }
        loop {
            let asks_helper = self.credentials.asks_helper(&self.registry).await;
            if !matches!(asks_helper, Ok(true)) || helper_due <= Instant::now() {
                let had_one = is_known();
                let pause = match self.read_in_turn(reads).await {
                    Ok(login) => {
                        if std::mem::take(&mut is_failing) {
                            tracing::info!(login = %self.owner, "read the credentials for pulling again");
                        }
                        let is_new = current.send_if_modified(|logins| logins.set(index, login));
                        helper_pause(had_one, is_new)
                    }
                    Err(error) => {
                        if !std::mem::replace(&mut is_failing, true) {
                            tracing::warn!(
                                login = %self.owner,
                                %error,
                                "cannot read the credentials for pulling, pull secrets are not updated; check {}",
                                self.origin
                            );
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

impl fmt::Display for FollowTask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the credentials for pulling")
    }
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
