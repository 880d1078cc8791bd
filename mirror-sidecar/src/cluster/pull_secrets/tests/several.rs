//! Several backups, whose logins the rules of a policy allow in some namespaces each.

use kube::runtime::watcher::Event;
use mirror_contract::{ImageRef, Place, PullSecretStatus, RewriteTarget};

use super::*;
use crate::cluster::index::tests::deployment;
use crate::cluster::policies::follow::{Filter, Followed};
use crate::cluster::policies::{Fallback, Policies};
use crate::cluster::workload::{Labels, NamespaceObject, Object};

const DEFAULT: &str = "registry.example";
const TEAM_A: &str = "registry.example/team/a";
const TEAM_B: &str = "b.example/team";
const HUB: &str = "hub.example/proxy";
/// Of a backup that the configuration has lost.
const TEAM_C: &str = "c.example/team";
const COPY_OF_A: &str = "registry.example/team/a/docker.io-library-nginx:1";

/// The backups of two teams beside the default one, a proxy cache, and a policy.
struct Teams {
    world: World,
    policies: Policies,
}

fn rules(team_a: &str) -> Value {
    json!({ "rules": [
        { "namespaces": ["team-a"], "action": "mirror", "backup": team_a },
        { "namespaces": ["team-b"], "images": ["quay.io/*"], "action": "mirror", "backup": "team-b" },
        { "namespaces": ["team-b"], "images": ["docker.io/*"], "action": "rewrite", "target": "hub.example/proxy/hub" },
        { "namespaces": ["team-b", "kept"], "action": "keep" },
        { "namespaces": ["public"], "action": "mirror", "backup": "public" },
    ] })
}

fn policy(mut settings: Value, selector: &Value) -> Arc<Policy> {
    settings["sidecar"] = json!("mirror-sidecar.svc:5000");
    let spec = json!({ "settings": settings, "namespaceSelector": selector });
    Arc::new(Policy::parse(&spec).unwrap())
}

impl Teams {
    async fn start() -> Self {
        let teams = Self::start_with(None, vec![policy(rules("team-a"), &Value::Null)]).await;
        teams.world.report_lists();
        for namespace in ["shop", "team-a", "team-b", "kept", "public"] {
            teams.world.server.add_namespace(namespace);
            teams.world.report_namespace(namespace, false);
        }
        teams
    }

    async fn start_with(followed: Option<Followed>, policies: Vec<Arc<Policy>>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let shared = Policies::default();
        shared.publish(policies);
        let excluded = ExcludedNamespaces::default().with_policies(shared.clone());
        let cluster = Arc::new(SharedIndex::new(Index::new(Rules {
            pull_secret: Some(NAME.to_owned()),
            excluded_namespaces: excluded.clone(),
            ..super::rules(Backup::new(REGISTRY, "acme", Naming::Flat).unwrap())
        })));
        let backup = |name| LoginOwner::Backup(BackupName::parse(name).unwrap());
        let target = RewriteTarget::parse(HUB).unwrap();
        let logins = [
            (backup("default"), REGISTRY, "acme", "default"),
            (backup("team-a"), REGISTRY, "team/a", "a"),
            (backup("team-b"), "b.example", "team", "b"),
            (LoginOwner::Target(target), "hub.example", "proxy", "hub"),
            (
                LoginOwner::Former(Box::new(backup("team-c"))),
                "c.example",
                "team",
                "c",
            ),
        ];
        let logins = logins.map(|(owner, registry, path, password)| {
            let file = folder.path().join(password);
            std::fs::write(&file, password).unwrap();
            pull_login(owner, registry, path, &file)
        });
        let setup = Setup {
            followed,
            excluded_namespaces: excluded,
            ..setup(&cluster, logins.into()).await
        };
        let server = Server::start();
        let (secrets, guard) = start(setup, &server);
        let world = World {
            server,
            cluster,
            secrets,
            folder,
            _guard: guard,
        };
        Self {
            world,
            policies: shared,
        }
    }

    /// An edit of the policy, after which everything is listed again.
    fn publish(&self, settings: Value) {
        self.policies.publish(vec![policy(settings, &Value::Null)]);
        for namespace in ["shop", "team-a", "team-b", "kept", "public"] {
            self.world.report_namespace(namespace, false);
        }
    }

    fn keys(&self, namespace: &str) -> Vec<String> {
        self.world.server.keys(namespace)
    }

