//! Brings the Secret of one namespace to the desired state, with requests to the API server.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::http::Request;
use kube::api::{DeleteParams, GetParams, Patch, PatchParams, PostParams, Preconditions};
use kube::core::Status;
use kube::{Resource as _, core};
use mirror_contract::Mode;
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use super::cache::{
    Cache, KEY, LABEL, MANAGER, Record, SecretObject, StoredSecret, TYPE, Version, dockerconfigjson,
};
use super::desired::{Desired, Grants};
use super::dockerconfigjson::{Configuration, Fingerprint, StoredLogins};
use super::error::{PullSecretError, SecretId};
use super::keyring::{CurrentLogins, Keyring};
use super::metrics::{SecretMetrics, SecretWrite};
use super::plan::{Action, ConflictBackoff, Step, Write, action, renewal, step};
use crate::cluster::api_response;
use crate::cluster::api_server::ApiServer;
use crate::cluster::excluded::ExcludedNamespaces;
use crate::cluster::index::NamespaceState;
use crate::cluster::json_fields::parse_permit;
use crate::cluster::login_access::{LoginAccess, LoginSet};
use crate::cluster::policies::follow::{Followed, KNOWN_WITHIN};
use crate::cluster::pull_locations::LoginOwner;
use crate::cluster::replicas::Replicas;
use crate::cluster::shared_index::SharedIndex;

/// Attempts after conflicts. More conflicts need a backoff.
const ATTEMPTS: usize = 3;
/// The owner of the fields in `metadata.managedFields`.
const FIELD_MANAGER: &str = "mirror-sidecar";
/// Webhooks alone may take 30 s, but a request that timed out is repeated anyway.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// The cause that the API server returns for refusing to create something in a namespace that is being deleted.
const TERMINATING: &str = "NamespaceTerminating";
/// Verbs for errors.
const READ: &str = "read";
const CREATE: &str = "create";
const CHANGE: &str = "change";
const DELETE: &str = "delete";

pub(super) struct Applier {
    pub api: SecretApi,
    /// Index of their name among all present and former names.
    pub name_index: usize,
    pub keyring: Arc<Keyring>,
    pub logins: watch::Receiver<CurrentLogins>,
    pub excluded: ExcludedNamespaces,
    /// `None` if no policies are followed.
    pub followed: Option<Followed>,
    pub started: Instant,
    pub cluster: Arc<SharedIndex>,
    pub replicas: Replicas,
    pub metrics: SecretMetrics,
    pub known: Mutex<Known>,
    /// Wakes the controller.
    pub changed: watch::Sender<()>,
}

#[derive(Default)]
pub(super) struct Known {
    pub cache: Cache,
    pub conflicts: ConflictBackoff,
}

impl Applier {
    pub(super) fn is_excluded(&self, namespace: &str) -> bool {
        self.excluded.contains(namespace)
    }

    /// Returns what is known about the logins for a namespace.
    pub(super) fn access(&self, namespace: &str) -> LoginAccess {
        let (access, has_several_destinations) = self.cluster.read(|index| {
            (
                index.login_access(namespace),
                index.has_several_destinations(),
            )
        });
        let are_known = self.followed.as_ref().is_none_or(Followed::is_known);
        // If there is only the default backup, the flags decide when the policies cannot be read.
        let do_flags_decide = !has_several_destinations && self.started.elapsed() >= KNOWN_WITHIN;
        if are_known || do_flags_decide {
            return access;
        }
        LoginAccess {
            allowed: LoginSet::NONE,
            possible: LoginSet::ALL,
            ..access
        }
    }

    /// Returns whether the Secret of a namespace is managed here, as far as is known.
    pub(super) fn has_secret(&self, namespace: &str) -> bool {
        let known = self.known();
        let record = known.cache.get(namespace);
        record.is_some_and(|record| record.secret.is_ours())
    }

