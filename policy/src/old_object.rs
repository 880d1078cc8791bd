//! The object that a request replaces. It is parsed only if it is needed, which is rare.

use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet};

use mirror_contract::workload::ImageList;
use mirror_contract::{ImageRef, Relation, Settings};

use crate::images::{Images, Slot};
use crate::json::Texts;
use crate::object::{Object, PodSpec};
use crate::originals_annotation::OriginalsAnnotation;
use crate::request::{Scope, Target};

/// The object that a request replaces, if any. One that cannot be parsed counts as missing.
pub struct OldObject<'a> {
    text: Option<&'a str>,
    target: &'a Target,
    settings: &'a Settings<'a>,
    object: OnceCell<Option<Object<'a>>>,
    /// The images by the names of their entries, for each list.
    entries: OnceCell<[Texts<'a>; 4]>,
    images: OnceCell<KnownImages>,
    annotation: OnceCell<OriginalsAnnotation>,
}

/// Images in canonical form.
#[derive(Default)]
struct KnownImages {
    names: BTreeSet<String>,
    /// The originals of the copies in use.
    originals: BTreeSet<String>,
    /// The copies in use, as they are written, by their originals.
    copies: BTreeMap<String, String>,
    /// Further copies of the annotation, by their originals.
    unused_copies: BTreeMap<String, String>,
}

impl<'a> OldObject<'a> {
    pub fn new(text: Option<&'a str>, target: &'a Target, settings: &'a Settings<'a>) -> Self {
        Self {
            text,
            target,
            settings,
            object: OnceCell::new(),
            entries: OnceCell::new(),
            images: OnceCell::new(),
            annotation: OnceCell::new(),
        }
    }

    pub fn object(&self) -> Option<&Object<'a>> {
        let read = || Object::read(self.text?, self.target.path, self.settings);
        self.object.get_or_init(read).as_ref()
    }

    /// The object, if its text contains `words`.
    pub fn text_with(&self, words: &str) -> Option<&Object<'a>> {
        self.text.filter(|text| text.contains(words))?;
        self.object()
    }

    pub fn spec(&self) -> Option<&PodSpec<'a>> {
        self.object()?.spec()
    }

    pub fn annotation(&self) -> &OriginalsAnnotation {
        self.annotation.get_or_init(|| {
            let template = self.object().and_then(Object::template);
            template
                .map(|template| OriginalsAnnotation::verified(template, self.settings))
                .unwrap_or_default()
        })
    }

    /// Whether it used the image or its copy.
    pub fn had(&self, image: &str) -> bool {
        let (images, image) = (self.images(), canonical(image));
        images.names.contains(&image) || images.originals.contains(&image)
    }

    /// The image of the container or volume of the same name.
    pub fn image_at(&self, slot: &Slot<'_>) -> Option<&str> {
        let entries = self.entries.get_or_init(|| {
            let mut entries = <[Texts<'a>; 4]>::default();
            for slot in self.spec().into_iter().flat_map(|spec| &spec.images.slots) {
                if let Some(list) = entries.get_mut(slot.list as usize) {
                    list.insert(slot.name.clone(), slot.image.clone());
                }
            }
            entries
        });
        let image = entries.get(slot.list as usize)?.get(&*slot.name)?;
        Some(image)
    }

    /// The copy that the old object used for the image in `slot`.
    ///
    /// That is the copy in the same container. If that had another image, a copy in a known backup counts in whatever container
    /// it was used, unless the original was used as well. Without known backups, a forged annotation could start another image
    /// there.
    pub fn copy_in_use(&self, slot: &Slot<'_>) -> Option<&str> {
        if self.annotation().is_empty() {
            return None;
        }
        let image = canonical(&slot.image);
        let original_of = |copy: &&str| self.annotation().original(copy).map(canonical);
        let copy = self.image_at(slot);
        if let Some(copy) = copy.filter(|copy| original_of(copy).as_ref() == Some(&image)) {
            return Some(copy);
        }
        if !self.settings.known_copies.has_backups() || self.images().names.contains(&image) {
            return None;
        }
        self.images().copies.get(&image).map(String::as_str)
    }

    /// The copy that replaces the image in `slot` while its status is unknown: the copy in use, or another one of the
    /// annotation. Returns `None` if the old object already used the original.
    pub fn copy_of(&self, slot: &Slot<'_>) -> Option<&str> {
        let copy = self.copy_in_use(slot);
        if copy.is_some() || self.annotation().is_empty() {
            return copy;
        }
        let image = canonical(&slot.image);
        if self.images().names.contains(&image) {
            return None;
        }
        let copy = self.images().unused_copies.get(&image);
        copy.map(String::as_str)
    }

    pub fn names_all<'i>(&self, mut images: impl Iterator<Item = &'i str>) -> bool {
        let names = &self.images().names;
        images.all(|image| names.contains(&canonical(image)))
    }

    pub fn uses_copies(&self) -> bool {
        !self.images().copies.is_empty()
    }

    pub fn lists(&self, secret: &str) -> bool {
        let spec = self.spec();
        spec.is_some_and(|spec| spec.secrets.has(secret))
    }

    /// Whether it has the annotation, even an invalid one.
    pub fn is_annotated(&self) -> bool {
        let template = self.object().and_then(Object::template);
        template.is_some_and(|template| template.metadata.originals.is_some())
    }

    fn images(&self) -> &KnownImages {
        self.images.get_or_init(|| self.read_images())
    }

    fn read_images(&self) -> KnownImages {
        let mut images = KnownImages::default();
        for (copy, original) in self.annotation().copies() {
            // A digest that was added to a tag may be outdated: it counts only if it is in use.
            if self.settings.known_copies.has_backups()
                && self.settings.relation(copy, original) == Some(Relation::Exact)
            {
                let original = canonical(original);
                images.unused_copies.insert(original, copy.to_owned());
            }
        }
        for slot in self.spec().into_iter().flat_map(|spec| &spec.images.slots) {
            images.names.insert(canonical(&slot.image));
            if let Some(original) = self.annotation().original(&slot.image) {
                let original = canonical(original);
                images
                    .copies
                    .insert(original.clone(), slot.image.clone().into_owned());
                images.originals.insert(original);
            }
        }
        images
    }
}

impl<'a> Images<'a> {
    /// The images that a request of this scope may change, without those that are never pulled.
    pub fn changeable(&self, scope: Scope, old_object: &OldObject<'_>) -> Vec<&Slot<'a>> {
        if scope != Scope::Everything && old_object.spec().is_none() {
            return Vec::new();
        }
        let may_change = |slot: &Slot<'a>| match (scope, slot.list) {
            (Scope::Everything, _) => true,
            // It is immutable: the same Pod was applied again.
            (Scope::ChangedImages, ImageList::Volumes) => old_object.copy_of(slot).is_some(),
            (Scope::ChangedImages, ImageList::Containers | ImageList::InitContainers) => {
                old_object.image_at(slot) != Some(&*slot.image)
            }
            (Scope::NewEphemeralContainers, ImageList::EphemeralContainers) => {
                old_object.image_at(slot).is_none()
            }
            _ => false,
        };
        let slots = self.slots.iter();
        slots
            .filter(|slot| !slot.never_pulled && may_change(slot))
            .collect()
    }
}

/// Returns the normal form of an image, or the text itself if it is not a reference.
pub fn canonical(image: &str) -> String {
    ImageRef::parse(image).map_or_else(|_| image.to_owned(), |image| image.to_string())
}
