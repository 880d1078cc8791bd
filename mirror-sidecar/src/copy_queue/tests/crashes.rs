//! Images that ran when the process died.

use super::*;

/// The record that a process leaves that dies now.
fn left_by(record: &CrashRecord) -> String {
    record.to_store().1
}

/// The next process.
fn restarted(script: &Arc<Script>, lease: Option<&str>) -> CopyQueue<Arc<Script>> {
    let queue = queue(script, 4);
    queue.crash_record().persist();
    match lease {
        Some(text) => queue.crash_record().load(Some(text)),
        None => queue.crash_record().load_nothing(),
    }
    queue
}

/// Stores the record whenever a copy waits for that.
fn store<C: Copier>(queue: &CopyQueue<C>) {
    let record = queue.crash_record().clone();
    tokio::spawn(async move {
        loop {
            record.waits_to_be_stored().await;
            let (version, _) = record.to_store();
            record.stored(version);
        }
    });
}

#[tokio::test(start_paused = true)]
async fn what_ran_when_the_process_died_is_copied_alone_later() {
    let script = held();
    let before = restarted(&script, None);
    for name in ["a.io/x", "b.io/x"] {
        let _ = asked(&before, &image(name));
    }
    settle().await;
    let lease = left_by(before.crash_record());

    let script = held();
    let queue = restarted(&script, Some(&lease));
    store(&queue);
    for name in ["a.io/x", "b.io/x", "c.io/x"] {
        let _ = asked(&queue, &image(name));
    }
    settle().await;
    assert_eq!(queue.counts().isolated, 2);
    let Some(Status::Failed { reason, .. }) = queue.status(&image("a.io/x")) else {
        panic!("{:?}", queue.status(&image("a.io/x")));
    };
    assert!(reason.contains("copied alone"), "{reason}");
    // A pause later, one waits for the end of the others, and all others wait for its end.
    tokio::time::sleep(Duration::from_secs(62)).await;
    assert_eq!(script.started.load(Ordering::SeqCst), 1);
    script.release.notify_one();
    settle().await;
    let _ = asked(&queue, &image("d.io/x"));
    settle().await;
    assert_eq!(script.started.load(Ordering::SeqCst), 2);
    assert_eq!(script.most.load(Ordering::SeqCst), 1);
    let copying = Some(Status::Pending("copying".into()));
    assert_eq!(queue.status(&image("a.io/x")), copying);
    // It is innocent.
    script.release.notify_one();
    settle().await;
    assert_eq!(queue.counts().isolated, 1);
    assert_eq!(queue.status(&image("d.io/x")), copying);
}

/// What runs for two minutes without ending the process has shown that it can be copied beside others, and is large.
#[tokio::test(start_paused = true)]
async fn a_large_isolated_image_stops_the_others_for_two_minutes() {
    let queue = CopyQueue::new(
        Trickle(1 << 20),
        NonZeroUsize::MIN.saturating_add(3),
        metrics(),
    );
    queue.crash_record().persist();
    let lease = r#"{"running":["slow.io/x:latest"]}"#;
    queue.crash_record().load(Some(lease));
    store(&queue);
    let large = image("slow.io/x");
    let _ = asked(&queue, &large);
    tokio::time::sleep(Duration::from_secs(70)).await;
    let is_copied = || matches!(queue.status(&large), Some(Status::Pending(text)) if text.starts_with("copying"));
    assert!(is_copied());
    let _ = asked(&queue, &image("b.io/x"));
    tokio::time::sleep(Duration::from_secs(105)).await;
    assert!(queue.status(&image("b.io/x")).is_some());
    tokio::time::sleep(Duration::from_secs(15)).await;
    assert_eq!(queue.status(&image("b.io/x")), None);
    tokio::time::sleep(Duration::from_hours(1)).await;
    assert!(is_copied(), "nobody waits, so nothing ends it");
}

