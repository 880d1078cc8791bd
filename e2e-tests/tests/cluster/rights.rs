//! The published rights are those that the sidecar uses, no more and no fewer.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use e2e_tests::cluster::{self, Account, Cluster, GlobalObject, Namespace, Request, Rights};
use k8s_openapi::api::rbac::v1::PolicyRule;
use serde_json::{Value, json};
use testkit::sidecar::{Sidecar, SidecarBuilder};

use crate::manifests::{Kind, pod_spec};
use crate::stage::PULL_SECRET;
use crate::support::{REPOSITORY, World};

/// How long anything may take on a busy machine.
const DEADLINE: Duration = Duration::from_mins(2);

/// Group, resource and verb.
pub type Right = [String; 3];

/// What an account may do, and what it did.
pub struct Use<'a> {
    cluster: &'a Cluster,
    account: &'a Account,
    granted: BTreeSet<Right>,
    has_cron_jobs: bool,
}

impl<'a> Use<'a> {
    /// An account with these rules.
    pub fn of<'b>(
        cluster: &'a Cluster,
        account: &'a Account,
        rules: impl IntoIterator<Item = &'b PolicyRule>,
    ) -> Self {
        let rules = rules.into_iter();
        let mut made = Self {
            cluster,
            account,
            granted: rules.flat_map(granted).collect(),
            has_cron_jobs: cluster.serves("batch/v1", "CronJob").unwrap(),
        };
        let has_cron_jobs = made.has_cron_jobs;
        made.granted
            .retain(|right| has_cron_jobs || right[1] != "cronjobs");
        made
    }

    /// What it asked for so far.
    fn requests(&self) -> Vec<Request> {
        let mut requests = self.cluster.requests();
        requests
            .retain(|request| request.user == self.account.user() && !request.resource.is_empty());
        requests
    }

    /// The rights that it has used, but for those of a kind that this API server does not serve.
    fn used(&self) -> BTreeSet<Right> {
        let mut used: BTreeSet<_> = self.requests().iter().map(right).collect();
        used.retain(|right| self.has_cron_jobs || right[1] != "cronjobs");
        used
    }

    pub fn has_used(&self, group: &str, resource: &str, verb: &str) -> bool {
        self.used()
            .contains(&[group, resource, verb].map(str::to_owned))
    }

    /// Waits until it has used all its rights, and asserts that it wanted no others. Watches may be logged when they end.
    pub fn assert_complete(&self) {
        let deadline = Instant::now() + DEADLINE;
        while self.used() != self.granted && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(100));
        }
        let mut refused = self.requests();
        refused.retain(|request| request.status == 403);
        assert_eq!(refused, []);
        let lists = |rights: &BTreeSet<Right>| -> Vec<String> {
            rights.iter().map(|right| right.join(" ")).collect()
        };
        assert_eq!(lists(&self.used()), lists(&self.granted));
    }
}

fn granted(rule: &PolicyRule) -> BTreeSet<Right> {
    let mut granted = BTreeSet::new();
    for group in rule.api_groups.iter().flatten() {
        for resource in rule.resources.iter().flatten() {
            let verbs = rule.verbs.iter();
            granted.extend(verbs.map(|verb| [group, resource, verb].map(Clone::clone)));
        }
    }
    granted
}

fn right(request: &Request) -> Right {
    [&request.group, &request.resource, &request.verb].map(Clone::clone)
}

#[test]
fn it_uses_each_right_and_asks_for_no_other() {
    let Some(cluster) = cluster::alone_and_audited() else {
        return;
    };
    let (home, shop) = (
        cluster.namespace("home").unwrap(),
        cluster.namespace("shop").unwrap(),
    );
    let account = cluster.sidecar_account(&home, "mirror-sidecar").unwrap();
    let rights = Rights::published().unwrap();
    let all = rights.everywhere.iter().chain(&rights.at_home);
    let rights_used = Use::of(&cluster, &account, all);

    let with_cluster =
        |sidecar: SidecarBuilder, replica: &str| replica_of(sidecar, &account, &home, replica);
    let _webhooks = registrations(&cluster);
    let _policies = cluster.define_policies().unwrap();
    let world = World::with(|sidecar| with_cluster(sidecar, "mirror-sidecar-0"));
    let mut kinds = vec![
        Kind::Deployment,
        Kind::DaemonSet,
        Kind::StatefulSet,
        Kind::ReplicaSet,
        Kind::ReplicationController,
    ];
    if rights_used.has_cron_jobs {
        kinds.push(Kind::CronJob);
    }
    // Nothing rewrites them, which is to be told.
    for kind in &kinds {
        let mut manifest = kind.manifest("web", pod_spec(), "batch/v1");
        world.stock(&mut manifest);
        shop.create(&manifest).unwrap();
    }
    let told = || events(&shop, "NotRewritten");
    wait_until("all to be told", || told().len() == kinds.len());
    secrets_come_and_go(&world, &shop, &rights_used);

    // Whoever comes after it tells the same, which becomes a series.
    world.sidecar.stop().unwrap();
    let builder = Sidecar::builder()
        .registry(world.backup.as_ref(), REPOSITORY)
        .insecure_registry(&world.upstream.localhost());
    let successor = with_cluster(builder, "mirror-sidecar-1").start().unwrap();
    wait_until("the series", || {
        let told = told();
        assert_eq!(told.len(), kinds.len());
        told.iter().all(|event| event["series"]["count"] == 2)
    });
    successor.stop().unwrap();

    rights_used.assert_complete();
    let of = |rules: &[PolicyRule]| rules.iter().flat_map(granted).collect::<BTreeSet<Right>>();
    let (everywhere, at_home) = (of(&rights.everywhere), of(&rights.at_home));
    let requests = rights_used.requests();
    let elsewhere = requests.iter().find(|request| {
        let right = right(request);
        at_home.contains(&right) && !everywhere.contains(&right) && request.namespace != home.name()
    });
    assert_eq!(elsewhere, None, "its own namespace is enough");
}

