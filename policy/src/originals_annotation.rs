//! The annotation with the original images of an object.
//!
//! It is part of the Pod template (or the Pod), so Pods inherit it and a rollback restores it. It is a JSON object,
//! `{"<copy>": "<image as it was written>"}`. If the policy added a pull Secret to the template, there is also
//! `"imagePullSecret": "<name>"`, which cannot be a copy, since those have a registry and a path.
//!
//! Everyone who may write the object may write the annotation, and the update of another user may rely on it. So an entry
//! counts only if [`Settings::relation`] confirms it.

use std::collections::BTreeMap;

use mirror_contract::Settings;
use mirror_contract::workload::ORIGINAL_IMAGES;
use serde_json::json;

use crate::json::Edited;
use crate::object::Part;

const SECRET: &str = "imagePullSecret";
/// Bytes of all keys and values of an object's annotations. The API server refuses an object with more
/// (`TotalAnnotationSizeLimitB` in Kubernetes' apimachinery).
const MAX_ANNOTATIONS: usize = 256 * 1024;
/// Entries that are checked, enough for the old and new copies of [`crate::images::MAX_IMAGES`] images.
const MAX_ENTRIES: usize = 250;

#[derive(Clone, Debug, Default)]
pub struct OriginalsAnnotation {
    /// By copy.
    originals: BTreeMap<String, String>,
    /// The pull Secret that the policy added to the template.
    pub secret: Option<String>,
}

impl OriginalsAnnotation {
    /// The annotation of `template` as it is written, empty if it cannot be parsed.
    pub fn unverified(template: &Part<'_>) -> Self {
        let text = template.metadata.originals_text.as_deref();
        let text = text.filter(|text| text.len() <= MAX_ANNOTATIONS);
        let entries = text.and_then(|text| serde_json::from_str(text).ok());
        let mut originals: BTreeMap<String, String> = entries.unwrap_or_default();
        let secret = originals.remove(SECRET);
        Self { originals, secret }
    }

    /// The entries of the annotation of `template` that `settings` confirm.
    pub fn verified(template: &Part<'_>, settings: &Settings<'_>) -> Self {
        let all = Self::unverified(template);
        let is_pull_secret = |name: &String| settings.known_copies.is_pull_secret(name);
        let mut verified = Self {
            secret: all.secret.filter(is_pull_secret),
            ..Self::default()
        };
        for (copy, original) in all.originals.iter().take(MAX_ENTRIES) {
            if settings.relation(copy, original).is_some() {
                verified.add(copy, original);
            }
        }
        verified
    }

    pub fn is_empty(&self) -> bool {
        self.originals.is_empty() && self.secret.is_none()
    }

    pub fn has_copies(&self) -> bool {
        !self.originals.is_empty()
    }

    pub fn original(&self, image: &str) -> Option<&str> {
        self.originals.get(image).map(String::as_str)
    }

    pub fn copies(&self) -> impl Iterator<Item = (&str, &str)> {
        let entries = self.originals.iter();
        entries.map(|(copy, original)| (copy.as_str(), original.as_str()))
    }

    pub fn add(&mut self, copy: &str, original: &str) {
        if self.original(copy) != Some(original) {
            self.originals.insert(copy.to_owned(), original.to_owned());
        }
    }

    /// Removes copies that are not among `images`.
    pub fn retain<'i>(&mut self, images: impl Iterator<Item = &'i str>) {
        let mut retained = Self::default();
        for image in images {
            if let Some(original) = self.original(image) {
                retained.add(image, original);
            }
        }
        self.originals = retained.originals;
    }

    /// Writes the annotation to `template`, or removes it if it is empty or too large.
    pub fn write(mut self, template: &Part<'_>, edited: &mut Edited<'_>) {
        let metadata = &template.metadata;
        let is_empty = self.is_empty();
        let secret = self.secret.take();
        self.originals
            .extend(secret.map(|name| (SECRET.to_owned(), name)));
        let text = json!(self.originals).to_string();
        let size = metadata.other_annotations + ORIGINAL_IMAGES.len() + text.len();
        if is_empty || size > MAX_ANNOTATIONS {
            if let Some(member) = &metadata.originals {
                edited.remove(member);
            }
            return;
        }
        let text = json!(text).to_string();
        if let Some(member) = &metadata.originals {
            edited.replace(member.value.clone(), text);
            return;
        }
        let annotations = format!("{{\"{ORIGINAL_IMAGES}\":{text}}}");
        let is_missing = |holder: &_| *holder == crate::json::Holder::Absent;
        if !is_missing(&metadata.annotations) {
            edited.add(&metadata.annotations, ORIGINAL_IMAGES, &text);
        } else if !is_missing(&metadata.holder) {
            edited.add(&metadata.holder, "annotations", &annotations);
        } else {
            let metadata = format!("{{\"annotations\":{annotations}}}");
            edited.add(&template.holder, "metadata", &metadata);
        }
    }
}
