//! An object, as far as it matters for decisions.

use crate::images::Slot;
use crate::old_object::OldObject;
use crate::originals_annotation::OriginalsAnnotation;
use crate::pull_secrets::PullSecrets;

/// An object, as far as it matters for decisions.
pub struct Workload<'a> {
    /// The images that may change.
    pub slots: &'a [&'a Slot<'a>],
    /// Where the object is.
    pub namespace: &'a str,
    /// The pull Secrets that it lists.
    pub secrets: PullSecrets<'a>,
    /// Its annotation with the original images.
    pub annotation: &'a OriginalsAnnotation,
    /// Istio injects containers into its Pods.
    pub is_injected: bool,
    /// What it replaces.
    pub old_object: &'a OldObject<'a>,
    /// Whether its pod spec is new, or differs from what it replaces.
    pub is_new: &'a dyn Fn() -> bool,
    /// Whether its copies may get other names, because its Pods are replaced anyway or because it is its turn.
    pub may_rename: &'a dyn Fn() -> bool,
}
