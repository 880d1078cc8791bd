//! Locations that cannot be used together.
//!
//! Each image belongs to one location at most: an image in two backups would have two owners, and one in a backup and in a
//! target would be a copy and an original at the same time.

use mirror_contract::Backup;

use super::Config;

/// A current or former location of copies.
struct Location<'a> {
    /// Position of its backup.
    owner: usize,
    /// The path of its key, or its flag.
    key: String,
    backup: &'a Backup,
}

/// Returns one sentence for each conflict.
pub(super) fn conflicts(config: &Config, has_default_of_flags: bool) -> Vec<String> {
    let mut conflicts = Vec::new();
    let (mut current, mut former) = (Vec::new(), Vec::new());
    for (owner, (name, backup)) in config.backups().enumerate() {
        let is_of_flags = name.is_default() && has_default_of_flags;
        let key = if is_of_flags {
            "--registry".to_owned()
        } else {
            format!("backups.{name}")
        };
        for (index, [location, _]) in backup.former.iter().enumerate() {
            let key = if is_of_flags {
                "--former-backup".to_owned()
            } else {
                format!("{key}.formerLocations[{index}]")
            };
            former.push(Location {
                owner,
                key,
                backup: location,
            });
        }
        current.push(Location {
            owner,
            key,
            backup: &backup.backup,
        });
    }
    for (index, first) in current.iter().enumerate() {
        for second in current.iter().skip(index + 1) {
            conflicts.extend(between_backups(first, second));
        }
    }
    for location in &former {
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
    for (index, target) in config.targets.iter().enumerate() {
        let location = &target.location;
        let mut backups = current.iter().chain(&former);
        if let Some(other) = backups.find(|other| other.backup.overlaps(location)) {
            conflicts.push(format!(
                "targets[{location}]: overlaps {} ({}); images there are copies, so use a target outside of it",
                other.key,
                other.backup.location()
            ));
        }
        let mut others = config.targets.iter().skip(index + 1);
        if let Some(other) = others.find(|other| location.overlaps(&other.location.to_string())) {
            conflicts.push(format!(
                "targets[{}]: overlaps targets[{location}]; remove one of them, or use separate projects",
                other.location
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
