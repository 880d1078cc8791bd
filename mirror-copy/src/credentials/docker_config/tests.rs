use super::super::{Credential, CredentialError};
use super::*;
use secrecy::ExposeSecret as _;

/// Returns the credential for a repository of a host: `user:password`, or the identity token.
async fn found(
    text: &str,
    host: &str,
    repository: &str,
) -> Result<Option<String>, CredentialError> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config.json");
    std::fs::write(&path, text).unwrap();
    let mut logins = DockerConfig::File(path).lookup(host).await?;
    let found = logins.find(repository).await?;
    Ok(found.map(|credential| match credential {
        Credential::Login(login) => {
            format!("{}:{}", login.username, login.password.expose_secret())
        }
        Credential::IdentityToken(token) => token.expose_secret().to_owned(),
    }))
}

/// `dTpw` is u:p.
#[rstest::rstest]
#[case(r#"{"auth":"dTpw"}"#, Some("u:p"))]
#[case(r#"{"auth":"dTpw\n"}"#, Some("u:p"))]
#[case(r#"{"auth":"dT\r\n pw"}"#, Some("u:p"))]
#[case(r#"{"auth":"dTpwYQ"}"#, Some("u:pa"))]
#[case(r#"{"auth":"dTpwOnc="}"#, Some("u:p:w"))]
#[case(r#"{"auth":"dTpwAAA="}"#, Some("u:p"))]
#[case(r#"{"auth":"","username":"u","password":"p"}"#, Some("u:p"))]
#[case(r#"{"username":"u","password":"p:w"}"#, Some("u:p:w"))]
#[case(r#"{"auth":"dTpw","username":"u","password":"old"}"#, Some("u:p"))]
#[case(r#"{"auth":"dTpw","identitytoken":""}"#, Some("u:p"))]
#[case(r#"{"auth":"dTpw","identitytoken":null}"#, Some("u:p"))]
#[case(r#"{"auth":"dTpw","identitytoken":"t"}"#, Some("t"))]
#[case(
    r#"{"auth":"dTpw","email":null,"serveraddress":"x","registrytoken":""}"#,
    Some("u:p")
)]
#[case("{}", None)]
#[case("null", None)]
#[case(r#"{"auth":""}"#, None)]
#[case(r#"{"auth":"Og=="}"#, None)]
#[tokio::test]
async fn entries_are_read_as_docker_reads_them(
    #[case] entry: &str,
    #[case] expected: Option<&str>,
) {
    let text = format!(r#"{{"auths":{{"a.example":{entry}}},"credsStore":"","credHelpers":null}}"#);
    assert_eq!(
        found(&text, "a.example", "b").await.unwrap().as_deref(),
        expected
    );
}

#[rstest::rstest]
#[case(r#"{"auth":"%%%"}"#)]
#[case(r#"{"auth":"dXA="}"#)]
#[case(r#"{"auth":7}"#)]
#[case(r#"["dTpw"]"#)]
#[tokio::test]
async fn a_broken_entry_affects_its_own_repositories_only(#[case] entry: &str) {
    let text = format!(
        r#"{{"auths":{{"a.example/broken":{entry},"a.example":{{"auth":"dTpw"}},"broken.example":{entry}}},
            "credHelpers":{{"helped.example":7}}}}"#
    );
    for (host, repository) in [("a.example", "broken/b"), ("broken.example", "b")] {
        let error = found(&text, host, repository)
            .await
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("config.json") && error.contains("broken"),
            "{error}"
        );
        assert!(!error.contains("dTpw"), "{error}");
    }
    let error = found(&text, "helped.example", "b").await.unwrap_err();
    assert!(error.to_string().contains("helped.example"), "{error}");
    assert_eq!(
        found(&text, "a.example", "b").await.unwrap().as_deref(),
        Some("u:p")
    );
    assert_eq!(found(&text, "public.example", "b").await.unwrap(), None);
}

