//! A namespace of a real API server whose workloads pass the policy, with the real sidecar and registries behind it.

use e2e_tests::cluster::{Cluster, FailurePolicy, Namespace, Webhook, WebhookBuilder};
use serde_json::{Value, json};
use testkit::fixtures::images_of;

use crate::manifests::{Kind, spec_of};
use crate::support::{self, Stock, World};

/// The Secret that the sidecar names.
pub const PULL_SECRET: &str = "image-mirror-pull";

pub struct Stage {
    // Dropped first: nobody may call the policy when its sidecar is gone.
    pub webhook: Webhook,
    pub namespace: Namespace,
    pub world: World,
    /// In which API version `CronJob` is served.
    batch: &'static str,
}

impl Stage {
    pub fn start(cluster: &Cluster) -> Self {
        Self::with(cluster, json!({}), FailurePolicy::Fail)
    }

    /// A stage whose policy has more settings.
    pub fn with(cluster: &Cluster, settings: Value, failure_policy: FailurePolicy) -> Self {
        Self::with_rules(cluster, settings, failure_policy, |webhook| webhook)
    }

    /// A stage whose policy has more settings and rules.
    pub fn with_rules(
        cluster: &Cluster,
        settings: Value,
        failure_policy: FailurePolicy,
        add_rules: impl FnOnce(WebhookBuilder) -> WebhookBuilder,
    ) -> Self {
        let world = World::with(|sidecar| sidecar.argument("--pull-secret").argument(PULL_SECRET));
        let mut all = world.settings();
        if let (Value::Object(all), Value::Object(settings)) = (&mut all, settings) {
            all.extend(settings);
        }
        let namespace = cluster.namespace("shop").unwrap();
        let has_v1 = cluster.serves("batch/v1", "CronJob").unwrap();
        let builder = Webhook::builder(support::policy(&world.sidecar), all);
        let builder = builder.failure_policy(failure_policy);
        let webhook = with_cron_jobs(add_rules(builder), has_v1)
            .start(&namespace, cluster.admin())
            .unwrap();
        Self {
            webhook,
            namespace,
            world,
            batch: if has_v1 { "batch/v1" } else { "batch/v1beta1" },
        }
    }

    /// A manifest whose images are upstream, and what they are.
    pub fn manifest(&self, kind: Kind, name: &str, pod_spec: Value) -> (Value, Stock) {
        let mut manifest = kind.manifest(name, pod_spec, self.batch);
        let stock = self.world.stock(&mut manifest);
        (manifest, stock)
    }

    /// Has all images of a manifest copied, without leaving an object behind.
    pub fn mirror(&self, manifest: &Value, stock: &Stock) {
        let mut pod = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "mirror" }, "spec": spec_of(manifest),
        });
        pod["spec"]["restartPolicy"] = json!("Never");
        self.namespace.create(&pod).unwrap();
        self.world.wait_until_copied(stock.keys());
        self.namespace.delete(&pod).unwrap();
    }

    /// Asserts that the images of an object are copies of those of a manifest, byte for byte.
    pub fn assert_uses_copies(&self, object: &Value, manifest: &Value, stock: &Stock) {
        let (before, after) = (images_of(spec_of(manifest)), images_of(spec_of(object)));
        assert!(!before.is_empty());
        assert_eq!(after.len(), before.len());
        for (original, copy) in before.iter().zip(&after) {
            assert!(
                copy.contains(support::REPOSITORY),
                "{original} became {copy}"
            );
            assert_eq!(
                &self.world.pull_copy(copy),
                &stock[original],
                "{original} became {copy}"
            );
        }
    }
}

/// Before 1.21 an API server has `CronJob` only in `batch/v1beta1`, which the published rules do not name.
pub fn with_cron_jobs(builder: WebhookBuilder, has_v1: bool) -> WebhookBuilder {
    if has_v1 {
        builder
    } else {
        builder.also("batch", "v1beta1", "cronjobs")
    }
}

/// Asserts that what is stored has the images of the manifest.
pub fn assert_images_stay(object: &Value, manifest: &Value) {
    assert_eq!(images_of(spec_of(object)), images_of(spec_of(manifest)));
}
