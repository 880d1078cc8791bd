//! The status of images in use: what every replica says about all, and `mirror-sidecar status` through the API server.

use std::collections::BTreeSet;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::thread;

use e2e_tests::cluster;
use serde_json::{Value, json};
use testkit::artifacts;
use testkit::sidecar::Sidecar;

use crate::manifests::Kind;
use crate::replicas::{Group, SLACK, wait};
use crate::support::COPY_DEADLINE;

const IMAGES: usize = 12;

fn get(sidecar: &Sidecar, path: &str) -> Value {
    let (status, body) = sidecar.admin_get(path).unwrap();
    assert_eq!(status, 200, "{path}: {body}");
    serde_json::from_str(&body).unwrap()
}

/// Uses an image that its registry does not have.
fn use_absent_image(group: &Group) -> String {
    let image = format!("{}/acme/absent:1", group.upstream.localhost());
    let spec = json!({ "containers": [{ "name": "app", "image": image }] });
    let manifest = Kind::Deployment.manifest("absent", spec, "batch/v1");
    group.namespace.create(&manifest).unwrap();
    image
}

fn originals(list: &Value) -> BTreeSet<String> {
    let items = list["items"].as_array().unwrap().iter();
    items
        .map(|item| item["original"].as_str().unwrap().to_owned())
        .collect()
}

fn has_all_replicas(answer: &Value) -> bool {
    let replicas = answer["replicas"].as_array().unwrap();
    replicas.len() == 3
        && replicas
            .iter()
            .all(|replica| replica["hasResponded"] == true)
}

#[test]
fn every_replica_knows_all_and_says_who_did_not_respond() {
    let Some(cluster) = cluster::alone() else {
        return;
    };
    let mut group = Group::start(&cluster, &["a", "b", "c"]);
    group.wait_for_members(3, SLACK);
    let images = group.use_images(IMAGES);
    let absent = use_absent_image(&group);
    group.wait_until_copied(&images);
    for sidecar in group.sidecars.values() {
        wait(COPY_DEADLINE, "the status", || {
            let status = get(sidecar, "/api/v1/status");
            let images = &status["images"];
            has_all_replicas(&status) && images["mirrored"] == IMAGES && images["failed"] == 1
        });
        // The reason is known to one replica, and every other one has it from there.
        let failed = || get(sidecar, "/api/v1/images?state=failed");
        wait(
            COPY_DEADLINE,
            "all replicas",
            || has_all_replicas(&failed()),
        );
        let failed = failed();
        assert_eq!(originals(&failed), [absent.clone()].into());
        let item = &failed["items"][0];
        assert_eq!(item["reason"], "the registry has no such image");
        let user =
            json!({ "namespace": group.namespace.name(), "kind": "Deployment", "name": "absent" });
        assert_eq!(item["users"], json!({ "total": 1, "items": [user] }));
        let mirrored = get(sidecar, "/api/v1/images?state=mirrored");
        let items = mirrored["items"].as_array().unwrap();
        assert_eq!(items.len(), IMAGES);
        for item in items {
            assert_eq!(item["reason"], "the backup has a complete copy");
            assert!(item["lastCopy"].is_string(), "{item}");
        }
    }
    // Pages of one image each add up to the whole list, from any replica.
    let (mut seen, mut path) = (BTreeSet::new(), "/api/v1/images?limit=1".to_owned());
    for sidecar in group.sidecars.values().cycle() {
        let page = get(sidecar, &path);
        seen.extend(originals(&page));
        let Some(next) = page["continue"].as_str() else {
            break;
        };
        path = format!(
            "/api/v1/images?limit=1&continue={}",
            next.replace('/', "%2F")
        );
    }
    assert_eq!(seen.len(), IMAGES + 1);

    // A crash: for a while its Lease says that it is alive.
    group.take("c").kill().unwrap();
    let status = get(&group.sidecars["a"], "/api/v1/status");
    let silent = &status["replicas"][2];
    assert_eq!(
        (&silent["name"], &silent["hasResponded"]),
        (&json!("c"), &json!(false))
    );
    assert!(silent["reason"].is_string());
    let count = |state: &str| status["images"][state].as_u64().unwrap();
    let known: u64 = ["missing", "copying", "mirrored", "failed"]
        .map(count)
        .iter()
        .sum();
    assert_eq!(known, IMAGES as u64 + 1);
    let list = get(&group.sidecars["a"], "/api/v1/images");
    assert_eq!(originals(&list).len(), IMAGES + 1);
    // A replica checks the copies of others now and then.
    wait(COPY_DEADLINE, "the copies of c", || {
        let mirrored = get(&group.sidecars["b"], "/api/v1/images?state=mirrored");
        originals(&mirrored).len() == IMAGES
    });
}

/// Another address of this machine than loopback, which the API server does not connect to.
fn own_address() -> Option<std::net::IpAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    socket.connect("198.51.100.1:9").ok()?;
    let address = socket.local_addr().ok()?.ip();
    (!address.is_loopback()).then_some(address)
}

/// Forwards connections to a port of loopback.
fn forward(to: SocketAddr, from: std::net::IpAddr) -> SocketAddr {
    let listener = TcpListener::bind((from, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for client in listener.incoming() {
            let (client, server) = (client.unwrap(), TcpStream::connect(to).unwrap());
            for (mut from, mut to) in [
                (client.try_clone().unwrap(), server.try_clone().unwrap()),
                (server, client),
            ] {
                thread::spawn(move || {
                    let _ = io::copy(&mut from, &mut to);
                    let _ = to.shutdown(std::net::Shutdown::Write);
                });
            }
        }
    });
    address
}

