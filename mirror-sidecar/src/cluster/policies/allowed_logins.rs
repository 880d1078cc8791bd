//! The logins that the rules allow in a namespace.

use mirror_contract::BackupName;

use super::{MAX_POLICIES, PolicySet, Selection};
use crate::cluster::login_access::LoginSet;
use crate::cluster::pull_locations::{LoginOwner, PullLocations};

/// The logins that the rules allow in a namespace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AllowedLogins {
    pub certain: LoginSet,
    /// Also the logins of policies that select the namespace by labels that are not known.
    pub possible: LoginSet,
    /// The rules can choose a backup or a target, with or without a login.
    pub has_destinations: bool,
}

impl AllowedLogins {
    /// Any login may be allowed.
    const UNKNOWN: Self = Self {
        certain: LoginSet::NONE,
        possible: LoginSet::ALL,
        has_destinations: true,
    };

    fn or(self, other: Self) -> Self {
        Self {
            certain: self.certain.or(other.certain),
            possible: self.possible.or(other.possible),
            has_destinations: self.has_destinations || other.has_destinations,
        }
    }

    /// Returns the logins of the backups and targets that the rules can choose for images in a namespace. Without a current
    /// selection, labels of the namespace count as unknown.
    ///
    /// Without policies, and with a policy that cannot be parsed, this allows the login of the default backup, or none if there are
    /// other destinations (`has_several_destinations`): the rules that are missing may keep the namespace from each of them.
    #[must_use]
    pub fn of(
        set: &PolicySet,
        namespace: &str,
        selection: Option<Selection>,
        locations: &PullLocations,
        has_several_destinations: bool,
    ) -> Self {
        if set.is_empty() {
            return if has_several_destinations {
                Self::UNKNOWN
            } else {
                let default = locations.of_destination(&LoginOwner::Backup(BackupName::DEFAULT));
                Self {
                    certain: default,
                    possible: default,
                    has_destinations: true,
                }
            };
        }
        let selection = selection.filter(|selection| set.is_current(*selection));
        let mut allowed = Self::default();
        for (index, policy) in set.policies.iter().take(MAX_POLICIES).enumerate() {
            let selects = match selection {
                Some(selection) => {
                    let is_selected = selection.policies.contains(index);
                    (is_selected || selection.is_certain).then_some(is_selected)
                }
                None => policy.selects_namespace(namespace, None),
            };
            if selects == Some(false) {
                continue;
            }
            if policy.fallback().is_some() && has_several_destinations {
                allowed = allowed.or(Self::UNKNOWN);
                continue;
            }
            for destination in policy.destinations().in_namespace(namespace) {
                let login = locations.of_destination(destination);
                allowed.has_destinations = true;
                allowed.possible = allowed.possible.or(login);
                if selects.is_some() {
                    allowed.certain = allowed.certain.or(login);
                }
            }
        }
        allowed
    }
}
