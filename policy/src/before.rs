//! What the object was that a request replaces. It is read when somebody asks for it, which is seldom.

use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet};

use mirror_contract::ImageRef;
use serde_json::Value;

use crate::images::{Images, Key, Slot};
use crate::note::Note;
use crate::pod_template::Target;
use crate::request::OldObject;

/// The object that a request replaces, if any.
pub struct Before<'a> {
    object: &'a OldObject<'a>,
    target: &'a Target,
    known: OnceCell<Known<'a>>,
}

#[derive(Default)]
struct Known<'a> {
    spec: Option<&'a Value>,
    images: BTreeMap<Key<'a>, &'a str>,
    /// The copies that are noted, by what they are copies of, in canonical form.
    copies: BTreeMap<String, String>,
    /// The images, in canonical form.
    names: BTreeSet<String>,
    /// What the copies among them stand for, in canonical form.
    originals: BTreeSet<String>,
    note: Note,
}

impl<'a> Before<'a> {
    /// What `target` was in `object`.
    pub fn new(object: &'a OldObject<'a>, target: &'a Target) -> Self {
        Self {
            object,
            target,
            known: OnceCell::new(),
        }
    }

    /// The template.
    pub fn template(&self) -> Option<&'a Value> {
        self.target.template(self.object.get()?)
    }

    /// The pod spec.
    pub fn spec(&self) -> Option<&'a Value> {
        self.known().spec
    }

    /// What was noted.
    pub fn note(&self) -> &Note {
        &self.known().note
    }

    /// Whether an image was there, itself or as its copy.
    pub fn had(&self, image: &str) -> bool {
        let (known, image) = (self.known(), canonical(image));
        known.names.contains(&image) || known.originals.contains(&image)
    }

    /// The image that was at this place.
    pub fn image_at(&self, slot: &Slot<'_>) -> Option<&'a str> {
        self.known().images.get(&slot.key()).copied()
    }

    /// The copy that an image was replaced by, wherever it was. None if it was there itself: it stays as it is.
    pub fn copy_of(&self, image: &str) -> Option<&str> {
        let (known, image) = (self.known(), canonical(image));
        let copy = known.copies.get(&image)?;
        (!known.names.contains(&image)).then_some(copy)
    }

    fn known(&self) -> &Known<'a> {
        self.known.get_or_init(|| self.read().unwrap_or_default())
    }

    fn read(&self) -> Option<Known<'a>> {
        let object = self.object.get()?;
        let spec = self.target.pod_spec(object)?;
        let note = self
            .target
            .template(object)
            .map(Note::on)
            .unwrap_or_default();
        let slots = Images::of(spec).slots;
        let mut known = Known {
            spec: Some(spec),
            ..Known::default()
        };
        for (copy, original) in note.copies() {
            known.copies.insert(canonical(original), copy.to_owned());
        }
        for slot in &slots {
            known.images.insert(slot.key(), slot.image);
            known.names.insert(canonical(slot.image));
            if let Some(original) = note.original(slot.image) {
                known.originals.insert(canonical(original));
                // Of several copies, the one that is there.
                known
                    .copies
                    .insert(canonical(original), slot.image.to_owned());
            }
        }
        known.note = note;
        Some(known)
    }
}

/// An image in its normal form, however it was written; as it is if it is no reference.
fn canonical(image: &str) -> String {
    ImageRef::parse(image).map_or_else(|_| image.to_owned(), |image| image.to_string())
}
