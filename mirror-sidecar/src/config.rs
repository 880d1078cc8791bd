//! The configuration file: backups, and targets of rewrites.
//!
//! - `file`: reads the file, and follows its changes;
//! - `parse`: the keys of the file;
//! - `conflicts`: creates configurations of locations and logins that can be used together;
//! - `reader`: reads keys one by one, and collects all errors.

mod conflicts;
mod file;
mod parse;
mod reader;
#[cfg(test)]
mod tests;

pub use file::ConfigFile;

use std::num::NonZeroUsize;

use mirror_contract::{Backup, RewriteTarget};
use mirror_copy::Credentials;

use crate::backups::{BackupLocations, ByBackup};
use crate::cluster::{PullLogin, PullLogins};
use crate::former_backups::FormerBackups;
use crate::origin::BackupOrigin;

/// All backups and the known targets of rewrites. Their locations do not overlap.
#[derive(Clone, Debug)]
pub struct Config {
    pub backups: ByBackup<BackupConfig>,
    pub targets: Vec<TargetConfig>,
    /// The logins that Pods get.
    pub pull_logins: PullLogins,
}

/// A backup. Nothing in it is a secret: passwords stay in files, which are read whenever they are needed.
#[derive(Clone, Debug)]
pub struct BackupConfig {
    pub origin: BackupOrigin,
    pub backup: Backup,
    /// Former locations of its copies, with both namings.
    pub former: Vec<[Backup; 2]>,
    /// Logins for its registry with push permission; anonymous if it needs none.
    pub push: Credentials,
    /// The login that Pods get; `None` if Pods need none, or have a pull Secret that is not managed.
    pub pull: Option<Credentials>,
    /// Maximum size of an image in bytes; `None` is no limit.
    pub max_image_size: Option<u64>,
    /// Maximum number of images that are copied at the same time.
    pub parallel_copies: NonZeroUsize,
    /// The part of the file, and of the user names in other files, that all this was read from; empty for flags, which do not
    /// change. Equal definitions mean the same.
    pub definition: String,
}

/// A mirror that rules rewrite to, and that needs a login.
#[derive(Clone, Debug)]
pub struct TargetConfig {
    /// The login is for all images in this location. A rule may have a target inside it.
    pub location: RewriteTarget<'static>,
    /// The login that Pods get. The sidecar checks images in the target with it, too.
    pub pull: Credentials,
}

/// The values of flags that apply where the file has no key.
#[derive(Clone, Debug)]
pub struct FlagDefaults {
    /// The backup that the flags define, if any.
    pub backup: Option<BackupConfig>,
    /// `None` is no limit.
    pub max_image_size: Option<u64>,
    pub parallel_copies: NonZeroUsize,
    /// Whether pull Secrets are managed, so that `pull` has a meaning.
    pub manages_pull_secrets: bool,
}

impl BackupConfig {
    /// The current and former locations.
    #[must_use]
    pub fn locations(&self) -> BackupLocations {
        let former = FormerBackups::new(&self.backup, self.former.clone());
        BackupLocations::new(self.backup.clone(), former)
    }
}

impl Config {
    /// The configuration without a file: the backup that flags define.
    #[must_use]
    pub fn of_default(default: BackupConfig) -> Self {
        Self {
            pull_logins: PullLogins::one(default.pull_login()),
            backups: ByBackup::new(default),
            targets: Vec::new(),
        }
    }

    /// Returns the locations of the copies of each backup: the current one, and the former ones.
    #[must_use]
    pub fn locations(&self) -> ByBackup<BackupLocations> {
        self.backups.map(|_, backup| backup.locations())
    }
}

impl BackupConfig {
    /// The login that Pods get, if they need one.
    fn pull_login(&self) -> Option<PullLogin> {
        let credentials = self.pull.clone()?;
        Some(PullLogin::of_backup(
            &self.origin,
            &self.locations(),
            credentials,
        ))
    }
}
