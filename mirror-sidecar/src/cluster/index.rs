//! The images that workloads use, in memory.
//!
//! The watches fill the index with [`Change`]s; it does no I/O, so every query depends on them alone. Objects of excluded
//! namespaces, ended Pods and the history of Deployments are not kept, and [`Limits`] bound the rest.
//!
//! Queries are in `queries` and `candidates`.

mod candidates;
mod copies;
mod entry;
mod excluded_images;
mod image_users;
mod limits;
mod namespaces;
mod queries;
mod rules;
mod sync_state;
#[cfg(test)]
pub(crate) mod tests;
mod usage;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use k8s_openapi::jiff::Timestamp;
use mirror_contract::ImageRef;

use super::login_access::LoginSet;
use super::policies::{Demand, Policies, PolicySet, Selection};
use super::pull_locations::PullLocations;
use super::workload::{Key, NamespaceObject, Object, Workload};
use super::workload_kind::{Kind, WorkloadKind};
pub use candidates::{Candidate, CopyState, ImageNamespaces, candidates_in};
use copies::Copies;
pub use entry::Entry;
use entry::{Containers, Location, UsedCopy};
use excluded_images::ExcludedImages;
pub use excluded_images::Exclusion;
use image_users::ImageUsers;
pub use image_users::{Image, ImageUse};
use limits::AmountsOfIndex;
pub use limits::{Amounts, Limits, SharedAmounts};
pub use namespaces::NamespaceState;
use namespaces::Namespaces;
pub use queries::{InjectedImages, LeftOut, User};
pub use rules::{CURRENT_NAME, MAX_SECRET_NAMES, Rules};
pub use sync_state::SyncState;
use sync_state::SyncStates;
pub use usage::Usage;

/// Namespaces whose workloads may arrive before them. Watches deliver a namespace within a second or so.
const MAX_UNSELECTED: usize = 10_000;

/// An event of a watch.
#[derive(Clone, Debug)]
pub enum Change {
    /// All kinds will be listed again.
    ListAgain,
    /// A list of all objects of a kind begins.
    Init(Kind),
    /// The list is complete: objects that it did not contain do not exist.
    InitDone(Kind),
    /// The API server does not serve the kind.
    NotServed(Kind),
    /// The watch of the kind fails, or works again.
    Failing(Kind, bool),
    /// An object was listed, created or changed.
    Apply(Object),
    Delete(Object),
}

/// The images that workloads use.
#[derive(Debug)]
pub struct Index {
    rules: Rules,
    /// The locations of images that are pulled with a login.
    pull_locations: PullLocations,
    limits: Limits,
    /// Of the indexes of other backups.
    shared_amounts: AmountsOfIndex,
    workloads: HashMap<Arc<Key>, Entry>,
    /// Users of images outside the backup.
    originals: ImageUsers,
    copies: Copies,
    /// Workloads that another admission could rewrite, by the originals that the targets of rewrites have.
    rewritten: ImageUsers,
    namespaces: Namespaces,
    /// Workloads that another admission could rewrite.
    candidates: BTreeSet<Arc<Key>>,
    /// Workloads that another installation has rewritten.
    of_other_installations: BTreeSet<Arc<Key>>,
    /// Pods that may have injected containers with original images.
    maybe_injected: BTreeSet<Arc<Key>>,
    /// Images that are not copied. In the index of the default backup.
    excluded_images: ExcludedImages,
    /// Workloads that are left alone because of their owner, by namespace.
    skipped: BTreeMap<Arc<str>, BTreeSet<Arc<Key>>>,
    /// Workloads of which some images are left out.
    truncated: BTreeSet<Arc<Key>>,
    sync_states: SyncStates,
    policy_seen: Option<Timestamp>,
    rewrites: u64,
    /// Namespaces with workloads that arrived before their namespace, if its labels matter.
    unselected: BTreeSet<Arc<str>>,
    /// Other policies select a namespace than its workloads were evaluated with.
    is_outdated: bool,
}

