//! Two teams with backups of their own besides the default one, a proxy cache, and a registry whose images are kept.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use e2e_tests::cluster::{self, Cluster, GlobalObject, Namespace, Webhook};
use mirror_contract::{Backup, ImageRef, Naming};
use serde_json::{Value, json};
use tempfile::TempDir;
use testkit::blocking;
use testkit::fixtures::images_of;
use testkit::image::{Image, Pulled, pull_all};
use testkit::registry::{
    Credential, DebianOptions, DebianRegistry, Registry, RegistryClient, start_registry,
    start_registry_with,
};
use testkit::scripted::Fake;
use testkit::sidecar::Sidecar;

use crate::manifests::{Kind, spec_of};
use crate::stage::PULL_SECRET;
use crate::support;

/// The images of the upstream registry. Every request about one has the last part of its name in its path.
pub const IMAGES: [&str; 5] = [
    "shop/frontend",
    "a/billing",
    "b/payroll",
    "hub/redis",
    "preview/demo",
];
/// The image of the kept registry.
pub const KEPT: &str = "other/vault";

/// The address of the sidecar in the `ClusterAdmissionPolicy`.
const SIDECAR: &str = "mirror-sidecar.image-mirror.svc:5000";
/// How long anything may take on a busy machine.
const DEADLINE: Duration = Duration::from_mins(2);
const POLL_INTERVAL: Duration = Duration::from_millis(50);
/// The users of the registries. The name of each is in its password.
const USERS: [&str; 7] = [
    "shared-push",
    "shared-pull",
    "team-a-push",
    "team-a-pull",
    "team-b-push",
    "team-b-pull",
    "hub-pull",
];

pub struct Scene<'a> {
    // Dropped first: nobody may call the policy when its sidecar is gone.
    webhook: Webhook,
    sidecar: Sidecar,
    policy: Value,
    _objects: [GlobalObject; 2],
    pub upstream: Box<dyn Registry>,
    /// The default backup.
    pub shared: Box<dyn Registry>,
    pub of_a: Box<dyn Registry>,
    pub of_b: Box<dyn Registry>,
    /// The proxy cache.
    pub hub: DebianRegistry,
    pub kept: Fake,
    pub shop: Namespace,
    pub team_a: Namespace,
    pub team_b: Namespace,
    pub preview: Namespace,
    folder: TempDir,
    cluster: &'a Cluster,
}

fn login(user: &str) -> Credential {
    Credential::new(user, format!("password of {user}"))
}

fn start_backup(name: &str) -> Box<dyn Registry> {
    let registry = start_registry_with(Some(login(&format!("{name}-push")))).unwrap();
    let reader = login(&format!("{name}-pull"));
    registry.set_other_users(&[reader]).unwrap();
    registry
}

pub fn content(name: &str) -> Image {
    let mut known = IMAGES.iter().chain([&KEPT]);
    let seed = known.position(|known| *known == name).unwrap();
    Image::index(u64::try_from(seed).unwrap())
}

