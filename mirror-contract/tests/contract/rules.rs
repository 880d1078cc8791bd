//! Rules: which of them decides, which of them never can, and what the older settings mean.

use mirror_contract::rules::{Action, Decider, Decision, Position, Rule, Rules};
use mirror_contract::{ImagePattern, ImageRef, NamespacePattern, Settings};
use proptest::prelude::*;
use proptest::sample::select;
use rstest::rstest;
use serde_json::{Value, json};

use super::support;

const NAMESPACES: [&str; 6] = ["a", "a-b", "a-c", "b", "kube-system", "shop"];
const NAMESPACE_PATTERNS: [&str; 8] = ["a", "a-*", "a*", "a-b", "b", "kube-*", "shop", "*"];
const NGINX: &str = "docker.io/library/nginx";
const DIGEST: &str = "@sha256:1111111111111111111111111111111111111111111111111111111111111111";

/// Images of few repositories, so that many patterns match them.
fn image() -> impl Strategy<Value = String> {
    let names = vec![
        NGINX,
        "docker.io/acme/app",
        "quay.io/acme/app",
        "localhost:5000/app",
    ];
    let versions = vec![
        ":1".to_owned(),
        ":latest".to_owned(),
        DIGEST.to_owned(),
        format!(":1{DIGEST}"),
    ];
    let known =
        (select(names), select(versions)).prop_map(|(name, version)| name.to_owned() + &version);
    let any = support::image().prop_map(|image| ImageRef::parse(&image).unwrap().to_string());
    prop_oneof![4 => known, 1 => any]
}

/// An image, or what is left of it when some parts become wildcards or its end is cut off.
fn image_pattern() -> impl Strategy<Value = String> {
    let cuts = prop::collection::vec((0..90_usize, 0..20_usize), 0..3);
    (image(), cuts, any::<bool>()).prop_map(|(image, cuts, is_name)| {
        let image = ImageRef::parse(&image).unwrap();
        let mut text = if is_name {
            format!("{}/{}", image.host(), image.path())
        } else {
            image.to_string()
        };
        for (start, length) in cuts {
            let start = start.min(text.len());
            let end = (start + length).min(text.len());
            text.replace_range(start..end, "*");
        }
        text
    })
}

fn rule() -> impl Strategy<Value = Value> {
    let namespaces = prop::collection::vec(select(&NAMESPACE_PATTERNS[..]), 0..3);
    let images = prop::collection::vec(image_pattern(), 0..3);
    let action = select(vec!["mirror", "keep"]);
    (namespaces, images, action).prop_map(|(namespaces, images, action)| {
        let mut rule = json!({"action": action});
        if !namespaces.is_empty() {
            rule["namespaces"] = json!(namespaces);
        }
        if !images.is_empty() {
            rule["images"] = json!(images);
        }
        rule
    })
}

fn settings() -> impl Strategy<Value = Value> {
    let excluded = prop::collection::vec(select(&NAMESPACE_PATTERNS[..]), 0..2);
    (excluded, prop::collection::vec(rule(), 0..5)).prop_map(|(excluded, rules)| {
        json!({"sidecar": "a:1", "excludedNamespaces": excluded, "rules": rules})
    })
}

fn decision<'s>(settings: &'s Settings<'_>, namespace: &str, image: &str) -> Decision<'s> {
    settings.decide(namespace, &ImageRef::parse(image).unwrap())
}

fn pattern(text: &str) -> ImagePattern<'_> {
    ImagePattern::parse(text).unwrap_or_else(|| panic!("{text}"))
}

/// Whether a single rule, alone, decides.
fn matches(rule: &Value, namespace: &str, image: &str) -> bool {
    let settings = json!({"sidecar": "a:1", "excludedNamespaces": [], "rules": [rule]});
    let settings = Settings::parse(&settings).unwrap();
    decision(&settings, namespace, image).decider.is_some()
}