impl Index {
    /// Creates an empty index with the default limits.
    #[must_use]
    pub fn new(rules: Rules) -> Self {
        Self {
            rules,
            pull_locations: PullLocations::default(),
            limits: Limits::default(),
            shared_amounts: SharedAmounts::default().index(),
            workloads: HashMap::new(),
            originals: ImageUsers::default(),
            copies: Copies::default(),
            rewritten: ImageUsers::default(),
            namespaces: Namespaces::default(),
            candidates: BTreeSet::new(),
            of_other_installations: BTreeSet::new(),
            maybe_injected: BTreeSet::new(),
            excluded_images: ExcludedImages::default(),
            skipped: BTreeMap::new(),
            truncated: BTreeSet::new(),
            sync_states: SyncStates::default(),
            policy_seen: None,
            rewrites: 0,
            unselected: BTreeSet::new(),
            is_outdated: false,
        }
    }

    #[must_use]
    pub fn with_limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Shares the limits with other indexes. The first one is that of the default backup.
    #[must_use]
    pub fn with_shared_amounts(mut self, shared: &SharedAmounts) -> Self {
        self.shared_amounts = shared.index();
        self
    }

    /// Sets the locations of images that are pulled with a login. Workloads that are known already must be listed again.
    pub fn set_pull_locations(&mut self, locations: PullLocations) {
        self.pull_locations = locations;
        self.is_outdated |= !self.workloads.is_empty();
    }

    /// Applies a change; returns `false` if no query returns anything else than before.
    pub fn apply(&mut self, change: Change) -> bool {
        let is_news = self.apply_change(change);
        self.shared_amounts.set(self.amounts());
        is_news
    }

    fn apply_change(&mut self, change: Change) -> bool {
        match change {
            Change::ListAgain => {
                self.list_again();
                true
            }
            Change::Init(kind) => {
                self.sync_states.init(kind);
                false
            }
            Change::InitDone(kind) => {
                let is_news = self.sync_states.set(kind, SyncState::Complete);
                self.remove_unlisted(kind) || is_news
            }
            Change::NotServed(kind) => self.sync_states.set_not_served(kind),
            Change::Failing(kind, is_failing) => self.sync_states.set_failing(kind, is_failing),
            Change::Apply(Object::Workload(workload)) => self.apply_workload(*workload),
            Change::Delete(Object::Workload(workload)) => self.delete_workload(&workload),
            Change::Apply(Object::Namespace(namespace)) => self.apply_namespace(namespace),
            Change::Delete(Object::Namespace(namespace)) => {
                self.unselected.remove(&namespace.name);
                self.namespaces.delete(&namespace.name)
            }
        }
    }

    /// Returns the size of the index.
    #[must_use]
    pub fn amounts(&self) -> Amounts {
        let images = self.originals.amounts().plus(self.copies.amounts());
        let images = images.plus(self.rewritten.amounts());
        Amounts {
            workloads: self.workloads.len(),
            ..images
        }
    }

    /// Returns whether workloads must be listed again, because their labels are not kept and other policies select their
    /// namespace. Resets it.
    pub fn take_outdated(&mut self) -> bool {
        std::mem::take(&mut self.is_outdated)
    }

    /// Returns the policies, which are shared with their source.
    #[must_use]
    pub fn policies(&self) -> &Policies {
        self.rules.policies()
    }

    /// Returns whether some image may be copied for a namespace. A namespace that is not known counts as selected.
    #[must_use]
    pub fn may_copy_for(&self, namespace: &str) -> bool {
        let policies = self.policies().current();
        let selection = self.namespaces.selection(namespace);
        let selection = selection.filter(|selection| policies.is_current(*selection));
        policies.may_copy(namespace, selection)
    }

