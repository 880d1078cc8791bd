//! The edit of the object: images, pull Secrets, and the annotation with the original images. Nothing else is touched.

use std::rc::Rc;

use crate::decide::{Fate, Plan};
use crate::json::Edited;
use crate::object::Object;
use crate::originals_annotation::OriginalsAnnotation;
use crate::pod_template::{Scope, Target};
use crate::pull_secrets::SecretChange;

/// Carries out `plan` on `object`, which has this `annotation`; `None` if there is nothing to change.
pub fn rewrite<'a>(
    object: &Object<'a>,
    target: &Target,
    plan: Plan<'_>,
    mut annotation: OriginalsAnnotation,
) -> Option<Edited<'a>> {
    let template = object.template()?;
    let spec = template.spec.as_ref()?;
    let is_first = annotation.is_empty();
    let mut edited = Edited::new(object.text);
    let mut edits = Vec::new();
    for decision in &plan.decisions {
        let slot = decision.slot;
        let image = match &decision.fate {
            Fate::Rewrite(copy) => &copy.image,
            Fate::Remembered(remembered) => match &remembered.copy {
                Some(copy) => copy,
                None => continue,
            },
            Fate::Restore { original } => {
                edits.push((slot, Rc::clone(original)));
                continue;
            }
            _ => continue,
        };
        // A copy of a copy stands for what the first one stood for.
        let original = annotation.original(&slot.image).map(ToOwned::to_owned);
        annotation.add(image, original.as_deref().unwrap_or(&slot.image));
        edits.push((slot, Rc::clone(image)));
    }
    if edits.is_empty() && plan.secret == SecretChange::None {
        return None;
    }
    match &plan.secret {
        // A Pod keeps its pull Secrets for good.
        SecretChange::Add { name, .. } if !target.is_pod => annotation.secret = Some(name.clone()),
        SecretChange::Remove { .. } => annotation.secret = None,
        SecretChange::None | SecretChange::Add { .. } => {}
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
    plan.secret.apply(spec, &mut edited);
    // The API server refuses or drops the annotation when it comes with the update of a Pod's images.
    if target.scope == Scope::Everything {
        annotation.write(template, &mut edited);
    }
    Some(edited)
}
