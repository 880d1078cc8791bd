//! The settings: what is accepted, and what is said about the rest.

use rstest::rstest;
use serde_json::{Value, json};

use crate::validate_settings;

fn message(settings: &Value) -> Option<String> {
    let answer = validate_settings(settings.to_string().as_bytes());
    assert_eq!(answer.valid, answer.message.is_none());
    answer.message
}

#[rstest]
#[case::minimum(json!({"sidecar": "mirror-sidecar.image-mirror.svc:5000"}))]
#[case::address(json!({"sidecar": "127.0.0.1:5000"}))]
#[case::everything(json!({
    "sidecar": "localhost:5000",
    "excludedNamespaces": ["kube-system", "dev-*", "0a", "*"],
    "images": {
        "include": ["docker.io/*", "ghcr.io/acme/app", "quay.io/a/b:V1", "localhost:5000/*:latest"],
        "exclude": ["*@sha256:*"]
    },
    "backups": ["ghcr.io/acme/mirror", "localhost:5000", "docker.io/acme"],
    "pullSecrets": ["image-mirror-pull", "former.name"],
    "skipOwners": ["postgresql.cnpg.io/Cluster", "Node"],
    "skipLabels": ["app.kubernetes.io/managed-by=Some_operator", "a="],
    "whenNotMirrored": "reject",
    "whenUnavailable": "keep",
    "whenBackupUnavailable": "copy",
    "pinDigest": true,
    "timeBudgetMs": 25_000
}))]
#[case::empty_lists(json!({"sidecar": "a:1", "images": {"include": [], "exclude": []}, "skipOwners": [], "skipLabels": []}))]
#[case::no_filters(json!({"sidecar": "a:1", "images": {}}))]
#[case::rules(json!({"sidecar": "a:1", "images": {"include": [], "exclude": []}, "rules": [
    {"namespaces": ["team-a", "dev-*"], "images": ["quay.io/*"], "action": "keep"},
    {"namespaces": ["team-a"], "action": "mirror"},
    {"images": ["registry.example.com/*"], "action": "keep"},
    {"action": "mirror"}
]}))]
#[case::backups_and_targets(json!({"sidecar": "a:1", "backups": ["harbor.test/mirror"], "rules": [
    {"namespaces": ["team-a"], "action": "mirror", "backup": "team-a"},
    {"namespaces": ["team-b"], "action": "mirror", "backup": "default"},
    {"namespaces": ["team-c"], "images": ["docker.io/library/*"], "action": "rewrite", "target": "harbor.test/hub"},
    {"images": ["docker.io/acme/*", "docker.io/library/*"], "action": "rewrite", "target": "harbor.test/hub"},
    {"images": ["quay.io/*"], "action": "rewrite", "target": "cache.test:5000"},
    {"images": ["harbor.test/hub/*"], "action": "keep"},
    {"images": ["harbor.test/*"], "action": "mirror"}
]}))]
#[case::no_rules(json!({"sidecar": "a:1", "images": {"exclude": ["*"]}, "rules": []}))]
#[case::no_exclusions(json!({"sidecar": "localhost:5000", "excludedNamespaces": [], "timeBudgetMs": 50}))]
fn valid(#[case] settings: Value) {
    assert_eq!(message(&settings), None);
}

