//! The desired logins of one Secret.
//!
//! Anybody who may create Pods can use images of any location, and anybody who may write Secrets can store anything under any
//! key. So a login is written only where the rules allow it now. That of the default backup is also written in place of an
//! earlier value of it that the Secret has had since the rules allowed it, as far as this process has seen.

use super::dockerconfigjson::{
    Configuration, DesiredLogin, Fingerprint, HeldLogins, MAX_CONFIGURATION, MAX_OTHERS,
    StoredLogins,
};
use super::keyring::{CurrentLogins, Keyring};
use crate::cluster::login_access::{LoginAccess, LoginSet};

/// The logins of the configuration that a Secret has. It must not have any others of the configuration.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Grants {
    /// The Secret must have these.
    pub granted: LoginSet,
    /// The Secret may have these, but they are not added.
    pub kept: LoginSet,
    /// Those of `kept` whose values are kept current.
    pub renewed: LoginSet,
}

/// The logins that a Secret must have.
#[derive(Clone, Copy, Debug)]
pub(super) struct Desired<'a> {
    pub keyring: &'a Keyring,
    pub current: &'a CurrentLogins,
    pub grants: Grants,
    /// Any value of a login will do, and none is removed: another replica keeps the Secret current, whose credential helper may
    /// return another token, or another writer has just changed it.
    pub is_lenient: bool,
}

impl Grants {
    /// Grants what the rules allow. Of the rest, a login is removed if it is in `overdue` and nothing needs it. It is renewed
    /// if workloads need it and it is `renewable`: it is that of the default backup, and the Secret has had it since the rules
    /// allowed it.
    pub(super) fn of(access: &LoginAccess, overdue: LoginSet, renewable: LoginSet) -> Self {
        let removed = overdue.without(access.needed());
        Self {
            granted: access.allowed,
            kept: LoginSet::ALL.without(access.allowed).without(removed),
            renewed: access.needed().without(access.allowed).and(renewable),
        }
    }

    /// Nothing is granted and nothing is removed. The workloads of the namespace are not known, and may need any login.
    pub(super) fn in_excluded_namespace(renewable: LoginSet) -> Self {
        Self {
            granted: LoginSet::NONE,
            kept: LoginSet::ALL,
            renewed: renewable,
        }
    }

    fn all(self) -> LoginSet {
        self.granted.or(self.kept)
    }
}

