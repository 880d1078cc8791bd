//! The pull Secrets beside an API server in memory, with a clock that jumps.

mod server;
mod several;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures_util::future::join_all;
use mirror_contract::{Backup, BackupName, Mode, NamespacePattern, Naming};
use mirror_copy::Credentials;
use rstest::rstest;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::{Instant, timeout};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::cache::{KEY, LABEL, MANAGER, TYPE};
use super::provider::{CredentialSource, SourceError};
use super::*;
use crate::cluster::ExcludedNamespaces;
use crate::cluster::events::Events;
use crate::cluster::index::tests::{gone, namespace, pod, seen};
use crate::cluster::index::{Change, Index, Rules};
use crate::cluster::policies::Policy;
use crate::cluster::pull_locations::LoginOwner;
use crate::cluster::replicas::Replicas;
use crate::cluster::shared_index::SharedIndex;
use crate::cluster::testing::rules;
use crate::cluster::workload_kind::Kind;
use crate::lookup::ANSWER_WITHIN;
use crate::metrics::Metrics;
use server::{Fault, NAME, Server};

const REGISTRY: &str = "registry.example";

/// Everything about one sidecar.
struct World {
    server: Server,
    cluster: Arc<SharedIndex>,
    secrets: ManagedSecrets,
    folder: TempDir,
    _guard: DropGuard,
}

impl World {
    /// With an empty cluster that is known completely, and the namespace `shop`.
    async fn start() -> Self {
        let world = Self::start_before_the_lists().await;
        for kind in Kind::ALL {
            world.cluster.apply(Change::Init(kind));
            if kind == Kind::Namespace {
                world.report_namespace("shop", false);
            }
            world.cluster.apply(Change::InitDone(kind));
        }
        world
    }

    async fn start_before_the_lists() -> Self {
        Self::start_with(Some("first")).await
    }

    /// Without a password there is no file to read it from.
    async fn start_with(password: Option<&str>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("password");
        if let Some(password) = password {
            std::fs::write(&file, password).unwrap();
        }
        let server = Server::start();
        let cluster = Arc::new(SharedIndex::new(Index::new(Rules {
            pull_secret: Some(NAME.to_owned()),
            ..rules(Backup::new(REGISTRY, "acme", Naming::Flat).unwrap())
        })));
        let (secrets, guard) = manage(&server, &cluster, REGISTRY, &file).await;
        Self {
            secrets,
            server,
            cluster,
            folder,
            _guard: guard,
        }
    }

    fn report_lists(&self) {
        for kind in Kind::ALL {
            self.cluster.apply(Change::Init(kind));
            self.cluster.apply(Change::InitDone(kind));
        }
    }

    /// Another sidecar, which does everything too, until the guard is dropped.
    async fn join(&self, registry: &str, password: &str) -> (ManagedSecrets, DropGuard) {
        let file = self.folder.path().join(format!("{registry} {password}"));
        std::fs::write(&file, password).unwrap();
        manage(&self.server, &self.cluster, registry, &file).await
    }

    fn report_namespace(&self, name: &str, is_terminating: bool) {
        self.cluster
            .apply(Change::Apply(namespace(name, is_terminating)));
    }

    /// A Pod that names the Secret comes or goes.
    fn report_pod(&self, namespace: &str, is_there: bool) {
        let mut pod = pod("web", &["registry.example/acme/docker.io-library-nginx:1"]);
        pod.key.namespace = namespace.into();
        pod.pull_secrets = vec![NAME.to_owned()];
        self.cluster
            .apply(if is_there { seen(pod) } else { gone(pod) });
    }

    async fn ensure(&self, namespace: &str) -> String {
        self.request(namespace, Mode::Ensure).await
    }

    async fn request(&self, namespace: &str, mode: Mode) -> String {
        let start = Instant::now();
        let answer = self.secrets.request(namespace, mode).await;
        assert!(start.elapsed() <= ANSWER_WITHIN);
        answer.map_or_else(|refusal| refusal.to_string(), |()| "ready".to_owned())
    }

    async fn goes_after_an_hour(&self) {
        let start = Instant::now();
        let is_gone = |server: &Server| server.get("shop").is_none();
        self.server.until("removed", is_gone).await;
        let took = start.elapsed().as_secs();
        assert!((3600..3605).contains(&took), "{took} s");
    }

