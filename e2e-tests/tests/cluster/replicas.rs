//! Several sidecars beside a real API server: they share the work, take it over from each other, and tell of it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use e2e_tests::cluster::{self, Account, Cluster, Namespace};
use mirror_contract::ImageRef;
use mirror_sidecar::cluster::events::EventMetrics;
use mirror_sidecar::cluster::{About, Events, Notice};
use mirror_sidecar::metrics::Metrics;
use serde_json::{Value, json};
use testkit::blocking;
use testkit::image::Image;
use testkit::registry::{Credential, Registry, start_registry, start_registry_with};
use testkit::sidecar::Sidecar;

use crate::manifests::Kind;
use crate::support::{COPY_DEADLINE, REPOSITORY};

/// How long a Lease counts without renewal.
const LEASE: Duration = Duration::from_secs(15);
/// How much later a busy machine may notice something.
pub const SLACK: Duration = Duration::from_secs(15);
/// So many images that none of three replicas is without a share, but for one run in a hundred thousand.
const IMAGES: usize = 30;

/// An API server does not ask whether what an Event is about exists.
const UID: &str = "0d4f8a5e-8f0e-4f3c-9b0e-2f6c1f0a7d11";

/// Sidecars that are one installation.
pub struct Group {
    pub upstream: Box<dyn Registry>,
    backup: Box<dyn Registry>,
    pub namespace: Namespace,
    account: Account,
    pub sidecars: BTreeMap<&'static str, Sidecar>,
    images: usize,
}

impl Group {
    pub fn start(cluster: &Cluster, names: &[&'static str]) -> Self {
        let namespace = cluster.namespace("replicas").unwrap();
        let account = cluster.sidecar_account(&namespace, "sidecar").unwrap();
        let mut group = Self {
            upstream: start_registry().unwrap(),
            backup: start_registry_with(Some(Credential::new("pusher", "p4ss word"))).unwrap(),
            namespace,
            account,
            sidecars: BTreeMap::new(),
            images: 0,
        };
        for name in names {
            group.add(name);
        }
        group
    }

    fn add(&mut self, name: &'static str) {
        let sidecar = Sidecar::builder()
            .registry(self.backup.as_ref(), REPOSITORY)
            .insecure_registry(&self.upstream.localhost())
            .argument("--kubernetes=on")
            .environment("KUBECONFIG", self.account.kubeconfig())
            .environment("POD_NAME", name)
            .environment("POD_NAMESPACE", self.namespace.name())
            .environment("POD_IP", "127.0.0.1")
            .start()
            .unwrap();
        self.sidecars.insert(name, sidecar);
    }

    pub fn take(&mut self, name: &str) -> Sidecar {
        self.sidecars.remove(name).unwrap()
    }

    /// Waits until each sidecar sees so many.
    pub fn wait_for_members(&self, count: usize, limit: Duration) {
        wait(limit, "members", || {
            let seen = self
                .sidecars
                .values()
                .map(|sidecar| figure(sidecar, "replicas"));
            seen.into_iter().all(|seen| seen == count)
        });
    }

    /// Has that many new images used, and gives their references.
    pub fn use_images(&mut self, count: usize) -> BTreeSet<String> {
        let mut images = BTreeSet::new();
        for number in self.images..self.images + count {
            let content = Image::index(number as u64);
            let repository = format!("acme/app-{number}");
            content
                .push(&self.upstream.client(), &repository, "1")
                .unwrap();
            let image = format!("{}/{repository}:1", self.upstream.localhost());
            let spec = json!({ "containers": [{ "name": "app", "image": image }] });
            let workload = Kind::Deployment.manifest(&format!("app-{number}"), spec, "batch/v1");
            self.namespace.create(&workload).unwrap();
            images.insert(ImageRef::parse(&image).unwrap().to_string());
        }
        self.images += count;
        images
    }

    /// Who copied which of these images.
    fn copied(&self, images: &BTreeSet<String>) -> BTreeMap<&'static str, BTreeSet<String>> {
        let copied = |sidecar: &Sidecar| {
            let events = sidecar.events();
            let copied = events
                .iter()
                .filter(|event| event["message"] == "copied image");
            let copied = copied.filter_map(|event| event["image"].as_str().map(str::to_owned));
            copied.filter(|image| images.contains(image)).collect()
        };
        let all = self.sidecars.iter();
        all.map(|(name, sidecar)| (*name, copied(sidecar)))
            .collect()
    }

