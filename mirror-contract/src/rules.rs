//! Rules: which images of a workload are mirrored.
//!
//! One ordered list, of which the first rule that matches the namespace and the image decides. An image that no rule matches is
//! mirrored. An image in the target of a rewrite is kept, whatever the rules say: it is neither copied nor rewritten again.

mod conflicts;
mod coverage;
mod unreachable;

use alloc::string::{String, ToString as _};
use alloc::vec::Vec;
use core::{fmt, slice};

use crate::{BackupName, ImagePattern, ImageRef, NamespacePattern, Relation, RewriteTarget};

pub use coverage::{Coverage, TooManyPatterns};
pub use unreachable::Unreachable;

/// What happens to an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action<'a> {
    /// It is copied to a backup, and workloads use the copy.
    Mirror {
        /// The backup.
        backup: BackupName<'a>,
    },
    /// Workloads use the same image of an existing mirror, and nothing is copied.
    Rewrite {
        /// The mirror.
        target: RewriteTarget<'a>,
    },
    /// Workloads use the original, and nothing is copied.
    Keep,
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
    pub action: Action<'a>,
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
    /// The target of a rule, in which the image is already.
    Target(Position),
}

/// The decision about an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision<'r> {
    /// What happens to it.
    pub action: &'r Action<'r>,
    /// Why; `None` if no rule matches.
    pub decider: Option<Decider>,
}

/// An ordered list of rules.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules<'a>(Vec<Rule<'a>>);

pub(crate) const KEEP: &Action<'static> = &Action::Keep;
const MIRROR: &Action<'static> = &Action::Mirror {
    backup: BackupName::DEFAULT,
};

static ALL_IMAGES: ImagePattern<'static> = ImagePattern::ALL;

/// `patterns`, or the one that matches all if there are none.
fn or_all<'p, P>(patterns: &'p [P], all: &'p P) -> &'p [P] {
    if patterns.is_empty() {
        slice::from_ref(all)
    } else {
        patterns
    }
}

impl<'a> Rules<'a> {
    /// Returns these rules in this order.
    #[must_use]
    pub fn new(rules: Vec<Rule<'a>>) -> Self {
        Self(rules)
    }

    /// Returns the rules in their order.
    pub fn iter(&self) -> impl Iterator<Item = &Rule<'a>> {
        self.0.iter()
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
            rules.push(rule(Position::Include, include, MIRROR.clone()));
            rules.push(rule(Position::Include, Vec::new(), Action::Keep));
        }
        Self(rules)
    }

    /// Returns the decision about `image` in `namespace`, which is not excluded.
    #[must_use]
    pub fn decide(&self, namespace: &str, image: &ImageRef<'_>) -> Decision<'_> {
        if let Some(position) = self.target_with(image) {
            return Decision {
                action: KEEP,
                decider: Some(Decider::Target(position)),
            };
        }
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
                action: MIRROR,
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

    /// Returns the first rule whose target `image` is in.
    #[must_use]
    pub fn target_with(&self, image: &ImageRef<'_>) -> Option<Position> {
        let mut rewrites = self.rewrites();
        let (rule, _) = rewrites.find(|(_, target)| target.contains(image))?;
        Some(rule.position)
    }

    /// Returns how `rewritten` relates to `original`; `None` if no rule rewrites images of its registry to it.
    ///
    /// Namespaces and patterns do not matter, so that workloads that were rewritten stay known when a rule becomes narrower.
    #[must_use]
    pub fn relation(&self, rewritten: &str, original: &str) -> Option<Relation> {
        let rewritten = ImageRef::parse(rewritten).ok()?;
        let original = ImageRef::parse(original).ok()?;
        let mut rewrites = self.rewrites();
        rewrites.find_map(|(rule, target)| {
            if rule.registry()? != original.host() {
                return None;
            }
            Relation::between(&rewritten, &target.rewrite(&original).ok()?)
        })
    }

    /// Returns the backups that rules name, with the positions of these rules.
    pub fn backups(&self) -> impl Iterator<Item = (Position, &BackupName<'a>)> {
        self.0.iter().filter_map(|rule| match &rule.action {
            Action::Mirror { backup } => Some((rule.position, backup)),
            Action::Rewrite { .. } | Action::Keep => None,
        })
    }

    fn rewrites(&self) -> impl Iterator<Item = (&Rule<'a>, &RewriteTarget<'a>)> {
        self.0.iter().filter_map(|rule| match &rule.action {
            Action::Rewrite { target } => Some((rule, target)),
            Action::Mirror { .. } | Action::Keep => None,
        })
    }

    /// Returns the same rules with owned text.
    #[must_use]
    pub fn into_owned(self) -> Rules<'static> {
        Rules(self.0.into_iter().map(Rule::into_owned).collect())
    }
}

impl Action<'_> {
    /// Returns whether images are copied.
    #[must_use]
    pub const fn copies(&self) -> bool {
        matches!(self, Self::Mirror { .. })
    }

    fn into_owned(self) -> Action<'static> {
        match self {
            Self::Mirror { backup } => Action::Mirror {
                backup: backup.into_owned(),
            },
            Self::Rewrite { target } => Action::Rewrite {
                target: target.into_owned(),
            },
            Self::Keep => Action::Keep,
        }
    }
}

impl Rule<'_> {
    /// Returns the registry of all images that the rule matches; `None` if there may be several.
    #[must_use]
    pub fn registry(&self) -> Option<&str> {
        let mut registries = self.images.iter().map(ImagePattern::registry);
        let first = registries.next()??;
        registries
            .all(|registry| registry == Some(first))
            .then_some(first)
    }

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
            action: self.action.into_owned(),
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
            Self::Target(position) => write!(f, "{position}.target"),
        }
    }
}
