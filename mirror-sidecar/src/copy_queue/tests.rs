//! The schedule with a scripted copier and a clock that moves only when told to.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;

use super::jobs::MAX_ASKED;
use super::*;

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
}

impl Copier for Arc<Script> {
    async fn copy(
        &self,
        image: &ImageRef<'static>,
        task: Task,
        _: &JobProgress,
    ) -> Result<CopyReport, Failure> {
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

fn report() -> CopyReport {
    CopyReport {
        digest: format!("sha256:{}", "0".repeat(64)).parse().unwrap(),
        media_type: String::new(),
        bytes: 0,
        blobs_copied: 0,
        blobs_mounted: 0,
        blobs_skipped: 0,
        blobs_foreign: 0,
        manifests: 1,
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
    }
}

fn image(name: &str) -> ImageRef<'static> {
    name.parse().unwrap()
}

fn schedule(script: &Arc<Script>, parallel: usize) -> CopyQueue<Arc<Script>> {
    let parallel = NonZeroUsize::new(parallel).unwrap();
    CopyQueue::new(Arc::clone(script), parallel, Metrics::new())
}

/// Asks as a question of the policy does.
fn asked<C: Copier>(schedule: &CopyQueue<C>, image: &ImageRef<'static>) -> Status {
    schedule.request(image, Task::Copy, Priority::Asked)
}

/// Asks for what runs in the cluster.
fn in_use<C: Copier>(schedule: &CopyQueue<C>, image: &ImageRef<'static>) -> Status {
    schedule.request(image, Task::Copy, Priority::InUse)
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
    let schedule = schedule(&script, 4);
    for _ in 0..10 {
        assert!(matches!(asked(&schedule, &image("a")), Status::Pending(_)));
        settle().await;
    }
    assert_eq!(script.started.load(Ordering::SeqCst), 1);
    script.release.notify_one();
    settle().await;
    assert_eq!(schedule.status(&image("a")), None);
}

#[tokio::test(start_paused = true)]
async fn few_images_are_copied_at_the_same_time() {
    let script = held();
    let schedule = schedule(&script, 2);
    for name in ["a.io/x", "b.io/x", "c.io/x", "d.io/x"] {
        let _ = asked(&schedule, &image(name));
    }
    settle().await;
    assert_eq!(
        schedule.status(&image("d.io/x")),
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
    let metrics = Metrics::new();
    let schedule = CopyQueue::new(Arc::clone(&script), NonZeroUsize::MIN, metrics.clone());
    for name in ["a.io/x", "b.io/x"] {
        let _ = asked(&schedule, &image(name));
    }
    settle().await;
    let jobs = |waiting, running, resting| Counts {
        waiting,
        running,
        resting,
    };
    assert_eq!(schedule.counts(), jobs(1, 1, 0));
    for _ in 0..2 {
        script.release.notify_one();
        settle().await;
    }
    assert_eq!(schedule.counts(), jobs(0, 0, 1));
    let text = metrics.encode(schedule.counts()).unwrap();
    for line in [
        "image_mirror_copies_total{result=\"failed\"} 1",
        "image_mirror_copies_total{result=\"copied\"} 1",
        "image_mirror_jobs{state=\"resting\"} 1",
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
    let schedule = schedule(&script, 1);
    let _ = asked(&schedule, &image("a"));
    settle().await;
    assert_eq!(
        asked(&schedule, &image("a")),
        Status::Failed {
            reason: "the registry is on fire".into(),
            outlook: Outlook::Passing
        }
    );
    tokio::time::sleep(Duration::from_secs(10)).await;
    settle().await;
    assert_eq!(script.started.load(Ordering::SeqCst), 3);
    assert_eq!(schedule.status(&image("a")), None);
}

#[tokio::test(start_paused = true)]
async fn a_lasting_failure_rests_until_somebody_asks_again() {
    let script = Arc::new(Script::default());
    script
        .outcomes
        .lock()
        .unwrap()
        .push_back(failure(Retry::Permanent));
    let schedule = schedule(&script, 1);
    let _ = asked(&schedule, &image("a"));
    settle().await;
    tokio::time::sleep(Duration::from_mins(1)).await;
    assert!(matches!(
        asked(&schedule, &image("a")),
        Status::Failed { .. }
    ));
    assert_eq!(script.started.load(Ordering::SeqCst), 1);
    tokio::time::sleep(Duration::from_hours(1)).await;
    assert!(matches!(asked(&schedule, &image("a")), Status::Pending(_)));
    settle().await;
    assert_eq!(schedule.status(&image("a")), None);
}

#[tokio::test(start_paused = true)]
async fn stopping_ends_copies_that_hang() {
    let script = held();
    let schedule = schedule(&script, 1);
    let _ = asked(&schedule, &image("a"));
    settle().await;
    schedule.shutdown().await;
    assert_eq!(script.started.load(Ordering::SeqCst), 1);
}

#[tokio::test(start_paused = true)]
async fn a_flood_of_names_is_refused_but_for_the_room_that_failures_take() {
    let script = Arc::new(Script::default());
    script
        .outcomes
        .lock()
        .unwrap()
        .push_back(failure(Retry::Permanent));
    let schedule = schedule(&script, 1);
    let _ = asked(&schedule, &image("failed"));
    settle().await;
    assert!(matches!(
        schedule.status(&image("failed")),
        Some(Status::Failed { .. })
    ));
    // No task runs between these requests, so none of the copies ends.
    for number in 1..MAX_ASKED {
        let _ = asked(&schedule, &image(&format!("a{number}")));
    }
    assert!(matches!(
        asked(&schedule, &image("last")),
        Status::Pending(_)
    ));
    assert_eq!(schedule.status(&image("failed")), None);
    assert_eq!(asked(&schedule, &image("one-more")), Status::Full);
    assert!(matches!(asked(&schedule, &image("a1")), Status::Pending(_)));
}

#[tokio::test(start_paused = true)]
async fn a_registry_that_hangs_leaves_room_for_others() {
    let script = held();
    let schedule = schedule(&script, 4);
    for number in 0..10 {
        let _ = asked(&schedule, &image(&format!("slow.io/a{number}")));
    }
    settle().await;
    assert_eq!(script.started.load(Ordering::SeqCst), 2);
    let _ = asked(&schedule, &image("other.io/a"));
    settle().await;
    assert_eq!(script.started.load(Ordering::SeqCst), 3);
    assert_eq!(
        schedule.status(&image("other.io/a")),
        Some(Status::Pending("copying".into()))
    );
}

#[tokio::test(start_paused = true)]
async fn a_copy_in_which_nothing_moves_gives_its_place_back() {
    let script = held();
    let schedule = schedule(&script, 1);
    let _ = asked(&schedule, &image("slow.io/a"));
    settle().await;
    let _ = asked(&schedule, &image("other.io/a"));
    tokio::time::sleep(Duration::from_secs(5 * 60 + 1)).await;
    settle().await;
    let Some(Status::Failed { reason, .. }) = schedule.status(&image("slow.io/a")) else {
        panic!("it still waits");
    };
    assert!(reason.contains("hardly anything moved"), "{reason}");
    assert_eq!(
        schedule.status(&image("other.io/a")),
        Some(Status::Pending("copying".into()))
    );
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
    let schedule = CopyQueue::new(Panicking, NonZeroUsize::MIN, Metrics::new());
    assert!(matches!(asked(&schedule, &image("a")), Status::Pending(_)));
    settle().await;
    assert_eq!(schedule.status(&image("a")), None);
}

#[test]
fn pauses_grow_and_honour_the_registry() {
    let seconds = |failures, retry| pause(failures, retry).as_secs();
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
    let schedule = schedule(&script, 4);
    let _ = in_use(&schedule, &image("h9.io/first"));
    settle().await;
    script.release.notify_one();
    settle().await;
    script.started.store(0, Ordering::SeqCst);
    for number in 0..MAX_ASKED {
        let _ = asked(&schedule, &image(&format!("h{}.io/a{number}", number % 5)));
    }
    // The runtime runs so many tasks in several rounds.
    for _ in 0..10 {
        settle().await;
    }
    assert_eq!(asked(&schedule, &image("h0.io/more")), Status::Full);
    assert_eq!(
        script.started.load(Ordering::SeqCst),
        3,
        "one place is kept"
    );
    assert!(matches!(
        in_use(&schedule, &image("h0.io/used")),
        Status::Pending(_)
    ));
    settle().await;
    assert_eq!(
        schedule.status(&image("h0.io/used")),
        Some(Status::Pending("copying".into()))
    );
    // One that waits already is taken out of the line. At most one of the others goes before.
    let _ = in_use(&schedule, &image("h1.io/a9996"));
    for _ in 0..2 {
        script.release.notify_one();
        settle().await;
    }
    assert_eq!(
        schedule.status(&image("h1.io/a9996")),
        Some(Status::Pending("copying".into()))
    );
}

#[tokio::test(start_paused = true)]
async fn places_are_given_back_by_those_who_stop_waiting() {
    let places = Places::new(NonZeroUsize::new(2).unwrap());
    let first = places.take("a", Line::Asked).await;
    {
        let second = places.take("a", Line::Asked);
        tokio::pin!(second);
        assert!(futures_util::poll!(&mut second).is_pending());
    }
    {
        let third = places.take("a", Line::InUse);
        tokio::pin!(third);
        assert!(futures_util::poll!(&mut third).is_pending());
        // It is its turn now, but it does not come to know that.
        drop(first);
    }
    let place = places.take("a", Line::Asked).await;
    let other = places.take("b", Line::Asked).await;
    drop((place, other));
    assert!(places.is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_update_is_not_waited_for() {
    let script = held();
    let schedule = schedule(&script, 1);
    let mut ended = schedule.ended();
    let lasting = failure(Retry::Permanent);
    script.outcomes.lock().unwrap().push_back(lasting);
    let _ = schedule.request(&image("a"), Task::Update, Priority::InUse);
    settle().await;
    assert!(!schedule.is_awaited(&image("a")));
    assert!(ended.is_empty());
    script.release.notify_one();
    assert_eq!(ended.recv().await.unwrap(), image("a"));
    assert!(matches!(
        schedule.status(&image("a")),
        Some(Status::Failed {
            outlook: Outlook::Lasting,
            ..
        })
    ));
    // The copy vanished meanwhile: that is more urgent than the rest after the failure.
    let _ = schedule.request(&image("a"), Task::Restore, Priority::InUse);
    settle().await;
    assert!(schedule.is_awaited(&image("a")));
    script.release.notify_one();
    assert_eq!(ended.recv().await.unwrap(), image("a"));
    assert_eq!(schedule.status(&image("a")), None);
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
    let schedule = schedule(&script, 1);
    let _ = schedule.request(&image("a"), Task::Update, Priority::InUse);
    settle().await;
    let _ = in_use(&schedule, &image("a"));
    settle().await;
    assert_eq!(script.started.load(Ordering::SeqCst), 2);
    tokio::time::sleep(Duration::from_secs(10)).await;
    settle().await;
    assert_eq!(script.started.load(Ordering::SeqCst), 3);
    assert_eq!(schedule.status(&image("a")), None);
}

/// However much a cluster runs, what is being admitted right now is copied.
#[tokio::test(start_paused = true)]
async fn what_is_in_use_leaves_room_for_what_is_asked_for() {
    let script = held();
    let schedule = schedule(&script, 4);
    for number in 0..=MAX_ASKED {
        let _ = in_use(&schedule, &image(&format!("h{}.io/a{number}", number % 5)));
    }
    for _ in 0..10 {
        settle().await;
    }
    assert_eq!(script.started.load(Ordering::SeqCst), 3);
    // Also of the registry of which most is in use.
    let asked_first = image("h0.io/asked");
    assert!(matches!(asked(&schedule, &asked_first), Status::Pending(_)));
    settle().await;
    let copying = Some(Status::Pending("copying".into()));
    assert_eq!(schedule.status(&asked_first), copying);
    // One that is asked for and then used does not count among the asked ones any more.
    assert_eq!(schedule.inner.jobs().asked, 1);
    let _ = in_use(&schedule, &asked_first);
    assert_eq!(schedule.inner.jobs().asked, 0);
}

#[tokio::test(start_paused = true)]
async fn one_registry_has_places_for_both_sorts() {
    let script = held();
    let schedule = schedule(&script, 4);
    for number in 0..100 {
        let _ = in_use(&schedule, &image(&format!("docker.io/a/used{number}")));
    }
    settle().await;
    let _ = asked(&schedule, &image("docker.io/a/asked"));
    let _ = asked(&schedule, &image("other.io/asked"));
    settle().await;
    let copying = Some(Status::Pending("copying".into()));
    for name in ["docker.io/a/asked", "other.io/asked"] {
        assert_eq!(schedule.status(&image(name)), copying, "{name}");
    }
}

/// Where there is one place, neither sort can keep one; they take turns.
#[tokio::test(start_paused = true)]
async fn both_sorts_take_turns_and_lost_copies_come_first() {
    let script = held();
    let schedule = schedule(&script, 1);
    let _ = asked(&schedule, &image("a.io/first"));
    settle().await;
    for number in 0..4 {
        let _ = in_use(&schedule, &image(&format!("a.io/used{number}")));
        let _ = asked(&schedule, &image(&format!("b.io/asked{number}")));
    }
    let _ = schedule.request(&image("c.io/lost"), Task::Restore, Priority::InUse);
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
        ..failure(Retry::Permanent)
    };
    script.outcomes.lock().unwrap().push_back(absent);
    let schedule = schedule(&script, 1);
    let _ = in_use(&schedule, &image("a"));
    settle().await;
    let Some(Status::Failed { outlook, .. }) = schedule.status(&image("a")) else {
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
        while image.host() == "slow.io" {
            tokio::time::sleep(Duration::from_secs(1)).await;
            trickle(progress, self.0);
        }
        Ok(report())
    }
}

fn trickle(progress: &JobProgress, bytes: u64) {
    use mirror_copy::Progress as _;
    let digest = report().digest;
    progress.event(mirror_copy::Event::Bytes {
        digest: &digest,
        bytes,
    });
}

/// A source that is just fast enough not to count as dead has its place until somebody else needs it.
#[tokio::test(start_paused = true)]
async fn a_slow_source_makes_room_for_who_waits() {
    let schedule = CopyQueue::new(Trickle(2048), NonZeroUsize::MIN, Metrics::new());
    let _ = asked(&schedule, &image("slow.io/x"));
    tokio::time::sleep(Duration::from_hours(1)).await;
    let status = schedule.status(&image("slow.io/x"));
    assert!(matches!(status, Some(Status::Pending(_))), "{status:?}");
    // Another image of the same registry would be as slow.
    let _ = asked(&schedule, &image("slow.io/y"));
    tokio::time::sleep(Duration::from_hours(1)).await;
    let status = schedule.status(&image("slow.io/x"));
    assert!(matches!(status, Some(Status::Pending(_))), "{status:?}");

    let _ = asked(&schedule, &image("b.io/x"));
    let mut ended = schedule.ended();
    tokio::time::timeout(Duration::from_mins(11), ended.recv())
        .await
        .unwrap()
        .unwrap();
    let Some(Status::Failed { reason, outlook }) = schedule.status(&image("slow.io/x")) else {
        panic!("{:?}", schedule.status(&image("slow.io/x")));
    };
    assert!(reason.contains("while other images waited"), "{reason}");
    assert_eq!(outlook, Outlook::Passing);
}

/// Of what nobody else could have, nobody is deprived.
#[tokio::test]
async fn a_place_is_wanted_only_by_those_who_could_have_it() {
    let places = Places::new(NonZeroUsize::new(2).unwrap());
    let used = places.take("a.io", Line::InUse).await;
    let asked = places.take("slow.io", Line::Asked).await;
    let wanted = || [used.others_wait(), asked.others_wait()];
    assert_eq!(wanted(), [false, false]);
    let mut next_used = std::pin::pin!(places.take("b.io", Line::InUse));
    assert!(futures_util::poll!(&mut next_used).is_pending());
    assert_eq!(
        wanted(),
        [true, false],
        "one place is never for what is in use"
    );
    let mut next_asked = std::pin::pin!(places.take("c.io", Line::Asked));
    assert!(futures_util::poll!(&mut next_asked).is_pending());
    assert_eq!(wanted(), [true, true]);
}

#[tokio::test(start_paused = true)]
async fn what_moves_enough_keeps_its_place_and_less_is_enough_with_each_failure() {
    for (rate, failures, kept) in [
        (18_000, 0, true),
        (17_000, 0, false),
        (9_000, 1, true),
        (8_000, 1, false),
        (600, 5, true),
        (600, 100, true),
    ] {
        let progress = JobProgress::new(Priority::Asked);
        let moving = async {
            loop {
                tokio::time::sleep(Duration::from_secs(1)).await;
                trickle(&progress, rate);
            }
        };
        let ended = tokio::select! {
            () = moving => true,
            _ = progress.crowded_out(|| true, failures) => true,
            () = tokio::time::sleep(Duration::from_hours(5)) => false,
        };
        assert_eq!(!ended, kept, "{rate} bytes/s after {failures} failures");
    }
}
