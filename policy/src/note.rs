//! The annotation that notes what an object was before it was rewritten.
//!
//! It is on the Pod template (or the Pod), so that it goes wherever the images go: to the Pods, and back with a rollback.
//! It is a JSON object, `{"<copy>": "<image as it was written>"}`. If the policy gave the template a pull Secret, there is
//! also `"imagePullSecret": "<name>"`, which is no copy's name, since those have a registry and a path.

use std::collections::{BTreeMap, BTreeSet};

use mirror_contract::answer::is_secret_name;
use serde_json::{Map, Value};

const ANNOTATION: &str = "image-mirror.dev/original-images";
const SECRET: &str = "imagePullSecret";
/// Bytes of all keys and values of an object's annotations. The API server refuses an object with more
/// (`TotalAnnotationSizeLimitB` in Kubernetes' apimachinery).
const MAX_ANNOTATIONS: usize = 256 * 1024;

/// What is noted on a template or a Pod.
#[derive(Clone, Debug, Default)]
pub struct Note {
    /// The images as they were written, by their copies.
    originals: BTreeMap<String, String>,
    /// The pull Secret that the policy gave to the template.
    pub secret: Option<String>,
}

impl Note {
    /// The note on `template`. What cannot be read is no note.
    pub fn on(template: &Value) -> Self {
        let text = template
            .get("metadata")
            .and_then(|metadata| metadata.get("annotations")?.get(ANNOTATION)?.as_str());
        let entries = text.and_then(|text| serde_json::from_str(text).ok());
        let mut originals: BTreeMap<String, String> = entries.unwrap_or_default();
        // Whoever may write the object may write the note.
        let secret = originals.remove(SECRET).filter(|name| is_secret_name(name));
        Self { originals, secret }
    }

    /// Whether nothing is noted.
    pub fn is_empty(&self) -> bool {
        self.originals.is_empty() && self.secret.is_none()
    }

    /// What `image` was before it was replaced, if it is a copy that was noted.
    pub fn original(&self, image: &str) -> Option<&str> {
        self.originals.get(image).map(String::as_str)
    }

    /// All copies, each with what it stands for.
    pub fn copies(&self) -> impl Iterator<Item = (&str, &str)> {
        let entries = self.originals.iter();
        entries.map(|(copy, original)| (copy.as_str(), original.as_str()))
    }

    /// Notes what a copy stands for.
    pub fn add(&mut self, copy: String, original: String) {
        self.originals.insert(copy, original);
    }

    /// Forgets copies that are not among these images.
    pub fn retain(&mut self, images: &BTreeSet<&str>) {
        self.originals
            .retain(|copy, _| images.contains(copy.as_str()));
    }

    /// Writes the note onto `template`; takes it away if there is nothing to note, or no room for it.
    pub fn write(mut self, template: &mut Value) {
        let is_empty = self.is_empty();
        let secret = self.secret.take();
        self.originals
            .extend(secret.map(|name| (SECRET.to_owned(), name)));
        // A map of strings can always be written.
        let text = serde_json::to_string(&self.originals).unwrap_or_default();
        let size = size_of_others(template) + ANNOTATION.len() + text.len();
        if is_empty || size > MAX_ANNOTATIONS {
            let annotations = template.pointer_mut("/metadata/annotations");
            if let Some(Value::Object(annotations)) = annotations {
                annotations.remove(ANNOTATION);
            }
            return;
        }
        let annotations =
            child(template, "metadata").and_then(|metadata| child(metadata, "annotations"));
        if let Some(Value::Object(annotations)) = annotations {
            annotations.insert(ANNOTATION.to_owned(), Value::String(text));
        }
    }
}

/// Bytes of all other annotations of `template`.
fn size_of_others(template: &Value) -> usize {
    let annotations = template
        .get("metadata")
        .and_then(|metadata| metadata.get("annotations")?.as_object());
    let others = annotations.into_iter().flatten();
    others
        .filter(|(key, _)| *key != ANNOTATION)
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
