//! Updates that drop the annotation with the original images, and what an outage changes afterwards: nothing.

use std::collections::BTreeSet;

use e2e_tests::cluster::{self, Namespace};
use rstest::rstest;
use serde_json::{Map, Value, json};
use testkit::fixtures::images_of;

use crate::manifests::{Kind, pod_spec, spec_of, template_of};
use crate::stage::Stage;

const KEY: &str = "image-mirror.dev/original-images";

/// The original images by their copies, without the name of the pull Secret and the digests of the copies.
fn originals(object: &Value) -> Map<String, Value> {
    let text = template_of(object)["metadata"]["annotations"][KEY].as_str();
    let mut originals: Map<String, Value> = serde_json::from_str(text.unwrap()).unwrap();
    // That of a template; a Pod lists it for good.
    originals.remove("imagePullSecret");
    originals.remove("digests");
    originals
}

/// Asserts that the annotation names the original of each image of the object, and nothing else.
fn assert_annotation_fits(object: &Value, manifest: &Value) {
    let mut expected = Map::new();
    let copies = images_of(spec_of(object)).into_iter();
    for (copy, original) in copies.zip(images_of(spec_of(manifest))) {
        expected.insert(copy, json!(original));
    }
    assert_eq!(originals(object), expected);
}

/// Stops upstream, then the sidecar as well, and asserts that each time the manifest is applied again, nothing changes.
fn assert_outages_change_nothing(mut stage: Stage, manifest: &Value) {
    let before = stage.namespace.get(manifest).unwrap();
    let assert_unchanged = |namespace: &Namespace, outage: &str| {
        let after = namespace.apply(manifest).unwrap();
        assert_eq!(
            template_of(&after)["spec"],
            template_of(&before)["spec"],
            "{outage}"
        );
        assert_eq!(
            template_of(&after)["metadata"]["annotations"],
            template_of(&before)["metadata"]["annotations"],
            "{outage}"
        );
        assert_eq!(
            after["metadata"]["generation"], before["metadata"]["generation"],
            "{outage}"
        );
    };
    stage.world.upstream.stop();
    stage.webhook.clear_cache();
    assert_unchanged(&stage.namespace, "upstream is down");
    stage.world.sidecar.kill().unwrap();
    stage.webhook.clear_cache();
    assert_unchanged(&stage.namespace, "the sidecar is down");
}

/// An operator that sets all annotations of the template that it knows.
fn replace_annotations(namespace: &Namespace, stored: &Value) -> Value {
    let mut object = stored.clone();
    object["spec"]["template"]["metadata"]["annotations"] = json!({ "team": "web" });
    namespace.replace(&object).unwrap()
}

/// An operator that names the originals and no annotations.
fn replace_template(namespace: &Namespace, stored: &Value, manifest: &Value) -> Value {
    let mut object = stored.clone();
    object["spec"]["template"] = manifest["spec"]["template"].clone();
    namespace.replace(&object).unwrap()
}

fn remove_annotations(namespace: &Namespace, stored: &Value) -> Value {
    let operations = json!([{ "op": "remove", "path": "/spec/template/metadata/annotations" }]);
    namespace.json_patch(stored, &operations).unwrap()
}

fn merge_null(namespace: &Namespace, stored: &Value) -> Value {
    let fields = json!({ "spec": { "template": { "metadata": { "annotations": null } } } });
    namespace.merge(stored, &fields).unwrap()
}

#[rstest]
#[case::replaced(|namespace: &Namespace, stored: &Value, _: &Value| replace_annotations(namespace, stored), 2)]
#[case::replaced_with_the_originals(replace_template, 1)]
#[case::json_patch(|namespace: &Namespace, stored: &Value, _: &Value| remove_annotations(namespace, stored), 1)]
#[case::merge_patch(|namespace: &Namespace, stored: &Value, _: &Value| merge_null(namespace, stored), 1)]
fn an_annotation_that_an_update_drops_is_restored(
    #[case] update: fn(&Namespace, &Value, &Value) -> Value,
    #[case] generation: u64,
) {
    let Some(cluster) = cluster::shared() else {
        return;
    };
    let stage = Stage::start(cluster);
    let (manifest, stock) = stage.manifest(Kind::Deployment, "web", pod_spec());
    stage.mirror(&manifest, &stock);
    let before = stage.namespace.apply(&manifest).unwrap();
    stage.assert_uses_copies(&before, &manifest, &stock);

    let after = update(&stage.namespace, &before, &manifest);
    assert_eq!(spec_of(&after), spec_of(&before));
    assert_eq!(originals(&after), originals(&before));
    assert_annotation_fits(&after, &manifest);
    // Only what was added besides starts a rollout.
    assert_eq!(after["metadata"]["generation"], generation);
    assert_outages_change_nothing(stage, &manifest);
}

/// The copy and its entry are stored by the same update.
#[rstest]
#[case::patched(false)]
#[case::replaced(true)]
fn a_pod_whose_image_changes_gets_an_annotation_that_fits(#[case] is_replaced: bool) {
    let Some(cluster) = cluster::shared() else {
        return;
    };
    let stage = Stage::start(cluster);
    let (manifest, stock) = stage.manifest(Kind::Pod, "pod", pod_spec());
    stage.mirror(&manifest, &stock);
    let next = json!({ "containers": [{ "name": "app", "image": "nginx:1.28" }] });
    let (next, next_stock) = stage.manifest(Kind::Pod, "next", next);
    stage.mirror(&next, &next_stock);
    let before = stage.namespace.create(&manifest).unwrap();
    stage.assert_uses_copies(&before, &manifest, &stock);

    let mut changed = manifest.clone();
    let image = spec_of(&next)["containers"][0]["image"].clone();
    changed["spec"]["containers"][0]["image"] = image.clone();
    let after = if is_replaced {
        let mut object = before.clone();
        object["spec"]["containers"][0]["image"] = image;
        let annotations = object["metadata"]["annotations"].as_object_mut().unwrap();
        annotations.remove(KEY).unwrap();
        stage.namespace.replace(&object).unwrap()
    } else {
        let patch = json!([
            { "op": "replace", "path": "/spec/containers/0/image", "value": image },
        ]);
        stage.namespace.json_patch(&manifest, &patch).unwrap()
    };
    let stocks = stock.into_iter().chain(next_stock).collect();
    stage.assert_uses_copies(&after, &changed, &stocks);
    assert_annotation_fits(&after, &changed);
    let copies: BTreeSet<_> = images_of(spec_of(&before)).into_iter().collect();
    let unused = copies
        .difference(&originals(&after).keys().cloned().collect())
        .count();
    assert_eq!(unused, 1, "the entry of the image that was replaced");
    assert_outages_change_nothing(stage, &changed);
}
