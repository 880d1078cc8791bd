//! The backups and targets that rules can choose for the images of a namespace.

use std::slice;

use mirror_contract::rules::{Action, Rules};
use mirror_contract::{BackupName, ImagePattern, NamespacePattern};

use crate::cluster::pull_locations::LoginOwner;

/// Comparisons of image patterns. Rules beyond it count as reachable; real settings need some hundreds.
const MAX_COMPARISONS: usize = 100_000;

static ALL_IMAGES: ImagePattern<'static> = ImagePattern::ALL;

/// The places of images by namespace, in the order of the rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Places(Vec<Place>);

/// What one rule chooses.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Place {
    /// `None` if the rule keeps images.
    owner: Option<LoginOwner>,
    /// Empty for all namespaces.
    namespaces: Vec<NamespacePattern<'static>>,
    /// For each image pattern, the earlier rules that match all its images.
    covered_by: Vec<Vec<u32>>,
}

impl Places {
    pub(super) fn of(rules: &Rules<'_>) -> Self {
        let mut budget = MAX_COMPARISONS;
        let mut earlier: Vec<&[ImagePattern<'_>]> = Vec::new();
        let mut places = Vec::new();
        for rule in rules.iter() {
            let images = or_all(&rule.images);
            let owner = match &rule.action {
                Action::Mirror { backup } => Some(LoginOwner::Backup(backup.clone().into_owned())),
                Action::Rewrite { target } => Some(LoginOwner::Target(target.clone().into_owned())),
                Action::Keep => None,
            };
            let namespaces = rule.namespaces.iter();
            places.push(Place {
                owner,
                namespaces: namespaces
                    .map(|pattern| pattern.clone().into_owned())
                    .collect(),
                covered_by: covered_by(images, &earlier, &mut budget),
            });
            earlier.push(images);
            if rule.namespaces.is_empty() && rule.images.is_empty() {
                // No later rule decides anything.
                return Self(places);
            }
        }
        // Images that no rule matches.
        places.push(Place {
            owner: Some(LoginOwner::Backup(BackupName::DEFAULT)),
            namespaces: Vec::new(),
            covered_by: covered_by(slice::from_ref(&ALL_IMAGES), &earlier, &mut budget),
        });
        Self(places)
    }

    /// Returns the backups and targets of the rules that can decide in a namespace, which is not excluded. A rule that is left
    /// out never decides there: a single pattern of an earlier rule covers each of its patterns.
    pub(super) fn in_namespace(&self, namespace: &str) -> impl Iterator<Item = &LoginOwner> {
        let mut applies = Vec::with_capacity(self.0.len());
        self.0.iter().filter_map(move |place| {
            let mut patterns = place.namespaces.iter();
            let is_for =
                place.namespaces.is_empty() || patterns.any(|pattern| pattern.matches(namespace));
            let is_reachable = is_for && place.is_reachable(&applies);
            applies.push(is_for);
            place.owner.as_ref().filter(|_| is_reachable)
        })
    }
}

impl Place {
    /// `applies` has the earlier rules that are for the namespace.
    fn is_reachable(&self, applies: &[bool]) -> bool {
        let is_covered = |earlier: &Vec<u32>| {
            let mut earlier = earlier.iter();
            earlier.any(|index| applies.get(*index as usize) == Some(&true))
        };
        !self.covered_by.iter().all(is_covered)
    }
}

fn covered_by(
    images: &[ImagePattern<'_>],
    earlier: &[&[ImagePattern<'_>]],
    budget: &mut usize,
) -> Vec<Vec<u32>> {
    let covering = |image: &ImagePattern<'_>| {
        let rules = (0_u32..).zip(earlier);
        let covering = rules.filter(|(_, patterns)| {
            let rest = budget.checked_sub(patterns.len());
            *budget = rest.unwrap_or(0);
            rest.is_some() && patterns.iter().any(|pattern| pattern.covers(image))
        });
        covering.map(|(index, _)| index).collect()
    };
    images.iter().map(covering).collect()
}

fn or_all<'p, 'a>(patterns: &'p [ImagePattern<'a>]) -> &'p [ImagePattern<'a>] {
    if patterns.is_empty() {
        slice::from_ref(&ALL_IMAGES)
    } else {
        patterns
    }
}

#[cfg(test)]
mod tests {
    use mirror_contract::{ImageRef, Settings};
    use proptest::prelude::*;
    use rstest::rstest;
    use serde_json::{Value, json};