#[rstest]
#[case::nothing(json!({}), "`sidecar` is required: the `host:port` of mirror-sidecar, in lower case")]
#[case::upper_case(json!({"sidecar": "Sidecar:5000"}), "`sidecar` must be the `host:port` of mirror-sidecar, in lower case, not \"Sidecar:5000\"")]
#[case::url(json!({"sidecar": "https://sidecar:5000"}), "`sidecar` must be")]
#[case::null(json!({"sidecar": null}), "in lower case, not null")]
#[case::number(json!({"sidecar": 5000}), "in lower case, not 5000")]
#[case::not_a_list(json!({"sidecar": "a:1", "excludedNamespaces": "kube-system"}), "`excludedNamespaces` must be a list, each entry a namespace (lower-case letters")]
#[case::not_a_namespace(json!({"sidecar": "a:1", "excludedNamespaces": ["a", "Kube"]}), "`excludedNamespaces[1]` must be a namespace (lower-case letters, digits and `-`, a trailing `*` is a wildcard), not \"Kube\"")]
#[case::star_inside(json!({"sidecar": "a:1", "excludedNamespaces": ["a*b"]}), "not \"a*b\"")]
#[case::empty_name(json!({"sidecar": "a:1", "excludedNamespaces": [""]}), "not \"\"")]
#[case::number_in_list(json!({"sidecar": "a:1", "excludedNamespaces": [1]}), "not 1")]
#[case::when(json!({"sidecar": "a:1", "whenNotMirrored": "deny"}), "`whenNotMirrored` must be `keep` or `reject`, not \"deny\"")]
#[case::when_unavailable(json!({"sidecar": "a:1", "whenUnavailable": true}), "`whenUnavailable` must be `keep` or `reject`, not true")]
#[case::when_backup_unavailable(
    json!({"sidecar": "a:1", "whenBackupUnavailable": "keep"}),
    "`whenBackupUnavailable` must be `original` or `copy`, not \"keep\""
)]
#[case::pin(json!({"sidecar": "a:1", "pinDigest": "true"}), "`pinDigest` must be true or false, not \"true\"")]
#[case::budget_too_small(json!({"sidecar": "a:1", "timeBudgetMs": 49}), "`timeBudgetMs` must be a whole number of milliseconds from 50 to 25000, not 49")]
#[case::budget_too_big(json!({"sidecar": "a:1", "timeBudgetMs": 25_001}), "not 25001")]
#[case::budget_negative(json!({"sidecar": "a:1", "timeBudgetMs": -1}), "not -1")]
#[case::budget_fraction(json!({"sidecar": "a:1", "timeBudgetMs": 800.5}), "not 800.5")]
#[case::budget_text(json!({"sidecar": "a:1", "timeBudgetMs": "800"}), "not \"800\"")]
#[case::unknown(json!({"sidecar": "a:1", "side_car": 1}), "unknown setting `side_car` (known settings: sidecar, excludedNamespaces, rules, images, backups, pullSecrets, skipOwners, skipLabels, whenNotMirrored, whenUnavailable, whenBackupUnavailable, pinDigest, timeBudgetMs)")]
#[case::images_not_an_object(json!({"sidecar": "a:1", "images": ["*"]}), "`images` must be an object, not [\"*\"]")]
#[case::unknown_filter(json!({"sidecar": "a:1", "images": {"only": []}}), "unknown setting `images.only` (known settings: images.include, images.exclude)")]
#[case::include_not_a_list(json!({"sidecar": "a:1", "images": {"include": "*"}}), "`images.include` must be a list, each entry a full reference")]
#[case::never_fits(json!({"sidecar": "a:1", "images": {"include": ["nginx"]}}), "`images.include[0]` must be a full reference such as `docker.io/library/nginx` with `*` as wildcard, not \"nginx\"")]
#[case::not_canonical(json!({"sidecar": "a:1", "images": {"exclude": ["docker.io/nginx:1"]}}), "not \"docker.io/nginx:1\"")]
#[case::no_regex(json!({"sidecar": "a:1", "images": {"exclude": ["ghcr.io/(a|b)/.*"]}}), "not \"ghcr.io/(a|b)/.*\"")]
#[case::empty_pattern(json!({"sidecar": "a:1", "images": {"exclude": [""]}}), "not \"\"")]
#[case::backup_without_registry(json!({"sidecar": "a:1", "backups": ["acme"]}), "`backups[0]` must be `registry/repository`, in lower case, not \"acme\"")]
#[case::backup_with_scheme(json!({"sidecar": "a:1", "backups": ["https://ghcr.io/acme"]}), "not \"https://ghcr.io/acme\"")]
#[case::backup_in_upper_case(json!({"sidecar": "a:1", "backups": ["GHCR.io/acme"]}), "not \"GHCR.io/acme\"")]
#[case::backup_with_slash(json!({"sidecar": "a:1", "backups": ["ghcr.io/"]}), "not \"ghcr.io/\"")]
#[case::backup_on_docker_hub(json!({"sidecar": "a:1", "backups": ["docker.io"]}), "not \"docker.io\"")]
#[case::no_secret_name(json!({"sidecar": "a:1", "pullSecrets": ["A_b"]}), "`pullSecrets[0]` must be the name of a Secret, not \"A_b\"")]
#[case::owner_with_version(json!({"sidecar": "a:1", "skipOwners": ["postgresql.cnpg.io/v1/Cluster"]}), "`skipOwners[0]` must be `<API group>/<kind>`")]
#[case::owner_without_kind(json!({"sidecar": "a:1", "skipOwners": ["apps/"]}), "not \"apps/\"")]
#[case::owner_without_group(json!({"sidecar": "a:1", "skipOwners": ["/Pod"]}), "not \"/Pod\"")]
#[case::label_without_value(json!({"sidecar": "a:1", "skipLabels": ["spilo"]}), "`skipLabels[0]` must be `<key>=<value>`, not \"spilo\"")]
#[case::label_as_map(json!({"sidecar": "a:1", "skipLabels": {"application": "spilo"}}), "`skipLabels` must be a list, each entry `<key>=<value>`, not {")]
#[case::label_without_key(json!({"sidecar": "a:1", "skipLabels": ["=spilo"]}), "not \"=spilo\"")]
#[case::rules_not_a_list(rules(&json!({"action": "keep"})), "`rules` must be a list, each entry an object, not {")]
#[case::rule_not_an_object(rules(&json!(["keep"])), "`rules[0]` must be an object, not \"keep\"")]
#[case::rule_without_action(rules(&json!([{"images": ["*"]}])), "`rules[0].action` is required: `mirror`, `rewrite` or `keep`")]
#[case::rule_with_another_action(rules(&json!([{"action": "drop"}])), "`rules[0].action` must be `mirror`, `rewrite` or `keep`, not \"drop\"")]
#[case::rule_with_unknown_key(rules(&json!([{"action": "keep"}, {"image": "*", "action": "keep"}])), "unknown setting `rules[1].image` (known settings: rules[1].namespaces, rules[1].images, rules[1].action, rules[1].backup, rules[1].target)")]
#[case::rule_for_no_image(rules(&json!([{"images": [], "action": "keep"}])), "`rules[0].images` must not be empty")]
#[case::rule_for_no_namespace(rules(&json!([{"namespaces": [], "action": "keep"}])), "`rules[0].namespaces` must not be empty")]
#[case::rule_with_wrong_image(rules(&json!([{"action": "mirror", "images": ["a.b/*"]}, {"action": "mirror"}, {"images": ["nginx"], "action": "keep"}])), "`rules[2].images[0]` must be a full reference")]
#[case::rule_with_wrong_namespace(rules(&json!([{"namespaces": ["a", "*b"], "action": "keep"}])), "`rules[0].namespaces[1]` must be a namespace")]
#[case::rule_with_images_that_are_no_list(rules(&json!([{"images": "*", "action": "keep"}])), "`rules[0].images` must be a list, each entry a full reference")]
#[case::rule_after_all(rules(&json!([{"action": "keep"}, {"images": ["quay.io/*"], "action": "mirror"}])), "`rules[1]` can never match: `rules[0]` matches all its images first")]
#[case::rule_for_excluded_namespaces(rules(&json!([{"namespaces": ["kube-system"], "action": "mirror"}])), "`rules[0]` can never match: `excludedNamespaces` matches all its images first")]
#[case::rule_after_several(rules(&json!([
    {"namespaces": ["team-a"], "action": "keep"},
    {"images": ["quay.io/*"], "action": "keep"},
    {"namespaces": ["team-a", "team-b", "kubewarden"], "images": ["quay.io/acme/*"], "action": "mirror"}
])), "`rules[2]` can never match: `rules[0]`, `rules[1]`, `excludedNamespaces` match all its images first")]
#[case::backup_that_is_no_label(rules(&json!([{"action": "mirror", "backup": "Team_A"}])), "`rules[0].backup` must be the name of a backup (lower-case letters, digits and inner `-`), not \"Team_A\"")]
#[case::backup_with_another_action(rules(&json!([{"action": "keep", "backup": "team-a"}])), "`rules[0].backup` is only for `action: mirror`")]
#[case::backup_with_rewrite(rules(&json!([{"images": ["quay.io/*"], "action": "rewrite", "target": "a.test/quay", "backup": "a"}])), "`rules[0].backup` is only for `action: mirror`")]
#[case::target_with_another_action(rules(&json!([{"action": "mirror", "target": "harbor.test/quay"}])), "`rules[0].target` is only for `action: rewrite`")]
#[case::no_target(rules(&json!([{"images": ["quay.io/*"], "action": "rewrite"}])), "`rules[0].target` is required for `action: rewrite`")]
#[case::target_without_host(rules(&json!([{"images": ["quay.io/*"], "action": "rewrite", "target": "hub/library"}])), "`rules[0].target` must be a registry with an optional path, such as `harbor.example.com/hub`, in lower case, not \"hub/library\"")]
#[case::rewrite_of_all_images(rules(&json!([{"action": "rewrite", "target": "harbor.test/quay"}])), "`rules[0].images` must be of one registry for `action: rewrite`, such as `quay.io/*`")]
#[case::rewrite_of_two_registries(rules(&json!([{"images": ["quay.io/*", "docker.io/*"], "action": "rewrite", "target": "harbor.test/x"}])), "`rules[0].images` must be of one registry")]
#[case::rewrite_of_any_registry(rules(&json!([{"images": ["quay.io*/app"], "action": "rewrite", "target": "harbor.test/x"}])), "`rules[0].images` must be of one registry")]
#[case::rewrite_into_a_backup(json!({"sidecar": "a:1", "backups": ["b.test/x", "harbor.test/quay/mirror"], "rules": [{"images": ["quay.io/*"], "action": "rewrite", "target": "harbor.test/quay"}]}), "`rules[0].target` overlaps one of `backups`: its images would count as copies")]
#[case::rewrite_into_a_whole_backup(json!({"sidecar": "a:1", "backups": ["harbor.test"], "rules": [{"images": ["quay.io/*"], "action": "rewrite", "target": "harbor.test/quay"}]}), "`rules[0].target` overlaps one of `backups`")]
#[case::rewrite_into_itself(rules(&json!([{"images": ["quay.io/*"], "action": "rewrite", "target": "quay.io/mirror"}])), "`rules[0]` applies to images in `rules[0].target`, which cannot be copied or rewritten again")]
#[case::rewrites_in_a_circle(rules(&json!([
    {"images": ["quay.io/*"], "action": "rewrite", "target": "docker.io/quay"},
    {"images": ["docker.io/*"], "action": "rewrite", "target": "quay.io/hub"}
])), "`rules[1]` applies to images in `rules[0].target`, which cannot be copied or rewritten again; `rules[0]` applies to images in `rules[1].target`")]
#[case::copies_of_a_target(rules(&json!([
    {"images": ["harbor.test/quay/acme/*"], "action": "mirror"},
    {"images": ["quay.io/*"], "action": "rewrite", "target": "harbor.test/quay"}
])), "`rules[0]` applies to images in `rules[1].target`")]
#[case::one_target_for_two_registries(rules(&json!([
    {"images": ["quay.io/*"], "action": "rewrite", "target": "harbor.test/x"},
    {"images": ["docker.io/*"], "action": "rewrite", "target": "harbor.test/x"}
])), "`rules[1].target` overlaps `rules[0].target`: different images could get the same name")]
#[case::a_target_inside_another(rules(&json!([
    {"images": ["quay.io/*"], "action": "rewrite", "target": "harbor.test/x/y"},
    {"images": ["docker.io/*"], "action": "rewrite", "target": "harbor.test/x"}
])), "`rules[1].target` overlaps `rules[0].target`")]
#[case::rules_and_include(json!({"sidecar": "a:1", "images": {"include": ["*"]}, "rules": [{"action": "keep"}]}), "`images` cannot be combined with `rules`: write `images.exclude` as a rule with `action: keep`")]
#[case::rules_and_exclude(json!({"sidecar": "a:1", "images": {"exclude": ["*"]}, "rules": [{"action": "keep"}]}), "`images` cannot be combined with `rules`")]
#[case::list(json!([]), "the settings must be an object")]
#[case::long_values_are_cut(json!({"sidecar": "x".repeat(1000)}), "xxx...xxx")]
fn wrong(#[case] settings: Value, #[case] words: &str) {
    let message = message(&settings).unwrap();
    assert!(message.contains(words), "{message}");
}

