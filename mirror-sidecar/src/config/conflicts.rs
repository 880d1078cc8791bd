//! Creates configurations of locations and logins that can be used together.
//!
//! Each image belongs to one location at most: an image in two backups would have two owners, and one in a backup and in a
//! target would be a copy and an original at the same time.

use mirror_contract::Backup;

use super::{BackupConfig, Config, TargetConfig};
use crate::backups::ByBackup;
use crate::cluster::{PullLogin, PullLogins};
use crate::origin::target_key;

/// A current or former location of copies.
struct Location<'a> {
    /// Position of its backup.
    owner: usize,
    /// The path of its key, or its flag.
    key: String,
    backup: &'a Backup,
}

impl Config {
    /// Creates the configuration of backups and targets that can be used together. Without managed pull Secrets, Pods get none
    /// of the logins of targets.
    ///
    /// # Errors
    /// One sentence for each conflict, with the path of its key.
    pub fn new(
        backups: ByBackup<BackupConfig>,
        targets: Vec<TargetConfig>,
        manages_pull_secrets: bool,
    ) -> Result<Self, Vec<String>> {
        let conflicts = conflicts(&backups, &targets);
        if !conflicts.is_empty() {
            return Err(conflicts);
        }
        let of_backups = backups.values().filter_map(BackupConfig::pull_login);
        let of_targets = targets.iter().filter(|_| manages_pull_secrets);
        let of_targets = of_targets
            .map(|target| PullLogin::of_target(target.location.clone(), target.pull.clone()));
        let pull_logins = PullLogins::new(of_backups.chain(of_targets).collect())?;
        Ok(Self {
            backups,
            targets,
            pull_logins,
        })
    }
}

/// Returns one sentence for each conflict of locations.
fn conflicts(backups: &ByBackup<BackupConfig>, targets: &[TargetConfig]) -> Vec<String> {
    let mut conflicts = Vec::new();
    let (mut current, mut former) = (Vec::new(), Vec::new());
    for (owner, backup) in backups.values().enumerate() {
        current.push(Location {
            owner,
            key: backup.origin.to_string(),
            backup: &backup.backup,
        });
        let locations = backup.former.iter().enumerate();
        former.extend(locations.map(|(index, [location, _])| Location {
            owner,
            key: backup.origin.former_location(index),
            backup: location,
        }));
    }
    for (index, first) in current.iter().enumerate() {
        for second in current.iter().skip(index + 1) {
            conflicts.extend(between_backups(first, second));
        }
    }
    for (index, location) in former.iter().enumerate() {
        // Nobody could tell whose copies are there, and each backup would pass them on to its own users.
        let mut later = former.iter().skip(index + 1);
        if let Some(other) = later.find(|other| {
            other.owner != location.owner
                && other.backup.encloses(location.backup)
                && location.backup.encloses(other.backup)
        }) {
            conflicts.push(format!(
                "{}: {} is a former location of {}, too; keep it with the backup whose namespaces may read all copies there",
                other.key,
                other.backup.location(),
                location.key,
            ));
        }
        // A backup may be inside a former location of another one: names of copies differ from its repository.
        let mut others = current.iter().filter(|other| other.owner != location.owner);
        if let Some(other) = others.find(|other| other.backup.encloses(location.backup)) {
            conflicts.push(format!(
                "{}: {} is in the location of {}; copies of one backup are never copied into another",
                location.key,
                location.backup.location(),
                other.key,
            ));
        }
    }
    for (index, target) in targets.iter().enumerate() {
        let location = &target.location;
        let mut backups = current.iter().chain(&former);
        if let Some(other) = backups.find(|other| other.backup.overlaps(location)) {
            conflicts.push(format!(
                "{}: overlaps {} ({}); images there are copies, so use a target outside of it",
                target_key(location),
                other.key,
                other.backup.location()
            ));
        }
        let mut others = targets.iter().skip(index + 1);
        if let Some(other) = others.find(|other| location.overlaps(&other.location.to_string())) {
            conflicts.push(format!(
                "{}: overlaps {}; remove one of them, or use separate projects",
                target_key(&other.location),
                target_key(location)
            ));
        }
    }
    conflicts
}

fn between_backups(first: &Location<'_>, second: &Location<'_>) -> Option<String> {
    let is_inside = second.backup.encloses(first.backup);
    let is_around = first.backup.encloses(second.backup);
    let (inner, outer, relation) = match (is_inside, is_around) {
        (true, true) => (second, first, "has the same location as"),
        (true, false) => (first, second, "is inside"),
        (false, true) => (second, first, "is inside"),
        (false, false) => return None,
    };
    Some(format!(
        "{}: {} {relation} {} ({}); use a separate project or repository for each backup",
        inner.key,
        inner.backup.location(),
        outer.key,
        outer.backup.location()
    ))
}
