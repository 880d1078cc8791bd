//! What the queries return after changes.

mod backups;
mod candidates;
mod excluded;
mod injected;
mod limits;
mod logins;
mod memory;
mod policies;
mod random;

use std::collections::BTreeSet;

use rstest::rstest;

use mirror_contract::{Backup, NamespacePattern, Naming, OwnerPattern};

use super::*;
use crate::backups::OtherBackups;
use crate::cluster::policies::CopyClaim;
use crate::cluster::workload::{Labels, Life, NamespaceObject, Owner};
use crate::former_backups::FormerBackups;

pub const SECRET: &str = "image-mirror-pull";
pub const POD: Kind = Kind::Workload(WorkloadKind::Pod);

pub fn rules() -> Rules {
    let excluded = NamespacePattern::parse("kube-*").unwrap();
    let backup = Backup::new("ghcr.io", "acme", Naming::Flat).unwrap();
    Rules {
        former_backups: FormerBackups::new(&backup, Backup::with_both_namings("old.test/acme")),
        other_backups: OtherBackups::default(),
        backup,
        excluded_namespaces: [excluded.into_owned()].into_iter().collect(),
        pull_secret: Some(SECRET.into()),
        former_pull_secrets: Vec::new(),
        skip_owners: Vec::new(),
    }
}

/// Delivers an empty list of each kind.
pub fn complete(index: &mut Index) {
    for kind in Kind::ALL {
        index.apply(Change::Init(kind));
        index.apply(Change::InitDone(kind));
    }
}

/// An active workload `shop/<name>`, whose uid is its name.
pub fn workload(kind: WorkloadKind, name: &str, images: &[&str]) -> Workload {
    Workload {
        key: Key {
            kind,
            namespace: "shop".into(),
            name: name.into(),
        },
        uid: name.into(),
        created: Some("2026-11-23T00:00:00Z".parse().unwrap()),
        life: Life::Active,
        is_owned: false,
        controller: None,
        owners: Vec::new(),
        labels: Labels::new(),
        template_labels: Labels::new(),
        is_deleted: false,
        has_ended: false,
        revision: "".into(),
        is_exempt: false,
        is_annotated: false,
        images: images.iter().map(ToString::to_string).collect(),
        containers: images
            .iter()
            .enumerate()
            .map(|(index, image)| (format!("c{index}"), (*image).to_owned()))
            .collect(),
        originals: Vec::new(),
        never_pulled: Vec::new(),
        pull_secrets: Vec::new(),
    }
}

pub fn pod(name: &str, images: &[&str]) -> Workload {
    workload(WorkloadKind::Pod, name, images)
}

pub fn deployment(name: &str, images: &[&str]) -> Workload {
    workload(WorkloadKind::Deployment, name, images)
}

pub fn seen(workload: Workload) -> Change {
    Change::Apply(Object::Workload(Box::new(workload)))
}

pub fn gone(workload: Workload) -> Change {
    Change::Delete(Object::Workload(Box::new(workload)))
}

pub fn namespace(name: &str, is_terminating: bool) -> Object {
    Object::Namespace(NamespaceObject {
        name: name.into(),
        labels: Labels::new(),
        created: None,
        is_terminating,
    })
}

impl Index {
    pub(in crate::cluster) fn len(&self) -> usize {
        self.workloads.len()
    }

    fn is_empty(&self) -> bool {
        self.workloads.is_empty()
    }

    /// Whatever the rules say about them.
    fn all_in_backup(&self) -> impl Iterator<Item = ImageUse<'_>> {
        let claims = CopyClaim::ALL.into_iter();
        claims.flat_map(|claim| self.images_in_backup(claim))
    }

    fn all_opaque(&self) -> impl Iterator<Item = (&Image, &Image)> {
        let claims = CopyClaim::ALL.into_iter();
        claims.flat_map(|claim| self.opaque_copies(claim))
    }

    fn namespaces_with_pull_secret(&self) -> impl Iterator<Item = &str> {
        self.namespaces_naming(CURRENT_NAME)
    }
}

