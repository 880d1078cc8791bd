//! Workloads that another installation of image-mirror has rewritten.
//!
//! Two installations with different backups take each other's copies for originals, and would replace them again and again.
//! So an installation skips a workload that uses copies of another one.

use mirror_contract::workload::ORIGINAL_IMAGES;
use mirror_contract::{Backup, ImageRef};

use crate::object::{Object, PodSpec};
use crate::old_object::{OldObject, canonical};
use crate::originals_annotation::OriginalsAnnotation;
use crate::settings::KnownCopies;

/// Images whose annotation is checked. Objects with more are not written by people.
const MAX_IMAGES: usize = 250;

/// Returns whether `object`, or what it replaces, uses a copy in the backup of another installation.
///
/// Without backups in the settings nobody can tell whose copies they are.
pub fn has_rewritten(
    object: &Object<'_>,
    old_object: &OldObject<'_>,
    known: &KnownCopies<'_>,
) -> bool {
    let Some(spec) = object.spec().filter(|_| known.has_backups()) else {
        return false;
    };
    if copies(object, known).next().is_some() {
        return true;
    }
    // A manifest that is applied again names the originals, and the other installation writes its copies again.
    let Some(old) = old_object.text_with(ORIGINAL_IMAGES) else {
        return false;
    };
    copies(old, known).any(|(copy, original)| uses(spec, &copy, &original))
}

/// The images of `object` that its annotation names as copies and that are in no known backup, each with its original.
fn copies<'o>(
    object: &'o Object<'_>,
    known: &'o KnownCopies<'_>,
) -> impl Iterator<Item = (String, String)> + 'o {
    let template = object
        .template()
        .filter(|template| template.metadata.originals.is_some());
    let annotation = template
        .map(OriginalsAnnotation::unverified)
        .unwrap_or_default();
    let slots = object
        .spec()
        .into_iter()
        .flat_map(|spec| &spec.images.slots);
    slots.take(MAX_IMAGES).filter_map(move |slot| {
        let original = annotation.original(&slot.image)?;
        is_elsewhere(&slot.image, original, known)
            .then(|| (slot.image.clone().into_owned(), original.to_owned()))
    })
}

fn is_elsewhere(copy: &str, original: &str, known: &KnownCopies<'_>) -> bool {
    let (Ok(copy), Ok(original)) = (ImageRef::parse(copy), ImageRef::parse(original)) else {
        return false;
    };
    !known.contain(&copy) && Backup::any_relation(&copy, &original).is_some()
}

fn uses(spec: &PodSpec<'_>, copy: &str, original: &str) -> bool {
    let original = canonical(original);
    let mut slots = spec.images.slots.iter().take(MAX_IMAGES);
    slots.any(|slot| slot.image == copy || canonical(&slot.image) == original)
}