    fn password_file(&self) -> PathBuf {
        self.folder.path().join("password")
    }
}

async fn manage(
    server: &Server,
    cluster: &Arc<SharedIndex>,
    registry: &str,
    password: &Path,
) -> (ManagedSecrets, DropGuard) {
    let excluded = NamespacePattern::parse("kube-*").unwrap().into_owned();
    let login = pull_login(
        LoginOwner::Backup(BackupName::DEFAULT),
        registry,
        "acme",
        password,
    );
    let excluded: ExcludedNamespaces = [excluded].into_iter().collect();
    let policies = cluster.read(|index| index.policies().clone());
    let setup = Setup {
        excluded_namespaces: excluded.with_policies(policies),
        ..setup(cluster, vec![login]).await
    };
    start(setup, server)
}

fn pull_login(owner: LoginOwner, registry: &str, path: &str, password: &Path) -> PullLogin {
    let credentials = Credentials::anonymous();
    PullLogin {
        origin: format!("the {owner}"),
        owner,
        registry: registry.to_owned(),
        path: path.to_owned(),
        former_paths: Vec::new(),
        credentials: credentials.with_login_file(registry, "robot", password.to_owned()),
    }
}

async fn setup(cluster: &Arc<SharedIndex>, logins: Vec<PullLogin>) -> Setup {
    let logins = PullLogins::new(logins).unwrap();
    Setup {
        name: NAME.to_owned(),
        former_names: Vec::new(),
        logins: ReadLogins::read(logins).await.unwrap(),
        followed: None,
        excluded_namespaces: ExcludedNamespaces::default(),
        cluster: Arc::clone(cluster),
        replicas: Replicas::alone(),
        events: Events::none(),
        metrics: SecretMetrics::register(&mut Metrics::new()),
    }
}

fn start(setup: Setup, server: &Server) -> (ManagedSecrets, DropGuard) {
    let stop = CancellationToken::new();
    let secrets = ManagedSecrets::start(setup, server.client(), stop.clone());
    (secrets, stop.drop_guard())
}

/// Lets everything come to rest that needs no more than this time.
async fn pass(time: Duration) {
    tokio::time::sleep(time).await;
}

fn secret(kind: &str, label: &Value) -> Value {
    json!({ "metadata": { "labels": { LABEL: label } }, "type": kind, "data": {} })
}

fn ours() -> Value {
    secret(TYPE, &json!(MANAGER))
}

/// One of ours with the logins of a user for these registries, as a sidecar writes them.
fn ours_for(registries: &[&str], user: &str) -> Value {
    let login =
        json!({ "username": user, "password": "p", "auth": STANDARD.encode(format!("{user}:p")) });
    let logins = registries
        .iter()
        .map(|registry| ((*registry).to_owned(), login.clone()));
    let config = json!({ "auths": logins.collect::<serde_json::Map<_, _>>() });
    let mut secret = ours();
    secret["data"][KEY] = json!(STANDARD.encode(config.to_string()));
    secret
}

#[tokio::test(start_paused = true)]
async fn a_requested_secret_is_created_once() {
    let world = World::start().await;
    let answers = join_all((0..20).map(|_| world.ensure("shop"))).await;
    assert!(
        answers.iter().all(|answer| answer == "ready"),
        "{answers:?}"
    );
    assert_eq!(world.server.login("shop").unwrap(), "robot:first");
    let stored = world.server.get("shop").unwrap();
    assert_eq!(stored["type"], TYPE);
    assert_eq!(stored["metadata"]["labels"], json!({ LABEL: MANAGER }));
    pass(Duration::from_secs(10)).await;
    assert_eq!(world.ensure("shop").await, "ready");
    assert_eq!(world.server.writes(), ["POST shop"]);
}

/// Before anything was told, and before the watch knows of what was made by others.
#[tokio::test(start_paused = true)]
async fn requests_do_not_wait_for_the_watches() {
    let world = World::start_before_the_lists().await;
    world.server.put("shop", ours());
    assert_eq!(world.ensure("shop").await, "ready");
    assert_eq!(world.server.login("shop").unwrap(), "robot:first");
    world.server.add_namespace("new");
    assert_eq!(world.ensure("new").await, "ready");
    assert!(world.server.get("new").is_some());
}