/// An index of these workloads.
pub fn index(workloads: impl IntoIterator<Item = Workload>) -> Index {
    let mut index = Index::new(rules());
    for workload in workloads {
        index.apply(seen(workload));
    }
    index
}

/// Each image with the number of its users and one of them.
fn images(index: &Index) -> Vec<(String, usize, String)> {
    let images = index.images();
    images
        .map(|usage| {
            (
                usage.image.to_string(),
                usage.users,
                usage.example.to_string(),
            )
        })
        .collect()
}

fn names(index: &Index) -> Vec<String> {
    index
        .images()
        .map(|usage| usage.image.to_string())
        .collect()
}

#[test]
fn images_are_counted_in_their_normal_form() {
    let digest = format!("sha256:{}", "a".repeat(64));
    let index = index([
        pod("a", &["nginx", "docker.io/library/nginx:latest"]),
        deployment(
            "web",
            &["index.docker.io/nginx", &format!("quay.io/x/y:1@{digest}")],
        ),
        pod("b", &[&format!("quay.io/x/y:2@{digest}")]),
    ]);
    let expected = [
        (
            "docker.io/library/nginx:latest".into(),
            2,
            "Deployment shop/web".into(),
        ),
        (
            format!("quay.io/x/y@{digest}"),
            2,
            "Deployment shop/web".into(),
        ),
    ];
    assert_eq!(images(&index), expected);
}

#[test]
fn images_of_the_backup_are_counted_apart() {
    let index = index([pod(
        "a",
        &[
            "ghcr.io/acme/docker.io-library-nginx:1",
            "ghcr.io/other/app:1",
        ],
    )]);
    assert_eq!(names(&index), ["ghcr.io/other/app:1"]);
    let in_backup: Vec<_> = index
        .all_in_backup()
        .map(|usage| usage.image.to_string())
        .collect();
    assert_eq!(in_backup, ["ghcr.io/acme/docker.io-library-nginx:1"]);
}

#[rstest]
#[case::ended(Workload { life: Life::Done, ..pod("a", &["nginx"]) })]
#[case::exempt(Workload { is_exempt: true, ..pod("a", &["nginx"]) })]
#[case::without_images(pod("a", &[]))]
#[case::odd_name(pod("a", &["Not An Image", "a:b:c", "\u{fc}ber/all"]))]
#[case::excluded({
    let mut workload = pod("a", &["nginx"]);
    workload.key.namespace = "kube-system".into();
    workload.pull_secrets = vec![SECRET.into()];
    workload
})]
fn what_does_not_matter_is_not_kept(#[case] workload: Workload) {
    let mut index = Index::new(rules());
    assert!(!index.apply(seen(workload)));
    assert!(index.is_empty());
    assert_eq!(index.namespaces_with_pull_secret().count(), 0);
}

#[test]
fn what_does_not_matter_any_more_is_forgotten() {
    let mut index = index([pod("a", &["nginx"])]);
    assert!(index.apply(seen(Workload {
        life: Life::Done,
        ..pod("a", &["nginx"])
    })));
    assert!(index.is_empty() && names(&index).is_empty());
}

#[test]
fn an_update_replaces() {
    let mut index = index([deployment("web", &["nginx:1", "redis:7"])]);
    assert!(index.apply(seen(deployment("web", &["nginx:2", "redis:7"]))));
    assert_eq!(
        names(&index),
        ["docker.io/library/nginx:2", "docker.io/library/redis:7"]
    );
    assert_eq!(index.len(), 1);
}

/// Most events of a watch are about the state of Pods.
#[test]
fn what_changes_nothing_is_no_news() {
    let mut index = index([pod("a", &["nginx"])]);
    assert!(!index.apply(seen(pod("a", &["nginx"]))));
    assert!(!index.apply(gone(pod("b", &["nginx"]))));
    assert!(index.apply(gone(pod("a", &["nginx"]))));
    assert!(!index.apply(gone(pod("a", &["nginx"]))));
}

