//! The order of the checks, with a clock that jumps.

use futures_util::future::ready;
use mirror_contract::{Digest, Refusal, RefusalKind};
use serde_json::json;
use tokio::time::sleep;

use super::*;
use crate::cluster::Rules;
use crate::cluster::index::tests::{deployment, rules, seen};
use crate::cluster::index::{CopyState, Index};
use crate::cluster::policies::{Policies, Policy};

/// As long as a lookup lasts at most.
const HANGS: Duration = Duration::from_mins(1);

struct Scene {
    cluster: Arc<SharedIndex>,
    copy_status: CopyStatuses,
}

impl Scene {
    /// Two targets that hang for images with `invented` in their names, and have all others.
    fn start() -> Self {
        let rule = |from: &str, target: &str| json!({"images": [from], "action": "rewrite", "target": target});
        let settings = json!({
            "sidecar": "mirror-sidecar.svc:5000",
            "rules": [rule("docker.io/*", "harbor.test/hub"), rule("quay.io/*", "other.test/quay")],
        });
        let policies = Policies::default();
        policies.publish(vec![Arc::new(Policy::of_settings(&settings).unwrap())]);
        let excluded_namespaces = rules().excluded_namespaces.with_policies(policies);
        let index = Index::new(Rules {
            excluded_namespaces,
            ..rules()
        });
        let scene = Self {
            cluster: Arc::new(SharedIndex::new(index)),
            copy_status: CopyStatuses::new(),
        };
        let checks = TargetChecks {
            cluster: Arc::clone(&scene.cluster),
            check: Arc::new(|image| {
                let digest = format!("sha256:{}", "a".repeat(64));
                let digest = Digest::parse(&digest).unwrap().into_owned();
                if image.path().contains("invented") {
                    let refusal = Refusal::new(RefusalKind::Unavailable, "does not respond");
                    sleep(HANGS).map(|()| Err(refusal)).boxed()
                } else {
                    ready(Ok(digest)).boxed()
                }
            }),
            copy_status: scene.copy_status.clone(),
            replicas: Replicas::alone(),
        };
        tokio::spawn(checks.run());
        scene
    }

    /// Adds a workload for each of these images.
    fn add(&self, namespace: &str, images: impl IntoIterator<Item = String>) {
        for (number, image) in images.into_iter().enumerate() {
            let mut workload = deployment("web", &[&image]);
            workload.key.namespace = namespace.into();
            workload.key.name = format!("web-{number}").into();
            workload.uid = format!("{namespace}-{number}").into();
            self.cluster.apply(seen(workload));
        }
    }

    fn invent(&self, namespace: &str, number: usize) {
        let images = (0..number).map(|number| format!("invented/{namespace}-{number}:1"));
        self.add(namespace, images);
    }

    /// Returns the time until an image of a new workload in `namespace` can be used.
    async fn time_until_found(&self, namespace: &str, image: &str, target: &str) -> Duration {
        let added = Instant::now();
        self.add(namespace, [image.to_owned()]);
        let target = target.parse().unwrap();
        while self.copy_status.copy_state(&target) != CopyState::Mirrored {
            sleep(Duration::from_millis(100)).await;
        }
        added.elapsed()
    }
}

const NGINX: [&str; 2] = ["nginx:1", "harbor.test/hub/library/nginx:1"];

#[tokio::test(start_paused = true)]
async fn invented_images_of_one_namespace_do_not_delay_others() {
    let scene = Scene::start();
    scene.invent("evil", 300);
    sleep(Duration::from_secs(10)).await;
    let [image, target] = NGINX;
    let found = scene.time_until_found("shop", image, target).await;
    assert!(found <= Duration::from_secs(3), "{found:?}");
    // Once all have failed, a new image of the same namespace only waits for a running check.
    sleep(Duration::from_hours(2)).await;
    let redis = "harbor.test/hub/library/redis:1";
    let found = scene.time_until_found("evil", "redis:1", redis).await;
    assert!(found <= HANGS + Duration::from_secs(3), "{found:?}");
}

#[tokio::test(start_paused = true)]
async fn namespaces_take_turns_and_one_target_does_not_hold_all_checks() {
    let scene = Scene::start();
    for number in 0..40 {
        scene.invent(&format!("evil-{number}"), 20);
    }
    sleep(Duration::from_secs(10)).await;
    // Each of the 40 is served once at most before it, eight at a time.
    let [image, target] = NGINX;
    let found = scene.time_until_found("shop", image, target).await;
    assert!(found <= 6 * HANGS, "{found:?}");
    let found = scene
        .time_until_found("cafe", "quay.io/acme/app:1", "other.test/quay/acme/app:1")
        .await;
    assert!(found <= Duration::from_secs(3), "{found:?}");
}