#[tokio::test(start_paused = true)]
async fn a_named_secret_is_created_and_repaired() {
    let world = World::start().await;
    world.report_pod("shop", true);
    let is_right = |server: &Server| server.login("shop").as_deref() == Some("robot:first");
    world.server.until("made", is_right).await;
    world.server.delete("shop");
    world.server.until("made anew", is_right).await;
    world.server.put("shop", ours());
    world.server.until("mended", is_right).await;
    let mut odd = world.server.get("shop").unwrap();
    odd["data"][".dockerconfigjson"] = json!("e30=");
    world.server.put("shop", odd);
    world.server.until("mended again", is_right).await;
    pass(Duration::from_mins(30)).await;
    let expected = ["POST shop", "POST shop", "PATCH shop", "PATCH shop"];
    assert_eq!(world.server.writes(), expected);
}

/// After an upgrade, nothing is written.
#[tokio::test(start_paused = true)]
async fn a_secret_of_an_earlier_version_stays() {
    let world = World::start_with(Some("p")).await;
    world.server.put("shop", ours_for(&[REGISTRY], "robot"));
    world.report_lists();
    world.report_namespace("shop", false);
    world.report_pod("shop", true);
    pass(Duration::from_hours(3)).await;
    assert_eq!(world.ensure("shop").await, "ready");
    let writes = world.server.writes();
    assert!(writes.is_empty(), "{writes:?}");
}

#[rstest]
#[case::of_another_type(secret("Opaque", &json!(MANAGER)))]
#[case::immutable({ let mut secret = ours(); secret["immutable"] = json!(true); secret })]
#[tokio::test(start_paused = true)]
async fn a_secret_that_cannot_be_changed_is_replaced(#[case] there: Value) {
    let world = World::start().await;
    world.server.put("shop", there);
    let uid = world.server.get("shop").unwrap()["metadata"]["uid"].clone();
    assert_eq!(world.ensure("shop").await, "ready");
    assert_eq!(world.server.login("shop").unwrap(), "robot:first");
    assert_ne!(world.server.get("shop").unwrap()["metadata"]["uid"], uid);
}

#[rstest]
#[case::without_the_label(secret(TYPE, &Value::Null))]
#[case::of_another_manager(secret(TYPE, &json!("Helm")))]
#[tokio::test(start_paused = true)]
async fn a_foreign_secret_is_never_changed(#[case] there: Value) {
    let world = World::start().await;
    world.server.put("shop", there);
    let before = world.server.get("shop");
    world.report_pod("shop", true);
    pass(Duration::from_hours(3)).await;
    for mode in [Mode::Ensure, Mode::Peek] {
        let answer = world.request("shop", mode).await;
        assert!(answer.starts_with("image-mirror/failed:"), "{answer}");
        assert!(answer.contains("not managed"), "{answer}");
    }
    std::fs::write(world.password_file(), "second").unwrap();
    pass(Duration::from_mins(5)).await;
    assert_eq!(world.server.get("shop"), before);
    assert_eq!(world.server.writes(), [] as [&str; 0]);
    // Its owner takes it away.
    world.server.delete("shop");
    world
        .server
        .until("made", |server| server.login("shop").is_some())
        .await;
}

#[tokio::test(start_paused = true)]
async fn new_credentials_are_everywhere_within_a_minute() {
    let world = World::start().await;
    let namespaces: Vec<_> = (0..300).map(|number| format!("team-{number}")).collect();
    for namespace in &namespaces {
        world.server.add_namespace(namespace);
        world.report_namespace(namespace, false);
        world.report_pod(namespace, true);
    }
    let all = |login: &'static str| {
        let namespaces = namespaces.clone();
        move |server: &Server| {
            let mut logins = namespaces.iter().map(|namespace| server.login(namespace));
            logins.all(|found| found.as_deref() == Some(login))
        }
    };
    world.server.until("all are made", all("robot:first")).await;
    world.server.fail(Fault::Slow(Duration::from_millis(20)));
    // A file that is gone for a moment changes nothing.
    std::fs::remove_file(world.password_file()).unwrap();
    pass(Duration::from_secs(20)).await;
    std::fs::write(world.password_file(), "second\n").unwrap();
    let start = Instant::now();
    world
        .server
        .until("all are rotated", all("robot:second"))
        .await;
    let took = start.elapsed();
    assert!(took < Duration::from_mins(1), "{took:?}");
    pass(Duration::from_mins(1)).await;
    assert_eq!(world.server.writes().len(), 600);
    assert_eq!(world.ensure("team-7").await, "ready");
}

