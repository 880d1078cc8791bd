//! Where an object has its pod template, and what of it a request may change.
//!
//! A Pod is its own template: both have `metadata` and `spec`.

use mirror_contract::workload::pod_template_path;

use crate::request::{Operation, Request};

/// The part of an object that a request may change.
pub struct Target {
    /// The keys that lead from the object to its pod template.
    pub path: &'static [&'static str],
    /// How much of that template may change.
    pub scope: Scope,
    /// Whether the object is a Pod itself.
    pub is_pod: bool,
    /// Whether the object is of a custom kind, whose schema may drop annotations of its template.
    pub is_custom: bool,
}

/// How much of a pod template may change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Everything: the object is new, or a template that is mutable.
    Everything,
    /// The images that this update of a Pod changes. The kubelet would restart a container whose image changed otherwise,
    /// and the API server refuses the update if anything else differs.
    ChangedImages,
    /// Nothing: the template of a Job is immutable. What was rewritten when it was created must be so again.
    Nothing,
    /// The ephemeral containers that this update adds. The API server drops every other change.
    NewEphemeralContainers,
}

impl Target {
    /// The target of `request`; `None` when nothing may be changed.
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
