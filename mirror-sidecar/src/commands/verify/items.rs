//! The images to verify: named ones, those of a cluster, or everything in the backup.

use std::collections::{BTreeMap, HashSet};

use mirror_contract::naming::anchored_digest;
use mirror_contract::{Backup, Digest, ImageRef};
use mirror_copy::DigestTag;

use crate::args::UsageError;
use crate::commands::list::{Entry, List};
use crate::locations::Locations;

/// An image to verify.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Item {
    /// `None` if the name of the copy cannot be decoded: it is shortened, or the image is no copy.
    pub(super) original: Option<ImageRef<'static>>,
    pub(super) copy: ImageRef<'static>,
    /// Copies have an anchor tag; other images in the backup need none.
    pub(super) is_copy: bool,
}

/// The images of one repository of the backup.
#[derive(Debug, Default)]
pub(super) struct Group {
    pub(super) items: Vec<Item>,
    /// Copies by digest, which are verified only if no tag stands for them.
    pub(super) anchored: Vec<Item>,
}

/// The reason why an image is not verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Skipped {
    pub(super) object: String,
    pub(super) reason: String,
}

impl Item {
    /// Returns the item of an original, or of an image in the backup. The error is the reason why there is none.
    pub(super) fn of(image: &ImageRef<'static>, locations: &Locations) -> Result<Self, String> {
        let backup = locations.backup();
        if let Some(other) = locations.other_backups().holder(image) {
            return Err(format!(
                "it is in the backup {other}; verify it with --backup-name {other}"
            ));
        }
        if backup.contains(image) {
            return Ok(Self::in_backup(image, backup, true));
        }
        if locations.contains(image) {
            return Err("it is in a former location of the backup; name the original".into());
        }
        let copy = backup.target(image).map_err(|error| error.to_string())?;
        Ok(Self {
            original: Some(image.clone()),
            copy,
            is_copy: true,
        })
    }

    /// Returns the item of an image in the backup. An anchor tag becomes the digest that it stands for.
    fn in_backup(image: &ImageRef<'static>, backup: &Backup, is_copy: bool) -> Self {
        let original = backup.original(image);
        let copy = original
            .as_ref()
            .and_then(|original| backup.target(original).ok());
        Self {
            is_copy: is_copy || original.is_some(),
            original,
            copy: copy.unwrap_or_else(|| image.clone()),
        }
    }

    /// The name in reports: that of the original, if it is known.
    pub(super) fn name(&self) -> String {
        self.original.as_ref().unwrap_or(&self.copy).to_string()
    }

    /// The tag of the copy; `None` if it is found by its digest.
    pub(super) fn tag(&self) -> Option<&str> {
        match self.copy.digest() {
            Some(_) => None,
            None => self.copy.tag(),
        }
    }

    pub(super) fn digest(&self) -> Option<&Digest<'static>> {
        self.copy.digest()
    }
}

/// Returns the items of a list. All errors are reported together.
pub(super) fn named(
    images: List<ImageRef<'static>>,
    locations: &Locations,
) -> Result<Vec<Item>, UsageError> {
    let mut mistakes = images.mistakes;
    let mut items = Vec::with_capacity(images.entries.len());
    for Entry { origin, value } in images.entries {
        match Item::of(&value, locations) {
            Ok(item) => items.push(item),
            Err(reason) => mistakes.add(origin, &format!("image {value}: {reason}")),
        }
    }
    mistakes.check()?;
    Ok(items)
}

