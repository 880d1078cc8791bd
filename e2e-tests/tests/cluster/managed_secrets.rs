//! The pull Secrets that the sidecar makes with its own rights. Each test is alone with an API server: two sidecars
//! that make Secrets of one name with different credentials would quarrel.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use e2e_tests::cluster::{self, Account, Cluster, FailurePolicy, Namespace, Rights, Webhook};
use k8s_openapi::api::core::v1;
use kube::Api;
use kube::api::{DeleteParams, ListParams};
use reqwest::Method;
use serde_json::{Value, json};
use tempfile::TempDir;
use testkit::blocking;
use testkit::registry::RegistryClient;
use testkit::sidecar::SidecarBuilder;

use crate::manifests::{Kind, spec_of};
use crate::rights::events;
use crate::stage::PULL_SECRET;
use crate::support::{self, REPOSITORY, World};

const LABEL: &str = "app.kubernetes.io/managed-by";
/// What may take this long on a busy machine takes milliseconds.
pub const SOON: Duration = Duration::from_secs(30);
/// What is promised for new credentials.
pub const ROTATED_WITHIN: Duration = Duration::from_mins(1);

/// A sidecar that works with a cluster, with the rights that are published.
struct Managed {
    world: World,
    account: Account,
    folder: TempDir,
}

impl Managed {
    fn start(cluster: &Cluster) -> Self {
        Self::with(cluster, with_password)
    }

    /// With an account that has other rights.
    fn of(account: Account) -> Self {
        Self::with_account(account, with_password)
    }

    /// With other credentials, whose files are in a folder.
    fn with(
        cluster: &Cluster,
        credentials: impl FnOnce(SidecarBuilder, &Path) -> SidecarBuilder,
    ) -> Self {
        let home = cluster.namespace("image-mirror").unwrap();
        let account = cluster.sidecar_account(&home, "mirror-sidecar").unwrap();
        Self::with_account(account, credentials)
    }

    fn with_account(
        account: Account,
        credentials: impl FnOnce(SidecarBuilder, &Path) -> SidecarBuilder,
    ) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let world = World::with(|sidecar| {
            let sidecar = sidecar
                .argument("--kubernetes=on")
                .argument("--readmit=off")
                .environment("KUBECONFIG", account.kubeconfig());
            credentials(sidecar, folder.path())
        });
        Self {
            world,
            account,
            folder,
        }
    }

    fn set_password(&self, password: &str) {
        fs::write(self.folder.path().join("password"), password).unwrap();
    }

    /// What the facade says to the policy: the name of the Secret, or the refusal.
    fn ask(&self, query: &str) -> String {
        let sidecar = &self.world.sidecar;
        let credential = sidecar.facade_credential().clone();
        let ca = Some(sidecar.tls().ca_pem());
        let client = RegistryClient::new(&sidecar.facade(), Some(credential), ca);
        let path = format!("/v2/{query}/manifests/latest");
        let answer: Value = blocking::run(async {
            let response = client.request(Method::GET, &path).send().await.unwrap();
            serde_json::from_slice(&response.bytes().await.unwrap()).unwrap()
        });
        let secret = answer["annotations"]["image-mirror.dev/secret"].as_str();
        let refusal = answer["errors"][0]["message"].as_str();
        secret.or(refusal).unwrap().to_owned()
    }

    /// A Deployment that the policy rewrote in former times.
    fn rewritten(&self) -> Value {
        let image = format!(
            "{}/{REPOSITORY}/docker.io-library-nginx:1",
            self.world.backup.address()
        );
        let spec = json!({
            "containers": [{ "name": "app", "image": image }],
            "imagePullSecrets": [{ "name": PULL_SECRET }],
        });
        Kind::Deployment.manifest("web", spec, "batch/v1")
    }
}

fn with_password(sidecar: SidecarBuilder, folder: &Path) -> SidecarBuilder {
    let password = folder.join("password");
    fs::write(&password, "p4ss word").unwrap();
    sidecar
        .argument("--pull-username=pusher")
        .argument("--pull-password-file")
        .argument(password)
}

