//! `verify`: verifies that the backup has images whole, compares them with their originals, and repairs them on request.
//!
//! - [`items`]: the images to verify;
//! - [`inspection`]: the requests about one image, which only read;
//! - [`findings`]: what they mean;
//! - [`repair`]: copies again what is missing or wrong;
//! - [`verify_report`]: results on standard output.

mod findings;
mod inspection;
mod items;
mod repair;
mod verify_report;

use std::collections::HashSet;
use std::num::NonZeroUsize;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::anyhow;
use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use mirror_contract::ImageRef;
use mirror_copy::{CopyError, RegistryError, Verifier, VerifyCounters, VerifyOptions};
use tokio::time::{MissedTickBehavior, interval};

use super::list;
use crate::args::{BackupFlags, LoadedConfig, SizeLimit, UsageError, VerifyArgs};
use crate::backups::OtherBackups;
use crate::cluster::policies::file::SettingsFile;
use crate::cluster::snapshot::{self, Snapshot, SnapshotRules};
use crate::cluster::{ExcludedNamespaces, Policies};
use crate::exit::{FAILURE, NOT_PROTECTED};
use crate::locations::{Locations, anchor};
use crate::output::{self, human_bytes};
use findings::{Finding, findings};
use inspection::Inspector;
use items::{Group, Item, Skipped};
use verify_report::{ImageReport, Report};

/// Repositories that are verified at the same time, and images of each. Their requests share the limits of the registry.
const REPOSITORIES_AT_ONCE: usize = 4;
const IMAGES_AT_ONCE: usize = 4;

/// Interval between lines of progress.
const PROGRESS_EVERY: Duration = Duration::from_secs(10);

/// Verifies all images and prints the report.
pub async fn run(args: VerifyArgs) -> anyhow::Result<ExitCode> {
    let backup = Backup::new(&args)?;
    let locations = &backup.locations;
    let registry = locations.backup_registry();
    let reachable = registry.ping().await;
    reachable.map_err(|error| anyhow!("{}", CopyError::Target(error)))?;
    let mut report = Report {
        backup: locations.backup().location(),
        ..Report::default()
    };
    let run = Run {
        inspector: Inspector {
            locations,
            offline: args.offline,
        },
        options: VerifyOptions {
            deep: args.deep,
            ignored_digest_tag: Some(anchor),
            counters: Arc::default(),
        },
        repairs: args.repair,
        progress: Mutex::default(),
    };
    let work = backup.work(&args, &mut report).await?;
    let verifying = run.verify_all(work, &mut report);
    tokio::select! {
        result = verifying => result?,
        never = run.show_progress() => match never {},
    }
    report.sort();
    report.print(args.output);
    Ok(if !report.are_all_protected() {
        ExitCode::from(NOT_PROTECTED)
    } else if report.not_checked.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(FAILURE)
    })
}

/// The backup to verify.
struct Backup {
    config: LoadedConfig,
    locations: Locations,
}

/// The images of one repository, or all that it has.
enum Work {
    Group(String, Group),
    Repository(String),
}

impl Backup {
    fn new(args: &VerifyArgs) -> Result<Self, UsageError> {
        let loaded = args.config.load(&BackupFlags {
            backup: &args.backup,
            sources: &args.sources,
            cluster: None,
            max_image_size: SizeLimit(None),
            parallel_copies: NonZeroUsize::MIN,
        })?;
        let config = Arc::clone(&loaded.current.borrow());
        let name = &args.backup_name;
        let backup = config.backups.get(name).ok_or_else(|| {
            UsageError(format!("--backup-name {name}: no such backup in --config"))
        })?;
        let sources = args.sources.registries(args.sources.credentials()?)?;
        let push = backup.push.clone();
        let push = args.sources.backup_credentials(push, &backup.locations())?;
        let targets = args.sources.registries(push)?;
        let locations = Locations::new(backup.backup.clone(), &targets, sources)
            .map_err(|error| UsageError(format!("{}: {error}", backup.origin.registry())))?
            .with_former_backups(backup.locations().former().clone())
            .with_other_backups(OtherBackups::of(name, &config.locations()));
        Ok(Self {
            config: loaded,
            locations,
        })
    }