    pub fn wait_until_copied(
        &self,
        images: &BTreeSet<String>,
    ) -> BTreeMap<&'static str, BTreeSet<String>> {
        wait(COPY_DEADLINE, "copies", || {
            let all: BTreeSet<_> = self.copied(images).into_values().flatten().collect();
            all == *images
        });
        self.copied(images)
    }

    /// How often each tag was written to the backup, but for anchors.
    fn uploads(&self) -> BTreeMap<String, usize> {
        let mut uploads = BTreeMap::new();
        for request in self.backup.requests() {
            let tag = request.path.rsplit_once("/manifests/");
            if request.method == "PUT" && tag.is_some_and(|(_, tag)| tag == "1") {
                *uploads.entry(request.path).or_default() += 1;
            }
        }
        uploads
    }

    fn leases(&self) -> BTreeSet<String> {
        let leases = self
            .namespace
            .list("coordination.k8s.io/v1", "Lease")
            .unwrap();
        let names = leases
            .iter()
            .map(|lease| lease["metadata"]["name"].as_str().unwrap());
        names.map(str::to_owned).collect()
    }
}

/// Waits for what other processes do.
pub fn wait(limit: Duration, what: &str, is_so: impl Fn() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < limit, "{what}: not within {limit:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// A figure without labels.
fn figure(sidecar: &Sidecar, name: &str) -> usize {
    let (_, text) = sidecar.admin_get("/metrics").unwrap();
    let name = format!("image_mirror_{name} ");
    let figure = text.lines().find_map(|line| line.strip_prefix(&name));
    figure.unwrap().parse().unwrap()
}

#[test]
fn replicas_share_the_work_and_take_it_over() {
    // A sidecar copies what it sees in all namespaces, and here each copy counts.
    let Some(cluster) = cluster::alone_and_audited() else {
        return;
    };
    let mut group = Group::start(&cluster, &["a", "b", "c"]);
    group.wait_for_members(3, SLACK);
    for sidecar in group.sidecars.values() {
        assert_eq!(figure(sidecar, "lease_held"), 1);
    }
    let lease = |name: &str| format!("mirror-sidecar-{name}");
    assert_eq!(group.leases(), ["a", "b", "c"].map(lease).into());

    // Each image is copied once, although three see it; and each of the three does something.
    let images = group.use_images(IMAGES);
    let shares = group.wait_until_copied(&images);
    assert!(shares.values().all(|share| !share.is_empty()), "{shares:?}");
    assert_eq!(shares.values().map(BTreeSet::len).sum::<usize>(), IMAGES);
    let uploads = group.uploads();
    assert_eq!(uploads.len(), IMAGES);
    assert!(uploads.values().all(|count| *count == 1), "{uploads:?}");

    // SIGTERM: nobody waits for a Lease to expire.
    let start = Instant::now();
    assert!(group.take("b").stop().unwrap().success());
    assert_eq!(group.leases(), ["a", "c"].map(lease).into());
    group.wait_for_members(2, SLACK);
    let elapsed = start.elapsed();
    assert!(elapsed < LEASE / 2, "the hand-over took {elapsed:?}");

    // A crash: the Lease stays and has to expire.
    let start = Instant::now();
    group.take("c").kill().unwrap();
    assert_eq!(group.leases(), ["a", "c"].map(lease).into());
    let images = group.use_images(6);
    let shares = group.wait_until_copied(&images);
    assert_eq!(shares["a"], images);
    let elapsed = start.elapsed();
    assert!(elapsed < LEASE + SLACK, "the takeover took {elapsed:?}");
    group.wait_for_members(1, LEASE);

    // The crashed one comes back under its name, and its Lease is its own again.
    group.add("c");
    group.wait_for_members(2, SLACK);
    wait(SLACK, "the Lease", || {
        figure(&group.sidecars["c"], "lease_held") == 1
    });
    let requests = cluster.requests();
    let mut leases = requests
        .iter()
        .filter(|request| request.user == group.account.user() && request.resource == "leases");
    assert!(leases.all(|request| request.status != 403));
}

#[test]
fn without_the_api_server_each_replica_does_everything() {
    let Some(mut cluster) = cluster::own() else {
        return;
    };
    let mut group = Group::start(&cluster, &["a", "b"]);
    group.wait_for_members(2, SLACK);
    let images = group.use_images(4);
    group.wait_until_copied(&images);

    cluster.stop();
    group.wait_for_members(1, LEASE + SLACK);
    wait(LEASE + SLACK, "the Lease", || {
        let mut all = group.sidecars.values();
        all.all(|sidecar| figure(sidecar, "lease_held") == 0)
    });
    for sidecar in group.sidecars.values() {
        assert_eq!(sidecar.admin_get("/readyz").unwrap().0, 200);
    }
    // Nothing to hand over to, and no time is lost by that.
    let start = Instant::now();
    assert!(group.take("b").stop().unwrap().success());
    let elapsed = start.elapsed();
    assert!(elapsed < Duration::from_secs(8), "the end took {elapsed:?}");

    cluster.restart().unwrap();
    group.add("c");
    group.wait_for_members(2, LEASE + SLACK + SLACK);
    let images = group.use_images(IMAGES);
    let shares = group.wait_until_copied(&images);
    assert!(shares.values().all(|share| !share.is_empty()), "{shares:?}");

    // The outage is one line with the address of the API server, its end another; the client of the API server adds none.
    let events = group.sidecars["a"].events();
    let lines = events.iter().filter(|event| {
        let has = |field: &str, word| event[field].as_str().unwrap_or_default().contains(word);
        let is_of_client = has("target", "kube_") && !has("level", "INFO");
        is_of_client || has("message", "API server is ") || has("error", "client error")
    });
    let lines: Vec<_> = lines
        .map(|event| (&event["message"], &event["server"]))
        .collect();
    let server = format!("https://{}/", cluster.address());
    assert_eq!(lines.len(), 2, "{lines:?}");
    for ((message, found), words) in lines.iter().zip(["unreachable", "reachable again"]) {
        let message = message.as_str().unwrap();
        assert!(
            message.starts_with(&format!("API server is {words}")),
            "{message}"
        );
        assert_eq!(**found, server.as_str());
    }
}

/// The Events about an object, by their reasons.
fn told(namespace: &Namespace, name: &str) -> BTreeMap<String, Value> {
    let events = namespace.list("events.k8s.io/v1", "Event").unwrap();
    let about = events
        .into_iter()
        .filter(|event| event["regarding"]["name"] == name);
    about
        .map(|event| (event["reason"].as_str().unwrap().to_owned(), event))
        .collect()
}

#[test]
fn events_are_where_people_look_for_them_and_each_is_one() {
    let Some(cluster) = cluster::shared() else {
        return;
    };
    let shop = cluster.namespace("events").unwrap();
    let account = cluster.sidecar_account(&shop, "sidecar").unwrap();
    let about = |name: &str| About {
        api_version: "apps/v1".into(),
        kind: "Deployment".into(),
        namespace: shop.name().into(),
        name: name.into(),
        uid: UID.into(),
    };
    let image = || "docker.io/library/nginx:1".to_owned();
    let notices = [
        Notice::Mirrored { image: image() },
        Notice::NotMirrored {
            image: image(),
            reason: format!("the registry says: {}", "<html>\n".repeat(1000)),
        },
        Notice::LastCopy { image: image() },
        Notice::NotRewritten {
            images: vec![image()],
        },
        Notice::ForeignSecret,
    ];
    let metrics = EventMetrics::register(&mut Metrics::new());
    // Two replicas that tell the same; and what the API server does not take is not in the way.
    blocking::run(async {
        for replica in ["a", "b"] {
            let events = Events::start(account.client(), Some(replica), metrics.clone());
            let mut nowhere = about("web");
            nowhere.namespace = "is-not-there".into();
            events.report(nowhere, Notice::ForeignSecret);
            for notice in &notices {
                events.report(about("web"), notice.clone());
                events.report(about("web"), notice.clone());
            }
        }
    });
    let is_written = || {
        let events = told(&shop, "web");
        let twice = |event: &Value| event["series"]["count"] == 2;
        events.len() == notices.len() && events.values().all(twice)
    };
    wait(SLACK, "Events", is_written);

    for (reason, event) in told(&shop, "web") {
        let type_ = if reason == "Mirrored" {
            "Normal"
        } else {
            "Warning"
        };
        assert_eq!(event["type"], type_);
        assert_eq!(event["reportingController"], "mirror-sidecar");
        assert!(["a", "b"].contains(&event["reportingInstance"].as_str().unwrap()));
        assert_eq!(event["regarding"]["kind"], "Deployment");
        assert_eq!(event["regarding"]["uid"], UID);
        assert!(event["note"].as_str().unwrap().ends_with('.'), "{event}");
    }
    // `kubectl describe` reads the older kind.
    let core = shop.list("v1", "Event").unwrap();
    let about_web = |event: &&Value| event["involvedObject"]["name"] == "web";
    assert_eq!(core.iter().filter(about_web).count(), notices.len());
}
