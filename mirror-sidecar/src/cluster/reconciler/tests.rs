//! The pure parts, with a time that is passed in.

mod changed_copies;
mod images_in_use;
mod parts;
mod work_queue;

use std::time::Duration;

use mirror_contract::{Backup, Digest, ImageRef, Naming};
use mirror_copy::Completeness;
use tokio::time::Instant;

use super::controller::images_in_use::{NamedCopies, Use, images_in_use};
use super::image_checks::{Presence, Upstream};
use super::image_state::{Condition, ImageState, Owner, REPORT_COPY_FOR};
use super::metrics::{BackupCheck, UpstreamCheck};
use super::probe::{Check, ProbeError};
use super::recheck_schedule::{Phase, RecheckSchedule};
use super::referrer_checks::{ReferrerKind, UpstreamReferrers};
use super::users::top_level;
use super::work_queue::WorkQueue;
use crate::cluster::config::OnMovedTag;
use crate::cluster::copy_status::State;
use crate::cluster::index::Image;
use crate::cluster::index::tests::{seen, workload};
use crate::cluster::policies::CopyClaim;
use crate::cluster::testing::rules;
use crate::cluster::workload_kind::WorkloadKind;
use crate::cluster::{Change, CopyState, Index, Workload};
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

/// The checks that are due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Due {
    presence: bool,
    upstream: bool,
}

/// An image and a clock that the test moves.
struct Bench {
    state: ImageState,
    recheck_schedule: RecheckSchedule,
    now: Instant,
    on_moved: OnMovedTag,
}

impl Bench {
    fn new(owner: Owner) -> Self {
        let now = Instant::now();
        let recheck_schedule = RecheckSchedule::new(HOUR, now, Duration::from_secs(1_700_000_000));
        let clock = recheck_schedule.at(now);
        let state = ImageState::new(Phase::of(&image("nginx:1")), owner, now, clock);
        Self {
            state,
            recheck_schedule,
            now,
            on_moved: OnMovedTag::Update,
        }
    }

    /// An image with a copy, whose turn is now.
    fn mirrored(owner: Owner) -> Self {
        let mut bench = Self::new(owner);
        bench.found(complete('a'));
        bench.sleep();
        bench
    }

    fn found(&mut self, presence: Presence) -> Option<Task> {
        self.backup_checked(Ok(presence)).1
    }

    fn backup_checked(
        &mut self,
        presence: Result<Presence, ProbeError>,
    ) -> (BackupCheck, Option<Task>) {
        let clock = self.recheck_schedule.at(self.now);
        self.state.backup_checked(presence, clock)
    }

    fn upstream_checked(&mut self, upstream: Upstream) -> (UpstreamCheck, Option<Task>) {
        let clock = self.recheck_schedule.at(self.now);
        self.state.upstream_checked(upstream, self.on_moved, clock)
    }

    fn follow(&mut self, status: impl Into<Option<Status>>) {
        let clock = self.recheck_schedule.at(self.now);
        self.state.job_changed(status.into(), clock);
    }

    fn deny_budget(&mut self, wait: Duration) {
        let clock = self.recheck_schedule.at(self.now);
        self.state.wait_for_budget(self.now + wait, clock);
    }

    fn set_owner(&mut self, owner: Owner) {
        let clock = self.recheck_schedule.at(self.now);
        self.state.set_owner(owner, clock);
    }

    /// Moves the clock to the next check; returns how far, and the checks that are due then.
    fn sleep(&mut self) -> (Duration, Due) {
        let next = self.next().expect("there is always a next check");
        let slept = next.saturating_duration_since(self.now);
        self.now += slept;
        (slept, self.due())
    }

    fn next(&self) -> Option<Instant> {
        let checks = [Check::Backup, Check::Upstream].map(|check| self.state.next(check));
        checks.into_iter().flatten().min()
    }

    fn due(&self) -> Due {
        let is_due = |check| self.state.next(check).is_some_and(|at| at <= self.now);
        Due {
            presence: is_due(Check::Backup),
            upstream: is_due(Check::Upstream),
        }
    }

    fn has_news(&self) -> bool {
        self.state.is_newly_mirrored(self.now)
    }

