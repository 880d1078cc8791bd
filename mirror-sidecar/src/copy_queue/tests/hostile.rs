//! Sources and namespaces that would keep others waiting.

use std::collections::HashMap;
use std::net::Ipv4Addr;

use mirror_copy::MemoryPlace;

use super::*;

fn silent() -> Arc<Script> {
    Arc::new(Script {
        held: true,
        silent: true,
        ..Script::default()
    })
}

fn copied(script: &Script) -> Vec<String> {
    let log = script.log.lock().unwrap();
    log.iter().map(|(image, _)| image.to_string()).collect()
}

/// What starts when `released` copies end, one after the other.
async fn order_of(script: &Script, released: usize) -> Vec<String> {
    for _ in 0..released {
        script.release.notify_one();
        settle().await;
    }
    copied(script)
}

#[tokio::test(start_paused = true)]
async fn a_silent_source_waits_behind_all_that_is_untried() {
    let script = silent();
    let queue = queue(&script, 1);
    for name in ["hangs.io/a", "hangs.io/b", "x.io/a"] {
        let _ = asked(&queue, &image(&format!("{name}:1")));
    }
    tokio::time::sleep(Duration::from_secs(31)).await;
    assert_eq!(copied(&script), ["hangs.io/a:1", "x.io/a:1"]);
    let Some(Status::Failed { reason, outlook }) = queue.status(&image("hangs.io/a:1")) else {
        panic!("it still runs");
    };
    assert!(reason.contains("did not respond"), "{reason}");
    assert_eq!(outlook, Outlook::Passing);
    // Not even by an image that was requested before.
    let _ = asked(&queue, &image("y.io/a:1"));
    let order = order_of(&script, 2).await;
    assert_eq!(
        order,
        ["hangs.io/a:1", "x.io/a:1", "y.io/a:1", "hangs.io/b:1"]
    );
    // It delivers after all, so that its other images are as good as any.
    let order = order_of(&script, 1).await;
    assert_eq!(order.len(), 4);
    tokio::time::sleep(Duration::from_secs(100)).await;
    assert_eq!(copied(&script).last().unwrap(), "hangs.io/a:1");
}

/// Copies that need the memory for manifests which only one may have. That of `hoards.io` takes its time.
struct Hoarder(tokio::sync::Semaphore);

impl Copier for Hoarder {
    async fn copy(
        &self,
        image: &ImageRef<'static>,
        _: Task,
        progress: &JobProgress,
    ) -> Result<CopyReport, Failure> {
        progress.event(Event::SourceRequested);
        if image.host() == "large.io" {
            progress.event(Event::HoldsMemory(MemoryPlace::Medium));
            progress.event(Event::SourceResponded);
            loop {
                tokio::time::sleep(Duration::from_secs(1)).await;
                trickle(progress, 1_000_000);
            }
        }
        let mut memory = std::pin::pin!(self.0.acquire());
        let _memory = loop {
            tokio::select! {
                memory = &mut memory => break memory,
                () = tokio::time::sleep(Duration::from_millis(250)) => {
                    progress.event(Event::WaitingForMemory(MemoryPlace::Large));
                }
            }
        };
        progress.event(Event::HoldsMemory(MemoryPlace::Large));
        progress.event(Event::SourceResponded);
        while image.host() == "hoards.io" {
            tokio::time::sleep(Duration::from_secs(1)).await;
            trickle(progress, 80_000);
        }
        Ok(report())
    }
}

/// A copy that holds memory makes room like one that holds a slot, and who waits for it is not blamed.
#[tokio::test(start_paused = true)]
async fn memory_that_others_wait_for_is_given_up_after_two_minutes() {
    let parallel = NonZeroUsize::MIN.saturating_add(3);
    let queue = CopyQueue::new(Hoarder(tokio::sync::Semaphore::new(1)), parallel, metrics());
    let (hoarder, large) = (image("hoards.io/a"), image("large.io/a"));
    let _ = (asked(&queue, &hoarder), asked(&queue, &large));
    tokio::time::sleep(Duration::from_mins(1)).await;
    let _ = asked(&queue, &image("a.io/x"));
    tokio::time::sleep(Duration::from_secs(55)).await;
    let status = queue.status(&image("a.io/x"));
    assert!(matches!(status, Some(Status::Pending(_))), "{status:?}");
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(queue.status(&image("a.io/x")), None);
    // It only made room.
    let status = queue.status(&hoarder);
    assert!(matches!(status, Some(Status::Pending(_))), "{status:?}");
    // Another long copy has none of that memory, and goes on.
    let state = queue.runner.state();
    assert!(!state.jobs.get(queue.id(), &large).unwrap().is_long);
}

