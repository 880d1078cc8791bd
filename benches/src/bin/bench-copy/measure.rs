//! Measures one row after another: registries up, tools in turn, everything verified, registries away.

use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use mirror_contract::{Backup, ImageRef, Naming};
use tempfile::TempDir;
use testkit::registry::{DebianOptions, DebianRegistry, Registry, RegistryClient};
use testkit::tls::Tls;
use tokio::runtime::Handle;

use crate::interrupt;
use crate::launch::{self, Ran};
use crate::network::{Link, Network};
use crate::results::{Cell, Outcome, Requests, Results, Sample};
use crate::shapes::{Named, Scale, Shape};
use crate::task::{Blob, Pair, Task};
use crate::tools::{Contender, REPOSITORY, Tool, Tools};

/// What all rows need.
pub struct Bench {
    pub runtime: Handle,
    pub tools: Tools,
    pub scale: Scale,
    pub tls: Arc<Tls>,
    pub runs: u32,
    /// A contender that took longer does the row no further time.
    pub once_above: Duration,
    /// A contender that takes longer is stopped.
    pub give_up: Duration,
}

/// The images of a shape, and the storage of a registry that has them.
pub struct Stock {
    shape: Shape,
    images: Vec<Named>,
    storage: TempDir,
}

/// The source registry, as one row uses it.
struct Source<'a> {
    stock: &'a Stock,
    network: Network,
    registry: DebianRegistry,
    link: Link,
}

impl Bench {
    /// Makes the images of a shape and pushes them to a registry, once for all networks.
    pub fn stock(&self, shape: Shape) -> anyhow::Result<Stock> {
        progress(&format!("{}: making it", shape.title(&self.scale)));
        let stock = Stock {
            shape,
            images: shape.images(&self.scale),
            storage: memory_folder()?,
        };
        let registry = DebianRegistry::start_with(DebianOptions {
            storage: Some(stock.storage.path().to_owned()),
            ..DebianOptions::default()
        })?;
        let first = stock.images.first().context("a shape without images")?;
        for image in &stock.images {
            interrupt::check()?;
            image.push(&registry.client(), &first.repository)?;
        }
        Ok(stock)
    }

    /// Measures one row. Each round begins with another contender, so that none always follows the same one.
    pub fn row(
        &self,
        stock: &Stock,
        network: Network,
        results: &mut Results,
    ) -> anyhow::Result<()> {
        let title = stock.shape.title(&self.scale);
        let source = Source::start(self, stock, network)?;
        let mut cells: Vec<_> = self
            .tools
            .contenders()
            .into_iter()
            .filter(|contender| self.tools.cannot(*contender, stock.shape).is_none())
            .map(|contender| stock.cell(network, contender))
            .collect();
        for run in 0..self.runs {
            for cell in &mut cells {
                if self.is_enough(cell) {
                    continue;
                }
                let outcome = self.measure(&source, cell.contender)?;
                progress(&format!(
                    "{title}, {network}, run {}, {}: {}",
                    run + 1,
                    cell.contender.name(),
                    describe(&outcome)
                ));
                cell.outcomes.push(outcome);
            }
            cells.rotate_left(1);
        }
        results.cells.append(&mut cells);
        Ok(())
    }

    fn is_enough(&self, cell: &Cell) -> bool {
        match cell.outcomes.last() {
            Some(Outcome::Done(sample)) => sample.wall > self.once_above,
            Some(Outcome::GaveUp(_)) => true,
            Some(Outcome::Failed(_)) | None => false,
        }
    }

    /// One run of one contender into a fresh registry.
    fn measure(&self, source: &Source<'_>, contender: Contender) -> anyhow::Result<Outcome> {
        interrupt::check()?;
        let target = DebianRegistry::start_with(self.options(source.network))?;
        let link = Link::new(&self.runtime, source.network, &target.address())?;
        let folder = memory_folder()?;
        let task = self.task(source, link.address(), folder.path())?;
        let job = self
            .tools
            .job(contender, &task)
            .context("its program is gone")?;
        if source.stock.shape == Shape::Recopy {
            match launch::run(&job, self.give_up)? {
                Ran::Ended(usage) if usage.failures.is_empty() => {}
                Ran::Ended(_) | Ran::GaveUp => {
                    return Ok(Outcome::Failed("the first copy failed".to_owned()));
                }
            }
        }
        let seen = [source.registry.requests().len(), target.requests().len()];
        let usage = match launch::run(&job, self.give_up)? {
            Ran::GaveUp => return Ok(Outcome::GaveUp(self.give_up)),
            Ran::Ended(usage) => usage,
        };
        let [from_source, from_target] = [
            Requests::count(source.registry.requests().iter().skip(seen[0])),
            Requests::count(target.requests().iter().skip(seen[1])),
        ];
        if let Some(failure) = usage.failures.first() {
            return Ok(Outcome::Failed(failure.clone()));
        }
        if let Err(error) = verify(&target.client(), source.stock, &task, contender) {
            return Ok(Outcome::Failed(format!(
                "it said it succeeded, but {error:#}"
            )));
        }
        Ok(Outcome::Done(Sample {
            wall: usage.wall,
            cpu: usage.cpu,
            max_rss: usage.max_rss,
            source: from_source,
            target: from_target,
        }))
    }

