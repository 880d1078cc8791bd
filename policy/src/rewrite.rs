//! The edit of the object: images, pull Secrets, and a note of what was there. Nothing else is touched.

use serde_json::Value;

use crate::decide::{Copy, Fate, Plan};
use crate::images::Images;
use crate::note::Note;
use crate::pod_template::{Scope, Target};
use crate::pull_secrets::SecretChange;

/// Carries out `plan` on `object`, about which there is this `note`; `false` if there is nothing to change.
pub fn rewrite(object: &mut Value, target: &Target, plan: Plan, mut note: Note) -> bool {
    let is_first = note.is_empty();
    let mut edits = Vec::new();
    for decision in plan.decisions {
        match decision.fate {
            Fate::Rewrite(Copy { image, .. })
            | Fate::Remembered {
                copy: Some(image), ..
            } => {
                // A copy of a copy stands for what the first one stood for.
                let original = note.original(&decision.image).map(ToOwned::to_owned);
                note.add(image.clone(), original.unwrap_or(decision.image));
                edits.push((decision.place, image));
            }
            Fate::Restore { original } => edits.push((decision.place, original)),
            _ => {}
        }
    }
    if edits.is_empty() && plan.secret == SecretChange::None {
        return false;
    }
    match &plan.secret {
        // A Pod keeps its pull Secrets for good.
        SecretChange::Add { name, .. } if !target.is_pod => note.secret = Some(name.clone()),
        SecretChange::Remove { .. } => note.secret = None,
        SecretChange::None | SecretChange::Add { .. } => {}
    }
    let Some(template) = target.template_mut(object) else {
        return false;
    };
    let Some(spec) = template.get_mut("spec") else {
        return false;
    };
    for (place, image) in edits {
        place.put(spec, image);
    }
    plan.secret.apply(spec);
    // What is noted just now is there.
    if !is_first {
        note.retain(&Images::of(spec).names());
    }
    // The API server refuses or drops the annotation when it comes with the update of a Pod's images.
    if target.scope == Scope::Everything {
        note.write(template);
    }
    true
}