#[tokio::test(start_paused = true)]
async fn an_unused_secret_is_removed_after_an_hour() {
    let world = World::start().await;
    world.report_pod("shop", true);
    world
        .server
        .until("made", |server| server.get("shop").is_some())
        .await;
    pass(Duration::from_hours(2)).await;
    world.report_pod("shop", false);
    pass(Duration::from_mins(59)).await;
    // A Pod for a moment, and the time begins anew.
    world.report_pod("shop", true);
    pass(Duration::from_secs(2)).await;
    world.report_pod("shop", false);
    world.goes_after_an_hour().await;
    pass(Duration::from_mins(30)).await;
    assert_eq!(world.server.writes(), ["POST shop", "DELETE shop"]);
    assert_eq!(world.ensure("shop").await, "ready");
    assert!(world.server.get("shop").is_some());
}

/// Whoever was asked: it need not be who removes.
#[tokio::test(start_paused = true)]
async fn a_secret_that_was_only_requested_is_removed_after_an_hour() {
    let world = World::start().await;
    let (_other, _guard) = world.join(REGISTRY, "first").await;
    pass(Duration::from_secs(1)).await;
    assert_eq!(world.ensure("shop").await, "ready");
    world.goes_after_an_hour().await;
}

/// Who does not know all workloads cannot know that none of them names it, nor since when.
#[tokio::test(start_paused = true)]
async fn nothing_is_removed_before_all_workloads_are_known_for_an_hour() {
    let world = World::start_before_the_lists().await;
    world.server.put("shop", ours());
    world.server.put("kube-system", ours());
    pass(Duration::from_hours(5)).await;
    assert!(world.server.get("shop").is_some());
    world.report_lists();
    world.goes_after_an_hour().await;
    pass(Duration::from_hours(5)).await;
    // Excluded namespaces are left alone.
    assert_eq!(world.server.get("kube-system").unwrap()["data"], json!({}));
}

/// What a round decided may be wrong by the time of the deletion.
#[tokio::test(start_paused = true)]
async fn a_secret_that_is_named_again_is_not_removed() {
    let world = World::start_before_the_lists().await;
    world.server.put("shop", ours());
    pass(Duration::from_hours(2)).await;
    let applier = &world.secrets.0.applier;
    let shop: Arc<str> = "shop".into();
    let an_hour_ago = Instant::now() - Duration::from_hours(1);
    applier
        .known()
        .cache
        .record_needs(&BTreeSet::new(), an_hour_ago);
    applier.remove(&shop).await.unwrap();
    assert!(world.server.get("shop").is_some(), "not all is known");
    world.report_lists();
    world.report_namespace("shop", false);
    world.report_pod("shop", true);
    applier.remove(&shop).await.unwrap();
    assert!(world.server.get("shop").is_some(), "a Pod names it");
    world.report_pod("shop", false);
    applier.remove(&shop).await.unwrap();
    assert_eq!(world.server.get("shop"), None);
}

#[tokio::test(start_paused = true)]
async fn a_request_during_the_removal_gets_a_new_secret() {
    let world = World::start().await;
    world.report_pod("shop", true);
    world
        .server
        .until("made", |server| server.get("shop").is_some())
        .await;
    world.report_pod("shop", false);
    pass(Duration::from_secs(3599)).await;
    world.server.fail(Fault::Slow(Duration::from_millis(150)));
    let removing = async {
        while !world.secrets.0.jobs().is_removing(&"shop".into()) {
            pass(Duration::from_millis(10)).await;
        }
    };
    timeout(Duration::from_secs(5), removing).await.unwrap();
    assert_eq!(world.ensure("shop").await, "ready");
    assert!(world.server.get("shop").is_some());
    assert_eq!(
        world.server.writes(),
        ["POST shop", "DELETE shop", "POST shop"]
    );
}

