//! The images that are not copied, for the status.

use std::ops::Bound;

use super::*;

fn excluded(index: &Index) -> Vec<String> {
    let images = index.excluded_from(Bound::Unbounded);
    let line = |(image, users): (&Image, &BTreeMap<Arc<Key>, Exclusion>)| {
        let users: Vec<_> = users
            .iter()
            .map(|(key, cause)| format!("{}/{}: {cause:?}", key.namespace, key.name))
            .collect();
        format!("{image} {}", users.join(", "))
    };
    images.map(line).collect()
}

fn apply(index: &mut Index, workload: Workload) {
    index.apply(Change::Apply(Object::Workload(Box::new(workload))));
}

fn in_kube_system(name: &str, image: &str) -> Workload {
    let workload = workload(WorkloadKind::Deployment, name, &[image]);
    Workload {
        key: Key {
            namespace: "kube-system".into(),
            ..workload.key
        },
        ..workload
    }
}

#[test]
fn the_cause_of_each_is_known() {
    let mut index = Index::new(rules());
    apply(&mut index, in_kube_system("dns", "a.b/dns:1"));
    apply(
        &mut index,
        Workload {
            is_exempt: true,
            ..workload(WorkloadKind::Deployment, "web", &["a.b/web:1", "a.b/dns:1"])
        },
    );
    apply(
        &mut index,
        workload(WorkloadKind::Deployment, "db", &["a.b/db:1"]),
    );
    // Its Deployment is watched.
    let owner = Owner {
        api_version: "apps/v1".into(),
        kind: "Deployment".into(),
        name: "dns".into(),
        uid: "dns".into(),
    };
    apply(
        &mut index,
        Workload {
            is_owned: true,
            controller: Some(owner),
            ..in_kube_system("dns-1", "a.b/dns:1")
        },
    );
    let expected = [
        "a.b/dns:1 kube-system/dns: Namespace, shop/web: OptOut",
        "a.b/web:1 shop/web: OptOut",
    ];
    assert_eq!(excluded(&index), expected);
    apply(
        &mut index,
        workload(WorkloadKind::Deployment, "web", &["a.b/web:1"]),
    );
    assert_eq!(excluded(&index), ["a.b/dns:1 kube-system/dns: Namespace"]);
    complete(&mut index);
    assert!(excluded(&index).is_empty());
}

/// Nobody can fill the list of all others.
#[test]
fn a_namespace_has_a_limit() {
    let mut index = Index::new(rules());
    for number in 0..600 {
        let image = format!("a.b/c{number:03}:1");
        apply(&mut index, in_kube_system(&format!("w{number}"), &image));
    }
    assert_eq!(
        (excluded(&index).len(), index.excluded_left_out()),
        (500, 100)
    );
    for number in 0..600 {
        let gone = in_kube_system(&format!("w{number}"), "a.b/c:1");
        index.apply(Change::Delete(Object::Workload(Box::new(gone))));
    }
    apply(&mut index, in_kube_system("new", "a.b/new:1"));
    assert_eq!(excluded(&index).len(), 1);
}