impl<'a> Scene<'a> {
    /// A scene whose policy keeps all images. `None` without Debian's registry: the embedded one is no cache.
    pub fn start(cluster: &'a Cluster) -> Option<Self> {
        if !DebianRegistry::is_installed() {
            let _ = writeln!(
                std::io::stderr(),
                "SKIPPED: docker-registry is not installed, so there is no proxy cache"
            );
            return None;
        }
        let kind = cluster.define_policies().unwrap();
        let settings = json!({ "sidecar": SIDECAR, "rules": [{ "action": "keep" }] });
        let policy = cluster::policy("image-mirror", &settings);
        let object = GlobalObject::create(cluster, policy.clone()).unwrap();
        let [home, shop, team_a, team_b, preview] = ["home", "shop", "team-a", "team-b", "preview"]
            .map(|name| cluster.namespace(name).unwrap());
        let account = cluster.sidecar_account(&home, "mirror-sidecar").unwrap();

        let upstream = start_registry().unwrap();
        for name in IMAGES {
            content(name).push(&upstream.client(), name, "1").unwrap();
        }
        let hub = DebianRegistry::start_with(DebianOptions {
            credential: Some(login("hub-pull")),
            cache_of: Some(format!("http://{}", upstream.address())),
            ..DebianOptions::default()
        });
        let hub = hub.unwrap();
        let kept = blocking::run(Fake::start());
        let to_kept = RegistryClient::new(&kept.host(), None, None);
        content(KEPT).push(&to_kept, KEPT, "1").unwrap();
        kept.clear_log();
        let [shared, of_a, of_b] = ["shared", "team-a", "team-b"].map(start_backup);

        let folder = tempfile::tempdir().unwrap();
        for user in USERS {
            std::fs::write(folder.path().join(user), login(user).password).unwrap();
        }
        let config = config(&folder, [&*of_a, &*of_b], &hub, "flat");
        let mut sidecar = Sidecar::builder()
            .registry(shared.as_ref(), support::REPOSITORY)
            .argument("--pull-username=shared-pull")
            .argument("--pull-password-file")
            .argument(folder.path().join("shared-pull"))
            .argument("--config")
            .argument(config)
            .argument(format!("--facade-address={SIDECAR}"))
            .argument("--kubernetes=on")
            .argument("--recheck-interval=1s")
            .argument("--readmit-per-minute=1000")
            .environment("KUBECONFIG", account.kubeconfig())
            .environment("POD_NAME", "mirror-sidecar-0")
            .environment("POD_NAMESPACE", home.name());
        // The kept registry, too: no rule about addresses prevents requests to it.
        let (hosts, teams) = (
            [upstream.localhost(), kept.host()],
            [of_a.address(), of_b.address()],
        );
        for host in hosts.iter().chain(&teams).chain([&hub.localhost()]) {
            sidecar = sidecar.insecure_registry(host);
        }
        let sidecar = sidecar.start().unwrap();
        let webhook = Webhook::builder(support::policy(&sidecar), settings);
        let webhook = webhook.also_in(&shop).also_in(&team_a).also_in(&team_b);
        let webhook = webhook.start(&preview, cluster.admin()).unwrap();
        Some(Self {
            webhook,
            sidecar,
            policy,
            _objects: [object, kind],
            upstream,
            shared,
            of_a,
            of_b,
            hub,
            kept,
            shop,
            team_a,
            team_b,
            preview,
            folder,
            cluster,
        })
    }

    /// Edits the policy as `kubectl edit` does; a policy server with the new settings replaces the former one.
    pub fn set_rules(&self, rules: &Value) {
        let shared = format!("{}/{}", self.shared.address(), support::REPOSITORY);
        let team = |registry: &dyn Registry, name| format!("{}/{name}", registry.address());
        let backups = json!([
            shared,
            team(&*self.of_a, "team-a"),
            team(&*self.of_b, "team-b")
        ]);
        let mut settings = json!({ "rules": rules, "backups": backups, "timeBudgetMs": 10_000 });
        let fields = json!({ "spec": { "settings": settings } });
        self.cluster.merge_global(&self.policy, &fields).unwrap();
        settings["sidecar"] = self.sidecar.facade().into();
        self.webhook.set_settings(settings);
    }

    /// Writes the configuration file with this naming for the backup of team A.
    pub fn set_naming(&self, naming: &str) {
        config(&self.folder, [&*self.of_a, &*self.of_b], &self.hub, naming);
    }

    pub fn original(&self, name: &str) -> String {
        if name == KEPT {
            return format!("{}/{name}:1", self.kept.host());
        }
        format!("{}/{name}:1", self.upstream.localhost())
    }

    /// The copy of an image in a backup.
    pub fn copy(&self, name: &str, backup: &str, naming: Naming) -> String {
        let (registry, repository) = match backup {
            "default" => (&self.shared, support::REPOSITORY),
            "team-a" => (&self.of_a, backup),
            _ => (&self.of_b, backup),
        };
        let backup = Backup::new(&registry.address(), repository, naming).unwrap();
        let original = self.original(name);
        let copy = backup.target(&ImageRef::parse(&original).unwrap());
        copy.unwrap().to_string()
    }

