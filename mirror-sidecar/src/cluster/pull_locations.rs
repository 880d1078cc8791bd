//! The locations of images that are pulled with a login: backups, and targets of rewrites.

use std::fmt;
use std::sync::Arc;

use mirror_contract::{BackupName, ImageRef, RewriteTarget};

use super::login_access::{LoginSet, MAX_LOGINS};

/// The backup or the target that a login is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LoginOwner {
    Backup(BackupName<'static>),
    /// The login is for all images in this location. A rule may have a target inside it.
    Target(RewriteTarget<'static>),
    /// A backup or a target that the configuration had before. No rule can choose it.
    Former(Box<LoginOwner>),
}

/// The locations of all logins. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct PullLocations(Arc<[PullLocation]>);

#[derive(Debug)]
struct PullLocation {
    owner: LoginOwner,
    /// The current location of images, and former ones in the same registry.
    locations: Vec<RewriteTarget<'static>>,
}

impl LoginOwner {
    #[must_use]
    pub fn is_default(&self) -> bool {
        matches!(self, Self::Backup(name) if name.is_default())
    }

    #[must_use]
    pub fn is_former(&self) -> bool {
        matches!(self, Self::Former(_))
    }
}

impl fmt::Display for LoginOwner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Backup(name) => write!(f, "backup {name}"),
            Self::Target(location) => write!(f, "target {location}"),
            Self::Former(owner) => write!(f, "former {owner}"),
        }
    }
}

impl PullLocations {
    /// Creates the locations of logins in this order, each with the locations of its images.
    #[must_use]
    pub fn new(
        logins: impl IntoIterator<Item = (LoginOwner, Vec<RewriteTarget<'static>>)>,
    ) -> Self {
        let logins = logins.into_iter();
        let locations = logins.map(|(owner, locations)| PullLocation { owner, locations });
        Self(locations.take(MAX_LOGINS).collect())
    }

    /// Returns whether there are logins besides that of the default backup.
    #[must_use]
    pub fn has_several_owners(&self) -> bool {
        self.0.iter().any(|login| !login.owner.is_default())
    }

    /// Returns whether there are no logins.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the login for images that workloads pull from `place`, if there is one.
    #[must_use]
    pub fn of_destination(&self, place: &LoginOwner) -> LoginSet {
        match place {
            LoginOwner::Backup(_) | LoginOwner::Former(_) => {
                self.find(|login| login.owner == *place)
            }
            LoginOwner::Target(target) => {
                // Any image in the target.
                let any = ImageRef::parse("any.example/any:any").ok();
                let image = any.and_then(|any| target.rewrite(&any).ok());
                image.map_or(LoginSet::NONE, |image| self.of_target_image(&image))
            }
        }
    }

    /// Returns the login for an image in the target of a rewrite.
    #[must_use]
    pub fn of_target_image(&self, image: &ImageRef<'_>) -> LoginSet {
        self.most_specific(image, |login| matches!(login.owner, LoginOwner::Target(_)))
    }

    /// Returns the login of the backup or the target that an image is in.
    #[must_use]
    pub fn of_image(&self, image: &ImageRef<'_>) -> LoginSet {
        self.most_specific(image, |_| true)
    }

    fn most_specific(
        &self,
        image: &ImageRef<'_>,
        is_eligible: impl Fn(&PullLocation) -> bool,
    ) -> LoginSet {
        let logins = self.0.iter().enumerate();
        let logins = logins.filter(|(_, login)| is_eligible(login));
        let holders = logins.filter_map(|(index, login)| {
            let holders = login.locations.iter();
            let holders = holders.filter(|location| location.contains(image));
            let length = holders.map(|location| location.to_string().len()).max()?;
            Some((length, index))
        });
        let holder = holders.max_by_key(|(length, _)| *length);
        holder.map_or(LoginSet::NONE, |(_, index)| LoginSet::one(index))
    }

    fn find(&self, is_it: impl Fn(&PullLocation) -> bool) -> LoginSet {
        let index = self.0.iter().position(is_it);
        index.map_or(LoginSet::NONE, LoginSet::one)
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn target(location: &'static str) -> RewriteTarget<'static> {
        RewriteTarget::parse(location).unwrap()
    }

    fn backup(name: &'static str) -> LoginOwner {
        LoginOwner::Backup(BackupName::parse(name).unwrap())
    }

    /// 0: default, with a former location; 1: a backup beside it; 2: a target around that backup's path; 3: a whole registry.
    fn locations() -> PullLocations {
        PullLocations::new([
            (
                backup("default"),
                vec![target("r.example/acme"), target("r.example/old")],
            ),
            (backup("team-a"), vec![target("r.example/team/a")]),
            (
                LoginOwner::Target(target("r.example/team")),
                vec![target("r.example/team")],
            ),
            (
                LoginOwner::Target(target("hub.example")),
                vec![target("hub.example")],
            ),
        ])
    }

    #[rstest]
    #[case("r.example/acme/nginx:1", &[0])]
    #[case("r.example/old/nginx:1", &[0])]
    #[case("r.example/other/nginx:1", &[])]
    #[case("r.example/acme-2/nginx:1", &[])]
    #[case("r.example/team/a/nginx:1", &[1])]
    #[case("r.example/team/ab/nginx:1", &[2])]
    #[case("r.example:443/team/b/nginx:1", &[2])]
    #[case("hub.example/nginx:1", &[3])]
    #[case("nginx:1", &[])]
    fn an_image_belongs_to_the_narrowest_location(#[case] image: &str, #[case] expected: &[usize]) {
        let image = ImageRef::parse(image).unwrap();
        let found: Vec<_> = locations().of_image(&image).iter().collect();
        assert_eq!(found, expected);
    }

    #[rstest]
    #[case(backup("default"), &[0])]
    #[case(backup("team-a"), &[1])]
    #[case(backup("team-b"), &[])]
    #[case(LoginOwner::Target(target("r.example/team")), &[2])]
    #[case(LoginOwner::Target(target("r.example/team/a/b")), &[2])]
    #[case(LoginOwner::Target(target("hub.example/quay")), &[3])]
    #[case(LoginOwner::Target(target("r.example")), &[])]
    #[case(LoginOwner::Target(target("r.example/acme")), &[])]
    fn the_login_of_a_target_is_for_targets_inside(
        #[case] place: LoginOwner,
        #[case] expected: &[usize],
    ) {
        let found: Vec<_> = locations().of_destination(&place).iter().collect();
        assert_eq!(found, expected);
    }
}
