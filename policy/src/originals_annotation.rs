//! The annotation with the original images of an object.
//!
//! It is part of the Pod template (or the Pod), so Pods inherit it and a rollback restores it. It is a JSON object,
//! `{"<copy>": "<image as it was written>"}`. Further entries:
//! - `"digests": "<digest>,<digest>,…"`: the digests, when they were written, of the copies without one in their reference, in
//!   the order of the copies; empty if not known;
//! - `"<original>@<digest>": "<copy>"`: an original that a Pod uses instead of a copy while the backup is unavailable;
//! - `"imagePullSecret": "<name>"`: the pull Secret that the policy added to the template.
//!
//! Everyone who may write the object may write the annotation, and the update of another user may rely on it. So a copy
//! counts only if [`Settings::relation`] confirms it, and so does an original that a Pod uses instead. A forged digest is
//! harmless, since it belongs to the confirmed original.

use std::collections::BTreeMap;

use mirror_contract::workload::{ORIGINAL_IMAGES, replaced_original, without_digest};
use mirror_contract::{Digest, Settings};

use crate::json::{Edited, quoted};
use crate::object::Part;

const SECRET: &str = "imagePullSecret";
/// One entry for all digests, since each further entry takes instructions, and bytes of the limited annotation.
const DIGESTS: &str = "digests";
/// Bytes of all keys and values of an object's annotations. The API server refuses an object with more
/// (`TotalAnnotationSizeLimitB` in Kubernetes' apimachinery).
const MAX_ANNOTATIONS: usize = 256 * 1024;
/// Entries that are checked, enough for the old and new copies of [`crate::images::MAX_IMAGES`] images.
const MAX_ENTRIES: usize = 250;

#[derive(Clone, Debug, Default)]
pub struct OriginalsAnnotation {
    /// By copy.
    originals: BTreeMap<String, String>,
    /// The digests of copies without one in their reference, by copy. For an original, which has one, the copy that it replaces
    /// in a Pod.
    others: BTreeMap<String, String>,
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
        Self {
            originals,
            secret,
            ..Self::default()
        }
    }

    /// The entries of the annotation of `template` that `settings` confirm.
    pub fn verified(template: &Part<'_>, settings: &Settings<'_>) -> Self {
        let all = Self::unverified(template);
        let is_pull_secret = |name: &String| settings.known_copies.is_pull_secret(name);
        let mut verified = Self {
            secret: all.secret.filter(is_pull_secret),
            ..Self::default()
        };
        let mut originals = all.originals;
        let digests = originals.remove(DIGESTS).unwrap_or_default();
        let copies = originals.keys().filter(|key| !has_digest(key));
        // Somebody has edited the annotation.
        let is_valid = copies.count() == digests.split(',').count();
        let mut digests = digests.split(',').filter(|_| is_valid);
        for (key, value) in originals.into_iter().take(MAX_ENTRIES) {
            let digest = if has_digest(&key) {
                None
            } else {
                digests.next().filter(|digest| !digest.is_empty())
            };
            if settings.relation(&key, &value).is_some() {
                if let Some(digest) = digest {
                    verified.set_digest(&key, digest);
                }
                verified.originals.insert(key, value);
            } else if let Some(original) = replaced_original(&key, &value)
                && settings.relation(&value, original).is_some()
            {
                verified.others.insert(key, value);
            }
        }
        verified
    }

    pub fn is_empty(&self) -> bool {
        self.originals.is_empty() && self.others.is_empty() && self.secret.is_none()
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
        self.originals.insert(copy.to_owned(), original.to_owned());
    }

    /// Adds what another annotation has about `image`.
    pub fn add_from(&mut self, other: &Self, image: &str) {
        if let Some(original) = other.original(image)
            && self.original(image).is_none()
        {
            self.add(image, original);
        }
        if let Some(value) = other.others.get(image) {
            self.others.insert(image.to_owned(), value.clone());
        }
    }

    /// Returns the digest of a copy: its own, or the recorded one.
    pub fn digest<'d>(&'d self, copy: &'d str) -> Option<Digest<'d>> {
        Digest::parse(match copy.split_once('@') {
            Some((_, digest)) => digest,
            None => self.others.get(copy)?,
        })
    }

    /// Records the digest of an annotated copy, unless it is a part of its reference.
    pub fn set_digest(&mut self, copy: &str, digest: &str) {
        if !has_digest(copy) {
            self.others.insert(copy.to_owned(), digest.to_owned());
        }
    }

    /// Returns whether a Pod uses the original `image` instead of a copy.
    pub fn replaces_copy(&self, image: &str) -> bool {
        has_digest(image) && self.others.contains_key(image)
    }

    /// Records that a Pod uses the original `image`, which has a digest, instead of `copy`.
    pub fn replace_copy(&mut self, image: &str, copy: &str) {
        self.others.insert(image.to_owned(), copy.to_owned());
    }

    /// Removes images that are not among `images`.
    pub fn retain<'i>(&mut self, images: impl Iterator<Item = &'i str>) {
        let mut retained = Self::default();
        for image in images {
            retained.add_from(self, image);
        }
        (self.originals, self.others) = (retained.originals, retained.others);
    }

    /// Writes the annotation to `template`, or removes it if it is empty or too large.
    pub fn write(mut self, template: &Part<'_>, edited: &mut Edited<'_>) {
        let metadata = &template.metadata;
        let is_empty = self.is_empty();
        let mut digests = String::new();
        let mut recorded = self.others.iter().filter(|(key, _)| !has_digest(key));
        let mut next = recorded.next();
        let has_digests = next.is_some();
        for copy in self.originals.keys().filter(|key| !has_digest(key)) {
            // Both are in the same order.
            if let Some((_, digest)) = next.filter(|(key, _)| *key == copy) {
                digests.push_str(digest);
                next = recorded.next();
            }
            digests.push(',');
        }
        digests.pop();
        if has_digests {
            self.originals.insert(DIGESTS.to_owned(), digests);
        }
        if let Some(name) = self.secret.take() {
            self.originals.insert(SECRET.to_owned(), name);
        }
        for (key, value) in self.others.into_iter().filter(|(key, _)| has_digest(key)) {
            self.originals.insert(key, value);
        }
        // A map of strings can always be serialised.
        let text = serde_json::to_string(&self.originals).unwrap_or_default();
        let size = metadata.other_annotations + ORIGINAL_IMAGES.len() + text.len();
        if is_empty || size > MAX_ANNOTATIONS {
            if let Some(member) = &metadata.originals {
                edited.remove(member);
            }
            return;
        }
        let text = quoted(&text);
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

fn has_digest(image: &str) -> bool {
    without_digest(image).is_some()
}
