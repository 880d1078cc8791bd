//! Puts the parts of all replicas together.

use std::collections::BTreeMap;

use mirror_contract::{BackupName, ImageRef};

use super::model::{ImageList, ImageStatus, Overview};
use super::pages::Page;
use super::query::{Place, RowKey};
use crate::cluster::index::Image;

/// Returns the first `limit` images of all parts, and whether there are more. Other replicas know more about the images that
/// they return. Each part has its first `limit` images, or all.
pub(super) fn images(own: Page, others: Vec<ImageList>, limit: usize) -> Page {
    let mut has_more = own.has_more;
    let mut all: BTreeMap<RowKey, ImageStatus> = own.items.into_iter().collect();
    for list in others {
        has_more |= list.next.is_some();
        for mut status in list.items {
            let Some(key) = key_of(&status) else { continue };
            if let Some(own) = all.remove(&key) {
                status.progress = status.progress.or(own.progress);
                status.first_seen = status.first_seen.into_iter().chain(own.first_seen).min();
            }
            all.insert(key, status);
        }
    }
    has_more |= all.len() > limit;
    Page {
        items: all.into_iter().take(limit).collect(),
        has_more,
    }
}

/// Returns the position of an image of another replica, which returns none that is excluded.
fn key_of(status: &ImageStatus) -> Option<RowKey> {
    let image = ImageRef::parse(&status.original).ok()?;
    let place = match &status.backup {
        Some(name) => Place::Backup(BackupName::parse(name)?.into_owned()),
        None => Place::Rewritten,
    };
    Some(RowKey {
        image: Image::new(image.into_owned()),
        place,
    })
}

/// Adds the parts of other replicas to the own one.
pub(super) fn overview(mut own: Overview, others: &[Overview]) -> Overview {
    for part in others {
        own.images = own.images.plus(part.images);
        own.queue = own.queue.plus(part.queue);
        for backup in &part.backups {
            let mut known = own.backups.iter_mut();
            if let Some(known) = known.find(|known| known.name == backup.name) {
                known.images = known.images.plus(backup.images);
            }
        }
    }
    own
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::model::{API_VERSION, State, Upstream, Users};

    fn status(image: &str, reason: &str) -> ImageStatus {
        ImageStatus {
            original: image.to_owned(),
            rule: None,
            backup: Some("default".to_owned()),
            target: None,
            state: State::Failed,
            reason: reason.to_owned(),
            digest: None,
            bytes: None,
            platforms: Vec::new(),
            users: Users::default(),
            first_seen: None,
            last_check: None,
            last_copy: None,
            upstream: Upstream::Unknown,
            progress: None,
        }
    }

    fn own(images: &[&str], has_more: bool) -> Page {
        let item = |image: &&str| {
            let status = status(image, "own");
            (key_of(&status).unwrap(), status)
        };
        Page {
            items: images.iter().map(item).collect(),
            has_more,
        }
    }

    fn other(images: &[&str], next: Option<&str>) -> ImageList {
        ImageList {
            api_version: API_VERSION.to_owned(),
            items: images.iter().map(|image| status(image, "other")).collect(),
            next: next.map(str::to_owned),
            replicas: Vec::new(),
        }
    }

    fn names(page: &Page) -> Vec<String> {
        let items = page.items.iter();
        items
            .map(|(_, status)| format!("{} {}", status.original, status.reason))
            .collect()
    }

    #[test]
    fn other_replicas_know_more_about_their_images() {
        let page = images(
            own(&["a.b/c:1", "a.b/e:1"], false),
            vec![other(&["a.b/d:1", "a.b/e:1"], None)],
            10,
        );
        assert_eq!(
            names(&page),
            ["a.b/c:1 own", "a.b/d:1 other", "a.b/e:1 other"]
        );
        assert!(!page.has_more);
    }

    #[test]
    fn a_page_ends_where_any_part_may_lack_images() {
        let parts = vec![other(&["a.b/a:1", "a.b/b:1"], Some("next"))];
        let page = images(own(&["a.b/c:1"], false), parts, 2);
        assert_eq!(names(&page), ["a.b/a:1 other", "a.b/b:1 other"]);
        assert!(page.has_more);
        let page = images(own(&["a.b/c:1", "a.b/d:1"], false), Vec::new(), 2);
        assert!(!page.has_more);
    }
}
