//! `MirroredImage` objects in a real API server: what people see, and what they cost.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::process::Command;
use std::time::Duration;

use e2e_tests::cluster::{self, Cluster, Request};
use serde_json::{Value, json};

use crate::manifests::Kind;
use crate::replicas::{Group, wait};

/// How long changes may take: the longest patience is half a minute, and the machine may be busy.
const DEADLINE: Duration = Duration::from_mins(3);
/// Images of the large cluster, its namespaces, and the images of one workload: excluded images have limits.
const MANY: usize = 400;
const NAMESPACES: usize = 5;
const IN_ONE: usize = 25;

fn group(cluster: &Cluster, names: &[&'static str]) -> Group {
    let mut group = Group::start(cluster, &[]);
    group.environment = vec![("MIRRORED_IMAGES", "images".to_owned())];
    for name in names {
        group.add(name);
    }
    group
}

/// The objects of a group, by their images.
fn objects(cluster: &Cluster, group: &Group) -> BTreeMap<String, Value> {
    let mut objects = cluster.mirrored_images().unwrap();
    objects.retain(|object| {
        object["metadata"]["labels"]["image-mirror.dev/namespace"] == group.namespace.name()
    });
    let image = |object: &Value| object["spec"]["image"].as_str().unwrap().to_owned();
    let by_image = objects.into_iter().map(|object| (image(&object), object));
    by_image.collect()
}

/// Waits until all of these images, and no others, are mirrored, with their sizes.
fn wait_until_mirrored(cluster: &Cluster, group: &Group, images: &BTreeSet<String>) {
    wait(DEADLINE, "objects", || {
        let objects = objects(cluster, group);
        let is_complete = |object: &Value| {
            let status = &object["status"];
            status["state"] == "mirrored" && status["size"].is_string()
        };
        objects.keys().eq(images) && objects.values().all(is_complete)
    });
}

/// Verb and name of each object that a group wrote.
fn writes(cluster: &Cluster, group: &Group) -> Vec<(String, String)> {
    let writes = requests(cluster, group).into_iter().filter(|request| {
        assert_ne!(request.status, 403, "{request:?}");
        // 409: it exists already, which the watch has not reported.
        request.status < 300 && !matches!(&*request.verb, "list" | "watch")
    });
    writes.map(|request| (request.verb, request.name)).collect()
}

/// What a group asked for.
fn requests(cluster: &Cluster, group: &Group) -> Vec<Request> {
    let mut requests = cluster.requests();
    requests.retain(|request| {
        request.user == group.account.user() && request.resource == "mirroredimages"
    });
    requests
}

fn count(writes: &[(String, String)], verb: &str) -> usize {
    writes.iter().filter(|(done, _)| done == verb).count()
}

fn name(object: &Value) -> &str {
    object["metadata"]["name"].as_str().unwrap()
}

/// What kubectl writes; `None` if it is not installed, or an argument of a test that is skipped then.
fn kubectl(cluster: &Cluster, arguments: &[&str]) -> Option<String> {
    let output = Command::new("kubectl")
        .env("KUBECONFIG", cluster.admin_kubeconfig().unwrap())
        .args(arguments)
        .output();
    let Ok(output) = output else {
        let _ = writeln!(
            std::io::stderr(),
            "SKIPPED: kubectl is not installed, so that no columns are shown"
        );
        return None;
    };
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {error}");
    Some(String::from_utf8(output.stdout).unwrap())
}

#[test]
fn an_image_has_one_object_while_it_is_in_use() {
    let Some(cluster) = cluster::alone_and_audited() else {
        return;
    };
    let _definition = cluster.define_mirrored_images().unwrap();
    let mut group = group(&cluster, &["a", "b"]);
    group.wait_for_members(2, DEADLINE);
    let mut images = group.use_images(6);
    wait_until_mirrored(&cluster, &group, &images);
    assert_eq!(count(&writes(&cluster, &group), "create"), images.len());
    let stored = objects(&cluster, &group);
    let first = name(stored.values().next().unwrap()).to_owned();
    show(&cluster, &first);
    edits_are_restored(&cluster, &group, &stored);

    // All replicas start again. A new image shows that the objects were compared.
    for name in ["a", "b"] {
        assert!(group.take(name).stop().unwrap().success());
    }
    let before = writes(&cluster, &group).len();
    group.add("c");
    let known: BTreeSet<_> = stored
        .values()
        .map(|object| name(object).to_owned())
        .collect();
    images.extend(group.use_images(1));
    wait_until_mirrored(&cluster, &group, &images);
    let writes = writes(&cluster, &group).split_off(before);
    let again = writes.iter().filter(|(_, name)| known.contains(name));
    assert_eq!(again.count(), 0, "{writes:?}");

    // A replica takes over from one that crashed, and removes what is not in use any more.
    group.add("d");
    group.wait_for_members(2, DEADLINE);
    group.take("c").kill().unwrap();
    for number in 0..6 {
        let workload = Kind::Deployment.manifest(&format!("app-{number}"), json!({}), "batch/v1");
        group.namespace.delete(&workload).unwrap();
    }
    wait(DEADLINE, "removal", || objects(&cluster, &group).len() == 1);
}

/// What people see of an object, with kubectl.
fn show(cluster: &Cluster, first: &str) {
    let Some(table) = kubectl(cluster, &["get", "mimg", first]) else {
        return;
    };
    let mut lines = table.lines();
    let header: Vec<_> = lines.next().unwrap().split("  ").collect();
    let header: Vec<_> = header
        .iter()
        .map(|column| column.trim())
        .filter(|column| !column.is_empty())
        .collect();
    let columns = [
        "NAME",
        "IMAGE",
        "STATE",
        "BACKUP",
        "SIZE",
        "USED BY",
        "LAST CHECK",
        "AGE",
    ];
    assert_eq!(header, columns);
    let line = lines.next().unwrap();
    for part in [
        first,
        "acme/app-",
        "mirrored",
        "default",
        "/Deployment/app-",
    ] {
        assert!(line.contains(part), "{line}");
    }
    let wide = kubectl(cluster, &["get", "mirroredimages", "--output=wide"]).unwrap();
    for column in ["REASON", "TARGET", "DIGEST"] {
        assert!(wide.lines().next().unwrap().contains(column), "{wide}");
    }
    for condition in ["Mirrored", "Ready"] {
        let condition = format!("--for=condition={condition}");
        let object = format!("mirroredimage/{first}");
        kubectl(cluster, &["wait", &condition, &object, "--timeout=60s"]).unwrap();
    }
    let selector = "--selector=image-mirror.dev/state=mirrored";
    let selected = kubectl(cluster, &["get", "mimg", selector, "--output=name"]).unwrap();
    assert_eq!(selected.lines().count(), 6, "{selected}");
}

fn edits_are_restored(cluster: &Cluster, group: &Group, stored: &BTreeMap<String, Value>) {
    let [edited, unlabelled, deleted] = &stored.values().take(3).collect::<Vec<_>>()[..] else {
        panic!("{stored:?}");
    };
    let edit = json!({
        "metadata": { "annotations": { "example.com/note": "kept" } },
        "status": { "state": "failed", "digest": null },
    });
    cluster.merge_global(edited, &edit).unwrap();
    let no_labels = json!({ "metadata": { "labels": { "image-mirror.dev/installation": null } } });
    cluster.merge_global(unlabelled, &no_labels).unwrap();
    let gone = cluster.delete_global(deleted);
    gone.unwrap();
    wait(DEADLINE, "restored objects", || {
        let now = objects(cluster, group);
        now.len() == stored.len()
            && now.iter().all(|(image, object)| {
                let was = &stored[image];
                let parts = |object: &Value| {
                    let status = &object["status"];
                    [
                        &object["metadata"]["labels"],
                        &status["state"],
                        &status["digest"],
                    ]
                    .map(Clone::clone)
                };
                parts(object) == parts(was)
            })
    });
    let restored = cluster.get_global(edited).unwrap();
    assert_eq!(
        restored["metadata"]["annotations"]["example.com/note"],
        "kept"
    );
}

#[test]
fn installations_leave_the_objects_of_each_other_alone() {
    let Some(cluster) = cluster::alone_and_audited() else {
        return;
    };
    let _definition = cluster.define_mirrored_images().unwrap();
    let mut groups = [group(&cluster, &["a"]), group(&cluster, &["b"])];
    let images = groups[0].use_images(3);
    let mut written = Vec::new();
    for group in &groups {
        // The second one may not reach the registry of the first.
        wait(DEADLINE, "objects", || {
            objects(&cluster, group).keys().eq(&images)
        });
        let own = objects(&cluster, group);
        let own: BTreeSet<_> = own.values().map(|object| name(object).to_owned()).collect();
        written.push(own);
    }
    assert!(written[0].is_disjoint(&written[1]));
    // The objects of an installation that is gone stay.
    let [first, _] = &mut groups;
    assert!(first.take("a").stop().unwrap().success());
    for (group, own) in groups.iter().zip(&written) {
        let writes = writes(&cluster, group);
        assert_eq!(count(&writes, "create"), own.len());
        assert!(
            writes
                .iter()
                .all(|(_, name)| name.is_empty() || own.contains(name))
        );
        assert_eq!(objects(&cluster, group).len(), own.len());
    }
}

#[test]
fn without_the_definition_one_line_says_so() {
    let Some(cluster) = cluster::alone_and_audited() else {
        return;
    };
    // That of another test may still be being deleted.
    wait(DEADLINE, "no definition", || {
        cluster.mirrored_images().is_err()
    });
    let mut group = group(&cluster, &["a"]);
    let images = group.use_images(2);
    group.wait_until_copied(&images);
    let sidecar = &group.sidecars["a"];
    let lines = || {
        let mut events = sidecar.events();
        events.retain(|event| event.to_string().contains("MirroredImage"));
        events
    };
    wait(DEADLINE, "the line", || !lines().is_empty());
    assert_eq!(lines().len(), 1, "{:?}", lines());
    assert_eq!(requests(&cluster, &group).len(), 1);
}

#[test]
fn many_images_cost_a_write_each_and_none_after_a_restart() {
    let Some(cluster) = cluster::alone_and_audited() else {
        return;
    };
    let _definition = cluster.define_mirrored_images().unwrap();
    // Excluded, so that nothing has to be copied first.
    let mut group = group(&cluster, &[]);
    group
        .environment
        .push(("EXCLUDE_NAMESPACES", "many-*".to_owned()));
    let namespaces = [(); NAMESPACES].map(|()| cluster.namespace("many").unwrap());
    let in_each = MANY / NAMESPACES;
    for (number, namespace) in namespaces.iter().enumerate() {
        let first = number * in_each;
        group.use_tags(namespace, first..first + in_each, IN_ONE);
    }
    group.add("a");
    wait(4 * DEADLINE, "objects", || {
        objects(&cluster, &group).len() == MANY
    });
    assert!(group.take("a").stop().unwrap().success());
    let first = writes(&cluster, &group);
    assert_eq!((first.len(), count(&first, "create")), (MANY, MANY));

    // The object of a new image shows that all others were compared.
    group.add("b");
    group.use_tags(&namespaces[0], MANY..MANY + 1, 1);
    wait(DEADLINE, "the new object", || {
        objects(&cluster, &group).len() == MANY + 1
    });
    assert!(group.take("b").stop().unwrap().success());
    assert_eq!(writes(&cluster, &group).len(), MANY + 1);
}
