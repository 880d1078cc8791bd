//! The pure parts, with time that is given.

use std::time::Duration;

use mirror_contract::{Backup, Digest, ImageRef, Naming};
use mirror_copy::Completeness;
use tokio::time::Instant;

use super::conditions::{Condition, top_level};
use super::image_checks::{Presence, Upstream};
use super::image_state::{Check, Clock, ImageState, Owner, REPORT_COPY_FOR};
use super::images_in_use::{Use, images_in_use};
use super::metrics::{BackupCheck, UpstreamCheck};
use super::probe::ProbeError;
use super::recheck_schedule::{Phase, RecheckSchedule};
use super::referrer_checks::{ReferrerKind, UpstreamReferrers};
use super::work_queue::WorkQueue;
use crate::cluster::config::OnMovedTag;
use crate::cluster::copy_status::State;
use crate::cluster::index::Image;
use crate::cluster::index::tests::{seen, workload};
use crate::cluster::workload_kind::WorkloadKind;
use crate::cluster::{Change, CopyState, ExcludedNamespaces, Index, Rules, Workload};
use crate::copy_queue::{Outlook, Status, Task};
use crate::lookup::{PartsPlan, Turn};

const HOUR: Duration = Duration::from_hours(1);

fn image(name: &str) -> ImageRef<'static> {
    name.parse().unwrap()
}

fn digest(seed: char) -> Digest<'static> {
    let text = format!("sha256:{}", seed.to_string().repeat(64));
    Digest::parse(&text).unwrap().into_owned()
}

fn backup() -> Backup {
    Backup::new("backup.test:5000", "acme", Naming::Flat).unwrap()
}

/// What to find out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Wish {
    presence: bool,
    upstream: bool,
}

/// One item and a clock that the test moves.
struct Bench {
    item: ImageState,
    recheck_schedule: RecheckSchedule,
    now: Instant,
    on_moved: OnMovedTag,
}

impl Bench {
    fn new(owner: Owner) -> Self {
        let now = Instant::now();
        let recheck_schedule = RecheckSchedule::new(HOUR, now, Duration::from_secs(1_700_000_000));
        let clock = Clock {
            recheck_schedule: &recheck_schedule,
            now,
        };
        let item = ImageState::new(Phase::of(&image("nginx:1")), owner, now, clock);
        Self {
            item,
            recheck_schedule,
            now,
            on_moved: OnMovedTag::Update,
        }
    }

    /// One whose copy is there, and whose turn is now.
    fn mirrored(owner: Owner) -> Self {
        let mut bench = Self::new(owner);
        bench.found(complete('a'));
        bench.sleep();
        bench
    }

    fn found(&mut self, presence: Presence) -> Option<Task> {
        self.seen(Ok(presence)).1
    }

    fn seen(&mut self, presence: Result<Presence, ProbeError>) -> (BackupCheck, Option<Task>) {
        let clock = Clock {
            recheck_schedule: &self.recheck_schedule,
            now: self.now,
        };
        self.item.backup_checked(presence, clock)
    }

    fn asked(&mut self, upstream: Upstream) -> (UpstreamCheck, Option<Task>) {
        let clock = Clock {
            recheck_schedule: &self.recheck_schedule,
            now: self.now,
        };
        self.item.upstream_checked(upstream, self.on_moved, clock)
    }

    fn follow(&mut self, status: impl Into<Option<Status>>) {
        let clock = Clock {
            recheck_schedule: &self.recheck_schedule,
            now: self.now,
        };
        self.item.job_changed(status.into(), clock);
    }

    fn hold_back(&mut self, wait: Duration) {
        let clock = Clock {
            recheck_schedule: &self.recheck_schedule,
            now: self.now,
        };
        self.item.wait_for_budget(self.now + wait, clock);
    }

    fn give_to(&mut self, owner: Owner) {
        let clock = Clock {
            recheck_schedule: &self.recheck_schedule,
            now: self.now,
        };
        self.item.set_owner(owner, clock);
    }

    /// Until there is something to find out; how long that is, and what.
    fn sleep(&mut self) -> (Duration, Wish) {
        let next = self.next().expect("there is always something to do");
        let slept = next.saturating_duration_since(self.now);
        self.now += slept;
        (slept, self.wish())
    }

    fn next(&self) -> Option<Instant> {
        let looks = [Check::Backup, Check::Upstream].map(|look| self.item.next(look));
        looks.into_iter().flatten().min()
    }

    /// What is to be found out now.
    fn wish(&self) -> Wish {
        let is_due = |look| self.item.next(look).is_some_and(|at| at <= self.now);
        Wish {
            presence: is_due(Check::Backup),
            upstream: is_due(Check::Upstream),
        }
    }

    fn has_news(&self) -> bool {
        self.item.is_newly_mirrored(self.now)
    }

    fn state(&self) -> State {
        self.item.record().state
    }
}

fn complete(seed: char) -> Presence {
    Presence::Complete {
        digest: digest(seed),
        repaired: false,
    }
}

fn pending() -> Status {
    Status::Pending("queued".into())
}

fn failed(lasting: bool) -> Status {
    Status::Failed {
        reason: "the registry is on fire".into(),
        outlook: if lasting {
            Outlook::Lasting
        } else {
            Outlook::Passing
        },
    }
}

