//! The logins that Pods need, as the configuration names them.

use mirror_contract::{Backup, BackupName, RewriteTarget};
use mirror_copy::Credentials;

use super::dockerconfigjson::key_for;
use crate::cluster::pull_locations::LoginOwner;
use crate::former_backups::FormerBackups;

/// A login that Pods need for the images of a backup, or of a target of rewrites.
#[derive(Clone, Debug)]
pub struct PullLogin {
    pub location: LoginOwner,
    /// Named as in image references.
    pub registry: String,
    /// The repository that contains all images; empty for the whole registry.
    pub path: String,
    /// Former repositories in the same registry.
    pub former_paths: Vec<String>,
    /// Contain the login for the registry, and are read again whenever it may have changed.
    pub credentials: Credentials,
}

impl PullLogin {
    /// The login for a backup and its former locations in the same registry.
    #[must_use]
    pub fn of_backup(
        name: BackupName<'static>,
        backup: &Backup,
        former: &FormerBackups,
        credentials: Credentials,
    ) -> Self {
        Self {
            location: LoginOwner::Backup(name),
            registry: backup.registry().to_owned(),
            path: backup.repository().to_owned(),
            former_paths: former.repositories_in(backup.registry()),
            credentials,
        }
    }

    /// The login for the images in a target of rewrites.
    #[must_use]
    pub fn of_target(target: RewriteTarget<'static>, credentials: Credentials) -> Self {
        Self {
            registry: target.registry().to_owned(),
            path: target.repository().to_owned(),
            former_paths: Vec::new(),
            location: LoginOwner::Target(target),
            credentials,
        }
    }

    /// The same login after the configuration has lost it: it leaves each Secret once nothing there uses it.
    #[must_use]
    pub fn into_former(self) -> Self {
        let location = match self.location {
            former @ LoginOwner::Former(_) => former,
            owner => LoginOwner::Former(Box::new(owner)),
        };
        Self { location, ..self }
    }

    /// The key under which kubelets find the login.
    #[must_use]
    pub fn key(&self) -> String {
        let owner = match &self.location {
            LoginOwner::Former(owner) => &**owner,
            owner => owner,
        };
        // The login of the default backup is for its whole registry: it always was, and former locations need it.
        let path = if owner.is_default() { "" } else { &self.path };
        key_for(&self.registry, path)
    }
}