impl Desired<'_> {
    /// Returns whether a Secret with these logins is as it should be, as far as is known.
    pub(super) fn is_met_by(&self, held: &HeldLogins) -> bool {
        let fitting = self.fitting();
        let are_present = fitting
            .iter()
            .all(|index| held.get(self.keyring.key(index)).is_some());
        let are_right = held.iter().all(|(key, fingerprint)| {
            let is_accepted = |index| self.accepts(index, fingerprint, fitting.contains(index));
            !self.is_removed(key, fingerprint) && self.keyring.index_of(key).is_none_or(is_accepted)
        });
        are_present && are_right && (fitting.is_empty() || self.keyring.is_clean(held))
    }

    /// Returns whether there is a login to create a Secret with.
    pub(super) fn can_create(&self) -> bool {
        !self.fitting().is_empty()
    }

    /// Returns whether a granted login is missing because it was never read: that of the default backup, or all of them.
    pub(super) fn lacks_credentials(&self, held: Option<&HeldLogins>) -> bool {
        let is_missing = |index: &usize| {
            let key = self.keyring.key(*index);
            self.current.get(*index).is_none() && held.is_none_or(|held| held.get(key).is_none())
        };
        let granted = self.grants.granted;
        let missing: LoginSet = granted.iter().filter(is_missing).collect();
        let has_default = !missing.and(self.keyring.default_login()).is_empty();
        has_default || (!missing.is_empty() && missing == granted)
    }

    /// Returns whether [`Self::configuration`] needs the stored passwords.
    pub(super) fn needs_stored(&self, held: &HeldLogins) -> bool {
        let fitting = self.fitting();
        held.iter().any(|(key, fingerprint)| {
            let is_kept = match self.keyring.index_of(key) {
                Some(index) => !fitting.contains(index),
                None => !self.keyring.is_hidden_by(key),
            };
            is_kept && !self.is_removed(key, fingerprint)
        })
    }

    /// Returns the configuration that replaces the stored one. Granted logins come first, as far as they fit.
    pub(super) fn configuration(&self, stored: &StoredLogins) -> Configuration {
        let mut configuration = Configuration::default();
        let fitting = self.fitting();
        for index in fitting.iter() {
            if let Some(login) = self.current.get(index) {
                configuration.add(self.keyring.key(index), login.value());
            }
        }
        for index in LoginSet::ALL.without(fitting).iter() {
            let key = self.keyring.key(index);
            let Some(login) = stored.get(key) else {
                continue;
            };
            let fingerprint = Fingerprint::of_login(login);
            if !self.is_removed(key, fingerprint) {
                let current = self.current.get(index);
                let current = current.filter(|_| self.is_renewed(index, fingerprint));
                configuration.add(
                    key,
                    current.map_or_else(|| login.clone(), DesiredLogin::value),
                );
            }
        }
        let others = stored
            .short()
            .filter(|(key, _, fingerprint)| {
                self.keyring.index_of(key).is_none()
                    && !self.keyring.is_hidden_by(key)
                    && !self.is_removed(key, *fingerprint)
            })
            .take(MAX_OTHERS);
        for (key, login, _) in others {
            configuration.add(key, login.clone());
        }
        configuration
    }

    /// Returns the logins of the configuration in a Secret, under their own keys.
    pub(super) fn present(&self, held: &HeldLogins) -> LoginSet {
        let keys = held.iter().map(|(key, _)| key);
        keys.filter_map(|key| self.keyring.index_of(key)).collect()
    }

    /// Returns the logins of the configuration in a Secret that nothing allows or needs.
    pub(super) fn barred(&self, held: &HeldLogins, access: &LoginAccess) -> LoginSet {
        let needed = access.needed();
        let barred = held.iter().map(|(key, fingerprint)| {
            let of_key = self.keyring.index_of(key);
            let of_key = of_key.map_or(LoginSet::NONE, LoginSet::one);
            let of_value = self.current.of(fingerprint);
            let is_needed = !of_value.and(needed).is_empty();
            let of_value = if is_needed { LoginSet::NONE } else { of_value };
            of_key.without(needed).or(of_value)
        });
        barred.fold(LoginSet::NONE, LoginSet::or)
    }

    /// Returns the logins of the configuration in a Secret that are neither granted nor renewed, and not current.
    pub(super) fn outdated(&self, held: &HeldLogins) -> LoginSet {
        let others = self.present(held).without(self.grants.granted);
        let outdated = others.iter().filter(|index| {
            let held = held.get(self.keyring.key(*index));
            let current = self.current.get(*index).map(DesiredLogin::fingerprint);
            let is_outdated = |held| current.is_some_and(|current| current != held);
            held.is_some_and(|held| is_outdated(held) && !self.is_renewed(*index, held))
        });
        outdated.collect()
    }

    /// Returns the number of granted logins that are left out, because the Secret would be too long.
    pub(super) fn left_out(&self) -> usize {
        let granted = self.grants.granted.without(self.fitting()).iter();
        granted
            .filter(|index| self.current.get(*index).is_some())
            .count()
    }

    /// The granted logins whose values are known, as far as they fit.
    fn fitting(&self) -> LoginSet {
        let mut room = MAX_CONFIGURATION;
        let granted = self.grants.granted.iter();
        let fitting = granted.filter(|index| {
            let login = self.current.get(*index);
            let bytes = login.map(|login| login.bytes(self.keyring.key(*index)));
            let rest = bytes.and_then(|bytes| room.checked_sub(bytes));
            room = rest.unwrap_or(room);
            rest.is_some()
        });
        fitting.collect()
    }

    /// Returns whether a value of a login, which is not removed, may stay in the Secret.
    fn accepts(&self, index: usize, fingerprint: Fingerprint, is_fitting: bool) -> bool {
        let current = self.current.get(index);
        let is_current = current.is_none_or(|current| current.fingerprint() == fingerprint);
        let is_replaced = is_fitting || self.is_renewed(index, fingerprint);
        self.is_lenient || is_current || !is_replaced
    }

    /// Returns whether a stored value that is not granted is replaced by the current one.
    fn is_renewed(&self, index: usize, fingerprint: Fingerprint) -> bool {
        self.grants.renewed.contains(index) && self.current.is_of(index, fingerprint)
    }

    /// Returns whether the Secret must not have an entry: by its key, or because its value is that of other logins alone.
    fn is_removed(&self, key: &str, fingerprint: Fingerprint) -> bool {
        let all = self.grants.all();
        let is_barred = |index: usize| !all.contains(index);
        let owners = self.current.of(fingerprint);
        let is_foreign = !owners.is_empty() && owners.and(all).is_empty();
        !self.is_lenient && (is_foreign || self.keyring.index_of(key).is_some_and(is_barred))
    }
}

#[cfg(test)]
mod tests;
