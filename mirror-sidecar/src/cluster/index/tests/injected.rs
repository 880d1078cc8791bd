//! Which images count as injected.

use super::*;

const COPY: &str = "ghcr.io/acme/docker.io-library-app:1";

/// The Pod of a controller, with a rewritten container and one that keeps its original.
fn pod_of(owner: &Workload, containers: &[(&str, &str)]) -> Workload {
    let images: Vec<_> = containers.iter().map(|(_, image)| *image).collect();
    Workload {
        is_owned: true,
        is_annotated: true,
        controller: Some(Owner {
            api_version: "apps/v1".into(),
            kind: owner.key.kind.name().into(),
            name: owner.key.name.clone(),
            uid: owner.uid.clone(),
        }),
        containers: containers
            .iter()
            .map(|(name, image)| ((*name).to_owned(), (*image).to_owned()))
            .collect(),
        ..pod("web-5d4f-x7", &images)
    }
}

fn found(index: &Index) -> Vec<String> {
    let found = index.injected().into_iter();
    found
        .map(|InjectedImages { key, images, .. }| {
            let images: Vec<_> = images.iter().map(ToString::to_string).collect();
            format!("{key}: {}", images.join(" "))
        })
        .collect()
}

fn replica_set() -> Workload {
    Workload {
        is_owned: true,
        ..workload(WorkloadKind::ReplicaSet, "web-5d4f", &[COPY])
    }
}

#[test]
fn containers_that_are_not_in_the_template_are_injected() {
    let pod = pod_of(&replica_set(), &[("c0", COPY), ("proxy", "mesh/proxy:1")]);
    let expected = "docker.io/mesh/proxy:1";
    // In any order.
    let mut index = index([pod.clone(), replica_set()]);
    assert_eq!(
        found(&index),
        [format!("ReplicaSet shop/web-5d4f: {expected}")]
    );
    index.apply(seen(deployment("web", &[COPY])));
    assert_eq!(found(&index), [format!("Deployment shop/web: {expected}")]);
    index.apply(gone(pod));
    assert_eq!(found(&index), [""; 0]);
}

#[rstest]
#[case::in_the_template(pod_of(&replica_set(), &[("sidecar", COPY), ("c0", "mesh/proxy:1")]))]
#[case::rewritten(pod_of(&replica_set(), &[("c0", COPY), ("proxy", COPY)]))]
#[case::not_seen_by_the_policy(Workload { is_annotated: false, ..pod_of(&replica_set(), &[("c0", COPY), ("proxy", "mesh/proxy:1")]) })]
#[case::opted_out(Workload { is_exempt: true, ..pod_of(&replica_set(), &[("c0", COPY), ("proxy", "mesh/proxy:1")]) })]
#[case::owner_is_not_known(Workload { controller: None, ..pod_of(&replica_set(), &[("c0", COPY), ("proxy", "mesh/proxy:1")]) })]
fn other_containers_are_not(#[case] pod: Workload) {
    assert_eq!(found(&index([replica_set(), pod])), [""; 0]);
}

/// An original that a Pod uses because the backup was unavailable is neither to be copied nor injected.
#[test]
fn an_original_instead_of_a_copy_is_left_alone() {
    let digest = format!("sha256:{}", "1".repeat(64));
    let original = format!("docker.io/library/app:1@{digest}");
    let mut set = replica_set();
    // The template is of another rewrite, so that the container counts as injected otherwise.
    set.containers = Vec::new();
    let entry = |copy: &str| vec![(original.clone(), copy.to_owned())];
    let pod = |copy: &str| Workload {
        originals: entry(copy),
        ..pod_of(&set, &[("c0", COPY), ("c1", &original)])
    };
    let known = index([pod(COPY), set.clone()]);
    assert_eq!(known.images().count(), 0);
    assert_eq!(found(&known), [""; 0]);
    // Its author invented the entry, or it is in a template, which another admission rewrites.
    for workload in [
        pod("ghcr.io/elsewhere/docker.io-library-app:1"),
        pod("ghcr.io/acme/docker.io-library-other:1"),
        Workload {
            originals: entry(COPY),
            ..deployment("web", &[&original])
        },
    ] {
        assert_eq!(index([workload]).images().count(), 1);
    }
}
