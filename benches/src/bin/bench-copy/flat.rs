//! Whether memory stays flat however large a layer is: the program under test alone, against servers that keep nothing.

use std::sync::Arc;

use anyhow::{Context as _, bail, ensure};
use testkit::endless::{Endless, Sink};

use crate::launch::{self, Ran};
use crate::measure::{Bench, memory_folder, progress};
use crate::results::Flat;
use crate::task::{Pair, Task};
use crate::tools::Contender;

/// Sizes of the layers in MiB.
pub const FULL: [u64; 2] = [1024, 10 * 1024];
/// The same in small.
pub const QUICK: [u64; 2] = [64, 640];

const TAG: &str = "1.0";

/// Copies an image with a layer of this many MiB.
pub fn measure(bench: &Bench, mebibytes: u64) -> anyhow::Result<Flat> {
    let image = Arc::new(Endless::new(mebibytes));
    let sink = Arc::new(Sink::default());
    let source = image.serve()?;
    let target = sink.serve()?;
    let folder = memory_folder()?;
    let task = Task {
        pairs: vec![Pair {
            source: format!("{}/bench/image:{TAG}", source.address()),
            target: format!("{}/bench/image:{TAG}", target.address()),
        }],
        source: source.address(),
        target: target.address(),
        ca: None,
        referrers: false,
        folder: folder.path().to_owned(),
        blobs: Vec::new(),
    };
    let job = bench
        .tools
        .job(Contender::OURS, &task)
        .context("its program is gone")?;
    let usage = match launch::run(&job, bench.give_up)? {
        Ran::Ended(usage) => usage,
        Ran::GaveUp => bail!(
            "a layer of {mebibytes} MiB took more than {} s",
            bench.give_up.as_secs()
        ),
    };
    if let Some(failure) = usage.failures.first() {
        bail!("a layer of {mebibytes} MiB: {failure}");
    }
    ensure!(
        sink.has(&image, TAG),
        "a layer of {mebibytes} MiB did not arrive"
    );
    progress(&format!(
        "layer of {mebibytes} MiB, nothing stored: {:.2} s, {:.2} s CPU, {} KiB",
        usage.wall.as_secs_f64(),
        usage.cpu.as_secs_f64(),
        usage.max_rss >> 10
    ));
    Ok(Flat {
        bytes: mebibytes << 20,
        wall: usage.wall,
        cpu: usage.cpu,
        max_rss: usage.max_rss,
    })
}
