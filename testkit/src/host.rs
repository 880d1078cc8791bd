//! A host for the policy's WebAssembly that behaves like Kubewarden's policy server.
//!
//! Requests are narrowed to what the real host knows, callbacks have its order of checks, its error texts, its cache
//! and its single lock, every evaluation gets a fresh instance and a deadline, and the mutated object becomes a
//! JSON patch. Only `oci/v1/oci_manifest`, `oci/v1/manifest_digest` and `tracing/log` do real work.
//!
//! It must not know anything about the policy: what a policy server would not do is not done here either.

mod builder;
mod cache;
mod callback;
mod capabilities;
mod engine;
mod journal;
mod oci;
mod request;
mod response;
mod sources;
// They compare with wasmtime, which `--workspace` brings.
#[cfg(all(test, feature = "wasmtime"))]
mod tests;

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

pub use builder::PolicyHostBuilder;
pub use journal::{HostCall, LogLine};
pub use oci::{Answer, OciCallbacks};
pub use request::{AdmissionRequest, GroupVersionKind, GroupVersionResource, UserInfo};
pub use response::{AdmissionResponse, Mode, SettingsVerdict, Status};
pub use sources::Sources;

use callback::{Callbacks, ImageSource};
use capabilities::Capabilities;
use engine::{Engine, INTERRUPTED};
use journal::Journal;
use response::Verdict;

/// What a test did wrong. What a policy does wrong is an [`AdmissionResponse`], as in a cluster.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// The module cannot be compiled or lacks what waPC needs.
    #[error("the policy's module cannot be used: {0}")]
    Module(String),
    /// A certificate authority is not a PEM certificate.
    #[error("the certificate authority of {registry} is not a PEM certificate")]
    Authority {
        /// The `host:port` it was given for.
        registry: String,
    },
    /// A capability pattern is neither `*`, `namespace/*` nor a known operation.
    #[error("the host capability pattern {0:?} names nothing that the host has")]
    Capability(String),
    /// The request lacks what the host requires; the real server answers 422.
    #[error("the admission request cannot be read: {0}")]
    Request(#[source] serde_json::Error),
    /// Settings are not a JSON object.
    #[error("the settings are not a JSON object")]
    Settings,
    /// The patch, applied to the request's object, does not give the object that the policy returned.
    #[error("the patch does not lead to the policy's object: {0}")]
    Patch(String),
}

/// One policy in one policy server. It can be shared between threads; evaluations may run at the same time.
pub struct PolicyHost {
    name: String,
    engine: Engine,
    capabilities: Capabilities,
    images: ImageSource,
    mode: Mode,
}

/// All that one evaluation gave.
#[derive(Debug, Clone, PartialEq)]
pub struct Evaluation {
    /// What the API server gets.
    pub response: AdmissionResponse,
    /// What the policy logged, in order.
    pub logs: Vec<LogLine>,
    /// What the policy asked of the host, in order.
    pub calls: Vec<HostCall>,
    /// The request's object with the response's patch applied. `None` when there is no patch.
    pub mutated: Option<Value>,
    /// Time from the request to the response.
    pub elapsed: Duration,
}

impl PolicyHost {
    /// Starts the configuration of a host for a module (binary, or the text format).
    #[must_use]
    pub fn builder(wasm: impl Into<Vec<u8>>) -> PolicyHostBuilder {
        PolicyHostBuilder::new(wasm.into())
    }

    /// Asks the policy whether its settings can be used.
    ///
    /// Host calls fail here: the policy server validates settings before its callback loop runs.
    #[must_use]
    pub fn validate_settings(&self, settings: &Value) -> SettingsVerdict {
        let callbacks = Callbacks {
            capabilities: self.capabilities.clone(),
            images: None,
            journal: Arc::default(),
        };
        let payload = settings.to_string();
        let refuse = |message: String| SettingsVerdict {
            valid: false,
            message: Some(message),
        };
        match self
            .engine
            .call("validate_settings", payload.as_bytes(), callbacks)
        {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .unwrap_or_else(|error| refuse(format!("error: {error:?}"))),
            Err(error) => refuse(format!(
                "Error invoking settings validation callback: {error:?}"
            )),
        }
    }

