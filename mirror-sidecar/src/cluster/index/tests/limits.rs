//! No input of a tenant takes more than its share.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::random::{any_change, any_workload};
use super::*;

/// So small that a few workloads are too many.
fn tiny() -> Limits {
    Limits {
        namespace: Amounts {
            workloads: 3,
            uses: 5,
            images: 3,
            bytes: 90,
        },
        cluster: Amounts {
            workloads: 10,
            uses: 16,
            images: 8,
            bytes: 240,
        },
    }
}

/// What is really remembered: of each namespace, and of all.
fn recount(index: &Index) -> (BTreeMap<Arc<str>, Amounts>, Amounts) {
    let mut images: BTreeMap<Arc<str>, BTreeSet<Image>> = BTreeMap::new();
    let mut amounts: BTreeMap<Arc<str>, Amounts> = BTreeMap::new();
    for (key, entry) in &index.workloads {
        let in_backup = || entry.in_backup().iter().map(|used| &used.image);
        let used = || entry.originals().iter().chain(in_backup());
        let amounts = amounts.entry(Arc::clone(&key.namespace)).or_default();
        amounts.workloads += 1;
        amounts.uses += used().count();
        images
            .entry(Arc::clone(&key.namespace))
            .or_default()
            .extend(used().cloned());
    }
    let count = |images: &BTreeSet<Image>, uses: usize, workloads: usize| Amounts {
        workloads,
        uses,
        images: images.len(),
        bytes: images.iter().map(|image| image.to_string().len()).sum(),
    };
    for (namespace, amounts) in &mut amounts {
        *amounts = count(&images[namespace], amounts.uses, amounts.workloads);
    }
    let all = images.values().flatten().cloned().collect();
    let uses = amounts.values().map(|amounts| amounts.uses).sum();
    let all = count(&all, uses, index.len());
    (amounts, all)
}

proptest! {
    #[test]
    fn the_limits_hold_and_nothing_leaks(changes in prop::collection::vec(any_change(), 0..80)) {
        let mut index = Index::new(rules()).with_limits(tiny());
        for change in changes {
            index.apply(change);
            let (namespaces, all) = recount(&index);
            prop_assert_eq!(index.amounts(), all);
            prop_assert!(index.limits.allow(Amounts::default(), all), "{:?}", all);
            for (namespace, amounts) in namespaces {
                prop_assert_eq!(index.namespaces.amounts(&namespace), amounts);
                prop_assert!(index.limits.allow(amounts, Amounts::default()), "{}: {:?}", namespace, amounts);
            }
            let left_out = index.left_out();
            let of_entries: usize = index.workloads.values().map(Entry::left_out).sum();
            prop_assert_eq!(left_out.iter().map(|left_out| left_out.images).sum::<usize>(), of_entries);
        }
        for kind in Kind::ALL {
            index.apply(Change::Init(kind));
            index.apply(Change::InitDone(kind));
        }
        prop_assert!(index.is_empty() && index.candidates.is_empty() && index.truncated.is_empty());
        prop_assert_eq!(index.amounts(), Amounts::default());
        prop_assert!(index.left_out().is_empty());
        prop_assert_eq!(format!("{:?}", index.namespaces), "Namespaces({})");
    }

    /// Whatever one namespace does, another one has its reserve.
    #[test]
    fn a_crowd_leaves_others_their_reserve(crowd in prop::collection::vec(any_workload(), 0..200)) {
        let mut index = Index::new(rules());
        for (number, mut workload) in crowd.into_iter().enumerate() {
            workload.key.name = number.to_string().into();
            index.apply(seen(workload));
        }
        let mut other = pod("a", &["redis:8"]);
        other.key.namespace = "other".into();
        index.apply(seen(other));
        prop_assert!(names(&index).contains(&"docker.io/library/redis:8".to_owned()));
    }
}

/// An image of the backup whose name is that of a copy, in one of the ways to write it.
fn spelling(number: usize) -> String {
    let digest = format!("sha256:{number:064x}");
    let copy = "ghcr.io/acme/evil.example-a";
    match number % 5 {
        0 => format!("evil.example/a/b:{number}"),
        1 => format!("evil.example/a/b@{digest}"),
        2 => format!("{copy}-b:{number}"),
        3 => format!("{copy}-b@{digest}"),
        _ => format!("{copy}-b:{number}@{digest}"),
    }
}

