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
    "whenNotMirrored": "reject",
    "whenUnavailable": "keep",
    "pinDigest": true,
    "timeBudgetMs": 25_000
}))]
#[case::no_exclusions(json!({"sidecar": "localhost:5000", "excludedNamespaces": [], "timeBudgetMs": 50}))]
fn valid(#[case] settings: Value) {
    assert_eq!(message(&settings), None);
}

#[rstest]
#[case::nothing(json!({}), "`sidecar` is missing: the `host:port` of mirror-sidecar, in lower case")]
#[case::upper_case(json!({"sidecar": "Sidecar:5000"}), "`sidecar` must be the `host:port` of mirror-sidecar, in lower case, not \"Sidecar:5000\"")]
#[case::url(json!({"sidecar": "https://sidecar:5000"}), "`sidecar` must be")]
#[case::null(json!({"sidecar": null}), "in lower case, not null")]
#[case::number(json!({"sidecar": 5000}), "in lower case, not 5000")]
#[case::not_a_list(json!({"sidecar": "a:1", "excludedNamespaces": "kube-system"}), "`excludedNamespaces` must be a list of namespaces")]
#[case::not_a_namespace(json!({"sidecar": "a:1", "excludedNamespaces": ["Kube"]}), "not \"Kube\"")]
#[case::star_inside(json!({"sidecar": "a:1", "excludedNamespaces": ["a*b"]}), "not \"a*b\"")]
#[case::empty_name(json!({"sidecar": "a:1", "excludedNamespaces": [""]}), "not \"\"")]
#[case::number_in_list(json!({"sidecar": "a:1", "excludedNamespaces": [1]}), "not 1")]
#[case::when(json!({"sidecar": "a:1", "whenNotMirrored": "deny"}), "`whenNotMirrored` must be `keep` or `reject`, not \"deny\"")]
#[case::when_unavailable(json!({"sidecar": "a:1", "whenUnavailable": true}), "`whenUnavailable` must be `keep` or `reject`, not true")]
#[case::pin(json!({"sidecar": "a:1", "pinDigest": "true"}), "`pinDigest` must be true or false, not \"true\"")]
#[case::budget_too_small(json!({"sidecar": "a:1", "timeBudgetMs": 49}), "`timeBudgetMs` must be a whole number of milliseconds from 50 to 25000, not 49")]
#[case::budget_too_big(json!({"sidecar": "a:1", "timeBudgetMs": 25_001}), "not 25001")]
#[case::budget_negative(json!({"sidecar": "a:1", "timeBudgetMs": -1}), "not -1")]
#[case::budget_fraction(json!({"sidecar": "a:1", "timeBudgetMs": 800.5}), "not 800.5")]
#[case::budget_text(json!({"sidecar": "a:1", "timeBudgetMs": "800"}), "not \"800\"")]
#[case::unknown(json!({"sidecar": "a:1", "side_car": 1}), "`side_car` is not a setting (there are sidecar, excludedNamespaces, whenNotMirrored, whenUnavailable, pinDigest, timeBudgetMs)")]
#[case::list(json!([]), "the settings must be an object")]
#[case::long_values_are_cut(json!({"sidecar": "x".repeat(1000)}), "xxx...xxx")]
fn wrong(#[case] settings: Value, #[case] words: &str) {
    let message = message(&settings).unwrap();
    assert!(message.contains(words), "{message}");
}

#[test]
fn all_errors_are_named_at_once() {
    let settings = json!({"sidecar": "", "foo": 1, "bar": 2, "pinDigest": 0, "timeBudgetMs": 1, "excludedNamespaces": ["A", "B"]});
    let message = message(&settings).unwrap();
    for words in [
        "`sidecar`",
        "`foo`",
        "`bar`",
        "`pinDigest`",
        "`timeBudgetMs`",
        "\"A\"",
        "\"B\"",
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
        message.starts_with("the settings are not JSON"),
        "{message}"
    );
}