    fn record_state(&self) -> State {
        self.state.record().state
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

const ONLY_BACKUP: Due = Due {
    presence: true,
    upstream: false,
};
const BOTH: Due = Due {
    presence: true,
    upstream: true,
};

#[test]
fn a_new_image_is_checked_immediately_and_then_once_per_interval() {
    let mut bench = Bench::new(Owner::Ours);
    assert_eq!(bench.sleep(), (Duration::ZERO, ONLY_BACKUP));
    assert_eq!(bench.found(complete('a')), None);
    assert!(!bench.has_news(), "it was there before");
    let (slept, due) = bench.sleep();
    assert!(slept <= HOUR && due == BOTH, "{slept:?} {due:?}");
    for _ in 0..5 {
        bench.found(complete('a'));
        assert_eq!(
            bench.upstream_checked(Upstream::Is(digest('a'))),
            (UpstreamCheck::Current, None)
        );
        assert_eq!(bench.sleep(), (HOUR, BOTH));
    }
}

#[test]
fn a_missing_copy_is_created_and_then_found() {
    let mut bench = Bench::new(Owner::Ours);
    assert_eq!(bench.found(Presence::Missing), Some(Task::Copy));
    bench.follow(pending());
    assert_eq!(bench.record_state(), State::Copying);
    bench.follow(pending());
    bench.follow(None);
    assert_eq!(bench.sleep(), (Duration::ZERO, ONLY_BACKUP));
    bench.found(complete('a'));
    assert!(bench.has_news());
    bench.now += REPORT_COPY_FOR;
    assert!(!bench.has_news());
    // A copy that vanished afterwards may be incomplete.
    bench.sleep();
    assert_eq!(bench.found(Presence::Missing), Some(Task::Restore));
}

/// A registry that loses everything immediately must not be written to all the time.
#[test]
fn a_copy_that_is_never_found_is_created_with_backoff() {
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
fn no_copy_counts_as_missing_while_the_backup_is_unavailable() {
    let blind = |is_outage| ProbeError {
        reason: "503".into(),
        is_outage,
    };
    let mut bench = Bench::mirrored(Owner::Ours);
    for seconds in [1, 2, 4, 8, 16, 30, 30] {
        assert_eq!(
            bench.backup_checked(Err(blind(true))),
            (BackupCheck::Unavailable, None)
        );
        assert_eq!(bench.state.record().state.copy_state(), CopyState::Mirrored);
        let next = bench.next().unwrap();
        // The upstream check is due as well.
        assert!(next <= bench.now + Duration::from_secs(seconds));
        bench.now += Duration::from_secs(seconds);
        assert!(bench.due().presence);
    }
    bench.backup_checked(Err(blind(false)));
    bench.now += Duration::from_mins(14);
    assert!(!bench.due().presence);
}

#[test]
fn a_moved_tag_is_followed_at_most_once_per_interval() {
    let mut bench = Bench::mirrored(Owner::Ours);
    let mut updates = 0;
    let mut current = 'a';
    let end = bench.now + HOUR * 10;
    let mut answers = ['b', 'a'].into_iter().cycle();
    while bench.now < end {
        // The registry returns another digest each time, and is sometimes gone, so that it is checked more often.
        let answer = answers.next().unwrap();
        bench.found(complete(current));
        if let (UpstreamCheck::Updated, Some(task)) =
            bench.upstream_checked(Upstream::Is(digest(answer)))
        {
            assert_eq!(task, Task::Update);
            updates += 1;
            current = answer;
            bench.follow(pending());
            assert_eq!(bench.state.record().state.copy_state(), CopyState::Mirrored);
            bench.follow(None);
            bench.sleep();
            bench.found(complete(current));
        }
        bench.upstream_checked(Upstream::Absent);
        bench.sleep();
    }
    assert!((5..=11).contains(&updates), "{updates}");
}

#[test]
fn missing_referrers_are_copied_at_most_three_times() {
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
        let plan = bench
            .state
            .referrers_plan(bench.recheck_schedule.at(bench.now));
        *plan.known.of(kind)
    };
    for list in [1, 2] {
        for _ in 0..3 {
            let task = bench.state.referrers_checked(&missing(list));
            assert_eq!(task, Some(Task::Update));
            let again = bench.state.referrers_checked(&missing(list));
            assert_eq!(again, None, "running");
            bench.follow(None);
            bench.found(complete('a'));
        }
        assert_ne!(known(&bench, kind), Some(list));
        assert_eq!(bench.state.referrers_checked(&missing(list)), None);
        assert_eq!(known(&bench, kind), Some(list));
        assert_eq!(bench.state.referrers_checked(&missing(list)), None);
    }
    assert_eq!(bench.state.referrers_checked(&[seen(kind, 3, false)]), None);
    assert_eq!(known(&bench, kind), Some(3));
    // A request without a budget does not count. Other kinds keep their count.
    let signature = ReferrerKind::Signature;
    let both = [seen(kind, 4, true), seen(signature, 5, true)];
    for _ in 0..3 {
        let task = bench.state.referrers_checked(&both[1..]);
        assert_eq!(task, Some(Task::Update));
        bench.follow(None);
        bench.found(complete('a'));
    }
    for _ in 0..5 {
        let task = bench.state.referrers_checked(&both);
        assert_eq!(task, Some(Task::Update));
        assert_eq!(known(&bench, signature), Some(5));
        bench.deny_budget(HOUR);
    }
    assert_eq!(bench.state.referrers_checked(&[]), None);
    for owner in [Owner::Others, Owner::Foreign] {
        let mut bench = Bench::mirrored(owner);
        bench.found(complete('a'));
        assert_eq!(bench.state.referrers_checked(&missing(1)), None);
    }
}

#[test]
fn a_moved_tag_can_be_kept() {
    let mut bench = Bench::mirrored(Owner::Ours);
    bench.on_moved = OnMovedTag::Keep;
    for _ in 0..2 {
        bench.found(complete('a'));
        assert_eq!(
            bench.upstream_checked(Upstream::Is(digest('b'))),
            (UpstreamCheck::Kept, None)
        );
        assert!(bench.state.record().is_kept);
        bench.sleep();
    }
    bench.upstream_checked(Upstream::Is(digest('a')));
    assert!(!bench.state.record().is_kept);
}

#[test]
fn a_failed_update_leaves_the_older_copy() {
    let mut bench = Bench::mirrored(Owner::Ours);
    bench.found(complete('a'));
    bench.upstream_checked(Upstream::Is(digest('b')));
    bench.follow(failed(true));
    assert_eq!(
        bench.record_state(),
        State::Mirrored {
            digest: digest('a')
        }
    );
    assert_eq!(bench.state.condition(bench.now + HOUR), None);
    let (slept, _) = bench.sleep();
    assert_eq!(slept, HOUR);
    assert_eq!(
        bench.upstream_checked(Upstream::Is(digest('b'))),
        (UpstreamCheck::Updated, Some(Task::Update))
    );
}

#[test]
fn a_copy_is_the_last_one_after_two_absences_in_a_row() {
    let gone =
        |bench: &mut Bench| bench.upstream_checked(Upstream::Absent).0 == UpstreamCheck::Gone;
    let unknown = || Upstream::Unknown {
        reason: "401".into(),
        lasting: true,
    };
    let mut bench = Bench::mirrored(Owner::Ours);
    bench.found(complete('a'));
    assert!(gone(&mut bench));
    assert_eq!(bench.state.condition(bench.now), None);
    let (slept, due) = bench.sleep();
    assert_eq!(slept, Duration::from_mins(1));
    assert!(due.upstream);
    // A refusal says nothing about that.
    bench.upstream_checked(unknown());
    assert_eq!(bench.state.condition(bench.now), None);
    assert!(gone(&mut bench));
    assert_eq!(bench.state.condition(bench.now), Some(Condition::LastCopy));
    assert!(bench.state.record().is_last_copy);
    bench.upstream_checked(unknown());
    assert_eq!(bench.state.condition(bench.now), Some(Condition::LastCopy));
    bench.upstream_checked(Upstream::Is(digest('a')));
    assert_eq!(bench.state.condition(bench.now), None);
    assert!(gone(&mut bench));
    assert_eq!(
        bench.state.condition(bench.now),
        None,
        "the count starts again"
    );
}

#[test]
fn an_image_without_original_and_copy_is_lost_until_either_returns() {
    let absent = || {
        Some(Status::Failed {
            reason: "not found".into(),
            outlook: Outlook::Absent,
        })
    };
    let mut bench = Bench::mirrored(Owner::Ours);
    for _ in 0..2 {
        bench.upstream_checked(Upstream::Absent);
    }
    assert_eq!(bench.found(Presence::Missing), Some(Task::Restore));
    bench.follow(absent());
    assert_eq!(bench.state.condition(bench.now), Some(Condition::Lost));
    bench.sleep();
    bench.found(Presence::Missing);
    assert!(
        bench.state.record().is_last_copy,
        "also while it is retried"
    );
    bench.found(complete('a'));
    assert_eq!(bench.state.condition(bench.now), None);
    assert!(!bench.state.record().is_last_copy);

    // After a restart only the workload shows that there was a copy.
    for (is_named_as_copy, alarm) in [(true, Some(Condition::Lost)), (false, None)] {
        let mut bench = Bench::new(Owner::Ours);
        bench.state.set_copies(Vec::new(), is_named_as_copy);
        for _ in 0..2 {
            bench.found(Presence::Missing);
            bench.follow(absent());
            bench.sleep();
        }
        let reported = bench.state.condition(bench.now);
        assert_eq!(
            reported.filter(|reported| *reported == Condition::Lost),
            alarm
        );
    }
}

#[test]
fn an_image_of_another_replica_is_only_checked() {
    let mut bench = Bench::new(Owner::Others);
    let mut polls = Vec::new();
    for _ in 0..3 {
        let (slept, due) = bench.sleep();
        polls.push(slept.as_secs());
        assert_eq!(due, ONLY_BACKUP);
        assert_eq!(bench.found(Presence::Missing), None);
        assert_eq!(bench.record_state(), State::Missing);
    }
    assert_eq!(polls, [0, 1, 2]);
    // It cannot know why, so it checks the original.
    let due = bench.due();
    assert!(due.upstream);
    bench.upstream_checked(Upstream::Absent);
    assert_eq!(bench.state.record().state.copy_state(), CopyState::Never);
    assert_eq!(bench.state.condition(bench.now), None, "others report");
    bench.sleep();
    bench.found(Presence::Missing);
    assert_eq!(bench.state.record().state.copy_state(), CopyState::Never);
    bench.upstream_checked(Upstream::Is(digest('a')));
    assert_eq!(bench.state.record().state.copy_state(), CopyState::Missing);
    bench.found(complete('a'));
    assert!(!bench.has_news(), "others made it");
    assert_eq!(bench.sleep().1, ONLY_BACKUP);
}

#[test]
fn a_new_owner_checks_immediately() {
    let mut bench = Bench::new(Owner::Others);
    for _ in 0..8 {
        bench.sleep();
        bench.found(Presence::Missing);
    }
    bench.set_owner(Owner::Ours);
    assert_eq!(bench.sleep(), (Duration::ZERO, ONLY_BACKUP));
    assert_eq!(bench.found(Presence::Missing), Some(Task::Copy));
    // The next owner checks the original itself.
    let mut bench = Bench::mirrored(Owner::Ours);
    bench.upstream_checked(Upstream::Absent);
    bench.upstream_checked(Upstream::Absent);
    assert!(bench.state.record().is_last_copy);
    bench.set_owner(Owner::Others);
    assert!(!bench.state.record().is_last_copy);
}

#[test]
fn failures_that_last_are_reported() {
    let mut bench = Bench::new(Owner::Ours);
    bench.found(Presence::Missing);
    bench.follow(failed(false));
    assert_eq!(bench.state.condition(bench.now), None);
    assert_eq!(bench.state.record().state.copy_state(), CopyState::Missing);
    bench.now += Duration::from_mins(1);
    bench.follow(pending());
    bench.follow(failed(false));
    let reason = "the registry is on fire".to_owned();
    assert_eq!(
        bench.state.condition(bench.now),
        Some(Condition::NotMirrored(reason.clone()))
    );
    bench.follow(failed(true));
    assert_eq!(bench.state.record().state.copy_state(), CopyState::Never);
    assert_eq!(
        bench.state.condition(bench.now),
        Some(Condition::NotMirrored(reason))
    );
    let (slept, _) = bench.sleep();
    assert!(slept <= Duration::from_mins(15));
    assert_eq!(bench.found(Presence::Missing), Some(Task::Copy));
    bench.follow(pending());
    bench.follow(None);
    bench.found(complete('a'));
    assert_eq!(bench.state.condition(bench.now), None);
    assert!(bench.has_news());
}

#[test]
fn an_image_that_is_no_copy_is_only_reported() {
    let mut bench = Bench::new(Owner::Foreign);
    assert_eq!(bench.found(Presence::Missing), None);
    assert!(matches!(
        bench.state.condition(bench.now),
        Some(Condition::NotMirrored(reason)) if reason.contains("not in the backup")
    ));
    assert!(!bench.state.follows_job());
    bench.set_owner(Owner::Ours);
    bench.sleep();
    bench.found(complete('a'));
    assert_eq!(bench.state.condition(bench.now), None);
    assert_eq!(bench.sleep().1, ONLY_BACKUP);
}

/// The queue retried it after a failure, without a check in between.
#[test]
fn a_copy_after_a_failure_is_checked_immediately() {
    let mut bench = Bench::new(Owner::Ours);
    bench.found(Presence::Missing);
    bench.follow(failed(false));
    bench.follow(None);
    assert_eq!(bench.sleep(), (Duration::ZERO, ONLY_BACKUP));
}

#[test]
fn a_hanging_upstream_check_does_not_delay_the_backup_check() {
    let mut bench = Bench::mirrored(Owner::Ours);
    assert_eq!(bench.due(), BOTH);
    bench.state.begin(Check::Upstream);
    assert_eq!(bench.due(), ONLY_BACKUP);
    assert_eq!(bench.found(Presence::Missing), Some(Task::Restore));
    bench.state.end(Check::Upstream);
    assert_eq!(
        bench.upstream_checked(Upstream::Absent),
        (UpstreamCheck::Gone, None)
    );
    assert_eq!(bench.record_state(), State::Copying);
}

/// Waiting for a budget is no failure.
#[tokio::test]
async fn an_image_without_budget_is_retried() {
    let mut bench = Bench::new(Owner::Ours);
    for (wait, pause) in [(0, 30), (60, 60), (7200, 900)] {
        assert_eq!(bench.found(Presence::Missing), Some(Task::Copy));
        bench.deny_budget(Duration::from_secs(wait));
        assert_eq!(bench.record_state(), State::Missing);
        assert_eq!(bench.state.condition(bench.now + HOUR), None);
        let (slept, due) = bench.sleep();
        assert!(due.presence);
        assert_eq!(slept.as_secs(), pause);
    }
    let mut mirrored = Bench::mirrored(Owner::Ours);
    let asked = mirrored.upstream_checked(Upstream::Is(digest('b')));
    assert_eq!(asked, (UpstreamCheck::Updated, Some(Task::Update)));
    mirrored.deny_budget(HOUR);
    assert!(mirrored.state.is_mirrored(), "the older copy stays");
}

/// A registry that responds with 401 or 403 for what it does not have.
#[test]
fn the_upload_decides_whether_a_hidden_copy_is_missing() {
    let mut bench = Bench::new(Owner::Ours);
    assert_eq!(bench.found(Presence::Hidden), Some(Task::Copy));
    bench.follow(pending());
    bench.follow(None);
    bench.found(complete('a'));
    assert!(bench.state.is_mirrored());
    // It counts as present until the upload was accepted.
    for outcome in [Some(failed(true)), None] {
        bench.now += HOUR;
        let hidden = bench.backup_checked(Ok(Presence::Hidden));
        assert_eq!(hidden, (BackupCheck::Unavailable, Some(Task::Restore)));
        bench.follow(pending());
        bench.follow(outcome);
        assert!(bench.state.is_mirrored());
    }
    assert!(bench.due().presence, "it was restored");
    assert_eq!(
        bench.backup_checked(Ok(complete('a'))),
        (BackupCheck::Present, None)
    );
}