fn status(kubeconfig: &Path, arguments: &[&str]) -> Output {
    Command::new(artifacts::sidecar_program().unwrap())
        .arg("status")
        .args(arguments)
        .env_clear()
        .env("KUBECONFIG", kubeconfig)
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

/// A Service like that of the chart, in front of this address.
fn serve(group: &Group, address: SocketAddr) {
    let labels = json!({
        "app.kubernetes.io/part-of": "image-mirror",
        "app.kubernetes.io/component": "sidecar",
    });
    let service = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": { "name": "mirror-sidecar", "labels": labels },
        "spec": { "ports": [{ "name": "admin", "port": 8080 }] },
    });
    group.namespace.create(&service).unwrap();
    let (ip, port) = (address.ip().to_string(), address.port());
    // The API server connects to the address of a Pod only.
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": { "name": "mirror-sidecar-0", "annotations": { "image-mirror.dev/skip": "true" } },
        "spec": { "containers": [{ "name": "sidecar", "image": "a.test/mirror-sidecar:1" }] },
    });
    group.namespace.create(&pod).unwrap();
    let ready = json!({ "podIP": ip, "podIPs": [{ "ip": ip }] });
    group.namespace.merge_status(&pod, &ready).unwrap();
    let target =
        json!({ "kind": "Pod", "name": "mirror-sidecar-0", "namespace": group.namespace.name() });
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": { "name": "mirror-sidecar-1", "labels": { "kubernetes.io/service-name": "mirror-sidecar" } },
        "addressType": "IPv4",
        "endpoints": [{ "addresses": [ip], "targetRef": target }],
        "ports": [{ "name": "admin", "port": port }],
    });
    let endpoints = json!({
        "apiVersion": "v1", "kind": "Endpoints",
        "metadata": { "name": "mirror-sidecar" },
        "subsets": [{ "addresses": [{ "ip": ip, "targetRef": target }], "ports": [{ "name": "admin", "port": port }] }],
    });
    // Older API servers have no slices, newer ones read nothing else.
    let created = [&slice, &endpoints].map(|object| group.namespace.create(object).is_ok());
    assert!(created.contains(&true));
}

#[test]
fn the_command_reads_the_status_through_the_api_server() {
    let Some(cluster) = cluster::alone() else {
        return;
    };
    let own = own_address().expect("the API server connects to no port of loopback");
    let mut group = Group::start(&cluster, &["a"]);
    let admin: SocketAddr = group.sidecars["a"].admin().parse().unwrap();
    serve(&group, forward(admin, own));
    let images = group.use_images(2);
    group.wait_until_copied(&images);
    let rule = |value: Value| serde_json::from_value(value).unwrap();
    let list = rule(json!({ "apiGroups": [""], "resources": ["services"], "verbs": ["list"] }));
    let proxy =
        rule(json!({ "apiGroups": [""], "resources": ["services/proxy"], "verbs": ["get"] }));
    let operator = cluster
        .account(&group.namespace, "operator", &[list, proxy])
        .unwrap();
    let home = group.namespace.name().to_owned();
    let namespace = ["--namespace", &home];
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    wait(COPY_DEADLINE, "the summary", || {
        let output = status(operator.kubeconfig(), &namespace);
        let summary = text(&output.stdout);
        output.status.code() == Some(0) && summary.starts_with("Everything in use is protected.\n")
    });

    let absent = use_absent_image(&group);
    wait(COPY_DEADLINE, "the failure", || {
        let output = status(operator.kubeconfig(), &namespace);
        let lines = text(&output.stdout);
        let mut lines = lines.lines();
        output.status.code() == Some(2)
            && lines.any(|line| line.starts_with("failed") && line.contains(&absent))
    });
    let one = status(
        operator.kubeconfig(),
        &[&namespace[..], &[&absent]].concat(),
    );
    assert_eq!(one.status.code(), Some(2));
    let sentences = text(&one.stdout);
    assert!(sentences.contains("  State: failed: "), "{sentences}");
    let user = format!("    Deployment {}/absent\n", group.namespace.name());
    assert!(sentences.contains(&user), "{sentences}");
    let filters = ["--output", "json", "--state", "mirrored", "-n", &home];
    let document = status(operator.kubeconfig(), &[&namespace[..], &filters].concat());
    let document: Value = serde_json::from_slice(&document.stdout).unwrap();
    assert_eq!(originals(&document), images);

    // Without the right, the message names it. Without the Service, it says what to set.
    let list = rule(json!({ "apiGroups": [""], "resources": ["services"], "verbs": ["list"] }));
    let guest = cluster.account(&group.namespace, "guest", &[list]).unwrap();
    let refused = status(guest.kubeconfig(), &namespace);
    assert_eq!(refused.status.code(), Some(1));
    assert!(text(&refused.stderr).contains("the permission `get` for `services/proxy`"));
    let nowhere = status(operator.kubeconfig(), &["--namespace", "default"]);
    assert!(text(&nowhere.stderr).contains("set --namespace and --service"));
    // Nothing behind the Service.
    group.take("a").kill().unwrap();
    let silent = status(operator.kubeconfig(), &namespace);
    assert_eq!(silent.status.code(), Some(1));
    assert!(
        text(&silent.stderr).contains("networkPolicy.status"),
        "{silent:?}"
    );
}
