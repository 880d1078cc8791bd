//! New Pods use their originals while the backup does not respond, and copies again afterwards.

use std::time::Duration;

use e2e_tests::cluster;
use e2e_tests::manifests::template_of;
use mirror_contract::ImageRef;
use serde_json::{Value, json};
use testkit::fixtures::images_of;
use testkit::image::pull_all;

use crate::manifests::{Kind, pod_spec, spec_of};
use crate::stage::{PULL_SECRET, Stage};

const ACCOUNT: &str = "builder";
const TEAM_SECRET: &str = "team-registry";

/// Usually it is three seconds.
const DEADLINE: Duration = Duration::from_mins(1);

/// A Pod as the controller of a workload creates it.
pub fn pod_of(workload: &Value, name: &str) -> Value {
    let template = template_of(workload);
    let mut metadata = template["metadata"].clone();
    metadata["name"] = name.into();
    json!({ "apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"] })
}

fn wait_for(stage: &Stage, message: &str) {
    let is_wanted = |event: &Value| {
        let text = event["message"].as_str();
        text.is_some_and(|text| text.starts_with(message))
    };
    stage.world.sidecar.wait_for(DEADLINE, is_wanted).unwrap();
    // A minute later.
    stage.webhook.clear_cache();
}

#[test]
fn new_pods_use_originals_and_the_secrets_of_their_service_account() {
    let Some(cluster) = cluster::shared() else {
        return;
    };
    let mut stage = Stage::start(cluster);
    stage
        .namespace
        .service_account(ACCOUNT, &[TEAM_SECRET])
        .unwrap();
    let mut spec = pod_spec();
    spec["serviceAccountName"] = json!(ACCOUNT);
    let (manifest, stock) = stage.manifest(Kind::Deployment, "shop", spec);
    stage.mirror(&manifest, &stock);
    let workload = stage.namespace.create(&manifest).unwrap();
    stage.assert_uses_copies(&workload, &manifest, &stock);
    let ours = json!([{ "name": PULL_SECRET }]);
    assert_eq!(spec_of(&workload)["imagePullSecrets"], ours);

    stage.world.backup.stop();
    wait_for(&stage, "the backup registry cannot be reached or used");
    let during = stage
        .namespace
        .create(&pod_of(&workload, "during"))
        .unwrap();
    let written = images_of(spec_of(&manifest));
    for (image, written) in images_of(spec_of(&during)).iter().zip(&written) {
        let expected = &stock[written];
        let image = ImageRef::parse(image).unwrap();
        let original = ImageRef::parse(written).unwrap();
        assert_eq!(
            (image.host(), image.path()),
            (original.host(), original.path())
        );
        assert_eq!(image.tag(), original.tag());
        let digest = image.digest().unwrap().to_string();
        let pulled = pull_all(&stage.world.upstream.client(), image.path(), &digest).unwrap();
        assert_eq!(&pulled, expected);
    }
    // The API server runs its plugin for ServiceAccounts again after the policy has removed ours.
    assert_eq!(
        during["spec"]["imagePullSecrets"],
        json!([{ "name": TEAM_SECRET }])
    );
    // Nothing restarts.
    let applied = stage.namespace.apply(&manifest).unwrap();
    assert_eq!(template_of(&applied), template_of(&workload));

    stage.world.backup.restart().unwrap();
    wait_for(&stage, "the backup registry can be used again");
    let after = stage.namespace.create(&pod_of(&workload, "after")).unwrap();
    stage.assert_uses_copies(&after, &manifest, &stock);
    assert_eq!(after["spec"]["imagePullSecrets"], ours);
}