#[rstest::rstest]
#[case("team-a", "a:")]
#[case("team-a/app", "a:")]
#[case("team-a/deep/app", "deep:")]
#[case("team-a/deeper", "a:")]
#[case("team-ab/app", "all:")]
#[case("", "all:")]
#[tokio::test]
async fn the_longest_path_wins(#[case] repository: &str, #[case] expected: &str) {
    let text = r#"{"auths":{
        "https://a.example/v2/team-a/":{"username":"a"}, "a.example/team-a/deep":{"username":"deep"},
        "a.example":{"username":"all"}, "a.example/team-b":{"username":"b"},
        "*.example":{"username":"any"}, "*.example/team-a/deep/app":{"username":"any"}}}"#;
    assert_eq!(
        found(text, "a.example", repository)
            .await
            .unwrap()
            .as_deref(),
        Some(expected)
    );
}

#[tokio::test]
async fn an_exact_name_wins_over_a_wildcard() {
    let text = r#"{"auths":{"*.example":{"username":"any"},"a*.example":{"username":"a"},
        "b.example":{"username":"b"},"c.example/team":{"username":"c"}}}"#;
    for (host, expected) in [
        ("ab.example", "a:"),
        ("b.example", "b:"),
        ("c.example", "any:"),
    ] {
        assert_eq!(
            found(text, host, "x").await.unwrap().as_deref(),
            Some(expected)
        );
    }
}

#[rstest::rstest]
#[case(r#"{"auths":{"a.example:443":{"auth":"dTpw"}}}"#, true)]
#[case(r#"{"auths":{"a.example":{"auth":"dTpw"}}}"#, true)]
#[case(r#"{"auths":{"a.example:5000":{"auth":"dTpw"}}}"#, false)]
#[case(r#"{"auths":{"a.example":{"auth":"dTpw"}},"credHelpers":{"a.example":""},"credsStore":"none-such"}"#, true)]
#[case("{}", false)]
#[case(r#"{"auths":null,"credsStore":null}"#, false)]
#[case(r#"{"credsStore":""}"#, false)]
#[tokio::test]
async fn a_login_is_found(#[case] text: &str, #[case] expected: bool) {
    let found = found(text, "a.example", "b").await.unwrap();
    assert_eq!(found.is_some(), expected);
}

#[rstest::rstest]
#[case(r#"{"auths":{"a.example":{"auth":"dTpw"}}}"#, "a.example", false)]
#[case(r#"{"credHelpers":{"a.example":"ecr-login"}}"#, "a.example", true)]
#[case(r#"{"credHelpers":{"a.example:443":"ecr-login"}}"#, "a.example", true)]
#[case(r#"{"credHelpers":{"b.example":"ecr-login"}}"#, "a.example", false)]
#[case(r#"{"credHelpers":{"index.docker.io":"x"}}"#, "docker.io", true)]
#[case(r#"{"credsStore":"pass"}"#, "a.example", true)]
#[case(r#"{"credsStore":"pass","auths":{"a.example":{}}}"#, "a.example", true)]
#[case(
    r#"{"credsStore":"pass","auths":{"a.example":{"auth":"dTpw"}}}"#,
    "a.example",
    false
)]
#[case(r#"{"credsStore":""}"#, "a.example", false)]
#[case(
    r#"{"credsStore":"pass","credHelpers":{"a.example":""}}"#,
    "a.example",
    false
)]
#[tokio::test]
async fn who_is_asked_is_in_the_file(
    #[case] text: &str,
    #[case] host: &str,
    #[case] expected: bool,
) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config.json");
    std::fs::write(&path, text).unwrap();
    let logins = DockerConfig::File(path).lookup(host).await.unwrap();
    assert_eq!(logins.asks_helper(), expected);
}

#[rstest::rstest]
#[case("[", "line 1, column 1")]
#[case("{\n \"auths\": [7]}", "line 2, column")]
#[tokio::test]
async fn an_unreadable_file_is_named_with_its_place(#[case] text: &str, #[case] place: &str) {
    let error = found(text, "a.example", "b").await.unwrap_err().to_string();
    assert!(
        error.contains("config.json") && error.contains(place),
        "{error}"
    );
}
