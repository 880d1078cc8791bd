//! The registries of the soak: small images, made from their numbers, and faults in both registries.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use testkit::scripted::{Action, Fake, Image, image, noise};
use tokio::runtime::Runtime;

/// Bytes of a layer. The load is requests, not bytes.
const LAYER: usize = 2000;

pub struct Registries {
    upstream: Fake,
    backup: Fake,
    faults: Arc<AtomicUsize>,
}

impl Registries {
    /// Starts an upstream registry with this many images and an empty backup.
    pub fn start(runtime: &Runtime, images: usize, faults_per_mille: u64) -> Self {
        let (upstream, backup) =
            runtime.block_on(async { (Fake::start().await, Fake::start().await) });
        for number in 0..images {
            upstream.put_tagged(&format!("team/app-{number}"), "v1", &app(number));
        }
        let requests = Arc::new(AtomicU64::new(0));
        let faults = Arc::new(AtomicUsize::new(0));
        for registry in [&upstream, &backup] {
            let (requests, faults) = (Arc::clone(&requests), Arc::clone(&faults));
            registry.set(|knobs| {
                knobs.fault = Some(Arc::new(move || {
                    fault(&requests, &faults, faults_per_mille)
                }));
            });
        }
        Self {
            upstream,
            backup,
            faults,
        }
    }

    pub fn upstream(&self) -> String {
        self.upstream.host()
    }

    pub fn backup(&self) -> String {
        self.backup.host()
    }

    /// Images whose tag is in the backup with everything that its manifest names.
    pub fn copies(&self) -> usize {
        self.copied().len()
    }

    /// The numbers of these images.
    pub fn copied(&self) -> HashSet<usize> {
        let tags = self.backup.state().tags.clone();
        let complete = tags.into_iter().filter_map(|((repository, tag), digest)| {
            let number = repository.rsplit("app--").next()?.parse().ok()?;
            let app = app(number);
            let is_whole = tag == "v1"
                && digest == app.digest().to_string()
                && self.backup.has(&repository, &app);
            is_whole.then_some(number)
        });
        complete.collect()
    }

    /// Requests that were answered with a fault.
    pub fn faults(&self) -> usize {
        self.faults.load(Ordering::Relaxed)
    }

    /// Keeps the memory of this program small: nothing here reads the logs of the registries.
    pub fn clear_logs(&self) {
        self.upstream.clear_log();
        self.backup.clear_log();
    }
}

/// The fault of a request, spread evenly over all requests: a status, or a late response.
fn fault(requests: &AtomicU64, faults: &AtomicUsize, per_mille: u64) -> Option<Action> {
    let number = requests.fetch_add(1, Ordering::Relaxed);
    // A prime step lets every kind of request meet every fault.
    if number.wrapping_mul(7919) % 1000 >= per_mille {
        return None;
    }
    Some(match faults.fetch_add(1, Ordering::Relaxed) % 4 {
        0 => Action::Status(500, Vec::new(), ""),
        1 => Action::Status(503, vec![("retry-after", "1".to_owned())], ""),
        2 => Action::Status(502, Vec::new(), "<html>Bad Gateway</html>"),
        _ => Action::Delay(Duration::from_secs(2)),
    })
}

/// The image of this number.
fn app(number: usize) -> Image {
    let number = number as u64;
    image(number, &[noise(number, LAYER)])
}
