//! The figures that events add up to.

use std::slice;
use std::time::Duration;

use mirror_copy::{CopyError, Digest};

use super::image::Amount;
use super::*;

fn digest(letter: char) -> Digest {
    let hex: String = std::iter::repeat_n(letter, 64).collect();
    format!("sha256:{hex}").parse().unwrap()
}

fn board() -> (Board, Instant) {
    let now = Instant::now();
    let mut board = Board::new(now);
    board.total = 1;
    board.begin(0, "docker.io/library/nginx:1", now);
    (board, now)
}

fn image(board: &Board) -> &Image {
    &board.running[&0]
}

#[test]
fn what_the_target_has_is_no_part_of_the_way() {
    let (mut board, now) = board();
    assert_eq!(image(&board).state(), "reading manifests");
    let (a, b) = (digest('a'), digest('b'));
    for event in [
        Event::Resolved { digest: &a },
        Event::Planned {
            blobs: 3,
            bytes: 600,
            manifests: 1,
        },
        Event::BlobSkipped {
            digest: &a,
            size: 100,
        },
        Event::BlobMounted {
            digest: &a,
            size: 200,
            from: "x",
        },
        Event::BlobStarted {
            digest: &b,
            size: 300,
        },
        Event::Bytes {
            digest: &b,
            bytes: 150,
        },
    ] {
        board.apply(0, &event, now);
    }
    assert_eq!(image(&board).sent(), 150);
    assert_eq!(image(&board).to_send().bytes, 300);
    assert!((image(&board).share() - 0.5).abs() < 1e-9);
    let state = image(&board).state();
    assert!(
        state.starts_with("150 B of 300 B, 1 of 1 blob left"),
        "{state}"
    );
    board.apply(
        0,
        &Event::BlobCopied {
            digest: &b,
            size: 300,
        },
        now,
    );
    assert!(image(&board).is_sent());
    assert_eq!(image(&board).state(), "writing manifests");
}

/// The first manifest's blobs are brought while others are still read.
#[test]
fn what_is_found_before_all_manifests_are_read_is_no_part_of_the_way_either() {
    let (mut board, now) = board();
    let (a, b, c) = (&digest('a'), &digest('b'), &digest('c'));
    let before = [
        Event::BlobSkipped {
            digest: a,
            size: 100,
        },
        Event::BlobMounted {
            digest: b,
            size: 200,
            from: "x",
        },
    ];
    for event in before {
        board.apply(0, &event, now);
    }
    let (blobs, bytes, manifests) = (3, 600, 2);
    let planned = Event::Planned {
        blobs,
        bytes,
        manifests,
    };
    board.apply(0, &planned, now);
    let (blobs, bytes) = (1, 300);
    assert_eq!(image(&board).to_send(), Amount { blobs, bytes });
    let (digest, size) = (c, 300);
    board.apply(0, &Event::BlobStarted { digest, size }, now);
    board.apply(0, &Event::BlobCopied { digest, size }, now);
    assert!((image(&board).share() - 1.0).abs() < 1e-9);
    assert_eq!(image(&board).state(), "writing manifests");
}

/// Nothing says which layers belonged to what is left out: those that move on did not.
#[test]
fn layers_of_a_referrer_vanish_when_it_is_left_out() {
    let (mut board, start) = board();
    let (root, referrer) = (&digest('a'), &digest('b'));
    let plan = |blobs, bytes| Event::Planned {
        blobs,
        bytes,
        manifests: 1,
    };
    for event in [plan(1, 1000), plan(1, 50)] {
        board.apply(0, &event, start);
    }
    for (digest, size) in [(root, 1000), (referrer, 50)] {
        board.apply(0, &Event::BlobStarted { digest, size }, start);
    }
    let error = &CopyError::SourceMissing { object: "x".into() };
    let subject = root;
    board.apply(0, &Event::ReferrerLeftOut { subject, error }, start);
    let shown = |board: &Board| {
        let layers = image(board).layers();
        let mut layers: Vec<_> = layers.map(|(digest, _)| digest.clone()).collect();
        layers.sort_by(|a, b| a.as_ref().cmp(b.as_ref()));
        layers
    };
    board.tick(start);
    assert_eq!(shown(&board), [root.clone(), referrer.clone()]);
    let soon = start + Duration::from_secs(1);
    let (digest, bytes) = (root, 10);
    board.apply(0, &Event::Bytes { digest, bytes }, soon);
    let later = start + Duration::from_secs(5);
    board.tick(later);
    assert_eq!(shown(&board), slice::from_ref(root));
    assert_eq!(image(&board).to_send().bytes, 1000);
    let size = 1000;
    board.apply(0, &Event::BlobCopied { digest, size }, later);
    assert!(image(&board).is_sent());
    assert!((image(&board).share() - 1.0).abs() < 1e-9);
}

