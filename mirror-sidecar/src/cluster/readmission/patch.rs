//! The patch that sends a workload through admission again.

use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch as Body, PatchParams};
use kube::{Resource as _, core};
use mirror_contract::workload::READMITTED;
use mirror_contract::{Refusal, RefusalKind};
use serde_json::json;
use tokio::time::timeout;

use crate::cluster::api_response;
use crate::cluster::api_server::{ApiServer, is_unreachable};
use crate::cluster::index::{Candidate, Image};
use crate::cluster::readmission::policy::Outcome;
use crate::cluster::workload::{Key, Object, Watched};
use crate::cluster::workload_kind::Kind;

/// The owner of the annotation in `metadata.managedFields`.
const FIELD_MANAGER: &str = "mirror-sidecar";

/// Longest time for a patch: twice the timeout of the policy's webhook.
const PATCH_TIMEOUT: Duration = Duration::from_secs(30);

#[derive(Debug, thiserror::Error)]
pub(super) enum ReadmitError {
    /// The workload is gone, was replaced, or just changed. The watch delivers its new state.
    #[error("{key} has changed or was deleted: {source}")]
    Outdated { key: Key, source: kube::Error },
    /// The API server, or a webhook that it calls, refuses or does not respond.
    #[error("cannot patch {key}: {source}; check the API server and its webhooks")]
    Refused { key: Key, source: kube::Error },
    #[error("cannot patch {key}: no response within {} s; check the API server and its webhooks", PATCH_TIMEOUT.as_secs())]
    Slow { key: Key },
    /// The pull Secret that the workload needs does not exist.
    #[error("cannot patch {key} without its pull Secret: {refusal}")]
    Secret { key: Key, refusal: Refusal<'static> },
    #[error("cannot patch {key}: the response is no {}", .key.kind)]
    Odd { key: Key },
}

impl ReadmitError {
    /// Returns the reason if a quota, an admission policy or missing permissions refuse the patch: an operator must
    /// act.
    pub(super) fn refusal(&self) -> Option<String> {
        match self {
            Self::Refused {
                source: kube::Error::Api(status),
                ..
            } if (400..500).contains(&status.code) && !matches!(status.code, 401 | 429) => {
                Some(status.message.clone())
            }
            Self::Secret { refusal, .. } if refusal.kind == RefusalKind::Failed => {
                Some(refusal.reason.clone().into_owned())
            }
            _ => None,
        }
    }

    /// The outcome for the workload; logs the error.
    pub(super) fn outcome(&self) -> Outcome {
        if let Self::Outdated { .. } = self {
            tracing::debug!(error = %self, "skipped readmission; the watch delivers the change");
            return Outcome::Outdated;
        }
        if matches!(self, Self::Refused { source, .. } if is_unreachable(source)) {
            tracing::debug!(error = %self, "readmission failed");
            return Outcome::Failed;
        }
        if let Self::Secret { .. } = self {
            // The pull Secret controller logs this error.
            tracing::debug!(error = %self, "readmission failed; retrying with backoff");
            return Outcome::Failed;
        }
        tracing::warn!(error = %self, "readmission failed; retrying with backoff");
        Outcome::Failed
    }
}

/// Sets the annotation on the workload's own metadata.
///
/// The annotation is not on the Pod template, so it starts no rollout by itself; only the policy's changes do. Tools
/// that apply manifests own the fields of their manifests (`managedFields`, or the last applied configuration) and
/// neither show nor remove others, so they do not conflict.
///
/// The uid limits the patch to this object, not a successor. The resource version is left out on purpose: it changes
/// with each status, so most patches of a busy workload would be refused. If the spec just changed, the new one passes
/// the policy once more, which would follow anyway; the policy sees an opt-out or an image that was just changed.
pub(super) struct Patch<'a> {
    server: &'a ApiServer,
    candidate: &'a Candidate,
    /// The value of the annotation: must differ from the previous one.
    now: String,
}

pub(super) struct Effect {
    /// Images or pull Secrets were replaced.
    pub is_effective: bool,
    /// The originals that are still named.
    pub remaining: Vec<Image>,
}

impl<'a> Patch<'a> {
    pub(super) fn new(server: &'a ApiServer, candidate: &'a Candidate) -> Self {
        Self {
            server,
            candidate,
            now: Timestamp::now().to_string(),
        }
    }

    /// Dry run; nothing is stored.
    pub(super) async fn dry_run(&self) -> Result<Effect, ReadmitError> {
        self.request(true).await
    }

    pub(super) async fn send(&self) -> Result<Effect, ReadmitError> {
        self.request(false).await
    }

    async fn request(&self, dry_run: bool) -> Result<Effect, ReadmitError> {
        let key = &*self.candidate.key;
        let params = PatchParams {
            dry_run,
            field_manager: Some(FIELD_MANAGER.into()),
            ..PatchParams::default()
        };
        let fields = Body::Merge(json!({
            "metadata": { "uid": self.candidate.uid, "annotations": { READMITTED: self.now } },
        }));
        let kind = Kind::Workload(key.kind);
        let path = Watched::url_path(&kind, Some(&key.namespace));
        let response = async {
            let request = core::Request::new(path).patch(&key.name, &params, &fields);
            let request = request.map_err(kube::Error::BuildRequest)?;
            api_response::object::<Watched>(self.server, request, Watched::KEEP).await
        };
        let stored = match timeout(PATCH_TIMEOUT, response).await {
            Ok(Ok(stored)) => stored,
            Ok(Err(source)) if is_outdated(&source) => {
                let key = key.clone();
                return Err(ReadmitError::Outdated { key, source });
            }
            Ok(Err(source)) => {
                let key = key.clone();
                return Err(ReadmitError::Refused { key, source });
            }
            Err(_) => return Err(ReadmitError::Slow { key: key.clone() }),
        };
        match stored.into_object(kind) {
            Some(Object::Workload(workload)) => Ok(Effect {
                is_effective: self.candidate.is_helped(&workload),
                remaining: self.candidate.remaining(&workload),
            }),
            _ => Err(ReadmitError::Odd { key: key.clone() }),
        }
    }
}

/// Returns whether the workload is gone (404) or another one: API servers respond to a wrong uid with 409, or with 422
/// and the field's name.
fn is_outdated(error: &kube::Error) -> bool {
    let kube::Error::Api(status) = error else {
        return false;
    };
    let causes = status.details.iter().flat_map(|details| &details.causes);
    let fields: Vec<_> = causes.map(|cause| cause.field.as_str()).collect();
    match status.code {
        404 | 409 => true,
        422 => fields.contains(&"metadata.uid"),
        _ => false,
    }
}
