//! The status of the running process: pages of images, single images, and the overview.

use mirror_contract::ImageRef;

use super::describe::{MAX_USERS, MAX_USERS_OF_ONE};
use super::model::{API_VERSION, BackupStatus, ImageStatus, Overview, Queue, Totals};
use super::query::{ImageQuery, RowKey};
use super::rows::{Row, Share};
use super::sources::{ClusterSources, Sources};
use crate::cluster::index::Index;
use crate::lookup::Lookup;

/// A page of images, with whether there are more.
#[derive(Clone, Debug)]
pub struct Page {
    pub items: Vec<(RowKey, ImageStatus)>,
    pub has_more: bool,
}

impl Sources {
    /// Returns the images of a share that pass the filters, one page of them.
    #[must_use]
    pub fn images(&self, query: &ImageQuery, share: Share<'_>) -> Page {
        let Some(cluster) = &self.cluster else {
            return Page {
                items: Vec::new(),
                has_more: false,
            };
        };
        let most = query.limit.saturating_add(1);
        let mut rows = if query.is_running {
            self.running(cluster, query, most)
        } else {
            cluster.rows(query, share, most, MAX_USERS)
        };
        let has_more = rows.len() > query.limit;
        rows.truncate(query.limit);
        let describe = |row| {
            let status = self.describe(cluster, &row, query.namespace.as_deref(), MAX_USERS);
            (row.key, status)
        };
        Page {
            items: rows.into_iter().map(describe).collect(),
            has_more,
        }
    }

    /// Returns the rows whose copies this process makes now. They are few, whichever replica maintains the images.
    fn running(&self, cluster: &ClusterSources, query: &ImageQuery, most: usize) -> Vec<Row> {
        let mut rows = Vec::new();
        for (name, lookup) in self.backups.iter() {
            if query.backup.as_ref().is_none_or(|wanted| wanted == name) {
                let images = lookup.running().into_iter();
                rows.extend(images.filter_map(|image| cluster.row_of_copy(name, &image, query)));
            }
        }
        rows.sort_by(|one, other| one.key.cmp(&other.key));
        rows.retain(|row| query.after.as_ref().is_none_or(|after| row.key > *after));
        rows.truncate(most);
        rows
    }

    /// Returns everything about an image, one item for each of its places. A copy stands for its original.
    #[must_use]
    pub fn image(&self, image: &ImageRef<'static>, share: Share<'_>) -> Page {
        let mut items = Vec::new();
        if let Some(cluster) = &self.cluster {
            let original = self.original(image.clone());
            for row in cluster.rows_of(&original, share, MAX_USERS_OF_ONE) {
                let status = self.describe(cluster, &row, None, MAX_USERS_OF_ONE);
                items.push((row.key, status));
            }
        }
        Page {
            items,
            has_more: false,
        }
    }

    /// Returns the status of the whole, with the images of a share.
    #[must_use]
    pub fn overview(&self, share: Share<'_>) -> Overview {
        let cluster = self.cluster.as_ref();
        let backups: Vec<_> = self
            .backups
            .iter()
            .map(|(name, lookup)| {
                let statuses = cluster.and_then(|cluster| cluster.copy_status.get(name));
                let images = cluster
                    .zip(statuses)
                    .map(|(cluster, statuses)| cluster.totals_of_backup(statuses, share));
                backup(lookup, images.unwrap_or_default())
            })
            .collect();
        let beside = cluster.map(|cluster| cluster.totals_beside_backups(share));
        let of_backups = backups.iter().map(|backup| backup.images);
        let queues = self.backups.values().map(|lookup| {
            let counts = lookup.job_counts();
            Queue {
                waiting: counts.waiting,
                running: counts.running,
                backing_off: counts.backing_off,
            }
        });
        Overview {
            api_version: API_VERSION.to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            is_complete: self.is_complete(),
            images: of_backups.fold(beside.unwrap_or_default(), Totals::plus),
            excluded_not_listed: cluster.map_or(0, |cluster| {
                let index = cluster.indexes.of_default();
                index.read(Index::excluded_left_out)
            }),
            queue: queues.fold(Queue::default(), Queue::plus),
            replicas: Vec::new(),
            backups,
        }
    }

    /// Returns whether all workloads of the cluster are known.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.cluster.as_ref().is_some_and(|cluster| {
            let mut indexes = cluster.indexes.by_backup().values();
            indexes.all(|index| index.read(Index::is_complete))
        })
    }

    /// Returns the original of an image if it is a copy whose name contains it, and the image itself otherwise.
    #[must_use]
    pub fn original(&self, image: ImageRef<'static>) -> ImageRef<'static> {
        let mut backups = self.backups.values();
        let original = backups.find_map(|lookup| lookup.backup().original(&image));
        let original = original.map_or(image, ImageRef::into_owned);
        original.without_redundant_tag()
    }
}

fn backup(lookup: &Lookup, images: Totals) -> BackupStatus {
    let health = lookup.health();
    let trouble = health.subscribe().borrow().clone();
    BackupStatus {
        name: lookup.name().to_string(),
        location: lookup.backup().location(),
        is_healthy: trouble.is_none(),
        reason: trouble.map(|trouble| {
            let next_step = health.next_step(trouble.kind);
            format!("{}: {}; {next_step}", trouble.kind, trouble.reason)
        }),
        images,
    }
}
