//! The settings of the cluster tasks, without the names of flags.

use std::num::NonZeroU32;
use std::time::Duration;

use clap::ValueEnum;
use mirror_contract::OwnerPattern;

use super::policies::follow::Filter;
use super::pull_secrets::PullLogins;
use super::readmission::Readmit;

#[derive(Debug)]
pub struct ClusterConfig {
    pub mode: Kubernetes,
    pub pull_plan: PullPlan,
    /// Names that the pull Secret had before.
    pub former_pull_secrets: Vec<String>,
    /// The policies that are followed; none with a file of settings.
    pub followed_policies: Filter,
    /// Owners whose Pods are left alone.
    pub skip_owners: Vec<OwnerPattern<'static>>,
    pub readmit: Readmit,
    /// Of all replicas together.
    pub readmit_per_minute: NonZeroU32,
    /// Policy whose webhook is registered a second time, for new Pods.
    pub reinvoke_policy: Option<String>,
    /// Interval in which each image in use is re-checked.
    pub recheck_interval: Duration,
    pub on_moved_tag: OnMovedTag,
    /// Workloads in the index.
    pub max_workloads: u32,
    /// Name of this replica's Pod.
    pub replica: Option<String>,
    pub own_namespace: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Kubernetes {
    /// No cluster
    Off,
    /// Watches workloads and namespaces, and writes nothing
    Watch,
    /// Watches, and writes pull Secrets, annotations, Events and Leases
    On,
}

impl Kubernetes {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Watch => "watch",
            Self::On => "on",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum OnMovedTag {
    /// Update the copy; the older image keeps its anchor tag
    Update,
    /// Keep the copy
    Keep,
}

/// Where the pull Secret for copies comes from.
#[derive(Clone, Debug)]
pub enum PullPlan {
    /// Copies are pulled without one.
    NotNeeded,
    /// Somebody else creates it in every namespace.
    Existing { name: String },
    /// This service creates it where it is needed.
    Managed {
        name: String,
        /// Its content, which depends on the rules for the namespace.
        logins: PullLogins,
    },
}

impl PullPlan {
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        match self {
            Self::NotNeeded => None,
            Self::Existing { name } | Self::Managed { name, .. } => Some(name),
        }
    }

    /// Adds those of the logins `before` that the configuration no longer has, as far as there is room. Returns all logins,
    /// current and former ones.
    pub fn add_former(&mut self, before: &PullLogins) -> PullLogins {
        let Self::Managed { logins, .. } = self else {
            return before.clone();
        };
        logins.add_former(before);
        logins.clone()
    }
}

#[cfg(test)]
mod tests {
    use mirror_contract::{Backup, BackupName, Naming};
    use mirror_copy::Credentials;

    use super::*;
    use crate::backups::BackupLocations;
    use crate::cluster::PullLogin;
    use crate::former_backups::FormerBackups;
    use crate::origin::BackupOrigin;

    fn login(name: &'static str, registry: &str, repository: &str) -> PullLogin {
        let backup = Backup::new(registry, repository, Naming::Flat).unwrap();
        let locations = BackupLocations::new(backup, FormerBackups::default());
        let origin = BackupOrigin::File(BackupName::parse(name).unwrap());
        PullLogin::of_backup(&origin, &locations, Credentials::anonymous())
    }

    fn plan(logins: Vec<PullLogin>) -> PullPlan {
        PullPlan::Managed {
            name: "pull".to_owned(),
            logins: PullLogins::new(logins).unwrap(),
        }
    }

    fn owners(logins: &PullLogins) -> Vec<String> {
        logins
            .iter()
            .map(|login| format!("{} {}", login.owner, login.key()))
            .collect()
    }

    #[test]
    fn logins_that_the_configuration_has_lost_are_former_ones_until_it_has_them_again() {
        let main = || login("default", "hub.test", "main");
        let before = PullLogins::new(vec![main(), login("team-a", "a.test", "team")]).unwrap();
        // The registry of a backup changes under the same name.
        let mut next = plan(vec![main(), login("team-a", "b.test", "team")]);
        let all = next.add_former(&before);
        let expected = [
            "backup default hub.test",
            "backup team-a b.test/team",
            "former backup team-a a.test/team",
        ];
        assert_eq!(owners(&all), expected);
        // A former one stays former, and one that is there again is not. Its name does not matter.
        let mut next = plan(vec![main(), login("team-b", "b.test", "team")]);
        let all = next.add_former(&all);
        let expected = [
            "backup default hub.test",
            "backup team-b b.test/team",
            "former backup team-a a.test/team",
        ];
        assert_eq!(owners(&all), expected);
        let mut none = PullPlan::NotNeeded;
        assert_eq!(owners(&none.add_former(&all)), expected);
        let mut moved = plan(vec![login("default", "new.test", "main")]);
        let all = moved.add_former(&all);
        // The key is for the whole registry, as that of the default backup was.
        assert!(owners(&all).contains(&"former backup default hub.test".to_owned()));
        assert_eq!(all.iter().count(), 4);
    }
}
