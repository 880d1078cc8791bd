//! The rule that decides about an image.

use mirror_contract::rules::Action;
use mirror_contract::{BackupName, ImageRef};

use super::model::Rule;
use super::query::Place;
use crate::cluster::ExcludedNamespaces;
use crate::cluster::policies::decision::deciding_setting;

/// Returns the rule that puts an image of a namespace into this place; `None` if it is the default.
pub(super) fn rule(
    excluded: &ExcludedNamespaces,
    namespace: &str,
    image: &ImageRef<'_>,
    place: &Place,
) -> Option<Rule> {
    let policies = excluded.policies().current();
    if policies.is_empty() {
        return excluded.contains(namespace).then(|| Rule {
            policy: None,
            name: "--exclude-namespaces".to_owned(),
        });
    }
    let is_wanted = |action: &Action<'_>| match (place, action) {
        (Place::Backup(name), Action::Mirror { backup }) => is_same(name, backup),
        (Place::Rewritten, Action::Rewrite { .. }) | (Place::Excluded, Action::Keep) => true,
        _ => false,
    };
    let (policy, name) = deciding_setting(&policies, namespace, image, is_wanted)?;
    Some(Rule {
        policy: policy.map(str::to_owned),
        name,
    })
}

fn is_same(one: &BackupName<'_>, other: &BackupName<'_>) -> bool {
    one.as_str() == other.as_str()
}
