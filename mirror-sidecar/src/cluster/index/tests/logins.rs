//! The logins that workloads of a namespace use.

use mirror_contract::{BackupName, RewriteTarget};

use super::*;
use crate::cluster::pull_locations::LoginOwner;

/// 0: the default backup; 1: the backup of a team; 2: a target of rewrites.
fn locations() -> PullLocations {
    let backup = |name| LoginOwner::Backup(BackupName::parse(name).unwrap());
    let location = |text| RewriteTarget::parse(text).unwrap();
    PullLocations::new([
        (backup("default"), vec![location("ghcr.io/acme")]),
        (backup("team-a"), vec![location("ghcr.io/team-a")]),
        (
            LoginOwner::Target(location("hub.test")),
            vec![location("hub.test")],
        ),
    ])
}

fn complete_index() -> Index {
    let mut index = Index::new(rules());
    index.set_pull_locations(locations());
    assert!(!index.take_outdated());
    complete(&mut index);
    index
}

fn used(index: &Index, namespace: &str) -> Vec<usize> {
    index.login_access(namespace).used.iter().collect()
}

#[test]
fn workloads_use_the_logins_of_their_images() {
    let mut index = complete_index();
    assert!(used(&index, "shop").is_empty());
    let web = |images: &[&str]| deployment("web", images);
    index.apply(seen(web(&["ghcr.io/team-a/app:1", "hub.test/quay/app:1"])));
    index.apply(seen(pod("one", &["hub.test/quay/app:1", "nginx:1"])));
    assert_eq!(used(&index, "shop"), [1, 2]);
    assert!(used(&index, "other").is_empty());
    index.apply(seen(web(&["ghcr.io/acme/docker.io-library-nginx:1"])));
    assert_eq!(used(&index, "shop"), [0, 2]);
    index.apply(gone(pod("one", &[])));
    assert_eq!(used(&index, "shop"), [0]);
    index.apply(gone(web(&[])));
    assert!(used(&index, "shop").is_empty() && index.is_empty());
}

/// Its Pods may come at any time.
#[test]
fn a_workload_that_uses_nothing_but_a_target_counts() {
    let mut index = complete_index();
    let mut job = workload(WorkloadKind::CronJob, "job", &["hub.test/quay/app:1"]);
    job.life = Life::Paused;
    job.is_exempt = true;
    index.apply(seen(job.clone()));
    assert_eq!(used(&index, "shop"), [2]);
    job.life = Life::Done;
    index.apply(seen(job));
    assert!(used(&index, "shop").is_empty());
}

#[test]
fn what_is_not_known_may_use_any_login() {
    let mut index = complete_index();
    index.apply(Change::Failing(POD, true));
    assert_eq!(index.login_access("shop").used, LoginSet::ALL);
    index.apply(Change::Failing(POD, false));
    assert_eq!(index.login_access("shop").used, LoginSet::NONE);
    let mut index = index.with_limits(Limits {
        namespace: Amounts::default(),
        ..Limits::default()
    });
    index.apply(seen(pod("web", &["nginx:1"])));
    assert_eq!(index.login_access("shop").used, LoginSet::ALL, "left out");
}

#[test]
fn workloads_that_are_known_are_listed_again_for_other_locations() {
    let mut index = index([deployment("web", &["ghcr.io/team-a/app:1"])]);
    index.set_pull_locations(locations());
    assert!(index.take_outdated());
}
