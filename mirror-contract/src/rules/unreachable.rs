//! Finds rules that can never decide.

use alloc::vec::Vec;
use core::fmt;

use super::{Decider, Position, Rule, Rules, or_all};
use crate::{ImagePattern, NamespacePattern};

/// Comparisons of patterns in one list of rules. Rules beyond it count as reachable, so that the settings of any size are
/// checked within the host's timeout.
pub(super) const MAX_COMPARISONS: usize = 1_000_000;

/// A rule that can never decide, and why. Displayed as a sentence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unreachable {
    /// The rule.
    pub position: Position,
    /// What decides instead, each once.
    pub deciders: Vec<Decider>,
}

impl Rules<'_> {
    /// Returns the rules that can never decide, with `excluded` namespaces. The older settings are always accepted.
    ///
    /// A rule is reported if each of its image patterns, in each of its namespaces, is covered by a single pattern of an earlier
    /// rule, or if the namespace is excluded. A rule that is reported never decides; one that only several patterns together
    /// cover (`a*` to `z*`), or only by the grammar of references ([`ImagePattern::covers`]), is not reported.
    #[must_use]
    pub fn unreachable(&self, excluded: &[NamespacePattern<'_>]) -> Vec<Unreachable> {
        let mut budget = MAX_COMPARISONS;
        let mut unreachable = Vec::new();
        for (index, rule) in self.0.iter().enumerate() {
            let earlier = self.0.get(..index).unwrap_or_default();
            if let Position::Rules(_) = rule.position
                && let Some(deciders) = deciders(rule, earlier, excluded, &mut budget)
            {
                unreachable.push(Unreachable {
                    position: rule.position,
                    deciders,
                });
            }
        }
        unreachable
    }
}

/// What decides instead of `rule`; `None` if something is left to it.
fn deciders(
    rule: &Rule<'_>,
    earlier: &[Rule<'_>],
    excluded: &[NamespacePattern<'_>],
    budget: &mut usize,
) -> Option<Vec<Decider>> {
    let mut deciders = Vec::new();
    for namespace in or_all(&rule.namespaces, &NamespacePattern::ALL) {
        let is_excluded = excluded.iter().any(|pattern| pattern.covers(namespace));
        for image in or_all(&rule.images, &ImagePattern::ALL) {
            let decider = if is_excluded {
                Decider::ExcludedNamespaces
            } else {
                let mut earlier = earlier.iter();
                let rule = earlier.find(|rule| rule.covers(namespace, image, budget))?;
                Decider::Rule(rule.position)
            };
            if !deciders.contains(&decider) {
                deciders.push(decider);
            }
        }
    }
    Some(deciders)
}

impl Rule<'_> {
    fn covers(
        &self,
        namespace: &NamespacePattern<'_>,
        image: &ImagePattern<'_>,
        budget: &mut usize,
    ) -> bool {
        let cost = 1 + self.namespaces.len() + self.images.len();
        let Some(rest) = budget.checked_sub(cost) else {
            return false;
        };
        *budget = rest;
        let mut namespaces = or_all(&self.namespaces, &NamespacePattern::ALL).iter();
        let mut images = or_all(&self.images, &ImagePattern::ALL).iter();
        namespaces.any(|pattern| pattern.covers(namespace))
            && images.any(|pattern| pattern.covers(image))
    }
}

impl fmt::Display for Unreachable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` can never match: ", self.position)?;
        let mut separator = "";
        for decider in &self.deciders {
            write!(f, "{separator}`{decider}`")?;
            separator = ", ";
        }
        f.write_str(if self.deciders.len() == 1 {
            " matches all its images first"
        } else {
            " match all its images first"
        })
    }
}
