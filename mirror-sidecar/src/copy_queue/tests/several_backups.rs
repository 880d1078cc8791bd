//! The copies to several backups.

use super::*;

type Queue = (CopyQueue<Arc<Script>>, Arc<Script>);

fn queues<const N: usize>(
    parallel: usize,
    names: [&'static str; N],
) -> ([Queue; N], SharedQueue<Arc<Script>>) {
    let shared = SharedQueue::new(NonZeroUsize::new(parallel).unwrap());
    let queues = names.map(|name| {
        let script = held();
        let backup = BackupName::parse(name).unwrap();
        let queue = shared.add(backup, Arc::clone(&script), None, metrics());
        (queue, script)
    });
    (queues, shared)
}

fn running(script: &Arc<Script>) -> usize {
    script.running.load(Ordering::SeqCst)
}

/// Requests images of many sources.
fn ask_for(queue: &CopyQueue<impl Copier>, count: usize) {
    for number in 0..count {
        let _ = asked(queue, &image(&format!("r{number}.io/x")));
    }
}

#[tokio::test(start_paused = true)]
async fn backups_share_the_slots_and_none_starves() {
    let ([(default, a), (team, b), _, _], _) = queues(4, ["default", "team-a", "team-b", "team-c"]);
    ask_for(&default, 20);
    settle().await;
    assert_eq!(running(&a), 3, "one is kept for the other backups");
    ask_for(&team, 20);
    settle().await;
    assert_eq!((running(&a), running(&b)), (3, 1));
    // The slot of a copy that ends goes to the backup with fewer.
    a.release.notify_one();
    settle().await;
    assert_eq!((running(&a), running(&b)), (2, 2));
    for _ in 0..10 {
        b.release.notify_one();
        settle().await;
        assert_eq!((running(&a), running(&b)), (2, 2));
    }
    // A backup without work leaves its slots to the other one.
    for _ in 0..20 {
        b.release.notify_one();
        settle().await;
    }
    assert_eq!((running(&a), running(&b)), (3, 0));
    for _ in 0..20 {
        a.release.notify_one();
        settle().await;
    }
    assert_eq!((running(&a), running(&b)), (0, 0));
    assert_eq!(a.started.load(Ordering::SeqCst), 20);
}

/// A registry that accepts 27 kB/s; `None`: one that has the image after five seconds.
struct Rate(Option<u64>, AtomicUsize);

impl Copier for Arc<Rate> {
    async fn copy(
        &self,
        _: &ImageRef<'static>,
        _: Task,
        progress: &JobProgress,
    ) -> Result<CopyReport, Failure> {
        progress.event(Event::SourceRequested);
        progress.event(Event::SourceResponded);
        self.1.fetch_add(1, Ordering::SeqCst);
        let Some(rate) = self.0 else {
            tokio::time::sleep(Duration::from_secs(5)).await;
            return Ok(report());
        };
        loop {
            tokio::time::sleep(Duration::from_secs(1)).await;
            trickle(progress, rate);
        }
    }
}

/// The same sources are as good as ever for the other backup.
#[tokio::test(start_paused = true)]
async fn a_slow_backup_gives_slots_to_the_others() {
    let shared = SharedQueue::new(NonZeroUsize::new(4).unwrap());
    let (slow, fast) = [Some(27_000), None]
        .map(|rate| Arc::new(Rate(rate, 0.into())))
        .into();
    let team = BackupName::parse("team-a").unwrap();
    let default = shared.add(BackupName::DEFAULT, Arc::clone(&slow), None, metrics());
    let team = shared.add(team, Arc::clone(&fast), None, metrics());
    ask_for(&default, 200);
    tokio::time::sleep(Duration::from_mins(1)).await;
    assert_eq!(default.counts().running, 3);
    ask_for(&team, 200);
    tokio::time::sleep(Duration::from_mins(3)).await;
    assert_eq!((default.counts().running, team.counts().running), (2, 2));
    assert!(default.counts().backing_off >= 2);
    assert_eq!(team.counts().backing_off, 0);
    // Three or four at a time would need five minutes or less, one needs 17.
    tokio::time::sleep(Duration::from_mins(6)).await;
    assert_eq!(fast.1.load(Ordering::SeqCst), 200);
}

/// Any number of names that admission requests takes a bounded amount of memory.
#[tokio::test(start_paused = true)]
async fn the_number_of_requested_images_is_bounded_for_all_backups_together() {
    let ([(default, _), (team, _)], _) = queues(1, ["default", "team-a"]);
    ask_for(&default, MAX_REQUESTED);
    ask_for(&team, MAX_REQUESTED);
    assert_eq!(team.runner.state().jobs.asked(), MAX_REQUESTED);
    assert!(team.counts().waiting > MAX_REQUESTED / 2);
}

#[tokio::test(start_paused = true)]
async fn a_backup_that_is_gone_leaves_its_slots() {
    let ([(default, a), (team, b)], _) = queues(2, ["default", "team-a"]);
    ask_for(&default, 5);
    ask_for(&team, 5);
    settle().await;
    assert_eq!((running(&a), running(&b)), (1, 1));
    team.shutdown().await;
    drop(team);
    a.release.notify_one();
    settle().await;
    assert_eq!(running(&a), 2);
}

#[tokio::test(start_paused = true)]
async fn the_record_of_running_copies_has_those_of_all_backups() {
    let ([(default, a), (team, b)], shared) = queues(4, ["default", "team-a"]);
    let _ = asked(&default, &image("a.io/x"));
    let _ = asked(&team, &image("b.io/x"));
    settle().await;
    let (_, record) = shared.crash_record().to_store();
    assert!(
        record.contains("a.io/x") && record.contains("b.io/x"),
        "{record}"
    );
    b.release.notify_one();
    settle().await;
    let (_, record) = shared.crash_record().to_store();
    assert!(
        record.contains("a.io/x") && !record.contains("b.io/x"),
        "{record}"
    );
    drop(a);
}

#[tokio::test(start_paused = true)]
async fn an_isolated_image_runs_while_no_backup_copies_anything() {
    let ([(default, a), (team, b)], shared) = queues(4, ["default", "team-a"]);
    let record = shared.crash_record();
    record.persist();
    record.load(Some(r#"{"running":["bad.io/x:latest"]}"#));
    let stored = record.clone();
    tokio::spawn(async move {
        loop {
            stored.waits_to_be_stored().await;
            let (version, _) = stored.to_store();
            stored.stored(version);
        }
    });
    let _ = asked(&team, &image("bad.io/x"));
    let _ = asked(&default, &image("good.io/x"));
    tokio::time::sleep(Duration::from_mins(2)).await;
    assert_eq!((running(&a), running(&b)), (1, 0));
    a.release.notify_one();
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!((running(&a), running(&b)), (0, 1));
    let _ = asked(&default, &image("other.io/x"));
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!((running(&a), running(&b)), (0, 1));
    b.release.notify_one();
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!((running(&a), running(&b)), (1, 0));
}