    /// Prepares for lists of all kinds, which evaluate all workloads again.
    fn list_again(&mut self) {
        self.unselected.clear();
        self.is_outdated = false;
        for kind in Kind::ALL {
            // Until the end of its list. Nothing is known about changes between the end of the last watch and that list.
            self.sync_states.set_failing(kind, true);
        }
    }

    /// Returns whether a workload belongs to another one whose owner is skipped.
    fn is_of_skipped(&self, workload: &Workload) -> bool {
        let Some(owner) = &workload.controller else {
            return false;
        };
        let namespace = &workload.key.namespace;
        let skipped = self.skipped.get(namespace);
        let is_skipped = |kind, name: &str| {
            let key = Key {
                kind,
                namespace: Arc::clone(namespace),
                name: name.into(),
            };
            skipped.is_some_and(|skipped| skipped.contains(&key))
        };
        let Some(kind) = WorkloadKind::named(&owner.kind).filter(|_| skipped.is_some()) else {
            return false;
        };
        // The name of a `ReplicaSet` or Job begins with that of its owner, as in `topmost`.
        let topmost = match kind {
            WorkloadKind::ReplicaSet => Some(WorkloadKind::Deployment),
            WorkloadKind::Job => Some(WorkloadKind::CronJob),
            _ => None,
        };
        let topmost = topmost.zip(owner.name.rsplit_once('-'));
        is_skipped(kind, &owner.name)
            || topmost.is_some_and(|(kind, (name, _))| is_skipped(kind, name))
    }

    fn apply_namespace(&mut self, namespace: NamespaceObject) -> bool {
        let selection = self
            .policies()
            .current()
            .select(&namespace.name, Some(&namespace.labels));
        let before = self.namespaces.selection(&namespace.name);
        let was_awaited = self.unselected.remove(&namespace.name);
        self.is_outdated |= before.is_some_and(|before| selection.differs(before))
            || (was_awaited && !selection.is_empty());
        let epoch = self.sync_states.epoch(Kind::Namespace);
        self.namespaces.apply(namespace, selection, epoch)
    }

    /// Returns the policies that select the namespace of a workload.
    fn selection(&mut self, policies: &PolicySet, namespace: &Arc<str>) -> Selection {
        let known = self.namespaces.selection(namespace);
        if let Some(selection) = known.filter(|selection| policies.is_current(*selection)) {
            return selection;
        }
        let selection = policies.select(namespace, None);
        if !selection.is_certain() && self.unselected.len() < MAX_UNSELECTED {
            self.unselected.insert(Arc::clone(namespace));
        }
        selection
    }

    fn apply_workload(&mut self, workload: Workload) -> bool {
        let kind = Kind::Workload(workload.key.kind);
        let epoch = self.sync_states.epoch(kind);
        let policies = self.policies().current();
        let selection = self.selection(&policies, &workload.key.namespace);
        let mut demand = policies.demand(selection, &workload);
        if !policies.is_empty() && self.is_of_skipped(&workload) {
            demand = demand.without_object();
        }
        let new = self.entry(&workload, &demand, epoch);
        if self.rules.is_of_default() {
            let is_of_other = new.as_ref().and_then(Entry::other_installation).is_some();
            let rules = &self.rules;
            self.excluded_images
                .apply(&workload, rules, &demand, is_of_other, epoch);
        }
        let Some(new) = new else {
            return self.remove(&workload.key);
        };
        let shows_policy = self.observe_policy(&workload, &new);
        let has_room = self.has_room_for_an_image(&workload.key.namespace);
        match self.workloads.get_mut(&workload.key) {
            Some(old) if old.has_same_content(&new) && !(has_room && old.lacks_room()) => {
                old.set_epoch(epoch);
                old.set_rewriting(new.rewriting()) || shows_policy
            }
            old => {
                let had_originals = old.map(|old| !old.originals().is_empty());
                let is_new = || self.sync_states.state(kind) == SyncState::Complete;
                if !new.in_backup().is_empty() && had_originals.unwrap_or_else(is_new) {
                    self.rewrites = self.rewrites.saturating_add(1);
                }
                let was_known = self.remove(&workload.key);
                self.insert(workload.key, new) || was_known
            }
        }
    }

