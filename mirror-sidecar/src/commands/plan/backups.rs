//! The backups of the configuration with their registries, as `serve` uses them.

use std::num::NonZeroUsize;
use std::sync::Arc;

use mirror_contract::{BackupName, ImageRef};
use mirror_copy::Credentials;

use crate::args::{BackupFlags, PlanArgs, UsageError};
use crate::backups::{ByBackup, OtherBackups};
use crate::cluster::Policies;
use crate::cluster::workload::Workload;
use crate::config::Config;
use crate::locations::Locations;
use crate::target_lookup::{TargetLookup, TargetRegistries};

/// Images that `serve` copies at the same time by default, for the estimate.
pub(super) const PARALLEL_COPIES: NonZeroUsize = NonZeroUsize::MIN.saturating_add(3);

pub(super) struct Backups {
    pub(super) config: Arc<Config>,
    pub(super) follow: tokio::sync::watch::Receiver<Arc<Config>>,
    locations: ByBackup<Arc<Locations>>,
    targets: TargetRegistries,
}

/// An image in a backup.
pub(super) struct UsedCopy {
    pub(super) backup: BackupName<'static>,
    /// `None` if its name does not contain it, and the object does not name it.
    pub(super) original: Option<ImageRef<'static>>,
}

impl Backups {
    pub(super) fn load(args: &PlanArgs) -> Result<Self, UsageError> {
        let loaded = args.config.load(&BackupFlags {
            backup: &args.backup,
            sources: &args.sources,
            cluster: None,
            max_image_size: args.originals.max_image_size,
            parallel_copies: PARALLEL_COPIES,
        })?;
        let config = Arc::clone(&loaded.current.borrow());
        let all = config.locations();
        let sources = args.sources.originals(&args.originals, all.values())?;
        let registries = args.sources.registries(Credentials::anonymous())?;
        let locations = config.backups.try_map(|name, backup| {
            let push = backup.push.clone();
            let login = args.sources.backup_credentials(push, &backup.locations())?;
            let targets = registries.with_credentials(login);
            let locations = Locations::new(backup.backup.clone(), &targets, sources.clone())
                .map_err(|error| UsageError(format!("{}: {error}", backup.origin.registry())))?
                .with_former_backups(backup.locations().former().clone())
                .with_other_backups(OtherBackups::of(name, &all))
                .with_max_bytes(backup.max_image_size);
            Ok::<_, UsageError>(Arc::new(locations))
        })?;
        let hosts = config
            .backups
            .values()
            .map(|backup| backup.backup.registry());
        let rewritten = args.sources.rewrite_targets(&args.originals, hosts)?;
        let logins = config.targets.iter();
        let logins = logins.map(|target| (target.location.clone(), target.pull.clone()));
        Ok(Self {
            targets: TargetRegistries::new(rewritten, logins),
            follow: loaded.current,
            config,
            locations,
        })
    }

    pub(super) fn get(&self, name: &BackupName<'_>) -> Option<&Arc<Locations>> {
        self.locations.get(name)
    }

    /// Returns the name of the copy of an image; `None` if the backup is not defined, or the image cannot have a copy.
    pub(super) fn copy_name(&self, backup: &str, image: &str) -> Option<String> {
        let locations = self.get(&BackupName::parse(backup)?)?;
        let image = ImageRef::parse(image).ok()?;
        let copy = locations.backup().target(&image).ok()?;
        Some(copy.to_string())
    }

    pub(super) fn target_lookup(&self) -> TargetLookup {
        let locations = Arc::clone(self.locations.of_default());
        TargetLookup::new(self.targets.clone(), locations, Policies::default())
    }

    /// Returns the names of all backups, for messages.
    pub(super) fn names(&self) -> String {
        let names = self.locations.iter().map(|(name, _)| name.as_str());
        names.collect::<Vec<_>>().join(", ")
    }

    /// Returns the copy that `image` is; `None` for an image outside of all backups. An object may name the original in its
    /// annotation, which is used if the name of the copy does not contain it.
    pub(super) fn used_copy(
        &self,
        image: &ImageRef<'_>,
        text: &str,
        workload: &Workload,
    ) -> Option<UsedCopy> {
        let mut all = self.locations.iter();
        let (name, locations) = all.find(|(_, locations)| locations.holds(image))?;
        let decoded = locations.backup().original(image);
        let decoded = decoded.or_else(|| locations.former_backups().original(image));
        let original = decoded.or_else(|| {
            let mut annotated = workload.originals.iter();
            let (_, original) = annotated.find(|(copy, _)| copy == text)?;
            original.parse().ok()
        });
        Some(UsedCopy {
            backup: name.clone(),
            original: original.filter(|original| !locations.contains(original)),
        })
    }
}