const ONLY_BACKUP: Wish = Wish {
    presence: true,
    upstream: false,
};
const BOTH: Wish = Wish {
    presence: true,
    upstream: true,
};

#[test]
fn a_new_image_is_looked_for_at_once_and_then_once_an_interval() {
    let mut bench = Bench::new(Owner::Ours);
    assert_eq!(bench.sleep(), (Duration::ZERO, ONLY_BACKUP));
    assert_eq!(bench.found(complete('a')), None);
    assert!(!bench.has_news(), "it was there before");
    let (slept, wish) = bench.sleep();
    assert!(slept <= HOUR && wish == BOTH, "{slept:?} {wish:?}");
    for _ in 0..5 {
        bench.found(complete('a'));
        assert_eq!(
            bench.asked(Upstream::Is(digest('a'))),
            (UpstreamCheck::Current, None)
        );
        assert_eq!(bench.sleep(), (HOUR, BOTH));
    }
}

#[test]
fn a_missing_copy_is_made_and_then_seen() {
    let mut bench = Bench::new(Owner::Ours);
    assert_eq!(bench.found(Presence::Missing), Some(Task::Copy));
    bench.follow(pending());
    assert_eq!(bench.state(), State::Copying);
    bench.follow(pending());
    bench.follow(None);
    assert_eq!(bench.sleep(), (Duration::ZERO, ONLY_BACKUP));
    bench.found(complete('a'));
    assert!(bench.has_news());
    bench.now += REPORT_COPY_FOR;
    assert!(!bench.has_news());
    // What vanished afterwards is not believed to be whole.
    bench.sleep();
    assert_eq!(bench.found(Presence::Missing), Some(Task::Restore));
}

/// A registry that loses everything at once must not be written to for ever.
#[test]
fn a_copy_that_is_never_seen_is_made_more_and_more_seldom() {
    let mut bench = Bench::new(Owner::Ours);
    let mut made = 0;
    let start = bench.now;
    while bench.now < start + HOUR {
        bench.sleep();
        if bench.found(Presence::Missing).is_some() {
            made += 1;
            bench.follow(pending());
            bench.follow(None);
        }
    }
    assert!((8..=15).contains(&made), "{made}");
}

#[test]
fn nothing_is_missing_while_the_backup_cannot_be_seen() {
    let blind = |is_outage| ProbeError {
        reason: "503".into(),
        is_outage,
    };
    let mut bench = Bench::mirrored(Owner::Ours);
    for seconds in [1, 2, 4, 8, 16, 30, 30] {
        assert_eq!(
            bench.seen(Err(blind(true))),
            (BackupCheck::Unavailable, None)
        );
        assert_eq!(bench.item.record().state.copy_state(), CopyState::Mirrored);
        let next = bench.next().unwrap();
        // It is its turn to be asked about upstream as well.
        assert!(next <= bench.now + Duration::from_secs(seconds));
        bench.now += Duration::from_secs(seconds);
        assert!(bench.wish().presence);
    }
    bench.seen(Err(blind(false)));
    bench.now += Duration::from_mins(14);
    assert!(!bench.wish().presence);
}

#[test]
fn a_moved_tag_is_followed_once_an_interval_at_most() {
    let mut bench = Bench::mirrored(Owner::Ours);
    let mut updates = 0;
    let mut current = 'a';
    let end = bench.now + HOUR * 10;
    let mut answers = ['b', 'a'].into_iter().cycle();
    while bench.now < end {
        // The registry says something else each time, and is sometimes gone, so that it is asked more often.
        let answer = answers.next().unwrap();
        bench.found(complete(current));
        if let (UpstreamCheck::Updated, Some(task)) = bench.asked(Upstream::Is(digest(answer))) {
            assert_eq!(task, Task::Update);
            updates += 1;
            current = answer;
            bench.follow(pending());
            assert_eq!(bench.item.record().state.copy_state(), CopyState::Mirrored);
            bench.follow(None);
            bench.sleep();
            bench.found(complete(current));
        }
        bench.asked(Upstream::Absent);
        bench.sleep();
    }
    assert!((5..=11).contains(&updates), "{updates}");
}

#[test]
fn missing_referrers_are_brought_three_times_at_most() {
    let mut bench = Bench::mirrored(Owner::Ours);
    bench.found(complete('a'));
    let seen = |kind, fingerprint, are_missing| UpstreamReferrers {
        kind,
        fingerprint,
        are_missing,
    };
    let kind = ReferrerKind::Listed;
    let missing = |fingerprint| [seen(kind, fingerprint, true)];
    let known = |bench: &Bench, kind| {
        let plan = bench.item.referrers_plan(Clock {
            recheck_schedule: &bench.recheck_schedule,
            now: bench.now,
        });
        *plan.known.of(kind)
    };
    for list in [1, 2] {
        for _ in 0..3 {
            let task = bench.item.referrers_checked(&missing(list));
            assert_eq!(task, Some(Task::Update));
            let again = bench.item.referrers_checked(&missing(list));
            assert_eq!(again, None, "under way");
            bench.follow(None);
            bench.found(complete('a'));
        }
        assert_ne!(known(&bench, kind), Some(list));
        assert_eq!(bench.item.referrers_checked(&missing(list)), None);
        assert_eq!(known(&bench, kind), Some(list));
        assert_eq!(bench.item.referrers_checked(&missing(list)), None);
    }
    assert_eq!(bench.item.referrers_checked(&[seen(kind, 3, false)]), None);
    assert_eq!(known(&bench, kind), Some(3));
    // What waits for a budget was not tried. Other kinds keep their count.
    let signature = ReferrerKind::Signature;
    let both = [seen(kind, 4, true), seen(signature, 5, true)];
    for _ in 0..3 {
        let task = bench.item.referrers_checked(&both[1..]);
        assert_eq!(task, Some(Task::Update));
        bench.follow(None);
        bench.found(complete('a'));
    }
    for _ in 0..5 {
        let task = bench.item.referrers_checked(&both);
        assert_eq!(task, Some(Task::Update));
        assert_eq!(known(&bench, signature), Some(5));
        bench.hold_back(HOUR);
    }
    assert_eq!(bench.item.referrers_checked(&[]), None);
    for owner in [Owner::Others, Owner::Foreign] {
        let mut bench = Bench::mirrored(owner);
        bench.found(complete('a'));
        assert_eq!(bench.item.referrers_checked(&missing(1)), None);
    }
}