    /// Brings the Secret to the desired state; with [`Mode::Peek`] only checks whether that would succeed.
    pub(super) async fn apply(
        &self,
        namespace: &Arc<str>,
        mode: Mode,
    ) -> Result<(), PullSecretError> {
        let id = || self.api.id(namespace);
        let logins = self.logins();
        let mut stored = self.last_stored(namespace);
        for _ in 0..ATTEMPTS {
            let desired = self.desired(&self.known(), namespace, stored.as_ref(), &logins);
            let step = if self.is_excluded(namespace) {
                renewal(stored.as_ref(), &desired)
            } else {
                step(stored.as_ref(), &desired)
            };
            let write = match step {
                Step::Nothing => return Ok(()),
                Step::LeaveAlone => return Err(PullSecretError::Foreign(id())),
                Step::Wait => return Err(PullSecretError::Leaving(id())),
                Step::Write(write) => write,
            };
            let result = match mode {
                Mode::Ensure => {
                    self.write(&write, namespace, stored.as_ref(), &desired)
                        .await
                }
                Mode::Peek if write == Write::Create => {
                    let config = desired.configuration(&StoredLogins::default());
                    let encoded = config.encoded();
                    self.api.create(namespace, &encoded, mode).await.map(drop)
                }
                Mode::Peek => Ok(()),
            };
            let Err(PullSecretError::Contended(_)) = result else {
                return result;
            };
            stored = self.api.get(namespace).await?;
            self.record(namespace, stored.clone());
        }
        Err(PullSecretError::Contended(id()))
    }

    /// Returns an error if the namespace lacks a login that could not be read yet.
    pub(super) fn check_credentials(&self, namespace: &str) -> Result<(), PullSecretError> {
        let logins = self.logins();
        let known = self.known();
        let stored = known.cache.get(namespace).map(|record| &record.secret);
        let desired = self.desired(&known, namespace, stored, &logins);
        if desired.lacks_credentials(stored.and_then(StoredSecret::held)) {
            return Err(PullSecretError::NoCredentials);
        }
        Ok(())
    }

    /// Removes the Secret, unless a workload needs it by now.
    pub(super) async fn remove(&self, namespace: &Arc<str>) -> Result<(), PullSecretError> {
        let Some(version) = self.removable(namespace) else {
            return Ok(());
        };
        match self.api.delete(namespace, &version).await {
            // The watch delivers the new state.
            Err(PullSecretError::Contended(_)) => Ok(()),
            Ok(()) => {
                self.metrics.secret_written(SecretWrite::Removed);
                tracing::info!(%namespace, "removed pull secret that no workload names");
                let mut known = self.known();
                known.cache.remove(namespace, &version.uid);
                known
                    .conflicts
                    .prune(Instant::now(), |other| *other == **namespace);
                Ok(())
            }
            Err(error) => {
                self.metrics.secret_written(SecretWrite::Failed);
                Err(error)
            }
        }
    }

    pub(super) fn logins(&self) -> CurrentLogins {
        self.logins.borrow().clone()
    }

