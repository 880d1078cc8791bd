//! Sources that take places, queue slots and time from others.

use std::time::Duration;

use axum::body::Body;
use axum::http::{Method, Response};
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};

use super::foreign_bytes::honest;
use super::site::{Site, hostile, wait};
use super::{Attack, Measured, Setup};
use testkit::blocking;
use testkit::scripted::{Fake, Image, image, noise};

/// How long an honest image may take from its request to its copy, with hostile sources in all slots: a slow source gives
/// up its slot after a minute.
const BOUND: Duration = Duration::from_secs(70);
/// The same for an image of a registry of which nothing is known: each of the eight hostile ones has a turn before it, and
/// three have it at a time.
const BOUND_OF_NEW: Duration = Duration::from_secs(190);
/// How long it is waited for, so that the table shows a figure.
const PATIENCE: Duration = Duration::from_mins(4);
/// Names that are invented.
const INVENTED: usize = 10_000;

pub const ATTACKS: &[Attack] = &[
    Attack {
        name: "Eight sources whose layers trickle at 27 kB/s: an image of a registry that delivered before",
        bound: "70 s",
        is_short: false,
        run: trickling,
    },
    Attack {
        name: "The same: an image of a new registry",
        bound: "190 s",
        is_short: false,
        run: trickling_before_new,
    },
    Attack {
        name: "Sources of 40 images that never respond: an image of a registry that delivered before",
        bound: "70 s",
        is_short: false,
        run: hanging,
    },
    Attack {
        name: "10,000 invented names in the queue: an image of a registry that delivered before",
        bound: "70 s",
        is_short: false,
        run: invented,
    },
];

fn trickling(setup: Setup) -> anyhow::Result<Measured> {
    let (sources, images) = tricklers();
    measure(setup, &sources, &images, true)
}

fn trickling_before_new(setup: Setup) -> anyhow::Result<Measured> {
    let (sources, images) = tricklers();
    measure(setup, &sources, &images, false)
}

/// Sources whose layers trickle, and their images.
pub(super) fn tricklers() -> (Vec<Fake>, Vec<String>) {
    let layer = noise(77, 20 << 20);
    let slow = image(77, std::slice::from_ref(&layer));
    let sources = hostile(move |method, path, _| {
        let is_layer = path.ends_with(&testkit::digest::of(&layer));
        if is_layer && *method == Method::GET {
            return trickle(&layer);
        }
        honest(&slow, method, path)
    });
    let images = (0..24).map(|number| {
        format!(
            "{}/team/app-{number}:1",
            sources[number % sources.len()].host()
        )
    });
    let images = images.collect();
    (sources, images)
}

/// A body at 27 kB/s.
fn trickle(layer: &Bytes) -> Response<Body> {
    let pieces: Vec<_> = layer.chunks(2_700).map(Bytes::copy_from_slice).collect();
    let pieces = stream::iter(pieces).then(|piece| async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        Ok::<_, std::io::Error>(piece)
    });
    let length = layer.len();
    Response::builder()
        .header("content-length", length)
        .body(Body::from_stream(pieces))
        .unwrap_or_default()
}

fn hanging(setup: Setup) -> anyhow::Result<Measured> {
    let sources = hostile(|_, _, _| Response::default());
    for source in &sources {
        for method in [Method::GET, Method::HEAD] {
            source.fault(method, "", usize::MAX, testkit::scripted::Action::Hang);
        }
    }
    let images = (0..40).map(|number| {
        format!(
            "{}/team/app-{number}:1",
            sources[number % sources.len()].host()
        )
    });
    measure(setup, &sources, &images.collect::<Vec<_>>(), true)
}

fn invented(setup: Setup) -> anyhow::Result<Measured> {
    let images = (0..INVENTED).map(|number| format!("name-{number}.example.invalid/team/app:1"));
    measure(setup, &[], &images.collect::<Vec<_>>(), true)
}

/// Asks for the hostile images, and then for an honest one, whose registry has delivered an image before or not.
fn measure(
    setup: Setup,
    sources: &[Fake],
    images: &[String],
    has_delivered: bool,
) -> anyhow::Result<Measured> {
    let upstream = blocking::run(Fake::start());
    for (seed, name) in [(1, "shop/app"), (2, "shop/first")] {
        let app: Image = image(seed, &[noise(seed, 100_000)]);
        upstream.put_tagged(name, "1", &app);
    }
    let mut all: Vec<&Fake> = sources.iter().collect();
    all.push(&upstream);
    let site = Site::start(setup, &all)?;
    if has_delivered {
        site.wait_until_mirrored(&format!("{}/shop/first:1", upstream.host()), PATIENCE)?;
    }
    for image in images {
        // A full queue refuses; that is part of the attack.
        let _ = site.ask(image);
    }
    // The hostile sources have all places by then.
    wait(Duration::from_secs(3), || {
        sources.iter().all(|source| !source.log().is_empty())
    });
    let took = site.wait_until_mirrored(&format!("{}/shop/app:1", upstream.host()), PATIENCE);
    let bound = if has_delivered { BOUND } else { BOUND_OF_NEW };
    Ok(match took {
        Ok(took) => Measured {
            value: format!("{:.1} s", took.as_secs_f32()),
            is_within_bound: took <= bound,
        },
        Err(error) => Measured {
            value: error.to_string(),
            is_within_bound: false,
        },
    })
}
