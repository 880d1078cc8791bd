//! Rules: which of them decides, which of them never can, and what the older settings mean.

use mirror_contract::rules::{Action, Decider, Decision, Position, Rule, Rules};
use mirror_contract::{
    BackupName, ImagePattern, ImageRef, NamespacePattern, Relation, RewriteTarget, Settings,
};
use proptest::prelude::*;
use proptest::sample::select;
use rstest::rstest;
use serde_json::{Value, json};

use super::support;

const NAMESPACES: [&str; 6] = ["a", "a-b", "a-c", "b", "kube-system", "shop"];
const NAMESPACE_PATTERNS: [&str; 8] = ["a", "a-*", "a*", "a-b", "b", "kube-*", "shop", "*"];
const NGINX: &str = "docker.io/library/nginx";
const MIRROR: Action<'_> = Action::Mirror {
    backup: BackupName::DEFAULT,
};
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
        prop_assert_eq!(action, if is_kept { &Action::Keep } else { &MIRROR });
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
            (json!([&first, &second]), MIRROR),
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
    fn rules_that_can_decide_are_those_of_a_comparison_of_all(settings in settings(), applies in prop::collection::vec(any::<bool>(), 8)) {
        let parsed = Settings::parse(&settings).unwrap();
        let applies = |index: usize| applies.get(index) == Some(&true);
        let mut rules: Vec<_> = parsed.rules.iter().map(|rule| rule.images.clone()).collect();
        rules.push(Vec::new());
        let last = rules.len() - 1;
        for images in rules.iter_mut().filter(|images| images.is_empty()) {
            images.push(ImagePattern::ALL);
        }
        let is_there = |index: &usize| *index == last || applies(*index);
        let is_covered = |index: usize, image: &ImagePattern<'_>| {
            let mut earlier = (0..index).filter(is_there).flat_map(|index| &rules[index]);
            earlier.any(|pattern| pattern.covers(image))
        };
        let decides = |index: &usize| !rules[*index].iter().all(|image| is_covered(*index, image));
        let expected: Vec<_> = (0..=last).filter(is_there).filter(decides).collect();
        let coverage = parsed.rules.coverage().unwrap();
        prop_assert_eq!(coverage.deciding(applies).collect::<Vec<_>>(), expected);
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
        prop_assert_eq!(*decision(&settings, namespace, &image).action == MIRROR, is_mirrored);
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

#[test]
fn patterns_that_cannot_be_compared_in_time_are_refused() {
    let settings = |patterns: usize, pattern: fn(usize) -> String| {
        let rules = (0..patterns)
            .map(|index| json!({"namespaces": [format!("team-{index}")], "images": [pattern(index)], "action": "keep"}));
        json!({"sidecar": "a:1", "rules": rules.collect::<Vec<_>>()})
    };
    let coverage = |settings: &Value| Settings::parse(settings).unwrap().rules.coverage();
    // Teams with a registry, a repository and a tag of their own.
    let several: [fn(usize) -> String; 3] = [
        |index| format!("r{index}.example/*"),
        |index| format!("docker.io/team-{index}/*:1"),
        |index| format!("*/team-{index}/app"),
    ];
    for pattern in several {
        assert!(coverage(&settings(500, pattern)).is_ok());
    }
    assert!(coverage(&settings(5000, several[0])).is_ok());
    let error = coverage(&settings(2000, several[2]))
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("too many image patterns that begin with `*`"),
        "{error}"
    );
}

/// Rules that rewrite images of Docker Hub and quay.io, and copy those of two namespaces to backups of their own.
fn settings_with_targets() -> Value {
    json!({"sidecar": "a:1", "backups": ["backup.test/acme"], "rules": [
        {"images": ["docker.io/*"], "action": "rewrite", "target": "harbor.test/hub"},
        {"namespaces": ["shop"], "images": ["quay.io/acme/*"], "action": "rewrite", "target": "cache.test:5000"},
        {"namespaces": ["a-*"], "action": "mirror", "backup": "team-a"},
        {"namespaces": ["b"], "action": "mirror", "backup": "default"},
    ]})
}

