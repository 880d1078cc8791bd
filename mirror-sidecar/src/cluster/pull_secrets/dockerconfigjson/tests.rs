//! Which logins a configuration holds, which of them stay, and how ours is written.

use mirror_copy::Login;
use rstest::rstest;

use super::*;

fn held(config: &Value) -> HeldLogins {
    HeldLogins::of(config.to_string().as_bytes())
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
    assert!(held.get("b.example").is_some() && !held.is_clean());
    let stored = StoredLogins::of(config.as_bytes());
    assert_eq!(stored.get("b.example"), Some(&login("u", "p", None)));
}

#[test]
fn long_logins_of_others_are_not_kept() {
    let config = json!({ "auths": {
        "long.example": login("u", &"p".repeat(MAX_OTHER), None), "short.example": login("u", "p", None),
    } });
    let stored = StoredLogins::of(config.to_string().as_bytes());
    let short: Vec<_> = stored.short().map(|(key, _, _)| key).collect();
    assert_eq!(short, ["short.example"]);
    assert!(stored.get("long.example").is_some());
}

/// What is written can be read again.
#[test]
fn the_length_of_a_configuration_is_bounded() {
    let mut configuration = Configuration::default();
    let token = "t".repeat(20_000);
    let mut count = 0;
    while configuration.add(
        &format!("{count}.example"),
        login("u", &token, Some(&token)),
    ) {
        count += 1;
    }
    assert!((4..10).contains(&count), "{count}");
    assert!(configuration.add("small.example", login("u", "p", None)));
    let written = configuration.encoded();
    let length = written.expose_secret().len();
    assert!((400 * 1024..512 * 1024).contains(&length), "{length}");
    let read = STANDARD.decode(written.expose_secret()).unwrap();
    assert_eq!(HeldLogins::of(&read), configuration.held());
    assert_eq!(configuration.held().iter().count(), count + 1);
}

#[test]
fn a_password_is_never_shown() {
    let config = json!({ "auths": { "a.example": login("u", "s3cret", None) } });
    let printed = format!("{:?}", held(&config));
    assert!(printed.contains("a.example") && printed.contains("Fingerprint(..)"));
    assert!(!printed.contains("s3cret"), "{printed}");
}

fn content(registry: &str, credential: &Credential) -> Value {
    let mut configuration = Configuration::default();
    configuration.add(
        &key_for(registry, ""),
        DesiredLogin::new(credential).value(),
    );
    let json = STANDARD
        .decode(configuration.encoded().expose_secret())
        .unwrap();
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
    let content = DesiredLogin::new(&Credential::IdentityToken("t0ken".into()));
    let printed = format!("{content:?}");
    assert!(!printed.contains("t0ken"), "{printed}");
    assert!(printed.contains("Fingerprint(..)"), "{printed}");
}
