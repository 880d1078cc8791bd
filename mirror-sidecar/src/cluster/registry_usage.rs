//! From which registries the images in use come.

use std::collections::BTreeMap;

use super::index::Index;

/// The hosts of the images in use, those first that most objects use: one of them with many images says little.
#[must_use]
pub fn most_used(index: &Index) -> Vec<String> {
    let mut users: BTreeMap<&str, usize> = BTreeMap::new();
    for used in index.images() {
        *users.entry(used.image.host()).or_default() += used.users;
    }
    let mut hosts: Vec<_> = users.into_iter().collect();
    hosts.sort_by_key(|&(_, users)| std::cmp::Reverse(users));
    hosts.into_iter().map(|(host, _)| host.to_owned()).collect()
}
