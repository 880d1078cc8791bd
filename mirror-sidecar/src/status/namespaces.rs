//! The images of each namespace by their states.
//!
//! Each replica knows all images in use and whether they are protected, so no other is asked.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::Bound;
use std::sync::Arc;

use super::model::{State, Totals};
use super::rows::state;
use super::sources::{ClusterSources, Sources};
use crate::cluster::CopyStatuses;
use crate::cluster::index::{Exclusion, Image};

/// Images that are scanned while other tasks wait.
const STEP: usize = 500;

/// The namespaces that use images.
#[derive(Clone, Debug, Default)]
pub(super) struct Namespaces {
    /// The first of them: those with the most unprotected images, then in the order of their names.
    pub(super) first: Vec<NamespaceTotals>,
    pub(super) total: usize,
}

#[derive(Clone, Debug)]
pub(super) struct NamespaceTotals {
    pub(super) name: Arc<str>,
    pub(super) images: Totals,
}

/// The original and its state, by each name of the image that workloads use.
type States = HashMap<Image, (Image, State)>;

impl Sources {
    /// Returns at most `most` namespaces. The time depends on the number of images in use.
    #[must_use]
    pub(super) fn namespaces(&self, most: usize) -> Namespaces {
        let mut totals = BTreeMap::new();
        if let Some(cluster) = &self.cluster {
            cluster.add_copies(&mut totals);
            cluster.add_rewritten(&mut totals);
            cluster.add_excluded(&mut totals);
        }
        let mut first: Vec<_> = totals
            .into_iter()
            .map(|(name, images)| NamespaceTotals { name, images })
            .collect();
        let total = first.len();
        first.sort_by_key(|namespace| std::cmp::Reverse(namespace.images.unprotected()));
        first.truncate(most);
        Namespaces { first, total }
    }
}

impl ClusterSources {
    fn add_copies(&self, totals: &mut BTreeMap<Arc<str>, Totals>) {
        for (name, statuses) in self.copy_status.iter() {
            if let Some(index) = self.indexes.by_backup().get(name) {
                let states = states(statuses);
                for namespace in index.read(crate::cluster::Index::namespace_names) {
                    let known: HashSet<_> = index.read(|index| {
                        let images = index.images_in(&namespace);
                        images.filter_map(|image| states.get(image)).collect()
                    });
                    add(
                        totals,
                        &namespace,
                        known.into_iter().map(|(_, state)| *state),
                    );
                }
            }
        }
    }

    fn add_rewritten(&self, totals: &mut BTreeMap<Arc<str>, Totals>) {
        let rewritten: HashMap<_, _> = self.all_rewritten().collect();
        if rewritten.is_empty() {
            return;
        }
        let index = self.indexes.of_default();
        for namespace in index.read(crate::cluster::Index::namespace_names) {
            let states: Vec<_> = index.read(|index| {
                let images = index.images_in(&namespace);
                images
                    .filter_map(|image| rewritten.get(image))
                    .copied()
                    .collect()
            });
            add(totals, &namespace, states);
        }
    }

    fn add_excluded(&self, totals: &mut BTreeMap<Arc<str>, Totals>) {
        self.indexes.of_default().read(|index| {
            for (_, users) in index.excluded_from(Bound::Unbounded) {
                let state = match users.values().min() {
                    Some(Exclusion::InTarget) => State::Rewritten,
                    _ => State::Excluded,
                };
                let namespaces: HashSet<_> = users.keys().map(|key| &key.namespace).collect();
                for namespace in namespaces {
                    add(totals, namespace, [state]);
                }
            }
        });
    }
}

fn add(
    totals: &mut BTreeMap<Arc<str>, Totals>,
    namespace: &Arc<str>,
    states: impl IntoIterator<Item = State>,
) {
    for state in states {
        let totals = totals.entry(Arc::clone(namespace)).or_default();
        *totals.of_mut(state) += 1;
    }
}

fn states(statuses: &CopyStatuses) -> States {
    let mut states = States::new();
    let mut last: Option<Image> = None;
    loop {
        let start = match &last {
            None => Bound::Unbounded,
            Some(image) => Bound::Excluded(Arc::clone(image)),
        };
        let (mut scanned, mut next) = (0, None);
        statuses.visit(start.as_ref().map(|image| &**image), |image, record| {
            scanned += 1;
            let found = (Arc::clone(image), state(record));
            for copy in record.details.copies.iter() {
                states.insert(Arc::clone(copy), found.clone());
            }
            states.insert(Arc::clone(image), found);
            next = Some(Arc::clone(image));
            scanned < STEP
        });
        if next.is_none() {
            return states;
        }
        last = next;
    }
}