    /// Returns the images to verify. What cannot be verified is added to `report`.
    async fn work(&self, args: &VerifyArgs, report: &mut Report) -> anyhow::Result<Vec<Work>> {
        if args.all {
            return self.repositories().await;
        }
        let items = if args.images.is_empty() && args.file.is_none() {
            self.in_cluster(args, report).await?
        } else {
            let images = list::images_and_file(&args.images, args.file.as_deref())?;
            items::named(images, &self.locations)?
        };
        let groups = items::grouped(items).into_iter();
        Ok(groups
            .map(|(repository, group)| Work::Group(repository, group))
            .collect())
    }

    async fn repositories(&self) -> anyhow::Result<Vec<Work>> {
        let backup = self.locations.backup();
        let is_ours = |repository: &str| {
            let image = format!("{}/{repository}", backup.registry());
            let image = image.parse::<ImageRef<'static>>();
            image.is_ok_and(|image| self.locations.holds(&image) && backup.contains(&image))
        };
        let registry = self.locations.backup_registry();
        let repositories = registry.repositories(is_ours).await.map_err(|error| {
            anyhow!(
                "--all: {error}; this registry does not list its repositories to this login: name the images, use --file, or \
                 verify the images of a cluster"
            )
        })?;
        // A registry may hide repositories from a login without an error.
        if repositories.is_empty() {
            return Err(anyhow!(
                "--all: the registry lists no repository of {}; check --repository and the permissions of the login",
                backup.location()
            ));
        }
        Ok(repositories.into_iter().map(Work::Repository).collect())
    }

    async fn in_cluster(
        &self,
        args: &VerifyArgs,
        report: &mut Report,
    ) -> anyhow::Result<Vec<Item>> {
        let selection = &args.cluster.selection;
        let policies = Policies::default();
        if let Some(path) = selection.policy_settings.clone() {
            SettingsFile::load(path, policies.clone(), self.config.current.clone())?;
        }
        let excluded = selection.exclude_namespaces.iter().cloned();
        let excluded: ExcludedNamespaces = excluded.collect();
        let config = Arc::clone(&self.config.current.borrow());
        let rules = SnapshotRules {
            locations: &config.locations(),
            excluded_namespaces: excluded.with_policies(policies),
            followed_policies: selection.followed_policies(),
            skip_owners: selection.skip_owners(),
        };
        let server = snapshot::connect(args.cluster.kubeconfig.as_deref()).await?;
        let Snapshot {
            images,
            foreign,
            left_out,
        } = snapshot::read(server, rules, &args.backup_name).await?;
        let (items, skipped) = items::in_use(&images, &self.locations);
        let foreign = foreign.into_iter().map(|image| Skipped {
            object: image.to_string(),
            reason: "it is in the backup and no copy; name it to verify it".into(),
        });
        let left_out = left_out.into_iter().map(|namespace| Skipped {
            object: format!("namespace {namespace}"),
            reason: "it has too many workloads to read all of them".into(),
        });
        for skipped in skipped.into_iter().chain(foreign).chain(left_out) {
            report.skip(skipped);
        }
        Ok(items)
    }
}

struct Run<'a> {
    inspector: Inspector<'a>,
    options: VerifyOptions,
    repairs: bool,
    progress: Mutex<Progress>,
}

#[derive(Clone, Copy, Default)]
struct Progress {
    images: usize,
    with_findings: usize,
}

/// The result of one image.
enum Verdict {
    Verified(Box<ImageReport>),
    Skipped(Skipped),
}