fn rules(rules: &Value) -> Value {
    json!({"sidecar": "a:1", "rules": rules})
}

#[test]
fn all_errors_are_named_at_once() {
    let settings = json!({"sidecar": "", "foo": 1, "bar": 2, "pinDigest": 0, "timeBudgetMs": 1, "excludedNamespaces": ["A", "B"], "rules": [{"namespaces": ["C"], "images": ["d"]}, 7]});
    let message = message(&settings).unwrap();
    for words in [
        "`sidecar`",
        "`foo`",
        "`bar`",
        "`pinDigest`",
        "`timeBudgetMs`",
        "\"A\"",
        "`excludedNamespaces[1]`",
        "`rules[0].namespaces[0]`",
        "`rules[0].images[0]`",
        "`rules[0].action`",
        "`rules[1]`",
    ] {
        assert!(message.contains(words), "{words}: {message}");
    }
}

#[rstest]
#[case(b"")]
#[case(b"{")]
#[case(b"\xff")]
fn not_json(#[case] payload: &[u8]) {
    let message = validate_settings(payload).message.unwrap();
    assert!(
        message.starts_with("cannot parse the settings"),
        "{message}"
    );
}

/// The comments of the settings, the table of docs/policy-settings.md, the form for Rancher's user interface, and what really happens.
mod documentation {
    use mirror_contract::Settings;

