//! The backups and targets that rules can choose for the images of a namespace.

use mirror_contract::rules::{Action, Coverage, Rules, TooManyPatterns};
use mirror_contract::{BackupName, NamespacePattern};

use crate::cluster::pull_locations::LoginOwner;

/// Where Pods pull images by the rules of one policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PullDestinations {
    rules: Vec<RuleDestination>,
    coverage: Coverage,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct RuleDestination {
    /// `None` if the rule keeps images.
    destination: Option<LoginOwner>,
    /// Empty for all namespaces.
    namespaces: Vec<NamespacePattern<'static>>,
}

impl PullDestinations {
    /// # Errors
    /// [`TooManyPatterns`] if it is not known which rules decide.
    pub(super) fn of(rules: &Rules<'_>) -> Result<Self, TooManyPatterns> {
        let destinations = rules.iter().map(|rule| {
            let namespaces = rule.namespaces.iter();
            RuleDestination {
                destination: match &rule.action {
                    Action::Mirror { backup } => {
                        Some(LoginOwner::Backup(backup.clone().into_owned()))
                    }
                    Action::Rewrite { target } => {
                        Some(LoginOwner::Target(target.clone().into_owned()))
                    }
                    Action::Keep => None,
                },
                namespaces: namespaces
                    .map(|pattern| pattern.clone().into_owned())
                    .collect(),
            }
        });
        let without_rule = RuleDestination {
            destination: Some(LoginOwner::Backup(BackupName::DEFAULT)),
            namespaces: Vec::new(),
        };
        Ok(Self {
            rules: destinations.chain([without_rule]).collect(),
            coverage: rules.coverage()?,
        })
    }

    /// Returns the backups and targets of the rules that can decide in a namespace, which is not excluded.
    pub(super) fn in_namespace(&self, namespace: &str) -> impl Iterator<Item = &LoginOwner> {
        let is_for = move |index: usize| {
            let rule = self.rules.get(index);
            rule.is_some_and(|rule| rule.is_for(namespace))
        };
        let deciding = self.coverage.deciding(is_for);
        deciding.filter_map(|index| self.rules.get(index)?.destination.as_ref())
    }
}

impl RuleDestination {
    fn is_for(&self, namespace: &str) -> bool {
        let mut patterns = self.namespaces.iter();
        self.namespaces.is_empty() || patterns.any(|pattern| pattern.matches(namespace))
    }
}

#[cfg(test)]
mod tests {
    use mirror_contract::{ImageRef, Settings};
    use proptest::prelude::*;
    use rstest::rstest;
    use serde_json::{Value, json};

    use super::*;

    fn destinations(rules: &Value, namespace: &str) -> Vec<String> {
        let settings = json!({"sidecar": "a.b:1", "rules": rules});
        let settings = Settings::parse(&settings).unwrap();
        let destinations = PullDestinations::of(&settings.rules).unwrap();
        let found = destinations.in_namespace(namespace);
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
        assert_eq!(destinations(&rules, "team-a"), expected);
    }

    /// Each namespace has only the login of its own team, however many teams there are.
    #[test]
    fn no_login_is_granted_because_there_are_many_rules() {
        let rules = (0..1500).map(|team| {
            let backup = format!("team-{}", team % 10);
            json!({"namespaces": [format!("team-{team}")], "action": "mirror", "backup": backup})
        });
        let rules: Vec<_> = rules.collect();
        let last = destinations(&json!(rules), "team-1499");
        assert_eq!(last, ["backup team-9"]);
        assert_eq!(destinations(&json!(rules), "shop"), ["backup default"]);
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
        fn the_destination_of_every_image_is_found(
            rules in prop::collection::vec(any_rule(), 0..6),
            namespace in prop::sample::select(vec!["team-a", "team-b", "shop", "other"]),
        ) {
            let found = destinations(&json!(rules), namespace);
            let settings = json!({"sidecar": "a.b:1", "rules": rules});
            let settings = Settings::parse(&settings).unwrap();
            for image in ["quay.io/a/b:dev", "quay.io/a/b:1", "quay.io/b:1", "nginx:dev", "nginx:1", "ghcr.io/a:dev", "ghcr.io/a:1"] {
                let image = ImageRef::parse(image).unwrap();
                if let Action::Mirror { backup } = settings.decide(namespace, &image).action {
                    let destination = format!("backup {backup}");
                    prop_assert!(found.contains(&destination), "{} of {} is not in {:?}", destination, image, found);
                }
            }
        }
    }
}