    /// Evaluates an `AdmissionReview`, or the bare request in it.
    ///
    /// # Errors
    /// [`HostError::Request`] or [`HostError::Settings`] for input that the real server would not take, and
    /// [`HostError::Patch`] when the patch does not give the object that the policy returned.
    pub fn evaluate(&self, request: &Value, settings: &Value) -> Result<Evaluation, HostError> {
        if !settings.is_object() {
            return Err(HostError::Settings);
        }
        let request = AdmissionRequest::from_json(request)?;
        let start = Instant::now();
        let journal = Arc::new(Journal::default());
        let callbacks = Callbacks {
            capabilities: self.capabilities.clone(),
            images: Some(self.images.clone()),
            journal: Arc::clone(&journal),
        };
        let payload = json!({ "request": request, "settings": settings }).to_string();
        let outcome = self.engine.call("validate", payload.as_bytes(), callbacks);
        let (response, wanted) = respond(&request, outcome);
        let response = response.in_mode(self.mode, &self.name);
        let mutated = apply(request.object.as_ref(), &response, wanted.as_ref())?;
        let entries = journal.take();
        Ok(Evaluation {
            response,
            logs: entries.logs,
            calls: entries.calls,
            mutated,
            elapsed: start.elapsed(),
        })
    }

    /// The protocol version that the policy speaks, `"v1"` with its quotes.
    ///
    /// # Errors
    /// [`HostError::Module`] when the policy does not say.
    pub fn protocol_version(&self) -> Result<String, HostError> {
        let callbacks = Callbacks {
            capabilities: Capabilities::default(),
            images: None,
            journal: Arc::default(),
        };
        self.engine
            .call("protocol_version", &[], callbacks)
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .map_err(|error| HostError::Module(error.to_string()))
    }

    /// Forgets all cached OCI answers, as a restart of the policy server does.
    pub fn clear_cache(&self) {
        if let ImageSource::Registries(oci) = &self.images {
            oci.clear_cache();
        }
    }
}

/// The response, and the object that the guest returned.
fn respond(
    request: &AdmissionRequest,
    outcome: Result<Vec<u8>, wapc::errors::Error>,
) -> (AdmissionResponse, Option<Value>) {
    let uid = request.uid.as_str();
    let bytes = match outcome {
        Ok(bytes) => bytes,
        Err(error) if error.to_string().contains(INTERRUPTED) => {
            let message =
                "Policy execution interrupted because it exceeded the allowed execution time";
            return (
                AdmissionResponse::reject(uid, message.to_owned(), Some(500)),
                None,
            );
        }
        Err(error) => return (AdmissionResponse::internal_error(uid, &error), None),
    };
    match serde_json::from_slice::<Verdict>(&bytes) {
        Ok(verdict) => (
            AdmissionResponse::from_verdict(uid, request.object.as_ref(), &verdict),
            verdict.mutated_object,
        ),
        Err(error) => {
            let error = format!("invalid response from policy: {error}");
            (AdmissionResponse::internal_error(uid, &error), None)
        }
    }
}

/// Applies the response's patch as the API server does, and checks that it gives what the policy wanted.
fn apply(
    object: Option<&Value>,
    response: &AdmissionResponse,
    wanted: Option<&Value>,
) -> Result<Option<Value>, HostError> {
    if response.patch.is_none() {
        return Ok(None);
    }
    let (Some(mut object), Some(patch)) = (object.cloned(), response.json_patch()) else {
        return Err(HostError::Patch("it is not a JSON patch".to_owned()));
    };
    json_patch::patch(&mut object, &patch).map_err(|error| HostError::Patch(error.to_string()))?;
    if Some(&object) != wanted {
        return Err(HostError::Patch(patch.to_string()));
    }
    Ok(Some(object))
}
