//! Who lives and who does what, without clock and network.

mod requests;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use mirror_contract::{Backup, BackupName, NamespacePattern, Naming, Sidecar};
use proptest::collection::btree_set;
use proptest::prelude::*;

use super::membership::{DEAD_AFTER, DURATION, Dead, JOIN_TIMEOUT, MAX_OTHERS, Membership};
use super::{Group, Replicas};
use crate::backups::{BackupLocations, ByBackup, OtherBackups};
use crate::cluster::policies::follow::Filter;
use crate::cluster::{Rules, testing};
use crate::former_backups::FormerBackups;

const MOMENT: Duration = Duration::from_millis(1);
const ALMOST: Duration = DURATION.saturating_sub(MOMENT);

fn key(number: usize) -> String {
    format!("image/docker.io/library/app-{number}:1")
}

/// The numbers of the first 300 keys that are this replica's.
fn owned(members: &Membership, now: Instant) -> BTreeSet<usize> {
    (0..300)
        .filter(|number| members.owns(&key(*number), now))
        .collect()
}

/// A replica that just saw all these.
fn view(own: &str, all: &BTreeSet<String>, now: Instant) -> Membership {
    let mut members = Membership::new(own, now);
    for name in all {
        members.seen(name, "1", now);
    }
    members.listed(all);
    members
}

fn names<const N: usize>(names: [&str; N]) -> BTreeSet<String> {
    names.map(str::to_owned).into()
}

#[test]
fn a_new_replica_owns_nothing_until_it_knows_the_others() {
    let start = Instant::now();
    let mut members = Membership::new("a", start);
    assert_eq!(owned(&members, start).len(), 0);
    assert_eq!(members.refresh(start), None);
    assert_eq!(members.next_change(start), Some(start + JOIN_TIMEOUT));

    // The API server does not answer.
    let late = start + JOIN_TIMEOUT;
    assert_eq!(
        owned(&members, start + JOIN_TIMEOUT.saturating_sub(MOMENT)).len(),
        0
    );
    assert_eq!(owned(&members, late).len(), 300);
    assert_eq!(members.refresh(late), Some(vec!["a".to_owned()]));

    // It does.
    let mut members = Membership::new("a", start);
    members.seen("a", "1", start);
    members.listed(&names(["a"]));
    assert_eq!(owned(&members, start).len(), 300);
    assert_eq!(members.refresh(start), Some(vec!["a".to_owned()]));
    assert_eq!(members.refresh(start), None);
}

#[test]
fn only_a_changed_lease_shows_that_a_replica_lives() {
    let start = Instant::now();
    let all = names(["a", "b"]);
    let mut members = view("a", &all, start);
    let shared = owned(&members, start);
    assert_ne!(shared.len(), 300);
    members.refresh(start);

    // A new list shows the same Lease again, and again.
    let later = start + ALMOST;
    members.seen("b", "1", later);
    members.listed(&all);
    assert_eq!(owned(&members, later), shared);
    assert_eq!(members.next_change(later), Some(start + DURATION));
    assert_eq!(members.refresh(later), None);
    let expired = start + DURATION;
    assert_eq!(owned(&members, expired).len(), 300);
    assert_eq!(members.refresh(expired), Some(vec!["a".to_owned()]));
    assert_eq!(members.next_change(expired), None);

    // It was only away.
    members.seen("b", "2", expired);
    assert_eq!(owned(&members, expired), shared);
    assert_eq!(
        members.refresh(expired),
        Some(vec!["a".to_owned(), "b".to_owned()])
    );
}

#[test]
fn a_replica_that_leaves_hands_over_immediately() {
    let now = Instant::now();
    let mut members = view("a", &names(["a", "b"]), now);
    members.deleted("b");
    assert_eq!(owned(&members, now).len(), 300);
    members.leave();
    assert_eq!(owned(&members, now).len(), 0);
    // Not even a list brings it back.
    members.listed(&names(["a"]));
    assert_eq!(owned(&members, now).len(), 0);
}