fn secret(data: &Value, labels: &Value) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": { "name": PULL_SECRET, "labels": labels },
        "type": "Opaque", "data": data,
    })
}

fn stored(namespace: &Namespace) -> Option<Value> {
    match namespace.get(&secret(&json!({}), &json!({}))) {
        Ok(secret) => Some(secret),
        Err(kube::Error::Api(status)) if status.code == 404 => None,
        Err(error) => panic!("{error}"),
    }
}

/// The docker configuration in the Secret, if it is one that kubelets read.
fn config(namespace: &Namespace) -> Option<Vec<u8>> {
    let secret = stored(namespace)?;
    if secret["type"] != "kubernetes.io/dockerconfigjson" {
        return None;
    }
    STANDARD
        .decode(secret["data"][".dockerconfigjson"].as_str()?)
        .ok()
}

fn password(namespace: &Namespace, registry: &str) -> Option<String> {
    password_in(namespace, PULL_SECRET, registry)
}

/// The password for a registry in the Secret of this name.
pub fn password_in(namespace: &Namespace, name: &str, registry: &str) -> Option<String> {
    let mut wanted = secret(&json!({}), &json!({}));
    wanted["metadata"]["name"] = json!(name);
    let secret = namespace.get(&wanted).ok()?;
    let config = STANDARD.decode(secret["data"][".dockerconfigjson"].as_str()?);
    let config: Value = serde_json::from_slice(&config.ok()?).ok()?;
    Some(config["auths"][registry]["password"].as_str()?.to_owned())
}

