//! Rules that this service cannot follow, or not everywhere: they name a backup that is not defined, or do not fit the locations
//! of the backups.

use mirror_contract::rules::{Action, Rule};
use mirror_contract::{Backup, BackupName, RewriteTarget, Settings};

use super::{Policy, PolicyId, PolicySet};
use crate::backups::{BackupLocations, ByBackup};

/// Rules of one policy that are reported. One is enough to correct the policy, and to find the others.
const MAX_REPORTED: usize = 8;

/// A rule that has no effect, or not the effect that it seems to have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnusableRule {
    /// The policy; `None` for one that is not an object of the cluster.
    pub policy: Option<PolicyId>,
    pub kind: UnusableKind,
    /// A sentence without its end, with the next step.
    pub reason: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnusableKind {
    /// The backup of the rule is not defined.
    BackupUnknown,
    /// The target or the images of the rule are in a backup, or in the target of another rule.
    Conflict,
}

impl PolicySet {
    /// Returns the rules that cannot be followed with these backups.
    #[must_use]
    pub fn unusable_rules(&self, backups: &ByBackup<BackupLocations>) -> Vec<UnusableRule> {
        let policies = self.policies.iter();
        policies
            .flat_map(|policy| policy.unusable_rules(backups))
            .collect()
    }
}

impl Policy {
    /// Returns the rules that cannot be followed with these backups, at most [`MAX_REPORTED`].
    #[must_use]
    pub fn unusable_rules(&self, backups: &ByBackup<BackupLocations>) -> Vec<UnusableRule> {
        let settings = self.settings();
        let of_rules = settings.rules.iter().filter_map(|rule| {
            unknown_backup(rule, backups)
                .map(|reason| (UnusableKind::BackupUnknown, reason))
                .or_else(|| Some((UnusableKind::Conflict, conflict(rule, settings, backups)?)))
        });
        let own = |target: &RewriteTarget<'_>| settings.known_copies.overlap(target);
        let between_rules = settings.rules.conflicts(&own).into_iter();
        of_rules
            .chain(between_rules.map(|reason| (UnusableKind::Conflict, reason)))
            .take(MAX_REPORTED)
            .map(|(kind, reason)| UnusableRule {
                policy: self.id().cloned(),
                kind,
                reason,
            })
            .collect()
    }
}

fn unknown_backup(rule: &Rule<'_>, backups: &ByBackup<BackupLocations>) -> Option<String> {
    let Action::Mirror { backup } = &rule.action else {
        return None;
    };
    if backups.get(backup).is_some() {
        return None;
    }
    let defined: Vec<_> = backups.iter().map(|(name, _)| name.as_str()).collect();
    Some(format!(
        "`{}.backup` is {backup}, and mirror-sidecar defines only {}; add {backup} to the file of --config, or correct the rule",
        rule.position,
        defined.join(", ")
    ))
}

/// Returns how the rule conflicts with the location of a backup that the policy does not list itself.
fn conflict(
    rule: &Rule<'_>,
    settings: &Settings<'_>,
    backups: &ByBackup<BackupLocations>,
) -> Option<String> {
    let position = rule.position;
    match &rule.action {
        // Reported with the conflicts between the settings.
        Action::Rewrite { target } if settings.known_copies.overlap(target) => return None,
        Action::Rewrite { target } => {
            if let Some((name, location)) = find(backups, |backup| backup.overlaps(target)) {
                return Some(format!(
                    "`{position}.target` overlaps backup {name} ({location}), so that its images would count as copies; use a \
                     target outside of it, or write `action: mirror` to use copies"
                ));
            }
        }
        Action::Mirror { .. } => {}
        Action::Keep => return None,
    }
    let (name, location) = find(backups, |backup| {
        let location = backup.location();
        let mut images = rule.images.iter();
        images.any(|pattern| pattern.is_within(&location))
    })?;
    Some(format!(
        "`{position}` applies to images in backup {name} ({location}), which are copies and are not copied or rewritten again; \
         remove the rule, or this part of its images"
    ))
}

fn find(
    backups: &ByBackup<BackupLocations>,
    is_wanted: impl Fn(&Backup) -> bool,
) -> Option<(&BackupName<'static>, String)> {
    backups.iter().find_map(|(name, locations)| {
        let mut locations = locations.all();
        let found = locations.find(|location| is_wanted(location))?;
        Some((name, found.location()))
    })
}

