//! The policies whose rules decide which images are copied.
//!
//! The policies come from `ClusterAdmissionPolicies` of the cluster ([`follow`]) or from a file ([`file`]). This file decides
//! for the [`Policy`]s that are in force, and does no I/O.

mod allowed_logins;
pub mod decision;
pub mod file;
pub mod follow;
mod policy;
mod pull_destinations;
mod selector;
#[cfg(test)]
mod tests;
mod unusable;

use std::sync::Arc;

use mirror_contract::rules::Action;
use mirror_contract::{BackupName, ImageRef};
use tokio::sync::watch;

use super::pull_locations::LoginOwner;
use super::workload::{Labels, Workload};
pub use allowed_logins::AllowedLogins;
pub use policy::{Fallback, Policy, PolicyId};
pub use unusable::{UnusableKind, UnusableRule};

/// Policies that are followed. [`Bits`] has a bit for each.
pub const MAX_POLICIES: usize = 32;

/// Longest settings of a policy, in bytes. In memory they take several times as much, for each policy.
const MAX_SETTINGS: usize = 256 * 1024;

/// The policies in force, shared by all tasks. Clones share them.
#[derive(Clone, Debug)]
pub struct Policies(Arc<watch::Sender<Arc<PolicySet>>>);

/// The policies in force at one time. While there are none, the flags of this service decide instead. With several backups, a
/// [`Fallback`] is in force then.
#[derive(Debug, Default)]
pub struct PolicySet {
    policies: Vec<Arc<Policy>>,
    /// Differs from that of the sets before.
    generation: u32,
}

/// The policies of a set that select a namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Selection {
    generation: u32,
    policies: Bits,
    /// The labels of the namespace are known, or do not matter.
    is_certain: bool,
}

/// The policies of a set that rewrite an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RewritingPolicies {
    generation: u32,
    policies: Bits,
}

/// What the policies want of an object.
#[derive(Clone, Copy, Debug)]
pub struct Demand<'p> {
    set: &'p PolicySet,
    namespace: &'p str,
    policies: Bits,
    /// Those that select the namespace, whatever the object is.
    selecting: Bits,
}

/// What the rules of a namespace say about an image in a backup that one of its workloads uses. Anybody who may create Pods can
/// name any image of any backup. The strongest claim comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CopyClaim {
    /// A rule sends the original into this backup: the copy is created and maintained.
    Wanted,
    /// The rules use this backup, but not for this image.
    Allowed,
    /// The rules do not use this backup. Workloads must not learn from mirror-sidecar what it contains.
    Barred,
}

/// Policies of a set, by their index.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Bits(u32);

impl Policies {
    #[must_use]
    pub fn current(&self) -> Arc<PolicySet> {
        Arc::clone(&self.0.borrow())
    }

    /// Returns a receiver that is notified when other policies are in force.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<Arc<PolicySet>> {
        self.0.subscribe()
    }

    /// Puts the policy `fallback` into force in place of others of that kind, and if nothing may be copied while there are none.
    pub fn publish_fallback(&self, fallback: &Arc<Policy>) {
        let mut policies = self.current().policies.clone();
        for policy in &mut policies {
            if policy.fallback().is_some() {
                *policy = Arc::clone(fallback);
            }
        }
        if policies.is_empty() && fallback.fallback() == Some(Fallback::CopyNothing) {
            policies.push(Arc::clone(fallback));
        }
        self.publish(policies);
    }

    /// Puts these policies into force, at most [`MAX_POLICIES`].
    pub fn publish(&self, mut policies: Vec<Arc<Policy>>) {
        policies.truncate(MAX_POLICIES);
        self.0.send_if_modified(|current| {
            let is_new = current.policies != policies;
            if is_new {
                let generation = current.generation.wrapping_add(1);
                *current = Arc::new(PolicySet {
                    policies,
                    generation,
                });
            }
            is_new
        });
    }
}

impl Default for Policies {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::default()))
    }
}

