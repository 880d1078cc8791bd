//! The edit of the object: images, pull Secrets, and the annotation with the original images. Nothing else changes.

use std::rc::Rc;

use crate::decide::{Outcome, Plan};
use crate::json::Edited;
use crate::object::{Object, PodSpec};
use crate::old_object::{OldObject, canonical};
use crate::originals_annotation::OriginalsAnnotation;
use crate::pull_secrets::SecretChange;
use crate::request::{Scope, Target};

/// Returns the object with the changes of `plan`; `None` if there are none.
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
    let mut is_new = false;
    for decision in &plan.decisions {
        let slot = decision.slot;
        let image = match &decision.outcome {
            Outcome::Rewrite(copy) => &copy.image,
            Outcome::Annotated(annotated) => match &annotated.copy {
                Some(copy) => copy,
                None => continue,
            },
            Outcome::Original(original) => {
                annotation.replace_copy(&original.image, &slot.image);
                edits.push((slot, Rc::clone(&original.image)));
                continue;
            }
            _ => continue,
        };
        // A copy that replaces another one has the same original.
        let original = annotation.original(&slot.image);
        let original = original.or_else(|| old_object.annotation().original(&slot.image));
        let original = original.map(ToOwned::to_owned);
        let original = original.as_deref().unwrap_or(&slot.image);
        let annotated = annotation.original(image);
        if annotated != Some(original) {
            if annotated.is_none() {
                let old = old_object.annotation();
                is_new |= old.original(image).is_none();
                annotation.add_from(old, image);
            }
            annotation.add(image, original);
        }
        edits.push((slot, Rc::clone(image)));
    }
    if is_new {
        // The template changes anyway. Otherwise a new digest would start a rollout.
        for decision in &plan.decisions {
            if let Outcome::Rewrite(copy) = &decision.outcome
                && copy.is_in_backup
            {
                annotation.set_digest(&copy.image, &copy.digest);
            }
        }
    }
    let is_restored = restore_entries(&mut annotation, target, &plan, spec, old_object);
    if edits.is_empty() && plan.secret == SecretChange::None && !is_restored {
        return None;
    }
    match &plan.secret {
        // The list of a Pod is immutable, so its Secret need not be annotated.
        SecretChange::Add { name, .. } if !target.is_pod => annotation.secret = Some(name.clone()),
        // Its Pods get the annotated Secret, also while the sidecar does not respond.
        SecretChange::None | SecretChange::Add { .. } | SecretChange::Remove { .. } => {}
    }
    // The entries that were just added are in use.
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
    plan.secret.apply(&spec.secrets, &mut edited);
    // The API server drops changes of annotations in an update of ephemeral containers.
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

/// Restores the annotation entries of copies that stay in use, if an update drops them. Returns whether there are any.
///
/// Operators and `kubectl replace` set all annotations of a template. Without its entry, a copy looks like an original that
/// is kept in the backup.
fn restore_entries(
    annotation: &mut OriginalsAnnotation,
    target: &Target,
    plan: &Plan<'_>,
    spec: &PodSpec<'_>,
    old_object: &OldObject<'_>,
) -> bool {
    let mut is_restored = false;
    let mut add = |image: &str| {
        if annotation.original(image).is_none() && old_object.annotation().original(image).is_some()
        {
            annotation.add_from(old_object.annotation(), image);
            is_restored = true;
        }
    };
    match target.scope {
        Scope::Everything => {
            for decision in &plan.decisions {
                if let Outcome::InBackup { .. } | Outcome::Annotated(_) = decision.outcome {
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

/// Whether the schema of a custom kind drops the annotation: the old object has these copies and no annotation. Writing it
/// again would raise the generation with every update, and wake the controller of the kind.
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

/// Restores the copies of a Job, with their pull Secret and annotation, if the Job is applied again with its originals.
///
/// The API server would deny that as a change of an immutable template. Anything else stays as it was written: the API server
/// decides what of a Job may change, which is more while it is suspended. The annotation is used unverified here, since only
/// images that the Job already has are restored.
pub fn restore_job<'a>(object: &Object<'a>, old_object: &OldObject<'_>) -> Option<Edited<'a>> {
    let old = old_object.object()?;
    let (template, old_template) = (object.template()?, old.template()?);
    let (spec, old_spec) = (object.spec()?, old.spec()?);
    let annotation = OriginalsAnnotation::unverified(old_template);
    if annotation.is_empty() || old.template_text() == object.template_text() {
        return None;
    }
    let mut edited = Edited::new(object.text);
    let mut uses_copies = false;
    for slot in &spec.images.slots {
        let Some(copy) = old_object.image_at(slot) else {
            continue;
        };
        let Some(original) = annotation.original(copy) else {
            continue;
        };
        if copy == &*slot.image {
            uses_copies = true;
        } else if canonical(original) == canonical(&slot.image) {
            uses_copies = true;
            edited.replace_string(slot.range.clone(), copy.into());
        }
    }
    if let Some(name) = &annotation.secret {
        let old_secrets = (old.text, &old_spec.secrets);
        spec.secrets.restore(name, old_secrets, &mut edited);
    }
    if uses_copies && template.metadata.originals.is_none() {
        annotation.write(template, &mut edited);
    }
    (!edited.is_empty()).then_some(edited)
}
