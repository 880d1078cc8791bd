//! A namespace whose workloads are there before the policy and before the sidecar knows of a cluster.

use std::sync::Arc;
use std::time::{Duration, Instant};

use e2e_tests::cluster::{Account, Cluster, Namespace, Request, Webhook, WebhookBuilder};
use serde_json::{Value, json};
use testkit::fixtures::images_of;
use testkit::sidecar::{Sidecar, SidecarBuilder};

use crate::manifests::{Kind, spec_of};
use crate::stage::{PULL_SECRET, with_cron_jobs};
use crate::support::{self, COPY_DEADLINE, REPOSITORY, Stock, World};

/// The annotation that is patched.
pub const MARK: &str = "image-mirror.dev/readmitted";

/// How long anything may take on a busy machine.
const DEADLINE: Duration = Duration::from_mins(4);

const POLL_INTERVAL: Duration = Duration::from_millis(50);

pub struct Shop<'a> {
    // Dropped first: nobody may call the policy when its sidecar is gone.
    webhook: Option<Webhook>,
    pub namespace: Namespace,
    pub world: World,
    account: Account,
    cluster: &'a Cluster,
    has_cron_jobs: bool,
}

impl<'a> Shop<'a> {
    /// No policy, and a sidecar that knows of no cluster.
    pub fn new(cluster: &'a Cluster) -> Self {
        let namespace = cluster.namespace("shop").unwrap();
        Self {
            webhook: None,
            account: cluster
                .sidecar_account(&namespace, "mirror-sidecar")
                .unwrap(),
            namespace,
            world: World::with(|sidecar| sidecar.argument("--pull-secret").argument(PULL_SECRET)),
            cluster,
            has_cron_jobs: cluster.serves("batch/v1", "CronJob").unwrap(),
        }
    }

    /// Puts images upstream and creates a workload that uses them; gives its manifest, and what they are.
    pub fn create(&self, kind: Kind, name: &str, pod_spec: Value) -> (Value, Stock) {
        let mut manifest = kind.manifest(name, pod_spec, "batch/v1");
        let stock = self.world.stock(&mut manifest);
        self.namespace.create(&manifest).unwrap();
        (manifest, stock)
    }

    /// Lets all that is admitted from now on pass the policy.
    pub fn install_policy(&mut self) {
        self.install_policy_with(json!({}));
    }

    /// The same with more settings.
    pub fn install_policy_with(&mut self, more: Value) {
        self.install_policy_as(more, |webhook| webhook);
    }

    /// The same with a webhook that is registered in another way.
    pub fn install_policy_as(
        &mut self,
        more: Value,
        configure: impl FnOnce(WebhookBuilder) -> WebhookBuilder,
    ) {
        let host = support::policy(&self.world.sidecar);
        let mut settings = self.world.settings();
        if let (Value::Object(settings), Value::Object(more)) = (&mut settings, more) {
            settings.extend(more);
        }
        let builder = Webhook::builder(host, settings);
        let webhook = configure(with_cron_jobs(builder, self.has_cron_jobs));
        self.webhook = Some(
            webhook
                .start(&self.namespace, self.cluster.admin())
                .unwrap(),
        );
    }

    /// Removes the policy and its registration.
    pub fn uninstall_policy(&mut self) {
        self.webhook = None;
    }

    /// Ends the sidecar and starts one in its place, which works with the cluster.
    pub fn start_sidecar(mut self, flags: &[&str]) -> Self {
        let old = &self.world.sidecar;
        let builder = self
            .with_cluster(flags)
            .listen(old.facade().replace("localhost", "127.0.0.1"))
            .tls(Arc::clone(old.tls()))
            .facade_credential(old.facade_credential().clone());
        // The port must be free first.
        assert!(self.world.sidecar.stop().unwrap().success());
        self.world.sidecar = builder.start().unwrap();
        self
    }

    /// A sidecar that works with the cluster, and that the policy does not ask.
    pub fn with_cluster(&self, flags: &[&str]) -> SidecarBuilder {
        let builder = Sidecar::builder()
            .registry(self.world.backup.as_ref(), REPOSITORY)
            .insecure_registry(&self.world.upstream.localhost())
            .environment("KUBECONFIG", self.account.kubeconfig())
            .argument("--kubernetes=on")
            .argument(format!("--pull-secret={PULL_SECRET}"));
        let flags = flags.iter();
        flags.fold(builder, |builder, flag| builder.argument(*flag))
    }