#[test]
fn a_moved_tag_can_be_kept() {
    let mut bench = Bench::mirrored(Owner::Ours);
    bench.on_moved = OnMovedTag::Keep;
    for _ in 0..2 {
        bench.found(complete('a'));
        assert_eq!(
            bench.asked(Upstream::Is(digest('b'))),
            (UpstreamCheck::Kept, None)
        );
        assert!(bench.item.record().is_kept);
        bench.sleep();
    }
    bench.asked(Upstream::Is(digest('a')));
    assert!(!bench.item.record().is_kept);
}

#[test]
fn a_failed_update_leaves_the_older_copy() {
    let mut bench = Bench::mirrored(Owner::Ours);
    bench.found(complete('a'));
    bench.asked(Upstream::Is(digest('b')));
    bench.follow(failed(true));
    assert_eq!(
        bench.state(),
        State::Mirrored {
            digest: digest('a')
        }
    );
    assert_eq!(bench.item.condition(bench.now + HOUR), None);
    let (slept, _) = bench.sleep();
    assert_eq!(slept, HOUR);
    assert_eq!(
        bench.asked(Upstream::Is(digest('b'))),
        (UpstreamCheck::Updated, Some(Task::Update))
    );
}

#[test]
fn the_last_copy_is_known_after_two_absences_in_a_row_and_ends_with_them() {
    let gone = |bench: &mut Bench| bench.asked(Upstream::Absent).0 == UpstreamCheck::Gone;
    let unknown = || Upstream::Unknown {
        reason: "401".into(),
        lasting: true,
    };
    let mut bench = Bench::mirrored(Owner::Ours);
    bench.found(complete('a'));
    assert!(gone(&mut bench));
    assert_eq!(bench.item.condition(bench.now), None);
    let (slept, wish) = bench.sleep();
    assert_eq!(slept, Duration::from_mins(1));
    assert!(wish.upstream);
    // A registry that refuses to say says nothing about that.
    bench.asked(unknown());
    assert_eq!(bench.item.condition(bench.now), None);
    assert!(gone(&mut bench));
    assert_eq!(bench.item.condition(bench.now), Some(Condition::LastCopy));
    assert!(bench.item.record().is_last_copy);
    bench.asked(unknown());
    assert_eq!(bench.item.condition(bench.now), Some(Condition::LastCopy));
    bench.asked(Upstream::Is(digest('a')));
    assert_eq!(bench.item.condition(bench.now), None);
    assert!(gone(&mut bench));
    assert_eq!(
        bench.item.condition(bench.now),
        None,
        "the count starts again"
    );
}

#[test]
fn an_image_without_original_and_copy_is_lost_until_either_is_back() {
    let absent = || {
        Some(Status::Failed {
            reason: "not found".into(),
            outlook: Outlook::Absent,
        })
    };
    let mut bench = Bench::mirrored(Owner::Ours);
    for _ in 0..2 {
        bench.asked(Upstream::Absent);
    }
    assert_eq!(bench.found(Presence::Missing), Some(Task::Restore));
    bench.follow(absent());
    assert_eq!(bench.item.condition(bench.now), Some(Condition::Lost));
    bench.sleep();
    bench.found(Presence::Missing);
    assert!(
        bench.item.record().is_last_copy,
        "also while it is tried again"
    );
    bench.found(complete('a'));
    assert_eq!(bench.item.condition(bench.now), None);
    assert!(!bench.item.record().is_last_copy);

    // After a restart only the workload knows that there was a copy.
    for (is_named_as_copy, alarm) in [(true, Some(Condition::Lost)), (false, None)] {
        let mut bench = Bench::new(Owner::Ours);
        bench.item.set_named_as_copy(is_named_as_copy);
        for _ in 0..2 {
            bench.found(Presence::Missing);
            bench.follow(absent());
            bench.sleep();
        }
        let told = bench.item.condition(bench.now);
        assert_eq!(told.filter(|told| *told == Condition::Lost), alarm);
    }
}

