//! What is kept of the containers of a workload, to find those that were injected into its Pods.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use mirror_contract::ImageRef;

use super::image::Image;
use crate::cluster::workload::Workload;
use crate::cluster::workload_kind::WorkloadKind;

/// Containers of one object that are kept.
const MAX_CONTAINERS: usize = 256;

/// The containers of a Pod template, or of a Pod that was made of one. Names are kept as hashes: they are compared and never
/// shown.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Containers {
    /// The names in the template of a workload that makes Pods.
    Template(Box<[u32]>),
    /// Those containers of a rewritten Pod that keep their original images.
    Pod {
        owner: WorkloadKind,
        owner_name: Box<str>,
        originals: Box<[(u32, Image)]>,
    },
}

impl Containers {
    /// Reads the containers of `workload`; `None` if they do not matter. A Pod matters if the policy has rewritten other
    /// images of it (`has_copies`) and its controller is watched.
    pub(super) fn of(workload: &Workload, originals: &[Image], has_copies: bool) -> Option<Self> {
        let containers = workload.containers.iter().take(MAX_CONTAINERS);
        match workload.key.kind {
            WorkloadKind::Pod => {
                let controller = workload.controller.as_ref()?;
                let owner = WorkloadKind::named(&controller.kind)?;
                let owner_name = controller.name.clone();
                if !workload.is_noted || !has_copies || originals.is_empty() {
                    return None;
                }
                let originals = containers.filter_map(|(name, image)| {
                    let image = ImageRef::parse(image).ok()?.without_redundant_tag();
                    let image = originals.iter().find(|original| ***original == image)?;
                    Some((hash(name), Image::clone(image)))
                });
                let originals: Box<[_]> = originals.collect();
                (!originals.is_empty()).then_some(Self::Pod {
                    owner,
                    owner_name,
                    originals,
                })
            }
            // It makes no Pods itself.
            WorkloadKind::Deployment | WorkloadKind::CronJob => None,
            _ => Some(Self::Template(
                containers.map(|(name, _)| hash(name)).collect(),
            )),
        }
    }

    /// Returns whether there are containers with original images.
    pub(super) fn has_images(&self) -> bool {
        matches!(self, Self::Pod { originals, .. } if !originals.is_empty())
    }

    pub(super) fn retain_images(&mut self, keep: impl Fn(&Image) -> bool) {
        if let Self::Pod { originals, .. } = self {
            let kept = std::mem::take(originals).into_iter();
            *originals = kept.filter(|(_, image)| keep(image)).collect();
        }
    }
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "the low half of a hash is one"
)]
fn hash(name: &str) -> u32 {
    let mut hasher = DefaultHasher::new();
    name.hash(&mut hasher);
    hasher.finish() as u32
}