#[test]
fn a_lease_that_is_not_listed_is_deleted() {
    let now = Instant::now();
    let mut members = view("a", &names(["a", "b"]), now);
    members.listed(&names(["a"]));
    assert_eq!(owned(&members, now).len(), 300);
}

#[test]
fn a_replica_without_a_lease_still_does_its_share() {
    let now = Instant::now();
    let all = names(["a", "b", "c"]);
    let seen = view("a", &all, now);
    // Its own Lease is not in the list.
    let unseen = view("a", &names(["b", "c"]), now);
    assert_eq!(owned(&seen, now), owned(&unseen, now));
}

#[test]
fn long_dead_leases_are_deleted_at_the_version_at_which_they_were_dead() {
    let start = Instant::now();
    let mut members = view("a", &names(["a", "b"]), start);
    members.seen("b", "7", start + MOMENT);
    assert_eq!(members.take_dead(start + DEAD_AFTER), []);
    let dead = start + MOMENT + DEAD_AFTER;
    let lease = || Dead {
        name: "b".to_owned(),
        version: "7".to_owned(),
    };
    assert_eq!(members.take_dead(dead), [lease()]);
    // Not all the time if that does not help.
    assert_eq!(
        members.take_dead(dead + DEAD_AFTER.saturating_sub(MOMENT)),
        []
    );
    assert_eq!(members.take_dead(dead + DEAD_AFTER), [lease()]);
    members.seen("b", "8", dead + DEAD_AFTER);
    assert_eq!(members.take_dead(dead + DEAD_AFTER + DURATION), []);
}

#[test]
fn the_number_of_members_is_bounded() {
    let now = Instant::now();
    let mut members = Membership::new("a", now);
    for number in 0..MAX_OTHERS + 10 {
        members.seen(&format!("b-{number}"), "1", now);
    }
    let all = (0..MAX_OTHERS + 10).map(|number| format!("b-{number}"));
    members.listed(&all.collect());
    assert_eq!(members.refresh(now).unwrap().len(), MAX_OTHERS + 1);
}

#[test]
fn shares_are_about_equal() {
    let now = Instant::now();
    let all = names(["mirror-sidecar-0", "mirror-sidecar-1", "mirror-sidecar-2"]);
    for name in &all {
        let share = owned(&view(name, &all, now), now).len();
        assert!((70..130).contains(&share), "{name} has {share} of 300");
    }
}

#[test]
fn a_single_replica_owns_everything_and_leaves_immediately() {
    let replicas = Replicas::alone();
    assert!(replicas.owns("image/docker.io/library/nginx:1"));
    let leaves = std::pin::pin!(replicas.leave());
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    assert!(leaves.poll(&mut context).is_ready());
}