    /// Returns `true` if the policy is known to have worked earlier than was known before.
    fn observe_policy(&mut self, workload: &Workload, entry: &Entry) -> bool {
        let is_proof = workload.key.kind == WorkloadKind::Pod
            && workload.is_annotated
            && !entry.in_backup().is_empty();
        let Some(created) = workload.created.filter(|_| is_proof) else {
            return false;
        };
        let is_news = self.policy_seen.is_none_or(|seen| created < seen);
        if is_news {
            self.policy_seen = Some(created);
        }
        is_news
    }

    /// Removes a workload, unless its name belongs to a successor by now.
    fn delete_workload(&mut self, workload: &Workload) -> bool {
        self.excluded_images.delete(workload);
        match self.workloads.get(&workload.key) {
            Some(entry) if workload.uid.is_empty() || entry.uid() == &*workload.uid => {
                self.remove(&workload.key)
            }
            _ => false,
        }
    }

    fn entry(&self, workload: &Workload, demand: &Demand<'_>, epoch: u32) -> Option<Entry> {
        let shared = |image: &ImageRef<'_>| {
            let original = self.originals.shared(image);
            let known = original.or_else(|| self.copies.shared(image));
            known.or_else(|| self.rewritten.shared(image))
        };
        let shared_original =
            |copy: &Image, original: &ImageRef<'_>| self.copies.shared_original(copy, original);
        Entry::new(
            workload,
            &self.rules,
            demand,
            self.used_logins(workload),
            epoch,
            shared,
            shared_original,
        )
    }

    /// Returns the logins in whose locations a workload uses images.
    fn used_logins(&self, workload: &Workload) -> LoginSet {
        let images = workload.images.iter();
        let images = images.filter_map(|image| ImageRef::parse(image).ok());
        let logins = images.map(|image| self.pull_locations.of_image(&image));
        logins.fold(LoginSet::NONE, LoginSet::or)
    }

    /// Returns `false` if no query returns anything else than before.
    fn insert(&mut self, key: Key, mut entry: Entry) -> bool {
        let new = Some(&key);
        let elsewhere = self.shared_amounts.elsewhere(&key.namespace, new);
        let in_namespace = self.namespaces.amounts(&key.namespace);
        let in_namespace = elsewhere.with(in_namespace.plus(Amounts::WORKLOAD));
        let mut in_all = self.shared_amounts.total_with(self.amounts(), new);
        if !self.limits.allow(in_namespace, in_all) {
            let epoch = entry.epoch();
            return self.namespaces.leave_out(&key, entry.uid(), epoch);
        }
        let namespace =
            self.namespaces
                .add_workload(&key.namespace, entry.secret_names(), entry.used_logins());
        let key = self.shared_amounts.add_workload(Key { namespace, ..key });
        let is_top_level = !entry.is_owned();
        entry.retain_images(|image, location| {
            let users = match location {
                Location::Upstream => &mut self.originals,
                Location::Backup(claim) => &mut self.copies.of_mut(claim).users,
                Location::Target => &mut self.rewritten,
            };
            let with_image = in_all.plus(users.addition(image));
            let in_namespace = self.namespaces.amounts_with(&key.namespace, image);
            let is_kept = self.limits.allow(elsewhere.with(in_namespace), with_image);
            if is_kept {
                in_all = with_image;
                self.namespaces.add_image(&key.namespace, image);
                users.add(image, &key, is_top_level);
            }
            is_kept
        });
        if entry.left_out() > 0 {
            self.namespaces
                .add_left_out_images(&key.namespace, entry.left_out());
            self.truncated.insert(Arc::clone(&key));
        }
        if entry.other_installation().is_some() {
            self.of_other_installations.insert(Arc::clone(&key));
        }
        if entry.is_skipped() {
            let namespace = Arc::clone(&key.namespace);
            let skipped = self.skipped.entry(namespace).or_default();
            skipped.insert(Arc::clone(&key));
        }
        entry.retain_opaque(|opaque| self.copies.of(opaque.claim).has_room_for(opaque));
        for opaque in entry.opaque() {
            self.copies.of_mut(opaque.claim).add_opaque(opaque);
        }
        if entry.is_candidate() {
            self.candidates.insert(Arc::clone(&key));
        }
        if entry.containers().is_some_and(Containers::has_images) {
            self.maybe_injected.insert(Arc::clone(&key));
        }
        self.share_amounts_of(&key.namespace);
        self.workloads.insert(key, entry);
        true
    }

    fn has_room_for_an_image(&self, namespace: &str) -> bool {
        let one = Amounts {
            workloads: 0,
            uses: 1,
            images: 1,
            bytes: 1,
        };
        let in_namespace = self.namespaces.amounts(namespace).plus(one);
        let elsewhere = self.shared_amounts.elsewhere(namespace, None);
        let in_all = self.shared_amounts.total_with(self.amounts(), None);
        self.limits
            .allow(elsewhere.with(in_namespace), in_all.plus(one))
    }

    /// Tells the other indexes what this one has of a namespace.
    fn share_amounts_of(&self, namespace: &Arc<str>) {
        let amounts = self.namespaces.amounts(namespace);
        self.shared_amounts.set_namespace(namespace, amounts);
    }

    fn remove(&mut self, key: &Key) -> bool {
        let Some((key, entry)) = self.workloads.remove_entry(key) else {
            return false;
        };
        let is_top_level = !entry.is_owned();
        for image in entry.originals() {
            self.namespaces.remove_image(&key.namespace, image);
            self.originals.remove(image, &key, is_top_level);
        }
        for UsedCopy { image, claim } in entry.in_backup() {
            self.namespaces.remove_image(&key.namespace, image);
            let users = &mut self.copies.of_mut(*claim).users;
            users.remove(image, &key, is_top_level);
        }
        for image in entry.rewritten() {
            self.namespaces.remove_image(&key.namespace, image);
            self.rewritten.remove(image, &key, is_top_level);
        }
        for opaque in entry.opaque() {
            self.copies.of_mut(opaque.claim).remove_opaque(opaque);
        }
        if self.truncated.remove(&key) {
            self.namespaces
                .remove_left_out_images(&key.namespace, entry.left_out());
        }
        self.candidates.remove(&key);
        self.of_other_installations.remove(&key);
        self.maybe_injected.remove(&key);
        if let Some(skipped) = self.skipped.get_mut(&key.namespace) {
            skipped.remove(&key);
            if skipped.is_empty() {
                self.skipped.remove(&key.namespace);
            }
        }
        self.namespaces
            .remove_workload(&key.namespace, entry.secret_names(), entry.used_logins());
        self.shared_amounts.remove_workload(&key);
        self.share_amounts_of(&key.namespace);
        true
    }

    /// Removes the objects that the last list of a kind did not contain.
    fn remove_unlisted(&mut self, kind: Kind) -> bool {
        let epoch = self.sync_states.epoch(kind);
        let Kind::Workload(kind) = kind else {
            return self.namespaces.remove_unlisted(epoch);
        };
        self.excluded_images.remove_unlisted(kind, epoch);
        let workloads = self.workloads.iter();
        let unlisted: Vec<_> = workloads
            .filter(|(key, entry)| key.kind == kind && entry.epoch() != epoch)
            .map(|(key, _)| Arc::clone(key))
            .collect();
        for key in &unlisted {
            self.remove(key);
        }
        self.namespaces.remove_unlisted_left_out(kind, epoch) || !unlisted.is_empty()
    }
}
