//! Who uses which image where.
//!
//! The index holds what the watches told, and nothing that has no effect: objects of excluded namespaces, ended Pods and
//! the history of Deployments are not kept. It changes by [`Change`]s only and does no I/O, so every query is a pure
//! function of what was told.

mod candidates;
mod containers;
mod entry;
mod image;
mod image_users;
mod injected;
mod limits;
#[cfg(test)]
mod memory;
mod namespaces;
mod rules;
mod secret_names;
mod sync_state;
#[cfg(test)]
pub(super) mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use k8s_openapi::jiff::Timestamp;
use mirror_contract::{ImageRef, owners};

use super::workload::{Key, Object, Workload};
use super::workload_kind::{Kind, WorkloadKind};
pub use candidates::{Candidate, CopyState};
use containers::Containers;
pub use entry::Entry;
use entry::{Noted, Place};
pub use image::Image;
pub use image_users::ImageUse;
use image_users::ImageUsers;
pub use injected::InjectedImages;
pub use limits::{Amounts, Limits};
pub use namespaces::NamespaceState;
use namespaces::Namespaces;
pub use rules::Rules;
pub use secret_names::{MAX_SECRET_NAMES, PRESENT_NAME};
use sync_state::Lists;
pub use sync_state::SyncState;

/// Originals that are kept of one copy: several tags can stand for one digest. The author of a workload can annotate any
/// number.
const MAX_ORIGINALS: usize = 2;

/// What a watch tells.
#[derive(Clone, Debug)]
pub enum Change {
    /// All objects of a kind will be told.
    Begin(Kind),
    /// They were told; those that were not exist no more.
    End(Kind),
    /// The API server does not know the kind.
    NotServed(Kind),
    /// The kind cannot be watched at the moment, or can be again.
    Trouble(Kind, bool),
    /// An object is new, or changed, or is told once more.
    Seen(Object),
    Gone(Object),
}

/// Who uses which image where.
#[derive(Debug)]
pub struct Index {
    rules: Rules,
    limits: Limits,
    workloads: HashMap<Arc<Key>, Entry>,
    /// Users of images that are not in the backup.
    originals: ImageUsers,
    /// Users of images that are, and of copies that are elsewhere.
    copies: ImageUsers,
    /// The originals of copies whose names do not tell them, with the number of workloads that say so.
    noted: BTreeMap<Image, BTreeMap<Image, usize>>,
    namespaces: Namespaces,
    /// The workloads that another admission might help.
    candidates: BTreeSet<Arc<Key>>,
    /// The workloads that another installation has rewritten.
    of_others: BTreeSet<Arc<Key>>,
    /// Pods that may have injected containers with original images.
    maybe_injected: BTreeSet<Arc<Key>>,
    /// The workloads that an owner has whose workloads are left alone, by namespace.
    skipped: BTreeMap<Arc<str>, BTreeSet<Arc<Key>>>,
    /// The workloads of which images are not remembered.
    cut: BTreeSet<Arc<Key>>,
    lists: Lists,
    policy_seen: Option<Timestamp>,
    rewrites: u64,
}

/// A user of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct User<'a> {
    /// Which workload.
    pub key: &'a Key,
    /// Its identity, which an Event about it names.
    pub uid: &'a str,
    /// Whether a controller owns it, so that most people look elsewhere.
    pub is_owned: bool,
}

/// What is not remembered of a namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeftOut {
    /// One of the workloads, of which images or all is not remembered.
    pub key: Key,
    /// Its identity.
    pub uid: Box<str>,
    /// How many images of workloads that are remembered.
    pub images: usize,
    /// Whether there are workloads that are not remembered at all.
    pub has_workloads: bool,
}

impl Index {
    /// An index of a cluster about which nothing was told.
    #[must_use]
    pub fn new(rules: Rules) -> Self {
        Self::with_limits(rules, Limits::default())
    }

    /// The same with other limits.
    #[must_use]
    pub fn with_limits(rules: Rules, limits: Limits) -> Self {
        Self {
            rules,
            limits,
            workloads: HashMap::new(),
            originals: ImageUsers::default(),
            copies: ImageUsers::default(),
            noted: BTreeMap::new(),
            namespaces: Namespaces::default(),
            candidates: BTreeSet::new(),
            of_others: BTreeSet::new(),
            maybe_injected: BTreeSet::new(),
            skipped: BTreeMap::new(),
            cut: BTreeSet::new(),
            lists: Lists::default(),
            policy_seen: None,
            rewrites: 0,
        }
    }