    use super::*;

    struct Setting {
        key: String,
        meaning: String,
        /// As it is written in YAML; `None` for what is required.
        default: Option<String>,
    }

    /// From comments such as "`key`: meaning. Default: `value`".
    fn comments() -> Vec<Setting> {
        let sources = [
            include_str!("../../../mirror-contract/src/settings.rs"),
            include_str!("../../../mirror-contract/src/settings/known_copies.rs"),
        ];
        let mut settings = Vec::new();
        let mut comment = String::new();
        for line in sources.into_iter().flat_map(str::lines).map(str::trim) {
            if let Some(text) = line.strip_prefix("///") {
                comment.push_str(text);
                continue;
            }
            let comment = std::mem::take(&mut comment);
            let Some((key, rest)) = comment
                .trim()
                .strip_prefix('`')
                .and_then(|text| text.split_once("`: "))
            else {
                continue;
            };
            let (meaning, default) = match rest.split_once(" Default: ") {
                Some((meaning, default)) => (meaning, Some(default.trim_matches('`'))),
                None => match rest.split_once(" Required.") {
                    Some((meaning, _)) => (meaning, None),
                    // A group of settings.
                    None => continue,
                },
            };
            settings.push(Setting {
                key: key.to_owned(),
                meaning: meaning.trim_end_matches('.').to_owned(),
                default: default.map(ToOwned::to_owned),
            });
        }
        assert!(settings.len() >= 10);
        settings
    }