#[test]
fn what_another_replica_keeps_is_only_looked_for() {
    let mut bench = Bench::new(Owner::Others);
    let mut polls = Vec::new();
    for _ in 0..3 {
        let (slept, wish) = bench.sleep();
        polls.push(slept.as_secs());
        assert_eq!(wish, ONLY_BACKUP);
        assert_eq!(bench.found(Presence::Missing), None);
        assert_eq!(bench.state(), State::Missing);
    }
    assert_eq!(polls, [0, 1, 2]);
    // It cannot know why, so it finds out whether there is hope.
    let wish = bench.wish();
    assert!(wish.upstream);
    bench.asked(Upstream::Absent);
    assert_eq!(bench.item.record().state.copy_state(), CopyState::Never);
    assert_eq!(bench.item.condition(bench.now), None, "others tell");
    bench.sleep();
    bench.found(Presence::Missing);
    assert_eq!(bench.item.record().state.copy_state(), CopyState::Never);
    bench.asked(Upstream::Is(digest('a')));
    assert_eq!(bench.item.record().state.copy_state(), CopyState::Missing);
    bench.found(complete('a'));
    assert!(!bench.has_news(), "others made it");
    assert_eq!(bench.sleep().1, ONLY_BACKUP);
}

#[test]
fn a_new_owner_looks_at_once() {
    let mut bench = Bench::new(Owner::Others);
    for _ in 0..8 {
        bench.sleep();
        bench.found(Presence::Missing);
    }
    bench.give_to(Owner::Ours);
    assert_eq!(bench.sleep(), (Duration::ZERO, ONLY_BACKUP));
    assert_eq!(bench.found(Presence::Missing), Some(Task::Copy));
    // What it knew about the original is the next owner's to find out.
    let mut bench = Bench::mirrored(Owner::Ours);
    bench.asked(Upstream::Absent);
    bench.asked(Upstream::Absent);
    assert!(bench.item.record().is_last_copy);
    bench.give_to(Owner::Others);
    assert!(!bench.item.record().is_last_copy);
}

#[test]
fn failures_are_told_when_they_last() {
    let mut bench = Bench::new(Owner::Ours);
    bench.found(Presence::Missing);
    bench.follow(failed(false));
    assert_eq!(bench.item.condition(bench.now), None);
    assert_eq!(bench.item.record().state.copy_state(), CopyState::Missing);
    bench.now += Duration::from_mins(1);
    bench.follow(pending());
    bench.follow(failed(false));
    let reason = "the registry is on fire".to_owned();
    assert_eq!(
        bench.item.condition(bench.now),
        Some(Condition::NotMirrored(reason.clone()))
    );
    bench.follow(failed(true));
    assert_eq!(bench.item.record().state.copy_state(), CopyState::Never);
    assert_eq!(
        bench.item.condition(bench.now),
        Some(Condition::NotMirrored(reason))
    );
    let (slept, _) = bench.sleep();
    assert!(slept <= Duration::from_mins(15));
    assert_eq!(bench.found(Presence::Missing), Some(Task::Copy));
    bench.follow(pending());
    bench.follow(None);
    bench.found(complete('a'));
    assert_eq!(bench.item.condition(bench.now), None);
    assert!(bench.has_news());
}

#[test]
fn an_image_that_is_no_copy_is_only_reported() {
    let mut bench = Bench::new(Owner::Foreign);
    assert_eq!(bench.found(Presence::Missing), None);
    assert!(matches!(
        bench.item.condition(bench.now),
        Some(Condition::NotMirrored(reason)) if reason.contains("not in the backup")
    ));
    assert!(!bench.item.follows_job());
    bench.give_to(Owner::Ours);
    bench.sleep();
    bench.found(complete('a'));
    assert_eq!(bench.item.condition(bench.now), None);
    assert_eq!(bench.sleep().1, ONLY_BACKUP);
}

#[test]
fn turns_are_spread_evenly_and_stay_after_a_restart() {
    let start = Instant::now();
    let unix = Duration::from_secs(1_700_000_123);
    let recheck_schedule = RecheckSchedule::new(HOUR, start, unix);
    let later = start + Duration::from_secs(1_000);
    let restarted = RecheckSchedule::new(HOUR, later, unix + Duration::from_secs(1_000));
    let mut minutes = [0; 60];
    for number in 0..6_000 {
        let phase = Phase::of(&image(&format!("registry.test/a{number}:1")));
        let next = recheck_schedule.next(phase, start);
        let wait = next - start;
        assert!(!wait.is_zero() && wait <= HOUR);
        minutes[usize::try_from((wait.as_secs() / 60).min(59)).unwrap()] += 1;
        assert_eq!(recheck_schedule.next(phase, next), next + HOUR);
        assert_eq!(
            recheck_schedule.turn(phase, next),
            recheck_schedule.turn(phase, start) + 1
        );
        let after = next.max(later);
        assert_eq!(
            recheck_schedule.next(phase, after),
            restarted.next(phase, after)
        );
    }
    let [least, most] = [minutes.iter().min(), minutes.iter().max()];
    assert!(*least.unwrap() > 60 && *most.unwrap() < 150, "{minutes:?}");
}