#[test]
fn all_spellings_count() {
    let crowd = |object: usize| {
        let images: Vec<_> = (0..256)
            .map(|number| spelling(object * 256 + number))
            .collect();
        let images: Vec<_> = images.iter().map(String::as_str).collect();
        workload(
            WorkloadKind::ReplicaSet,
            &format!("crowd-{object}"),
            &images,
        )
    };
    let mut index = index((0..400).map(crowd));
    let limits = Limits::default().namespace;
    let amounts = index.amounts();
    assert_eq!(
        index.images().count() + index.all_in_backup().count(),
        amounts.images
    );
    assert!(
        amounts.images <= limits.images && amounts.bytes <= limits.bytes,
        "{amounts:?}"
    );
    assert!(amounts.images > 1000, "{amounts:?}");
    let left_out = index.left_out();
    assert_eq!(left_out.len(), 1, "one for the namespace");
    assert_eq!(left_out[0].images, 400 * 256 - amounts.images);
    assert!(!left_out[0].has_workloads);
    // The same object told again is no news, however much of it is left out.
    assert!(!index.apply(seen(crowd(399))));
    for object in 0..400 {
        index.apply(gone(crowd(object)));
    }
    assert!(index.left_out().is_empty() && index.is_empty());
}

#[test]
fn users_of_one_image_are_bounded_too() {
    let images: Vec<_> = (0..200).map(|number| format!("nginx:{number}")).collect();
    let images: Vec<_> = images.iter().map(String::as_str).collect();
    let mut index = index((0..400).map(|number| pod(&number.to_string(), &images)));
    let amounts = index.amounts();
    let most = Limits::default().namespace.uses;
    assert_eq!((amounts.images, amounts.uses), (200, most));
    index.apply(seen(pod("0", &["nginx:0"])));
    index.apply(seen(pod("399", &images)));
    assert_eq!(index.amounts().uses, most, "the room is used again");
}

/// A Secret in use must not be removed because those who name it are not remembered.
#[test]
fn workloads_that_are_left_out_keep_their_secret() {
    let mut index = Index::new(rules()).with_limits(tiny());
    for number in 0..4 {
        index.apply(seen(pod(&number.to_string(), &["nginx"])));
    }
    let secret = Workload {
        pull_secrets: vec![SECRET.into()],
        ..pod("last", &["nginx"])
    };
    assert!(!index.apply(seen(secret.clone())), "no news");
    assert_eq!(index.len(), 3);
    assert_eq!(
        index.namespaces_with_pull_secret().collect::<Vec<_>>(),
        ["shop"]
    );
    let left_out = index.left_out();
    assert!(left_out[0].has_workloads);
    assert_eq!(&*left_out[0].key.name, "3");
    // It is known again what there is when all were told once more.
    index.apply(Change::Init(POD));
    index.apply(seen(secret));
    assert!(index.apply(Change::InitDone(POD)));
    assert!(!index.left_out().is_empty(), "there was no room yet");
    index.apply(Change::Init(POD));
    assert!(index.apply(Change::InitDone(POD)));
    assert!(index.left_out().is_empty());
    assert_eq!(index.namespaces_with_pull_secret().count(), 0);
}

/// The author of a workload can annotate a copy that is pinned to a digest with any number of tags of its original.
#[test]
fn originals_of_one_copy_are_bounded() {
    let digest = "a".repeat(64);
    let crowd = |object: usize| {
        let tags = (0..50).map(|tag| format!("{object}.{tag}"));
        let (copies, originals): (Vec<_>, Vec<_>) = tags
            .map(|tag| {
                let copy = format!("old.test/acme/docker.io-library-redis:{tag}@sha256:{digest}");
                (copy, format!("redis:{tag}"))
            })
            .unzip();
        let images: Vec<_> = copies.iter().map(String::as_str).collect();
        let mut workload = deployment(&object.to_string(), &images);
        workload.originals = copies.iter().cloned().zip(originals).collect();
        workload
    };
    let mut index = index((0..20).map(crowd));
    let noted = index.all_opaque().count();
    assert!((1..=2).contains(&noted), "{noted}");
    for object in 0..20 {
        index.apply(gone(crowd(object)));
    }
    assert_eq!(index.all_opaque().count(), 0);
    assert!(index.is_empty());
}
