//! The calls to the API server about the Secrets of one name. No other Secret can be named here.

use std::time::Duration;

use axum::http::Request;
use kube::api::{DeleteParams, GetParams, Patch, PatchParams, PostParams, Preconditions};
use kube::core::Status;
use kube::{Resource as _, core};
use mirror_contract::Mode;
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::{Value, json};
use tokio::time::timeout;

use super::dockerconfigjson::Others;
use super::error::PullSecretError;
use super::object::{KEY, LABEL, MANAGER, Seen, Shown, TYPE, Version, content};
use crate::cluster::api_response;
use crate::cluster::api_server::ApiServer;

/// Whom the API server notes as the owner of the fields.
const FIELD_MANAGER: &str = "mirror-sidecar";
/// Longest time for a call. Webhooks may take 30 s by themselves, but this is repeated anyway.
const CALL_WITHIN: Duration = Duration::from_secs(10);
/// The cause that the API server gives for refusing to create something in a namespace that is being deleted.
const TERMINATING: &str = "NamespaceTerminating";

/// The Secrets of one name.
#[derive(Clone)]
pub(super) struct Secrets {
    server: ApiServer,
    name: String,
}

/// What a call does, in words.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Operation {
    Get,
    Create,
    Change,
    Delete,
}

impl Secrets {
    pub(super) fn new(server: ApiServer, name: String) -> Self {
        Self { server, name }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn server(&self) -> &ApiServer {
        &self.server
    }

    /// What is there.
    pub(super) async fn get(&self, namespace: &str) -> Result<Option<Seen>, PullSecretError> {
        let request = request(namespace).get(&self.name, &GetParams::default());
        match self.call(Operation::Get, namespace, request).await {
            Ok(text) => self.seen(Operation::Get, namespace, &text).map(Some),
            // There is no namespace, or no Secret in it.
            Err(PullSecretError::Contended { .. }) => Ok(None),
            Err(trouble) => Err(trouble),
        }
    }

    /// The logins in this version of it that stay beside the one with this key.
    ///
    /// # Errors
    /// [`PullSecretError::Contended`] if this version is there no more.
    pub(super) async fn others(
        &self,
        namespace: &str,
        version: &Version,
        key: &str,
    ) -> Result<Others, PullSecretError> {
        let request = request(namespace).get(&self.name, &GetParams::default());
        let text = self.call(Operation::Get, namespace, request).await?;
        if self.seen(Operation::Get, namespace, &text)?.version != *version {
            return Err(PullSecretError::Contended {
                name: self.name.clone(),
                namespace: namespace.to_owned(),
            });
        }
        Ok(Others::of(&content(&text), key))
    }

    /// Creates it with this `.dockerconfigjson`; with [`Mode::Peek`] the API server only says whether it could be.
    ///
    /// # Errors
    /// [`PullSecretError::Contended`] if there is one.
    pub(super) async fn create(
        &self,
        namespace: &str,
        config: &SecretString,
        mode: Mode,
    ) -> Result<Seen, PullSecretError> {
        let params = PostParams {
            dry_run: mode == Mode::Peek,
            field_manager: Some(FIELD_MANAGER.to_owned()),
        };
        let body = self.body(namespace, config, None).to_string();
        let request = request(namespace).create(&params, body.into_bytes());
        let text = self.call(Operation::Create, namespace, request).await?;
        self.seen(Operation::Create, namespace, &text)
    }

    /// Gives this version of it another `.dockerconfigjson`, by server-side apply.
    ///
    /// # Errors
    /// [`PullSecretError::Contended`] if this version is there no more.
    pub(super) async fn change(
        &self,
        namespace: &str,
        config: &SecretString,
        version: &Version,
    ) -> Result<Seen, PullSecretError> {
        let params = PatchParams::apply(FIELD_MANAGER).force();
        let body = Patch::Apply(self.body(namespace, config, Some(version)));
        let request = request(namespace).patch(&self.name, &params, &body);
        let text = self.call(Operation::Change, namespace, request).await?;
        self.seen(Operation::Change, namespace, &text)
    }

    /// Deletes this version of it.
    ///
    /// # Errors
    /// [`PullSecretError::Contended`] if this version is there no more.
    pub(super) async fn delete(
        &self,
        namespace: &str,
        version: &Version,
    ) -> Result<(), PullSecretError> {
        let params = DeleteParams {
            preconditions: Some(Preconditions {
                uid: Some(version.uid.to_string()),
                resource_version: Some(version.resource_version.to_string()),
            }),
            ..DeleteParams::default()
        };
        let request = request(namespace).delete(&self.name, &params);
        let call = self.call(Operation::Delete, namespace, request);
        call.await.map(drop)
    }

    /// With a version in it the API server applies this to nothing else.
    fn body(&self, namespace: &str, config: &SecretString, version: Option<&Version>) -> Value {
        let mut metadata = serde_json::Map::from_iter([
            ("name".to_owned(), json!(self.name)),
            ("namespace".to_owned(), json!(namespace)),
            ("labels".to_owned(), json!({ LABEL: MANAGER })),
        ]);
        if let Some(version) = version {
            metadata.insert("uid".to_owned(), json!(version.uid));
            metadata.insert(
                "resourceVersion".to_owned(),
                json!(version.resource_version),
            );
        }
        json!({
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": metadata,
            "type": TYPE,
            "data": { KEY: config.expose_secret() },
        })
    }

    /// Not the client's own reading: it logs what it cannot read.
    fn seen(
        &self,
        operation: Operation,
        namespace: &str,
        text: &[u8],
    ) -> Result<Seen, PullSecretError> {
        let shown: Option<Shown> = serde_json::from_slice(text).ok();
        let seen = shown.and_then(Shown::into_seen).map(|(_, seen)| seen);
        seen.ok_or_else(|| self.away(operation, namespace, "its answer is no Secret"))
    }

    async fn call(
        &self,
        operation: Operation,
        namespace: &str,
        request: Result<Request<Vec<u8>>, core::request::Error>,
    ) -> Result<Vec<u8>, PullSecretError> {
        let request =
            request.map_err(|_| self.away(operation, namespace, "the request cannot be made"))?;
        match timeout(
            CALL_WITHIN,
            api_response::text(&self.server, request, Shown::KEEP),
        )
        .await
        {
            Ok(Ok(text)) => Ok(text),
            Ok(Err(kube::Error::Api(status))) => Err(self.refused(operation, namespace, &status)),
            Ok(Err(error)) => Err(self.away(operation, namespace, &error.to_string())),
            Err(_) => {
                let trouble = self.away(operation, namespace, "the API server does not respond");
                self.server.failed(&trouble);
                Err(trouble)
            }
        }
    }

    fn refused(&self, operation: Operation, namespace: &str, status: &Status) -> PullSecretError {
        let (name, namespace) = (self.name.clone(), namespace.to_owned());
        let reason = || status.message.clone();
        match status.code {
            404 if operation == Operation::Create => PullSecretError::NoNamespace { namespace },
            404 | 409 => PullSecretError::Contended { name, namespace },
            403 if is_terminating(status) => PullSecretError::Terminating { namespace },
            // Too many requests, a server error, or an account that is not known yet: later it may work.
            403 if lacks_rights(status) => PullSecretError::NoRights {
                operation: operation.words(),
                name,
                namespace,
                reason: reason(),
            },
            401 | 429 | 500.. => self.away(operation, &namespace, &reason()),
            _ => PullSecretError::Refused {
                operation: operation.words(),
                name,
                namespace,
                reason: reason(),
            },
        }
    }

    fn away(&self, operation: Operation, namespace: &str, reason: &str) -> PullSecretError {
        PullSecretError::Away {
            operation: operation.words(),
            name: self.name.clone(),
            namespace: namespace.to_owned(),
            reason: reason.to_owned(),
        }
    }
}

impl Operation {
    fn words(self) -> &'static str {
        match self {
            Self::Get => "read",
            Self::Create => "create",
            Self::Change => "change",
            Self::Delete => "delete",
        }
    }
}

fn request(namespace: &str) -> core::Request {
    core::Request::new(Shown::url_path(&(), Some(namespace)))
}

/// Returns whether the account of this service lacks rights. Quotas and admission policies say 403 too; the words are those
/// of the API server's authorization (`forbiddenMessage` in k8s.io/apiserver).
fn lacks_rights(status: &Status) -> bool {
    status.message.contains("User \"") && status.message.contains("\" cannot ")
}

fn is_terminating(status: &Status) -> bool {
    let causes = status.details.iter().flat_map(|details| &details.causes);
    causes.into_iter().any(|cause| cause.reason == TERMINATING)
}