#[test]
fn copies_in_use_stand_for_their_originals() {
    let backup = backup();
    let arc = |name: &str| Image::new(image(name));
    let pinned = format!("ghcr.io/acme/app@{}", digest('a'));
    let copy_of = |name: &str| Image::new(backup.target(&image(name)).unwrap());
    let anchor = format!(
        "backup.test:5000/acme/ghcr.io-acme-app:sha256-{}.mirror",
        "b".repeat(64)
    );
    let in_backup = vec![
        copy_of("docker.io/library/nginx:1"),
        copy_of("quay.io/a/b-c:2"),
        copy_of(&pinned),
        arc(&anchor),
        arc("backup.test:5000/acme/own:1"),
        // Read backwards it would be a copy of a copy.
        arc("backup.test:5000/acme/backup.test_5000-acme-x:1"),
    ];
    let found = images_in_use(
        vec![arc("docker.io/library/nginx:1")],
        in_backup.clone(),
        Vec::new(),
        &backup,
    );
    let names: Vec<_> = found.keys().map(ToString::to_string).collect();
    let expected = [
        "backup.test:5000/acme/backup.test_5000-acme-x:1".to_owned(),
        "backup.test:5000/acme/own:1".to_owned(),
        "docker.io/library/nginx:1".to_owned(),
        pinned.clone(),
        format!("ghcr.io/acme/app@{}", digest('b')),
        "quay.io/a/b-c:2".to_owned(),
    ];
    let sorted = |mut names: Vec<String>| {
        names.sort_unstable();
        names
    };
    assert_eq!(sorted(names), sorted(expected.to_vec()));
    let original = |copies: Vec<Image>| Some(Use::Original { copies });
    assert_eq!(
        found.get(&image("docker.io/library/nginx:1")).cloned(),
        original(vec![in_backup[0].clone()])
    );
    assert_eq!(
        found.get(&image("backup.test:5000/acme/own:1")),
        Some(&Use::Foreign)
    );
}

/// Of copies whose names do not tell their originals, an annotation may.
#[test]
fn annotated_copies_in_use_stand_for_their_originals() {
    let arc = |name: &str| Image::new(image(name));
    let former = arc("old.test/docker.io-library-nginx:1");
    let (nginx, own) = (
        arc("docker.io/library/nginx:1"),
        arc("backup.test:5000/acme/own:1"),
    );
    let in_backup = vec![former.clone(), own.clone()];
    let noted = vec![(former.clone(), nginx.clone())];
    let found = images_in_use(vec![], in_backup, noted, &backup());
    let copies = vec![former];
    let expected = [(nginx, Use::Original { copies }), (own, Use::Foreign)];
    assert_eq!(found, expected.into_iter().collect());
}

fn used_by(kind: WorkloadKind, name: &str, is_owned: bool, image: &str) -> Change {
    seen(Workload {
        is_owned,
        ..workload(kind, name, &[image])
    })
}

#[test]
fn people_are_told_about_what_they_wrote() {
    let mut index = Index::new(Rules {
        backup: backup(),
        former_backups: crate::former_backups::FormerBackups::default(),
        excluded_namespaces: ExcludedNamespaces::default(),
        pull_secret: None,
        former_pull_secrets: Vec::new(),
        skip_owners: Vec::new(),
    });
    let original = Image::new(image("quay.io/a/b:1"));
    let copy = Image::new(backup().target(&original).unwrap());
    let names = |index: &Index| {
        let users = top_level(index, [&original, &copy].into_iter());
        let names: Vec<_> = users.into_iter().map(|about| about.name).collect();
        names
    };
    index.apply(used_by(WorkloadKind::Pod, "db-0", true, "quay.io/a/b:1"));
    assert_eq!(names(&index), ["db-0"], "there is nothing better");
    index.apply(used_by(
        WorkloadKind::ReplicaSet,
        "web-1",
        true,
        "quay.io/a/b:1",
    ));
    index.apply(used_by(
        WorkloadKind::Deployment,
        "web",
        false,
        &copy.to_string(),
    ));
    index.apply(used_by(WorkloadKind::Pod, "alone", false, "quay.io/a/b:1"));
    assert_eq!(names(&index), ["alone", "web"]);
    for number in 0..100 {
        let name = format!("job-{number}");
        index.apply(used_by(WorkloadKind::Job, &name, false, "quay.io/a/b:1"));
    }
    assert_eq!(names(&index).len(), 10);
}

/// One image of a backup in which somebody else gave the tag another digest.
fn tampered() -> Bench {
    let mut bench = Bench::mirrored(Owner::Ours);
    assert_eq!(bench.seen(Ok(complete('c'))), (BackupCheck::Changed, None));
    bench
}

fn unknown(lasting: bool) -> Upstream {
    Upstream::Unknown {
        reason: "403".into(),
        lasting,
    }
}

#[test]
fn a_copy_that_somebody_else_changed_is_put_back() {
    for upstream in [Upstream::Absent, unknown(true)] {
        let mut bench = tampered();
        assert!(bench.wish().upstream, "it is asked at once");
        assert_eq!(bench.item.digest_to_restore(), None);
        bench.asked(upstream.clone());
        assert_eq!(bench.item.digest_to_restore(), Some(&digest('a')));
        assert!(bench.wish().presence, "at once");
        let back = Presence::Complete {
            digest: digest('a'),
            repaired: true,
        };
        assert_eq!(bench.seen(Ok(back)), (BackupCheck::Repaired, None));
        assert_eq!(bench.item.digest_to_restore(), None);
        assert_eq!(bench.item.known(), Some(&digest('a')));
        // Whoever does it again is found out again.
        bench.sleep();
        assert_eq!(bench.seen(Ok(complete('d'))), (BackupCheck::Changed, None));
    }
}