    /// Waits until nothing of a workload's images is upstream; gives what is stored then.
    pub fn wait_until_rewritten(&self, manifest: &Value) -> Value {
        let mut stored = Value::Null;
        self.wait_until("the workload to be rewritten", |shop| {
            stored = shop.namespace.get(manifest).unwrap();
            let images = images_of(spec_of(&stored));
            images.iter().all(|image| image.contains(REPOSITORY))
        });
        stored
    }

    pub fn assert_uses_copies(&self, object: &Value, manifest: &Value, stock: &Stock) {
        let (before, after) = (images_of(spec_of(manifest)), images_of(spec_of(object)));
        assert_eq!(after.len(), before.len());
        for (original, copy) in before.iter().zip(&after) {
            assert_eq!(&self.world.pull_copy(copy), &stock[original], "{copy}");
        }
        let secrets = json!([{ "name": PULL_SECRET }]);
        assert_eq!(spec_of(object)["imagePullSecrets"], secrets);
    }

    /// Waits until all that was due when this was called has been patched: a workload that comes last in every order, and
    /// whose image comes last as well, was rewritten.
    pub fn wait_until_idle(&self) {
        let name = format!("zz-last-{}", self.patches().len());
        let image =
            json!({ "containers": [{ "name": "app", "image": format!("zz.example/{name}:1") }] });
        let (last, _) = self.create(Kind::ReplicaSet, &name, image);
        self.wait_until_rewritten(&last);
        let workload = format!("ReplicaSet {}/{name}", self.namespace.name());
        let is_noticed = |event: &Value| {
            begins(event, "re-admitted workload") && event["workload"] == workload.as_str()
        };
        self.world.sidecar.wait_for(DEADLINE, is_noticed).unwrap();
    }

    /// The patches of workloads that the sidecar asked for, under this account, but for dry runs.
    pub fn patches(&self) -> Vec<Request> {
        let mut patches = self.tries_and_patches();
        patches.retain(|request| !request.is_dry_run());
        patches
    }

    pub fn patches_of(&self, manifest: &Value) -> usize {
        number_of(manifest, &self.patches())
    }

    /// How often it was tried what the policy does with a workload.
    pub fn dry_runs_of(&self, manifest: &Value) -> usize {
        let mut tries = self.tries_and_patches();
        tries.retain(Request::is_dry_run);
        number_of(manifest, &tries)
    }

    /// All patches of workloads that the sidecar asked for, dry runs included.
    pub fn tries_and_patches(&self) -> Vec<Request> {
        let all = self.cluster.requests().into_iter();
        let is_patch = |request: &Request| {
            request.user == self.account.user()
                && request.verb == "patch"
                && !matches!(request.resource.as_str(), "events" | "secrets")
        };
        all.filter(is_patch).collect()
    }

    /// Re-admissions with this result, as the running sidecar counts them.
    pub fn count(&self, result: &str) -> usize {
        let labels = format!("readmissions_total{{result=\"{result}\"}}");
        figure(&self.world.sidecar, &labels)
    }

    /// How many lines the running sidecar wrote that begin like this.
    pub fn events(&self, message: &str) -> usize {
        let events = self.world.sidecar.events();
        let is_it = |event: &&Value| begins(event, message);
        events.iter().filter(is_it).count()
    }

    pub fn wait_for_log(&self, message: &str) {
        let wait = self
            .world
            .sidecar
            .wait_for(DEADLINE.max(COPY_DEADLINE), |event| begins(event, message));
        wait.unwrap();
    }

    pub fn wait_until(&self, what: &str, mut is_so: impl FnMut(&Self) -> bool) {
        let deadline = Instant::now() + DEADLINE;
        while !is_so(self) {
            assert!(
                Instant::now() < deadline,
                "waited in vain for {what}; the sidecar's log:\n{}",
                self.world.sidecar.lines().join("\n")
            );
            std::thread::sleep(POLL_INTERVAL);
        }
    }
}

/// A figure of a sidecar, by its name and labels.
pub fn figure(sidecar: &Sidecar, name: &str) -> usize {
    let (_, figures) = sidecar.admin_get("/metrics").unwrap();
    let start = format!("image_mirror_{name} ");
    let figure = figures.lines().find_map(|line| line.strip_prefix(&start));
    let figure = figure.unwrap_or_else(|| panic!("no {name} in {figures}"));
    figure.parse().unwrap()
}

fn number_of(manifest: &Value, requests: &[Request]) -> usize {
    let resource = format!("{}s", manifest["kind"].as_str().unwrap().to_lowercase());
    let its = requests.iter().filter(|request| {
        request.name == manifest["metadata"]["name"] && request.resource == resource
    });
    its.count()
}

fn begins(event: &Value, message: &str) -> bool {
    event["message"]
        .as_str()
        .is_some_and(|text| text.starts_with(message))
}
