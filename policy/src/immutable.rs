//! Templates that cannot change any more.
//!
//! Whoever applies a Job once more names its original images. The API server would refuse that as a change, although it
//! means what is there. So it is made equal to what is there, if the notes say that it is; a real change stays one.

use serde_json::Value;

use crate::before::Before;
use crate::images::Images;
use crate::pod_template::Target;

const SECRETS: &str = "imagePullSecrets";

/// Makes the template of `object` what it was `before`, if nothing but the policy's own changes differ; `false` if not.
pub fn put_back(object: &mut Value, target: &Target, before: &Before<'_>) -> bool {
    let (Some(old), Some(new)) = (before.template(), target.template_mut(object)) else {
        return false;
    };
    if before.note().is_empty() || new == old {
        return false;
    }
    let mut template = new.clone();
    let Some(spec) = template.get_mut("spec") else {
        return false;
    };
    let copies: Vec<_> = Images::of(spec)
        .slots
        .iter()
        .filter_map(|slot| Some((slot.place, before.copy_of(slot.image)?.to_owned())))
        .collect();
    for (place, copy) in copies {
        place.put(spec, copy);
    }
    if before.note().secret.is_some()
        && let Some(listed) = old.get("spec").and_then(|spec| spec.get(SECRETS))
        && let Some(spec) = spec.as_object_mut()
    {
        spec.insert(SECRETS.to_owned(), listed.clone());
    }
    before.note().clone().write(&mut template);
    let is_the_same = template == *old;
    if is_the_same {
        *new = template;
    }
    is_the_same
}
