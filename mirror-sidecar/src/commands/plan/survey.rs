//! What registries have of the images: the originals, the backups, and the targets of rewrites. Sends only requests that read.

use std::collections::{BTreeMap, BTreeSet};
use std::io::IsTerminal as _;

use futures_util::StreamExt as _;
use indicatif::{ProgressBar, ProgressStyle};
use mirror_contract::{BackupName, ImageRef};
use mirror_copy::{Digest, Preview, RateLimit};

use super::backups::Backups;
use super::usage::{Usage, Verdict};
use crate::cluster::policies::decision::Outcome;
use crate::commands::copy::missing;
use crate::locations::{engine_digest, reference};
use crate::output;
use crate::target_lookup::TargetLookup;

/// Images that are looked up at the same time. Each registry has limits of its own.
const AT_ONCE: usize = 16;

/// A lookup that some images need.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Lookup {
    /// The original, and its copy in this backup.
    Copy(BackupName<'static>, String),
    /// An image in the target of a rewrite.
    Target(String),
    /// A copy whose original is not known.
    InBackup(BackupName<'static>, String),
}

/// What was found for one image, or why not.
#[derive(Debug)]
pub(super) enum Finding {
    Copy(Result<Preview, String>),
    Present(Result<Digest, String>),
    /// Nothing was requested.
    Offline,
}

#[derive(Debug, Default)]
pub(super) struct Survey {
    findings: BTreeMap<Lookup, Finding>,
    is_offline: bool,
    /// The rate limit of Docker Hub, if it reported one.
    pub(super) docker_hub: Option<RateLimit>,
}

impl Survey {
    /// Looks up all images that are copied or rewritten.
    pub(super) async fn of(usage: &Usage, backups: &Backups, is_offline: bool) -> Self {
        if is_offline {
            return Self {
                is_offline,
                ..Self::default()
            };
        }
        let lookups: BTreeSet<Lookup> = usage
            .images
            .keys()
            .filter_map(|used| lookup(&used.image, &used.verdict))
            .collect();
        let bar = progress(lookups.len());
        let targets = backups.target_lookup();
        let running = lookups.into_iter().map(|lookup| {
            let targets = &targets;
            async move {
                let finding = match &lookup {
                    Lookup::Copy(backup, image) => {
                        Finding::Copy(preview(backups, backup, image).await)
                    }
                    Lookup::Target(image) => Finding::Present(in_target(targets, image).await),
                    Lookup::InBackup(backup, image) => {
                        Finding::Present(present(backups, backup, image).await)
                    }
                };
                (lookup, finding)
            }
        });
        let mut running =
            std::pin::pin!(futures_util::stream::iter(running).buffer_unordered(AT_ONCE));
        let mut findings = BTreeMap::new();
        while let Some((lookup, finding)) = running.next().await {
            if let Some(bar) = &bar {
                bar.inc(1);
            }
            findings.insert(lookup, finding);
        }
        if let Some(bar) = bar {
            bar.finish_and_clear();
        }
        let locations = backups.get(&BackupName::DEFAULT);
        let docker_hub = locations.and_then(|locations| {
            let image = ImageRef::parse("docker.io/library/busybox").ok()?;
            locations.source(&image).ok()?.registry.rate_limit()
        });
        Self {
            findings,
            is_offline,
            docker_hub,
        }
    }

    /// Returns the result for an image; `None` if none was needed.
    pub(super) fn get(&self, image: &str, verdict: &Verdict) -> Option<&Finding> {
        let lookup = lookup(image, verdict)?;
        if self.is_offline {
            return Some(&Finding::Offline);
        }
        self.findings.get(&lookup)
    }
}

fn lookup(image: &str, verdict: &Verdict) -> Option<Lookup> {
    match verdict {
        Verdict::Decided(decision) => match &decision.outcome {
            Outcome::Mirror { backup } => Some(Lookup::Copy(backup.clone(), image.to_owned())),
            Outcome::Rewrite { image } => Some(Lookup::Target(image.to_string())),
            Outcome::Keep(_) => None,
        },
        Verdict::UnknownCopy(backup) => Some(Lookup::InBackup(backup.clone(), image.to_owned())),
        Verdict::NeverPulled | Verdict::NotAnImage(_) => None,
    }
}

async fn preview(
    backups: &Backups,
    backup: &BackupName<'_>,
    image: &str,
) -> Result<Preview, String> {
    let Some(locations) = backups.get(backup) else {
        let names = backups.names();
        return Err(format!(
            "the rule names backup {backup}, and only {names} are defined; add {backup} to the file of --config"
        ));
    };
    let image = ImageRef::parse(image).map_err(|error| error.to_string())?;
    let target = locations
        .target(&image)
        .map_err(|error| error.to_string())?;
    let source = locations
        .source(&image)
        .map_err(|error| error.to_string())?;
    match mirror_copy::preview(&source, &target, &locations.options()).await {
        Ok(preview) => Ok(preview),
        Err(error) => Err(missing::explain(error, &source).await.to_string()),
    }
}

async fn present(
    backups: &Backups,
    backup: &BackupName<'_>,
    image: &str,
) -> Result<Digest, String> {
    let locations = backups.get(backup).ok_or("its backup is not defined")?;
    let image = ImageRef::parse(image).map_err(|error| error.to_string())?;
    let registry = locations.backup_registry();
    let resolved = registry.resolve(image.path(), &reference(&image)).await;
    match resolved.map_err(|error| error.to_string())? {
        Some(resolved) => Ok(resolved.digest),
        None => Err("the backup does not have this copy, and its original is not known".to_owned()),
    }
}

async fn in_target(targets: &TargetLookup, image: &str) -> Result<Digest, String> {
    let image = image
        .parse()
        .map_err(|error: mirror_contract::reference::ParseError| error.to_string())?;
    let digest = targets
        .probe(&image)
        .await
        .map_err(|refusal| refusal.reason.to_string())?;
    engine_digest(&digest).ok_or_else(|| "its digest is not valid".to_owned())
}

fn progress(count: usize) -> Option<ProgressBar> {
    let is_dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
    if count == 0 || is_dumb || !std::io::stderr().is_terminal() {
        return None;
    }
    let bar = output::bars().add(ProgressBar::new(count as u64));
    let style = ProgressStyle::with_template("{pos} of {len} images looked up");
    Some(match style {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    })
}
