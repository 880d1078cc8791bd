//! The logins that Pods need, as the configuration names them.

use mirror_contract::RewriteTarget;
use mirror_contract::reference::is_docker_hub;
use mirror_copy::Credentials;

use super::dockerconfigjson::key_for;
use crate::backups::BackupLocations;
use crate::cluster::login_access::MAX_LOGINS;
use crate::cluster::pull_locations::LoginOwner;
use crate::origin::{BackupOrigin, target_key};

/// A login that Pods need for the images of a backup, or of a target of rewrites.
#[derive(Clone, Debug)]
pub struct PullLogin {
    pub owner: LoginOwner,
    /// The flag or key of the login.
    pub origin: String,
    /// Named as in image references.
    pub registry: String,
    /// The repository that contains all images; empty for the whole registry.
    pub path: String,
    /// Former repositories in the same registry.
    pub former_paths: Vec<String>,
    /// Contain the login for the registry, and are read again whenever it may have changed.
    pub credentials: Credentials,
}

/// At most [`MAX_LOGINS`] logins that kubelets can tell apart, that of the default backup first.
#[derive(Clone, Debug, Default)]
pub struct PullLogins(Vec<PullLogin>);

impl PullLogin {
    /// The login for a backup and its former locations in the same registry.
    #[must_use]
    pub fn of_backup(
        origin: &BackupOrigin,
        locations: &BackupLocations,
        credentials: Credentials,
    ) -> Self {
        let backup = locations.current();
        Self {
            owner: LoginOwner::Backup(origin.name()),
            origin: origin.pull(),
            registry: backup.registry().to_owned(),
            path: backup.repository().to_owned(),
            former_paths: locations.former().repositories_in(backup.registry()),
            credentials,
        }
    }

    /// The login for the images in a target of rewrites.
    #[must_use]
    pub fn of_target(target: RewriteTarget<'static>, credentials: Credentials) -> Self {
        Self {
            origin: format!("{}.pull", target_key(&target)),
            registry: target.registry().to_owned(),
            path: target.repository().to_owned(),
            former_paths: Vec::new(),
            owner: LoginOwner::Target(target),
            credentials,
        }
    }

    /// The same login after the configuration has lost it: it leaves each Secret once nothing there uses it.
    fn into_former(self) -> Self {
        let owner = match self.owner {
            former @ LoginOwner::Former(_) => former,
            owner => LoginOwner::Former(Box::new(owner)),
        };
        Self { owner, ..self }
    }

    /// The key under which kubelets find the login.
    #[must_use]
    pub fn key(&self) -> String {
        let owner = match &self.owner {
            LoginOwner::Former(owner) => &**owner,
            owner => owner,
        };
        // The login of the default backup is for its whole registry: it always was, and former locations need it.
        let path = if owner.is_default() { "" } else { &self.path };
        key_for(&self.registry, path)
    }
}

impl PullLogins {
    /// # Errors
    /// There are too many logins, or some that kubelets cannot tell apart: one sentence for each conflict, with the flag or key
    /// of a login.
    pub fn new(logins: Vec<PullLogin>) -> Result<Self, Vec<String>> {
        if let Some(excess) = logins.get(MAX_LOGINS) {
            return Err(vec![format!(
                "{}: {} logins for pulling are configured, more than {MAX_LOGINS}; use one entry of targets for all projects of a \
                 registry",
                excess.origin,
                logins.len()
            )]);
        }
        let mut conflicts = Vec::new();
        for (index, login) in logins.iter().enumerate() {
            let key = login.key();
            let mut earlier = logins.iter().take(index);
            if let Some(other) = earlier.find(|other| other.key() == key) {
                let reason = if is_docker_hub(&login.registry) {
                    "on Docker Hub, kubelets use one login for all repositories"
                } else {
                    "kubelets use one login for a location"
                };
                conflicts.push(format!(
                    "{}: {} has another login for {key}; {reason}, so use another registry for one of them",
                    login.origin, other.origin
                ));
            }
        }
        if conflicts.is_empty() {
            Ok(Self(logins))
        } else {
            Err(conflicts)
        }
    }

    /// Adds those of the logins `before` that the configuration no longer has, as far as there is room.
    pub fn add_former(&mut self, before: &Self) {
        for login in &before.0 {
            let key = login.key();
            if self.0.len() < MAX_LOGINS && self.0.iter().all(|current| current.key() != key) {
                self.0.push(login.clone().into_former());
            }
        }
    }

    /// At most one login.
    #[must_use]
    pub fn one(login: Option<PullLogin>) -> Self {
        Self(login.into_iter().collect())
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn iter(&self) -> impl Iterator<Item = &PullLogin> {
        self.0.iter()
    }
}

impl IntoIterator for PullLogins {
    type Item = PullLogin;
    type IntoIter = std::vec::IntoIter<PullLogin>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

#[cfg(test)]
pub mod tests {
    use mirror_contract::BackupName;
    use rstest::rstest;

    use super::*;

    /// Backups with these names, registries and paths; targets are named `target`.
    pub fn pull_logins(logins: &[(&'static str, &str, &str)]) -> Vec<PullLogin> {
        let logins = logins.iter().map(|(name, registry, path)| {
            let owner = match *name {
                "target" => {
                    let location = format!("{registry}/{path}");
                    LoginOwner::Target(RewriteTarget::parse(&location).unwrap().into_owned())
                }
                name => LoginOwner::Backup(BackupName::parse(name).unwrap()),
            };
            PullLogin {
                origin: format!("the {owner}"),
                owner,
                registry: (*registry).to_owned(),
                path: (*path).to_owned(),
                former_paths: Vec::new(),
                credentials: Credentials::anonymous(),
            }
        });
        logins.collect()
    }

    #[rstest]
    #[case::docker_hub(&[("default", "docker.io", "acme"), ("team-a", "docker.io", "team")], "one login for all repositories")]
    #[case::a_target_on_docker_hub(&[("team-a", "docker.io", "team"), ("target", "docker.io", "hub")], "the target docker.io/hub: the backup team-a has another login for https://index.docker.io/v1/")]
    #[case::the_same_location(&[("team-a", "r.example", "x"), ("team-b", "r.example", "x")], "the backup team-b: the backup team-a has another login for r.example/x")]
    #[case::the_same_registry(&[("default", "r.example", "x"), ("team-b", "r.example", "")], "one login for a location")]
    fn logins_that_kubelets_cannot_tell_apart_are_refused(
        #[case] logins: &[(&'static str, &str, &str)],
        #[case] reason: &str,
    ) {
        let errors = PullLogins::new(pull_logins(logins)).unwrap_err();
        assert!(
            matches!(&errors[..], [error] if error.contains(reason)),
            "{errors:?}"
        );
    }

    #[test]
    fn the_number_of_logins_is_bounded() {
        let paths: Vec<_> = (0..=MAX_LOGINS).map(|index| format!("p{index}")).collect();
        let logins: Vec<_> = paths
            .iter()
            .map(|path| ("target", "r.example", path.as_str()))
            .collect();
        assert!(PullLogins::new(pull_logins(&logins)).is_err());
        assert!(PullLogins::new(pull_logins(&logins[1..])).is_ok());
    }
}