    /// The desired content of a Secret. Any login will do if another replica keeps it current, and during the backoff after a
    /// conflict: the login of the other writer may work as well.
    pub(super) fn desired<'a>(
        &'a self,
        known: &Known,
        namespace: &str,
        stored: Option<&StoredSecret>,
        logins: &'a CurrentLogins,
    ) -> Desired<'a> {
        let now = Instant::now();
        let is_contested = self.conflict_until(known, namespace, stored, now).is_some();
        Desired {
            keyring: &self.keyring,
            current: logins,
            grants: self.grants(known, namespace, now),
            is_lenient: is_contested || !self.owns(namespace),
        }
    }

    /// Records the logins that the Secret of a namespace has now.
    pub(super) fn observe(&self, known: &mut Known, namespace: &str, now: Instant) {
        let logins = self.logins();
        let stored = known.cache.get(namespace).map(|record| &record.secret);
        let desired = self.desired(known, namespace, stored, &logins);
        let held = stored.and_then(StoredSecret::held);
        let present = held.map_or(LoginSet::NONE, |held| desired.present(held));
        let access = self.access(namespace);
        let (allowed, barred) = if self.is_excluded(namespace) {
            (LoginSet::NONE, LoginSet::NONE)
        } else {
            let barred = held.map(|held| desired.barred(held, &access));
            (access.allowed, barred.unwrap_or_default())
        };
        if let Some(record) = known.cache.get_mut(namespace) {
            record.observe(present, allowed, barred, now);
        }
    }

    fn grants(&self, known: &Known, namespace: &str, now: Instant) -> Grants {
        let record = known.cache.get(namespace);
        let unbroken = record.map_or(LoginSet::NONE, Record::unbroken);
        let renewable = unbroken.and(self.keyring.default_login());
        if self.is_excluded(namespace) {
            return Grants::in_excluded_namespace(renewable);
        }
        let overdue = record.map_or(LoginSet::NONE, |record| record.overdue(now));
        Grants::of(&self.access(namespace), overdue, renewable)
    }

    /// Returns a login in the Secret of a namespace that is out of date, and is not renewed because no rule allows it there.
    pub(super) fn outdated(&self, known: &Known, namespace: &str) -> Option<&LoginOwner> {
        let logins = self.logins();
        let stored = known.cache.get(namespace).map(|record| &record.secret)?;
        let desired = self.desired(known, namespace, Some(stored), &logins);
        let outdated = desired.outdated(stored.held()?);
        let outdated = if self.is_excluded(namespace) {
            outdated
        } else {
            outdated.and(self.access(namespace).used)
        };
        let index = outdated.iter().next()?;
        self.keyring.owner(index)
    }

    /// The end of the backoff for a Secret that another writer changed.
    pub(super) fn conflict_until(
        &self,
        known: &Known,
        namespace: &str,
        stored: Option<&StoredSecret>,
        now: Instant,
    ) -> Option<Instant> {
        known.conflicts.until(namespace, self.usable(stored), now)
    }

    pub(super) fn owns(&self, namespace: &str) -> bool {
        self.replicas.owns(&format!("secret/{namespace}"))
    }

    pub(super) fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The logins of the configuration in a managed Secret, if kubelets can use them.
    fn usable(&self, stored: Option<&StoredSecret>) -> Option<Fingerprint> {
        self.keyring.fingerprint(stored?.held()?)
    }

    /// The cached Secret; `None` in a namespace that is being deleted. Then a request to create it shows whether the
    /// deletion still lasts.
    fn last_stored(&self, namespace: &str) -> Option<StoredSecret> {
        let state = self.cluster.read(|index| index.namespace_state(namespace));
        if state == NamespaceState::Terminating {
            return None;
        }
        let known = self.known();
        known
            .cache
            .get(namespace)
            .map(|record| record.secret.clone())
    }

    /// The version that may be removed, as far as is known now.
    fn removable(&self, namespace: &str) -> Option<Version> {
        let (is_needed, knows_all) = self.cluster.read(|index| {
            let mut needed = index.namespaces_naming(self.name_index);
            (
                needed.any(|needed| needed == namespace),
                index.is_complete(),
            )
        });
        let logins = self.logins();
        let known = self.known();
        let record = known.cache.get(namespace)?;
        let desired = self.desired(&known, namespace, Some(&record.secret), &logins);
        let action = action(is_needed, Some(record), &desired, knows_all, Instant::now());
        (action == Action::Remove).then(|| record.secret.version.clone())
    }

    async fn write(
        &self,
        write: &Write,
        namespace: &Arc<str>,
        stored: Option<&StoredSecret>,
        desired: &Desired<'_>,
    ) -> Result<(), PullSecretError> {
        let result = match write {
            Write::Create => SecretWrite::Created,
            Write::Change(_) => SecretWrite::Changed,
            Write::Replace(_) => SecretWrite::Replaced,
        };
        let unbroken = {
            let known = self.known();
            let record = known.cache.get(namespace);
            record.map_or(LoginSet::NONE, Record::unbroken)
        };
        let sent = self.send(write, namespace, stored, desired).await;
        let (config, written) = sent.inspect_err(|error| {
            // A conflict is no failure, but a reason to read the Secret again.
            if !matches!(error, PullSecretError::Contended(_)) {
                self.metrics.secret_written(SecretWrite::Failed);
            }
        })?;
        self.metrics.secret_written(result);
        tracing::debug!(%namespace, ?result, "wrote pull secret");
        if desired.left_out() > 0 {
            tracing::warn!(
                %namespace,
                name = self.api.name,
                left_out = desired.left_out(),
                "the pull secret has no room for all logins; let the rules of this namespace use fewer backups"
            );
        }
        let before = self.usable(stored);
        // Not of the response: a webhook that changes it undoes the write.
        let held = config.held();
        let sent = self.keyring.fingerprint(&held);
        let now = Instant::now();
        let is_conflict = sent.is_some_and(|sent| {
            let conflicts = &mut self.known().conflicts;
            conflicts.record_write(namespace, sent, before, now)
        });
        if is_conflict {
            tracing::warn!(
                %namespace,
                name = self.api.name,
                "another program keeps changing or deleting this pull secret; it is restored with exponential backoff. Find \
                 out what changes it"
            );
        }
        self.record(namespace, Some(written));
        let unbroken = desired
            .present(&held)
            .and(unbroken.or(desired.grants.granted));
        self.known().cache.record_unbroken(namespace, unbroken);
        Ok(())
    }

    async fn send(
        &self,
        write: &Write,
        namespace: &Arc<str>,
        stored: Option<&StoredSecret>,
        desired: &Desired<'_>,
    ) -> Result<(Configuration, StoredSecret), PullSecretError> {
        let (Write::Change(version) | Write::Replace(version)) = write else {
            let config = desired.configuration(&StoredLogins::default());
            let encoded = config.encoded();
            let created = self.api.create(namespace, &encoded, Mode::Ensure).await?;
            return Ok((config, created));
        };
        // The passwords of logins are not cached.
        let held = stored.and_then(StoredSecret::held);
        let logins = if held.is_some_and(|held| desired.needs_stored(held)) {
            self.api.stored_logins(namespace, version).await?
        } else {
            StoredLogins::default()
        };
        let config = desired.configuration(&logins);
        let encoded = config.encoded();
        if let Write::Change(version) = write {
            let changed = self.api.change(namespace, &encoded, version).await?;
            return Ok((config, changed));
        }
        self.api.delete(namespace, version).await?;
        self.known().cache.remove(namespace, &version.uid);
        let created = self.api.create(namespace, &encoded, Mode::Ensure).await?;
        Ok((config, created))
    }

    fn record(&self, namespace: &Arc<str>, stored: Option<StoredSecret>) {
        {
            let cache = &mut self.known().cache;
            match stored {
                Some(stored) => cache.insert(Arc::clone(namespace), stored),
                None => cache.clear(namespace),
            }
        }
        self.changed.send_replace(());
    }
}

