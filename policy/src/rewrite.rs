//! The edit of the object: images, the pull Secret, and a note of what was there. Nothing else is touched.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::decide::{Fate, Plan};
use crate::images::Images;
use crate::pod_template::{Scope, Target};
use crate::pull_secrets;

/// The annotation that notes, as a JSON object, what each copy stands for: `{"<copy>":"<image as it was written>"}`.
const ORIGINALS: &str = "image-mirror.dev/original-images";

/// Bytes of all keys and values of an object's annotations. The API server refuses an object with more
/// (`TotalAnnotationSizeLimitB` in Kubernetes' apimachinery).
const MAX_ANNOTATIONS: usize = 256 * 1024;

/// Carries out `plan` on `object`; `false` if there is nothing to change.
pub fn rewrite(object: &mut Value, target: &Target, plan: Plan) -> bool {
    let mut originals = BTreeMap::new();
    let mut edits = Vec::new();
    for decision in plan.decisions {
        if let Fate::Rewrite(copy) = decision.fate {
            originals.insert(copy.image.clone(), decision.image);
            edits.push((decision.place, copy.image));
        }
    }
    if edits.is_empty() {
        return false;
    }
    let Some(spec) = target.pod_spec_mut(object) else {
        return false;
    };
    for (place, image) in edits {
        place.put(spec, image);
    }
    if let Some(name) = plan.add_secret {
        pull_secrets::add(spec, &name);
    }
    // The API server refuses or drops the annotation when it comes with the update of a Pod's images.
    if target.scope == Scope::Everything {
        note(object, target, originals);
    }
    true
}

/// Writes the annotation, if there is room for it. What it already says stays, as far as the images are still there.
fn note(object: &mut Value, target: &Target, new: BTreeMap<String, String>) {
    let mut originals = noted(object);
    originals.extend(new);
    if let Some(spec) = target.pod_spec(object) {
        let present = Images::of(spec).names();
        originals.retain(|copy, _| present.contains(copy.as_str()));
    }
    // A map of strings can always be written.
    let Ok(text) = serde_json::to_string(&originals) else {
        return;
    };
    if size_of_others(object) + ORIGINALS.len() + text.len() > MAX_ANNOTATIONS {
        return;
    }
    let annotations = child(object, "metadata").and_then(|metadata| child(metadata, "annotations"));
    if let Some(Value::Object(annotations)) = annotations {
        annotations.insert(ORIGINALS.to_owned(), Value::String(text));
    }
}

fn noted(object: &Value) -> BTreeMap<String, String> {
    object
        .get("metadata")
        .and_then(|metadata| metadata.get("annotations")?.get(ORIGINALS)?.as_str())
        .and_then(|text| serde_json::from_str(text).ok())
        .unwrap_or_default()
}

/// Bytes of all other annotations of `object`.
fn size_of_others(object: &Value) -> usize {
    let annotations = object
        .get("metadata")
        .and_then(|metadata| metadata.get("annotations")?.as_object());
    let others = annotations.into_iter().flatten();
    others
        .filter(|(key, _)| *key != ORIGINALS)
        .map(|(key, value)| key.len() + value.as_str().map_or(0, str::len))
        .sum()
}

/// The object `key` of `value`, made if it is missing or null; `None` if something else is there.
fn child<'a>(value: &'a mut Value, key: &str) -> Option<&'a mut Value> {
    let child = value
        .as_object_mut()?
        .entry(key)
        .or_insert_with(|| Value::Object(Map::new()));
    if child.is_null() {
        *child = Value::Object(Map::new());
    }
    child.is_object().then_some(child)
}
