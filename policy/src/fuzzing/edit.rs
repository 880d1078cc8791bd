//! What differs between an object and what the policy made of it.

use std::collections::BTreeMap;

use mirror_contract::workload::{ImageList, ORIGINAL_IMAGES};
use serde_json::Value;

use crate::request::Kind;

/// The edit of an object.
pub(crate) struct Edit {
    /// The images that changed: before and after.
    pub images: Vec<(String, String)>,
    /// The originals that were noted before, by their copies.
    pub noted: BTreeMap<String, String>,
    /// What became of the pull Secrets, if anything.
    pub secret: Option<SecretEdit>,
    /// What the annotation says that notes the originals.
    pub note: Option<BTreeMap<String, String>>,
    /// The object afterwards, with everything from above put back. It must be as it was before.
    pub rest: Value,
}

/// The edit of the pull Secrets.
pub(crate) enum SecretEdit {
    /// This one was added at the end.
    Added(Value),
    /// The only one was removed.
    Removed,
}

impl Edit {
    /// Compares an object of `kind` as it was `before` with what it became.
    ///
    /// Panics if a pull Secret was added that was there, or if the note is none.
    pub fn new(kind: &Kind, before: &Value, after: &Value) -> Self {
        let mut rest = after.clone();
        let template = match (kind.group.as_str(), kind.kind.as_str()) {
            ("", "Pod") => "",
            ("", "PodTemplate") => "/template",
            ("batch", "CronJob") => "/spec/jobTemplate/spec/template",
            _ => "/spec/template",
        };
        let path = format!("{template}/spec");
        let (mut images, mut secret, mut note) = (Vec::new(), None, None);
        let noted = before.pointer(template).and_then(|template| {
            let text = template["metadata"]["annotations"][ORIGINAL_IMAGES].as_str()?;
            serde_json::from_str(text).ok()
        });
        if let (Some(old), Some(new)) = (before.pointer(&path), rest.pointer_mut(&path)) {
            images = put_back_images(old, new);
            secret = put_back_secrets(old, new);
        }
        if let (Some(old), Some(new)) = (before.pointer(template), rest.pointer_mut(template)) {
            note = put_back_note(old, new);
        }
        Self {
            images,
            noted: noted.unwrap_or_default(),
            secret,
            note,
            rest,
        }
    }
}

fn put_back_images(before: &Value, after: &mut Value) -> Vec<(String, String)> {
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

fn put_back_secrets(before: &Value, after: &mut Value) -> Option<SecretEdit> {
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
    put_back(after, KEY, old);
    Some(edit)
}

fn put_back_note(before: &Value, after: &mut Value) -> Option<BTreeMap<String, String>> {
    let old_metadata = before.get("metadata");
    let old = old_metadata.and_then(|metadata| metadata.get("annotations"));
    let metadata = after.get_mut("metadata")?.as_object_mut()?;
    let annotations = metadata.get_mut("annotations")?.as_object_mut()?;
    let old_text = old.and_then(|old| old.get(ORIGINAL_IMAGES));
    let Some(text) = annotations.get(ORIGINAL_IMAGES) else {
        // It goes with the last copy.
        put_back(annotations, ORIGINAL_IMAGES, old_text);
        return None;
    };
    let text = text.as_str()?.to_owned();
    if old_text.and_then(Value::as_str) == Some(text.as_str()) {
        return None;
    }
    put_back(annotations, ORIGINAL_IMAGES, old_text);
    if annotations.is_empty() {
        put_back(metadata, "annotations", old);
    }
    if metadata.is_empty()
        && let Some(object) = after.as_object_mut()
    {
        put_back(object, "metadata", old_metadata);
    }
    Some(serde_json::from_str(&text).expect("the note is a map of strings"))
}

fn put_back(map: &mut serde_json::Map<String, Value>, key: &str, old: Option<&Value>) {
    match old {
        Some(old) => map.insert(key.to_owned(), old.clone()),
        None => map.remove(key),
    };
}
