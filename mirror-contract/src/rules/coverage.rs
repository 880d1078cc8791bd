//! Finds the rules that can decide in a namespace, for lists of any length. The policy does not need it.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;
use core::fmt;

use super::{ALL_IMAGES, Rules, or_all};
use crate::ImagePattern;

/// Comparisons of patterns in one list of rules, some tenths of a second. Only patterns that begin with the same text up to their
/// first wildcard are compared.
const MAX_COMPARISONS: usize = 1_000_000;

/// The patterns of rules that cover those of others. A pattern that several rules have counts once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Coverage {
    /// The patterns of each rule. After the last rule, the pattern of the images that no rule matches.
    rules: Vec<Vec<usize>>,
    /// For each pattern, those that match all its images, itself included.
    covering: Vec<Vec<usize>>,
}

/// The patterns of rules are too similar to be compared. Displayed as a sentence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooManyPatterns;

impl Rules<'_> {
    /// Compares the image patterns of all rules.
    ///
    /// # Errors
    /// [`TooManyPatterns`] beyond a million comparisons. Five hundred different patterns never need as many.
    pub fn coverage(&self) -> Result<Coverage, TooManyPatterns> {
        let all: &[_] = &[];
        let images = self.0.iter().map(|rule| &*rule.images).chain([all]);
        let mut patterns = Patterns::default();
        let ids = images.map(|images| {
            let images = or_all(images, &ALL_IMAGES).iter();
            images.map(|image| patterns.id(image)).collect()
        });
        let rules = ids.collect();
        let covering = patterns.covering()?;
        Ok(Coverage { rules, covering })
    }
}

impl Coverage {
    /// Returns the rules that can decide about some image, by their position in the list, if only the rules with `applies` exist.
    /// The number of rules stands for images that no rule matches. A rule is left out if a single pattern of an earlier rule
    /// covers each of its patterns ([`ImagePattern::covers`]), so that it never decides.
    pub fn deciding(&self, applies: impl Fn(usize) -> bool) -> impl Iterator<Item = usize> {
        let last = self.rules.len().saturating_sub(1);
        let mut is_earlier = alloc::vec![false; self.covering.len()];
        let rules = self.rules.iter().enumerate();
        let rules = rules.filter(move |(index, _)| *index == last || applies(*index));
        rules.filter_map(move |(index, patterns)| {
            let is_covered = |pattern: &usize| {
                let mut covering = self.covering.get(*pattern).into_iter().flatten();
                covering.any(|pattern| is_earlier.get(*pattern) == Some(&true))
            };
            let decides = !patterns.iter().all(is_covered);
            for pattern in patterns {
                if let Some(is_earlier) = is_earlier.get_mut(*pattern) {
                    *is_earlier = true;
                }
            }
            decides.then_some(index)
        })
    }
}

/// Different patterns.
#[derive(Default)]
struct Patterns<'p> {
    ids: BTreeMap<&'p str, usize>,
    all: Vec<&'p ImagePattern<'p>>,
}

impl<'p> Patterns<'p> {
    fn id(&mut self, pattern: &'p ImagePattern<'p>) -> usize {
        let next = self.all.len();
        let id = *self.ids.entry(pattern.as_str()).or_insert(next);
        if id == next {
            self.all.push(pattern);
        }
        id
    }

    fn covering(&self) -> Result<Vec<Vec<usize>>, TooManyPatterns> {
        let mut by_start: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        for (id, pattern) in self.all.iter().enumerate() {
            by_start.entry(pattern.start()).or_default().push(id);
        }
        let lengths: BTreeSet<_> = by_start.keys().map(|start| start.len()).collect();
        let mut budget = MAX_COMPARISONS;
        let mut all = Vec::with_capacity(self.all.len());
        for pattern in &self.all {
            let mut covering = BTreeSet::new();
            for form in pattern.forms() {
                let starts = lengths.range(..=form.len());
                let starts = starts.filter_map(|length| form.get(..*length));
                for id in starts.filter_map(|start| by_start.get(start)).flatten() {
                    budget = budget.checked_sub(1).ok_or(TooManyPatterns)?;
                    let other = self.all.get(*id);
                    if other.is_some_and(|other| other.matches_text(form)) {
                        covering.insert(*id);
                    }
                }
            }
            all.push(covering.into_iter().collect());
        }
        Ok(all)
    }
}

impl fmt::Display for TooManyPatterns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "`rules` has too many image patterns that begin with `*`, or with the same text before it; write fewer of them",
        )
    }
}
