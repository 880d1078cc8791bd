//! The copies to several backups.

use super::*;
use crate::copy_queue::limits::{LONG_AFTER, TICK};

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

/// Any number of names that admission requests takes a bounded amount of memory. At the bound, names for one backup cost
/// the others nothing.
#[tokio::test(start_paused = true)]
async fn the_backup_with_the_most_requested_names_loses_one() {
    let ([(default, _), (team, _), (small, _)], _) = queues(1, ["default", "team-a", "team-b"]);
    let requested = |queue: &CopyQueue<_>| {
        let counts = queue.counts();
        counts.waiting + counts.running
    };
    ask_for(&small, 100);
    ask_for(&default, MAX_REQUESTED);
    assert_eq!(requested(&default), MAX_REQUESTED - 100);
    // It may have as many as the other one, and then displaces its own.
    ask_for(&team, MAX_REQUESTED);
    let half = (MAX_REQUESTED - 100) / 2;
    assert_eq!([&default, &team].map(requested), [half, half]);
    assert_eq!(requested(&small), 100);
    assert_eq!(team.runner.state().jobs.asked(), MAX_REQUESTED);
}

/// Whatever the others want: images in use, lost copies, or names that admission requests.
#[tokio::test(start_paused = true)]
async fn backups_take_turns() {
    for seed in 0..30 {
        let mut random = fastrand::Rng::with_seed(seed);
        let (queues, _) = queues(1, ["default", "team-a", "team-b"]);
        for (number, (queue, _)) in queues.iter().enumerate() {
            for job in 0..30 {
                let image = image(&format!("r{number}-{job}.io/x"));
                let lane = namespace(["shop", "db", "web"][random.usize(0..3)]);
                let _ = match random.u32(0..3) {
                    0 => asked(queue, &image),
                    1 => queue.request(&image, Task::Copy, &lane),
                    _ => queue.request(&image, Task::Restore, &lane),
                };
            }
        }
        settle().await;
        for round in 1..=30 {
            for _ in &queues {
                for (_, script) in &queues {
                    if running(script) > 0 {
                        script.release.notify_one();
                        break;
                    }
                }
                settle().await;
            }
            for (_, script) in &queues {
                let started = script.started.load(Ordering::SeqCst);
                assert!(
                    started.abs_diff(round) <= 1,
                    "seed {seed}: {started}, {round}"
                );
            }
        }
    }
}

/// Lost copies are first within their backup only.
#[tokio::test(start_paused = true)]
async fn lost_copies_do_not_pass_the_turns_of_other_backups() {
    let ([(default, a), (team, b)], _) = queues(1, ["default", "team-a"]);
    for number in 0..20 {
        let image = image(&format!("r{number}.io/x"));
        let _ = default.request(&image, Task::Restore, &namespace("shop"));
    }
    let _ = team.request(&image("r0.io/x"), Task::Copy, &namespace("shop"));
    settle().await;
    // The first backup waited before the other one came.
    for _ in 0..2 {
        assert_eq!((running(&a), running(&b)), (1, 0));
        a.release.notify_one();
        settle().await;
    }
    assert_eq!((running(&a), running(&b)), (0, 1));
}

/// Copies that take long keep the slots that another backup could use for two minutes at most, however few there are.
#[tokio::test(start_paused = true)]
async fn long_copies_make_room_for_a_backup_without_a_slot() {
    for parallel in 1..=5 {
        for is_in_use in [true, false] {
            let shared = SharedQueue::new(NonZeroUsize::new(parallel).unwrap());
            let [slow, other, fast] =
                [Some(100_000), Some(100_000), None].map(|rate| Arc::new(Rate(rate, 0.into())));
            let [slow, other, fast] =
                [("default", slow), ("team-a", other), ("team-b", fast)].map(|(name, rate)| {
                    shared.add(BackupName::parse(name).unwrap(), rate, None, metrics())
                });
            let request = |queue: &CopyQueue<_>, name: &str| {
                let image = image(name);
                let _ = if is_in_use {
                    queue.request(&image, Task::Copy, &namespace(name))
                } else {
                    asked(queue, &image)
                };
            };
            for number in 0..20 {
                request(&slow, &format!("r{number}.io/x"));
                request(&other, &format!("r{number}.io/x"));
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
            for number in 0..10 {
                let name = format!("fast{number}.io/x");
                request(&fast, &name);
                let since = Instant::now();
                while fast.status(&image(&name)).is_some() {
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
                let waited = since.elapsed();
                // A copy runs, both other backups have one turn each, and its own copy takes five seconds.
                let most = (LONG_AFTER + TICK * 2) * 3 + Duration::from_secs(6);
                assert!(waited <= most, "{parallel} slots, {is_in_use}: {waited:?}");
            }
        }
    }
}

/// A domain has no more slots because several backups get its images.
#[tokio::test(start_paused = true)]
async fn the_slots_of_a_domain_are_bounded_for_all_backups_together() {
    let ([(default, a), (team, b), (third, c)], _) = queues(4, ["default", "team-a", "team-b"]);
    for queue in [&default, &team, &third] {
        for number in 0..50 {
            let _ = asked(queue, &image(&format!("h{number}.evil.io/a:1")));
        }
    }
    settle().await;
    let all = || [&a, &b, &c].map(running).iter().sum::<usize>();
    assert_eq!(all(), 2);
    let _ = asked(&third, &image("good.io/a:1"));
    settle().await;
    assert_eq!((all(), running(&c)), (3, 1));
    for _ in 0..20 {
        for script in [&a, &b, &c] {
            script.release.notify_one();
            settle().await;
        }
        assert!(all() <= 3);
    }
    for script in [&a, &b, &c] {
        assert!(
            script.started.load(Ordering::SeqCst) > 5,
            "each has its turns"
        );
    }
}

/// A domain whose slots one backup holds with long copies is not lost for the others.
#[tokio::test(start_paused = true)]
async fn the_slots_of_a_domain_go_round_the_backups() {
    let shared = SharedQueue::new(NonZeroUsize::new(4).unwrap());
    let [slow, fast] = [Some(100_000), None].map(|rate| Arc::new(Rate(rate, 0.into())));
    let slow = shared.add(BackupName::DEFAULT, slow, None, metrics());
    let team = BackupName::parse("team-a").unwrap();
    let fast = shared.add(team, fast, None, metrics());
    for number in 0..20 {
        let image = image(&format!("shared.io/x{number}:1"));
        let _ = slow.request(&image, Task::Copy, &namespace("shop"));
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    let _ = fast.request(&image("shared.io/y:1"), Task::Copy, &namespace("shop"));
    tokio::time::sleep(LONG_AFTER + TICK * 2 + Duration::from_secs(6)).await;
    assert_eq!(fast.status(&image("shared.io/y:1")), None);
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
