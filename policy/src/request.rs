//! The admission request (`AdmissionRequest` of `admission.k8s.io/v1`), and the part of its object that may change.
//!
//! The objects stay unparsed text: most requests are decided without them.

use mirror_contract::workload::pod_template_path;
use serde::Deserialize;
use serde_json::value::RawValue;

/// The payload of the function `validate`.
#[derive(Deserialize)]
pub struct Payload<'a> {
    #[serde(borrow, default)]
    pub settings: Option<&'a RawValue>,
    #[serde(borrow)]
    pub request: Request<'a>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Request<'a> {
    #[serde(default)]
    pub uid: String,
    pub kind: Kind,
    #[serde(default)]
    pub sub_resource: Option<String>,
    pub operation: Operation,
    /// `None` for cluster-scoped objects.
    #[serde(default)]
    pub namespace: Option<String>,
    /// `None` if the API server generates the name.
    #[serde(default)]
    pub name: Option<String>,
    #[serde(default)]
    pub dry_run: Option<bool>,
    #[serde(borrow, default)]
    pub object: Option<&'a RawValue>,
    #[serde(borrow, default)]
    pub old_object: Option<&'a RawValue>,
}

#[derive(Deserialize)]
pub struct Kind {
    #[serde(default)]
    pub group: String,
    pub kind: String,
}

#[derive(Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum Operation {
    #[serde(rename = "CREATE")]
    Create,
    #[serde(rename = "UPDATE")]
    Update,
    #[serde(other)]
    Other,
}

/// The part of an object that a request may change.
pub struct Target {
    /// The keys that lead from the object to its Pod template, none for a Pod.
    pub path: &'static [&'static str],
    pub scope: Scope,
    pub is_pod: bool,
    /// The object is of a custom kind, whose schema may drop annotations of its template.
    pub is_custom: bool,
}

/// How much of a Pod template may change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// The object is new, or its template is mutable.
    Everything,
    /// An update of a Pod: only the images that it changes. Another image would restart its container, and the API server
    /// denies an update that changes anything else.
    ChangedImages,
    /// An update of a Job, whose template is immutable: the copies that it had are restored.
    Nothing,
    /// The ephemeral containers that this update adds. The API server drops every other change.
    NewEphemeralContainers,
}

impl Target {
    /// Returns `None` if nothing may be changed.
    pub fn of(request: &Request<'_>) -> Option<Self> {
        let group_and_kind = (request.kind.group.as_str(), request.kind.kind.as_str());
        let is_pod = group_and_kind == ("", "Pod");
        let scope = match (
            request.operation,
            request.sub_resource.as_deref().unwrap_or_default(),
        ) {
            (Operation::Update, "") if group_and_kind == ("batch", "Job") => Scope::Nothing,
            (Operation::Update, "") if is_pod => Scope::ChangedImages,
            (Operation::Create | Operation::Update, "") => Scope::Everything,
            (Operation::Update, "ephemeralcontainers") if is_pod => Scope::NewEphemeralContainers,
            _ => return None,
        };
        Some(Self {
            path: pod_template_path(group_and_kind.0, group_and_kind.1),
            scope,
            is_pod,
            is_custom: !matches!(group_and_kind.0, "" | "apps" | "batch"),
        })
    }
}
