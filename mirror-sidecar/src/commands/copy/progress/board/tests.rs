//! The figures that events add up to.

use std::time::Duration;

use mirror_copy::CopyError;

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
    assert_eq!((image(&board).sent(), image(&board).bytes), (150, 300));
    assert!((image(&board).share() - 0.5).abs() < 1e-9);
    let state = image(&board).state();
    assert!(
        state.starts_with("150 B of 300 B, 1 of 1 blobs left"),
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