pub fn wait(what: &str, within: Duration, is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + within;
    while !is_so() {
        assert!(Instant::now() < deadline, "{what} did not happen in time");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Pulls an image with a second client, as a kubelet does with the Secret.
fn skopeo(image: &str, authfile: &Path, folder: &Path) -> bool {
    let output = Command::new("timeout")
        .args([
            "60",
            "skopeo",
            "copy",
            "--all",
            "--src-tls-verify=false",
            "--authfile",
        ])
        .arg(authfile)
        .arg(format!("docker://{image}"))
        .arg(format!("dir:{}", folder.display()))
        .output()
        .unwrap();
    output.status.success()
}

#[test]
fn what_is_admitted_pulls_with_the_secret_that_was_made_for_it() {
    let Some(cluster) = cluster::alone_and_audited() else {
        return;
    };
    let managed = Managed::start(&cluster);
    let world = &managed.world;
    let shop = cluster.namespace("shop").unwrap();
    let webhook = Webhook::builder(support::policy(&world.sidecar), world.settings());
    let webhook = webhook.failure_policy(FailurePolicy::Fail);
    let webhook = webhook.start(&shop, cluster.admin()).unwrap();
    let spec = json!({ "containers": [{ "name": "app", "image": "nginx:1.27" }] });
    let mut manifest = Kind::Deployment.manifest("web", spec, "batch/v1");
    let stock = world.stock(&mut manifest);
    shop.create(&manifest).unwrap();
    world.wait_until_copied(stock.keys());
    shop.delete(&manifest).unwrap();
    assert_eq!(stored(&shop), None, "nothing needed it so far");

    let secrets = json!([{ "name": PULL_SECRET }]);
    let dry = shop.dry_run().create(&manifest).unwrap();
    assert_eq!(spec_of(&dry)["imagePullSecrets"], secrets);
    assert_eq!(stored(&shop), None, "a dry run stores nothing");

    let admitted = shop.create(&manifest).unwrap();
    assert_eq!(spec_of(&admitted)["imagePullSecrets"], secrets);
    let folder = tempfile::tempdir().unwrap();
    let authfile = folder.path().join("auth.json");
    fs::write(&authfile, config(&shop).unwrap()).unwrap();
    let image = spec_of(&admitted)["containers"][0]["image"]
        .as_str()
        .unwrap();
    assert!(image.contains(REPOSITORY), "{image}");
    if Command::new("skopeo").arg("--version").output().is_ok() {
        assert!(skopeo(image, &authfile, &folder.path().join("image")));
        fs::write(&authfile, "{}").unwrap();
        assert!(!skopeo(image, &authfile, &folder.path().join("nothing")));
    }
    drop(webhook);
}

#[test]
fn it_is_made_where_a_workload_names_it_mended_and_rotated() {
    let Some(cluster) = cluster::alone_and_audited() else {
        return;
    };
    let shop = cluster.namespace("shop").unwrap();
    let managed = Managed::start(&cluster);
    let registry = managed.world.backup.address();
    let has = |expected: &'static str| {
        let (shop, registry) = (&shop, &registry);
        move || password(shop, registry).as_deref() == Some(expected)
    };
    shop.create(&managed.rewritten()).unwrap();
    wait("it is made", SOON, has("p4ss word"));
    let made = stored(&shop).unwrap();
    assert_eq!(made["metadata"]["labels"], json!({ LABEL: "image-mirror" }));

    shop.delete(&made).unwrap();
    wait("it is made again", SOON, has("p4ss word"));
    let data = json!({ "data": { ".dockerconfigjson": STANDARD.encode(r#"{"auths":{}}"#) } });
    shop.merge(&made, &data).unwrap();
    wait("it is mended", SOON, has("p4ss word"));
    shop.merge(&made, &json!({ "immutable": true })).unwrap();
    shop.merge(
        &made,
        &json!({ "metadata": { "annotations": { "kept": "yes" } } }),
    )
    .unwrap();

    managed.set_password("second");
    wait("it is rotated", ROTATED_WITHIN, has("second"));
    let rotated = stored(&shop).unwrap();
    assert_ne!(rotated["metadata"]["uid"], made["metadata"]["uid"]);
    managed.set_password("third");
    wait("it is rotated again", ROTATED_WITHIN, has("third"));
    let again = stored(&shop).unwrap();
    assert_eq!(again["metadata"]["uid"], rotated["metadata"]["uid"]);

    let (_, metrics) = managed.world.sidecar.admin_get("/metrics").unwrap();
    assert!(
        metrics.contains("image_mirror_pull_secrets 1\n"),
        "{metrics}"
    );
    for (result, count) in [
        ("created", 2),
        ("changed", 2),
        ("replaced", 1),
        ("failed", 0),
    ] {
        let line =
            format!("image_mirror_pull_secret_writes_total{{result=\"{result}\"}} {count}\n");
        assert!(metrics.contains(&line), "{line} is not in {metrics}");
    }
    let log = managed.world.sidecar.lines().join("\n");
    for password in ["p4ss word", "second", "third"] {
        assert!(!log.contains(&format!("{password}\"")), "{log}");
        assert!(
            !log.contains(&STANDARD.encode(format!("pusher:{password}"))),
            "{log}"
        );
    }
}

#[test]
fn namespaces_without_a_place_for_it_get_a_clear_answer() {
    let Some(cluster) = cluster::alone_and_audited() else {
        return;
    };
    let managed = Managed::start(&cluster);
    let taken = cluster.namespace("taken").unwrap();
    let foreign = secret(&json!({ "theirs": "YQ==" }), &json!({ "app": "theirs" }));
    let before = taken.create(&foreign).unwrap();
    taken.create(&managed.rewritten()).unwrap();
    let ending = cluster.namespace("ending").unwrap();
    assert_eq!(
        managed.ask(&format!("pull-secret/{}", ending.name())),
        PULL_SECRET
    );
    blocking::run(async {
        let api = Api::<v1::Namespace>::all(cluster.admin());
        api.delete(ending.name(), &DeleteParams::default()).await
    })
    .unwrap();
    let is_told = || managed.ask(&format!("pull-secret/{}", ending.name())) != PULL_SECRET;
    wait("the end of a namespace is told", SOON, is_told);
    for prefix in ["", "peek/"] {
        let ask = |namespace: &str| managed.ask(&format!("{prefix}pull-secret/{namespace}"));
        assert_eq!(
            ask("nowhere"),
            "image-mirror/failed: namespace nowhere does not exist"
        );
        let expected = format!(
            "image-mirror/failed: namespace {} is being deleted",
            ending.name()
        );
        assert_eq!(ask(ending.name()), expected);
        let answer = ask(taken.name());
        assert!(
            answer.starts_with("image-mirror/failed: the Secret"),
            "{answer}"
        );
        assert_eq!(
            ask("kube-system"),
            "image-mirror/failed: namespace kube-system is excluded"
        );
    }
    assert_eq!(stored(&taken).unwrap(), before);

    // A namespace that nobody can have told of yet, and one that was only looked at.
    let new = cluster.namespace("new").unwrap();
    assert_eq!(
        managed.ask(&format!("peek/pull-secret/{}", new.name())),
        PULL_SECRET
    );
    assert_eq!(stored(&new), None);
    assert_eq!(
        managed.ask(&format!("pull-secret/{}", new.name())),
        PULL_SECRET
    );
    assert!(password(&new, &managed.world.backup.address()).is_some());
}

/// Another process writes it: a program cannot be started while anybody has it open for writing, such as a child that
/// another test forks at that moment.
fn write_program(file: &Path, text: &str) {
    let script = r#"printf %s "$2" > "$1" && chmod 755 "$1""#;
    let mut command = Command::new("/bin/sh");
    command.args(["-c", script, "sh"]).arg(file).arg(text);
    assert!(command.status().unwrap().success());
}

#[test]
fn a_credential_helper_is_asked() {
    let Some(cluster) = cluster::alone_and_audited() else {
        return;
    };
    let shop = cluster.namespace("shop").unwrap();
    let managed = Managed::with(&cluster, |sidecar, folder| {
        let helper = folder.join("docker-credential-test");
        let answer = r#"{"ServerURL": "x", "Username": "AWS", "Secret": "t0ken"}"#;
        write_program(&helper, &format!("#!/bin/sh\necho '{answer}'\n"));
        let config = folder.join("config.json");
        fs::write(&config, r#"{"credsStore": "test"}"#).unwrap();
        let path = std::env::var("PATH").unwrap();
        sidecar
            .argument("--pull-docker-config")
            .argument(config)
            .environment("PATH", format!("{}:{path}", folder.display()))
    });
    // The start does not wait for a helper that takes its time.
    wait("the helper's answer", SOON, || {
        managed.ask(&format!("pull-secret/{}", shop.name())) == PULL_SECRET
    });
    let registry = managed.world.backup.address();
    assert_eq!(password(&shop, &registry).as_deref(), Some("t0ken"));
}

#[test]
fn its_account_sees_no_other_secret() {
    let Some(cluster) = cluster::alone_and_audited() else {
        return;
    };
    let shop = cluster.namespace("shop").unwrap();
    let mut other = secret(&json!({ "a": "YQ==" }), &json!({}));
    other["metadata"]["name"] = json!("theirs");
    shop.create(&other).unwrap();
    let managed = Managed::start(&cluster);
    shop.create(&managed.rewritten()).unwrap();
    wait("it is made", SOON, || stored(&shop).is_some());

    let account = shop.with(managed.account.client());
    for refused in [
        account.get(&other).map(drop),
        account.delete(&other),
        account.list("v1", "Secret").map(drop),
    ] {
        match refused {
            Err(kube::Error::Api(status)) => assert_eq!(status.code, 403),
            other => panic!("{other:?}"),
        }
    }
    let ours = blocking::run(async {
        let api = Api::<v1::Secret>::all(managed.account.client());
        let params = ListParams::default().fields(&format!("metadata.name={PULL_SECRET}"));
        api.list(&params).await
    });
    assert_eq!(ours.unwrap().items.len(), 1);

    let own: Vec<_> = cluster
        .requests()
        .into_iter()
        .filter(|request| request.user == managed.account.user() && request.resource == "secrets")
        .collect();
    let refused = own.iter().filter(|request| request.status == 403).count();
    assert_eq!(refused, 3, "only those above: {own:?}");
    let is_named = |uri: &str| uri.contains(&format!("metadata.name%3D{PULL_SECRET}"));
    let mut lists = own
        .iter()
        .filter(|request| request.verb == "list" && request.status == 200);
    assert!(lists.all(|request| request.namespace.is_empty() && is_named(&request.uri)));
}

#[test]
fn without_the_api_server_what_is_known_stays_true() {
    let Some(mut cluster) = cluster::own() else {
        return;
    };
    let (shop, other) = (
        cluster.namespace("shop").unwrap(),
        cluster.namespace("other").unwrap(),
    );
    let managed = Managed::start(&cluster);
    let ask = |namespace: &Namespace| managed.ask(&format!("pull-secret/{}", namespace.name()));
    assert_eq!(ask(&shop), PULL_SECRET);
    cluster.stop();
    assert_eq!(ask(&shop), PULL_SECRET);
    let answer = ask(&other);
    assert!(
        answer.starts_with("image-mirror/unavailable: cannot create"),
        "{answer}"
    );
    assert!(matches!(
        managed.world.sidecar.admin_get("/readyz"),
        Ok((200, _))
    ));
    let reports = |level: &str, words: &str| {
        let mut events = managed.world.sidecar.events();
        events.retain(|event| {
            event["level"] == level
                && event["message"]
                    .as_str()
                    .is_some_and(|it| it.contains(words))
        });
        events
    };
    wait("the outage is logged", SOON, || {
        !reports("WARN", "API server is unreachable").is_empty()
    });
    cluster.restart().unwrap();
    wait("the API server is found again", SOON, || {
        ask(&other) == PULL_SECRET
    });
    let warnings = reports("WARN", "");
    let of_outage = reports("WARN", "API server is unreachable");
    assert_eq!(warnings, of_outage, "nothing else is a warning");
    assert_eq!(of_outage.len(), 1, "{of_outage:?}");
    let server = of_outage[0]["server"].as_str().unwrap();
    assert!(server.contains(&cluster.address().to_string()), "{server}");
    assert_eq!(reports("INFO", "API server is reachable again").len(), 1);
    assert!(password(&other, &managed.world.backup.address()).is_some());
}

/// A quota is not the sidecar's fault; missing rights are, and another replica may have them.
#[test]
fn refusals_of_the_secret_are_told_apart_and_reported() {
    let Some(cluster) = cluster::alone_and_audited() else {
        return;
    };
    let managed = Managed::start(&cluster);
    let shop = cluster.namespace("shop").unwrap();
    let quota = json!({
        "apiVersion": "v1", "kind": "ResourceQuota", "metadata": { "name": "secrets" },
        "spec": { "hard": { "secrets": "0" } },
    });
    shop.create(&quota).unwrap();
    // The controller that keeps it does not run here.
    let status = json!({ "hard": { "secrets": "0" }, "used": { "secrets": "0" } });
    shop.merge_status(&quota, &status).unwrap();
    let mut probe = secret(&json!({}), &json!({}));
    probe["metadata"]["name"] = json!("probe");
    wait("the quota is enforced", SOON, || {
        match shop.create(&probe) {
            Ok(_) => shop.delete(&probe).is_err(),
            Err(_) => true,
        }
    });
    let answer = managed.ask(&format!("pull-secret/{}", shop.name()));
    assert!(
        answer.starts_with("image-mirror/failed:") && answer.contains("exceeded quota"),
        "{answer}"
    );
    wait("the Event", SOON, || {
        !events(&shop, "PullSecretRefused").is_empty()
    });
    let [event] = &events(&shop, "PullSecretRefused")[..] else {
        panic!("more than one Event");
    };
    assert_eq!(event["regarding"]["name"], PULL_SECRET);
    let note = event["note"].as_str().unwrap();
    assert!(note.contains("exceeded quota"), "{note}");

    let home = cluster.namespace("without-rights").unwrap();
    let mut rules = Rights::published().unwrap().everywhere;
    rules.retain(|rule| {
        let resources = rule.resources.iter().flatten();
        rule.verbs != ["create"] || !resources.into_iter().any(|name| name == "secrets")
    });
    let account = cluster.account(&home, "mirror-sidecar", &rules).unwrap();
    let powerless = Managed::of(account);
    let other = cluster.namespace("other").unwrap();
    let answer = powerless.ask(&format!("pull-secret/{}", other.name()));
    assert!(
        answer.starts_with("image-mirror/unavailable: mirror-sidecar may not create the Secret"),
        "{answer}"
    );
    assert!(events(&other, "PullSecretRefused").is_empty());
}
