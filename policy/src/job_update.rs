//! Templates that cannot change any more.
//!
//! Whoever applies a Job once more names its original images. The API server would refuse that as a change, although it
//! means what is there. So the images that were replaced by copies, and the pull Secret that was added for them, are put
//! back. Anything else stays as it was written: the API server judges what of a Job may change, which is more while it is
//! suspended. The images that are put back are those that exist, so the annotation is believed here without being verified.

use crate::json::Edited;
use crate::object::Object;
use crate::old_object::{OldObject, canonical};
use crate::originals_annotation::OriginalsAnnotation;
use crate::pull_secrets;

/// Puts the copies of `old_object` back into `object`, with their pull Secret and their annotation.
pub fn put_back<'a>(object: &Object<'a>, old_object: &OldObject<'_>) -> Option<Edited<'a>> {
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
        pull_secrets::put_back(name, (old.text, old_spec), spec, &mut edited);
    }
    if uses_copies && template.metadata.originals.is_none() {
        annotation.write(template, &mut edited);
    }
    (!edited.is_empty()).then_some(edited)
}
