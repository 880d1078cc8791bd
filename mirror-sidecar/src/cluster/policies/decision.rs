//! What the rules say about one image in one namespace, and which setting says it.
//!
//! The same policies decide as for copies ([`Demand`](super::Demand)), one after another, and each decision keeps its reason. For
//! commands and pages that explain; the service itself needs no reasons.

use std::fmt;

use mirror_contract::rules::{Action, Decider};
use mirror_contract::{BackupName, ImageRef, NamespacePattern};

use super::policy::{NotAdmitted, Policy};
use super::{MAX_POLICIES, PolicySet};
use crate::cluster::workload::{Labels, Workload};

/// Where an image is used.
#[derive(Clone, Copy, Debug)]
pub struct Use<'a> {
    pub namespace: &'a str,
    /// The labels of the namespace; `None` if they are not known.
    pub labels: Option<&'a Labels>,
    /// The object that uses the image; `None` for any object of the namespace.
    pub workload: Option<&'a Workload>,
}

/// What one policy says about an image.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ImageDecision {
    pub outcome: Outcome,
    /// The name of the policy; `None` for settings of a file, and for flags.
    pub policy: Option<Box<str>>,
    /// The setting that decides, such as `rules[2]`; empty if no setting does, so that the default applies.
    pub setting: String,
}

/// What happens to an image. The order is that of decisions about one image: an image that one policy copies is copied.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// It is copied to this backup, and workloads use the copy.
    Mirror { backup: BackupName<'static> },
    /// Workloads use this image in the target of a rewrite.
    Rewrite { image: Box<ImageRef<'static>> },
    /// Workloads use the original, and nothing is copied.
    Keep(KeepReason),
}

/// Why an image is kept. The first reason is the one to report if several policies keep an image.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum KeepReason {
    /// A rule keeps it.
    Rule,
    /// It is in the target of a rewrite.
    InTarget,
    /// The name of an image in the target is not valid.
    NoTargetName,
    /// The object or its Pod template has the skip annotation or label, or it is a static Pod.
    OptedOut,
    /// An owner of the object compares images itself.
    Owner { kind: Box<str> },
    /// The object or its Pod template has this label.
    Label { label: Box<str> },
    /// The labels of the object do not match the selector of the policy.
    ObjectSelector,
    /// The labels of the namespace decide, and are not known.
    UnknownLabels,
    /// The namespace does not match the selector of the policy.
    NamespaceSelector,
    /// The namespace is excluded.
    ExcludedNamespace,
}

