//! The queue with a scripted copier and a clock that moves only when told to.

mod crashes;
mod hostile;
mod several_backups;
mod simulation;

use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use mirror_copy::{CopyReport, Event, Progress as _, Retry};
use tokio::sync::Notify;

use super::jobs::MAX_REQUESTED;
use super::limits::{Allowance, Excess, MIN_ARRIVED, Pace, RATE_PERIOD};
use super::progress::Measured;
use super::retry_delay::retry_delay;
use super::*;
use crate::metrics::Metrics;

impl<C: Copier> CopyQueue<C> {
    fn crash_record(&self) -> &CrashRecord {
        &self.runner.crash_record
    }
}

fn metrics() -> CopyMetrics {
    CopyMetrics::register(&mut Metrics::new())
}

#[derive(Default)]
struct Script {
    /// What the next copies come to; when it is empty they succeed.
    outcomes: Mutex<VecDeque<Failure>>,
    /// What was copied, in its order.
    log: Mutex<Vec<(ImageRef<'static>, Task)>>,
    started: AtomicUsize,
    running: AtomicUsize,
    most: AtomicUsize,
    /// Copies wait for this when `held` is set.
    release: Notify,
    held: bool,
    /// Sources never respond.
    silent: bool,
}

impl Copier for Arc<Script> {
    async fn copy(
        &self,
        image: &ImageRef<'static>,
        task: Task,
        progress: &JobProgress,
    ) -> Result<CopyReport, Failure> {
        progress.event(Event::SourceRequested);
        if !self.silent {
            progress.event(Event::SourceResponded);
        }
        self.log.lock().unwrap().push((image.clone(), task));
        self.started.fetch_add(1, Ordering::SeqCst);
        let running = self.running.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(running, Ordering::SeqCst);
        if self.held {
            self.release.notified().await;
        }
        self.running.fetch_sub(1, Ordering::SeqCst);
        match self.outcomes.lock().unwrap().pop_front() {
            Some(failure) => Err(failure),
            None => Ok(report()),
        }
    }
}

/// A script whose copies wait to be released.
fn held() -> Arc<Script> {
    Arc::new(Script {
        held: true,
        ..Script::default()
    })
}

pub(super) fn report() -> CopyReport {
    CopyReport {
        digest: format!("sha256:{}", "0".repeat(64)).parse().unwrap(),
        media_type: String::new(),
        bytes: 0,
        blobs_copied: 0,
        blobs_mounted: 0,
        blobs_skipped: 0,
        blobs_foreign: 0,
        manifests: 1,
        manifests_trusted: 0,
        referrers: 0,
        referrers_left_out: 0,
        requests: 1,
        elapsed: Duration::ZERO,
    }
}

fn failure(retry: Retry) -> Failure {
    Failure {
        reason: "the registry is on fire".into(),
        retry,
        is_absent: false,
        is_reported: false,
    }
}

fn image(name: &str) -> ImageRef<'static> {
    name.parse().unwrap()
}

fn queue(script: &Arc<Script>, parallel: usize) -> CopyQueue<Arc<Script>> {
    let parallel = NonZeroUsize::new(parallel).unwrap();
    CopyQueue::new(Arc::clone(script), parallel, metrics())
}

/// Asks as a question of the policy does.
fn asked<C: Copier>(queue: &CopyQueue<C>, image: &ImageRef<'static>) -> Status {
    queue.request(image, Task::Copy, &Requester::Admission)
}

fn namespace(name: &str) -> Requester {
    Requester::Namespaces(vec![name.into()])
}

/// Asks for what runs in the cluster.
fn in_use<C: Copier>(queue: &CopyQueue<C>, image: &ImageRef<'static>) -> Status {
    // Ten namespaces, so that many images fit.
    let last = image.path().as_bytes().last().copied().unwrap_or_default();
    queue.request(image, Task::Copy, &namespace(&format!("ns-{last}")))
}