/// Nobody who waits means that nobody is penalized: a slow source is only slow.
#[tokio::test(start_paused = true)]
async fn a_silent_source_keeps_its_slot_while_nobody_waits() {
    let script = silent();
    let queue = queue(&script, 1);
    for name in ["hangs.io/a", "hangs.io/b"] {
        let _ = asked(&queue, &image(name));
    }
    tokio::time::sleep(Duration::from_mins(4)).await;
    assert_eq!(copied(&script).len(), 1);
}

/// An image in the penalty queue is served once in a while, whatever else is requested.
#[tokio::test(start_paused = true)]
async fn the_penalty_line_is_served_in_the_end() {
    let script = silent();
    let queue = queue(&script, 1);
    for name in ["hangs.io/a:1", "hangs.io/b:1"] {
        let _ = asked(&queue, &image(name));
    }
    for minute in 0..40 {
        for number in 0..10 {
            let _ = asked(&queue, &image(&format!("x{minute}-{number}.io/a:1")));
        }
        tokio::time::sleep(Duration::from_mins(1)).await;
    }
    let copied = copied(&script);
    let is_penalty = |name: &&String| name.starts_with("hangs.io");
    let count = copied.iter().filter(is_penalty).count();
    assert!((2..=4).contains(&count), "{copied:?}");
    // They do not displace the untried ones in turn.
    let distinct: std::collections::BTreeSet<_> = copied.iter().collect();
    assert!(distinct.len() > 60, "{copied:?}");
}

#[tokio::test(start_paused = true)]
async fn namespaces_take_turns() {
    let script = held();
    let queue = queue(&script, 1);
    for number in 0..100 {
        let many = image(&format!("x{number}.io/many:1"));
        let _ = queue.request(&many, Task::Copy, &namespace("many"));
    }
    for number in 0..2 {
        let few = image(&format!("a.io/few{number}:1"));
        let _ = queue.request(&few, Task::Copy, &namespace("few"));
    }
    let order = order_of(&script, 4).await;
    // The second of them waited before the others came.
    let expected = [
        "x0.io/many:1",
        "x1.io/many:1",
        "a.io/few0:1",
        "x2.io/many:1",
        "a.io/few1:1",
    ];
    assert_eq!(order, expected);
    // What another namespace uses, too, is served in the turns of both.
    let shared = image("x50.io/many:1");
    let _ = queue.request(&shared, Task::Copy, &namespace("other"));
    let order = order_of(&script, 2).await;
    assert_eq!(order[5..], ["x3.io/many:1", "x50.io/many:1"]);
}

/// Names below one domain are one source.
#[tokio::test(start_paused = true)]
async fn a_domain_is_one_source_whatever_its_hosts() {
    let script = held();
    let queue = queue(&script, 4);
    for number in 0..100 {
        let _ = asked(&queue, &image(&format!("h{number}.evil.io/a:1")));
    }
    settle().await;
    assert_eq!(copied(&script).len(), 2);
    let _ = asked(&queue, &image("good.io/a:1"));
    let _ = asked(&queue, &image("other.io/a:1"));
    settle().await;
    assert_eq!(copied(&script)[2..], ["good.io/a:1", "other.io/a:1"]);
}

/// All names of `evil*.io` resolve to one address; none responds. The others end at once.
struct OneAddress(Mutex<Vec<String>>);

impl Copier for Arc<OneAddress> {
    async fn copy(
        &self,
        image: &ImageRef<'static>,
        _: Task,
        progress: &JobProgress,
    ) -> Result<CopyReport, Failure> {
        self.0.lock().unwrap().push(image.to_string());
        progress.event(Event::SourceRequested);
        if image.host().starts_with("evil") {
            std::future::pending::<()>().await;
        }
        progress.event(Event::SourceResponded);
        Ok(report())
    }