/// The requests for Secrets of one name. No other Secret can be named here.
#[derive(Clone)]
pub(super) struct SecretApi {
    pub server: ApiServer,
    pub name: String,
}

/// Requests return [`PullSecretError::Contended`] if the Secret exists already, or not in the given version.
impl SecretApi {
    pub(super) fn id(&self, namespace: &str) -> SecretId {
        SecretId {
            name: self.name.clone(),
            namespace: namespace.to_owned(),
        }
    }

    async fn get(&self, namespace: &str) -> Result<Option<StoredSecret>, PullSecretError> {
        let request = request(namespace).get(&self.name, &GetParams::default());
        match self.call(READ, namespace, request).await {
            Ok(text) => self.parse(READ, namespace, &text).map(Some),
            // There is no namespace, or no Secret in it.
            Err(PullSecretError::Contended(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Returns the logins in this version.
    async fn stored_logins(
        &self,
        namespace: &str,
        version: &Version,
    ) -> Result<StoredLogins, PullSecretError> {
        let request = request(namespace).get(&self.name, &GetParams::default());
        let text = self.call(READ, namespace, request).await?;
        if self.parse(READ, namespace, &text)?.version != *version {
            return Err(PullSecretError::Contended(self.id(namespace)));
        }
        Ok(StoredLogins::of(&dockerconfigjson(&text)))
    }

    /// Creates the Secret; with [`Mode::Peek`] as a dry run.
    async fn create(
        &self,
        namespace: &str,
        config: &SecretString,
        mode: Mode,
    ) -> Result<StoredSecret, PullSecretError> {
        let params = PostParams {
            dry_run: mode == Mode::Peek,
            field_manager: Some(FIELD_MANAGER.to_owned()),
        };
        let body = self.body(namespace, config, None).to_string();
        let request = request(namespace).create(&params, body.into_bytes());
        let text = self.call(CREATE, namespace, request).await?;
        self.parse(CREATE, namespace, &text)
    }

    /// Changes this version by server-side apply.
    async fn change(
        &self,
        namespace: &str,
        config: &SecretString,
        version: &Version,
    ) -> Result<StoredSecret, PullSecretError> {
        let params = PatchParams::apply(FIELD_MANAGER).force();
        let body = Patch::Apply(self.body(namespace, config, Some(version)));
        let request = request(namespace).patch(&self.name, &params, &body);
        let text = self.call(CHANGE, namespace, request).await?;
        self.parse(CHANGE, namespace, &text)
    }

    async fn delete(&self, namespace: &str, version: &Version) -> Result<(), PullSecretError> {
        let params = DeleteParams {
            preconditions: Some(Preconditions {
                uid: Some(version.uid.to_string()),
                resource_version: Some(version.resource_version.to_string()),
            }),
            ..DeleteParams::default()
        };
        let request = request(namespace).delete(&self.name, &params);
        self.call(DELETE, namespace, request).await.map(drop)
    }

    /// The API server applies a body with a version to that version only.
    fn body(&self, namespace: &str, config: &SecretString, version: Option<&Version>) -> Value {
        let mut metadata = serde_json::Map::from_iter([
            ("name".to_owned(), json!(self.name)),
            ("namespace".to_owned(), json!(namespace)),
            ("labels".to_owned(), json!({ LABEL: MANAGER })),
        ]);
        if let Some(Version {
            uid,
            resource_version,
        }) = version
        {
            metadata.insert("uid".to_owned(), json!(uid));
            metadata.insert("resourceVersion".to_owned(), json!(resource_version));
        }
        json!({
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": metadata,
            "type": TYPE,
            "data": { KEY: config.expose_secret() },
        })
    }

    /// Does not use the client's own parser, which logs content that it cannot read.
    fn parse(
        &self,
        operation: &'static str,
        namespace: &str,
        text: &[u8],
    ) -> Result<StoredSecret, PullSecretError> {
        let _permit = parse_permit();
        let object: Option<SecretObject> = serde_json::from_slice(text).ok();
        let stored = object.and_then(SecretObject::into_stored);
        let stored = stored.map(|(_, stored)| stored);
        stored.ok_or_else(|| {
            self.unreachable(
                operation,
                namespace,
                "the response of the API server is no Secret",
            )
        })
    }

    async fn call(
        &self,
        operation: &'static str,
        namespace: &str,
        request: Result<Request<Vec<u8>>, core::request::Error>,
    ) -> Result<Vec<u8>, PullSecretError> {
        let unreachable = |reason: &str| self.unreachable(operation, namespace, reason);
        let request = request.map_err(|_| unreachable("cannot build the request"))?;
        let response = api_response::text(&self.server, request, SecretObject::KEEP);
        match timeout(REQUEST_TIMEOUT, response).await {
            Ok(Ok(text)) => Ok(text),
            Ok(Err(kube::Error::Api(status))) => Err(self.refused(operation, namespace, &status)),
            Ok(Err(error)) => Err(unreachable(&error.to_string())),
            Err(_) => {
                let error = unreachable("no response from the API server in time");
                self.server.failed(&error);
                Err(error)
            }
        }
    }

    fn refused(
        &self,
        operation: &'static str,
        namespace: &str,
        status: &Status,
    ) -> PullSecretError {
        let secret = self.id(namespace);
        let namespace = namespace.to_owned();
        let reason = status.message.clone();
        match status.code {
            404 if operation == CREATE => PullSecretError::NoNamespace { namespace },
            404 | 409 => PullSecretError::Contended(secret),
            403 if is_terminating(status) => PullSecretError::Terminating { namespace },
            403 if lacks_rights(status) => PullSecretError::NoRights {
                operation,
                secret,
                reason,
            },
            // Too many requests, a server error, or an account that is not known yet: a retry may succeed.
            401 | 429 | 500.. => self.unreachable(operation, &namespace, &reason),
            _ => PullSecretError::Refused {
                operation,
                secret,
                reason,
            },
        }
    }

    fn unreachable(
        &self,
        operation: &'static str,
        namespace: &str,
        reason: &str,
    ) -> PullSecretError {
        PullSecretError::Unreachable {
            operation,
            secret: self.id(namespace),
            reason: reason.to_owned(),
        }
    }
}

fn request(namespace: &str) -> core::Request {
    core::Request::new(SecretObject::url_path(&(), Some(namespace)))
}

/// Returns whether the account of this service lacks permissions. Quotas and admission policies respond with 403 too; these
/// words are from the API server's authorization (`forbiddenMessage` in k8s.io/apiserver).
fn lacks_rights(status: &Status) -> bool {
    status.message.contains("User \"") && status.message.contains("\" cannot ")
}

fn is_terminating(status: &Status) -> bool {
    let causes = status.details.iter().flat_map(|details| &details.causes);
    causes.into_iter().any(|cause| cause.reason == TERMINATING)
}
