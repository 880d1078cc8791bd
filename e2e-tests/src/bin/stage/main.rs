//! A stage for tests that are not written in Rust: two registries, and the real sidecar between them.
//!
//! Usage: `stage FOLDER`. It fills the folder with what a user of kwctl needs (see [`props`]), makes the file `ready` last,
//! and lives until its standard input ends or it gets SIGTERM. Then all that it started ends with it.

mod props;

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use mirror_contract::ImageRef;
use serde_json::Value;
use testkit::image::Image;
use testkit::registry::{Credential, Registry, start_registry, start_registry_with};
use testkit::sidecar::Sidecar;
use testkit::{blocking, fixtures};
use tokio::io::AsyncReadExt as _;
use tokio::signal::unix::{SignalKind, signal};

/// The repository in the backup registry.
const REPOSITORY: &str = "acme/mirror";
/// The workload that is admitted: it names images in every way.
const FIXTURE: &str = "deployment-create";

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

#[allow(
    clippy::print_stderr,
    reason = "a program's only way to say why it failed"
)]
fn complain(text: &str) {
    eprintln!("stage: {text}");
}

fn run() -> anyhow::Result<()> {
    let mut arguments = std::env::args_os().skip(1);
    let (Some(folder), None) = (arguments.next(), arguments.next()) else {
        bail!("usage: stage FOLDER");
    };
    let folder = Path::new(&folder);

    let upstream = start_registry()?;
    let backup = start_registry_with(Some(Credential::new("pusher", "p4ss word")))?;
    let mut review = fixtures::load(FIXTURE);
    stock(&mut review, upstream.as_ref())?;
    let sidecar = Sidecar::builder()
        .registry(backup.as_ref(), REPOSITORY)
        .insecure_registry(&upstream.localhost())
        .argument("--pull-secret")
        .argument("image-mirror-pull")
        .start()?;
    let copies = format!("{}/{REPOSITORY}", backup.address());
    props::lay_out(folder, &sidecar, &copies, &review)?;
    blocking::run(until_told())
}

/// Puts a multi-platform image behind every reference of the review, which is made to name them upstream.
fn stock(review: &mut Value, upstream: &dyn Registry) -> anyhow::Result<()> {
    fixtures::move_images(review, &upstream.localhost());
    let mut seed = 0;
    let mut failure = None;
    fixtures::replace_images(review, &mut |text| {
        seed += 1;
        push(text, seed, upstream).unwrap_or_else(|error| {
            failure = Some(error);
            None
        })
    });
    failure.map_or(Ok(()), Err)
}

/// The new name of the image, if it is another: a pinned image gets the digest of what is pushed.
fn push(text: &str, seed: u64, upstream: &dyn Registry) -> anyhow::Result<Option<String>> {
    let image = ImageRef::parse(text).with_context(|| format!("{text} is no image reference"))?;
    let tag = image.tag().unwrap_or("by-digest");
    let digest = Image::index(seed).push(&upstream.client(), image.path(), tag)?;
    Ok(image
        .digest()
        .map(|_| format!("{}/{}@{digest}", image.host(), image.path())))
}

/// Waits for SIGTERM or for the end of the standard input.
async fn until_told() -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut input = tokio::io::stdin();
    let mut ignored = [0; 64];
    loop {
        tokio::select! {
            _ = terminate.recv() => return Ok(()),
            read = input.read(&mut ignored) => if read? == 0 { return Ok(()) },
        }
    }
}