    fn source_state(&self, image: &ImageRef<'static>) -> SourceState {
        let is_evil = image.host().starts_with("evil");
        SourceState {
            address: is_evil.then_some(Ipv4Addr::LOCALHOST.into()),
            is_paused: false,
        }
    }
}

#[tokio::test(start_paused = true)]
async fn domains_with_one_address_are_one_source() {
    let copier = Arc::new(OneAddress(Mutex::default()));
    let parallel = NonZeroUsize::new(4).unwrap();
    let queue = CopyQueue::new(Arc::clone(&copier), parallel, metrics());
    for number in 0..100 {
        let _ = asked(&queue, &image(&format!("evil{number}.io/a:1")));
    }
    let _ = asked(&queue, &image("good.io/a:1"));
    let start = Instant::now();
    while queue.status(&image("good.io/a:1")).is_some() {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    // Were they a hundred sources, it would wait for 16 minutes: 97 of 30 s each, three at a time.
    assert!(
        start.elapsed() <= Duration::from_secs(90),
        "{:?}",
        start.elapsed()
    );
}

/// A long copy that moves enough to be no slow one. The others end after ten seconds.
struct Long(Mutex<HashMap<String, usize>>);

impl Copier for Arc<Long> {
    async fn copy(
        &self,
        image: &ImageRef<'static>,
        _: Task,
        progress: &JobProgress,
    ) -> Result<CopyReport, Failure> {
        *self.0.lock().unwrap().entry(image.to_string()).or_default() += 1;
        progress.event(Event::SourceRequested);
        progress.event(Event::SourceResponded);
        if image.path().starts_with("huge") {
            for _ in 0..3600 {
                tokio::time::sleep(Duration::from_secs(1)).await;
                trickle(progress, 100_000_000);
            }
        }
        tokio::time::sleep(Duration::from_secs(10)).await;
        Ok(report())
    }
}

/// Whatever their rate, long copies leave half of the slots to others, and none keeps its slot for ever. Both is no failure
/// of theirs.
#[tokio::test(start_paused = true)]
async fn long_copies_make_room() {
    let copier = Arc::new(Long(Mutex::default()));
    let parallel = NonZeroUsize::new(4).unwrap();
    let queue = CopyQueue::new(Arc::clone(&copier), parallel, metrics());
    for number in 0..20 {
        let _ = asked(&queue, &image(&format!("fast{number}.io/huge:1")));
    }
    let mut waits = Vec::new();
    for number in 0..60 {
        tokio::time::sleep(Duration::from_secs(30)).await;
        let small = image(&format!("small{number}.io/a:1"));
        let start = Instant::now();
        let _ = queue.request(&small, Task::Copy, &namespace("ns"));
        while queue.status(&small).is_some() {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        waits.push(start.elapsed());
    }
    // All slots were taken before anything was in use.
    assert!(waits.remove(0) <= Duration::from_mins(2));
    let worst = waits.iter().max().unwrap();
    assert!(*worst <= Duration::from_secs(12), "{worst:?}");
    let running = queue.counts().running;
    assert!(running >= 2, "{running}");
    let first = queue.status(&image("fast0.io/huge:1"));
    assert!(matches!(
        first,
        Some(Status::Failed { .. } | Status::Pending(_))
    ));
}

#[tokio::test(start_paused = true)]
async fn a_namespace_has_a_bound_and_the_largest_gives_way() {
    let script = held();
    let queue = queue(&script, 4);
    let (of_namespace, of_all) = (20, 100);
    queue.limit_in_use(of_namespace, of_all);
    let request = |name: &str, number: usize| {
        let image = image(&format!("a.io/{name}{number}:1"));
        queue.request(&image, Task::Copy, &namespace(name))
    };
    for number in 0..of_namespace {
        assert!(matches!(request("n0", number), Status::Pending(_)));
    }
    assert_eq!(request("n0", of_namespace), Status::Full);
    for name in 1..of_all / of_namespace {
        for number in 0..of_namespace {
            let _ = request(&format!("n{name}"), number);
        }
    }
    let counts = queue.counts();
    assert_eq!(counts.running + counts.waiting, of_all);
    assert!(matches!(request("small", 0), Status::Pending(_)));
    let counts = queue.counts();
    assert_eq!(counts.running + counts.waiting, of_all);
    assert_eq!(request("n0", of_namespace), Status::Full);
}