/// Returns the items of images in use, and those that can have no copy.
pub(super) fn in_use(
    images: &[ImageRef<'static>],
    locations: &Locations,
) -> (Vec<Item>, Vec<Skipped>) {
    let (mut items, mut skipped) = (Vec::new(), Vec::new());
    for image in images {
        match Item::of(image, locations) {
            Ok(item) => items.push(item),
            Err(reason) => skipped.push(Skipped {
                object: image.to_string(),
                reason,
            }),
        }
    }
    (items, skipped)
}

/// Groups items by the repository of the copy.
pub(super) fn grouped(items: Vec<Item>) -> BTreeMap<String, Group> {
    let mut groups: BTreeMap<String, Group> = BTreeMap::new();
    for item in items {
        let group = groups.entry(item.copy.path().to_owned()).or_default();
        group.items.push(item);
    }
    groups
}

/// Returns the items of all tags of a repository. Tags that belong to an image, such as signatures, are verified with it.
pub(super) fn of_repository(backup: &Backup, repository: &str, tags: &[String]) -> Group {
    let has_anchors = tags.iter().any(|tag| anchored_digest(tag).is_some());
    let mut group = Group::default();
    let mut seen = HashSet::new();
    for tag in tags {
        let reference = format!("{}/{repository}:{tag}", backup.registry());
        // A tag that is not valid in a reference cannot be pulled either.
        let Ok(image) = reference.parse::<ImageRef<'static>>() else {
            continue;
        };
        if let Some(digest) = anchored_digest(tag) {
            let item = Item::in_backup(&image, backup, true);
            let by_digest = format!("{}/{repository}@{digest}", backup.registry());
            let copy = by_digest.parse().unwrap_or(item.copy);
            group.anchored.push(Item { copy, ..item });
        } else if Digest::parse_tag_form(DigestTag::strip_suffix(tag)).is_none()
            && seen.insert(tag.as_str())
        {
            group
                .items
                .push(Item::in_backup(&image, backup, has_anchors));
        }
    }
    group
}

#[cfg(test)]
mod tests {
    use mirror_contract::Naming;
    use mirror_copy::{Registries, RegistryOptions};

    use super::*;

    fn backup() -> Backup {
        Backup::new("registry.example", "acme", Naming::Flat).unwrap()
    }

    fn item(text: &str) -> Result<(String, String), String> {
        let registries = Registries::new(RegistryOptions::default()).unwrap();
        let locations = Locations::new(backup(), &registries, registries.clone()).unwrap();
        let item = Item::of(&text.parse().unwrap(), &locations)?;
        Ok((item.name(), item.copy.to_string()))
    }

    const NGINX: &str = "registry.example/acme/docker.io-library-nginx";

    #[test]
    fn originals_and_copies_name_the_same_image() {
        let both = ["nginx:1", &format!("{NGINX}:1")].map(|text| item(text).unwrap());
        assert_eq!(both[0], both[1]);
        let expected = ("docker.io/library/nginx:1".to_owned(), format!("{NGINX}:1"));
        assert_eq!(both[0], expected);
        let hex = "ab".repeat(32);
        let anchor = item(&format!("{NGINX}:sha256-{hex}.mirror")).unwrap();
        assert_eq!(anchor.0, format!("docker.io/library/nginx@sha256:{hex}"));
        assert!(item("registry.example/acme/docker.io/library/nginx:1").is_ok());
    }

    /// Anchors count for digests that no tag stands for; signatures belong to their image.
    #[test]
    fn tags_of_a_repository_become_items() {
        let hex = "ab".repeat(32);
        let tags = [
            "1",
            &format!("sha256-{hex}.mirror"),
            &format!("sha256-{hex}.sig"),
        ];
        let tags = tags.map(str::to_owned);
        let group = of_repository(&backup(), "acme/docker.io-library-nginx", &tags);
        let names = |items: &[Item]| items.iter().map(Item::name).collect::<Vec<_>>();
        assert_eq!(names(&group.items), ["docker.io/library/nginx:1"]);
        let anchored = format!("docker.io/library/nginx@sha256:{hex}");
        assert_eq!(names(&group.anchored), [anchored]);
        // Not a copy, and nothing there is one.
        let other = of_repository(&backup(), "acme/tool", &["v1".to_owned()]);
        assert!(!other.items[0].is_copy && other.items[0].original.is_none());
    }
}