    use super::*;

    fn places(rules: &Value, namespace: &str) -> Vec<String> {
        let settings = json!({"sidecar": "a.b:1", "rules": rules});
        let settings = Settings::parse(&settings).unwrap();
        let places = Places::of(&settings.rules);
        let found = places.in_namespace(namespace);
        found.map(ToString::to_string).collect()
    }

    #[rstest]
    #[case::no_rules(json!([]), &["backup default"])]
    #[case::of_the_team(json!([{"namespaces": ["team-a"], "action": "mirror", "backup": "a"}]), &["backup a"])]
    #[case::of_another_team(json!([{"namespaces": ["team-b"], "action": "mirror", "backup": "b"}]), &["backup default"])]
    #[case::some_images(
        json!([{"namespaces": ["team-*"], "images": ["quay.io/*"], "action": "mirror", "backup": "a"}]),
        &["backup a", "backup default"]
    )]
    #[case::kept(json!([{"action": "keep"}]), &[])]
    #[case::a_target(
        json!([{"images": ["quay.io/*"], "action": "rewrite", "target": "hub.example/quay"}, {"action": "keep"}]),
        &["target hub.example/quay"]
    )]
    #[case::earlier_for_this_namespace(
        json!([
            {"namespaces": ["team-a"], "images": ["quay.io/*"], "action": "mirror", "backup": "a"},
            {"images": ["quay.io/acme/*"], "action": "mirror", "backup": "b"},
            {"action": "keep"},
        ]),
        &["backup a"]
    )]
    #[case::earlier_for_another_namespace(
        json!([
            {"namespaces": ["team-b"], "images": ["quay.io/*"], "action": "mirror", "backup": "a"},
            {"images": ["quay.io/acme/*"], "action": "mirror", "backup": "b"},
            {"action": "keep"},
        ]),
        &["backup b"]
    )]
    #[case::partly_covered(
        json!([
            {"images": ["quay.io/*"], "action": "mirror", "backup": "a"},
            {"images": ["quay.io/acme/*", "ghcr.io/*"], "action": "mirror", "backup": "b"},
            {"action": "keep"},
        ]),
        &["backup a", "backup b"]
    )]
    fn rules_that_can_decide_count(#[case] rules: Value, #[case] expected: &[&str]) {
        assert_eq!(places(&rules, "team-a"), expected);
    }

    fn any_rule() -> impl Strategy<Value = Value> {
        let namespaces = prop::sample::select(vec!["team-a", "team-*", "shop"]);
        let images = prop::sample::select(vec![
            "quay.io/*",
            "quay.io/a/*",
            "*:dev",
            "docker.io/*",
            "*",
        ]);
        let action = prop::sample::select(vec!["keep", "default", "a", "b"]);
        let namespaces = prop::option::of(prop::collection::vec(namespaces, 1..3));
        let images = prop::option::of(prop::collection::vec(images, 1..3));
        (namespaces, images, action).prop_map(|(namespaces, images, action)| {
            let mut rule = match action {
                "keep" => json!({"action": "keep"}),
                backup => json!({"action": "mirror", "backup": backup}),
            };
            for (key, patterns) in [("namespaces", namespaces), ("images", images)] {
                if let Some(patterns) = patterns {
                    rule[key] = json!(patterns);
                }
            }
            rule
        })
    }

    proptest! {
        /// Otherwise a workload would lack the login for its copy.
        #[test]
        fn the_place_of_every_image_is_found(
            rules in prop::collection::vec(any_rule(), 0..6),
            namespace in prop::sample::select(vec!["team-a", "team-b", "shop", "other"]),
        ) {
            let found = places(&json!(rules), namespace);
            let settings = json!({"sidecar": "a.b:1", "rules": rules});
            let settings = Settings::parse(&settings).unwrap();
            for image in ["quay.io/a/b:dev", "quay.io/a/b:1", "quay.io/b:1", "nginx:dev", "nginx:1", "ghcr.io/a:dev", "ghcr.io/a:1"] {
                let image = ImageRef::parse(image).unwrap();
                if let Action::Mirror { backup } = settings.decide(namespace, &image).action {
                    let place = format!("backup {backup}");
                    prop_assert!(found.contains(&place), "{} of {} is not in {:?}", place, image, found);
                }
            }
        }
    }
}