/// Lets every task run until it waits for something.
async fn settle() {
    for _ in 0..50 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_image_is_copied_once_however_often_it_is_asked_for() {
    let script = held();
    let queue = queue(&script, 4);
    for _ in 0..10 {
        assert!(matches!(asked(&queue, &image("a")), Status::Pending(_)));
        settle().await;
    }
    assert_eq!(script.started.load(Ordering::SeqCst), 1);
    script.release.notify_one();
    settle().await;
    assert_eq!(queue.status(&image("a")), None);
}

#[tokio::test(start_paused = true)]
async fn few_images_are_copied_at_the_same_time() {
    let script = held();
    let queue = queue(&script, 2);
    for name in ["a.io/x", "b.io/x", "c.io/x", "d.io/x"] {
        let _ = asked(&queue, &image(name));
    }
    settle().await;
    assert_eq!(
        queue.status(&image("d.io/x")),
        Some(Status::Pending("queued".into()))
    );
    for _ in 0..4 {
        script.release.notify_one();
        settle().await;
    }
    assert_eq!(script.started.load(Ordering::SeqCst), 4);
    assert_eq!(script.most.load(Ordering::SeqCst), 2);
}

#[tokio::test(start_paused = true)]
async fn the_figures_say_what_becomes_of_images() {
    let script = held();
    script
        .outcomes
        .lock()
        .unwrap()
        .push_back(failure(Retry::Permanent));
    let mut metrics = Metrics::new();
    let copy_metrics = CopyMetrics::register(&mut metrics);
    let queue = CopyQueue::new(Arc::clone(&script), NonZeroUsize::MIN, copy_metrics);
    for name in ["a.io/x", "b.io/x"] {
        let _ = asked(&queue, &image(name));
    }
    settle().await;
    let jobs = |waiting, running, backing_off| Counts {
        waiting,
        running,
        backing_off,
        isolated: 0,
    };
    assert_eq!(queue.counts(), jobs(1, 1, 0));
    for _ in 0..2 {
        script.release.notify_one();
        settle().await;
    }
    assert_eq!(queue.counts(), jobs(0, 0, 1));
    queue.update_metrics();
    let text = metrics.encode().unwrap();
    for line in [
        "image_mirror_copies_total{result=\"failed\"} 1",
        "image_mirror_copies_total{result=\"copied\"} 1",
        "image_mirror_copy_jobs{state=\"backoff\"} 1",
    ] {
        assert!(text.lines().any(|found| found == line), "{line}: {text}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_passing_failure_is_tried_again_by_itself() {
    let script = Arc::new(Script::default());
    let outcomes = [
        Retry::Transient { after: None },
        Retry::Transient { after: None },
    ];
    script
        .outcomes
        .lock()
        .unwrap()
        .extend(outcomes.map(failure));
    let queue = queue(&script, 1);
    let _ = asked(&queue, &image("a"));
    settle().await;
    assert_eq!(
        asked(&queue, &image("a")),
        Status::Failed {
            reason: "the registry is on fire".into(),
            outlook: Outlook::Passing
        }
    );
    tokio::time::sleep(Duration::from_secs(10)).await;
    settle().await;
    assert_eq!(script.started.load(Ordering::SeqCst), 3);
    assert_eq!(queue.status(&image("a")), None);
}

#[tokio::test(start_paused = true)]
async fn a_lasting_failure_rests_until_somebody_asks_again() {
    let script = Arc::new(Script::default());
    script
        .outcomes
        .lock()
        .unwrap()
        .push_back(failure(Retry::Permanent));
    let queue = queue(&script, 1);
    let _ = asked(&queue, &image("a"));
    settle().await;
    tokio::time::sleep(Duration::from_mins(1)).await;
    assert!(matches!(asked(&queue, &image("a")), Status::Failed { .. }));
    assert_eq!(script.started.load(Ordering::SeqCst), 1);
    tokio::time::sleep(Duration::from_hours(1)).await;
    assert!(matches!(asked(&queue, &image("a")), Status::Pending(_)));
    settle().await;
    assert_eq!(queue.status(&image("a")), None);
}

#[tokio::test(start_paused = true)]
async fn stopping_ends_copies_that_hang() {
    let script = held();
    let queue = queue(&script, 1);
    let _ = asked(&queue, &image("a"));
    settle().await;
    queue.shutdown().await;
    assert_eq!(script.started.load(Ordering::SeqCst), 1);
}

/// A full queue is no refusal: the oldest that failed makes room, then the oldest that never succeeded.
#[tokio::test(start_paused = true)]
async fn a_new_name_displaces_the_oldest_that_never_succeeded() {
    let script = held();
    let outcome = failure(Retry::Permanent);
    script.outcomes.lock().unwrap().push_back(outcome);
    let queue = queue(&script, 1);
    let _ = asked(&queue, &image("failed.io/a"));
    settle().await;
    script.release.notify_one();
    settle().await;
    let status = queue.status(&image("failed.io/a"));
    assert!(matches!(status, Some(Status::Failed { .. })), "{status:?}");
    for number in 1..MAX_REQUESTED {
        let _ = asked(&queue, &image(&format!("h{number}.io/a")));
    }
    for (number, displaced) in ["failed.io/a", "h2.io/a", "h3.io/a"]
        .into_iter()
        .enumerate()
    {
        assert!(queue.status(&image(displaced)).is_some(), "{displaced}");
        let new = image(&format!("new{number}.io/a"));
        assert!(matches!(asked(&queue, &new), Status::Pending(_)));
        assert_eq!(queue.status(&image(displaced)), None);
        assert!(queue.status(&new).is_some());
    }
    // What runs stays.
    let copying = Some(Status::Pending("copying".into()));
    assert_eq!(queue.status(&image("h1.io/a")), copying);
    assert_eq!(queue.runner.state().jobs.asked(), MAX_REQUESTED);
}

#[tokio::test(start_paused = true)]
async fn a_registry_that_hangs_leaves_room_for_others() {
    let script = held();
    let queue = queue(&script, 4);
    for number in 0..10 {
        let _ = asked(&queue, &image(&format!("slow.io/a{number}")));
    }
    settle().await;
    assert_eq!(script.started.load(Ordering::SeqCst), 2);
    let _ = asked(&queue, &image("other.io/a"));
    settle().await;
    assert_eq!(script.started.load(Ordering::SeqCst), 3);
    assert_eq!(
        queue.status(&image("other.io/a")),
        Some(Status::Pending("copying".into()))
    );
}

#[tokio::test(start_paused = true)]
async fn a_copy_in_which_nothing_moves_gives_its_slot_back() {
    let script = held();
    let queue = queue(&script, 1);
    let _ = asked(&queue, &image("slow.io/a"));
    tokio::time::sleep(Duration::from_secs(5 * 60 - 1)).await;
    let copying = Some(Status::Pending("copying".into()));
    assert_eq!(queue.status(&image("slow.io/a")), copying);
    tokio::time::sleep(Duration::from_secs(2)).await;
    let Some(Status::Failed { reason, .. }) = queue.status(&image("slow.io/a")) else {
        panic!("it still runs");
    };
    assert!(reason.contains("less than 256 KiB moved"), "{reason}");
    // Nobody waits for it, but nobody else wants the slot either.
    assert_eq!(queue.counts().running, 0);
}

/// A copier with a defect.
struct Panicking;

impl Copier for Panicking {
    async fn copy(
        &self,
        _: &ImageRef<'static>,
        _: Task,
        _: &JobProgress,
    ) -> Result<CopyReport, Failure> {
        panic!("this is the defect");
    }
}

#[tokio::test(start_paused = true)]
async fn a_defect_does_not_leave_an_image_pending_for_ever() {
    let queue = CopyQueue::new(Panicking, NonZeroUsize::MIN, metrics());
    assert!(matches!(asked(&queue, &image("a")), Status::Pending(_)));
    settle().await;
    assert_eq!(queue.status(&image("a")), None);
}

#[test]
fn pauses_grow_and_honour_the_registry() {
    let seconds = |failures, retry| retry_delay(failures, retry).as_secs();
    let soon = Retry::Transient { after: None };
    assert!((1..=1).contains(&seconds(1, soon)));
    assert!((8..=10).contains(&seconds(4, soon)));
    assert!((900..=1125).contains(&seconds(30, soon)));
    let told = Retry::Transient {
        after: Some(Duration::from_secs(40)),
    };
    assert!((40..=50).contains(&seconds(1, told)));
}

#[tokio::test(start_paused = true)]
async fn what_is_in_use_goes_before_a_flood_of_names() {
    let script = held();
    let queue = queue(&script, 4);
    let _ = in_use(&queue, &image("h9.io/first"));
    settle().await;
    script.release.notify_one();
    settle().await;
    script.started.store(0, Ordering::SeqCst);
    for number in 0..MAX_REQUESTED {
        let _ = asked(&queue, &image(&format!("h{}.io/a{number}", number % 5)));
    }
    // The runtime runs so many tasks in several rounds.
    for _ in 0..10 {
        settle().await;
    }
    let more = asked(&queue, &image("h0.io/more"));
    assert!(matches!(more, Status::Pending(_)), "{more:?}");
    assert_eq!(
        script.started.load(Ordering::SeqCst),
        3,
        "one place is kept"
    );
    assert!(matches!(
        in_use(&queue, &image("h0.io/used")),
        Status::Pending(_)
    ));
    settle().await;
    assert_eq!(
        queue.status(&image("h0.io/used")),
        Some(Status::Pending("copying".into()))
    );
    // One that waits already is taken out of the line. At most one of the others goes before.
    let _ = in_use(&queue, &image("h1.io/a9996"));
    for _ in 0..2 {
        script.release.notify_one();
        settle().await;
    }
    assert_eq!(
        queue.status(&image("h1.io/a9996")),
        Some(Status::Pending("copying".into()))
    );
}

#[tokio::test(start_paused = true)]
async fn an_update_is_not_waited_for() {
    let script = held();
    let queue = queue(&script, 1);
    let mut ended = queue.ended();
    let lasting = failure(Retry::Permanent);
    script.outcomes.lock().unwrap().push_back(lasting);
    let _ = queue.request(&image("a"), Task::Update, &namespace("ns"));
    settle().await;
    assert!(!queue.is_awaited(&image("a")));
    assert!(ended.is_empty());
    script.release.notify_one();
    assert_eq!(ended.recv().await.unwrap(), image("a"));
    assert!(matches!(
        queue.status(&image("a")),
        Some(Status::Failed {
            outlook: Outlook::Lasting,
            ..
        })
    ));
    // The copy vanished meanwhile: that is more urgent than the rest after the failure.
    let _ = queue.request(&image("a"), Task::Restore, &namespace("ns"));
    settle().await;
    assert!(queue.is_awaited(&image("a")));
    script.release.notify_one();
    assert_eq!(ended.recv().await.unwrap(), image("a"));
    assert_eq!(queue.status(&image("a")), None);
    let tasks: Vec<_> = script
        .log
        .lock()
        .unwrap()
        .iter()
        .map(|(_, task)| *task)
        .collect();
    assert_eq!(tasks, [Task::Update, Task::Restore]);
}

/// A job that made room must not end the one that took its place.
#[tokio::test(start_paused = true)]
async fn an_image_has_one_job_at_a_time() {
    let script = Arc::new(Script::default());
    let passing = failure(Retry::Transient { after: None });
    script.outcomes.lock().unwrap().push_back(passing.clone());
    script.outcomes.lock().unwrap().push_back(passing);
    let queue = queue(&script, 1);
    let _ = queue.request(&image("a"), Task::Update, &namespace("ns"));
    settle().await;
    let _ = in_use(&queue, &image("a"));
    settle().await;
    assert_eq!(script.started.load(Ordering::SeqCst), 2);
    tokio::time::sleep(Duration::from_secs(10)).await;
    settle().await;
    assert_eq!(script.started.load(Ordering::SeqCst), 3);
    assert_eq!(queue.status(&image("a")), None);
}

/// However much a cluster runs, what is being admitted right now is copied.
#[tokio::test(start_paused = true)]
async fn what_is_in_use_leaves_room_for_what_is_asked_for() {
    let script = held();
    let queue = queue(&script, 4);
    for number in 0..=MAX_REQUESTED {
        let _ = in_use(&queue, &image(&format!("h{}.io/a{number}", number % 5)));
    }
    for _ in 0..10 {
        settle().await;
    }
    assert_eq!(script.started.load(Ordering::SeqCst), 3);
    // Also of the registry of which most is in use.
    let asked_first = image("h0.io/asked");
    assert!(matches!(asked(&queue, &asked_first), Status::Pending(_)));
    settle().await;
    let copying = Some(Status::Pending("copying".into()));
    assert_eq!(queue.status(&asked_first), copying);
    // One that is asked for and then used does not count among the asked ones any more.
    assert_eq!(queue.runner.state().jobs.asked(), 1);
    let _ = in_use(&queue, &asked_first);
    assert_eq!(queue.runner.state().jobs.asked(), 0);
}

#[tokio::test(start_paused = true)]
async fn one_registry_has_places_for_both_sorts() {
    let script = held();
    let queue = queue(&script, 4);
    for number in 0..100 {
        let _ = in_use(&queue, &image(&format!("docker.io/a/used{number}")));
    }
    settle().await;
    let _ = asked(&queue, &image("docker.io/a/asked"));
    let _ = asked(&queue, &image("other.io/asked"));
    settle().await;
    let copying = Some(Status::Pending("copying".into()));
    for name in ["docker.io/a/asked", "other.io/asked"] {
        assert_eq!(queue.status(&image(name)), copying, "{name}");
    }
}

/// Where there is one place, neither sort can keep one; they take turns.
#[tokio::test(start_paused = true)]
async fn both_sorts_take_turns_and_lost_copies_come_first() {
    let script = held();
    let queue = queue(&script, 1);
    let _ = asked(&queue, &image("a.io/first"));
    settle().await;
    for number in 0..4 {
        let _ = in_use(&queue, &image(&format!("a.io/used{number}")));
        let _ = asked(&queue, &image(&format!("b.io/asked{number}")));
    }
    let _ = queue.request(&image("c.io/lost"), Task::Restore, &namespace("ns"));
    settle().await;
    for _ in 0..10 {
        script.release.notify_one();
        settle().await;
    }
    let log = script.log.lock().unwrap();
    let names: Vec<_> = log.iter().map(|(image, _)| image.path()).collect();
    let expected = [
        "first", "lost", "asked0", "used0", "asked1", "used1", "asked2", "used2", "asked3", "used3",
    ];
    assert_eq!(names, expected);
}

#[tokio::test(start_paused = true)]
async fn what_the_source_does_not_have_is_called_absent() {
    let script = Arc::new(Script::default());
    let absent = Failure {
        is_absent: true,
        is_reported: false,
        ..failure(Retry::Permanent)
    };
    script.outcomes.lock().unwrap().push_back(absent);
    let queue = queue(&script, 1);
    let _ = in_use(&queue, &image("a"));
    settle().await;
    let Some(Status::Failed { outlook, .. }) = queue.status(&image("a")) else {
        panic!("it did not fail");
    };
    assert_eq!(outlook, Outlook::Absent);
}

/// Copies of `slow.io` bring so many bytes a second and never end; others end at once.
struct Trickle(u64);

impl Copier for Trickle {
    async fn copy(
        &self,
        image: &ImageRef<'static>,
        _: Task,
        progress: &JobProgress,
    ) -> Result<CopyReport, Failure> {
        progress.event(Event::SourceRequested);
        progress.event(Event::SourceResponded);
        while image.host() == "slow.io" {
            tokio::time::sleep(Duration::from_secs(1)).await;
            trickle(progress, self.0);
        }
        Ok(report())
    }
}

/// So many bytes arrive, and the source is waited for meanwhile.
pub(super) fn trickle(progress: &JobProgress, bytes: u64) {
    let digest = report().digest;
    progress.event(Event::Waiting { on_source: true });
    progress.event(Event::Bytes {
        digest: &digest,
        bytes,
    });
}

/// A source that is just fast enough not to count as dead has its slot until somebody else needs it.
#[tokio::test(start_paused = true)]
async fn a_slow_source_makes_room_for_who_waits() {
    let queue = CopyQueue::new(Trickle(2048), NonZeroUsize::MIN, metrics());
    let _ = asked(&queue, &image("slow.io/x"));
    tokio::time::sleep(Duration::from_hours(1)).await;
    let status = queue.status(&image("slow.io/x"));
    assert!(matches!(status, Some(Status::Pending(_))), "{status:?}");
    // Another image of the same account would be as slow.
    let _ = asked(&queue, &image("slow.io/y"));
    tokio::time::sleep(Duration::from_hours(1)).await;
    let status = queue.status(&image("slow.io/x"));
    assert!(matches!(status, Some(Status::Pending(_))), "{status:?}");

    let _ = asked(&queue, &image("b.io/x"));
    let mut ended = queue.ended();
    tokio::time::timeout(Duration::from_mins(1), ended.recv())
        .await
        .unwrap()
        .unwrap();
    let Some(Status::Failed { reason, outlook }) = queue.status(&image("slow.io/x")) else {
        panic!("{:?}", queue.status(&image("slow.io/x")));
    };
    assert!(reason.contains("while other images waited"), "{reason}");
    assert_eq!(outlook, Outlook::Passing);
    settle().await;
    assert_eq!(queue.status(&image("b.io/x")), None);
}

/// Nobody loses a slot that nobody else could have.
#[tokio::test(start_paused = true)]
async fn a_slot_is_wanted_only_by_those_who_could_have_it() {
    let script = held();
    let queue = queue(&script, 2);
    let _ = in_use(&queue, &image("a.io/used"));
    let _ = asked(&queue, &image("slow.io/asked"));
    let wanted = || {
        let state = queue.runner.state();
        let ids = ["a.io/used", "slow.io/asked"]
            .map(|name| state.jobs.get(queue.id(), &image(name)).unwrap().id);
        ids.map(|id| state.slots.is_in_the_way(id, true, Instant::now()))
    };
    assert_eq!(wanted(), [false, false]);
    let _ = in_use(&queue, &image("b.io/used"));
    assert_eq!(
        wanted(),
        [true, false],
        "one slot is never for images in use"
    );
    let _ = asked(&queue, &image("c.io/asked"));
    assert_eq!(wanted(), [true, true]);
}

/// Less is enough with each failure, for what is in the penalty queue. A backup that takes its time is no reason.
#[rstest::rstest]
#[case(73_000, None, true, false)]
#[case(72_000, None, true, true)]
#[case(100, None, false, false)]
#[case(37_000, Some(1), true, false)]
#[case(36_000, Some(1), true, true)]
#[case(2_400, Some(100), true, false)]
#[case(2_200, Some(100), true, true)]
fn slow_is_what_is_slow_because_of_its_source(
    #[case] rate: u64,
    #[case] penalty_after: Option<u32>,
    #[case] on_source: bool,
    #[case] slow: bool,
) {
    let allowance = penalty_after.map_or_else(Allowance::normal, Allowance::in_penalty);
    let start = Instant::now();
    let mut pace = Pace::new(start);
    let mut is_slow = false;
    for second in 1..=119 {
        let measured = Measured {
            is_requested: true,
            has_responded: true,
            movement: rate * second,
            arrived: rate * second,
            samples: 4 * second,
            source_waits: if on_source { 4 * second } else { 0 },
        };
        let excess = pace.check(start + Duration::from_secs(second), measured, allowance);
        is_slow |= matches!(excess, Some(Excess::Slow(_)));
    }
    assert_eq!(is_slow, slow, "{MIN_ARRIVED} bytes in {RATE_PERIOD:?}");
}
