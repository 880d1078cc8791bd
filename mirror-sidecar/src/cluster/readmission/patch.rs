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

/// Who owns the annotation, as `metadata.managedFields` says.
const FIELD_MANAGER: &str = "mirror-sidecar";

/// Longest time for a patch: twice what the policy's webhook may take.
const WITHIN: Duration = Duration::from_secs(30);

/// A workload could not be sent through admission again.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReadmitError {
    /// It is gone, has a successor, or just changed. The watch tells more.
    #[error("{key} is not any more what it was: {source}")]
    Outdated { key: Key, source: kube::Error },
    /// The API server, or a webhook that it asks, says no or nothing.
    #[error("cannot patch {key}, look at the API server and its webhooks: {source}")]
    Refused { key: Key, source: kube::Error },
    /// There is no answer.
    #[error("no answer to the patch of {key} within {} s", WITHIN.as_secs())]
    Slow { key: Key },
    /// The pull Secret that it would need is not there.
    #[error("{key} needs the pull Secret first: {refusal}")]
    Secret { key: Key, refusal: Refusal<'static> },
    /// The answer is no workload.
    #[error("the answer to the patch of {key} is no {}", .key.kind)]
    Odd { key: Key },
}

impl ReadmitError {
    /// Returns the reason if a quota, an admission policy or missing rights refuse it: people must act on that.
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

    /// What that means for the workload; logged on the way.
    pub(super) fn outcome(&self) -> Outcome {
        if let Self::Outdated { .. } = self {
            tracing::debug!(error = %self, "looked at again later");
            return Outcome::Outdated;
        }
        if matches!(self, Self::Refused { source, .. } if is_unreachable(source)) {
            tracing::debug!(error = %self, "not sent through admission again");
            return Outcome::Failed;
        }
        if let Self::Secret { .. } = self {
            // The pull Secrets log that themselves.
            tracing::debug!(error = %self, "not sent through admission again; tried later");
            return Outcome::Failed;
        }
        tracing::warn!(error = %self, "not sent through admission again; tried later");
        Outcome::Failed
    }
}

/// Sets the annotation on the workload's own metadata.
///
/// It is not on the Pod template, so the annotation alone starts no rollout; only what the policy then changes does. Tools
/// that apply manifests own what their manifests say (`managedFields`, or the last applied configuration) and neither show
/// nor remove what else is there, so they do not fight over it.
///
/// The uid makes it a patch of this object and of no successor. The resource version is left out on purpose: it changes
/// with each status, so most patches of a busy workload would be refused. If the specification just changed, then the new
/// one passes the policy once more, which is what would be done with it next anyway; an opt-out or an image that was just
/// changed is the policy's to see, and it does.
pub(super) struct Patch<'a> {
    server: &'a ApiServer,
    candidate: &'a Candidate,
    /// The value of the annotation: it must differ from the one before.
    now: String,
}

/// What an admission did.
pub(super) struct Effect {
    /// Something changed that should.
    pub is_helped: bool,
    /// The images that are still named.
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

    /// What it would do. Nothing is stored.
    pub(super) async fn try_out(&self) -> Result<Effect, ReadmitError> {
        self.request(true).await
    }

    /// Stores it.
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
        let stored = match timeout(WITHIN, response).await {
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
                is_helped: self.candidate.is_helped(&workload),
                remaining: self.candidate.remaining(&workload),
            }),
            _ => Err(ReadmitError::Odd { key: key.clone() }),
        }
    }
}

/// It is gone (404), or it is another one: API servers answer a wrong uid with 409, or with 422 and the field's name.
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
