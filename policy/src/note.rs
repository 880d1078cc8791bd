//! The annotation that notes what an object was before it was rewritten.
//!
//! It is a JSON object: `{"<copy>": "<image as it was written>"}`, and of a template that got a pull Secret also
//! `"imagePullSecret": "<name>"`, which is no copy's name, since those have a registry and a path.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

const ANNOTATION: &str = "image-mirror.dev/original-images";
const SECRET: &str = "imagePullSecret";

/// What is noted about an object.
#[derive(Debug, Default)]
pub struct Note(BTreeMap<String, String>);

impl Note {
    /// The note on `object`. What cannot be read is no note.
    pub fn on(object: &Value) -> Self {
        let text = object
            .get("metadata")
            .and_then(|metadata| metadata.get("annotations")?.get(ANNOTATION)?.as_str());
        let entries = text.and_then(|text| serde_json::from_str(text).ok());
        Self(entries.unwrap_or_default())
    }

    /// The pull Secret that the policy gave to the template.
    pub fn secret(&self) -> Option<&str> {
        self.0.get(SECRET).map(String::as_str)
    }

    /// Notes that the policy gave this pull Secret to the template, or took it back.
    pub fn set_secret(&mut self, name: Option<String>) {
        match name {
            Some(name) => self.0.insert(SECRET.to_owned(), name),
            None => self.0.remove(SECRET),
        };
    }

    /// Notes what a copy stands for.
    pub fn add(&mut self, copy: String, original: String) {
        self.0.insert(copy, original);
    }

    /// Forgets copies that are not among the images of the object any more.
    pub fn retain(&mut self, images: &BTreeSet<&str>) {
        self.0
            .retain(|key, _| key == SECRET || images.contains(key.as_str()));
    }

    /// Writes the note onto `object`, or takes it away if there is nothing to note.
    pub fn write(&self, object: &mut Value) {
        if self.0.is_empty() {
            let annotations = object.pointer_mut("/metadata/annotations");
            if let Some(Value::Object(annotations)) = annotations {
                annotations.remove(ANNOTATION);
            }
            return;
        }
        // A map of strings can always be written.
        let Ok(text) = serde_json::to_string(&self.0) else {
            return;
        };
        let annotations =
            child(object, "metadata").and_then(|metadata| child(metadata, "annotations"));
        if let Some(Value::Object(annotations)) = annotations {
            annotations.insert(ANNOTATION.to_owned(), Value::String(text));
        }
    }
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
