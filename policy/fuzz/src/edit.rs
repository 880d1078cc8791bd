//! The differences between an object and the mutated object.

use std::collections::BTreeMap;

use mirror_contract::workload::{ImageList, ORIGINAL_IMAGES};
use serde_json::Value;

use crate::request::Kind;

pub(crate) struct Edit {
    /// The images that changed, before and after.
    pub images: Vec<(String, String)>,
    /// The annotated originals of the old object, by copy.
    pub annotated_before: BTreeMap<String, String>,
    pub secret: Option<SecretEdit>,
    /// The new content of the annotation with the originals.
    pub annotation: Option<BTreeMap<String, String>>,
    /// The object afterwards without all of these changes. It must equal the object before.
    pub rest: Value,
}

pub(crate) enum SecretEdit {
    /// At the end of the list.
    Added(Value),
    /// The only one was removed.
    Removed,
}

impl Edit {
    /// Panics if the added pull Secret was there before, or if the annotation is invalid.
    pub fn new(kind: &Kind, before: &Value, after: &Value) -> Self {
        let mut rest = after.clone();
        // Independent of the code under test.
        let template = match (kind.group.as_str(), kind.kind.as_str()) {
            ("", "Pod") => "",
            ("", "PodTemplate") => "/template",
            ("batch", "CronJob") => "/spec/jobTemplate/spec/template",
            _ => "/spec/template",
        };
        let path = format!("{template}/spec");
        let (mut images, mut secret, mut annotation) = (Vec::new(), None, None);
        let annotated_before = before.pointer(template).and_then(|template| {
            let text = template["metadata"]["annotations"][ORIGINAL_IMAGES].as_str()?;
            serde_json::from_str(text).ok()
        });
        if let (Some(old), Some(new)) = (before.pointer(&path), rest.pointer_mut(&path)) {
            images = restore_images(old, new);
            secret = restore_secrets(old, new);
        }
        if let (Some(old), Some(new)) = (before.pointer(template), rest.pointer_mut(template)) {
            annotation = restore_annotation(old, new);
        }
        Self {
            images,
            annotated_before: annotated_before.unwrap_or_default(),
            secret,
            annotation,
            rest,
        }
    }
}

fn restore_images(before: &Value, after: &mut Value) -> Vec<(String, String)> {
    let mut images = Vec::new();
    for list in ImageList::ALL.map(ImageList::key) {
        let count = before[list].as_array().map_or(0, Vec::len);
        for index in 0..count {
            let key = if list == "volumes" {
                "image/reference"
            } else {
                "image"
            };
            let place = format!("/{list}/{index}/{key}");
            let old = before.pointer(&place).and_then(Value::as_str);
            let new = after.pointer_mut(&place);
            if let (Some(old), Some(Value::String(new))) = (old, new)
                && old != new
            {
                images.push((old.to_owned(), std::mem::replace(new, old.to_owned())));
            }
        }
    }
    images
}

fn restore_secrets(before: &Value, after: &mut Value) -> Option<SecretEdit> {
    const KEY: &str = "imagePullSecrets";
    let old = before.get(KEY);
    let count = old.and_then(Value::as_array).map_or(0, Vec::len);
    let after = after.as_object_mut()?;
    let edit = match after.get_mut(KEY) {
        None if count == 1 => SecretEdit::Removed,
        Some(Value::Array(list)) if list.len() == count + 1 => {
            let added = list.pop()?;
            let is_new = list.iter().all(|entry| entry["name"] != added["name"]);
            assert!(is_new, "{added} is listed twice");
            SecretEdit::Added(added)
        }
        _ => return None,
    };
    restore(after, KEY, old);
    Some(edit)
}

fn restore_annotation(before: &Value, after: &mut Value) -> Option<BTreeMap<String, String>> {
    let old_metadata = before.get("metadata");
    let old = old_metadata.and_then(|metadata| metadata.get("annotations"));
    let metadata = after.get_mut("metadata")?.as_object_mut()?;
    let annotations = metadata.get_mut("annotations")?.as_object_mut()?;
    let old_text = old.and_then(|old| old.get(ORIGINAL_IMAGES));
    let Some(text) = annotations.get(ORIGINAL_IMAGES) else {
        // Removed with the last copy.
        restore(annotations, ORIGINAL_IMAGES, old_text);
        return None;
    };
    let text = text.as_str()?.to_owned();
    if old_text.and_then(Value::as_str) == Some(text.as_str()) {
        return None;
    }
    restore(annotations, ORIGINAL_IMAGES, old_text);
    if annotations.is_empty() {
        restore(metadata, "annotations", old);
    }
    if metadata.is_empty()
        && let Some(object) = after.as_object_mut()
    {
        restore(object, "metadata", old_metadata);
    }
    Some(serde_json::from_str(&text).expect("the annotation is a map of strings"))
}

fn restore(map: &mut serde_json::Map<String, Value>, key: &str, old: Option<&Value>) {
    match old {
        Some(old) => map.insert(key.to_owned(), old.clone()),
        None => map.remove(key),
    };
}
