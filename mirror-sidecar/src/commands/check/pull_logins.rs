//! Checks the logins that Pods get: each reads what it is for, and no backup of others.

#[cfg(test)]
mod tests;

use mirror_contract::naming::anchor_tag;
use mirror_contract::{Backup, BackupName, ImageRef};
use mirror_copy::{Credentials, Registries, Registry, RegistryError, TagOrDigest};

use super::report::Line;
use crate::args::UsageError;
use crate::config::Config;
use crate::locations::reference;

/// A login that Pods get for a backup or for the target of a rewrite.
struct PullLogin<'c> {
    check: String,
    host: &'c str,
    /// `None` for a target.
    own: Option<BackupName<'c>>,
    registry: Registry,
}

/// The copy of the image in one backup.
struct Copy<'c> {
    name: BackupName<'c>,
    backup: &'c Backup,
    repository: String,
    reference: TagOrDigest,
    /// The login with push permission sees it.
    exists: bool,
    /// It can be read without a login.
    is_public: bool,
}

/// Checks all pull logins of the configuration with the copies of `image`. `registries` returns registries that are accessed
/// with these credentials.
pub(super) async fn check(
    config: &Config,
    image: &ImageRef<'static>,
    registries: impl Fn(Credentials) -> Result<Registries, UsageError>,
) -> Result<Vec<Line>, UsageError> {
    let logins = pull_logins(config, &registries)?;
    let mut lines = Vec::new();
    if logins.is_empty() {
        return Ok(lines);
    }
    let mut copies = Vec::new();
    for (name, backup) in config.backups.iter() {
        let push = registries(backup.push.clone())?;
        let anonymous = registries(Credentials::anonymous())?;
        copies.extend(copy_in(name.clone(), &backup.backup, image, &push, &anonymous).await);
    }
    for login in &logins {
        lines.push(reads_its_own(login, &copies, image).await);
    }
    for copy in &copies {
        lines.extend(read_by_others(copy, &logins, image).await);
    }
    Ok(lines)
}

fn pull_logins(
    config: &Config,
    registries: impl Fn(Credentials) -> Result<Registries, UsageError>,
) -> Result<Vec<PullLogin<'_>>, UsageError> {
    let of_backups = config.backups.iter().filter_map(|(name, backup)| {
        let check = if name.is_default() {
            "pull login".to_owned()
        } else {
            format!("pull login of backup {name}")
        };
        let host = backup.backup.registry();
        Some((check, host, Some(name.clone()), backup.pull.as_ref()?))
    });
    let of_targets = config.targets.iter().map(|target| {
        let check = format!("pull login of target {}", target.location);
        (check, target.location.registry(), None, &target.pull)
    });
    of_backups
        .chain(of_targets)
        .map(|(check, host, own, credentials)| {
            let registry = registries(credentials.clone())?.get(host);
            let registry = registry.map_err(|error| UsageError(format!("{check}: {error}")))?;
            Ok(PullLogin {
                check,
                host,
                own,
                registry,
            })
        })
        .collect()
}

/// Returns the copy of `image` in a backup; `None` if it has no name there.
async fn copy_in<'c>(
    name: BackupName<'c>,
    backup: &'c Backup,
    image: &ImageRef<'static>,
    push: &Registries,
    anonymous: &Registries,
) -> Option<Copy<'c>> {
    let (repository, reference) = if backup.contains(image) {
        (image.path().to_owned(), reference(image))
    } else {
        let copy = backup.target(image).ok()?;
        let tag = match copy.digest() {
            Some(digest) => anchor_tag(digest),
            None => copy.tag().unwrap_or_default().to_owned(),
        };
        (copy.path().to_owned(), TagOrDigest::Tag(tag))
    };
    let (push, anonymous) = (
        push.get(backup.registry()).ok()?,
        anonymous.get(backup.registry()).ok()?,
    );
    let exists = push.resolve_to_write(&repository, &reference).await;
    let exists = matches!(exists, Ok(Some(_)));
    let is_public = exists && matches!(reads(&anonymous, &repository, &reference).await, Ok(true));
    Some(Copy {
        name,
        backup,
        repository,
        reference,
        exists,
        is_public,
    })
}

/// Checks that a login reads the copy in its backup. Without a copy, and for a target, the registry must accept the login.
async fn reads_its_own(login: &PullLogin<'_>, copies: &[Copy<'_>], image: &ImageRef<'_>) -> Line {
    let host = login.host;
    let mut own = copies
        .iter()
        .filter(|copy| login.own.as_ref() == Some(&copy.name));
    if let Some(copy) = own.find(|copy| copy.exists) {
        let repository = &copy.repository;
        let result = match reads(&login.registry, repository, &copy.reference).await {
            Ok(true) => Ok(format!("may pull from {host}/{repository}")),
            Ok(false) => Err(format!(
                "does not see the copy in {host}/{repository}; give it read permission"
            )),
            Err(error) => Err(error.to_string()),
        };
        return Line::of(&login.check, result);
    }
    let result = login.registry.ping().await;
    let no_copy = match &login.own {
        Some(_) => format!(", where {image} has no copy to pull yet"),
        None => String::new(),
    };
    let accepted = result.map(|()| format!("accepted by {host}{no_copy}"));
    Line::of(&login.check, accepted.map_err(|error| error.to_string()))
}

/// Checks that the logins of others do not read a copy. Nothing is known while there is none: some registries report a
/// missing repository to everyone, and others deny it to everyone.
async fn read_by_others(
    copy: &Copy<'_>,
    logins: &[PullLogin<'_>],
    image: &ImageRef<'_>,
) -> Vec<Line> {
    let (name, location) = (&copy.name, copy.backup.location());
    let others = logins.iter().filter(|login| {
        login.own.as_ref() != Some(name) && copy.backup.is_at(login.host) && !copy.is_public
    });
    let mut lines = Vec::new();
    for login in others {
        if !copy.exists {
            let check = "pull logins of others".to_owned();
            let text = format!(
                "backup {name} ({location}) has no copy of {image} that they could read; check with an image that it has"
            );
            return vec![Line::Skipped { check, text }];
        }
        if let Ok(true) = reads(&login.registry, &copy.repository, &copy.reference).await {
            lines.push(Line::Warning {
                check: login.check.clone(),
                text: format!(
                    "reads backup {name} ({location}) too, so whoever has this login can pull all its images; use a login that \
                     reads nothing else"
                ),
            });
        }
    }
    lines
}

/// Returns whether a manifest can be read.
async fn reads(
    registry: &Registry,
    repository: &str,
    reference: &TagOrDigest,
) -> Result<bool, RegistryError> {
    let found = registry.resolve(repository, reference).await?;
    Ok(found.is_some())
}