    fn file(name: &str) -> String {
        let path = format!("{}/../{name}", env!("CARGO_MANIFEST_DIR"));
        std::fs::read_to_string(path).unwrap()
    }

    fn yaml(text: &str) -> Value {
        yaml_serde::from_str(text).unwrap()
    }

    #[test]
    fn the_page_says_the_same() {
        let page = file("docs/policy-settings.md");
        let mut rows: Vec<_> = page
            .lines()
            .skip_while(|line| !line.starts_with("| `"))
            .take_while(|line| line.starts_with('|'))
            .collect();
        let mut expected: Vec<_> = comments()
            .into_iter()
            .map(
                |Setting {
                     key,
                     meaning,
                     default,
                 }| {
                    let default =
                        default.map_or("required".into(), |default| format!("`{default}`"));
                    format!("| `{key}` | {default} | {meaning} |")
                },
            )
            .collect();
        // Groups of settings come last in the code.
        rows.sort_unstable();
        expected.sort_unstable();
        assert_eq!(rows, expected);
    }

    #[test]
    fn the_form_says_the_same() {
        let form = yaml(&file("questions-ui.yml"));
        let mut questions = Vec::new();
        for question in form["questions"].as_array().unwrap() {
            match question["subquestions"].as_array() {
                Some(parts) => questions.extend(parts),
                None => questions.push(question),
            }
        }
        let settings = comments();
        assert_eq!(questions.len(), settings.len());
        for setting in settings {
            let asks = |question: &&&Value| question["variable"] == setting.key;
            let question = questions.iter().find(asks).unwrap();
            let mut meaning = setting.meaning.replace('`', "");
            meaning[..1].make_ascii_uppercase();
            assert_eq!(question["description"], format!("{meaning}."));
            assert_eq!(
                question["required"],
                setting.default.is_none(),
                "{}",
                setting.key
            );
            if let Some(default) = setting.default {
                assert_eq!(question["default"], yaml(&default), "{}", setting.key);
            }
        }
    }

    #[test]
    fn the_defaults_are_those() {
        let minimal = json!({"sidecar": "a:1"});
        let mut documented = minimal.clone();
        for setting in comments() {
            let Some(default) = setting.default else {
                continue;
            };
            match setting.key.split_once('.') {
                Some((group, key)) => documented[group][key] = yaml(&default),
                None => documented[setting.key] = yaml(&default),
            }
        }
        assert_eq!(
            Settings::parse(&documented).unwrap(),
            Settings::parse(&minimal).unwrap()
        );
        // And they are all the settings that there are.
        let mut with_surprise = documented.clone();
        with_surprise["surprise"] = 1.into();
        let message = message(&with_surprise).unwrap();
        let (_, known) = message.split_once("known settings: ").unwrap();
        let known: Vec<_> = known.trim_end_matches(')').split(", ").collect();
        let documented = documented.as_object().unwrap();
        assert_eq!(known.len(), documented.len());
        assert!(known.iter().all(|key| documented.contains_key(*key)));
    }
}
