//! Watched objects, trimmed to what matters here.
//!
//! [`Watched`] is what the watch streams are read into: no field that is not needed is ever kept, and an odd object never
//! breaks a stream. What it means, given its kind, is an [`Object`].

mod read;
mod resource;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;

use k8s_openapi::jiff::Timestamp;

pub use resource::Watched;

use super::workload_kind::WorkloadKind;

/// Which workload: its kind, namespace and name. A deleted one and its successor may share it; their uids differ.
///
/// The order is by kind first, so that what a person wrote comes before what was made of it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    pub kind: WorkloadKind,
    pub namespace: Arc<str>,
    pub name: Box<str>,
}

/// Whether containers will start from a workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    /// They may at any time.
    Active,
    /// Not until somebody resumes it (`Deployment.spec.paused`, `CronJob.spec.suspend`).
    Paused,
    /// Never again: it is being deleted, a Pod or Job has ended, or a `ReplicaSet` is kept without Pods as the history of
    /// its owner.
    Done,
}

/// An object that names images.
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workload {
    pub key: Key,
    /// Its identity; empty if it is not known.
    pub uid: Box<str>,
    /// When it was created, to the second.
    pub created: Option<Timestamp>,
    /// Whether containers will start from it.
    pub life: Life,
    /// Whether a controller owns it (`ownerReferences[].controller`).
    pub is_owned: bool,
    /// That controller, as far as it is named completely.
    pub controller: Option<Owner>,
    /// Whether it is being deleted.
    pub is_deleted: bool,
    /// Whether it has ended, or is kept without Pods as the history of its owner.
    pub has_ended: bool,
    /// Which template of its controller a Pod was made of, where the controller says so (`controller-revision-hash`).
    pub revision: Box<str>,
    /// Whether the policy leaves it alone: its owner said so, on it or on its Pod template, or it is a static Pod.
    pub is_exempt: bool,
    /// Whether it has the policy's note on what was rewritten, on itself: on a Pod, that is where the policy put it, or the
    /// template of the Pod.
    pub is_noted: bool,
    /// The images as they are written, without those that are never pulled, and without placeholders.
    pub images: Vec<String>,
    /// The names and images of containers and init containers, without placeholders.
    pub containers: Vec<(String, String)>,
    /// The images that the policy's annotation names as copies, each with its original. The author of the object can forge
    /// them.
    pub originals: Vec<(String, String)>,
    /// The names of the pull Secrets that it lists itself, which may be empty texts.
    pub pull_secrets: Vec<String>,
}

/// An owner of an object, in the same namespace, as `ownerReferences` names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// The API version, such as `apps/v1`.
    pub api_version: Box<str>,
    pub kind: Box<str>,
    pub name: Box<str>,
    /// Its identity.
    pub uid: Box<str>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamespaceObject {
    pub name: Arc<str>,
    /// When it was created, to the second.
    pub created: Option<Timestamp>,
    /// Whether it is being deleted, so that nothing can be created in it.
    pub is_terminating: bool,
}

/// What a watch tells about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Object {
    Namespace(NamespaceObject),
    /// An object that names images.
    Workload(Box<Workload>),
}

impl Owner {
    /// Its kind, if that is a watched one.
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