    /// Carries out a change; `false` if no query can tell the difference.
    pub fn apply(&mut self, change: Change) -> bool {
        match change {
            Change::Begin(kind) => {
                self.lists.begin(kind);
                false
            }
            Change::End(kind) => {
                let has_news = self.lists.end(kind);
                self.forget_unseen(kind) || has_news
            }
            Change::NotServed(kind) => self.lists.not_served(kind),
            Change::Trouble(kind, has_trouble) => self.lists.trouble(kind, has_trouble),
            Change::Seen(Object::Workload(workload)) => self.see(*workload),
            Change::Gone(Object::Workload(workload)) => self.lose(&workload),
            Change::Seen(Object::Namespace(namespace)) => {
                let epoch = self.lists.epoch(Kind::Namespace);
                self.namespaces.see(namespace, epoch)
            }
            Change::Gone(Object::Namespace(namespace)) => self.namespaces.lose(&namespace.name),
        }
    }

    /// How far what is told about a kind can be relied on.
    #[must_use]
    pub fn list_state(&self, kind: Kind) -> SyncState {
        self.lists.state(kind)
    }

    /// Whether every kind that the API server serves was told completely, and is watched since. If not, what the index does
    /// not know may exist all the same.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        let is_settled =
            |kind| self.lists.state(kind) != SyncState::Pending && !self.lists.has_trouble(kind);
        Kind::ALL.into_iter().all(is_settled)
    }

    /// The images in use that are not in the backup, in their order. These are the copies that the cluster wants.
    pub fn images(&self) -> impl Iterator<Item = ImageUse<'_>> {
        self.originals.iter()
    }

    /// The images in use that are in the backup: copies, and what else their owner keeps there.
    pub fn images_in_backup(&self) -> impl Iterator<Item = ImageUse<'_>> {
        self.copies.iter()
    }

    /// The copies in use whose present names do not tell their originals, each with an original that it has: those that have
    /// a former or a shortened name.
    pub fn noted_copies(&self) -> impl Iterator<Item = (&Image, &Image)> {
        let copies = self.noted.iter();
        copies.flat_map(|(copy, originals)| originals.keys().map(move |original| (copy, original)))
    }

    /// At most `limit` users of an image, whether it is in the backup or not, and of the more interesting kinds first.
    pub fn users<'a>(
        &'a self,
        image: &ImageRef<'a>,
        limit: usize,
    ) -> impl Iterator<Item = User<'a>> {
        let users = self.originals.users(image).chain(self.copies.users(image));
        users.take(limit).filter_map(|key| {
            let entry = self.workloads.get(key)?;
            Some(User {
                key,
                uid: entry.uid(),
                is_owned: entry.is_owned(),
            })
        })
    }

    /// The namespaces that use an image, whether it is in the backup or not. One that has many users comes several times, most
    /// often in a row.
    pub fn namespaces_of<'a>(&'a self, image: &ImageRef<'a>) -> impl Iterator<Item = &'a Arc<str>> {
        let users = self.originals.users(image).chain(self.copies.users(image));
        users.map(|key| &key.namespace)
    }

    /// The namespaces of which something is not remembered, because there is more than the [`Limits`] allow.
    #[must_use]
    pub fn left_out(&self) -> Vec<LeftOut> {
        let mut examples: HashMap<&str, &Arc<Key>> = HashMap::new();
        for key in &self.cut {
            examples.entry(&*key.namespace).or_insert(key);
        }
        let left_out = self.namespaces.left_out();
        let left_out = left_out.filter_map(|(namespace, images, workload)| {
            let has_workloads = workload.is_some();
            let (key, uid) = if let Some(workload) = workload {
                workload
            } else {
                let key = *examples.get(&**namespace)?;
                (Key::clone(key), self.workloads.get(key)?.uid())
            };
            Some(LeftOut {
                key,
                uid: uid.into(),
                images,
                has_workloads,
            })
        });
        left_out.collect()
    }

    /// What is remembered of all namespaces together.
    #[must_use]
    pub fn amounts(&self) -> Amounts {
        let images = self.originals.amounts().plus(self.copies.amounts());
        Amounts {
            workloads: self.workloads.len(),
            ..images
        }
    }

    /// The namespaces that need the pull Secret, because something in them names it. Those that are being deleted are
    /// not among them: nothing can be created there.
    pub fn namespaces_with_pull_secret(&self) -> impl Iterator<Item = &str> {
        self.namespaces_naming(PRESENT_NAME)
    }

    /// The same for the name at this place among all names that the pull Secret has and had.
    pub fn namespaces_naming(&self, place: usize) -> impl Iterator<Item = &str> {
        let are_known = self.lists.state(Kind::Namespace) == SyncState::Complete;
        self.namespaces.wanting_secret(place, are_known)
    }

    /// One workload of each namespace in which another installation has rewritten some: its key, its uid, and one of the
    /// copies that it uses.
    #[must_use]
    pub fn of_other_installations(&self) -> Vec<(Key, Box<str>, Box<str>)> {
        let mut namespaces = HashSet::new();
        let examples = self.of_others.iter().filter_map(|key| {
            let entry = self.workloads.get(key)?;
            let copy = entry.other_installation()?;
            let is_first = namespaces.insert(&*key.namespace);
            is_first.then(|| (Key::clone(key), entry.uid().into(), copy.into()))
        });
        examples.collect()
    }

    /// The workloads of a namespace whose Pods the policy leaves alone, although it cannot know that by itself: their owner
    /// is one of those that are left alone. As many as a list of [`owners`] holds.
    #[must_use]
    pub fn skipped_owners(&self, namespace: &str) -> String {
        let mut list = String::new();
        for key in self.skipped.get(namespace).into_iter().flatten() {
            if !owners::add(&mut list, key.kind.name(), &key.name) {
                break;
            }
        }
        list
    }

    /// When a namespace was created, if that is known.
    #[must_use]
    pub fn namespace_created(&self, name: &str) -> Option<Timestamp> {
        self.namespaces.created(name)
    }

    /// What was told about a namespace.
    #[must_use]
    pub fn namespace_state(&self, name: &str) -> NamespaceState {
        self.namespaces.state(name)
    }

    /// What is known about a workload; `None` for what does not exist and for what does not matter.
    #[must_use]
    pub fn workload(&self, key: &Key) -> Option<&Entry> {
        self.workloads.get(key)
    }

    /// How many workloads are kept.
    #[must_use]
    pub fn len(&self) -> usize {
        self.workloads.len()
    }

    /// Whether no workload is kept.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.workloads.is_empty()
    }

    /// When the policy was first seen to work, as far as can be told: when the oldest Pod that runs a copy was created.
    ///
    /// Only Pods count, because other objects may be much older than their rewritten images. A copy is known by the
    /// policy's note, so that other images in the same repository do not count.
    #[must_use]
    pub fn policy_seen(&self) -> Option<Timestamp> {
        self.policy_seen
    }

    /// How many workloads were seen to get copies: the policy works, whoever sent them through it.
    #[must_use]
    pub fn rewrites(&self) -> u64 {
        self.rewrites
    }

    fn see(&mut self, workload: Workload) -> bool {
        let epoch = self.lists.epoch(Kind::Workload(workload.key.kind));
        let Some(new) = self.read(&workload, epoch) else {
            return self.remove(&workload.key);
        };
        let shows_policy = self.observe_policy(&workload, &new);
        let has_room = self.has_room_for_an_image(&workload.key.namespace);
        match self.workloads.get_mut(&workload.key) {
            Some(old) if old.means_the_same(&new) && !(has_room && old.lacks_room()) => {
                old.set_epoch(epoch);
                shows_policy
            }
            old => {
                let had_originals = old.map(|old| !old.originals().is_empty());
                let kind = Kind::Workload(workload.key.kind);
                let is_made_now = || self.lists.state(kind) == SyncState::Complete;
                if !new.in_backup().is_empty() && had_originals.unwrap_or_else(is_made_now) {
                    self.rewrites = self.rewrites.saturating_add(1);
                }
                let was_known = self.remove(&workload.key);
                self.insert(workload.key, new) || was_known
            }
        }
    }

    /// `true` if the policy is known to have worked earlier than was known before.
    fn observe_policy(&mut self, workload: &Workload, entry: &Entry) -> bool {
        let is_proof = workload.key.kind == WorkloadKind::Pod
            && workload.is_noted
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

    /// Forgets a workload, unless a successor has its name by now.
    fn lose(&mut self, workload: &Workload) -> bool {
        match self.workloads.get(&workload.key) {
            Some(entry) if workload.uid.is_empty() || entry.uid() == &*workload.uid => {
                self.remove(&workload.key)
            }
            _ => false,
        }
    }

    fn read(&self, workload: &Workload, epoch: u32) -> Option<Entry> {
        let shared = |image: &ImageRef<'_>| {
            let original = self.originals.shared(image);
            original.or_else(|| self.copies.shared(image))
        };
        let noted = |copy: &Image, original: &ImageRef<'_>| {
            let mut originals = self.noted.get(copy)?.keys();
            originals.find(|noted| noted.as_ref() == original).cloned()
        };
        Entry::new(workload, &self.rules, epoch, shared, noted)
    }

    /// `false` if no query can tell the difference.
    fn insert(&mut self, key: Key, mut entry: Entry) -> bool {
        let in_namespace = self
            .namespaces
            .amounts(&key.namespace)
            .plus(Amounts::WORKLOAD);
        let in_all = self.amounts().plus(Amounts::WORKLOAD);
        if !self.limits.allow(in_namespace, in_all) {
            let epoch = entry.epoch();
            return self.namespaces.leave_out(&key, entry.uid(), epoch);
        }
        let namespace = self.namespaces.enter(&key.namespace, entry.secret_names());
        let key = Arc::new(Key { namespace, ..key });
        let mut in_all = in_all;
        entry.keep_images(|image, place| {
            let uses = match place {
                Place::Upstream => &mut self.originals,
                Place::Backup => &mut self.copies,
            };
            let with_it = in_all.plus(uses.addition(image));
            let in_namespace = self.namespaces.amounts_with(&key.namespace, image);
            let is_kept = self.limits.allow(in_namespace, with_it);
            if is_kept {
                in_all = with_it;
                self.namespaces.take_image(&key.namespace, image);
                uses.add(image, &key);
            }
            is_kept
        });
        if entry.left_out() > 0 {
            self.namespaces
                .leave_out_images(&key.namespace, entry.left_out());
            self.cut.insert(Arc::clone(&key));
        }
        if entry.other_installation().is_some() {
            self.of_others.insert(Arc::clone(&key));
        }
        if entry.is_skipped() {
            let namespace = Arc::clone(&key.namespace);
            let skipped = self.skipped.entry(namespace).or_default();
            skipped.insert(Arc::clone(&key));
        }
        entry.keep_noted(|noted| {
            let originals = self.noted.get(&noted.copy);
            originals.is_none_or(|originals| {
                originals.len() < MAX_ORIGINALS || originals.contains_key(&noted.original)
            })
        });
        for noted in entry.noted() {
            let originals = self.noted.entry(Arc::clone(&noted.copy)).or_default();
            *originals.entry(Arc::clone(&noted.original)).or_default() += 1;
        }
        if entry.is_candidate() {
            self.candidates.insert(Arc::clone(&key));
        }
        if entry.containers().is_some_and(Containers::has_images) {
            self.maybe_injected.insert(Arc::clone(&key));
        }
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
        self.limits.allow(in_namespace, self.amounts().plus(one))
    }

    fn remove(&mut self, key: &Key) -> bool {
        let Some((key, entry)) = self.workloads.remove_entry(key) else {
            return false;
        };
        for image in entry.originals() {
            self.namespaces.leave_image(&key.namespace, image);
            self.originals.remove(image, &key);
        }
        for image in entry.in_backup() {
            self.namespaces.leave_image(&key.namespace, image);
            self.copies.remove(image, &key);
        }
        for noted in entry.noted() {
            self.forget_noted(noted);
        }
        if self.cut.remove(&key) {
            self.namespaces
                .forget_left_out_images(&key.namespace, entry.left_out());
        }
        self.candidates.remove(&key);
        self.of_others.remove(&key);
        self.maybe_injected.remove(&key);
        if let Some(skipped) = self.skipped.get_mut(&key.namespace) {
            skipped.remove(&key);
            if skipped.is_empty() {
                self.skipped.remove(&key.namespace);
            }
        }
        self.namespaces.leave(&key.namespace, entry.secret_names());
        true
    }

    fn forget_noted(&mut self, noted: &Noted) {
        let Some(originals) = self.noted.get_mut(&noted.copy) else {
            return;
        };
        if let Some(count) = originals.get_mut(&noted.original) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                originals.remove(&noted.original);
            }
        }
        if originals.is_empty() {
            self.noted.remove(&noted.copy);
        }
    }

    /// Forgets what was not told since the last list of this kind began.
    fn forget_unseen(&mut self, kind: Kind) -> bool {
        let epoch = self.lists.epoch(kind);
        let Kind::Workload(kind) = kind else {
            return self.namespaces.forget_unseen(epoch);
        };
        let workloads = self.workloads.iter();
        let unseen: Vec<_> = workloads
            .filter(|(key, entry)| key.kind == kind && entry.epoch() != epoch)
            .map(|(key, _)| Arc::clone(key))
            .collect();
        for key in &unseen {
            self.remove(key);
        }
        self.namespaces.forget_left_out(kind, epoch) || !unseen.is_empty()
    }
}
