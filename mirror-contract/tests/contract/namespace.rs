//! Patterns of namespaces: exact names and beginnings, never parts.

use mirror_contract::NamespacePattern;
use mirror_contract::namespace::DEFAULT_EXCLUDED;
use rstest::rstest;

#[rstest]
#[case::exact("kube-system", "kube-system", true)]
#[case::part_of_a_name("system", "kube-system", false)]
#[case::longer_name("kube", "kube-system", false)]
#[case::beginning("team-*", "team-a", true)]
#[case::beginning_itself("team-*", "team-", true)]
#[case::other_beginning("team-*", "my-team-a", false)]
#[case::everything("*", "anything", true)]
fn a_pattern_means(#[case] pattern: &str, #[case] namespace: &str, #[case] matches: bool) {
    let pattern = NamespacePattern::parse(pattern).unwrap();
    assert_eq!(pattern.matches(namespace), matches);
}

#[rstest]
#[case::empty("")]
#[case::upper_case("Team")]
#[case::inner_star("te*am")]
#[case::two_stars("team**")]
#[case::leading_hyphen("-team")]
#[case::trailing_hyphen("team-")]
#[case::space(" team")]
#[case::dot("team.a")]
fn is_no_pattern(#[case] pattern: &str) {
    assert_eq!(NamespacePattern::parse(pattern), None);
}

#[test]
fn the_defaults_are_patterns() {
    for name in DEFAULT_EXCLUDED {
        assert!(NamespacePattern::parse(name).unwrap().matches(name));
    }
}
