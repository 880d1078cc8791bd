//! The flag of the configuration file.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use tokio::sync::watch;

use super::{BackupArgs, ClusterArgs, SizeLimit, SourceArgs};
use crate::config::{BackupConfig, Config, ConfigFile, FlagDefaults};
use crate::exit::UsageError;
use crate::origin::BackupOrigin;

#[derive(Debug, Args)]
#[command(next_help_heading = "Configuration file")]
pub struct ConfigArgs {
    /// File with more backups than the one of the flags, and with logins for targets of rewrites, in YAML or JSON; reloaded
    /// when it changes
    #[arg(long, env = "CONFIG_FILE", value_name = "FILE")]
    config: Option<PathBuf>,
}

/// The configuration of the flags and of the file.
#[derive(Debug)]
pub struct LoadedConfig {
    /// The last valid configuration.
    pub current: watch::Receiver<Arc<Config>>,
    /// The file to follow. Without it the configuration never changes.
    pub file: Option<ConfigFile>,
}

/// The flags that the configuration completes.
#[derive(Debug)]
pub struct BackupFlags<'a> {
    pub backup: &'a BackupArgs,
    pub sources: &'a SourceArgs,
    /// `None` for a command that creates no pull Secrets.
    pub cluster: Option<&'a ClusterArgs>,
    pub max_image_size: SizeLimit,
    pub parallel_copies: NonZeroUsize,
}

impl ConfigArgs {
    /// Reads the file. Without one, the configuration has the backup of the flags alone.
    pub fn load(&self, flags: &BackupFlags<'_>) -> Result<LoadedConfig, UsageError> {
        let Some(path) = &self.config else {
            let (_, current) = watch::channel(Arc::new(Config::of_default(flags.default()?)));
            return Ok(LoadedConfig {
                current,
                file: None,
            });
        };
        let backup = if flags.backup.registry().is_some() {
            Some(flags.default()?)
        } else {
            flags.check_unused()?;
            None
        };
        let defaults = FlagDefaults {
            backup,
            max_image_size: flags.max_image_size.0,
            parallel_copies: flags.parallel_copies,
            manages_pull_secrets: flags.cluster.is_none_or(ClusterArgs::manages_pull_secrets),
        };
        let file = ConfigFile::load(path.clone(), defaults)?;
        Ok(LoadedConfig {
            current: file.subscribe(),
            file: Some(file),
        })
    }
}

impl BackupFlags<'_> {
    /// The backup that the flags define.
    fn default(&self) -> Result<BackupConfig, UsageError> {
        let backup = self.backup.backup()?;
        let docker_config = self.sources.credentials()?;
        let push = self.backup.add_login(docker_config, backup.registry())?;
        let (mut pull, mut former) = (None, Vec::new());
        if let Some(cluster) = self.cluster {
            pull = cluster.pull_credentials(backup.registry())?;
            former.clone_from(&cluster.former_backups);
        }
        Ok(BackupConfig {
            origin: self.origin(),
            backup,
            former,
            push,
            pull,
            max_image_size: self.max_image_size.0,
            parallel_copies: self.parallel_copies,
            definition: String::new(),
        })
    }

    /// The flags of the logins.
    fn origin(&self) -> BackupOrigin {
        BackupOrigin::Flags {
            push: if self.sources.has_docker_config() && !self.backup.has_login() {
                "--docker-config"
            } else {
                "--registry-username and its password"
            },
            pull: self
                .cluster
                .map_or("--pull-username and its password", ClusterArgs::pull_flag),
        }
    }

    /// Checks that no flag describes a default backup that has no --registry.
    fn check_unused(&self) -> Result<(), UsageError> {
        let flags = self.backup.other_flags();
        let cluster = self.cluster.and_then(ClusterArgs::backup_flag);
        match flags.or(cluster) {
            Some(flag) => Err(UsageError(format!(
                "{flag} needs --registry; for a default backup in the file of --config, set it there"
            ))),
            None => Ok(()),
        }
    }
}