/// Returns what happens to `image`: all decisions that copy or rewrite it, or the reason to report why it is kept. Never empty,
/// and each outcome once. While there are no policies, everything outside of the namespaces in `excluded`, those of flags, is
/// copied to the default backup.
#[must_use]
pub fn decide(
    policies: &PolicySet,
    excluded: &[NamespacePattern<'static>],
    of: &Use<'_>,
    image: &ImageRef<'_>,
) -> Vec<ImageDecision> {
    if policies.is_empty() {
        return vec![decide_by_flags(excluded, of)];
    }
    let all = policies.policies.iter().take(MAX_POLICIES);
    let mut decisions: Vec<_> = all.map(|policy| policy.decision(of, image)).collect();
    decisions.sort();
    decisions.dedup_by(|next, first| next.outcome == first.outcome);
    let acting = decisions
        .iter()
        .filter(|decision| !matches!(decision.outcome, Outcome::Keep(_)))
        .count();
    decisions.truncate(acting.max(1));
    decisions
}

/// Returns the setting that decides about an image of a namespace, with the name of its policy. Only the first policy counts
/// that decides `is_wanted`, whatever its selectors: for images of which it is known what happens to them. `None` if no policy
/// does, or if the default applies.
#[must_use]
pub fn deciding_setting<'p>(
    policies: &'p PolicySet,
    namespace: &str,
    image: &ImageRef<'_>,
    is_wanted: impl Fn(&Action<'_>) -> bool,
) -> Option<(Option<&'p str>, String)> {
    policies.policies.iter().find_map(|policy| {
        let decision = policy.settings().decide(namespace, image);
        let decider = decision.decider.filter(|_| is_wanted(decision.action))?;
        Some((policy.id().map(|id| &*id.name), decider.to_string()))
    })
}

fn decide_by_flags(excluded: &[NamespacePattern<'static>], of: &Use<'_>) -> ImageDecision {
    let mut patterns = excluded.iter();
    let (outcome, setting) = if patterns.any(|pattern| pattern.matches(of.namespace)) {
        let reason = KeepReason::ExcludedNamespace;
        (Outcome::Keep(reason), "--exclude-namespaces")
    } else if of.workload.is_some_and(|workload| workload.is_exempt) {
        (Outcome::Keep(KeepReason::OptedOut), "")
    } else {
        let backup = BackupName::DEFAULT;
        (Outcome::Mirror { backup }, "")
    };
    ImageDecision {
        outcome,
        policy: None,
        setting: setting.to_owned(),
    }
}

impl Policy {
    fn decision(&self, of: &Use<'_>, image: &ImageRef<'_>) -> ImageDecision {
        let (outcome, setting) = self.outcome(of, image);
        ImageDecision {
            outcome,
            policy: self.id().map(|id| id.name.clone()),
            setting,
        }
    }

    fn outcome(&self, of: &Use<'_>, image: &ImageRef<'_>) -> (Outcome, String) {
        let decision = self.settings().decide(of.namespace, image);
        if decision.decider == Some(Decider::ExcludedNamespaces) {
            return keep(KeepReason::ExcludedNamespace, "excludedNamespaces");
        }
        match self.selects_namespace(of.namespace, of.labels) {
            Some(true) => {}
            Some(false) => return keep(KeepReason::NamespaceSelector, "namespaceSelector"),
            None => return keep(KeepReason::UnknownLabels, "namespaceSelector"),
        }
        if let Some(workload) = of.workload {
            if workload.is_exempt {
                return keep(KeepReason::OptedOut, "");
            }
            match self.refusal(workload) {
                None => {}
                Some(NotAdmitted::ObjectSelector) => {
                    return keep(KeepReason::ObjectSelector, "objectSelector");
                }
                Some(NotAdmitted::Owner { kind }) => {
                    let kind = kind.into();
                    return keep(KeepReason::Owner { kind }, "skipOwners");
                }
                Some(NotAdmitted::Label { key, value }) => {
                    let label = format!("{key}={value}").into();
                    return keep(KeepReason::Label { label }, "skipLabels");
                }
            }
        }
        let setting = decision.decider.as_ref().map(ToString::to_string);
        let outcome = match decision.action {
            Action::Mirror { backup } => Outcome::Mirror {
                backup: backup.clone().into_owned(),
            },
            Action::Rewrite { target } => match target.rewrite(image) {
                Ok(image) => Outcome::Rewrite {
                    image: Box::new(image),
                },
                Err(_) => Outcome::Keep(KeepReason::NoTargetName),
            },
            Action::Keep if matches!(decision.decider, Some(Decider::Target(_))) => {
                Outcome::Keep(KeepReason::InTarget)
            }
            Action::Keep => Outcome::Keep(KeepReason::Rule),
        };
        (outcome, setting.unwrap_or_default())
    }
}

fn keep(reason: KeepReason, setting: &str) -> (Outcome, String) {
    (Outcome::Keep(reason), setting.to_owned())
}

impl ImageDecision {
    /// Returns the rule with its policy: `rules[2] of policy image-mirror`, or `default` if no setting decides.
    #[must_use]
    pub fn rule(&self) -> String {
        let setting = if self.setting.is_empty() {
            "default"
        } else {
            &self.setting
        };
        match &self.policy {
            Some(policy) => format!("{setting} of policy {policy}"),
            None => setting.to_owned(),
        }
    }
}

impl Outcome {
    /// Returns the action, as in a rule.
    #[must_use]
    pub const fn action(&self) -> &'static str {
        match self {
            Self::Mirror { .. } => "mirror",
            Self::Rewrite { .. } => "rewrite",
            Self::Keep(_) => "keep",
        }
    }
}

/// A sentence without its end.
impl fmt::Display for KeepReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rule => f.write_str("a rule keeps the original"),
            Self::InTarget => f.write_str("it is in the target of a rewrite"),
            Self::NoTargetName => f.write_str("its name in the target of the rewrite is not valid"),
            Self::OptedOut => f.write_str(
                "the workload has opted out with image-mirror.dev/skip, or is a static Pod",
            ),
            Self::Owner { kind } => write!(f, "its owner, a {kind}, compares images itself"),
            Self::Label { label } => write!(f, "the workload has the label {label}"),
            Self::ObjectSelector => {
                f.write_str("the labels of the workload do not match the policy")
            }
            Self::UnknownLabels => {
                f.write_str("the policy selects namespaces by labels, which are not known here")
            }
            Self::NamespaceSelector => f.write_str("the policy does not select the namespace"),
            Self::ExcludedNamespace => f.write_str("the namespace is excluded"),
        }
    }
}

#[cfg(test)]
mod tests;
