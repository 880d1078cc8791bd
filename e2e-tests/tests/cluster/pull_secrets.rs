//! The pull Secrets of a `ServiceAccount` reach its Pods before the policy sees them, but only if a Pod lists none.

use e2e_tests::cluster::{self, FailurePolicy};
use serde_json::json;

use crate::manifests::{Kind, pod_spec, spec_of};
use crate::stage::{PULL_SECRET, Stage, assert_images_stay};

const ACCOUNT: &str = "builder";
const TEAM_SECRET: &str = "team-registry";

#[test]
fn ours_joins_those_of_the_service_account() {
    let Some(cluster) = cluster::shared() else {
        return;
    };
    let stage = Stage::start(cluster);
    stage
        .namespace
        .service_account(ACCOUNT, &[TEAM_SECRET])
        .unwrap();
    let mut spec = pod_spec();
    spec["serviceAccountName"] = json!(ACCOUNT);
    let (manifest, stock) = stage.manifest(Kind::Pod, "pod", spec);
    stage.mirror(&manifest, &stock);
    let stored = stage.namespace.create(&manifest).unwrap();
    stage.assert_uses_copies(&stored, &manifest, &stock);

    let seen = stage.webhook.seen();
    let came = &seen.last().unwrap().review["request"]["object"]["spec"];
    assert_eq!(came["imagePullSecrets"], json!([{ "name": TEAM_SECRET }]));
    assert_eq!(
        stored["spec"]["imagePullSecrets"],
        json!([{ "name": TEAM_SECRET }, { "name": PULL_SECRET }])
    );
}

#[test]
fn a_template_with_an_image_that_stays_upstream_is_left_to_its_service_account() {
    let Some(cluster) = cluster::shared() else {
        return;
    };
    let settings = json!({ "images": { "exclude": ["*/acme/proxy*"] } });
    let stage = Stage::with(cluster, settings, FailurePolicy::Fail);
    stage
        .namespace
        .service_account(ACCOUNT, &[TEAM_SECRET])
        .unwrap();
    let mut spec = pod_spec();
    spec["serviceAccountName"] = json!(ACCOUNT);
    let (manifest, stock) = stage.manifest(Kind::Deployment, "shop", spec);
    let proxy = spec_of(&manifest)["containers"][1]["image"].clone();
    let mirrored: std::collections::BTreeMap<_, _> = stock
        .into_iter()
        .filter(|(image, _)| proxy != image.as_str())
        .collect();
    stage.mirror(&manifest, &mirrored);

    let stored = stage.namespace.create(&manifest).unwrap();
    assert_images_stay(&stored, &manifest);
    assert_eq!(spec_of(&stored).get("imagePullSecrets"), None);

    // A Pod of it has the account's Secret when the policy sees it, so it loses nothing by getting ours.
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "pod" }, "spec": spec_of(&manifest),
    });
    let pod = stage.namespace.create(&pod).unwrap();
    let containers = &pod["spec"]["containers"];
    assert_ne!(
        containers[0]["image"],
        spec_of(&manifest)["containers"][0]["image"]
    );
    assert_eq!(containers[1]["image"], proxy);
    assert_eq!(
        pod["spec"]["imagePullSecrets"],
        json!([{ "name": TEAM_SECRET }, { "name": PULL_SECRET }])
    );
}
