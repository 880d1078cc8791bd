//! The edit of the object: images, pull Secrets, and the annotation with the original images. Nothing else is touched.

use std::rc::Rc;

use crate::decide::{Outcome, Plan};
use crate::json::Edited;
use crate::object::{Object, PodSpec};
use crate::old_object::OldObject;
use crate::originals_annotation::OriginalsAnnotation;
use crate::pod_template::{Scope, Target};
use crate::pull_secrets::SecretChange;

/// Carries out `plan` on `object`, which has this `annotation` and replaces `old_object`; `None` if there is nothing to change.
pub fn rewrite<'a>(
    object: &Object<'a>,
    target: &Target,
    plan: Plan<'_>,
    mut annotation: OriginalsAnnotation,
    old_object: &OldObject<'_>,
) -> Option<Edited<'a>> {
    let template = object.template()?;
    let spec = template.spec.as_ref()?;
    let is_first = annotation.is_empty();
    let mut edited = Edited::new(object.text);
    let mut edits = Vec::new();
    for decision in &plan.decisions {
        let slot = decision.slot;
        let image = match &decision.outcome {
            Outcome::Rewrite(copy) => &copy.image,
            Outcome::Remembered(remembered) => match &remembered.copy {
                Some(copy) => copy,
                None => continue,
            },
            _ => continue,
        };
        // A copy that replaces another one stands for the same original.
        let original = annotation.original(&slot.image);
        let original = original.or_else(|| old_object.annotation().original(&slot.image));
        let original = original.map(ToOwned::to_owned);
        annotation.add(image, original.as_deref().unwrap_or(&slot.image));
        edits.push((slot, Rc::clone(image)));
    }
    let is_restored = restore(&mut annotation, target, &plan, spec, old_object);
    if edits.is_empty() && plan.secret == SecretChange::None && !is_restored {
        return None;
    }
    match &plan.secret {
        // A Pod keeps its pull Secrets for good.
        SecretChange::Add { name, .. } if !target.is_pod => annotation.secret = Some(name.clone()),
        // The Pods of its copies get the Secret that is annotated, also while the sidecar does not respond.
        SecretChange::None | SecretChange::Add { .. } | SecretChange::Remove { .. } => {}
    }
    // What was added just now is in use.
    if !is_first {
        // Edits are in the order of the images.
        let mut edits = edits.iter().peekable();
        let slots = spec.images.slots.iter();
        annotation.retain(slots.map(|slot| {
            let edit = edits.next_if(|(edited, _)| edited.range == slot.range);
            edit.map_or(&*slot.image, |(_, image)| image)
        }));
    }
    for (slot, image) in edits {
        edited.replace_string(slot.range.clone(), image);
    }
    if matches!(plan.secret, SecretChange::Remove { .. }) && !annotation.has_copies() {
        annotation.secret = None;
    }
    plan.secret.apply(spec, &mut edited);
    // The API server drops the annotation when it comes with ephemeral containers.
    let is_kept = matches!(target.scope, Scope::Everything | Scope::ChangedImages);
    if is_kept
        && !is_pruned(
            &annotation,
            target,
            template.metadata.originals.is_some(),
            old_object,
        )
    {
        annotation.write(template, &mut edited);
    }
    Some(edited)
}

/// Restores the entries of copies that stay in use, if an update drops them. Returns whether there are any.
///
/// Operators and `kubectl replace` set all annotations of a template. Without its entry, a copy could not be told from an
/// original that somebody keeps in the backup.
fn restore(
    annotation: &mut OriginalsAnnotation,
    target: &Target,
    plan: &Plan<'_>,
    spec: &PodSpec<'_>,
    old_object: &OldObject<'_>,
) -> bool {
    let mut is_restored = false;
    let mut add = |image: &str| {
        if annotation.original(image).is_none()
            && let Some(original) = old_object.annotation().original(image)
        {
            annotation.add(image, original);
            is_restored = true;
        }
    };
    match target.scope {
        Scope::Everything => {
            for decision in &plan.decisions {
                if let Outcome::InBackup { .. } | Outcome::Remembered(_) = decision.outcome {
                    add(&decision.slot.image);
                }
            }
        }
        Scope::ChangedImages => spec.images.slots.iter().for_each(|slot| add(&slot.image)),
        Scope::Nothing | Scope::NewEphemeralContainers => return false,
    }
    let uses_copies = is_restored || annotation.has_copies();
    if uses_copies && annotation.secret.is_none() {
        annotation
            .secret
            .clone_from(&old_object.annotation().secret);
    }
    is_restored
}

/// Whether the schema of a custom kind drops the annotation: its object has exactly these copies, and no annotation. Writing
/// it once more would raise the generation each time, and wake the controller of the kind.
fn is_pruned(
    annotation: &OriginalsAnnotation,
    target: &Target,
    is_annotated: bool,
    old_object: &OldObject<'_>,
) -> bool {
    target.is_custom
        && !is_annotated
        && old_object.object().is_some()
        && !old_object.is_annotated()
        && old_object.names_all(annotation.copies().map(|(copy, _)| copy))
}
