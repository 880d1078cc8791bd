//! What Events say, how often, and what happens when they cannot be written.

use std::time::{Duration, Instant};

use kube::Client;
use proptest::prelude::*;
use rstest::rstest;

use super::dedup::{Due, MAX_REMEMBERED, Memory, Name, REPEAT_AFTER};
use super::metrics::EventResult;
use super::notice::MAX_NOTE;
use super::{About, EventMetrics, Events, Notice, QUEUE_LEN};
use crate::cluster::testing::{Log, api_server, refusal};
use crate::metrics::Metrics;

fn about(name: &str) -> About {
    About {
        api_version: "apps/v1".into(),
        kind: "Deployment".into(),
        namespace: "shop".into(),
        name: name.into(),
        uid: "2f3c".into(),
    }
}

fn news(count: i32) -> Due {
    let is_news = true;
    Due { count, is_news }
}

fn not_mirrored(image: &str, reason: &str) -> Notice {
    Notice::NotMirrored {
        image: image.into(),
        reason: reason.into(),
    }
}

#[rstest]
#[case::mirrored(
    Notice::Mirrored { image: "nginx:1".into() },
    "Mirrored",
    "nginx:1 is mirrored in the backup registry."
)]
#[case::not_mirrored(
    not_mirrored("nginx:1", "the registry has no such tag.\r\n"),
    "NotMirrored",
    "nginx:1 cannot be mirrored, so it is not protected against the loss of its registry: the registry has no such tag. \
     It is retried automatically; make sure that the image exists and that mirror-sidecar may pull it."
)]
#[case::last_copy(
    Notice::LastCopy { image: "nginx:1".into() },
    "LastCopy",
    "nginx:1 is gone from its registry: the copy in the backup registry is the last one. \
     Keep it there until this workload uses another image."
)]
#[case::not_rewritten(
    Notice::NotRewritten { images: vec!["a:1".into(), "b:1".into(), "c:1".into()] },
    "NotRewritten",
    "There are copies of these images, but the policy does not use them: a:1, b:1 and 1 more. \
     Check that the image-mirror policy is active and covers this kind and namespace."
)]
#[case::image_lost(
    Notice::ImageLost { image: "nginx:1".into() },
    "ImageLost",
    "nginx:1 is gone from its registry, and its copy is gone from the backup registry: the next Pod that has to pull it \
     cannot start. Restore the copy in the backup registry, push the image to its registry again, or change the image of \
     this workload."
)]
fn a_notice_is_a_sentence(#[case] notice: Notice, #[case] reason: &str, #[case] note: &str) {
    assert_eq!(notice.reason(), reason);
    assert_eq!(notice.note(), note);
    assert_eq!(notice.is_warning(), reason != "Mirrored");
}

#[test]
fn a_notice_is_repeated_and_counted_each_hour() {
    let start = Instant::now();
    let mut memory = Memory::new();
    let name = Name::of(&about("web"), &not_mirrored("nginx:1", "no"));
    assert_eq!(memory.take(name, start), Some(news(1)));
    assert_eq!(memory.take(name, start + REPEAT_AFTER / 2), None);
    assert_eq!(memory.take(name, start + REPEAT_AFTER), Some(news(2)));
    assert_eq!(memory.take(name, start + REPEAT_AFTER), None);
}

#[test]
fn a_lost_notice_is_due_but_no_news() {
    let start = Instant::now();
    let mut memory = Memory::new();
    let name = Name::of(&about("web"), &Notice::ForeignSecret);
    let first = memory.take(name, start);
    assert_eq!(first, Some(news(1)));
    memory.put_back(name, first.unwrap());
    assert_eq!(memory.take(name, start), Some(news(1)));
    memory.mark_lost(name);
    let again = Due {
        count: 1,
        is_news: false,
    };
    assert_eq!(memory.take(name, start), Some(again));
    assert_eq!(memory.take(name, start), None);
    memory.put_back(name, again);
    assert_eq!(memory.take(name, start), Some(again));
    assert_eq!(memory.take(name, start + REPEAT_AFTER), Some(news(2)));
}

#[test]
fn notices_are_told_apart_by_object_and_content() {
    let name = |about: &About, notice: &Notice| Name::of(about, notice);
    let web = about("web");
    let notice = not_mirrored("nginx:1", "too many requests, again in 30 s");
    let known = name(&web, &notice);
    let later = not_mirrored("nginx:1", "too many requests, again in 60 s");
    assert_eq!(name(&web, &later), known);
    let recreated = About {
        uid: "77aa".into(),
        ..about("web")
    };
    let image = Notice::Mirrored {
        image: "nginx:1".into(),
    };
    let last = Notice::LastCopy {
        image: "nginx:1".into(),
    };
    let names = [
        known,
        name(
            &web,
            &not_mirrored("nginx:2", "too many requests, again in 30 s"),
        ),
        name(&web, &not_mirrored("nginx:1", "it does not exist")),
        name(&about("api"), &notice),
        name(&recreated, &notice),
        name(&web, &image),
        name(&web, &last),
    ];
    let distinct: std::collections::HashSet<_> = names.iter().collect();
    assert_eq!(distinct.len(), names.len());
}