    /// Creates a Deployment of this image.
    pub fn deploy(&self, namespace: &Namespace, name: &str) -> Value {
        let containers = json!([{ "name": "app", "image": self.original(name) }]);
        let spec = json!({ "containers": containers });
        let manifest = Kind::Deployment.manifest(&name.replace('/', "-"), spec, "batch/v1");
        namespace.create(&manifest).unwrap();
        manifest
    }

    /// Creates a Pod of this image.
    pub fn create_pod(&self, namespace: &Namespace, name: &str, image: &str) -> Value {
        let spec = json!({ "containers": [{ "name": "app", "image": image }] });
        let manifest = Kind::Pod.manifest(name, spec, "batch/v1");
        self.webhook.clear_cache();
        namespace.create(&manifest).unwrap()
    }

    /// Waits until a Deployment uses an image, and pulls it with the Secret of the namespace.
    pub fn wait_for_image(&self, namespace: &Namespace, name: &str, expected: &str) {
        let manifest = Kind::Deployment.manifest(&name.replace('/', "-"), json!({}), "batch/v1");
        let mut found = Vec::new();
        self.wait_until(&format!("{name} to become {expected}"), || {
            let stored = namespace.get(&manifest).unwrap();
            found = images_of(spec_of(&stored));
            found == [expected]
        });
        if expected != self.original(name) {
            assert_eq!(self.pull(namespace, expected), content(name).expected());
        }
    }

    /// Pulls an image as a kubelet does.
    pub fn pull(&self, namespace: &Namespace, text: &str) -> Pulled {
        let image = ImageRef::parse(text).unwrap();
        let repository = format!("{}/{}", image.host(), image.path());
        let secrets = self.logins();
        let logins = secrets.get(namespace.name()).into_iter().flatten();
        let logins =
            logins.filter(|(key, _)| format!("{repository}/").starts_with(&format!("{key}/")));
        let login = logins.max_by_key(|(key, _)| key.len());
        let credential = login.map(|(_, login)| {
            let (user, password) = login.split_once(':').unwrap();
            Credential::new(user, password)
        });
        let client = RegistryClient::new(image.host(), credential, None);
        let pulled = pull_all(&client, image.path(), image.tag().unwrap());
        pulled.unwrap_or_else(|error| panic!("cannot pull {text}: {error:#}"))
    }

    /// The logins in the pull Secrets of all namespaces, by their keys.
    fn logins(&self) -> BTreeMap<String, BTreeMap<String, String>> {
        let mut all = BTreeMap::new();
        for secret in self.cluster.list("v1", "Secret").unwrap() {
            if secret["metadata"]["name"] != PULL_SECRET {
                continue;
            }
            let decode = |text: &Value| {
                let bytes = STANDARD.decode(text.as_str().unwrap()).unwrap();
                String::from_utf8(bytes).unwrap()
            };
            let config = decode(&secret["data"][".dockerconfigjson"]);
            let config: Value = serde_json::from_str(&config).unwrap();
            let logins = config["auths"].as_object().unwrap().iter();
            let logins = logins.map(|(key, login)| (key.clone(), decode(&login["auth"])));
            let namespace = secret["metadata"]["namespace"].as_str().unwrap();
            all.insert(namespace.to_owned(), logins.collect());
        }
        all
    }

    /// Waits until the pull Secrets of all namespaces are these, each with the logins of these users.
    pub fn wait_for_secrets(&self, expected: &[(&Namespace, &[&str])]) {
        self.wait_for_secrets_within(DEADLINE, expected);
    }

    /// The same with another deadline.
    pub fn wait_for_secrets_within(&self, within: Duration, expected: &[(&Namespace, &[&str])]) {
        let key = |user: &str| match user {
            "shared-pull" => self.shared.address(),
            "team-a-pull" => format!("{}/team-a", self.of_a.address()),
            "team-b-pull" => format!("{}/team-b", self.of_b.address()),
            "hub-pull" => self.hub.localhost(),
            other => panic!("{other}"),
        };
        let secret = |users: &&[&str]| {
            let users = users.iter();
            let logins = users.map(|user| (key(user), format!("{user}:{}", login(user).password)));
            logins.collect::<BTreeMap<_, _>>()
        };
        let expected = expected.iter();
        let expected =
            expected.map(|(namespace, users)| (namespace.name().to_owned(), secret(users)));
        let expected: BTreeMap<_, _> = expected.collect();
        self.wait_within(within, &format!("{expected:?}"), || {
            self.logins() == expected
        });
    }