#[rstest]
#[case::rewrite(
    "shop",
    "docker.io/acme/app:1",
    "harbor.test/hub",
    Some(Decider::Rule(Position::Rules(0)))
)]
#[case::rewrite_in_one_namespace(
    "shop",
    "quay.io/acme/app:1",
    "cache.test:5000",
    Some(Decider::Rule(Position::Rules(1)))
)]
#[case::no_rule("shop", "quay.io/other/app:1", "default", None)]
#[case::backup(
    "a-b",
    "quay.io/acme/app:1",
    "team-a",
    Some(Decider::Rule(Position::Rules(2)))
)]
#[case::default_by_name(
    "b",
    "quay.io/acme/app:1",
    "default",
    Some(Decider::Rule(Position::Rules(3)))
)]
#[case::in_a_target(
    "a-b",
    "harbor.test/hub/library/nginx:1",
    "",
    Some(Decider::Target(Position::Rules(0)))
)]
#[case::in_a_target_by_its_port(
    "shop",
    "harbor.test:443/hub/library/nginx:1",
    "",
    Some(Decider::Target(Position::Rules(0)))
)]
#[case::in_a_target_that_is_a_registry(
    "shop",
    "cache.test:5000/x:1",
    "",
    Some(Decider::Target(Position::Rules(1)))
)]
#[case::beside_a_target("shop", "harbor.test/hub2/nginx:1", "default", None)]
fn images_go_to(
    #[case] namespace: &str,
    #[case] image: &str,
    #[case] place: &str,
    #[case] decider: Option<Decider>,
) {
    let settings = settings_with_targets();
    let settings = Settings::parse(&settings).unwrap();
    let decision = decision(&settings, namespace, image);
    let shown = match decision.action {
        Action::Mirror { backup } => backup.to_string(),
        Action::Rewrite { target } => target.to_string(),
        Action::Keep => String::new(),
    };
    assert_eq!((shown.as_str(), decision.decider), (place, decider));
    assert_eq!(settings.clone().into_owned(), settings);
}

#[rstest]
#[case::copy(
    "backup.test/acme/docker.io-library-nginx:1",
    "nginx:1",
    Some(Relation::Exact)
)]
#[case::rewritten("harbor.test/hub/library/nginx:1", "nginx:1", Some(Relation::Exact))]
#[case::rewritten_to_a_registry(
    "cache.test:5000/acme/app:1",
    "quay.io/acme/app:1",
    Some(Relation::Exact)
)]
#[case::pattern_does_not_matter(
    "cache.test:5000/other/app:1",
    "quay.io/other/app:1",
    Some(Relation::Exact)
)]
#[case::pinned(&format!("harbor.test/hub/library/nginx:1{DIGEST}"), "nginx:1", Some(Relation::Pinned))]
#[case::digest(&format!("harbor.test/hub/a/b{DIGEST}"), &format!("a/b{DIGEST}"), Some(Relation::Exact))]
#[case::lost_digest("harbor.test/hub/a/b:1", &format!("a/b:1{DIGEST}"), None)]
#[case::another_tag("harbor.test/hub/library/nginx:2", "nginx:1", None)]
#[case::another_repository("harbor.test/hub/library/nginx2:1", "nginx:1", None)]
#[case::another_registry("harbor.test/hub/acme/app:1", "quay.io/acme/app:1", None)]
#[case::another_target("cache.test:5000/library/nginx:1", "nginx:1", None)]
#[case::outside("harbor.test/library/nginx:1", "nginx:1", None)]
fn annotated_originals_count(
    #[case] copy: &str,
    #[case] original: &str,
    #[case] expected: Option<Relation>,
) {
    let settings = settings_with_targets();
    let settings = Settings::parse(&settings).unwrap();
    assert_eq!(settings.relation(copy, original), expected);
}

/// Why a rewrite is for one registry.
#[test]
fn images_of_two_registries_would_get_the_same_name() {
    let target = RewriteTarget::parse("harbor.test/x").unwrap();
    let rewrite = |image| target.rewrite(&ImageRef::parse(image).unwrap()).unwrap();
    assert_eq!(rewrite("quay.io/acme/app:1"), rewrite("ghcr.io/acme/app:1"));
}

proptest! {
    #[test]
    fn a_pattern_within_a_location_matches_nothing_outside(text in image_pattern(), location in image(), image in image(), depth in 0..3_usize) {
        let location = ImageRef::parse(&location).unwrap();
        let mut location = format!("{}/{}", location.host(), location.path());
        for _ in 0..depth {
            location.truncate(location.rfind('/').unwrap_or(location.len()));
        }
        let image = ImageRef::parse(&image).unwrap();
        let pattern = pattern(&text);
        if let Some(target) = RewriteTarget::parse(&location) && pattern.matches(&image, &image.to_string()) {
            let is_inside = target.contains(&image);
            prop_assert!(is_inside || !pattern.is_within(&location));
            prop_assert!(!is_inside || pattern.may_match_in(&location));
            prop_assert!(pattern.registry().is_none_or(|registry| registry == image.host()));
        }
    }
}