/// Copies that never end make room for an isolated image.
#[tokio::test(start_paused = true)]
async fn long_copies_make_room_for_an_isolated_image() {
    let queue = CopyQueue::new(
        Trickle(1 << 20),
        NonZeroUsize::MIN.saturating_add(3),
        metrics(),
    );
    queue.crash_record().persist();
    queue
        .crash_record()
        .load(Some(r#"{"running":["b.io/x:latest"]}"#));
    store(&queue);
    for name in ["slow.io/x", "slow.io/y", "b.io/x"] {
        let _ = asked(&queue, &image(name));
    }
    tokio::time::sleep(Duration::from_mins(15)).await;
    assert!(queue.status(&image("b.io/x")).is_some());
    tokio::time::sleep(Duration::from_mins(3)).await;
    assert_eq!(queue.status(&image("b.io/x")), None);
    let status = queue.status(&image("slow.io/x"));
    assert!(matches!(status, Some(Status::Pending(_))), "{status:?}");
}

/// However often it ends the process, it runs ever more rarely, and the others are copied.
#[tokio::test(start_paused = true)]
async fn pauses_grow_with_every_death() {
    let mut lease = None;
    for pause in [0, 1, 4, 16, 64] {
        let script = held();
        let queue = restarted(&script, lease.as_deref());
        store(&queue);
        let _ = asked(&queue, &image("evil.io/x"));
        tokio::time::sleep(Duration::from_secs((pause * 60_u64).saturating_sub(2))).await;
        settle().await;
        assert_eq!(script.started.load(Ordering::SeqCst) == 0, pause > 0);
        if pause > 0 {
            let _ = asked(&queue, &image("good.io/x"));
            settle().await;
            script.release.notify_one();
            settle().await;
            assert_eq!(queue.status(&image("good.io/x")), None);
        }
        tokio::time::sleep(Duration::from_secs(4)).await;
        lease = Some(left_by(queue.crash_record()));
        assert!(
            lease
                .as_ref()
                .unwrap()
                .contains("\"running\":[\"evil.io/x:latest\"]"),
            "{lease:?}"
        );
    }
}

/// After a death, the record is stored before the manifest of the next image is read. Before, nothing waits for it.
#[tokio::test(start_paused = true)]
async fn after_a_death_no_copy_starts_unrecorded() {
    let script = held();
    let healthy = restarted(&script, None);
    let _ = asked(&healthy, &image("a.io/x"));
    settle().await;
    assert_eq!(script.started.load(Ordering::SeqCst), 1);

    let script = held();
    let queue = restarted(&script, Some("{}"));
    let _ = asked(&queue, &image("a.io/x"));
    settle().await;
    assert_eq!(script.started.load(Ordering::SeqCst), 0);
    let record = queue.crash_record();
    record.waits_to_be_stored().await;
    let (version, text) = record.to_store();
    assert!(text.contains("a.io/x"), "{text}");
    record.stored(version);
    settle().await;
    assert_eq!(script.started.load(Ordering::SeqCst), 1);
    // An API server that is away stops nothing.
    let _ = asked(&queue, &image("b.io/x"));
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert_eq!(script.started.load(Ordering::SeqCst), 2);
}

/// Until the record was read, nothing starts; for some seconds at most.
#[tokio::test(start_paused = true)]
async fn nothing_starts_before_the_record_is_read() {
    let script = held();
    let queue = queue(&script, 4);
    queue.crash_record().persist();
    let _ = asked(&queue, &image("a.io/x"));
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert_eq!(script.started.load(Ordering::SeqCst), 0);
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(script.started.load(Ordering::SeqCst), 1);
}

#[tokio::test(start_paused = true)]
async fn the_images_of_a_replica_that_died_are_isolated_everywhere() {
    let script = held();
    let (a, b) = (restarted(&script, None), restarted(&script, None));
    let _ = asked(&a, &image("evil.io/x"));
    settle().await;
    let record = b.crash_record();
    record.observe("a", Some(&left_by(a.crash_record())));
    assert_eq!(record.isolated(), 0);
    record.adopt("a");
    assert_eq!(record.isolated(), 1);
    // What a live replica isolates is isolated here, too; what it ended in order is not.
    let third = restarted(&script, None);
    third.crash_record().observe("b", Some(&left_by(record)));
    let status = asked(&third, &image("evil.io/x"));
    assert!(matches!(status, Status::Failed { .. }), "{status:?}");
    third.crash_record().forget("b");
    assert_eq!(third.crash_record().isolated(), 0);
    // Nonsense and giants are no record.
    let giant = "x".repeat(1_000_000);
    for text in [None, Some("[1]"), Some(giant.as_str())] {
        third.crash_record().observe("c", text);
        third.crash_record().adopt("c");
        assert_eq!(third.crash_record().isolated(), 0);
    }
}