impl Run<'_> {
    /// # Errors
    /// The backup does not respond any more, or refuses the login.
    async fn verify_all(&self, work: Vec<Work>, report: &mut Report) -> anyhow::Result<()> {
        let groups = stream::iter(work).map(|work| self.verify_repository(work));
        let mut groups = std::pin::pin!(groups.buffer_unordered(REPOSITORIES_AT_ONCE));
        while let Some(verdicts) = groups.try_next().await? {
            for verdict in verdicts {
                match verdict {
                    Verdict::Verified(image) => report.images.push(*image),
                    Verdict::Skipped(skipped) => report.skip(skipped),
                }
            }
        }
        Ok(())
    }

    async fn verify_repository(&self, work: Work) -> anyhow::Result<Vec<Verdict>> {
        let locations = self.inspector.locations;
        let registry = locations.backup_registry();
        let (repository, group) = match work {
            Work::Group(repository, group) => (repository, group),
            Work::Repository(repository) => match registry.tags(&repository).await {
                Ok(tags) => {
                    let group = items::of_repository(locations.backup(), &repository, &tags);
                    (repository, group)
                }
                // A catalog lists repositories without tags as well.
                Err(error) if error.status() == Some(404) => return Ok(Vec::new()),
                Err(error) => {
                    let object = format!("{}/{repository}", registry.host());
                    return Ok(vec![self.skipped(object, error).await?]);
                }
            },
        };
        let verifier = Verifier::new(registry, &repository, self.options.clone())
            .map_err(|error| anyhow!("{}", CopyError::Target(error)))?;
        let mut verdicts = self.verify_items(&verifier, group.items).await?;
        let roots: HashSet<_> = verdicts
            .iter()
            .filter_map(|verdict| match verdict {
                Verdict::Verified(image) => image.digest().map(ToOwned::to_owned),
                Verdict::Skipped(_) => None,
            })
            .collect();
        let anchored = group.anchored.into_iter().filter(|item| {
            let digest = item.digest().map(ToString::to_string);
            digest.is_none_or(|digest| !roots.contains(&digest))
        });
        verdicts.extend(self.verify_items(&verifier, anchored.collect()).await?);
        Ok(verdicts)
    }

    async fn verify_items(
        &self,
        verifier: &Verifier,
        items: Vec<Item>,
    ) -> anyhow::Result<Vec<Verdict>> {
        stream::iter(items)
            .map(async |item| {
                let verdict = match self.verify(verifier, &item).await {
                    Ok(image) => Verdict::Verified(Box::new(image)),
                    Err(error) => self.skipped(item.name(), error).await?,
                };
                let mut progress = self.progress.lock().unwrap_or_else(PoisonError::into_inner);
                progress.images += 1;
                if matches!(&verdict, Verdict::Verified(image) if image.has_findings()) {
                    progress.with_findings += 1;
                }
                drop(progress);
                anyhow::Ok(verdict)
            })
            .buffer_unordered(IMAGES_AT_ONCE)
            .try_collect()
            .await
    }

    async fn verify(&self, verifier: &Verifier, item: &Item) -> Result<ImageReport, RegistryError> {
        let before = Box::pin(self.inspector.inspect(verifier, item)).await?;
        let found = findings(item, &before);
        if !self.repairs || !repair::is_damaged(&before) {
            return Ok(ImageReport::new(item, &before, found, None));
        }
        let repaired = Box::pin(repair::repair(&self.inspector, verifier, item, before)).await?;
        let after = findings(item, &repaired.inspection);
        let merged = merged(found, after);
        Ok(ImageReport::new(
            item,
            &repaired.inspection,
            merged,
            repaired.reason,
        ))
    }

    /// Returns the verdict about something that could not be verified. An error that is about the registry ends the run.
    async fn skipped(&self, object: String, error: RegistryError) -> anyhow::Result<Verdict> {
        if error.retry().is_transient() || error.is_denied() {
            let reachable = self.inspector.locations.backup_registry().ping().await;
            reachable.map_err(|error| anyhow!("{}", CopyError::Target(error)))?;
        }
        let reason = error.to_string();
        Ok(Verdict::Skipped(Skipped { object, reason }))
    }

    /// Writes a line to standard error now and then.
    async fn show_progress(&self) -> std::convert::Infallible {
        let mut ticks = interval(PROGRESS_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        ticks.tick().await;
        loop {
            ticks.tick().await;
            let Progress {
                images,
                with_findings,
            } = *self.progress.lock().unwrap_or_else(PoisonError::into_inner);
            let counters: &VerifyCounters = &self.options.counters;
            output::note(&format!(
                "{images} images verified, {with_findings} with findings; {} manifests and {} blobs checked, {} read",
                counters.manifests(),
                counters.blobs(),
                human_bytes(counters.bytes())
            ));
        }
    }
}

/// Returns the findings of before and after a repair, each with its result.
fn merged(before: Vec<Finding>, mut after: Vec<Finding>) -> Vec<Finding> {
    for finding in after.iter_mut().filter(|finding| !finding.kind.is_notice()) {
        finding.repaired = Some(false);
    }
    let is_open = |finding: &Finding| after.iter().any(|other| other.is_same(finding));
    let repaired = before
        .into_iter()
        .filter(|finding| !finding.kind.is_notice() && !is_open(finding));
    let repaired = repaired.map(|finding| Finding {
        repaired: Some(true),
        ..finding
    });
    let mut all: Vec<_> = repaired.collect();
    all.append(&mut after);
    all
}