    /// A workload with an image.
    fn report_use(&self, namespace: &str, image: &str, is_there: bool) {
        let mut user = deployment("user", &[image]);
        user.key.namespace = namespace.into();
        let change = if is_there { seen(user) } else { gone(user) };
        self.world.cluster.apply(change);
    }
}

#[tokio::test(start_paused = true)]
async fn every_namespace_gets_the_logins_of_its_rules() {
    let teams = Teams::start().await;
    let expected: [(&str, &[&str]); 3] = [
        ("shop", &[DEFAULT]),
        ("team-a", &[TEAM_A]),
        ("team-b", &[TEAM_B, HUB]),
    ];
    for (namespace, keys) in expected {
        teams.world.report_pod(namespace, true);
        assert_eq!(teams.world.ensure(namespace).await, "ready");
        assert_eq!(teams.keys(namespace), keys, "{namespace}");
    }
    for namespace in ["kept", "public"] {
        teams.world.report_pod(namespace, true);
    }
    pass(Duration::from_hours(2)).await;
    let writes = teams.world.server.writes();
    assert_eq!(writes, ["POST shop", "POST team-a", "POST team-b"]);
    assert_eq!(
        teams.world.ensure("kept").await,
        "image-mirror/failed: no policy mirrors images of namespace kept"
    );
    let secrets = PullSecrets {
        provision: Provision::Managed(teams.world.secrets.clone()),
        excluded_namespaces: ExcludedNamespaces::default(),
    };
    let status = secrets.request("public", Mode::Ensure).await.unwrap();
    assert_eq!(status, PullSecretStatus::NotNeeded);
}

#[tokio::test(start_paused = true)]
async fn images_without_a_login_name_no_secret() {
    let teams = Teams::start().await;
    let secrets = PullSecrets {
        provision: Provision::Managed(teams.world.secrets.clone()),
        excluded_namespaces: ExcludedNamespaces::default(),
    };
    let needs = |place: &Place<'_>, image: &str| {
        secrets.needs_secret(place, &ImageRef::parse(image).unwrap())
    };
    let backup = |name: &'static str| Place::Backup(BackupName::parse(name).unwrap());
    assert!(needs(&backup("default"), "nginx:1") && needs(&backup("team-b"), "nginx:1"));
    assert!(!needs(&backup("public"), "nginx:1"));
    assert!(needs(
        &Place::Target,
        "hub.example/proxy/hub/library/nginx:1"
    ));
    assert!(!needs(&Place::Target, "hub.example/other/nginx:1"));
}

#[tokio::test(start_paused = true)]
async fn another_rule_changes_the_logins() {
    let teams = Teams::start().await;
    teams.world.report_pod("team-a", true);
    pass(Duration::from_secs(1)).await;
    assert_eq!(teams.keys("team-a"), [TEAM_A]);
    teams.publish(rules("team-b"));
    pass(Duration::from_secs(1)).await;
    assert_eq!(teams.keys("team-a"), [TEAM_B, TEAM_A]);
    // Policy servers may follow the former rules for a while.
    pass(Duration::from_mins(9)).await;
    assert_eq!(teams.keys("team-a"), [TEAM_B, TEAM_A]);
    pass(Duration::from_mins(1)).await;
    assert_eq!(teams.keys("team-a"), [TEAM_B]);
    pass(Duration::from_hours(3)).await;
    let writes = teams.world.server.writes();
    // A login that stays is read first.
    let expected = ["POST team-a", "GET team-a", "PATCH team-a", "PATCH team-a"];
    assert_eq!(writes, expected);
}

#[tokio::test(start_paused = true)]
async fn copies_in_use_keep_their_login() {
    let teams = Teams::start().await;
    teams.world.report_pod("team-a", true);
    teams.report_use("team-a", COPY_OF_A, true);
    pass(Duration::from_secs(1)).await;
    teams.publish(json!({ "rules": [{ "action": "mirror", "backup": "team-b" }] }));
    pass(Duration::from_hours(2)).await;
    assert_eq!(teams.keys("team-a"), [TEAM_B, TEAM_A]);
    // Rotation ends the access of the namespace, which no rule allows any more.
    std::fs::write(teams.world.folder.path().join("a"), "new").unwrap();
    pass(Duration::from_mins(1)).await;
    let login = teams.world.server.login_for("team-a", TEAM_A);
    assert_eq!(login.as_deref(), Some("robot:a"));
    teams.report_use("team-a", COPY_OF_A, false);
    pass(Duration::from_mins(11)).await;
    assert_eq!(teams.keys("team-a"), [TEAM_B]);
}

