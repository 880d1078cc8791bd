//! Which logins a configuration holds, which of them stay, and how ours is written.

use mirror_copy::Login;
use rstest::rstest;

use super::*;

fn held(config: &Value) -> HeldLogins {
    HeldLogins::of(config.to_string().as_bytes())
}

#[rstest]
#[case::one(json!({ "auths": { "a.example": login("u", "p", None) } }), true)]
#[case::two(json!({ "auths": { "a.example": login("u", "p", None), "b.example:5000": login("u", "p", None) } }), true)]
#[case::docker_hub(json!({ "auths": { "a.example": login("u", "p", None), DOCKER_HUB_KEY: login("u", "p", None) } }), true)]
#[case::none(json!({ "auths": {} }), false)]
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
#[case::nobodys(json!({ "auths": { "a.example": login("u", "p", None), "": login("u", "p", None) } }), false)]
fn a_login_is_usable_if_nothing_can_hide_it(#[case] config: Value, #[case] is_usable: bool) {
    assert_eq!(held(&config).usable("a.example").is_some(), is_usable);
}

/// Nesting and surrogates that a parser of values refuses, and fields that a kubelet would merge.
#[rstest]
#[case::deep(format!(r#"{{"x":{}{},AUTHS}}"#, "[".repeat(9_999), "]".repeat(9_999)))]
#[case::half_a_surrogate(r#"{"x":"\ud800",AUTHS}"#.to_owned())]
#[case::a_huge_number(r#"{"x":1e999,AUTHS}"#.to_owned())]
#[case::twice(r#"{AUTHS,"auths":{}}"#.to_owned())]
fn other_logins_are_kept_whatever_stands_beside_them(#[case] config: String) {
    let auths = json!({ "a.example": login("u", "p", None), "b.example": login("u", "p", None) });
    let config = config.replace("AUTHS", &format!(r#""auths":{auths}"#));
    let held = HeldLogins::of(config.as_bytes());
    assert!(held.has_others("a.example") && held.usable("a.example").is_none());
    let merged = OtherLogins::of(config.as_bytes(), "a.example").with("a.example", json!({}));
    assert_eq!(merged["auths"]["b.example"], login("u", "p", None));
}

#[test]
fn what_stays_is_small() {
    let mut logins = Map::new();
    for number in 0..9 {
        logins.insert(format!("{number}.example"), login("u", "p", None));
    }
    logins.insert(
        "0.example".to_owned(),
        login("u", &"p".repeat(MAX_OTHER), None),
    );
    let config = json!({ "auths": logins });
    let others = OtherLogins::of(config.to_string().as_bytes(), "2.example");
    let merged = others.with("2.example", login("u", "new", None));
    let keys: Vec<_> = merged["auths"].as_object().unwrap().keys().collect();
    assert_eq!(
        keys,
        [
            "1.example",
            "2.example",
            "3.example",
            "4.example",
            "5.example"
        ]
    );
    let expected = Fingerprint::of(login("u", "new", None).to_string().as_bytes());
    assert!(held(&merged).usable("2.example") == Some(expected));
    assert!(held(&config).usable("2.example").is_none());
}

#[test]
fn a_password_is_never_shown() {
    let config = json!({ "auths": { "a.example": login("u", "s3cret", None) } });
    let printed = format!("{:?}", held(&config));
    assert!(printed.contains("a.example") && printed.contains("Fingerprint(..)"));
    assert!(!printed.contains("s3cret"), "{printed}");
}

fn content(registry: &str, credential: &Credential) -> Value {
    let encoded = DesiredLogin::new(registry, credential).encoded(OtherLogins::default());
    let json = STANDARD.decode(encoded.expose_secret()).unwrap();
    serde_json::from_slice(&json).unwrap()
}

#[rstest]
#[case("ghcr.io", "ghcr.io")]
#[case("registry.local:5000", "registry.local:5000")]
#[case("docker.io", "https://index.docker.io/v1/")]
fn a_login_is_found_under_the_name_of_its_registry(#[case] registry: &str, #[case] key: &str) {
    let login = Credential::Login(Login {
        username: "robot".into(),
        password: "p:4".into(),
    });
    let expected = json!({ "auths": { key: {
        "username": "robot", "password": "p:4", "auth": "cm9ib3Q6cDo0",
    } } });
    assert_eq!(content(registry, &login), expected);
}

#[test]
fn an_identity_token_is_a_password_too() {
    let token = Credential::IdentityToken("t0ken".into());
    let entry = &content("acme.azurecr.io", &token)["auths"]["acme.azurecr.io"];
    assert_eq!(entry["identitytoken"], "t0ken");
    assert_eq!(entry["password"], "t0ken");
    assert_eq!(entry["username"], TOKEN_USER);
}

#[test]
fn nothing_of_it_can_be_printed() {
    let content = DesiredLogin::new("ghcr.io", &Credential::IdentityToken("t0ken".into()));
    let printed = format!("{content:?}");
    assert!(!printed.contains("t0ken"), "{printed}");
    assert!(printed.contains("Fingerprint(..)"), "{printed}");
}