proptest! {
    #[test]
    fn the_first_match_decides(settings in settings(), namespace in select(&NAMESPACES[..]), image in image()) {
        let parsed = Settings::parse(&settings).unwrap();
        let Decision { action, decider } = decision(&parsed, namespace, &image);
        if parsed.excludes_namespace(namespace) {
            prop_assert_eq!((action, decider), (&Action::Keep, Some(Decider::ExcludedNamespaces)));
            return Ok(());
        }
        let rules = settings["rules"].as_array().unwrap();
        let index = rules.iter().position(|rule| matches(rule, namespace, &image));
        let is_kept = index.is_some_and(|index| rules[index]["action"] == "keep");
        prop_assert_eq!(action, if is_kept { &Action::Keep } else { &Action::Mirror });
        prop_assert_eq!(decider, index.map(|index| Decider::Rule(Position::Rules(index))));
    }

    #[test]
    fn nothing_is_copied_in_a_namespace_without_copies(
        settings in settings(), namespace in select(&NAMESPACES[..]), images in prop::collection::vec(image(), 8),
    ) {
        let parsed = Settings::parse(&settings).unwrap();
        if !parsed.may_copy(namespace) {
            for image in images {
                prop_assert!(!decision(&parsed, namespace, &image).action.copies(), "{}", image);
            }
        }
    }

    #[test]
    fn the_order_matters(mut first in rule(), mut second in rule(), namespace in select(&NAMESPACES[..]), image in image()) {
        for rule in [&mut first, &mut second] {
            for (key, value) in [("namespaces", namespace), ("images", &image)] {
                if let Some(patterns) = rule.get_mut(key).and_then(Value::as_array_mut) {
                    patterns.push(value.into());
                }
            }
            prop_assert!(matches(rule, namespace, &image));
        }
        first["action"] = "mirror".into();
        second["action"] = "keep".into();
        for (rules, expected) in [
            (json!([&first, &second]), Action::Mirror),
            (json!([&second, &first]), Action::Keep),
        ] {
            let settings = json!({"sidecar": "a:1", "excludedNamespaces": [], "rules": rules});
            let settings = Settings::parse(&settings).unwrap();
            prop_assert_eq!(decision(&settings, namespace, &image).action, &expected);
        }
    }

    #[test]
    fn a_rule_that_is_reported_as_unreachable_never_decides(settings in settings(), images in prop::collection::vec(image(), 8)) {
        let errors = Settings::check(&settings);
        let parsed = Settings::parse(&settings).unwrap();
        for namespace in NAMESPACES {
            for image in &images {
                if let Some(Decider::Rule(position)) = decision(&parsed, namespace, image).decider {
                    let name = format!("`{position}` can never match");
                    prop_assert!(!errors.iter().any(|error| error.starts_with(&name)), "{} {} {:?}", namespace, image, errors);
                }
            }
        }
    }

    #[test]
    fn a_repeated_rule_is_unreachable(mut settings in settings(), rule in rule(), action in select(vec!["mirror", "keep"])) {
        let rules = settings["rules"].as_array_mut().unwrap();
        rules.push(rule.clone());
        rules.push(rule);
        let last = rules.len() - 1;
        rules[last]["action"] = action.into();
        let errors = Settings::check(&settings);
        let name = format!("`rules[{last}]` can never match");
        prop_assert!(errors.iter().any(|error| error.starts_with(&name)), "{:?}", errors);
    }

    #[test]
    fn a_pattern_that_covers_another_matches_all_its_images(outer in image_pattern(), inner in image_pattern(), image in image()) {
        let image = ImageRef::parse(&image).unwrap();
        let (outer, inner, canonical) = (pattern(&outer), pattern(&inner), image.to_string());
        if outer.covers(&inner) && inner.matches(&image, &canonical) {
            prop_assert!(outer.matches(&image, &canonical));
        }
    }

    #[test]
    fn the_older_settings_mean_the_same_as_before(
        include in prop::collection::vec(image_pattern(), 0..3),
        exclude in prop::collection::vec(image_pattern(), 0..3),
        namespace in select(&NAMESPACES[..]),
        image in image(),
    ) {
        let settings = json!({"sidecar": "a:1", "excludedNamespaces": [], "images": {"include": include, "exclude": exclude}});
        let settings = Settings::parse(&settings).unwrap();
        let parsed = ImageRef::parse(&image).unwrap();
        let any = |patterns: &[String]| patterns.iter().any(|text| pattern(text).matches(&parsed, &parsed.to_string()));
        let is_mirrored = (include.is_empty() || any(&include)) && !any(&exclude);
        prop_assert_eq!(*decision(&settings, namespace, &image).action == Action::Mirror, is_mirrored);
    }

    #[test]
    fn owned_settings_are_the_same(settings in settings()) {
        let parsed = Settings::parse(&settings).unwrap();
        prop_assert_eq!(&parsed.clone().into_owned(), &parsed);
    }
}

#[rstest]
#[case::same("quay.io/*", "quay.io/*", true)]
#[case::everything("*", "quay.io/acme/app:1", true)]
#[case::narrower("quay.io/*", "quay.io/acme/*", true)]
#[case::wider("quay.io/acme/*", "quay.io/*", false)]
#[case::tag_of_a_repository(NGINX, "docker.io/library/nginx:1", true)]
#[case::tags_of_a_repository(NGINX, "docker.io/library/nginx:1.*", true)]
#[case::digests_of_a_repository(NGINX, "docker.io/library/nginx@sha256:*", true)]
#[case::repository_of_a_tag("docker.io/library/nginx:1", NGINX, false)]
#[case::tag_with_digests("docker.io/library/nginx:1", "docker.io/library/nginx:1@*", true)]
#[case::any_tag_with_digests("*:1", "quay.io/*:1@sha256:*", true)]
#[case::another_repository(NGINX, "docker.io/library/nginx2:1", false)]
#[case::port("localhost:*", "localhost:5000/app", true)]
#[case::port_is_no_tag("localhost", "localhost:*", false)]
#[case::suffix("*:latest", "docker.io/*:latest", true)]
#[case::by_the_grammar_alone("*/*/*", "docker.io/*", false)]
fn covering_patterns(#[case] outer: &str, #[case] inner: &str, #[case] covers: bool) {
    // `localhost` is no reference, so that case is about a pattern with a wildcard.
    let outer = ImagePattern::parse(outer).unwrap_or(pattern("localhost/*"));
    assert_eq!(outer.covers(&pattern(inner)), covers);
}

#[test]
fn the_check_of_many_rules_is_bounded() {
    let rule = |index| Rule {
        position: Position::Rules(index),
        namespaces: vec![NamespacePattern::parse("shop").unwrap(); 20],
        images: vec![pattern("quay.io/*"); 20],
        action: Action::Keep,
    };
    let rules = Rules::new((0..5000).map(rule).collect());
    let unreachable = rules.unreachable(&[]);
    assert!((1..4999).contains(&unreachable.len()));
    assert!(
        !unreachable
            .iter()
            .any(|rule| rule.position == Position::Rules(0))
    );
}