#[tokio::test(start_paused = true)]
async fn absent_and_terminating_namespaces_get_a_clear_error() {
    let world = World::start().await;
    for mode in [Mode::Ensure, Mode::Peek] {
        let answer = world.request("nowhere", mode).await;
        assert_eq!(
            answer,
            "image-mirror/failed: namespace nowhere does not exist"
        );
    }
    assert_eq!(world.ensure("shop").await, "ready");
    world.server.terminate("shop");
    world.report_namespace("shop", true);
    for mode in [Mode::Ensure, Mode::Peek] {
        let answer = world.request("shop", mode).await;
        assert_eq!(
            answer,
            "image-mirror/failed: namespace shop is being deleted"
        );
    }
    // Nothing more is tried there.
    let before = world.server.writes();
    std::fs::write(world.password_file(), "second").unwrap();
    pass(Duration::from_hours(3)).await;
    assert_eq!(world.server.writes(), before);
}

#[tokio::test(start_paused = true)]
async fn a_recreated_namespace_works_before_the_watch_delivers_it() {
    let world = World::start().await;
    world.report_namespace("shop", true);
    assert_eq!(world.ensure("shop").await, "ready");
    assert!(world.server.get("shop").is_some());
}

#[tokio::test(start_paused = true)]
async fn a_dry_run_has_the_same_result_and_stores_nothing() {
    let world = World::start().await;
    assert_eq!(world.request("shop", Mode::Peek).await, "ready");
    assert_eq!(world.server.get("shop"), None);
    assert_eq!(world.server.writes(), ["POST shop dry"]);
    world.server.put("shop", ours());
    let before = world.server.get("shop");
    assert_eq!(world.request("shop", Mode::Peek).await, "ready");
    assert_eq!(world.server.get("shop"), before);
}

#[rstest]
#[case::a_server_error(Fault::Status(500), "image-mirror/unavailable:")]
#[case::no_answer(Fault::Hang, "image-mirror/pending:")]
#[tokio::test(start_paused = true)]
async fn without_the_api_server_only_known_secrets_are_ready(
    #[case] fault: Fault,
    #[case] answer: &str,
) {
    let world = World::start().await;
    assert_eq!(world.ensure("shop").await, "ready");
    world.server.add_namespace("other");
    world.server.fail(fault);
    assert_eq!(world.ensure("shop").await, "ready");
    let found = world.ensure("other").await;
    assert!(found.starts_with(answer), "{found}");
    world.server.fail(None);
    pass(Duration::from_secs(15)).await;
    assert_eq!(world.ensure("other").await, "ready");
}

/// The answer cannot wait, but the work goes on.
#[tokio::test(start_paused = true)]
async fn a_slow_api_server_gets_one_request() {
    let world = World::start().await;
    pass(Duration::from_secs(1)).await;
    world.server.fail(Fault::Slow(Duration::from_secs(2)));
    for _ in 0..3 {
        let answer = world.ensure("shop").await;
        assert!(answer.starts_with("image-mirror/pending:"), "{answer}");
    }
    pass(Duration::from_secs(2)).await;
    assert_eq!(world.ensure("shop").await, "ready");
    assert_eq!(world.server.writes(), ["POST shop"]);
}

#[tokio::test(start_paused = true)]
async fn failures_are_retried_with_backoff() {
    let world = World::start().await;
    pass(Duration::from_secs(1)).await;
    world.server.terminate("shop");
    world.report_pod("shop", true);
    pass(Duration::from_hours(1)).await;
    let tries = world.server.writes().len();
    assert!((10..40).contains(&tries), "{tries}");
    assert_eq!(world.secrets.0.jobs().counts(), (0, 1));
    world.report_pod("shop", false);
    pass(Duration::from_mins(10)).await;
    assert_eq!(world.secrets.0.jobs().counts(), (0, 0), "forgotten");
}

