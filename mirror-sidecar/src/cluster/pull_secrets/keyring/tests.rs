//! The keys of logins, and which other keys hide them.

use mirror_copy::{Credential, Login};
use rstest::rstest;
use serde_json::{Map, Value, json};

use super::super::dockerconfigjson::login;
use super::super::pull_login::tests::pull_logins;
use super::*;

pub fn keyring(logins: &[(&'static str, &str, &str)]) -> Keyring {
    of(pull_logins(logins))
}

fn of(logins: Vec<PullLogin>) -> Keyring {
    Keyring::new(&PullLogins::new(logins).unwrap())
}

pub fn desired_login(password: &str) -> DesiredLogin {
    DesiredLogin::new(&Credential::Login(Login {
        username: "u".into(),
        password: password.into(),
    }))
}

fn held(config: &Value) -> HeldLogins {
    HeldLogins::of(config.to_string().as_bytes())
}

#[rstest]
#[case::the_whole_registry_for_the_default("default", "r.example:5000", "acme", "r.example:5000")]
#[case::a_part_for_others("team-a", "r.example", "acme/a", "r.example/acme/a")]
#[case::without_a_path("team-a", "r.example", "", "r.example")]
#[case::a_target("target", "r.example", "hub", "r.example/hub")]
#[case::docker_hub("team-a", "docker.io", "acme", "https://index.docker.io/v1/")]
fn keys(#[case] name: &'static str, #[case] registry: &str, #[case] path: &str, #[case] key: &str) {
    let keyring = keyring(&[(name, registry, path)]);
    assert_eq!(keyring.key(0), key);
    assert_eq!(keyring.index_of(key), Some(0));
    assert!(!keyring.is_hidden_by("other.example"));
}

#[rstest]
#[case::one(json!({ "auths": { "a.example": login("u", "p", None) } }), true)]
#[case::two(json!({ "auths": { "a.example": login("u", "p", None), "b.example:5000": login("u", "p", None) } }), true)]
#[case::docker_hub(json!({ "auths": { "a.example": login("u", "p", None), "https://index.docker.io/v1/": login("u", "p", None) } }), true)]
#[case::a_part_of_another(json!({ "auths": { "a.example": login("u", "p", None), "b.example/c": login("u", "p", None) } }), true)]
#[case::none(json!({ "auths": {} }), true)]
#[case::nothing(json!({}), false)]
#[case::a_list(json!([]), false)]
#[case::something_else(json!({ "auths": { "a.example": login("u", "p", None) }, "credsStore": "x" }), false)]
#[case::in_another_case(json!({ "auths": { "a.example": login("u", "p", None) }, "Auths": {} }), false)]
#[case::a_broken_login(json!({ "auths": { "a.example": login("u", "p", None), "b.example": { "auth": "%" } } }), false)]
#[case::two_passwords(json!({ "auths": { "a.example": { "username": "u", "password": "p", "auth": "dTpx" } } }), false)]
#[case::a_part(json!({ "auths": { "a.example": login("u", "p", None), "a.example/b": login("u", "p", None) } }), false)]
#[case::a_pattern(json!({ "auths": { "a.example": login("u", "p", None), "*.example": login("u", "p", None) } }), false)]
#[case::upper_case(json!({ "auths": { "a.example": login("u", "p", None), "A.example": login("u", "p", None) } }), false)]
#[case::docker_hub_by_its_name(json!({ "auths": { "a.example": login("u", "p", None), "docker.io": login("u", "p", None) } }), false)]
#[case::docker_hub_in_part(json!({ "auths": { "docker.io/acme": login("u", "p", None) } }), false)]
#[case::nobodys(json!({ "auths": { "a.example": login("u", "p", None), "": login("u", "p", None) } }), false)]
#[case::a_slash(json!({ "auths": { "b.example/": login("u", "p", None) } }), false)]
fn a_configuration_is_clean_if_nothing_can_hide_a_login(
    #[case] config: Value,
    #[case] is_clean: bool,
) {
    let keyring = keyring(&[("default", "a.example", "")]);
    assert_eq!(keyring.is_clean(&held(&config)), is_clean);
    assert_eq!(keyring.fingerprint(&held(&config)).is_some(), is_clean);
}

/// Of a default backup in `r.example/acme` and another backup in `r.example/team/a`.
#[rstest]
#[case("r.example/acme", true)]
#[case("r.example/acme/inside", true)]
#[case("r.example/before", true)]
#[case("r.example/team/a/inside", true)]
#[case("r.example/elsewhere", false)]
#[case("r.example/acme-2", false)]
#[case("other.example/acme", false)]
#[case("r.example:5000", false)]
// Kubelets use the longer key of the backup first.
#[case("r.example/team", false)]
fn keys_that_hide(#[case] key: &str, #[case] hides: bool) {
    let mut logins = pull_logins(&[
        ("default", "r.example", "acme"),
        ("team-a", "r.example", "team/a"),
    ]);
    logins[0].former_paths = vec!["before".to_owned()];
    assert_eq!(of(logins).is_hidden_by(key), hides);
}

#[test]
fn too_many_logins_of_others_are_not_clean() {
    let keyring = keyring(&[
        ("default", "r.example", "acme"),
        ("team-a", "r.example", "team"),
    ]);
    let with = |others: usize| {
        let others = (0..others).map(|number| format!("other-{number}.example"));
        let keys = ["r.example".to_owned(), "r.example/team".to_owned()];
        let entries = keys.into_iter().chain(others);
        let entries = entries.map(|key| (key, login("u", "p", None)));
        held(&json!({ "auths": entries.collect::<Map<_, _>>() }))
    };
    assert!(keyring.is_clean(&with(MAX_OTHERS)));
    assert!(!keyring.is_clean(&with(MAX_OTHERS + 1)));
}

#[test]
fn earlier_values_are_recognized_for_a_while() {
    let mut logins = CurrentLogins::unknown(2);
    assert!(logins.get(0).is_none());
    let value = |number: usize| desired_login(&format!("p{number}"));
    for number in 0..=MAX_FORMER + 1 {
        assert!(logins.set(0, value(number)));
        assert!(!logins.set(0, value(number)), "the same is no news");
    }
    let last = value(MAX_FORMER + 1).fingerprint();
    assert_eq!(logins.get(0).unwrap().fingerprint(), last);
    assert_eq!(logins.of(last), LoginSet::one(0));
    assert_eq!(logins.of(value(1).fingerprint()), LoginSet::one(0));
    assert_eq!(logins.of(value(0).fingerprint()), LoginSet::NONE);
    logins.set(1, value(1));
    assert_eq!(logins.of(value(1).fingerprint()), (0..2).collect());
}
