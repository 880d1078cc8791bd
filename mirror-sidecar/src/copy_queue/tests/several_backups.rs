//! The queues of several backups.

use super::*;

type Queue = (CopyQueue<Arc<Script>>, Arc<Script>);

fn queues<const N: usize>(
    parallel: usize,
    names: [&'static str; N],
) -> ([Queue; N], SharedCopying) {
    let shared = SharedCopying::new(NonZeroUsize::new(parallel).unwrap());
    let queues = names.map(|name| {
        let script = held();
        let backup = BackupName::parse(name).unwrap();
        let queue = CopyQueue::of_backup(Arc::clone(&script), backup, None, &shared, metrics());
        (queue, script)
    });
    (queues, shared)
}

fn running(script: &Arc<Script>) -> usize {
    script.running.load(Ordering::SeqCst)
}

/// Requests images of many sources.
fn ask_for(queue: &CopyQueue<Arc<Script>>, count: usize) {
    for number in 0..count {
        let _ = asked(queue, &image(&format!("r{number}.io/x")));
    }
}

#[tokio::test(start_paused = true)]
async fn the_queues_share_the_slots_and_none_starves() {
    let ([(default, a), (team, b)], _) = queues(4, ["default", "team-a"]);
    ask_for(&default, 20);
    settle().await;
    assert_eq!(running(&a), 3, "one is kept for the other backup");
    ask_for(&team, 20);
    settle().await;
    assert_eq!((running(&a), running(&b)), (3, 1));
    // The slot of a copy that ends goes to the queue with less than its share.
    a.release.notify_one();
    settle().await;
    assert_eq!((running(&a), running(&b)), (2, 2));
    for _ in 0..10 {
        b.release.notify_one();
        settle().await;
        assert_eq!((running(&a), running(&b)), (2, 2));
    }
    // A queue without work leaves its share to the other one.
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

#[tokio::test(start_paused = true)]
async fn a_queue_that_is_gone_leaves_its_slots() {
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

/// Jobs of different queues have the same numbers.
#[tokio::test(start_paused = true)]
async fn the_record_of_running_copies_has_those_of_all_queues() {
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
