//! The flags or keys that a backup and its logins were read from. Messages name them, so that an operator knows what to correct.

use std::fmt;

use mirror_contract::{BackupName, RewriteTarget};

/// The origin of a backup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BackupOrigin {
    /// Flags, which define the default backup. These are the ones of its logins.
    Flags {
        push: &'static str,
        pull: &'static str,
    },
    /// An entry of the configuration file.
    File(BackupName<'static>),
}

impl BackupOrigin {
    /// The name of the backup.
    #[must_use]
    pub fn name(&self) -> BackupName<'static> {
        match self {
            Self::Flags { .. } => BackupName::DEFAULT,
            Self::File(name) => name.clone(),
        }
    }

    /// The flag or key of the registry.
    #[must_use]
    pub fn registry(&self) -> String {
        match self {
            Self::Flags { .. } => self.to_string(),
            Self::File(_) => format!("{self}.registry"),
        }
    }

    /// The flag or key of the login with push permission.
    #[must_use]
    pub fn push(&self) -> String {
        match self {
            Self::Flags { push, .. } => (*push).to_owned(),
            Self::File(_) => format!("{self}.push"),
        }
    }

    /// The flag or key of the login that Pods get.
    #[must_use]
    pub fn pull(&self) -> String {
        match self {
            Self::Flags { pull, .. } => (*pull).to_owned(),
            Self::File(_) => format!("{self}.pull"),
        }
    }

    /// The flag or key of the former location with this index.
    #[must_use]
    pub fn former_location(&self, index: usize) -> String {
        match self {
            Self::Flags { .. } => "--former-backup".to_owned(),
            Self::File(_) => format!("{self}.formerLocations[{index}]"),
        }
    }
}

impl Default for BackupOrigin {
    fn default() -> Self {
        Self::Flags {
            push: "--registry-username and its password",
            pull: "--pull-username and its password",
        }
    }
}

/// The flag or key of the whole backup.
impl fmt::Display for BackupOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flags { .. } => f.write_str("--registry"),
            Self::File(name) => write!(f, "backups.{name}"),
        }
    }
}

/// The key of a target.
#[must_use]
pub fn target_key(location: &RewriteTarget<'_>) -> String {
    format!("targets[{location}]")
}