#[test]
fn a_late_deletion_does_not_meet_the_successor() {
    let mut index = index([pod("a", &["nginx:1"])]);
    index.apply(seen(Workload {
        uid: "second".into(),
        ..pod("a", &["nginx:2"])
    }));
    assert!(!index.apply(gone(pod("a", &["nginx:1"]))));
    assert_eq!(names(&index), ["docker.io/library/nginx:2"]);
    // Without a uid there is nothing to tell them apart by.
    assert!(index.apply(gone(Workload {
        uid: "".into(),
        ..pod("a", &[])
    })));
    assert!(index.is_empty());
}

#[test]
fn the_same_name_in_other_kinds_and_namespaces_is_something_else() {
    let mut elsewhere = pod("web", &["c"]);
    elsewhere.key.namespace = "shop2".into();
    let mut index = index([deployment("web", &["a"]), pod("web", &["b"]), elsewhere]);
    assert_eq!(index.len(), 3);
    index.apply(gone(pod("web", &["b"])));
    assert_eq!(
        names(&index),
        ["docker.io/library/a:latest", "docker.io/library/c:latest"]
    );
}

#[test]
fn a_new_list_forgets_what_is_not_in_it() {
    let mut index = index([
        pod("a", &["a"]),
        pod("b", &["b"]),
        deployment("web", &["c"]),
    ]);
    index.apply(Change::Init(POD));
    assert!(!index.apply(seen(pod("b", &["b"]))), "nothing new about it");
    assert_eq!(
        index.len(),
        3,
        "until the list ends, everything may still be told"
    );
    assert!(index.apply(Change::InitDone(POD)));
    assert_eq!(
        names(&index),
        ["docker.io/library/b:latest", "docker.io/library/c:latest"]
    );
}

/// A list that breaks off is told again from its beginning.
#[test]
fn a_list_may_begin_twice() {
    let mut index = index([]);
    index.apply(Change::Init(POD));
    index.apply(seen(pod("a", &["a"])));
    index.apply(Change::Init(POD));
    index.apply(seen(pod("b", &["b"])));
    index.apply(Change::InitDone(POD));
    assert_eq!(names(&index), ["docker.io/library/b:latest"]);
}

#[test]
fn it_is_complete_when_every_kind_is_known() {
    let cron_job = Kind::Workload(WorkloadKind::CronJob);
    let mut index = index([]);
    for kind in Kind::ALL {
        assert!(!index.is_complete());
        if kind == cron_job {
            assert!(index.apply(Change::NotServed(kind)));
            assert!(!index.apply(Change::NotServed(kind)), "no news");
        } else {
            index.apply(Change::Init(kind));
            assert_eq!(index.sync_state(kind), SyncState::Pending);
            assert!(index.apply(Change::InitDone(kind)));
        }
    }
    assert!(index.is_complete());
    assert_eq!(index.sync_state(cron_job), SyncState::NotServed);
    // A second list, or a wrong answer, takes nothing back.
    index.apply(Change::Init(POD));
    index.apply(Change::NotServed(POD));
    assert_eq!(index.sync_state(POD), SyncState::Complete);
}

#[test]
fn users_are_bounded_and_told_by_kind() {
    let mut workloads = vec![deployment("web", &["nginx"])];
    workloads.extend((0..4000).map(|number| pod(&format!("pod-{number}"), &["nginx"])));
    let mut index = index(workloads);
    let image = ImageRef::parse("nginx").unwrap();
    let users: Vec<_> = index
        .users(&image, 3)
        .map(|user| (user.key.to_string(), user.uid))
        .collect();
    let expected = [
        ("Deployment shop/web".into(), "web"),
        ("Pod shop/pod-0".into(), "pod-0"),
        ("Pod shop/pod-1".into(), "pod-1"),
    ];
    assert_eq!(users, expected);
    assert_eq!(images(&index)[0].1, 4001);
    index.apply(Change::Init(POD));
    index.apply(Change::InitDone(POD));
    assert_eq!(images(&index)[0].1, 1);
    assert_eq!(
        index.users(&ImageRef::parse("redis").unwrap(), 3).count(),
        0
    );
}