#[test]
fn what_cannot_be_put_back_stays() {
    let mut bench = tampered();
    bench.asked(Upstream::Absent);
    assert_eq!(bench.seen(Ok(complete('c'))), (BackupCheck::Changed, None));
    assert_eq!(bench.item.digest_to_restore(), None);
    assert_eq!(bench.item.known(), Some(&digest('c')));
    bench.sleep();
    assert_eq!(bench.seen(Ok(complete('c'))), (BackupCheck::Present, None));
}

#[test]
fn a_changed_copy_follows_an_original_that_is_there() {
    for original in ['a', 'b'] {
        let mut bench = tampered();
        let asked = bench.asked(Upstream::Is(digest(original)));
        assert_eq!(asked, (UpstreamCheck::Updated, Some(Task::Update)));
        bench.follow(pending());
        // A look that comes between does not make it right.
        assert_eq!(bench.seen(Ok(complete('c'))), (BackupCheck::Present, None));
        assert_eq!(bench.item.known(), Some(&digest('a')));
        bench.follow(None);
        let seen = bench.seen(Ok(complete(original)));
        assert_eq!(seen, (BackupCheck::Present, None));
        assert_eq!(bench.item.known(), Some(&digest(original)));
    }
}

#[test]
fn a_kept_copy_that_was_changed_is_put_back_whatever_the_original_is() {
    for (upstream, is_kept) in [
        (Upstream::Is(digest('a')), false),
        (Upstream::Is(digest('b')), true),
        (Upstream::Absent, false),
        (unknown(false), false),
    ] {
        let mut bench = tampered();
        bench.on_moved = OnMovedTag::Keep;
        let (_, task) = bench.asked(upstream);
        assert_eq!(task, None);
        assert_eq!(bench.item.digest_to_restore(), Some(&digest('a')));
        assert_eq!(bench.item.record().is_kept, is_kept);
    }
}

#[test]
fn a_change_that_others_made_is_believed() {
    // Another replica followed the tag.
    let mut bench = tampered();
    assert_eq!(
        bench.asked(Upstream::Is(digest('c'))),
        (UpstreamCheck::Current, None)
    );
    assert_eq!(bench.item.known(), Some(&digest('c')));
    assert_eq!(bench.seen(Ok(complete('c'))), (BackupCheck::Present, None));
    // Who kept it before may have.
    let mut bench = Bench::mirrored(Owner::Others);
    bench.give_to(Owner::Ours);
    assert_eq!(bench.seen(Ok(complete('c'))), (BackupCheck::Present, None));
    assert_eq!(bench.seen(Ok(complete('d'))), (BackupCheck::Changed, None));
    // Who does not keep it is not to judge.
    let mut bench = Bench::mirrored(Owner::Others);
    bench.found(complete('a'));
    assert_eq!(bench.seen(Ok(complete('c'))), (BackupCheck::Present, None));
}

#[test]
fn nothing_is_decided_while_the_original_cannot_be_seen() {
    let mut bench = tampered();
    bench.asked(unknown(false));
    assert_eq!(bench.item.digest_to_restore(), None);
    assert_eq!(bench.item.known(), Some(&digest('a')));
    bench.now += Duration::from_mins(15);
    assert!(bench.wish().upstream);
    bench.asked(Upstream::Absent);
    assert_eq!(bench.item.digest_to_restore(), Some(&digest('a')));
}

fn absent() -> Status {
    Status::Failed {
        reason: "the source has no such image".into(),
        outlook: Outlook::Absent,
    }
}

/// Somebody may have registered the name after a workload used it, and must not get into what runs.
#[test]
fn what_appears_late_is_mirrored_but_nothing_is_readmitted_for_it() {
    let copy_state = |bench: &Bench| bench.item.record().copy_state();
    let appear = |bench: &mut Bench| {
        bench.found(Presence::Missing);
        bench.follow(pending());
        bench.follow(None);
        bench.found(complete('a'));
    };
    let mut bench = Bench::new(Owner::Ours);
    bench.found(Presence::Missing);
    bench.follow(absent());
    assert_eq!(copy_state(&bench), CopyState::Never);
    appear(&mut bench);
    assert!(bench.item.is_mirrored() && bench.item.record().appeared_late);
    assert_eq!(copy_state(&bench), CopyState::Withheld);
    // It stays so, whoever keeps it and whatever becomes of it.
    bench.give_to(Owner::Others);
    bench.give_to(Owner::Ours);
    appear(&mut bench);
    assert_eq!(copy_state(&bench), CopyState::Withheld);

    // A registry that was down said nothing.
    let mut bench = Bench::new(Owner::Ours);
    bench.found(Presence::Missing);
    bench.follow(failed(false));
    bench.follow(None);
    bench.found(complete('a'));
    assert_eq!(copy_state(&bench), CopyState::Mirrored);

    // What was mirrored before is no stranger.
    let mut bench = Bench::mirrored(Owner::Ours);
    bench.found(Presence::Missing);
    bench.follow(absent());
    appear(&mut bench);
    assert_eq!(copy_state(&bench), CopyState::Mirrored);

    // A digest cannot become something else.
    let mut bench = Bench::new(Owner::Ours);
    bench.item = bench.item.named_by_digest();
    bench.found(Presence::Missing);
    bench.follow(absent());
    appear(&mut bench);
    assert_eq!(copy_state(&bench), CopyState::Mirrored);
}