impl PolicySet {
    /// Returns whether the flags decide.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.policies.is_empty()
    }

    /// Returns the policies that select a namespace with these labels; `None` if they are not known. A policy for which
    /// unknown labels matter does not select it.
    #[must_use]
    pub fn select(&self, namespace: &str, labels: Option<&Labels>) -> Selection {
        let mut is_certain = true;
        let policies = self.bits(|policy| {
            let selects = policy.selects_namespace(namespace, labels);
            is_certain &= selects.is_some();
            selects == Some(true)
        });
        Selection {
            generation: self.generation,
            policies,
            is_certain,
        }
    }

    /// Returns what the policies that select the namespace of `workload` want of it.
    #[must_use]
    pub fn demand<'p>(&'p self, selection: Selection, workload: &'p Workload) -> Demand<'p> {
        let namespace = &*workload.key.namespace;
        let admitting = self.bits(|policy| policy.admits(workload));
        let selecting = self.selected(selection);
        Demand {
            set: self,
            namespace,
            policies: admitting.and(selecting),
            selecting,
        }
    }

    /// Returns the policy of this object, if it is in force.
    #[must_use]
    pub fn of_object(&self, id: &PolicyId) -> Option<&Arc<Policy>> {
        let mut policies = self.policies.iter();
        policies.find(|policy| policy.id() == Some(id))
    }

    /// Returns whether the rules of some policy are not known.
    #[must_use]
    pub fn has_fallback(&self) -> bool {
        let mut policies = self.policies.iter();
        policies.any(|policy| policy.fallback().is_some())
    }

    /// Returns whether labels of namespaces matter.
    #[must_use]
    pub fn reads_namespace_labels(&self) -> bool {
        let mut policies = self.policies.iter();
        policies.any(|policy| policy.reads_namespace_labels())
    }

    /// Returns whether all policies exclude a namespace.
    #[must_use]
    pub fn excludes_namespace(&self, namespace: &str) -> bool {
        let mut policies = self.policies.iter();
        !self.is_empty() && policies.all(|policy| policy.settings().excludes_namespace(namespace))
    }

    /// Returns whether some image in a namespace may be copied. Without a selection all policies select it.
    #[must_use]
    pub fn may_copy(&self, namespace: &str, selection: Option<Selection>) -> bool {
        let may_copy = self.bits(|policy| policy.settings().may_copy(namespace));
        let selected = selection.map_or(may_copy, |selection| self.selected(selection));
        self.is_empty() || !selected.and(may_copy).is_empty()
    }

    /// Returns whether a policy leaves the Pods of a controller alone. One is enough, since its owner would delete them.
    #[must_use]
    pub fn skips_owner(&self, api_version: &str, kind: &str) -> bool {
        let mut policies = self.policies.iter();
        policies.any(|policy| policy.settings().skips_owner(api_version, kind))
    }

    /// Returns the policies of a selection, none if it is of another set.
    fn selected(&self, selection: Selection) -> Bits {
        if self.is_current(selection) {
            selection.policies
        } else {
            Bits::default()
        }
    }

    /// Returns whether a selection is of this set.
    #[must_use]
    pub fn is_current(&self, selection: Selection) -> bool {
        selection.generation == self.generation
    }

    fn bits(&self, mut is_set: impl FnMut(&Policy) -> bool) -> Bits {
        let policies = self.policies.iter().take(MAX_POLICIES).enumerate();
        let bits = policies.map(|(index, policy)| u32::from(is_set(policy)) << index);
        Bits(bits.fold(0, |all, bit| all | bit))
    }

    /// Returns whether an image is in the target of a rewrite; always, if there are no policies.
    #[must_use]
    pub fn has_target_with(&self, image: &ImageRef<'_>) -> bool {
        let mut policies = self.policies.iter();
        self.is_empty()
            || policies.any(|policy| policy.settings().rules.target_with(image).is_some())
    }

    /// Returns the image in the target of a rewrite that replaces `image` of an object in a namespace; `None` if none of the
    /// policies that rewrite the object does. If these are of another set, those count that select the namespace by its name.
    #[must_use]
    pub fn rewritten(
        &self,
        by: RewritingPolicies,
        namespace: &str,
        image: &ImageRef<'_>,
    ) -> Option<ImageRef<'static>> {
        let rewriting = if by.generation == self.generation {
            by.policies
        } else {
            self.select(namespace, None).policies
        };
        let policies = self.policies.iter().enumerate();
        let mut policies = policies.filter(|(index, _)| rewriting.contains(*index));
        policies.find_map(|(_, policy)| policy.rewritten(namespace, image))
    }
}

impl Selection {
    #[must_use]
    pub fn is_certain(self) -> bool {
        self.is_certain
    }

    /// Returns whether no policy selects the namespace.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.policies.is_empty()
    }

    /// Returns whether other policies select the namespace than before, and the same ones exist.
    #[must_use]
    pub fn differs(self, before: Self) -> bool {
        self.generation == before.generation && self.policies != before.policies
    }
}