fn with_secret(workload: Workload) -> Workload {
    Workload {
        pull_secrets: vec!["team".into(), SECRET.into()],
        ..workload
    }
}

#[test]
fn the_secret_is_wanted_where_something_names_it() {
    let mut index = index([]);
    let wanted = |index: &Index| {
        index
            .namespaces_with_pull_secret()
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    index.apply(seen(Workload {
        pull_secrets: vec!["team".into()],
        ..pod("a", &["nginx"])
    }));
    assert!(wanted(&index).is_empty());
    index.apply(seen(with_secret(pod("b", &["nginx"]))));
    // Left alone from now on, but rewritten before.
    index.apply(seen(Workload {
        is_exempt: true,
        ..with_secret(pod("c", &["nginx"]))
    }));
    assert_eq!(wanted(&index), ["shop"]);
    index.apply(gone(pod("b", &[])));
    assert_eq!(wanted(&index), ["shop"]);
    index.apply(seen(Workload {
        life: Life::Done,
        ..with_secret(pod("c", &["nginx"]))
    }));
    assert!(wanted(&index).is_empty());
}

#[test]
fn no_secret_is_wanted_where_it_cannot_be() {
    let mut index = index([with_secret(pod("a", &["nginx"]))]);
    assert_eq!(
        index.namespaces_with_pull_secret().count(),
        1,
        "the namespaces are not told yet"
    );
    index.apply(Change::Init(Kind::Namespace));
    assert!(index.apply(Change::InitDone(Kind::Namespace)));
    assert_eq!(
        index.namespaces_with_pull_secret().count(),
        0,
        "it does not exist"
    );
    assert!(index.apply(Change::Apply(namespace("shop", false))));
    assert!(!index.apply(Change::Apply(namespace("shop", false))));
    assert_eq!(index.namespaces_with_pull_secret().count(), 1);
    assert!(index.apply(Change::Apply(namespace("shop", true))));
    assert_eq!(
        index.namespaces_with_pull_secret().count(),
        0,
        "it is being deleted"
    );
    assert!(index.apply(Change::Delete(namespace("shop", true))));
    assert!(!index.apply(Change::Delete(namespace("shop", true))));
    assert_eq!(index.namespaces_with_pull_secret().count(), 0);
}

#[test]
fn the_policy_is_seen_in_pods_that_run_copies() {
    let copy = "ghcr.io/acme/docker.io-library-nginx:1";
    let at = |workload: Workload, time: &str| Workload {
        created: Some(time.parse().unwrap()),
        is_annotated: true,
        ..workload
    };
    let old = at(pod("old", &[copy]), "2025-01-01T00:00:00Z");
    let unnoted = Workload {
        is_annotated: false,
        ..old.clone()
    };
    let mut index = index([
        at(deployment("old", &[copy]), "2020-01-01T00:00:00Z"),
        at(pod("upstream", &["nginx"]), "2022-01-01T00:00:00Z"),
        Workload {
            created: None,
            ..old.clone()
        },
        unnoted.clone(),
    ]);
    assert_eq!(index.policy_seen(), None);
    assert!(index.apply(seen(at(pod("b", &[copy]), "2026-02-01T00:00:00Z"))));
    assert!(index.apply(seen(at(pod("a", &[copy]), "2026-01-01T00:00:00Z"))));
    index.apply(gone(pod("a", &[])));
    assert_eq!(
        index.policy_seen(),
        Some("2026-01-01T00:00:00Z".parse().unwrap())
    );
    assert!(index.apply(seen(old.clone())), "nothing else is new");
    assert!(!index.apply(seen(old)));
    assert_eq!(
        index.policy_seen(),
        Some("2025-01-01T00:00:00Z".parse().unwrap())
    );
}

/// The author of one object must not choose how much memory it takes.
#[test]
fn an_object_keeps_a_bounded_number_of_images() {
    let images: Vec<_> = (0..10_000)
        .map(|number| format!("nginx:{number}"))
        .collect();
    let images: Vec<_> = images.iter().map(String::as_str).collect();
    let index = index([pod("a", &images)]);
    assert_eq!(index.images().count(), 256);
}

/// What was rewritten before it was opted out still runs copies.
#[test]
fn copies_of_what_is_left_alone_are_in_use() {
    let index = index([Workload {
        is_exempt: true,
        ..pod("a", &["nginx", "ghcr.io/acme/docker.io-library-nginx:1"])
    }]);
    assert_eq!(index.images().count(), 0);
    assert_eq!(index.all_in_backup().count(), 1);
}

/// The users of one namespace must not choose how much work there is for all.
#[test]
fn a_namespace_keeps_a_bounded_number_of_images() {
    let crowd = |first: usize| {
        let images: Vec<_> = (first..first + 200)
            .map(|number| format!("nginx:{number}"))
            .collect();
        let images: Vec<_> = images.iter().map(String::as_str).collect();
        deployment(&format!("web-{first}"), &images)
    };
    let mut index = index((0..3000).step_by(200).map(crowd));
    assert_eq!(index.images().count(), 2000);
    let mut elsewhere = pod("a", &["redis"]);
    elsewhere.key.namespace = "shop2".into();
    index.apply(seen(elsewhere));
    assert_eq!(index.images().count(), 2001);
    for first in (0..3000).step_by(200) {
        index.apply(gone(crowd(first)));
    }
    assert_eq!(index.images().count(), 1);
    index.apply(seen(crowd(7000)));
    assert_eq!(index.images().count(), 201, "there is room again");
}

#[test]
fn a_kind_that_cannot_be_watched_any_more_is_not_complete() {
    let mut index = index([]);
    for kind in Kind::ALL {
        index.apply(Change::Init(kind));
        index.apply(Change::InitDone(kind));
    }
    assert!(index.is_complete());
    assert!(index.apply(Change::Failing(POD, true)));
    assert!(!index.apply(Change::Failing(POD, true)), "no news");
    assert!(!index.is_complete());
    assert!(index.apply(Change::Failing(POD, false)));
    assert!(index.is_complete());
}

/// The policy sees the direct owner of a Pod only.
#[test]
fn workloads_whose_owners_are_left_alone_are_listed_by_namespace() {
    let mut rules = rules();
    rules.skip_owners = vec![OwnerPattern::parse("example.com/Db").unwrap()];
    let mut index = Index::new(rules);
    let owned = |kind, name: &str, owner: &str| Workload {
        is_owned: true,
        controller: Some(Owner {
            api_version: "example.com/v1".into(),
            kind: owner.into(),
            name: "o".into(),
            uid: "u".into(),
        }),
        ..workload(kind, name, &["nginx"])
    };
    for (kind, name, owner) in [
        (WorkloadKind::StatefulSet, "db", "Db"),
        (WorkloadKind::Deployment, "proxy", "Db"),
        (WorkloadKind::StatefulSet, "queue", "Queue"),
        // The policy sees that itself.
        (WorkloadKind::Pod, "db-0", "Db"),
    ] {
        index.apply(seen(owned(kind, name, owner)));
    }
    assert_eq!(
        index.skipped_owners("shop"),
        "Deployment/proxy,StatefulSet/db"
    );
    assert_eq!(index.skipped_owners("other"), "");
    index.apply(gone(owned(WorkloadKind::Deployment, "proxy", "Db")));
    index.apply(seen(workload(WorkloadKind::StatefulSet, "db", &["nginx"])));
    assert_eq!(index.skipped_owners("shop"), "");
}
