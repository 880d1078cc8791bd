//! What the object was that a request replaces. It is read when somebody asks for it, which is seldom.

use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet};

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
    /// The images, also as they were written before they were replaced.
    names: BTreeSet<String>,
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
        self.known().names.contains(image)
    }

    /// The image that was at this place.
    pub fn image_at(&self, slot: &Slot<'_>) -> Option<&'a str> {
        self.known().images.get(&slot.key()).copied()
    }

    /// The copy that stood at this place for the image that is there now.
    pub fn copy_at(&self, slot: &Slot<'_>) -> Option<&'a str> {
        let copy = self.image_at(slot)?;
        (self.note().original(copy) == Some(slot.image)).then_some(copy)
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
        let names = slots
            .iter()
            .flat_map(|slot| [Some(slot.image), note.original(slot.image)])
            .flatten()
            .map(ToOwned::to_owned)
            .collect();
        Some(Known {
            spec: Some(spec),
            images: slots.iter().map(|slot| (slot.key(), slot.image)).collect(),
            names,
            note,
        })
    }
}
