//! Which objects are not to be touched, whatever their images are.

use crate::object::Object;
use crate::pod_template::Target;

/// Whether an object is to be touched.
#[derive(Debug, PartialEq, Eq)]
pub enum Exclusion {
    /// It is.
    None,
    /// It is not.
    Whole,
    /// It is not, since its owner said so, but not where its Pods can see it.
    ButForPods,
}

/// Whether `object` is to be touched. It is not if its owner said so, if it is a static Pod, if it is being deleted (a
/// rejection would keep its finalizers from being removed), if a controller owns it, or if the settings name its owner or a
/// label of it.
///
/// What a controller owns between the workload and its Pods (the `ReplicaSet` of a Deployment, the `Job` of a `CronJob`, the
/// `StatefulSet` of an operator) would be changed back by that controller. The Pods at the end are rewritten anyway.
pub fn exclusion(object: &Object<'_>, target: &Target) -> Exclusion {
    let metadata = object.metadata();
    let template = object.template().map(|template| &template.metadata);
    if metadata.is_static_pod
        || metadata.is_deleted
        || (metadata.has_controller && !target.is_pod)
        || metadata.has_skipped_owner
        || metadata.has_skipped_label
        || template.is_some_and(|template| template.opts_out || template.has_skipped_label)
    {
        Exclusion::Whole
    } else if metadata.opts_out {
        Exclusion::ButForPods
    } else {
        Exclusion::None
    }
}
