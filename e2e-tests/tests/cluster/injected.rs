//! Containers that a webhook injects after the policy: copied in any case, reported, and rewritten if that is wanted.

use e2e_tests::cluster::{self, Cluster, GlobalObject, INJECTED, Injector, Namespace};
use serde_json::{Value, json};

use crate::manifests::{Kind, pod_spec, spec_of};
use crate::readmission::shop::Shop;
use crate::rights::events;
use crate::stage::PULL_SECRET;
use crate::support::REPOSITORY;

/// The `ClusterAdmissionPolicy` that the published rights name.
const POLICY: &str = "image-mirror";
const REINVOKE: &str = "--reinvoke-policy=image-mirror";

fn configuration(name: &str) -> Value {
    json!({
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "MutatingWebhookConfiguration",
        "metadata": { "name": name },
    })
}

/// A Pod as the controller of this workload makes it.
fn pod_of(owner: &Value, name: &str) -> Value {
    let mut pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": owner["spec"]["template"]["metadata"],
        "spec": spec_of(owner),
    });
    pod["metadata"]["name"] = json!(name);
    pod["metadata"]["ownerReferences"] = json!([{
        "apiVersion": owner["apiVersion"], "kind": owner["kind"], "controller": true,
        "name": owner["metadata"]["name"], "uid": owner["metadata"]["uid"],
    }]);
    pod
}

/// The images of the containers that the template has, and of the injected one.
fn images(pod: &Value) -> (Vec<String>, String) {
    let containers = pod["spec"]["containers"].as_array().unwrap().iter();
    let image = |container: &Value| container["image"].as_str().unwrap().to_owned();
    let (injected, own): (Vec<_>, Vec<_>) =
        containers.partition(|container| container["name"] == INJECTED);
    let [injected] = injected.as_slice() else {
        panic!("{pod}");
    };
    (own.into_iter().map(image).collect(), image(injected))
}

fn is_copy(image: &str) -> bool {
    image.contains(REPOSITORY)
}

/// A workload with copies, and the original image of a mesh's proxy, which an injector adds to its Pods.
fn meshed<'a>(cluster: &'a Cluster, flags: &[&str]) -> (Shop<'a>, Value, String, Injector) {
    let mut shop = Shop::new(cluster);
    let mut proxy =
        json!({ "spec": { "containers": [{ "name": "proxy", "image": "mesh/proxy:1" }] } });
    let stock = shop.world.stock(&mut proxy);
    let proxy = stock.keys().next().unwrap().clone();
    let (manifest, _) = shop.create(Kind::ReplicaSet, "web", pod_spec());
    shop.install_policy_as(json!({}), |webhook| {
        webhook.whole_name("clusterwide-image-mirror")
    });
    shop = shop.start_sidecar(&[&["--readmit-per-minute=1000"], flags].concat());
    let owner = shop.wait_until_rewritten(&manifest);
    let injector = Injector::start(cluster, &shop.namespace, &proxy).unwrap();
    (shop, owner, proxy, injector)
}

fn create_pod(namespace: &Namespace, owner: &Value, name: &str) -> (Vec<String>, String) {
    images(&namespace.create(&pod_of(owner, name)).unwrap())
}

#[test]
fn injected_images_are_copied_and_reported_but_not_rewritten() {
    let Some(cluster) = cluster::alone_and_audited() else {
        return;
    };
    let (shop, owner, proxy, _injector) = meshed(&cluster, &[]);
    let (own, injected) = create_pod(&shop.namespace, &owner, "first");
    assert!(own.iter().all(|image| is_copy(image)), "{own:?}");
    assert_eq!(injected, proxy);
    shop.world.wait_until_copied([&proxy]);
    let (_, injected) = create_pod(&shop.namespace, &owner, "second");
    assert_eq!(injected, proxy, "although there is a copy");

    let reason = "InjectedNotRewritten";
    shop.wait_until("the Event", |shop| {
        !events(&shop.namespace, reason).is_empty()
    });
    let told = events(&shop.namespace, reason);
    let [event] = told.as_slice() else {
        panic!("one of the workload, not of each Pod: {told:?}");
    };
    assert_eq!(event["type"], "Warning", "{event}");
    assert_eq!(
        event["regarding"]["uid"], owner["metadata"]["uid"],
        "{event}"
    );
    assert!(event["note"].as_str().unwrap().contains(&proxy), "{event}");
}

#[test]
fn a_second_registration_of_the_policy_rewrites_injected_images() {
    let Some(cluster) = cluster::alone_and_audited() else {
        return;
    };
    // What the chart creates.
    let second = GlobalObject::create(
        &cluster,
        configuration(&format!("zz-{POLICY}-reinvocation")),
    );
    let second = second.unwrap();
    let (mut shop, owner, proxy, _injector) = meshed(&cluster, &[REINVOKE]);
    let webhook = || second.get().unwrap()["webhooks"][0].clone();
    shop.wait_until("the registration", |_| !webhook().is_null());
    let original = configuration(&format!("clusterwide-{POLICY}"));
    let registered = || cluster.get_global(&original).unwrap()["webhooks"][0].clone();
    let mut expected = registered();
    expected["reinvocationPolicy"] = json!("IfNeeded");
    expected["rules"] = json!([{
        "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"], "operations": ["CREATE"], "scope": "*",
    }]);
    assert_eq!(webhook(), expected);

    create_pod(&shop.namespace, &owner, "first");
    shop.world.wait_until_copied([&proxy]);
    let mut number = 0;
    shop.wait_until("the injected image to be rewritten", |shop| {
        number += 1;
        let name = format!("pod-{number}");
        is_copy(&create_pod(&shop.namespace, &owner, &name).1)
    });
    let pod = shop.namespace.create(&pod_of(&owner, "last")).unwrap();
    let (own, injected) = images(&pod);
    assert!(
        own.iter().chain([&injected]).all(|image| is_copy(image)),
        "{pod}"
    );
    assert_eq!(
        pod["spec"]["imagePullSecrets"],
        json!([{ "name": PULL_SECRET }])
    );
    let annotation = &pod["metadata"]["annotations"]["image-mirror.dev/original-images"];
    assert!(
        annotation.as_str().unwrap().contains(&proxy),
        "{annotation}"
    );
    assert_eq!(
        events(&shop.namespace, "InjectedNotRewritten"),
        [Value::Null; 0]
    );

    // Kubewarden rotates its authority: both are trusted for a while.
    let bundle = registered()["clientConfig"]["caBundle"]
        .as_str()
        .unwrap()
        .to_owned();
    let mut rotated = registered();
    rotated["clientConfig"]["caBundle"] = json!(twice(&bundle));
    cluster
        .merge_global(&original, &json!({ "webhooks": [rotated] }))
        .unwrap();
    shop.wait_until("the rotated authority", |_| {
        webhook()["clientConfig"] == registered()["clientConfig"]
    });
    assert_ne!(webhook()["clientConfig"]["caBundle"], bundle);

    // Without the policy nothing may call its server any more.
    shop.uninstall_policy();
    shop.wait_until("the registration to be emptied", |_| webhook().is_null());
    shop.wait_for_log("images of injected containers are not rewritten");
    let pod = pod_of(&owner, "without-policy");
    shop.wait_until("Pods to be admitted", |shop| {
        shop.namespace.create(&pod).is_ok()
    });

    // What helm does when the option is switched off.
    drop(second);
}

/// A bundle with the same certificate twice, both in base64.
fn twice(bundle: &str) -> String {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    let pem = STANDARD.decode(bundle).unwrap();
    STANDARD.encode([pem.as_slice(), b"\n", pem.as_slice()].concat())
}