#[tokio::test(start_paused = true)]
async fn the_login_of_a_removed_backup_stays_while_its_copies_are_in_use() {
    const COPY: &str = "c.example/team/docker.io-library-nginx:1";
    let teams = Teams::start().await;
    teams.world.report_pod("team-a", true);
    teams.report_use("team-a", COPY, true);
    pass(Duration::from_secs(1)).await;
    let stored = ours_for(&[TEAM_A, TEAM_C, "other.example"], "robot");
    teams.world.server.put("team-a", stored);
    // It is not written anywhere, whatever the rules say.
    teams.publish(json!({ "rules": [
        { "namespaces": ["team-a"], "action": "mirror", "backup": "team-a" },
        { "action": "mirror", "backup": "team-c" },
    ] }));
    teams.world.report_pod("shop", true);
    pass(Duration::from_hours(2)).await;
    let mut keys = teams.keys("team-a");
    keys.sort();
    assert_eq!(keys, [TEAM_C, "other.example", TEAM_A]);
    assert!(teams.world.server.get("shop").is_none());
    teams.report_use("team-a", COPY, false);
    pass(Duration::from_mins(11)).await;
    let mut keys = teams.keys("team-a");
    keys.sort();
    assert_eq!(keys, ["other.example", TEAM_A]);
}

/// A tenant may create Pods with any image, and store anything.
#[tokio::test(start_paused = true)]
async fn a_tenant_cannot_get_the_login_of_another() {
    let teams = Teams::start().await;
    teams.world.report_pod("team-b", true);
    teams.report_use("team-b", COPY_OF_A, true);
    pass(Duration::from_secs(1)).await;
    let planted = ours_for(&[TEAM_A, "other.example"], "planted");
    teams.world.server.put("team-b", planted);
    for password in ["new", "newer"] {
        std::fs::write(teams.world.folder.path().join("a"), password).unwrap();
        pass(Duration::from_mins(20)).await;
        teams.world.ensure("team-b").await;
    }
    let expected = [TEAM_B, HUB, "other.example", TEAM_A];
    assert_eq!(teams.keys("team-b"), expected);
    let login = teams.world.server.login_for("team-b", TEAM_A);
    assert_eq!(login.as_deref(), Some("planted:p"));
    teams.report_use("team-b", COPY_OF_A, false);
    pass(Duration::from_mins(11)).await;
    assert_eq!(teams.keys("team-b"), [TEAM_B, HUB, "other.example"]);
}

/// The rules may be gone for a moment only, or not parsed. Their absence must not give every namespace the default login.
#[tokio::test(start_paused = true)]
async fn without_valid_policies_logins_stay_as_they_are() {
    let teams = Teams::start().await;
    for namespace in ["shop", "team-a"] {
        teams.world.report_pod(namespace, true);
    }
    pass(Duration::from_secs(1)).await;
    let before = teams.world.server.writes();
    let fallback = Policy::of_flags(std::iter::empty(), &[], Fallback::CopyNothing).unwrap();
    for policies in [Vec::new(), vec![Arc::new(fallback)]] {
        teams.policies.publish(policies);
        for namespace in ["shop", "team-a", "kept"] {
            teams.world.report_namespace(namespace, false);
            teams.world.report_pod(namespace, true);
        }
        let answer = teams.world.ensure("kept").await;
        assert!(answer.starts_with("image-mirror/pending:"), "{answer}");
        pass(Duration::from_mins(30)).await;
        assert_eq!(teams.world.server.writes(), before);
    }
}

#[tokio::test(start_paused = true)]
async fn a_namespace_without_rules_loses_its_secret() {
    let teams = Teams::start().await;
    let mut user = pod("user", &["nginx:1"]);
    user.pull_secrets = vec![NAME.to_owned()];
    teams.world.cluster.apply(seen(user.clone()));
    pass(Duration::from_secs(1)).await;
    assert_eq!(teams.keys("shop"), [DEFAULT]);
    teams.publish(json!({ "rules": [{ "action": "keep" }] }));
    pass(Duration::from_mins(11)).await;
    // A Pod names it, and would have Events if it were missing.
    assert!(teams.world.server.get("shop").is_some() && teams.keys("shop").is_empty());
    teams.world.cluster.apply(gone(user));
    teams.world.goes_after_an_hour().await;
}

