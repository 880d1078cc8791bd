//! Whether a workload starts new Pods anyway, so that its copies may get other names.
//!
//! After a change of naming, repository or host, every copy has another name. If every update used it, all workloads would
//! restart together as soon as they are applied again. So they keep their copies until the sidecar readmits them, at its own
//! pace, or until their template changes.

use std::borrow::Cow;

use mirror_contract::workload::{ImageList, ORIGINAL_IMAGES};

use crate::json::{Cursor, Texts};
use crate::object::Object;
use crate::old_object::{OldObject, canonical};
use crate::originals_annotation::OriginalsAnnotation;
use crate::pull_secrets;
use crate::request::{Scope, Target};

pub fn is_due(object: &Object<'_>, old_object: &OldObject<'_>, target: &Target) -> bool {
    if target.scope == Scope::ChangedImages {
        // The kubelet would restart the container.
        return false;
    }
    let Some(old) = old_object.object() else {
        return true;
    };
    if target.is_pod || object.metadata().readmitted != old.metadata().readmitted {
        return true;
    }
    let (Some(old), Some(new)) = (old.template_text(), object.template_text()) else {
        return true;
    };
    let annotation = old_object.annotation();
    !Comparison { annotation }.are_same_templates(old, new)
}

/// Compares two templates. Everything that the policy does not change must have the same text: the host serialises both.
struct Comparison<'a> {
    /// From the old template.
    annotation: &'a OriginalsAnnotation,
}

impl Comparison<'_> {
    fn are_same_templates(&self, old: &str, new: &str) -> bool {
        are_same(old, new, |key, old, new| match key {
            "metadata" => are_same(old, new, |key, old, new| match key {
                "annotations" => are_same(old, new, |key, old, new| {
                    key == ORIGINAL_IMAGES || old == new
                }),
                _ => old == new,
            }),
            "spec" => self.are_same_specs(old, new),
            _ => old == new,
        })
    }

    fn are_same_specs(&self, old: &str, new: &str) -> bool {
        are_same(old, new, |key, old, new| {
            let is_added = self.annotation.secret.is_some() && !old.is_empty();
            match ImageList::of(key) {
                _ if old == new => true,
                Some(list) => self.are_same_lists(list, old, new),
                None => key == pull_secrets::KEY && is_added,
            }
        })
    }

    fn are_same_lists(&self, list: ImageList, old: &str, new: &str) -> bool {
        let (mut old, mut new) = (Cursor::new(old), Cursor::new(new));
        if old.null() || new.null() || !old.enter_array() || !new.enter_array() {
            return false;
        }
        loop {
            match (old.next_element(), new.next_element()) {
                (true, true) => {}
                (false, false) => return true,
                _ => return false,
            }
            let is_same_image = |key: &str, old: &str, new: &str| {
                old == new || (key == list.image_key() && self.is_copy(old, new))
            };
            let (old, new) = (old.raw(), new.raw());
            let is_same = old == new
                || are_same(old, new, |key, old, new| match list {
                    ImageList::Volumes if key == "image" => are_same(old, new, is_same_image),
                    ImageList::Volumes => old == new,
                    _ => is_same_image(key, old, new),
                });
            if !is_same {
                return false;
            }
        }
    }

    /// Whether the old image is a copy of the new one.
    fn is_copy(&self, old: &str, new: &str) -> bool {
        let old = Cursor::new(old).string();
        let original = old.and_then(|old| self.annotation.original(&old).map(canonical));
        let new = Cursor::new(new).string();
        original.is_some() && original == new.map(|new| canonical(&new))
    }
}

/// Whether `compare` accepts all members of two objects. It gets an empty text for a member that one of them lacks.
fn are_same(old: &str, new: &str, mut compare: impl FnMut(&str, &str, &str) -> bool) -> bool {
    let (Some(old), Some(mut new)) = (members(old), members(new)) else {
        return old == new;
    };
    old.into_iter().all(|(key, old)| {
        let new = new.remove(&key).unwrap_or_default();
        compare(&key, &old, &new)
    }) && new.into_iter().all(|(key, new)| compare(&key, "", &new))
}

/// The members of an object, none if it is missing or `null`; `None` if it is not an object.
fn members(text: &str) -> Option<Texts<'_>> {
    let mut members = Texts::new();
    let mut cursor = Cursor::new(text);
    if text.is_empty() || cursor.null() {
        return Some(members);
    }
    if !cursor.enter_object() {
        return None;
    }
    while let Some(key) = cursor.next_key() {
        members.insert(key.name, Cow::Borrowed(cursor.raw()));
    }
    Some(members)
}
