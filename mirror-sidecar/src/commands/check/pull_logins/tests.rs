//! Logins of two teams and of a target in one registry.

use std::num::NonZeroUsize;

use axum::Router;
use axum::extract::Request;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use mirror_contract::{Naming, RewriteTarget};
use mirror_copy::{Login, RegistryOptions};
use tokio::net::TcpListener;

use super::*;
use crate::backups::ByBackup;
use crate::config::{BackupConfig, TargetConfig};
use crate::origin::BackupOrigin;

/// Starts a registry with a copy in the repositories of these `teams`. The users are `<team>`, which reads its own team, `all`,
/// which reads everything, and `none`, which reads nothing. Others are refused.
async fn registry(teams: &'static [&'static str]) -> String {
    let serve = move |request: Request| async move { respond(&request, teams) };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let router = Router::new().fallback(serve);
    tokio::spawn(async move { axum::serve(listener, router).await });
    address
}

fn respond(request: &Request, teams: &[&str]) -> Response {
    let login = request.headers().get("authorization");
    let login = login.and_then(|login| login.to_str().ok()?.strip_prefix("Basic "));
    let login = login.map(|login| STANDARD.decode(login).unwrap());
    let login = login.map(|login| String::from_utf8(login).unwrap());
    let user = login
        .as_deref()
        .and_then(|login| login.strip_suffix(":right"));
    let Some(user) = user else {
        let challenge = [("www-authenticate", "Basic realm=\"test\"")];
        return (StatusCode::UNAUTHORIZED, challenge).into_response();
    };
    let path = request.uri().path();
    let Some(team) = path
        .strip_prefix("/v2/")
        .and_then(|path| path.split('/').next())
    else {
        return StatusCode::OK.into_response();
    };
    match (team, user) {
        ("", _) => StatusCode::OK.into_response(),
        _ if user != "all" && user != team => StatusCode::FORBIDDEN.into_response(),
        _ if !teams.contains(&team) => StatusCode::NOT_FOUND.into_response(),
        _ => {
            let digest = format!("sha256:{}", "a".repeat(64));
            [
                ("docker-content-digest", digest.as_str()),
                ("content-type", "application/vnd.oci.image.manifest.v1+json"),
            ]
            .into_response()
        }
    }
}

fn login(host: &str, user: &str) -> Credentials {
    let (user, password) = user.split_once(':').unwrap_or((user, "right"));
    let login = Login {
        username: user.to_owned(),
        password: password.into(),
    };
    Credentials::anonymous().with_login(host, login)
}

/// The lines of a check, with `HOST` for the registry.
async fn lines(
    teams: &'static [&'static str],
    pulls: [&str; 2],
    target: Option<&str>,
) -> Vec<String> {
    let host = registry(teams).await;
    let backup = |team: &str, pull: &str| BackupConfig {
        origin: BackupOrigin::default(),
        backup: Backup::new(&host, team, Naming::Flat).unwrap(),
        former: Vec::new(),
        push: login(&host, team),
        pull: Some(login(&host, pull)),
        max_image_size: None,
        parallel_copies: NonZeroUsize::MIN,
        definition: String::new(),
    };
    let [first, second] = pulls;
    let location = format!("{host}/hub");
    let team = BackupName::parse("team").unwrap();
    let mut backups = ByBackup::new(backup("main", first));
    backups.insert(
        team.clone(),
        BackupConfig {
            origin: BackupOrigin::File(team),
            ..backup("team", second)
        },
    );
    let targets = target.into_iter().map(|user| TargetConfig {
        location: RewriteTarget::parse(&location).unwrap().into_owned(),
        pull: login(&host, user),
    });
    let config = Config::new(backups, targets.collect(), true).unwrap();
    let image = "nginx:1".parse().unwrap();
    let registries = |credentials| {
        let options = RegistryOptions {
            insecure_hosts: [host.clone()].into(),
            ..RegistryOptions::default()
        };
        Ok(Registries::new(options)
            .unwrap()
            .with_credentials(credentials))
    };
    let lines = check(&config, &image, registries).await.unwrap();
    let lines = lines.iter().map(Line::text);
    lines.map(|line| line.replace(&host, "HOST")).collect()
}

#[tokio::test]
async fn logins_that_read_their_own_backup_alone_pass() {
    assert_eq!(
        lines(&["main", "team"], ["main", "team"], Some("none")).await,
        [
            "ok      pull login: may pull from HOST/main/docker.io-library-nginx",
            "ok      pull login of backup team: may pull from HOST/team/docker.io-library-nginx",
            "ok      pull login of target HOST/hub: accepted by HOST",
        ]
    );
}

#[tokio::test]
async fn a_login_that_reads_the_backup_of_others_is_reported() {
    let lines = lines(&["main", "team"], ["all", "team"], Some("all")).await;
    let reads = |backup: &str| {
        format!(
            "reads backup {backup} too, so whoever has this login can pull all its images; use a login that reads nothing else"
        )
    };
    assert_eq!(
        lines[3..],
        [
            format!(
                "warning pull login of target HOST/hub: {}",
                reads("default (HOST/main)")
            ),
            format!("warning pull login: {}", reads("team (HOST/team)")),
            format!(
                "warning pull login of target HOST/hub: {}",
                reads("team (HOST/team)")
            ),
        ],
        "{lines:#?}"
    );
}

#[tokio::test]
async fn logins_without_permission_fail() {
    let lines = lines(&["main", "team"], ["main:wrong", "none"], None).await;
    assert!(lines[0].starts_with("failed  pull login: "), "{lines:#?}");
    assert!(
        lines[1].starts_with("failed  pull login of backup team: "),
        "{lines:#?}"
    );
    assert_eq!(lines.len(), 2, "{lines:#?}");
}

#[tokio::test]
async fn without_a_copy_the_login_must_be_accepted() {
    let lines = lines(&["main"], ["main:wrong", "none"], None).await;
    assert!(lines[0].starts_with("failed  pull login: "), "{lines:#?}");
    assert_eq!(
        lines[1..],
        [
            "ok      pull login of backup team: accepted by HOST, where docker.io/library/nginx:1 has no copy to pull yet",
            "skipped pull logins of others: backup team (HOST/team) has no copy of docker.io/library/nginx:1 that they could \
             read; check with an image that it has",
        ],
        "{lines:#?}"
    );
}
