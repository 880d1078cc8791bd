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
    Cache, KEY, LABEL, MANAGER, SecretObject, StoredSecret, TYPE, Version, dockerconfigjson,
};
use super::dockerconfigjson::{DesiredLogin, Fingerprint, OtherLogins};
use super::error::{PullSecretError, SecretId};
use super::metrics::{SecretMetrics, SecretWrite};
use super::plan::{Action, ConflictBackoff, Desired, Step, Write, action, renewal, step};
use crate::cluster::api_response;
use crate::cluster::api_server::ApiServer;
use crate::cluster::excluded::ExcludedNamespaces;
use crate::cluster::index::NamespaceState;
use crate::cluster::json_fields::parse_permit;
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

/// The login that all Secrets must hold; `None` until it is known.
pub(super) type CurrentLogin = watch::Receiver<Option<Arc<DesiredLogin>>>;

pub(super) struct Applier {
    pub api: SecretApi,
    /// Index of their name among all present and former names.
    pub name_index: usize,
    /// The key of the login for the backup registry.
    pub key: String,
    pub login: CurrentLogin,
    pub excluded: ExcludedNamespaces,
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
    /// Returns whether some policy mirrors images of a namespace. If not, it gets no Secret, but one from before is repaired:
    /// workloads may use copies.
    pub(super) fn may_copy_for(&self, namespace: &str) -> bool {
        self.cluster.read(|index| index.may_copy_for(namespace))
    }

    /// Brings the Secret to the desired state; with [`Mode::Peek`] only checks whether that would succeed.
    pub(super) async fn apply(
        &self,
        namespace: &Arc<str>,
        mode: Mode,
    ) -> Result<(), PullSecretError> {
        let id = || self.api.id(namespace);
        let login = self.login();
        let mut stored = self.last_stored(namespace);
        for _ in 0..ATTEMPTS {
            let desired = self.desired(&self.known(), namespace, stored.as_ref(), login.as_deref());
            let step = if self.excluded.contains(namespace) {
                renewal(stored.as_ref(), desired)
            } else {
                step(stored.as_ref(), desired)
            };
            let write = match step {
                Step::Nothing => return Ok(()),
                Step::LeaveAlone => return Err(PullSecretError::Foreign(id())),
                Step::Wait => return Err(PullSecretError::Leaving(id())),
                Step::Write(Write::Create) if !self.may_copy_for(namespace) => {
                    let namespace = namespace.to_string();
                    return Err(PullSecretError::NotMirrored { namespace });
                }
                Step::Write(write) => write,
            };
            let login = login.as_deref().ok_or(PullSecretError::NoCredentials)?;
            let result = match mode {
                Mode::Ensure => self.write(&write, namespace, stored.as_ref(), login).await,
                Mode::Peek if write == Write::Create => {
                    let config = login.encoded(OtherLogins::default());
                    self.api.create(namespace, &config, mode).await.map(drop)
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

    pub(super) fn login(&self) -> Option<Arc<DesiredLogin>> {
        self.login.borrow().clone()
    }

    /// The desired content of a Secret. Any login will do if another replica keeps it current, if the current one is not
    /// known, and during the backoff after a conflict: the login of the other writer may work as well.
    pub(super) fn desired(
        &self,
        known: &Known,
        namespace: &str,
        stored: Option<&StoredSecret>,
        login: Option<&DesiredLogin>,
    ) -> Desired<'_> {
        let login = login
            .filter(|_| {
                self.conflict_until(known, namespace, stored, Instant::now())
                    .is_none()
            })
            .filter(|_| self.owns(namespace))
            .map(DesiredLogin::fingerprint);
        Desired {
            key: &self.key,
            login,
        }
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

    /// The login in a managed Secret, if kubelets can use it.
    fn usable(&self, stored: Option<&StoredSecret>) -> Option<Fingerprint> {
        stored?.held()?.usable(&self.key)
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
        let known = self.known();
        let record = known.cache.get(namespace)?;
        let desired = Desired {
            key: &self.key,
            login: None,
        };
        let action = action(is_needed, Some(record), desired, knows_all, Instant::now());
        (action == Action::Remove).then(|| record.secret.version.clone())
    }

    async fn write(
        &self,
        write: &Write,
        namespace: &Arc<str>,
        stored: Option<&StoredSecret>,
        login: &DesiredLogin,
    ) -> Result<(), PullSecretError> {
        let result = match write {
            Write::Create => SecretWrite::Created,
            Write::Change(_) => SecretWrite::Changed,
            Write::Replace(_) => SecretWrite::Replaced,
        };
        let sent = self.send(write, namespace, stored, login).await;
        let written = sent.inspect_err(|error| {
            // A conflict is no failure, but a reason to read the Secret again.
            if !matches!(error, PullSecretError::Contended(_)) {
                self.metrics.secret_written(SecretWrite::Failed);
            }
        })?;
        self.metrics.secret_written(result);
        tracing::debug!(%namespace, ?result, "wrote pull secret");
        let (before, fingerprint) = (self.usable(stored), login.fingerprint());
        let now = Instant::now();
        let is_conflict = {
            let conflicts = &mut self.known().conflicts;
            conflicts.record_write(namespace, fingerprint, before, now)
        };
        if is_conflict {
            tracing::warn!(
                %namespace,
                name = self.api.name,
                "another program keeps changing or deleting this pull secret; it is restored with exponential backoff. Find \
                 out what changes it"
            );
        }
        self.record(namespace, Some(written));
        Ok(())
    }

    async fn send(
        &self,
        write: &Write,
        namespace: &Arc<str>,
        stored: Option<&StoredSecret>,
        login: &DesiredLogin,
    ) -> Result<StoredSecret, PullSecretError> {
        let (Write::Change(version) | Write::Replace(version)) = write else {
            let config = login.encoded(OtherLogins::default());
            return self.api.create(namespace, &config, Mode::Ensure).await;
        };
        // The logins for other registries are not cached.
        let held = stored.and_then(StoredSecret::held);
        let others = if held.is_some_and(|held| held.has_others(&self.key)) {
            self.api.others(namespace, version, &self.key).await?
        } else {
            OtherLogins::default()
        };
        let config = login.encoded(others);
        if let Write::Change(version) = write {
            return self.api.change(namespace, &config, version).await;
        }
        self.api.delete(namespace, version).await?;
        self.known().cache.remove(namespace, &version.uid);
        self.api.create(namespace, &config, Mode::Ensure).await
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

    /// Returns the logins in this version that are kept beside the one with this key.
    async fn others(
        &self,
        namespace: &str,
        version: &Version,
        key: &str,
    ) -> Result<OtherLogins, PullSecretError> {
        let request = request(namespace).get(&self.name, &GetParams::default());
        let text = self.call(READ, namespace, request).await?;
        if self.parse(READ, namespace, &text)?.version != *version {
            return Err(PullSecretError::Contended(self.id(namespace)));
        }
        Ok(OtherLogins::of(&dockerconfigjson(&text), key))
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
