//! Finds targets of rewrites that cannot be used beside the other settings.

use alloc::format;
use alloc::string::{String, ToString as _};
use alloc::vec::Vec;

use super::unreachable::MAX_COMPARISONS;
use super::{Action, Rule, Rules};
use crate::RewriteTarget;

impl Rules<'_> {
    /// Returns one sentence for each conflict: a target that overlaps a backup or the target of other images, and a rule that
    /// would rewrite or copy the images of a target once more.
    #[must_use]
    pub fn conflicts(&self, overlaps_backup: &dyn Fn(&RewriteTarget<'_>) -> bool) -> Vec<String> {
        let mut budget = MAX_COMPARISONS;
        let mut conflicts = Vec::new();
        for (rule, target) in self.rewrites() {
            let position = rule.position;
            if overlaps_backup(target) {
                conflicts.push(format!(
                    "`{position}.target` overlaps one of `backups`: its images would count as copies"
                ));
            }
            let location = target.to_string();
            let mut is_earlier = true;
            for other in &self.0 {
                is_earlier &= other.position != position;
                let Some(rest) = budget.checked_sub(1 + other.images.len()) else {
                    return conflicts;
                };
                budget = rest;
                if is_earlier && rule.has_names_of(target, other) {
                    conflicts.push(format!(
                        "`{position}.target` overlaps `{}.target`: different images could get the same name",
                        other.position
                    ));
                }
                if other.applies_to(&location) {
                    conflicts.push(format!(
                        "`{}` applies to images in `{position}.target`, which cannot be copied or rewritten again",
                        other.position
                    ));
                }
            }
        }
        conflicts
    }
}

impl Rule<'_> {
    /// Whether an image of this rule, whose target is `target`, and another image of `other` may get the same name.
    fn has_names_of(&self, target: &RewriteTarget<'_>, other: &Self) -> bool {
        let Action::Rewrite { target: others } = &other.action else {
            return false;
        };
        let is_same = target == others && self.registry() == other.registry();
        !is_same && target.overlaps(&others.to_string())
    }

    /// Whether the rule is meant for images in `location`, the target of a rewrite. A rule that mirrors them among others is not.
    fn applies_to(&self, location: &str) -> bool {
        let mut images = self.images.iter();
        match self.action {
            Action::Keep => false,
            Action::Mirror { .. } => images.any(|pattern| pattern.is_within(location)),
            Action::Rewrite { .. } => images.any(|pattern| pattern.may_match_in(location)),
        }
    }
}