fn rules(repository: &str, excluded: &[&'static str], pull_secret: Option<&str>) -> Rules {
    let pattern = |text| NamespacePattern::parse(text).unwrap();
    Rules {
        excluded_namespaces: excluded.iter().copied().map(pattern).collect(),
        pull_secret: pull_secret.map(str::to_owned),
        ..testing::rules(Backup::new("registry.example:5000", repository, Naming::Flat).unwrap())
    }
}

#[test]
fn replicas_with_the_same_rules_are_a_group() {
    let with_team = |repository: &str| {
        let rules = rules("acme", &[], None);
        let locations = |backup| BackupLocations::new(backup, FormerBackups::default());
        let mut backups = ByBackup::new(locations(rules.backup.clone()));
        let team = Backup::new("registry.example:5000", repository, Naming::Flat).unwrap();
        backups.insert(BackupName::parse("team-a").unwrap(), locations(team));
        let other_backups = OtherBackups::of(&BackupName::DEFAULT, &backups);
        let rules = Rules {
            other_backups,
            ..rules
        };
        Group::of(&rules, &Filter::default())
    };
    assert_eq!(with_team("a"), with_team("a"));
    assert_ne!(with_team("a"), with_team("b"));
    assert_ne!(
        with_team("a"),
        Group::of(&rules("acme", &[], None), &Filter::default())
    );
    let group = |repository, excluded: &[_], secret| {
        Group::of(&rules(repository, excluded, secret), &Filter::default())
    };
    let group_a = group("acme", &["kube-*", "infra"], Some("pull"));
    assert_eq!(group_a, group("acme", &["infra", "kube-*"], Some("pull")));
    for other in [
        group("acme/b", &["kube-*", "infra"], Some("pull")),
        group("acme", &["kube-*"], Some("pull")),
        group("acme", &["kube-*", "infra"], None),
    ] {
        assert_ne!(group_a, other);
    }
    let followed = |addresses: &[&'static str], name: Option<&str>| {
        let addresses = addresses.iter();
        let filter = Filter {
            addresses: addresses
                .map(|address| Sidecar::parse(address).unwrap())
                .collect(),
            name: name.map(str::to_owned),
        };
        Group::of(&rules("acme", &["kube-*", "infra"], Some("pull")), &filter)
    };
    let both = followed(&["a.svc:1", "b.svc:1"], None);
    assert_eq!(both, followed(&["b.svc:1", "a.svc:1"], None));
    for other in [
        followed(&["a.svc:1"], None),
        followed(&["a.svc:1", "b.svc:1"], Some("a")),
        group_a.clone(),
    ] {
        assert_ne!(both, other);
    }
    // A label has at most 63 characters, of these at least.
    assert!(group_a.as_str().len() <= 63);
    assert!(
        group_a
            .as_str()
            .bytes()
            .all(|byte| byte.is_ascii_hexdigit())
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn every_key_has_one_owner_and_all_agree(all in btree_set("[a-z0-9-]{1,20}", 1..8)) {
        let now = Instant::now();
        let mut owners = vec![0; 300];
        for own in &all {
            for number in owned(&view(own, &all, now), now) {
                owners[number] += 1;
            }
        }
        prop_assert!(owners.iter().all(|count| *count == 1), "{:?}", owners);
    }

    #[test]
    fn only_the_keys_of_a_lost_member_move(
        all in btree_set("[a-z0-9-]{1,20}", 2..8),
        lost in any::<prop::sample::Index>(),
    ) {
        let now = Instant::now();
        let lost: String = (*lost.get(&Vec::from_iter(&all))).clone();
        let orphans = owned(&view(&lost, &all, now), now);
        let rest: BTreeSet<String> = all.iter().filter(|name| **name != lost).cloned().collect();
        for own in &rest {
            let before = owned(&view(own, &all, now), now);
            let after = owned(&view(own, &rest, now), now);
            prop_assert!(before.is_subset(&after));
            prop_assert!(after.difference(&before).all(|number| orphans.contains(number)));
        }
    }

    /// Whatever is seen in whatever order: a replica that takes part never forgets itself.
    #[test]
    fn work_always_has_an_owner(
        steps in prop::collection::vec((0..4_u8, 0..4_u8, 0..20_u64), 0..60),
    ) {
        let start = Instant::now();
        let mut now = start;
        let mut members = Membership::new("a", start);
        for (what, who, seconds) in steps {
            now += Duration::from_secs(seconds);
            let name = ["a", "b", "c", "d"][usize::from(who)];
            match what {
                0 | 1 => _ = members.seen(name, &seconds.to_string(), now),
                2 => members.deleted(name),
                _ => members.listed(&names(["a", name])),
            }
            if let Some(live) = members.refresh(now) {
                prop_assert!(live.contains(&"a".to_owned()));
                let alone = live.len() == 1;
                prop_assert_eq!(owned(&members, now).len() == 300, alone);
            }
            if let Some(next) = members.next_change(now) {
                prop_assert!(now < next);
            }
        }
    }
}
