//! Events about the backup registry, at the Deployment of the sidecar.

use std::sync::Arc;
use std::time::{Duration, Instant};

use e2e_tests::cluster;
use reqwest::Method;
use serde_json::{Value, json};
use testkit::blocking;
use testkit::scripted::{Action, Auth, Fake};
use testkit::sidecar::Sidecar;
use testkit::tls::Tls;

use crate::manifests::Kind;
use crate::rights::events;
use crate::support::REPOSITORY;

const DEADLINE: Duration = Duration::from_mins(1);

fn controller(owner: &Value) -> Value {
    json!([{
        "apiVersion": owner["apiVersion"], "kind": owner["kind"], "name": owner["metadata"]["name"],
        "uid": owner["metadata"]["uid"], "controller": true,
    }])
}

#[test]
fn a_refused_login_an_expired_certificate_and_an_outage_are_events_at_the_deployment() {
    let Some(cluster) = cluster::alone() else {
        return;
    };
    let home = cluster.namespace("home").unwrap();
    let account = cluster.sidecar_account(&home, "mirror-sidecar").unwrap();
    let backup = blocking::run(Fake::start());
    let auth = |password: &str| Auth::Basic {
        user: "pusher".to_owned(),
        password: password.to_owned(),
    };
    backup.set(|knobs| knobs.auth = auth("right"));

    // As controllers make them; there are none here.
    let spec =
        || json!({ "containers": [{ "name": "app", "image": "127.0.0.1:1/mirror-sidecar:1" }] });
    let deployment = Kind::Deployment.manifest("mirror-sidecar", spec(), "batch/v1");
    let deployment = home.create(&deployment).unwrap();
    let mut set = Kind::ReplicaSet.manifest("mirror-sidecar-5d4f", spec(), "batch/v1");
    set["metadata"]["ownerReferences"] = controller(&deployment);
    let set = home.create(&set).unwrap();
    let mut pod = Kind::Pod.manifest("mirror-sidecar-5d4f-x", spec(), "batch/v1");
    pod["metadata"]["ownerReferences"] = controller(&set);
    home.create(&pod).unwrap();

    let tls = Arc::new(Tls::generate().unwrap());
    tls.expire().unwrap();
    let host = backup.host();
    let sidecar = Sidecar::builder()
        .argument(format!("--registry={host}"))
        .argument(format!("--repository={REPOSITORY}"))
        .insecure_registry(&host)
        .tls(tls)
        .argument("--registry-username=pusher")
        .argument("--registry-password=wrong")
        .argument("--kubernetes=on")
        .environment("KUBECONFIG", account.kubeconfig())
        .environment("POD_NAME", "mirror-sidecar-5d4f-x")
        .environment("POD_NAMESPACE", home.name())
        .start_listening()
        .unwrap();
    let wait = |reason: &str| {
        let start = Instant::now();
        loop {
            if let Some(event) = events(&home, reason).pop() {
                return event;
            }
            let log = || sidecar.lines().join("\n");
            assert!(start.elapsed() < DEADLINE, "no {reason}:\n{}", log());
            std::thread::sleep(Duration::from_millis(50));
        }
    };
    let event = wait("BackupLoginRefused");
    assert_eq!(event["type"], "Warning");
    let regarding = &event["regarding"];
    assert_eq!(regarding["kind"], "Deployment", "{event}");
    assert_eq!(regarding["uid"], deployment["metadata"]["uid"]);
    let note = event["note"].as_str().unwrap();
    assert!(note.contains("correct --registry-username"), "{note}");

    let event = wait("FacadeCertificateExpired");
    assert_eq!(event["type"], "Warning");
    assert_eq!(event["regarding"]["uid"], deployment["metadata"]["uid"]);

    backup.set(|knobs| knobs.auth = auth("wrong"));
    assert_eq!(wait("BackupRecovered")["type"], "Normal");

    let down = Action::Status(500, Vec::new(), "");
    backup.fault(Method::GET, "/v2/", usize::MAX, down);
    let event = wait("BackupUnavailable");
    assert_eq!(event["type"], "Warning");
    let note = event["note"].as_str().unwrap();
    assert!(
        note.contains("New Pods of templates with copies use the originals"),
        "{note}"
    );
}
