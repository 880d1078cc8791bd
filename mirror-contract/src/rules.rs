//! Rules: which images of a workload are mirrored.
//!
//! One ordered list, of which the first rule that matches the namespace and the image decides. An image that no rule matches is
//! mirrored.

mod unreachable;

use alloc::string::{String, ToString as _};
use alloc::vec::Vec;
use core::fmt;

use crate::{ImagePattern, ImageRef, NamespacePattern};

pub use unreachable::Unreachable;

/// What happens to an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// It is copied to the backup, and workloads use the copy.
    Mirror,
    /// Workloads use the original, and nothing is copied.
    Keep,
}

impl Action {
    /// Returns whether images are copied.
    #[must_use]
    pub const fn copies(&self) -> bool {
        matches!(self, Self::Mirror)
    }
}

/// A rule: an action for some images in some namespaces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule<'a> {
    /// Where it is written.
    pub position: Position,
    /// Empty for all namespaces.
    pub namespaces: Vec<NamespacePattern<'a>>,
    /// Empty for all images.
    pub images: Vec<ImagePattern<'a>>,
    /// What happens to the images that it matches.
    pub action: Action,
}

/// Where a rule is written in the settings. Displayed as the name of that setting: `rules[2]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Position {
    /// In `rules`, from 0.
    Rules(usize),
    /// In `images.include`.
    Include,
    /// In `images.exclude`.
    Exclude,
}

/// The setting that decides about an image. Displayed as its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decider {
    /// `excludedNamespaces`, which keeps all images of a namespace.
    ExcludedNamespaces,
    /// A rule.
    Rule(Position),
}

/// The decision about an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision<'r> {
    /// What happens to it.
    pub action: &'r Action,
    /// Why; `None` if no rule matches.
    pub decider: Option<Decider>,
}

/// An ordered list of rules.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules<'a>(Vec<Rule<'a>>);

impl<'a> Rules<'a> {
    /// Returns these rules in this order.
    #[must_use]
    pub fn new(rules: Vec<Rule<'a>>) -> Self {
        Self(rules)
    }

    /// Returns the rules that mean the same as the settings `images.include` and `images.exclude`.
    #[must_use]
    pub fn of_filters(include: Vec<ImagePattern<'a>>, exclude: Vec<ImagePattern<'a>>) -> Self {
        let rule = |position, images, action| Rule {
            position,
            namespaces: Vec::new(),
            images,
            action,
        };
        let mut rules = Vec::new();
        if !exclude.is_empty() {
            rules.push(rule(Position::Exclude, exclude, Action::Keep));
        }
        if !include.is_empty() {
            rules.push(rule(Position::Include, include, Action::Mirror));
            rules.push(rule(Position::Include, Vec::new(), Action::Keep));
        }
        Self(rules)
    }

    /// Returns the decision about `image` in `namespace`, which is not excluded.
    #[must_use]
    pub fn decide(&self, namespace: &str, image: &ImageRef<'_>) -> Decision<'_> {
        // Formatted for the first rule that needs it.
        let mut canonical = String::new();
        let rule = self.0.iter().find(|rule| {
            rule.matches_namespace(namespace) && rule.matches_image(image, &mut canonical)
        });
        match rule {
            Some(Rule {
                action, position, ..
            }) => Decision {
                action,
                decider: Some(Decider::Rule(*position)),
            },
            None => Decision {
                action: &Action::Mirror,
                decider: None,
            },
        }
    }

    /// Returns whether some image in `namespace`, which is not excluded, may be copied. `false` is always right.
    #[must_use]
    pub fn may_copy(&self, namespace: &str) -> bool {
        let mut rules = self.0.iter();
        let decisive = rules.find(|rule| {
            rule.matches_namespace(namespace) && (rule.action.copies() || rule.images.is_empty())
        });
        decisive.is_none_or(|rule| rule.action.copies())
    }

    /// Returns the same rules with owned text.
    #[must_use]
    pub fn into_owned(self) -> Rules<'static> {
        Rules(self.0.into_iter().map(Rule::into_owned).collect())
    }
}

impl Rule<'_> {
    fn matches_namespace(&self, namespace: &str) -> bool {
        let mut patterns = self.namespaces.iter();
        self.namespaces.is_empty() || patterns.any(|pattern| pattern.matches(namespace))
    }

    fn matches_image(&self, image: &ImageRef<'_>, canonical: &mut String) -> bool {
        if self.images.is_empty() {
            return true;
        }
        if canonical.is_empty() {
            *canonical = image.to_string();
        }
        let mut patterns = self.images.iter();
        patterns.any(|pattern| pattern.matches(image, canonical))
    }

    fn into_owned(self) -> Rule<'static> {
        let namespaces = self.namespaces.into_iter();
        let images = self.images.into_iter();
        Rule {
            position: self.position,
            namespaces: namespaces.map(NamespacePattern::into_owned).collect(),
            images: images.map(ImagePattern::into_owned).collect(),
            action: self.action,
        }
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rules(index) => write!(f, "rules[{index}]"),
            Self::Include => f.write_str("images.include"),
            Self::Exclude => f.write_str("images.exclude"),
        }
    }
}

impl fmt::Display for Decider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ExcludedNamespaces => f.write_str("excludedNamespaces"),
            Self::Rule(position) => position.fmt(f),
        }
    }
}