#[test]
fn those_who_do_not_keep_it_know_as_well_that_it_appeared_late() {
    let mut bench = Bench::new(Owner::Others);
    for _ in 0..3 {
        bench.sleep();
        bench.found(Presence::Missing);
    }
    assert!(bench.wish().upstream);
    bench.asked(Upstream::Absent);
    bench.asked(Upstream::Is(digest('a')));
    bench.found(complete('a'));
    assert_eq!(bench.item.record().copy_state(), CopyState::Withheld);
}

/// It failed, was tried again by itself, and nobody looked between.
#[test]
fn a_copy_that_was_made_after_a_failure_is_seen_at_once() {
    let mut bench = Bench::new(Owner::Ours);
    bench.found(Presence::Missing);
    bench.follow(failed(false));
    bench.follow(None);
    assert_eq!(bench.sleep(), (Duration::ZERO, ONLY_BACKUP));
}

/// Notes items and takes what is due, as the controller does.
fn next_looks(
    work_queue: &mut WorkQueue,
    items: &mut [(Image, ImageState)],
    now: Instant,
) -> Vec<String> {
    let mut looks = Vec::new();
    while let Some(image) = work_queue.due_in_backup(now) {
        looks.push(image.path().to_owned());
        for (_, item) in items.iter_mut().filter(|(name, _)| *name == image) {
            item.begin(Check::Backup);
            work_queue.set(&image, item);
        }
    }
    looks
}

#[test]
fn new_images_go_first_but_do_not_end_the_rounds() {
    let now = Instant::now();
    let recheck_schedule = RecheckSchedule::new(HOUR, now, Duration::ZERO);
    let mut work_queue = WorkQueue::default();
    let mut items = Vec::new();
    let later = now + HOUR * 2;
    for (prefix, number, is_new) in [("old", 3, false), ("new", 8, true)] {
        for number in 0..number {
            let name = Image::new(image(&format!("quay.io/{prefix}{number}:1")));
            let first = now + Duration::from_secs(number);
            let clock = Clock {
                recheck_schedule: &recheck_schedule,
                now,
            };
            let mut item = ImageState::new(Phase::of(&name), Owner::Others, first, clock);
            if !is_new {
                item.backup_checked(Ok(complete('a')), clock);
            }
            work_queue.set(&name, &item);
            items.push((name, item));
        }
    }
    assert_eq!(next_looks(&mut work_queue, &mut items, now), ["new0"]);
    assert_eq!(
        work_queue.next(Check::Backup),
        Some(now + Duration::from_secs(1))
    );
    let looks = next_looks(&mut work_queue, &mut items, later);
    let sorts: Vec<_> = looks.iter().map(|name| &name[..3]).collect();
    let expected = [
        "new", "new", "new", "old", "new", "new", "new", "old", "new", "old",
    ];
    assert_eq!(sorts, expected);
    // All are being looked at.
    assert_eq!(work_queue.next(Check::Backup), None);
    for (name, item) in &mut items {
        item.end(Check::Backup);
        work_queue.set(name, item);
        work_queue.forget(name);
    }
    assert_eq!(work_queue.next(Check::Backup), None);
}

#[test]
fn an_original_that_hangs_holds_up_no_look_at_the_copy() {
    let mut bench = Bench::mirrored(Owner::Ours);
    assert_eq!(bench.wish(), BOTH);
    bench.item.begin(Check::Upstream);
    assert_eq!(bench.wish(), ONLY_BACKUP);
    assert_eq!(bench.found(Presence::Missing), Some(Task::Restore));
    bench.item.end(Check::Upstream);
    assert_eq!(bench.asked(Upstream::Absent), (UpstreamCheck::Gone, None));
    assert_eq!(bench.state(), State::Copying);
}

/// What waits for a budget is no failure, and continues by itself.
#[tokio::test]
async fn what_is_held_back_is_tried_again() {
    let mut bench = Bench::new(Owner::Ours);
    for (wait, pause) in [(0, 30), (60, 60), (7200, 900)] {
        assert_eq!(bench.found(Presence::Missing), Some(Task::Copy));
        bench.hold_back(Duration::from_secs(wait));
        assert_eq!(bench.state(), State::Missing);
        assert_eq!(bench.item.condition(bench.now + HOUR), None);
        let (slept, wish) = bench.sleep();
        assert!(wish.presence);
        assert_eq!(slept.as_secs(), pause);
    }
    let mut mirrored = Bench::mirrored(Owner::Ours);
    let asked = mirrored.asked(Upstream::Is(digest('b')));
    assert_eq!(asked, (UpstreamCheck::Updated, Some(Task::Update)));
    mirrored.hold_back(HOUR);
    assert!(mirrored.item.is_mirrored(), "the older copy stays");
}

/// Looks for the parts, as the controller does; returns what was looked for and what must be done.
fn look_for_parts(
    bench: &mut Bench,
    seen: Result<Completeness, ProbeError>,
) -> (PartsPlan, Option<Task>) {
    let clock = Clock {
        recheck_schedule: &bench.recheck_schedule,
        now: bench.now,
    };
    assert!(
        bench
            .item
            .next(Check::Parts)
            .is_some_and(|at| at <= bench.now)
    );
    let plan = bench.item.parts_plan(clock);
    (plan, bench.item.parts_checked(plan, seen, clock))
}

#[expect(clippy::unnecessary_wraps, reason = "it is what a check returns")]
fn whole(next: Option<usize>) -> Result<Completeness, ProbeError> {
    Ok(Completeness::Complete { next })
}