#[test]
fn a_layer_that_was_only_slow_comes_back() {
    let (mut board, start) = board();
    let (digest, size, bytes) = (&digest('a'), 1000, 100);
    board.apply(0, &Event::BlobStarted { digest, size }, start);
    board.apply(0, &Event::Bytes { digest, bytes }, start);
    let (subject, error) = (digest, &CopyError::SourceMissing { object: "x".into() });
    board.apply(0, &Event::ReferrerLeftOut { subject, error }, start);
    let later = start + Duration::from_secs(5);
    board.tick(later);
    assert_eq!(
        (image(&board).layers().count(), image(&board).sent()),
        (0, 0)
    );
    board.apply(0, &Event::Bytes { digest, bytes }, later);
    board.tick(later + Duration::from_secs(5));
    assert_eq!(
        (image(&board).layers().count(), image(&board).sent()),
        (1, 200)
    );
}

#[test]
fn a_source_that_is_waited_for_is_named_until_it_responds_or_is_given_up() {
    let (mut board, start) = board();
    let (a, b, size) = (&digest('a'), &digest('b'), 100);
    let planned = Event::Planned {
        blobs: 2,
        bytes: 200,
        manifests: 1,
    };
    let waits = |board: &Board| image(board).state().ends_with(", waiting for the source");
    board.apply(0, &planned, start);
    assert!(!waits(&board));
    for digest in [a, b] {
        board.apply(0, &Event::WaitingForSource { digest }, start);
    }
    board.apply(0, &Event::BlobStarted { digest: a, size }, start);
    assert!(waits(&board), "{}", image(&board).state());
    let state = board.state();
    assert!(state.ends_with(", 1 waiting for the source"), "{state}");
    let mut given_up = start;
    while waits(&board) {
        given_up += Duration::from_millis(250);
        board.tick(given_up);
        assert!(given_up < start + Duration::from_secs(5));
    }
    assert!(!board.state().contains("waiting"), "{}", board.state());
    board.apply(0, &Event::WaitingForSource { digest: b }, given_up);
    board.apply(0, &Event::BlobStarted { digest: b, size }, given_up);
    assert!(!waits(&board));
}

/// The bytes of the failed attempt were sent all the same, but the layer's bar begins again.
#[test]
fn a_layer_that_failed_begins_again() {
    let (mut board, now) = board();
    let a = digest('a');
    let started = Event::BlobStarted {
        digest: &a,
        size: 100,
    };
    let bytes = Event::Bytes {
        digest: &a,
        bytes: 90,
    };
    let error = CopyError::SourceMissing { object: "x".into() };
    board.apply(0, &started, now);
    board.apply(0, &bytes, now);
    board.apply(
        0,
        &Event::BlobFailed {
            digest: &a,
            bytes: 90,
            error: &error,
        },
        now,
    );
    assert_eq!(image(&board).sent(), 0);
    board.apply(0, &started, now);
    board.apply(0, &bytes, now);
    assert_eq!(image(&board).sent(), 90);
    assert_eq!(board.sent, 180);
}

#[test]
fn a_rate_follows_what_moves() {
    let (mut board, now) = board();
    for second in 1..=20 {
        board.sent += 1024 * 1024;
        board.tick(now + Duration::from_secs(second));
    }
    assert_eq!(board.rate.to_string(), "1.0 MiB/s");
    for second in 21..=60 {
        board.tick(now + Duration::from_secs(second));
    }
    assert!(board.rate.to_string().contains(" B/s"), "{}", board.rate);
}

#[test]
fn a_copy_that_failed_is_counted_as_such() {
    let (mut board, _) = board();
    board.end(0, None);
    assert_eq!((board.done(), board.failed), (1, 1));
    assert!(board.running.is_empty());
    assert!(board.summary().contains("1 failed"), "{}", board.summary());
}
