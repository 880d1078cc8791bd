//! The object that a request replaces. It is read when it is needed, which is seldom.

use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet};

use mirror_contract::{ImageRef, Relation};

use crate::images::Slot;
use crate::json::Texts;
use crate::object::{Object, PodSpec};
use crate::originals_annotation::OriginalsAnnotation;
use crate::pod_template::Target;
use crate::settings::{KnownCopies, Settings};

/// The object that a request replaces, if any. One that cannot be read is none: then nothing is known to have changed.
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

/// All images in canonical form.
#[derive(Default)]
struct KnownImages {
    /// Those that the object names.
    names: BTreeSet<String>,
    /// The originals of the copies that it names.
    originals: BTreeSet<String>,
    /// The copies, as they are written, by their originals.
    copies: BTreeMap<String, String>,
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

    /// The object, if `words` are anywhere in its text.
    pub fn text_with(&self, words: &str) -> Option<&Object<'a>> {
        self.text.filter(|text| text.contains(words))?;
        self.object()
    }

    /// The pod spec.
    pub fn spec(&self) -> Option<&PodSpec<'a>> {
        self.object()?.spec()
    }

    /// Its annotation with the original images, as far as it can be relied upon.
    pub fn annotation(&self) -> &OriginalsAnnotation {
        self.annotation.get_or_init(|| {
            let template = self.object().and_then(Object::template);
            let known = &self.settings.known_copies;
            template
                .map(|template| OriginalsAnnotation::verified(template, known))
                .unwrap_or_default()
        })
    }

    /// Whether it used an image, itself or as its copy.
    pub fn had(&self, image: &str) -> bool {
        let (images, image) = (self.images(), canonical(image));
        images.names.contains(&image) || images.originals.contains(&image)
    }

    /// The image that the entry of this name had.
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

    /// The copy that replaces the image in `slot`. Returns `None` if the old object already used the original.
    ///
    /// A copy in a known backup counts wherever it was used. Without known backups, only the copy that the same container ran
    /// counts, so that nothing can start that did not run there.
    pub fn copy_of(&self, slot: &Slot<'_>) -> Option<&str> {
        if self.annotation().is_empty() {
            return None;
        }
        let image = canonical(&slot.image);
        if self.images().names.contains(&image) {
            return None;
        }
        if self.settings.known_copies.has_backups() {
            return self.images().copies.get(&image).map(String::as_str);
        }
        let copy = self.image_at(slot)?;
        let original = self.annotation().original(copy)?;
        (canonical(original) == image).then_some(copy)
    }

    fn images(&self) -> &KnownImages {
        self.images.get_or_init(|| self.read_images())
    }

    fn read_images(&self) -> KnownImages {
        let mut images = KnownImages::default();
        let known: &KnownCopies<'_> = &self.settings.known_copies;
        for (copy, original) in self.annotation().copies() {
            // The digest that was added to a tag may be an outdated one: it counts only where it is in use.
            if known.relation(copy, original) == Some(Relation::Exact) {
                images.copies.insert(canonical(original), copy.to_owned());
            }
        }
        for slot in self.spec().into_iter().flat_map(|spec| &spec.images.slots) {
            images.names.insert(canonical(&slot.image));
            if let Some(original) = self.annotation().original(&slot.image) {
                let original = canonical(original);
                // Of several copies, the one that is in use.
                images
                    .copies
                    .insert(original.clone(), slot.image.clone().into_owned());
                images.originals.insert(original);
            }
        }
        images
    }
}

/// An image in its normal form, however it was written; as it is if it is no reference.
pub fn canonical(image: &str) -> String {
    ImageRef::parse(image).map_or_else(|_| image.to_owned(), |image| image.to_string())
}