    /// Asserts that requests to a registry, after so many, name these images and no others.
    pub fn assert_requested(registry: &dyn Registry, from: usize, expected: &[&str]) {
        let requests: Vec<_> = registry.requests().into_iter().skip(from).collect();
        let is_named = |name: &&str| {
            let last = name.rsplit('/').next().unwrap();
            requests.iter().any(|request| request.path.contains(last))
        };
        let named: Vec<_> = IMAGES.into_iter().chain([KEPT]).filter(is_named).collect();
        assert_eq!(named, expected, "{requests:?}");
    }

    /// Waits until the sidecar has logged a message that begins like this.
    pub fn wait_for_message(&self, message: &str) {
        let is_it = |event: &Value| {
            let text = event["message"].as_str();
            text.is_some_and(|text| text.starts_with(message))
        };
        self.sidecar.wait_for(DEADLINE, is_it).unwrap();
        self.webhook.clear_cache();
    }

    /// Waits until something is so, and asserts meanwhile that no pull Secret has a foreign login.
    pub fn wait_until(&self, what: &str, is_so: impl FnMut() -> bool) {
        self.wait_within(DEADLINE, what, is_so);
    }

    fn wait_within(&self, within: Duration, what: &str, mut is_so: impl FnMut() -> bool) {
        let start = Instant::now();
        loop {
            for (namespace, logins) in self.logins() {
                for user in USERS {
                    let is_held = format!("{logins:?}").contains(&login(user).password);
                    assert!(
                        !is_held || self.may_have(&namespace, user),
                        "{namespace}: {logins:?}"
                    );
                }
            }
            if is_so() {
                return;
            }
            assert!(
                start.elapsed() < within,
                "waited in vain for {what}; pull Secrets: {:?}; the sidecar's log:\n{}",
                self.logins(),
                self.sidecar.lines().join("\n")
            );
            std::thread::sleep(POLL_INTERVAL);
            // As after a minute.
            self.webhook.clear_cache();
        }
    }

    /// Whether the rules of any of the tests allow a namespace the login of a user.
    fn may_have(&self, namespace: &str, user: &str) -> bool {
        let [shop, team_a, team_b, preview] =
            [&self.shop, &self.team_a, &self.team_b, &self.preview].map(Namespace::name);
        let namespaces: &[&str] = match user {
            "shared-pull" => &[shop, team_a],
            "team-a-pull" => &[team_a],
            "team-b-pull" => &[team_b, preview],
            "hub-pull" => &[team_b],
            _ => &[],
        };
        namespaces.contains(&namespace)
    }
}

/// Writes the configuration file and returns its path.
fn config(
    folder: &TempDir,
    [of_a, of_b]: [&dyn Registry; 2],
    hub: &DebianRegistry,
    naming_of_a: &str,
) -> PathBuf {
    let login = |user: &str| {
        let file = folder.path().join(user);
        json!({ "username": user, "passwordFile": file })
    };
    let config = json!({
        "backups": {
            "team-a": {
                "registry": of_a.address(), "repository": "team-a", "naming": naming_of_a,
                "push": login("team-a-push"), "pull": login("team-a-pull"),
            },
            "team-b": {
                "registry": of_b.address(), "repository": "team-b",
                "push": login("team-b-push"), "pull": login("team-b-pull"),
            },
        },
        "targets": { hub.localhost(): { "pull": login("hub-pull") } },
    });
    // Renamed, so that the file is never read half.
    let (next, file) = (
        folder.path().join("next"),
        folder.path().join("config.yaml"),
    );
    std::fs::write(&next, config.to_string()).unwrap();
    std::fs::rename(next, &file).unwrap();
    file
}