impl Demand<'_> {
    /// Returns that nothing is wanted of the object, whatever the policies say.
    #[must_use]
    pub fn without_object(self) -> Self {
        Self {
            policies: Bits::default(),
            ..self
        }
    }

    /// Returns the claim of the namespace to an image in `backup` with this original, if it is known. Without policies, there are
    /// copies in the default backup only.
    #[must_use]
    pub fn claim(&self, original: Option<&ImageRef<'_>>, backup: &BackupName<'_>) -> CopyClaim {
        let of_namespace = Self {
            policies: self.selecting,
            ..*self
        };
        if self.set.is_empty() && backup.is_default()
            || original.is_some_and(|original| of_namespace.wants(original, backup))
        {
            CopyClaim::Wanted
        } else if of_namespace.may_choose(backup) {
            CopyClaim::Allowed
        } else {
            CopyClaim::Barred
        }
    }

    /// Returns whether the rules can choose a backup for some image.
    fn may_choose(&self, backup: &BackupName<'_>) -> bool {
        let is_it = |owner: &LoginOwner| matches!(owner, LoginOwner::Backup(name) if name.as_str() == backup.as_str());
        let choosing = self.set.bits(|policy| {
            let mut destinations = policy.destinations().in_namespace(self.namespace);
            destinations.any(is_it)
        });
        !self.policies.and(choosing).is_empty()
    }

    /// Returns whether no policy would rewrite the object.
    #[must_use]
    pub fn is_nothing(&self) -> bool {
        !self.set.is_empty() && self.policies.is_empty()
    }

    /// Returns whether an image of the object is copied to `backup`: some policy wants it. Without policies, everything is
    /// copied to the default backup.
    #[must_use]
    pub fn wants(&self, image: &ImageRef<'_>, backup: &BackupName<'_>) -> bool {
        if self.set.is_empty() {
            return backup.is_default();
        }
        self.is_any(
            image,
            |action| matches!(action, Action::Mirror { backup: wanted } if wanted == backup),
        )
    }

    /// Returns whether an image of the object belongs into the backup `to`, and not into the backup `from` any more. Without
    /// policies, copies stay where they are.
    #[must_use]
    pub fn moves(&self, image: &ImageRef<'_>, from: &BackupName<'_>, to: &BackupName<'_>) -> bool {
        !self.set.is_empty() && self.wants(image, to) && !self.wants(image, from)
    }

    /// Returns whether an image of the object is copied, and only to other backups than `backup`.
    #[must_use]
    pub fn wants_only_elsewhere(&self, image: &ImageRef<'_>, backup: &BackupName<'_>) -> bool {
        !self.set.is_empty()
            && self.is_any(image, |action| matches!(action, Action::Mirror { .. }))
            && !self.wants(image, backup)
    }

    /// Returns whether the rules of all policies leave an image of the object as it is.
    #[must_use]
    pub fn keeps(&self, image: &ImageRef<'_>) -> bool {
        !self.set.is_empty() && !self.is_any(image, |action| !matches!(action, Action::Keep))
    }

    /// Returns whether one of the policies has such a decision about an image.
    fn is_any(&self, image: &ImageRef<'_>, is_wanted: impl Fn(&Action<'_>) -> bool) -> bool {
        let wanting = || {
            self.set.bits(|policy| {
                let decision = policy.settings().decide(self.namespace, image);
                is_wanted(decision.action)
            })
        };
        !self.policies.is_empty() && !self.policies.and(wanting()).is_empty()
    }

    /// Returns whether a policy replaces an image of the object by the same one in the target of a rewrite.
    #[must_use]
    pub fn rewrites(&self, image: &ImageRef<'_>) -> bool {
        let rewriting = || {
            let rewritten = |policy: &Policy| policy.rewritten(self.namespace, image).is_some();
            self.set.bits(rewritten)
        };
        !self.policies.is_empty() && !self.policies.and(rewriting()).is_empty()
    }

    /// Returns the policies that rewrite the object.
    #[must_use]
    pub fn rewriting(&self) -> RewritingPolicies {
        RewritingPolicies {
            generation: self.set.generation,
            policies: self.policies,
        }
    }
}

impl CopyClaim {
    pub const ALL: [Self; 3] = [Self::Wanted, Self::Allowed, Self::Barred];
}

impl Bits {
    const fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    const fn is_empty(self) -> bool {
        self.0 == 0
    }

    fn contains(self, index: usize) -> bool {
        let index = u32::try_from(index).unwrap_or(u32::MAX);
        self.0.checked_shr(index).is_some_and(|bits| bits & 1 == 1)
    }
}
