//! Watched objects, reduced to what matters here.
//!
//! The watch streams are read into [`Watched`], which any JSON can be. With its kind, that is an [`Object`].

#[cfg(test)]
mod tests;
mod watched;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use k8s_openapi::jiff::Timestamp;

pub use watched::Watched;

use super::workload_kind::WorkloadKind;

/// The kind, namespace and name of a workload. A deleted one and its successor may share it; their uids differ.
///
/// The order is by kind first, so that objects that people write come before those that controllers create.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    pub kind: WorkloadKind,
    pub namespace: Arc<str>,
    pub name: Box<str>,
}

/// Whether containers will start from a workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    /// At any time.
    Active,
    /// After somebody resumes it (`Deployment.spec.paused`, `CronJob.spec.suspend`).
    Paused,
    /// Never again: it is being deleted, or it has ended (see [`Workload::has_ended`]).
    Done,
}

/// Labels of an object.
pub type Labels = BTreeMap<String, String>;

/// An object that uses images.
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workload {
    pub key: Key,
    /// Empty if unknown.
    pub uid: Box<str>,
    /// To the second.
    pub created: Option<Timestamp>,
    pub life: Life,
    /// Owned by a controller (`ownerReferences[].controller`).
    pub is_owned: bool,
    /// This controller, if its reference is complete.
    pub controller: Option<Owner>,
    /// All owners, each with its API version and its kind.
    pub owners: Vec<(String, String)>,
    /// The labels of the object itself.
    pub labels: Labels,
    /// The labels of its Pod template; those of the object for a Pod.
    pub template_labels: Labels,
    /// Being deleted.
    pub is_deleted: bool,
    /// A Pod or Job has ended, or a `ReplicaSet` without Pods is the history of its owner.
    pub has_ended: bool,
    /// The revision of the template of a Pod, if its controller marks it (`controller-revision-hash`).
    pub revision: Box<str>,
    /// The policy leaves it alone: it or its Pod template has opted out, or it is a static Pod.
    pub is_exempt: bool,
    /// Has the policy's annotation with the original images itself. A Pod gets it from the policy or from its template.
    pub is_annotated: bool,
    /// The images as they are written, without placeholders and without those that are never pulled.
    pub images: Vec<String>,
    /// Images with the pull policy `Never`, which are on the nodes already and are not copied.
    pub never_pulled: Vec<String>,
    /// The names and images of containers and init containers, without placeholders.
    pub containers: Vec<(String, String)>,
    /// The copies in the policy's annotation, each with its original, and originals that a Pod uses instead of copies, each
    /// with its copy. The author of the object can forge them.
    pub originals: Vec<(String, String)>,
    /// The names of the pull Secrets that it lists, which may be empty.
    pub pull_secrets: Vec<String>,
}

/// An owner of an object, in the same namespace, as `ownerReferences` names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// For example `apps/v1`.
    pub api_version: Box<str>,
    pub kind: Box<str>,
    pub name: Box<str>,
    pub uid: Box<str>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamespaceObject {
    pub name: Arc<str>,
    pub labels: Labels,
    /// To the second.
    pub created: Option<Timestamp>,
    /// Nothing can be created in it any more.
    pub is_terminating: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Object {
    Namespace(NamespaceObject),
    Workload(Box<Workload>),
}

impl Owner {
    /// Returns the kind if it is watched.
    #[must_use]
    pub fn workload_kind(&self) -> Option<WorkloadKind> {
        let group = self.api_version.rsplit_once('/');
        let group = group.map_or("", |(group, _)| group);
        WorkloadKind::ALL
            .into_iter()
            .find(|kind| kind.name() == &*self.kind && kind.group() == group)
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}/{}", self.kind, self.namespace, self.name)
    }
}