#[expect(clippy::unnecessary_wraps, reason = "it is what a check returns")]
fn part_is_missing() -> Result<Completeness, ProbeError> {
    let part = digest('f').to_string().parse().unwrap();
    Ok(Completeness::Missing(part))
}

const EVERYTHING: PartsPlan = PartsPlan {
    turn: Turn::Everything,
    skip: 0,
};

/// Everything after a start, and each part in its turn afterwards: once a week.
#[test]
fn parts_are_looked_for_in_turns() {
    let mut bench = Bench::new(Owner::Ours);
    assert_eq!(bench.item.next(Check::Parts), None);
    bench.found(complete('a'));
    assert_eq!(
        look_for_parts(&mut bench, whole(Some(500))),
        (EVERYTHING, None)
    );
    let rest = PartsPlan {
        skip: 500,
        ..EVERYTHING
    };
    assert_eq!(look_for_parts(&mut bench, whole(None)), (rest, None));
    assert_eq!(
        bench.item.next(Check::Parts),
        None,
        "until the next interval"
    );
    let mut turns = Vec::new();
    for number in 0..168 {
        if number == 10 {
            bench.now += 5 * HOUR;
        }
        bench.sleep();
        bench.found(complete('a'));
        bench.asked(Upstream::Is(digest('a')));
        while bench.item.next(Check::Parts).is_some() {
            // The rest follows in the next interval.
            let next = (number == 3).then_some(500);
            let (plan, _) = look_for_parts(&mut bench, whole(next));
            let Turn::Part { number, of: 168 } = plan.turn else {
                panic!("{plan:?}");
            };
            if plan.skip == 0 {
                turns.push(number);
            }
        }
    }
    let in_order = turns.windows(2).all(|pair| (pair[0] + 1) % 168 == pair[1]);
    assert!(in_order, "{turns:?}");
    // Five hours passed in place of one interval.
    assert_eq!(turns.len(), 168 + 4, "turns that were left out follow");
}

/// The next check goes on where an earlier one was ended, and no outage follows from it.
#[test]
fn a_check_of_parts_that_takes_too_long_goes_on_later() {
    let mut bench = Bench::new(Owner::Ours);
    bench.found(complete('a'));
    let unfinished = Ok(Completeness::Unfinished { next: 40 });
    look_for_parts(&mut bench, unfinished);
    bench.now = bench.item.next(Check::Parts).unwrap();
    let rest = PartsPlan {
        skip: 40,
        ..EVERYTHING
    };
    assert_eq!(look_for_parts(&mut bench, whole(None)), (rest, None));
}

#[test]
fn a_copy_that_lacks_parts_is_restored_more_and_more_seldom() {
    let mut bench = Bench::new(Owner::Ours);
    let start = bench.now;
    let mut restored = 0;
    while bench.now < start + HOUR {
        bench.found(complete('a'));
        bench.now = bench.item.next(Check::Parts).unwrap().max(bench.now);
        let (plan, task) = look_for_parts(&mut bench, part_is_missing());
        assert_eq!((plan, task), (EVERYTHING, Some(Task::Restore)));
        assert_eq!(bench.state(), State::Copying);
        restored += 1;
        bench.follow(pending());
        bench.follow(None);
    }
    assert!((8..=15).contains(&restored), "{restored}");
}

#[test]
fn after_an_outage_all_parts_are_looked_for() {
    let mut bench = Bench::mirrored(Owner::Ours);
    look_for_parts(&mut bench, whole(None));
    bench.item.recheck_parts(bench.now);
    assert!(bench.wish().presence, "immediately");
    bench.found(complete('a'));
    let outage = Err(ProbeError {
        reason: "503".into(),
        is_outage: true,
    });
    assert_eq!(look_for_parts(&mut bench, outage), (EVERYTHING, None));
    assert!(bench.item.is_mirrored());
    bench.now = bench.item.next(Check::Parts).unwrap();
    assert_eq!(look_for_parts(&mut bench, whole(None)), (EVERYTHING, None));
    // Those of other replicas are theirs to look for.
    let mut others = Bench::mirrored(Owner::Others);
    assert_eq!(others.item.next(Check::Parts), None);
    others.give_to(Owner::Ours);
    others.found(complete('a'));
    assert_eq!(look_for_parts(&mut others, whole(None)), (EVERYTHING, None));
}

/// A registry that responds with 401 or 403 for what it does not have.
#[test]
fn the_upload_decides_whether_a_hidden_copy_is_missing() {
    let mut bench = Bench::new(Owner::Ours);
    assert_eq!(bench.found(Presence::Hidden), Some(Task::Copy));
    bench.follow(pending());
    bench.follow(None);
    bench.found(complete('a'));
    assert!(bench.item.is_mirrored());
    // It counts as being there until the upload was accepted.
    for outcome in [Some(failed(true)), None] {
        bench.now += HOUR;
        let hidden = bench.seen(Ok(Presence::Hidden));
        assert_eq!(hidden, (BackupCheck::Unavailable, Some(Task::Restore)));
        bench.follow(pending());
        bench.follow(outcome);
        assert!(bench.item.is_mirrored());
    }
    assert!(bench.wish().presence, "it was restored");
    assert_eq!(bench.seen(Ok(complete('a'))), (BackupCheck::Present, None));
}
