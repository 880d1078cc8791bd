//! The schedule with a scripted copier and a clock that moves only when told to.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;

use super::*;

#[derive(Default)]
struct Script {
    /// What the next copies come to; when it is empty they succeed.
    outcomes: Mutex<VecDeque<Failure>>,
    started: AtomicUsize,
    running: AtomicUsize,
    most: AtomicUsize,
    /// Copies wait for this when `held` is set.
    release: Notify,
    held: bool,
}

impl Copier for Arc<Script> {
    async fn copy(&self, _: &ImageRef<'static>, _: &JobProgress) -> Result<CopyReport, Failure> {
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
    }
}

fn image(name: &str) -> ImageRef<'static> {
    name.parse().unwrap()
}

fn schedule(script: &Arc<Script>, parallel: usize) -> Schedule<Arc<Script>> {
    let parallel = NonZeroUsize::new(parallel).unwrap();
    Schedule::new(Arc::clone(script), parallel, Metrics::new())
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
        assert!(matches!(schedule.request(&image("a")), Status::Pending(_)));
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
        let _ = schedule.request(&image(name));
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
    let schedule = Schedule::new(Arc::clone(&script), NonZeroUsize::MIN, metrics.clone());
    for name in ["a.io/x", "b.io/x"] {
        let _ = schedule.request(&image(name));
    }
    settle().await;
    let jobs = |waiting, running, resting| Jobs {
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
    let _ = schedule.request(&image("a"));
    settle().await;
    assert_eq!(
        schedule.request(&image("a")),
        Status::Failed("the registry is on fire".into())
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
    let _ = schedule.request(&image("a"));
    settle().await;
    tokio::time::sleep(Duration::from_mins(1)).await;
    assert!(matches!(schedule.request(&image("a")), Status::Failed(_)));
    assert_eq!(script.started.load(Ordering::SeqCst), 1);
    tokio::time::sleep(Duration::from_hours(1)).await;
    assert!(matches!(schedule.request(&image("a")), Status::Pending(_)));
    settle().await;
    assert_eq!(schedule.status(&image("a")), None);
}

#[tokio::test(start_paused = true)]
async fn stopping_ends_copies_that_hang() {
    let script = held();
    let schedule = schedule(&script, 1);
    let _ = schedule.request(&image("a"));
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
    let _ = schedule.request(&image("failed"));
    settle().await;
    assert!(matches!(
        schedule.status(&image("failed")),
        Some(Status::Failed(_))
    ));
    // No task runs between these requests, so none of the copies ends.
    for number in 1..MAX_JOBS {
        let _ = schedule.request(&image(&format!("a{number}")));
    }
    assert!(matches!(
        schedule.request(&image("last")),
        Status::Pending(_)
    ));
    assert_eq!(schedule.status(&image("failed")), None);
    assert_eq!(schedule.request(&image("one-more")), Status::Full);
    assert!(matches!(schedule.request(&image("a1")), Status::Pending(_)));
}

#[tokio::test(start_paused = true)]
async fn a_registry_that_hangs_leaves_room_for_others() {
    let script = held();
    let schedule = schedule(&script, 4);
    for number in 0..10 {
        let _ = schedule.request(&image(&format!("slow.io/a{number}")));
    }
    settle().await;
    assert_eq!(script.started.load(Ordering::SeqCst), 2);
    let _ = schedule.request(&image("other.io/a"));
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
    let _ = schedule.request(&image("slow.io/a"));
    settle().await;
    let _ = schedule.request(&image("other.io/a"));
    tokio::time::sleep(Duration::from_secs(5 * 60 + 1)).await;
    settle().await;
    let Some(Status::Failed(reason)) = schedule.status(&image("slow.io/a")) else {
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
    async fn copy(&self, _: &ImageRef<'static>, _: &JobProgress) -> Result<CopyReport, Failure> {
        panic!("this is the defect");
    }
}

#[tokio::test(start_paused = true)]
async fn a_defect_does_not_leave_an_image_pending_for_ever() {
    let schedule = Schedule::new(Panicking, NonZeroUsize::MIN, Metrics::new());
    assert!(matches!(schedule.request(&image("a")), Status::Pending(_)));
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
