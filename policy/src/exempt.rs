//! Which objects are not to be touched, whatever their images are.

use serde_json::Value;

use crate::pod_template::Target;
use crate::settings::Settings;

const SKIP: &str = "image-mirror.dev/skip";
/// Marks the API server's image of a Pod that a kubelet reads from a file; it cannot be changed.
const STATIC_POD: &str = "kubernetes.io/config.mirror";

/// Whether an object is to be touched.
#[derive(Debug, PartialEq, Eq)]
pub enum Exemption {
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
pub fn exemption(object: &Value, target: &Target, settings: &Settings<'_>) -> Exemption {
    let metadata = |key| object.get("metadata")?.get(key);
    let is_static = metadata("annotations").is_some_and(|list| list.get(STATIC_POD).is_some());
    let is_deleted = metadata("deletionTimestamp").is_some_and(|time| !time.is_null());
    let owners = metadata("ownerReferences").and_then(Value::as_array);
    let is_owned = |owner: &Value| {
        let is_between = !target.is_pod && owner.get("controller") == Some(&Value::Bool(true));
        is_between || settings.skips_owner(text(owner, "apiVersion"), text(owner, "kind"))
    };
    let template = target.template(object);
    if is_static
        || is_deleted
        || owners.is_some_and(|owners| owners.iter().any(is_owned))
        || template.is_some_and(|template| opts_out(template) || is_skipped(template, settings))
        || is_skipped(object, settings)
    {
        Exemption::Whole
    } else if opts_out(object) {
        Exemption::ButForPods
    } else {
        Exemption::None
    }
}

/// Whether the labels of an object or a template are such that the settings leave it alone.
fn is_skipped(part: &Value, settings: &Settings<'_>) -> bool {
    settings.skips_labels(|key| entry(part, "labels", key))
}

/// Whether an annotation or a label of an object or a template says that it is to be left alone.
fn opts_out(part: &Value) -> bool {
    entry(part, "annotations", SKIP) == Some("true") || entry(part, "labels", SKIP) == Some("true")
}

fn entry<'a>(part: &'a Value, list: &str, key: &str) -> Option<&'a str> {
    part.get("metadata")?.get(list)?.get(key)?.as_str()
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value.get(key).and_then(Value::as_str).unwrap_or_default()
}
