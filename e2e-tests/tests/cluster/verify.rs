//! `mirror-sidecar verify` with the images of a real API server.

use std::process::Command;

use e2e_tests::cluster;
use serde_json::{Value, json};
use testkit::artifacts;
use testkit::image::Image;
use testkit::registry::start_registry;

use crate::manifests::Kind;

/// The rules select the workloads, so that those of other tests do not count.
#[test]
fn the_images_of_a_cluster_are_verified_and_repaired() {
    let Some(cluster) = cluster::shared() else {
        return;
    };
    let namespace = cluster.namespace("verify").unwrap();
    let account = cluster
        .sidecar_account(&namespace, "mirror-sidecar")
        .unwrap();
    let (upstream, backup) = (start_registry().unwrap(), start_registry().unwrap());
    let content = Image::index(1);
    content.push(&upstream.client(), "shop/app", "1").unwrap();
    let image = format!("{}/shop/app:1", upstream.localhost());
    let spec = json!({ "containers": [{ "name": "app", "image": image }] });
    let deployment = Kind::Deployment.manifest("app", spec, "batch/v1");
    namespace.apply(&deployment).unwrap();

    let folder = tempfile::tempdir().unwrap();
    let settings = folder.path().join("settings.json");
    let rules = json!({
        "sidecar": "mirror-sidecar.image-mirror.svc:5000",
        "rules": [{ "namespaces": [namespace.name()], "action": "mirror" }, { "action": "keep" }],
    });
    std::fs::write(&settings, rules.to_string()).unwrap();
    let verify = |more: &[&str]| {
        let output = Command::new(artifacts::sidecar_program().unwrap())
            .env_clear()
            .args(["verify", "--output=json", "--repository=copies"])
            .args(["--registry", &backup.address()])
            .args(["--insecure-registry", &backup.address()])
            .args(["--insecure-registry", &upstream.localhost()])
            .arg("--kubeconfig")
            .arg(account.kubeconfig())
            .arg("--policy-settings")
            .arg(&settings)
            .args(more)
            .output()
            .unwrap();
        let document: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        let images = document["images"].as_array().cloned().unwrap_or_default();
        let of = |name: &'static str| move |image: &Value| image[name].clone();
        let names: Vec<_> = images.iter().map(of("image")).collect();
        assert_eq!(names, [image.as_str()], "{output:?}");
        (output.status.code(), images[0]["result"].clone())
    };
    assert_eq!(verify(&[]), (Some(2), json!("not_protected")));
    assert_eq!(verify(&["--repair"]), (Some(0), json!("repaired")));
    assert_eq!(verify(&["--deep"]), (Some(0), json!("protected")));
}
