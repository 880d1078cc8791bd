//! Objects that are not rewritten, whatever their images are.

use mirror_contract::workload::ORIGINAL_IMAGES;
use mirror_contract::{Backup, ImageRef, Settings};

use crate::object::{Object, PodSpec};
use crate::old_object::{OldObject, canonical};
use crate::originals_annotation::OriginalsAnnotation;
use crate::request::Target;

/// Images that are checked for the copies of another installation. Objects with more are not written by people.
const MAX_CHECKED: usize = 250;

#[derive(Debug, PartialEq, Eq)]
pub enum Exclusion {
    None,
    /// The object and its Pods.
    Full,
    /// The object alone: its Pods do not inherit its skip annotation or label.
    ExceptPods,
}

/// Excludes an object with the skip annotation or label, a static Pod, an object that is being deleted (a denial would keep
/// its finalizers from being removed), an object with a controller, and an object with an owner or label from the settings.
///
/// Objects between a workload and its Pods (the `ReplicaSet` of a Deployment, the `Job` of a `CronJob`, the `StatefulSet` of
/// an operator) would be changed back by their controller. The Pods are rewritten anyway.
pub fn exclusion(object: &Object<'_>, target: &Target) -> Exclusion {
    let metadata = object.metadata();
    let template = object.template().map(|template| &template.metadata);
    if metadata.is_static_pod
        || metadata.is_deleted
        || (metadata.has_controller && !target.is_pod)
        || metadata.has_skipped_owner
        || metadata.has_skipped_label
        || template.is_some_and(|template| template.opts_out || template.has_skipped_label)
    {
        Exclusion::Full
    } else if metadata.opts_out {
        Exclusion::ExceptPods
    } else {
        Exclusion::None
    }
}

/// Whether `object`, or the object that it replaces, uses a copy in the backup of another installation of image-mirror.
///
/// Two installations with different backups take each other's copies for originals, and would replace them forever. Without
/// backups in the settings, copies of another installation cannot be recognised.
pub fn is_rewritten_by_another(
    object: &Object<'_>,
    old_object: &OldObject<'_>,
    settings: &Settings<'_>,
) -> bool {
    let Some(spec) = object
        .spec()
        .filter(|_| settings.known_copies.has_backups())
    else {
        return false;
    };
    if foreign_copies(object, settings).next().is_some() {
        return true;
    }
    // A manifest that is applied again names the originals, and the other installation writes its copies again.
    let Some(old) = old_object.text_with(ORIGINAL_IMAGES) else {
        return false;
    };
    foreign_copies(old, settings).any(|(copy, original)| uses(spec, &copy, &original))
}

/// The images of `object` that its annotation names as copies and that are in no known backup, each with its original.
fn foreign_copies<'o>(
    object: &'o Object<'_>,
    settings: &'o Settings<'_>,
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
    slots.take(MAX_CHECKED).filter_map(move |slot| {
        let original = annotation.original(&slot.image)?;
        is_foreign(&slot.image, original, settings)
            .then(|| (slot.image.clone().into_owned(), original.to_owned()))
    })
}

fn is_foreign(copy: &str, original: &str, settings: &Settings<'_>) -> bool {
    let (Ok(copy), Ok(original)) = (ImageRef::parse(copy), ImageRef::parse(original)) else {
        return false;
    };
    !settings.known_copies.contain(&copy)
        && settings.rules.target_with(&copy).is_none()
        && Backup::any_relation(&copy, &original).is_some()
}

fn uses(spec: &PodSpec<'_>, copy: &str, original: &str) -> bool {
    let original = canonical(original);
    let mut slots = spec.images.slots.iter().take(MAX_CHECKED);
    slots.any(|slot| slot.image == copy || canonical(&slot.image) == original)
}