#[cfg(test)]
mod tests {
    use mirror_contract::Naming;
    use rstest::rstest;
    use serde_json::{Value, json};

    use super::*;
    use crate::former_backups::FormerBackups;

    fn locations() -> ByBackup<BackupLocations> {
        let backup = |location: &str| {
            let (registry, repository) = location.split_once('/').unwrap();
            Backup::new(registry, repository, Naming::Flat).unwrap()
        };
        let locations = |current: &str, former: Option<&str>| {
            let current = backup(current);
            let former = former.map(|former| Backup::with_both_namings(former).unwrap());
            let former = FormerBackups::new(&current, former);
            BackupLocations::new(current, former)
        };
        let mut all = ByBackup::new(locations("ghcr.io/acme", None));
        let team = BackupName::parse("team-a").unwrap();
        all.insert(team, locations("hub.test/team-a", Some("old.test/a")));
        all
    }

    #[rstest]
    #[case::defined(json!([{"action": "mirror", "backup": "team-a"}]), &[])]
    #[case::unknown(
        json!([{"action": "keep", "images": ["a.b/*"]}, {"action": "mirror", "backup": "team-b"}]),
        &["`rules[1].backup` is team-b, and mirror-sidecar defines only default, team-a; add team-b to the file of --config, or \
           correct the rule"]
    )]
    #[case::target_in_a_backup(
        json!([{"images": ["quay.io/*"], "action": "rewrite", "target": "hub.test/team-a/quay"}]),
        &["`rules[0].target` overlaps backup team-a (hub.test/team-a), so that its images would count as copies; use a target \
           outside of it, or write `action: mirror` to use copies"]
    )]
    #[case::target_around_a_former_location(
        json!([{"images": ["quay.io/*"], "action": "rewrite", "target": "old.test"}]),
        &["`rules[0].target` overlaps backup team-a (old.test/a), so that its images would count as copies; use a target \
           outside of it, or write `action: mirror` to use copies"]
    )]
    #[case::target_in_a_listed_backup(
        json!([{"images": ["quay.io/*"], "action": "rewrite", "target": "ghcr.io/acme/quay"}]),
        &["`rules[0].target` overlaps one of `backups`: its images would count as copies"]
    )]
    #[case::copies_once_more(
        json!([{"images": ["hub.test/team-a/docker.io*"], "action": "mirror"}]),
        &["`rules[0]` applies to images in backup team-a (hub.test/team-a), which are copies and are not copied or rewritten \
           again; remove the rule, or this part of its images"]
    )]
    #[case::kept_copies(json!([{"images": ["hub.test/team-a/*"], "action": "keep"}]), &[])]
    #[case::copies_among_others(json!([{"images": ["hub.test/*"], "action": "mirror"}]), &[])]
    #[case::images_of_a_target(
        json!([
            {"images": ["quay.io/*"], "action": "rewrite", "target": "cache.test/quay"},
            {"images": ["cache.test/quay/*"], "action": "mirror"},
        ]),
        &["`rules[1]` applies to images in `rules[0].target`, which cannot be copied or rewritten again"]
    )]
    fn rules_that_do_not_fit_the_backups_are_reported(
        #[case] rules: Value,
        #[case] expected: &[&str],
    ) {
        let settings = json!({"sidecar": "a.b:1", "backups": ["ghcr.io/acme"], "rules": rules});
        let policy = Policy::of_settings(&settings).unwrap();
        let found = policy.unusable_rules(&locations());
        let reasons: Vec<_> = found.iter().map(|rule| &*rule.reason).collect();
        assert_eq!(reasons, expected);
        let is_unknown = |rule: &UnusableRule| rule.kind == UnusableKind::BackupUnknown;
        assert_eq!(
            found.iter().any(is_unknown),
            rules.to_string().contains("team-b")
        );
    }

    #[test]
    fn the_number_of_reports_is_bounded() {
        let rule = |number| json!({"images": [format!("a.b/{number}")], "action": "mirror", "backup": "x"});
        let rules: Vec<_> = (0..1000).map(rule).collect();
        let settings = json!({"sidecar": "a.b:1", "rules": rules});
        let policy = Policy::of_settings(&settings).unwrap();
        assert_eq!(policy.unusable_rules(&locations()).len(), MAX_REPORTED);
    }
}
