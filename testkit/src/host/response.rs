//! From the policy's verdict to the `AdmissionResponse` that the API server gets.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use json_patch::Patch;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// `AdmissionResponse` of `admission.k8s.io/v1`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AdmissionResponse {
    /// Uid of the request.
    pub uid: String,
    /// Whether the request may pass.
    pub allowed: bool,
    /// `JSONPatch` when there is a patch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub patch_type: Option<String>,
    /// The JSON patch (RFC 6902) in base64.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub patch: Option<String>,
    /// Why the request was refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<Status>,
    /// Annotations for the API server's audit log.
    pub audit_annotations: Option<BTreeMap<String, String>>,
    /// Lines for the user.
    pub warnings: Option<Vec<String>>,
}

/// Message and HTTP code of a refusal.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// For people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// HTTP status code.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<u16>,
}

/// Whether a policy's settings can be used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SettingsVerdict {
    /// Whether they can.
    pub valid: bool,
    /// Why not.
    pub message: Option<String>,
}

/// What the guest's `validate` returns.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Verdict {
    pub accepted: bool,
    pub message: Option<String>,
    pub code: Option<u16>,
    pub mutated_object: Option<Value>,
    pub audit_annotations: Option<BTreeMap<String, String>>,
    pub warnings: Option<Vec<String>>,
}

/// How the policy server treats what a policy wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// Enforced, and the policy may change objects (`mutating: true`).
    #[default]
    Protect,
    /// Enforced, but a policy that wants to change an object is refused (`mutating: false`).
    ProtectWithoutMutation,
    /// Evaluated with all side effects, but always allowed and never changed (`mode: monitor`).
    Monitor,
}

impl AdmissionResponse {
    pub(super) fn reject(uid: &str, message: String, code: Option<u16>) -> Self {
        Self {
            uid: uid.to_owned(),
            status: Some(Status {
                message: Some(message),
                code,
            }),
            ..Self::default()
        }
    }

    pub(super) fn internal_error(uid: &str, error: &dyn std::fmt::Display) -> Self {
        Self::reject(uid, format!("internal server error: {error}"), Some(500))
    }

    /// Builds the response; `object` is the request's object, absent for DELETE.
    pub(super) fn from_verdict(uid: &str, object: Option<&Value>, verdict: &Verdict) -> Self {
        let patch = match (object, &verdict.mutated_object) {
            (_, None) => None,
            (Some(object), Some(mutated)) => encode(&json_patch::diff(object, mutated)),
            (None, Some(_)) => {
                let message = "Incoming object is null, which happens only with DELETE operations, but the policy \
                               is attempting a mutation. This is not allowed";
                return Self::reject(uid, message.to_owned(), None);
            }
        };
        let status = (verdict.message.is_some() || verdict.code.is_some()).then(|| Status {
            message: verdict.message.clone(),
            code: verdict.code,
        });
        Self {
            uid: uid.to_owned(),
            allowed: verdict.accepted,
            patch_type: patch.as_ref().map(|_| "JSONPatch".to_owned()),
            patch,
            status,
            audit_annotations: verdict.audit_annotations.clone(),
            warnings: verdict.warnings.clone(),
        }
    }

    /// Applies the rules of the policy's mode.
    pub(super) fn in_mode(self, mode: Mode, policy: &str) -> Self {
        match mode {
            Mode::Monitor => Self {
                allowed: true,
                patch_type: None,
                patch: None,
                status: None,
                ..self
            },
            Mode::ProtectWithoutMutation if self.patch.is_some() => Self {
                allowed: false,
                patch_type: None,
                patch: None,
                status: Some(Status {
                    message: Some(format!(
                        "Request rejected by policy {policy}. The policy attempted to mutate the request, \
                         but it is currently configured to not allow mutations."
                    )),
                    code: None,
                }),
                ..self
            },
            Mode::Protect | Mode::ProtectWithoutMutation => self,
        }
    }

    /// The patch, decoded. `None` without a patch or when it is not one.
    #[must_use]
    pub fn json_patch(&self) -> Option<Patch> {
        let bytes = STANDARD.decode(self.patch.as_ref()?).ok()?;
        serde_json::from_slice(&bytes).ok()
    }

    /// The status's message, or nothing.
    #[must_use]
    pub fn message(&self) -> &str {
        self.status
            .as_ref()
            .and_then(|status| status.message.as_deref())
            .unwrap_or_default()
    }
}

fn encode(patch: &Patch) -> Option<String> {
    if patch.0.is_empty() {
        return None;
    }
    let bytes = serde_json::to_vec(patch).ok()?;
    Some(STANDARD.encode(bytes))
}