#[test]
fn the_memory_is_bounded() {
    let start = Instant::now();
    let mut memory = Memory::new();
    let name = |number| Name::of(&about("web"), &not_mirrored(&format!("a:{number}"), "no"));
    for number in 0..MAX_REMEMBERED {
        assert_eq!(memory.take(name(number), start), Some(news(1)));
    }
    // One that is known needs no room.
    assert_eq!(memory.take(name(0), start), None);
    // One that is not must wait, or the others would be told all over again.
    let later = start + REPEAT_AFTER / 2;
    for number in 0..2 * MAX_REMEMBERED {
        assert_eq!(memory.take(name(number), later), None);
    }
    let end = start + REPEAT_AFTER;
    assert_eq!(memory.take(name(MAX_REMEMBERED), end), Some(news(1)));
    assert_eq!(memory.take(name(MAX_REMEMBERED), end), None);
}

/// How many Events were written, dropped and failed.
fn figures(metrics: &EventMetrics) -> [usize; 3] {
    let results = [
        EventResult::Written,
        EventResult::Dropped,
        EventResult::Failed,
    ];
    results.map(|result| usize::try_from(metrics.count(result)).unwrap())
}

/// Lets the writer work; the clock is paused and runs ahead by itself.
async fn settle(metrics: &EventMetrics, count: usize) {
    for _ in 0..10_000 {
        if figures(metrics).iter().sum::<usize>() >= count {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("{:?} is all that happens", figures(metrics));
}

/// An API server that refuses everything; and how often it was asked.
fn refusing() -> (Client, Log) {
    api_server(|_| Some(refusal(403, "Forbidden", None)))
}

#[tokio::test(start_paused = true)]
async fn a_refused_event_is_not_retried() {
    let (client, asked) = refusing();
    let metrics = EventMetrics::register(&mut Metrics::new());
    let events = Events::start(client, Some("a"), metrics.clone());
    for round in 0..3 {
        let is_news = round == 0;
        assert_eq!(events.report(about("web"), Notice::ForeignSecret), is_news);
        assert_eq!(events.report(about("api"), Notice::ForeignSecret), is_news);
        settle(&metrics, 2).await;
    }
    assert_eq!(figures(&metrics), [0, 0, 2]);
    assert_eq!(asked.all().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn an_event_without_a_response_is_retried() {
    let (client, _) = api_server(|_| None);
    let metrics = EventMetrics::register(&mut Metrics::new());
    let events = Events::start(client, None, metrics.clone());
    for round in 1..=3 {
        let is_news = events.report(about("web"), Notice::ForeignSecret);
        assert_eq!(is_news, round == 1, "it is logged each time");
        settle(&metrics, round).await;
    }
    assert_eq!(figures(&metrics), [0, 0, 3]);
}

#[tokio::test(start_paused = true)]
async fn without_a_writer_notices_are_deduplicated() {
    let events = Events::none();
    for _ in 0..2 {
        assert!(events.report(about("web"), Notice::ForeignSecret));
        assert!(!events.clone().report(about("web"), Notice::ForeignSecret));
        assert!(events.report(about("api"), Notice::ForeignSecret));
        tokio::time::advance(REPEAT_AFTER).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_flood_is_limited_and_written_slowly() {
    let (client, asked) = refusing();
    let metrics = EventMetrics::register(&mut Metrics::new());
    let events = Events::start(client, None, metrics.clone());
    let elsewhere = |number: usize| About {
        namespace: format!("shop-{number}"),
        ..about("web")
    };
    // Nothing is written before this task waits for the first time.
    for number in 0..QUEUE_LEN {
        let image = format!("a:{number}");
        let is_news = events.report(elsewhere(number), Notice::Mirrored { image });
        assert_eq!(is_news, number < QUEUE_LEN / 2);
    }
    assert_eq!(figures(&metrics), [0, QUEUE_LEN / 2, 0]);
    for number in 0..QUEUE_LEN {
        events.report(
            elsewhere(number),
            not_mirrored(&format!("b-{number}"), "no"),
        );
        events.report(elsewhere(QUEUE_LEN + number), Notice::ForeignSecret);
    }
    assert_eq!(figures(&metrics)[1], QUEUE_LEN * 2);
    let start = tokio::time::Instant::now();
    settle(&metrics, QUEUE_LEN * 3).await;
    assert_eq!(asked.all().len(), QUEUE_LEN);
    let minutes = start.elapsed().as_secs_f64() / 60.0;
    assert!(minutes > 4.0, "{QUEUE_LEN} Events in {minutes} minutes");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn a_note_is_one_line_that_an_api_server_accepts(
        image in "\\PC{0,600}|[a-z/:.]{0,2000}",
        reason in "(?s).{0,3000}",
        many in prop::collection::vec("\\PC{0,400}", 0..20),
    ) {
        for notice in [
            not_mirrored(&image, &reason),
            Notice::Mirrored { image: image.clone() },
            Notice::LastCopy { image: image.clone() },
            Notice::NotRewritten { images: many },
            Notice::TooMuch { images: usize::MAX, has_workloads: true },
            Notice::NoBudget,
            Notice::ForeignSecret,
        ] {
            prop_assert_eq!(notice.clone().shortened().note().len() <= MAX_NOTE, true);
            let note = notice.note();
            prop_assert!(note.len() <= MAX_NOTE, "{} bytes", note.len());
            prop_assert!(!note.contains(char::is_control));
            // What the user can do is never cut off.
            prop_assert!(note.ends_with(['.']), "{}", note);
        }
    }
}