fn replica_of(
    sidecar: SidecarBuilder,
    account: &Account,
    home: &Namespace,
    replica: &str,
) -> SidecarBuilder {
    sidecar
        .environment("KUBECONFIG", account.kubeconfig())
        .environment("POD_NAME", replica)
        .environment("POD_NAMESPACE", home.name())
        .argument("--kubernetes=on")
        .argument("--readmit-per-minute=1000")
        .argument("--recheck-interval=1s")
        .argument("--reinvoke-policy=image-mirror")
        .argument("--facade-address=mirror-sidecar.image-mirror.svc:5000")
        .argument(format!("--pull-secret={PULL_SECRET}"))
        .argument("--pull-username=puller")
        .argument("--pull-password=p4ss word")
}

/// The policy as Kubewarden registers it, here for no namespace, and what the chart creates for its second registration.
fn registrations(cluster: &Cluster) -> [GlobalObject; 2] {
    let webhook = json!({
        "name": "image-mirror.kubewarden.admission",
        "admissionReviewVersions": ["v1"],
        "clientConfig": { "service": { "namespace": "kubewarden", "name": "policy-server-image-mirror" } },
        "namespaceSelector": { "matchLabels": { "no": "namespace" } },
        "rules": [{ "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"], "operations": ["CREATE"] }],
        "sideEffects": "None",
    });
    let configurations = [
        ("clusterwide-image-mirror", json!([webhook])),
        ("zz-image-mirror-reinvocation", json!([])),
    ];
    configurations.map(|(name, webhooks)| {
        let configuration = json!({
            "apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingWebhookConfiguration",
            "metadata": { "name": name }, "webhooks": webhooks,
        });
        GlobalObject::create(cluster, configuration).unwrap()
    })
}

/// A Pod asks for the pull Secret, which is made, made again when it is deleted, repaired when it is changed, and replaced
/// when it cannot be changed.
fn secrets_come_and_go(world: &World, shop: &Namespace, rights: &Use<'_>) {
    let mut pod = Kind::Pod.manifest("pod", pod_spec(), "batch/v1");
    world.stock(&mut pod);
    pod["spec"]["imagePullSecrets"] = json!([{ "name": PULL_SECRET }]);
    shop.create(&pod).unwrap();
    let name = json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": PULL_SECRET } });
    let content = || Some(shop.get(&name).ok()?["data"].clone());
    wait_until("the Secret", || content().is_some());
    let right = content();
    shop.delete(&name).unwrap();
    wait_until("the Secret to be made again", || content() == right);
    let damage = |data: &str| json!({ "data": { ".dockerconfigjson": data } });
    shop.merge(&name, &damage("e30=")).unwrap();
    wait_until("the Secret to be repaired", || content() == right);

    // The login of a former backup stays, so it is read before the Secret is written.
    let former = json!({ "auths": { "former.example": {
        "auth": "cHVsbGVyOnB1bGxlcg==", "username": "puller", "password": "puller",
    } } });
    let former = json!({ "stringData": { ".dockerconfigjson": former.to_string() } });
    shop.merge(&name, &former).unwrap();
    wait_until("the former login to be read", || {
        rights.has_used("", "secrets", "get")
    });
    shop.delete(&name).unwrap();
    wait_until("the Secret without it", || content() == right);

    let mut immutable = damage("e30=");
    immutable["immutable"] = json!(true);
    shop.merge(&name, &immutable).unwrap();
    wait_until("the Secret to be replaced", || content() == right);
    shop.delete(&pod).unwrap();
}

/// The Events of a namespace that give this reason.
pub fn events(namespace: &Namespace, reason: &str) -> Vec<Value> {
    let mut events = namespace.list("events.k8s.io/v1", "Event").unwrap();
    events.retain(|event| event["reason"] == reason);
    events
}

fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !is_so() {
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