/// The source of one login must not block others.
#[tokio::test(start_paused = true)]
async fn a_login_that_cannot_be_read_does_not_block_others() {
    let teams = Teams::start().await;
    let file = teams.world.folder.path().join("b");
    std::fs::remove_file(&file).unwrap();
    std::fs::write(teams.world.folder.path().join("a"), "new").unwrap();
    for namespace in ["team-a", "team-b"] {
        teams.world.report_pod(namespace, true);
    }
    pass(Duration::from_mins(1)).await;
    let login = teams.world.server.login_for("team-a", TEAM_A);
    assert_eq!(login.as_deref(), Some("robot:new"));
    // The last one that could be read.
    let login = teams.world.server.login_for("team-b", TEAM_B);
    assert_eq!(login.as_deref(), Some("robot:b"));
    std::fs::write(&file, "again").unwrap();
    pass(Duration::from_mins(1)).await;
    let login = teams.world.server.login_for("team-b", TEAM_B);
    assert_eq!(login.as_deref(), Some("robot:again"));
}

fn labelled(name: &str, team: &str) -> Change {
    Change::Apply(Object::Namespace(NamespaceObject {
        name: name.into(),
        labels: Labels::from([("team".to_owned(), team.to_owned())]),
        created: None,
        is_terminating: false,
    }))
}

/// Labels decide, and the watch has not delivered them yet.
#[tokio::test(start_paused = true)]
async fn a_new_namespace_gets_no_login_before_its_labels_are_known() {
    let of_team = |team: &str| {
        let selector =
            json!({ "matchExpressions": [{ "key": "team", "operator": "In", "values": [team] }] });
        let backup = format!("team-{team}");
        policy(
            json!({ "rules": [{ "action": "mirror", "backup": backup }] }),
            &selector,
        )
    };
    let teams = Teams::start_with(None, vec![of_team("a"), of_team("b")]).await;
    teams.world.report_lists();
    teams.world.server.add_namespace("new");
    let refusal = teams.world.ensure("new").await;
    assert_eq!(
        refusal,
        "image-mirror/pending: the policies for namespace new are not known yet"
    );
    assert!(teams.world.server.writes().is_empty());
    let deliver = async {
        pass(Duration::from_millis(100)).await;
        teams.world.cluster.apply(labelled("new", "b"));
    };
    let (answer, ()) = tokio::join!(teams.world.ensure("new"), deliver);
    assert_eq!(answer, "ready");
    assert_eq!(teams.keys("new"), [TEAM_B]);
    // Other labels, other logins.
    teams.world.report_pod("new", true);
    teams.world.cluster.apply(labelled("new", "a"));
    pass(Duration::from_mins(11)).await;
    assert_eq!(teams.keys("new"), [TEAM_A]);
}

/// Until the policies are known, they may allow anything.
#[tokio::test(start_paused = true)]
async fn no_login_is_added_or_removed_before_the_policies_are_known() {
    let followed = Followed::new(Filter::default(), None, Policies::default());
    let teams = Teams::start_with(Some(followed.clone()), Vec::new()).await;
    teams.world.report_lists();
    teams.world.report_namespace("shop", false);
    teams.world.report_pod("shop", true);
    let refusal = teams.world.ensure("shop").await;
    assert!(refusal.starts_with("image-mirror/pending:"), "{refusal}");
    teams.world.server.put("shop", ours_for(&[TEAM_B], "robot"));
    pass(Duration::from_hours(2)).await;
    assert_eq!(teams.keys("shop"), [TEAM_B]);
    followed.apply(Event::Init);
    followed.apply(Event::InitDone);
    teams.publish(rules("team-a"));
    assert_eq!(teams.world.ensure("shop").await, "ready");
    teams.world.report_namespace("shop", true);
    teams.world.report_namespace("shop", false);
    pass(Duration::from_secs(1)).await;
    assert_eq!(teams.keys("shop"), [TEAM_B, DEFAULT]);
    pass(Duration::from_mins(11)).await;
    assert_eq!(teams.keys("shop"), [DEFAULT]);
}