    fn options(&self, network: Network) -> DebianOptions {
        DebianOptions {
            tls: network.tls.then(|| Arc::clone(&self.tls)),
            // A URL would lead past the proxy.
            relative_locations: true,
            ..DebianOptions::default()
        }
    }

    fn task(&self, source: &Source<'_>, target: &str, folder: &Path) -> anyhow::Result<Task> {
        let backup = Backup::new(target, REPOSITORY, Naming::Flat)
            .ok()
            .context("the target is no registry")?;
        let host = source.link.address();
        let mut pairs = Vec::new();
        let mut blobs = Vec::new();
        for named in &source.stock.images {
            let text = format!("{host}/{}:{}", named.repository, named.tag);
            let image = ImageRef::parse(&text).with_context(|| text.clone())?;
            let copy = backup.target(&image)?;
            blobs.extend(named.image.blobs().map(|(digest, size)| Blob {
                source_repository: named.repository.clone(),
                target_repository: copy.path().to_owned(),
                digest: digest.to_owned(),
                size,
            }));
            pairs.push(Pair {
                source: text,
                target: copy.to_string(),
            });
        }
        Ok(Task {
            pairs,
            source: host.to_owned(),
            target: target.to_owned(),
            ca: source.network.tls.then(|| self.tls.ca_path()),
            referrers: source.stock.shape == Shape::Referrers,
            folder: folder.to_owned(),
            blobs,
        })
    }
}

impl Stock {
    fn cell(&self, network: Network, contender: Contender) -> Cell {
        let mut blobs: Vec<_> = self
            .images
            .iter()
            .flat_map(|named| named.image.blobs())
            .collect();
        blobs.sort_unstable();
        blobs.dedup();
        Cell {
            shape: self.shape,
            network,
            contender,
            outcomes: Vec::new(),
            bytes: blobs.iter().map(|(_, size)| size).sum(),
        }
    }
}

impl<'a> Source<'a> {
    fn start(bench: &Bench, stock: &'a Stock, network: Network) -> anyhow::Result<Self> {
        let registry = DebianRegistry::start_with(DebianOptions {
            storage: Some(stock.storage.path().to_owned()),
            ..bench.options(network)
        })?;
        let link = Link::new(&bench.runtime, network, &registry.address())?;
        Ok(Self {
            stock,
            network,
            registry,
            link,
        })
    }
}

/// Checks that every tag is there with the right digest. The registry takes a manifest only when it has all its parts.
fn verify(
    target: &RegistryClient,
    stock: &Stock,
    task: &Task,
    contender: Contender,
) -> anyhow::Result<()> {
    if contender.tool == Tool::Limit {
        for blob in &task.blobs {
            let found = target.has_blob(&blob.target_repository, &blob.digest)?;
            ensure!(found, "{} is missing", blob.digest);
        }
        return Ok(());
    }
    for (named, pair) in stock.images.iter().zip(&task.pairs) {
        let copy = ImageRef::parse(&pair.target).context("the copy's name")?;
        let found = target.manifest(copy.path(), &named.tag)?;
        let found = found
            .with_context(|| format!("{copy} is missing"))?
            .digest();
        ensure!(
            found == named.image.digest(),
            "{copy} has the digest {found}"
        );
        if !named.referrers.is_empty() {
            let tag = named.fallback_tag();
            let index = target
                .manifest(copy.path(), &tag)?
                .context("the referrers' fallback tag is missing")?;
            let index = String::from_utf8_lossy(&index.bytes).into_owned();
            for referrer in &named.referrers {
                let digest = referrer.digest();
                ensure!(
                    index.contains(&digest),
                    "the fallback tag does not list {digest}"
                );
                target
                    .manifest(copy.path(), &digest)?
                    .context("a referrer is missing")?;
            }
        }
    }
    Ok(())
}

fn describe(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Done(sample) => format!(
            "{:.2} s, {:.2} s CPU, {} MiB, {} + {} requests",
            sample.wall.as_secs_f64(),
            sample.cpu.as_secs_f64(),
            sample.max_rss >> 20,
            sample.source.total(),
            sample.target.total()
        ),
        Outcome::GaveUp(after) => format!("stopped after {} s", after.as_secs()),
        Outcome::Failed(reason) => format!("FAILED: {reason}"),
    }
}

/// A folder in memory where the system has such a place: disks only add noise.
pub fn memory_folder() -> anyhow::Result<TempDir> {
    let memory = Path::new("/dev/shm");
    let mut builder = tempfile::Builder::new();
    builder.prefix("bench-copy-");
    Ok(if memory.is_dir() {
        builder.tempdir_in(memory)?
    } else {
        builder.tempdir()?
    })
}

/// Tells whoever waits what happens, on standard error.
pub fn progress(line: &str) {
    // Nobody reading is no reason to stop.
    let _ = writeln!(std::io::stderr(), "{line}");
}
