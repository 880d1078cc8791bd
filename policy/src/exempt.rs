//! Which objects are not to be touched, whatever their images are.

use serde_json::Value;

use crate::pod_template::Target;
use crate::settings::Settings;

const SKIP: &str = "image-mirror.dev/skip";
/// Marks the API server's image of a Pod that a kubelet reads from a file; it cannot be changed.
const STATIC_POD: &str = "kubernetes.io/config.mirror";

/// Whether `object` is not to be touched: its owner said so, it is a static Pod, it is being deleted (a rejection would
/// keep its finalizers from being removed), a controller owns it, or the settings name its owner or a label of it.
///
/// What a controller owns between the workload and its Pods (the `ReplicaSet` of a Deployment, the `Job` of a `CronJob`, the
/// `StatefulSet` of an operator) would be changed back by that controller. The Pods at the end are rewritten anyway.
pub fn is_exempt(object: &Value, target: &Target, settings: &Settings<'_>) -> bool {
    let metadata = |key| object.get("metadata")?.get(key);
    let is_static = metadata("annotations").is_some_and(|list| list.get(STATIC_POD).is_some());
    let is_deleted = metadata("deletionTimestamp").is_some_and(|time| !time.is_null());
    let owners = metadata("ownerReferences").and_then(Value::as_array);
    let is_owned = |owner: &Value| {
        let is_between = !target.is_pod && owner.get("controller") == Some(&Value::Bool(true));
        is_between || settings.skips_owner(text(owner, "apiVersion"), text(owner, "kind"))
    };
    is_static
        || is_deleted
        || owners.is_some_and(|owners| owners.iter().any(is_owned))
        || is_marked(object, settings)
        || target
            .template(object)
            .is_some_and(|template| is_marked(template, settings))
}

/// Whether annotations or labels of an object or a template say that it is not to be touched.
fn is_marked(part: &Value, settings: &Settings<'_>) -> bool {
    let entry = |list: &str, key: &str| part.get("metadata")?.get(list)?.get(key)?.as_str();
    entry("annotations", SKIP) == Some("true")
        || entry("labels", SKIP) == Some("true")
        || settings.skips_labels(|key| entry("labels", key))
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value.get(key).and_then(Value::as_str).unwrap_or_default()
}