#[tokio::test(start_paused = true)]
async fn requests_for_invented_namespaces_leave_no_state() {
    let world = World::start().await;
    pass(Duration::from_secs(1)).await;
    let names: Vec<_> = (0..1000)
        .map(|number| format!("invented-{number}"))
        .collect();
    let answers = join_all(names.iter().map(|name| world.ensure(name))).await;
    assert!(
        world.server.writes().len() <= 40,
        "{}",
        world.server.writes().len()
    );
    let refused = |answer: &String| {
        answer.starts_with("image-mirror/pending:") || answer.ends_with("does not exist")
    };
    assert!(answers.iter().all(refused), "{answers:?}");
    // Those that exist are served meanwhile.
    assert_eq!(world.ensure("shop").await, "ready");
    pass(Duration::from_secs(5)).await;
    let controller = &world.secrets.0;
    assert_eq!(controller.applier.known().cache.namespaces().count(), 1);
    assert_eq!(controller.jobs().counts(), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn credentials_for_another_registry_are_a_usage_error() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("config.json");
    std::fs::write(&file, r#"{"auths":{"other.example":{"auth":"dTpw"}}}"#).unwrap();
    let source = CredentialSource {
        credentials: Credentials::anonymous()
            .with_docker_config(mirror_copy::DockerConfig::File(file.clone())),
        registry: "registry.example".to_owned(),
        owner: LoginOwner::Backup(BackupName::DEFAULT),
        origin: "--pull-docker-config".to_owned(),
    };
    let error = source.read().await.unwrap_err();
    assert!(matches!(error, SourceError::Absent { .. }), "{error}");
    std::fs::write(&file, r#"{"auths":{"registry.example":{"auth":"dTpw"}}}"#).unwrap();
    source.read().await.unwrap();
}

/// Two sidecars that own everything, with logins that differ.
#[tokio::test(start_paused = true)]
async fn a_conflict_costs_few_writes_and_leaves_the_secret_usable() {
    let world = World::start().await;
    let (other, guard) = world.join(REGISTRY, "other").await;
    pass(Duration::from_secs(1)).await;
    world.report_pod("shop", true);
    for _ in 0..3600 {
        pass(Duration::from_secs(1)).await;
        assert_eq!(world.ensure("shop").await, "ready");
        other.request("shop", Mode::Ensure).await.unwrap();
    }
    let writes = world.server.writes().len();
    assert!((10..60).contains(&writes), "{writes}");
    // The other one gives in.
    drop((other, guard));
    pass(Duration::from_mins(20)).await;
    assert_eq!(world.server.login("shop").unwrap(), "robot:first");
    let writes = world.server.writes().len();
    std::fs::write(world.password_file(), "second").unwrap();
    pass(Duration::from_secs(16)).await;
    assert_eq!(world.server.login("shop").unwrap(), "robot:second");
    assert_eq!(world.server.writes().len(), writes + 1);
    pass(Duration::from_hours(3)).await;
    assert!(
        world.secrets.0.applier.known().conflicts.is_empty(),
        "forgotten"
    );
}

#[tokio::test(start_paused = true)]
async fn repeated_deletion_is_a_conflict() {
    let world = World::start().await;
    world.report_pod("shop", true);
    for _ in 0..3600 {
        pass(Duration::from_secs(1)).await;
        world.server.delete("shop");
    }
    let writes = world.server.writes().len();
    assert!((10..40).contains(&writes), "{writes}");
    // Who needs it now gets it.
    assert_eq!(world.ensure("shop").await, "ready");
    assert!(world.server.login("shop").is_some());
}

/// Passwords that follow each other quickly are nobody's conflict, nor are namespaces.
#[tokio::test(start_paused = true)]
async fn new_credentials_are_written_immediately_during_a_conflict() {
    let world = World::start().await;
    world.report_pod("shop", true);
    for round in 0..20 {
        let password = format!("password-{round}");
        std::fs::write(world.password_file(), &password).unwrap();
        pass(Duration::from_secs(16)).await;
        let expected = format!("robot:{password}");
        assert_eq!(world.server.login("shop").unwrap(), expected);
    }
    for _ in 0..20 {
        world.report_namespace("shop", true);
        pass(Duration::from_secs(1)).await;
        world.server.delete("shop");
        pass(Duration::from_secs(1)).await;
        world.report_namespace("shop", false);
        pass(Duration::from_secs(1)).await;
        assert!(world.server.login("shop").is_some());
    }
}

/// Two installations, or one that moves to another backup.
#[tokio::test(start_paused = true)]
async fn logins_for_other_registries_stay() {
    let world = World::start().await;
    world.server.put("shop", ours_for(&["old.example"], "old"));
    let (_other, _guard) = world.join("other.example", "theirs").await;
    world.report_pod("shop", true);
    pass(Duration::from_mins(5)).await;
    let logins = || {
        ["old.example", "other.example", REGISTRY]
            .map(|registry| world.server.login_for("shop", registry).unwrap_or_default())
    };
    assert_eq!(logins(), ["old:p", "robot:theirs", "robot:first"]);
    std::fs::write(world.password_file(), "second").unwrap();
    pass(Duration::from_mins(1)).await;
    assert_eq!(logins(), ["old:p", "robot:theirs", "robot:second"]);
    let mut immutable = world.server.get("shop").unwrap();
    immutable["immutable"] = json!(true);
    world.server.put("shop", immutable);
    std::fs::write(world.password_file(), "third").unwrap();
    pass(Duration::from_mins(1)).await;
    assert_eq!(logins(), ["old:p", "robot:theirs", "robot:third"]);
    assert_eq!(world.ensure("shop").await, "ready");
    let writes = world.server.writes();
    let writes = writes.iter().filter(|write| !write.starts_with("GET"));
    // One of each sidecar, or two of the slower one; one for the second password; two to replace what is immutable.
    let writes = writes.count();
    assert!((5..=6).contains(&writes), "{writes}");
}

#[rstest]
#[case::a_part_of_the_registry("registry.example/acme")]
#[case::a_pattern("*.example")]
#[case::with_a_scheme("https://registry.example")]
#[case::another_name_of_docker_hub("index.docker.io")]
#[tokio::test(start_paused = true)]
async fn entries_that_could_hide_the_login_are_removed(#[case] key: &str) {
    let world = World::start().await;
    world.report_pod("shop", true);
    let odd = ours_for(&[REGISTRY, key, "old.example"], "old");
    world.server.put("shop", odd);
    pass(Duration::from_secs(5)).await;
    assert_eq!(world.server.login("shop").unwrap(), "robot:first");
    assert!(world.server.login_for("shop", "old.example").is_some());
    assert_eq!(world.server.login_for("shop", key), None);
}

#[tokio::test(start_paused = true)]
async fn the_number_of_kept_logins_is_bounded() {
    let world = World::start().await;
    let many: Vec<_> = (0..20)
        .map(|number| format!("old-{number}.example"))
        .collect();
    let many: Vec<_> = many.iter().map(String::as_str).collect();
    world.server.put("shop", ours_for(&many, "old"));
    assert_eq!(world.ensure("shop").await, "ready");
    assert_eq!(world.server.login("shop").unwrap(), "robot:first");
    let stay = many
        .iter()
        .filter(|registry| world.server.login_for("shop", registry).is_some());
    assert_eq!(stay.count(), 4);
    pass(Duration::from_mins(5)).await;
    assert_eq!(world.ensure("shop").await, "ready");
    let writes = world.server.writes();
    let patches = writes.iter().filter(|write| write.starts_with("PATCH"));
    assert_eq!(patches.count(), 1, "{writes:?}");
}

#[tokio::test(start_paused = true)]
async fn without_credentials_existing_secrets_are_used() {
    let world = World::start_with(None).await;
    world.server.add_namespace("other");
    world.server.put("shop", ours_for(&[REGISTRY], "old"));
    world
        .server
        .put("broken", ours_for(&["old.example"], "old"));
    world.server.put("taken", secret(TYPE, &Value::Null));
    world.report_lists();
    for namespace in ["shop", "other"] {
        world.report_namespace(namespace, false);
        world.report_pod(namespace, true);
    }
    pass(Duration::from_mins(5)).await;
    for mode in [Mode::Ensure, Mode::Peek] {
        assert_eq!(world.request("shop", mode).await, "ready");
        let answer = world.request("taken", mode).await;
        assert!(answer.starts_with("image-mirror/failed:"), "{answer}");
        for namespace in ["other", "broken"] {
            assert_eq!(
                world.request(namespace, mode).await,
                "image-mirror/unavailable: cannot read the credentials for pulling; see the log of mirror-sidecar"
            );
        }
    }
    let writes = world.server.writes();
    assert!(writes.is_empty(), "{writes:?}");
    std::fs::write(world.password_file(), "first").unwrap();
    pass(Duration::from_secs(17)).await;
    for namespace in ["shop", "other"] {
        assert_eq!(world.server.login(namespace).unwrap(), "robot:first");
    }
}

/// Publishes a policy that excludes `team-*` or nothing.
fn publish_exclusion(world: &World, excluded: &[&str]) {
    let policies = world.cluster.read(|index| index.policies().clone());
    let settings = json!({ "sidecar": "a.b:1", "excludedNamespaces": excluded });
    policies.publish(vec![Arc::new(Policy::of_settings(&settings).unwrap())]);
}

#[tokio::test(start_paused = true)]
async fn in_excluded_namespaces_only_the_login_is_updated() {
    let world = World::start().await;
    publish_exclusion(&world, &[]);
    world.report_pod("shop", true);
    pass(Duration::from_secs(5)).await;
    world.server.put("shop", ours_for(&["old.example"], "old"));
    pass(Duration::from_secs(5)).await;
    publish_exclusion(&world, &["shop"]);
    std::fs::write(world.password_file(), "second").unwrap();
    pass(Duration::from_hours(3)).await;
    let login = |registry| world.server.login_for("shop", registry).unwrap();
    assert_eq!(login(REGISTRY), "robot:second");
    assert_eq!(login("old.example"), "old:p");
    let before = world.server.writes();
    // Another installation's, which never held the login.
    world.server.put("shop", ours_for(&["old.example"], "old"));
    pass(Duration::from_mins(5)).await;
    world.server.put("shop", secret("Opaque", &json!(MANAGER)));
    pass(Duration::from_mins(5)).await;
    world.server.delete("shop");
    pass(Duration::from_hours(3)).await;
    assert_eq!(world.server.get("shop"), None);
    assert_eq!(world.server.writes(), before);
}

/// A tenant may store anything under the name of the pull Secret, also what a Secret held before it was excluded.
#[tokio::test(start_paused = true)]
async fn a_secret_that_a_tenant_stores_in_an_excluded_namespace_gets_no_login() {
    let world = World::start().await;
    world.server.add_namespace("kube-system");
    for user in ["old", "robot"] {
        let planted = ours_for(&[REGISTRY, "old.example"], user);
        world.server.put("kube-system", planted.clone());
        world.report_pod("kube-system", true);
        for password in ["p", "second"] {
            std::fs::write(world.password_file(), password).unwrap();
            pass(Duration::from_mins(10)).await;
            let login = world.server.login_for("kube-system", REGISTRY);
            assert_eq!(login, Some(format!("{user}:p")));
        }
    }
    assert!(world.server.writes().is_empty());
}

/// A new process cannot know who wrote a login.
#[tokio::test(start_paused = true)]
async fn after_a_restart_no_login_is_renewed_where_no_rule_allows_it() {
    let world = World::start_before_the_lists().await;
    let settings = json!({ "sidecar": "a.b:1", "rules": [{ "action": "keep" }] });
    let policies = world.cluster.read(|index| index.policies().clone());
    policies.publish(vec![Arc::new(Policy::of_settings(&settings).unwrap())]);
    std::fs::write(world.password_file(), "p").unwrap();
    world.server.put("shop", ours_for(&[REGISTRY], "robot"));
    world.report_lists();
    world.report_namespace("shop", false);
    world.report_pod("shop", true);
    pass(Duration::from_mins(5)).await;
    std::fs::write(world.password_file(), "second").unwrap();
    pass(Duration::from_mins(5)).await;
    assert_eq!(world.server.login("shop").unwrap(), "robot:p");
    assert!(world.server.writes().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_namespace_whose_images_are_all_kept_gets_no_secret() {
    let world = World::start().await;
    let policies = world.cluster.read(|index| index.policies().clone());
    let publish = |action| {
        let settings = json!({ "sidecar": "a.b:1", "rules": [{ "action": action }] });
        policies.publish(vec![Arc::new(Policy::of_settings(&settings).unwrap())]);
    };
    publish("keep");
    world.report_pod("shop", true);
    pass(Duration::from_mins(5)).await;
    for mode in [Mode::Ensure, Mode::Peek] {
        let refusal = world.request("shop", mode).await;
        assert!(
            refusal.contains("no policy mirrors images of namespace shop"),
            "{refusal}"
        );
    }
    assert!(world.server.writes().is_empty());

    publish("mirror");
    assert_eq!(world.ensure("shop").await, "ready");
    // Pods may use copies from before.
    publish("keep");
    assert_eq!(world.ensure("shop").await, "ready");
    std::fs::write(world.password_file(), "second").unwrap();
    pass(Duration::from_mins(5)).await;
    assert_eq!(
        world.server.login_for("shop", REGISTRY).unwrap(),
        "robot:second"
    );
    world.report_pod("shop", false);
    pass(Duration::from_hours(2)).await;
    assert_eq!(world.server.get("shop"), None);
}
