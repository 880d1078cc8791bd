//! The edit of the object: images, the pull Secret, and a note of what was there. Nothing else is touched.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::decide::{Fate, Plan};
use crate::images::Images;
use crate::pod_template::{Scope, Target};
use crate::pull_secrets::SecretChange;

/// The annotation that notes, as a JSON object, what each copy stands for: `{"<copy>":"<image as it was written>"}`.
const ORIGINALS: &str = "image-mirror.dev/original-images";

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
    if edits.is_empty() && plan.secret == SecretChange::None {
        return false;
    }
    let Some(spec) = target.pod_spec_mut(object) else {
        return false;
    };
    for (place, image) in edits {
        place.put(spec, image);
    }
    plan.secret.apply(spec);
    // The API server refuses or drops the annotation when it comes with the update of a Pod's images.
    if target.scope == Scope::Everything {
        note(object, target, originals);
    }
    true
}

/// Whether the policy noted that it rewrote images of `object`.
pub fn was_rewritten(object: &Value) -> bool {
    !noted(object).is_empty()
}

/// Writes the annotation. What it already says stays, as far as the images are still there.
fn note(object: &mut Value, target: &Target, new: BTreeMap<String, String>) {
    let before = noted(object);
    if before.is_empty() && new.is_empty() {
        return;
    }
    let mut originals = before;
    originals.extend(new);
    if let Some(spec) = target.pod_spec(object) {
        let present = Images::of(spec).names();
        originals.retain(|copy, _| present.contains(copy.as_str()));
    }
    // A map of strings can always be written.
    let Ok(text) = serde_json::to_string(&originals) else {
        return;
    };
    let annotations = child(object, "metadata").and_then(|metadata| child(metadata, "annotations"));
    let Some(Value::Object(annotations)) = annotations else {
        return;
    };
    if originals.is_empty() {
        annotations.remove(ORIGINALS);
    } else {
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
