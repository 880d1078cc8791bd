//! Custom kinds with a Pod template. Many schemas drop the annotations of the template: `controller-gen` writes
//! `metadata: {type: object}`.

use e2e_tests::cluster::{self, CustomKind, FailurePolicy};
use rstest::rstest;
use serde_json::{Value, json};

use crate::manifests::{pod_spec, template_of};
use crate::stage::Stage;

const KEY: &str = "image-mirror.dev/original-images";

/// The schema of an object with a Pod template that has these properties besides its Pod spec.
fn schema(properties: &Value) -> Value {
    let mut template = properties.clone();
    template["spec"] = json!({ "type": "object", "x-kubernetes-preserve-unknown-fields": true });
    json!({ "type": "object", "properties": { "spec": { "type": "object", "properties": {
        "replicas": { "type": "integer" },
        "template": { "type": "object", "properties": template },
    } } } })
}

fn manifest(kind: &CustomKind) -> Value {
    json!({
        "apiVersion": kind.api_version(),
        "kind": "Widget",
        "metadata": { "name": "web" },
        "spec": { "replicas": 1, "template": { "spec": pod_spec() } },
    })
}

/// A controller is woken by each update that raises `generation`.
#[rstest]
#[case::without_annotations(json!({ "metadata": { "type": "object" } }), false)]
#[case::without_metadata(json!({}), false)]
#[case::with_annotations(json!({ "metadata": { "type": "object", "x-kubernetes-preserve-unknown-fields": true } }), true)]
fn an_update_that_changes_nothing_wakes_no_controller(
    #[case] metadata: Value,
    #[case] keeps_annotations: bool,
    #[values(false, true)] is_early: bool,
) {
    let Some(cluster) = cluster::shared() else {
        return;
    };
    let namespace = cluster.namespace("custom").unwrap();
    let kind = cluster
        .define(&namespace, "Widget", &schema(&metadata))
        .unwrap();
    let also =
        |webhook: cluster::WebhookBuilder| webhook.also(kind.group(), "v1", &kind.resource());
    let stage = Stage::with_rules(cluster, json!({}), FailurePolicy::Fail, also);
    let mut manifest = manifest(&kind);
    if metadata["metadata"].is_object() {
        // Dropped annotations leave it empty, and a manifest without it would be a change.
        manifest["spec"]["template"]["metadata"] = json!({});
    }
    let stock = stage.world.stock(&mut manifest);
    if is_early {
        // The first update after the copies are there rewrites it.
        stage.namespace.create(&manifest).unwrap();
    }
    stage.mirror(&manifest, &stock);
    stage.namespace.apply(&manifest).unwrap();

    let before = stage.namespace.get(&manifest).unwrap();
    stage.assert_uses_copies(&before, &manifest, &stock);
    let annotation = template_of(&before)["metadata"]["annotations"].get(KEY);
    assert_eq!(annotation.is_some(), keeps_annotations);
    let assert_unchanged = |after: &Value, update: &str| {
        assert_eq!(
            after["metadata"]["generation"], before["metadata"]["generation"],
            "{update}"
        );
        let stored = stage.namespace.get(&manifest).unwrap();
        assert_eq!(stored["spec"], before["spec"], "{update}");
    };
    for _ in 0..2 {
        let after = stage.namespace.apply(&manifest).unwrap();
        assert_unchanged(&after, "server-side apply");
        let after = stage.namespace.replace(&manifest).unwrap();
        assert_unchanged(&after, "replace");
        let label = json!({ "metadata": { "labels": { "tier": "web" } } });
        let after = stage.namespace.merge(&manifest, &label).unwrap();
        assert_unchanged(&after, "a label");
    }
    // A change of its own raises it once.
    let scale = json!({ "spec": { "replicas": 2 } });
    let after = stage.namespace.merge(&manifest, &scale).unwrap();
    let generation = before["metadata"]["generation"].as_u64().unwrap();
    assert_eq!(after["metadata"]["generation"], generation + 1);
    stage.assert_uses_copies(&after, &manifest, &stock);
}
