//! The users of images in the backup, by their claims to these.

use std::collections::BTreeMap;
use std::sync::Arc;

use mirror_contract::ImageRef;

use super::entry::OpaqueCopy;
use super::image_users::{Image, ImageUsers};
use super::limits::Amounts;
use crate::cluster::policies::CopyClaim;
use crate::cluster::workload::Key;

/// Originals that are kept of one copy: several tags can have the same digest. The author of a workload can annotate any
/// number.
const MAX_ORIGINALS: usize = 2;

/// Images in the backup, and copies in former ones. Those that workloads of some namespaces want are apart from those that others
/// only name, so that nobody can add or change anything for others.
#[derive(Debug, Default)]
pub(super) struct Copies {
    wanted: CopiesOfClaim,
    allowed: CopiesOfClaim,
    barred: CopiesOfClaim,
}

#[derive(Debug, Default)]
pub(super) struct CopiesOfClaim {
    pub users: ImageUsers,
    /// The originals of opaque copies, with the number of workloads that name both.
    pub opaque: BTreeMap<Image, BTreeMap<Image, usize>>,
}

impl Copies {
    pub(super) fn of(&self, claim: CopyClaim) -> &CopiesOfClaim {
        match claim {
            CopyClaim::Wanted => &self.wanted,
            CopyClaim::Allowed => &self.allowed,
            CopyClaim::Barred => &self.barred,
        }
    }

    pub(super) fn of_mut(&mut self, claim: CopyClaim) -> &mut CopiesOfClaim {
        match claim {
            CopyClaim::Wanted => &mut self.wanted,
            CopyClaim::Allowed => &mut self.allowed,
            CopyClaim::Barred => &mut self.barred,
        }
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &CopiesOfClaim> {
        [&self.wanted, &self.allowed, &self.barred].into_iter()
    }

    /// Returns the users of an image whose rules use this backup.
    pub(super) fn users<'a>(&'a self, image: &ImageRef<'a>) -> impl Iterator<Item = &'a Arc<Key>> {
        let wanted = self.wanted.users.users(image);
        wanted.chain(self.allowed.users.users(image))
    }

    /// Returns the images whose users' rules use this backup.
    pub(super) fn readable(&self) -> impl Iterator<Item = &ImageUsers> {
        [&self.wanted.users, &self.allowed.users].into_iter()
    }

    pub(super) fn amounts(&self) -> Amounts {
        let all = self.all().map(|copies| copies.users.amounts());
        all.fold(Amounts::default(), Amounts::plus)
    }

    pub(super) fn shared(&self, image: &ImageRef<'_>) -> Option<Image> {
        self.all().find_map(|copies| copies.users.shared(image))
    }

    /// Returns a known original of an opaque copy.
    pub(super) fn shared_original(&self, copy: &Image, original: &ImageRef<'_>) -> Option<Image> {
        self.all().find_map(|copies| {
            let mut originals = copies.opaque.get(copy)?.keys();
            originals.find(|known| known.as_ref() == original).cloned()
        })
    }
}

impl CopiesOfClaim {
    /// Returns whether another original of an opaque copy may be kept.
    pub(super) fn has_room_for(&self, opaque: &OpaqueCopy) -> bool {
        let originals = self.opaque.get(&opaque.copy);
        originals.is_none_or(|originals| {
            originals.len() < MAX_ORIGINALS || originals.contains_key(&opaque.original)
        })
    }

    pub(super) fn add_opaque(&mut self, opaque: &OpaqueCopy) {
        let originals = self.opaque.entry(Arc::clone(&opaque.copy)).or_default();
        *originals.entry(Arc::clone(&opaque.original)).or_default() += 1;
    }

    pub(super) fn remove_opaque(&mut self, opaque: &OpaqueCopy) {
        let Some(originals) = self.opaque.get_mut(&opaque.copy) else {
            return;
        };
        if let Some(count) = originals.get_mut(&opaque.original) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                originals.remove(&opaque.original);
            }
        }
        if originals.is_empty() {
            self.opaque.remove(&opaque.copy);
        }
    }
}
