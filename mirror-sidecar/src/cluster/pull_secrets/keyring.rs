//! The logins of the configuration: the keys under which kubelets find them, and their current values.

use std::collections::VecDeque;
use std::sync::Arc;

use mirror_contract::RewriteTarget;

use super::dockerconfigjson::{DesiredLogin, Fingerprint, HeldLogins, MAX_OTHERS, parse_key};
use super::pull_login::{PullLogin, PullLogins};
use crate::cluster::login_access::LoginSet;
use crate::cluster::pull_locations::{LoginOwner, PullLocations};

/// Earlier values of a login that are recognized. Within a day, a credential helper returns some tens of tokens at most, and a
/// Secret has one of the last.
const MAX_FORMER: usize = 8;

/// The logins, by their index in the configuration. It does not change.
#[derive(Debug)]
pub(super) struct Keyring {
    logins: Box<[KeyringLogin]>,
    locations: PullLocations,
}

#[derive(Debug)]
struct KeyringLogin {
    owner: LoginOwner,
    key: Box<str>,
    /// The locations of its images.
    locations: Vec<RewriteTarget<'static>>,
}

/// The values of all logins. Clones share them.
#[derive(Clone, Debug)]
pub(super) struct CurrentLogins(Arc<[LoginValue]>);

/// A login of the configuration, as far as it was read.
#[derive(Clone, Debug, Default)]
struct LoginValue {
    current: Option<Arc<DesiredLogin>>,
    /// Earlier ones of this process, the newest last.
    former: VecDeque<Fingerprint>,
}

impl Keyring {
    pub(super) fn new(logins: &PullLogins) -> Self {
        let logins: Box<[_]> = logins.iter().map(KeyringLogin::new).collect();
        let locations = logins
            .iter()
            .map(|login| (login.owner.clone(), login.locations.clone()));
        Self {
            locations: PullLocations::new(locations),
            logins,
        }
    }

    pub(super) fn locations(&self) -> &PullLocations {
        &self.locations
    }

    pub(super) fn key(&self, index: usize) -> &str {
        self.logins.get(index).map_or("", |login| &login.key)
    }

    pub(super) fn index_of(&self, key: &str) -> Option<usize> {
        self.logins.iter().position(|login| *login.key == *key)
    }

    /// Returns the backup or the target of a login.
    pub(super) fn owner(&self, index: usize) -> Option<&LoginOwner> {
        self.logins.get(index).map(|login| &login.owner)
    }

    /// Returns the login of the default backup.
    pub(super) fn default_login(&self) -> LoginSet {
        let logins = self.logins.iter().enumerate();
        let defaults = logins.filter(|(_, login)| login.owner.is_default());
        defaults.map(|(index, _)| index).collect()
    }

    /// Returns whether kubelets could try a login with this key, which is none of ours, before ours.
    pub(super) fn is_hidden_by(&self, key: &str) -> bool {
        let Some((host, path)) = parse_key(key) else {
            return true;
        };
        self.logins.iter().any(|login| {
            // Longer keys come first.
            let is_longer = match parse_key(&login.key) {
                Some((own_host, own_path)) => own_host == host && is_inside(path, own_path),
                None => false,
            };
            is_longer && login.locations.iter().any(|own| own.overlaps(key))
        })
    }

    /// Returns whether a Secret holds nothing that could hide one of our logins from kubelets, and not too many of others.
    pub(super) fn is_clean(&self, held: &HeldLogins) -> bool {
        let others = || held.iter().filter(|(key, _)| self.index_of(key).is_none());
        held.is_clean()
            && others().count() <= MAX_OTHERS
            && !others().any(|(key, _)| self.is_hidden_by(key))
    }

    /// Returns one fingerprint for all logins of the configuration in a Secret; `None` if it is not clean.
    pub(super) fn fingerprint(&self, held: &HeldLogins) -> Option<Fingerprint> {
        let indexed = self.logins.iter();
        let ours = indexed.filter_map(|login| Some((&*login.key, held.get(&login.key)?)));
        self.is_clean(held).then(|| Fingerprint::of_all(ours))
    }
}

impl KeyringLogin {
    fn new(login: &PullLogin) -> Self {
        let paths = std::iter::once(&login.path).chain(&login.former_paths);
        let locations = paths.filter_map(|path| location(&login.registry, path));
        Self {
            owner: login.owner.clone(),
            key: login.key().into(),
            locations: locations.collect(),
        }
    }
}

impl CurrentLogins {
    /// No value is known yet.
    pub(super) fn unknown(logins: usize) -> Self {
        Self((0..logins).map(|_| LoginValue::default()).collect())
    }

    pub(super) fn get(&self, index: usize) -> Option<&DesiredLogin> {
        self.0.get(index)?.current.as_deref()
    }

    /// Returns whether a login had this value earlier, or has it.
    pub(super) fn is_of(&self, index: usize, fingerprint: Fingerprint) -> bool {
        self.0.get(index).is_some_and(|value| {
            let current = value.current.as_ref().map(|login| login.fingerprint());
            current == Some(fingerprint) || value.former.contains(&fingerprint)
        })
    }

    /// Returns the logins that have this value or had it earlier.
    pub(super) fn of(&self, fingerprint: Fingerprint) -> LoginSet {
        let all = 0..self.0.len();
        all.filter(|index| self.is_of(*index, fingerprint))
            .collect()
    }

    /// Sets a new value; returns `false` if it is the current one.
    pub(super) fn set(&mut self, index: usize, login: DesiredLogin) -> bool {
        let mut values = self.0.to_vec();
        let Some(value) = values.get_mut(index) else {
            return false;
        };
        let old = value.current.as_ref().map(|old| old.fingerprint());
        if old == Some(login.fingerprint()) {
            return false;
        }
        if let Some(old) = old {
            value.former.push_back(old);
            if value.former.len() > MAX_FORMER {
                value.former.pop_front();
            }
        }
        value.current = Some(Arc::new(login));
        self.0 = values.into();
        true
    }
}

fn location(registry: &str, path: &str) -> Option<RewriteTarget<'static>> {
    let location = match path {
        "" => registry.to_owned(),
        path => format!("{registry}/{path}"),
    };
    RewriteTarget::parse(&location).map(RewriteTarget::into_owned)
}

/// Returns whether `path` is inside the folder `outer`, and is not the folder itself.
fn is_inside(path: &str, outer: &str) -> bool {
    match outer {
        "" => !path.is_empty(),
        outer => path
            .strip_prefix(outer)
            .is_some_and(|rest| rest.starts_with('/')),
    }
}

#[cfg(test)]
pub(super) mod tests;
