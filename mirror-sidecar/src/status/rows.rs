//! The images in use, as this replica knows them, in the order of pages.
//!
//! A page costs time for its own rows. Only filters that few images pass cost more: images are scanned in short steps then, so
//! that no other task waits for long.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;

use mirror_contract::{BackupName, ImageRef};

use super::model::{State, Totals, Upstream};
use super::query::{ImageQuery, Place, RowKey};
use super::sources::ClusterSources;
use crate::cluster::copy_status::{self, CopyStatuses, Counts, Maintainer, Record};
use crate::cluster::index::{CopyState, Exclusion, Image};
use crate::cluster::workload::Key;

/// Images that are scanned while other tasks wait.
const STEP: usize = 500;

/// One image in one place.
#[derive(Clone, Debug)]
pub struct Row {
    pub key: RowKey,
    pub facts: Facts,
}

/// What this replica knows about it.
#[derive(Clone, Debug)]
pub enum Facts {
    Copy(Box<Record>),
    /// Workloads use the original, and a rule rewrites it.
    Rewritten {
        user: Key,
        /// The image in the target, if its name is valid.
        target: Option<Box<ImageRef<'static>>>,
        /// `None` if another replica checks the target.
        state: Option<CopyState>,
    },
    Excluded {
        cause: Exclusion,
        total: usize,
        /// The first users.
        users: Vec<Key>,
    },
}

/// The images of a response, by the replicas that know all about them.
#[derive(Clone, Copy, Debug)]
pub enum Share<'s> {
    All,
    /// Those of this replica.
    Own,
    /// All but those of these replicas.
    Without(&'s BTreeSet<String>),
}

impl Row {
    #[must_use]
    pub fn state(&self) -> State {
        match &self.facts {
            Facts::Copy(record) => state(record),
            Facts::Rewritten { state, .. } => match state {
                Some(CopyState::Mirrored | CopyState::Withheld) => State::Rewritten,
                Some(CopyState::Missing) | None => State::Missing,
                Some(CopyState::Never) => State::Failed,
            },
            Facts::Excluded { cause, .. } => match cause {
                Exclusion::InTarget => State::Rewritten,
                _ => State::Excluded,
            },
        }
    }
}

pub(super) fn upstream_of(record: &Record) -> Upstream {
    match record.details.upstream {
        copy_status::Upstream::Unknown => Upstream::Unknown,
        copy_status::Upstream::Current => Upstream::Current,
        copy_status::Upstream::Moved => Upstream::Moved,
        copy_status::Upstream::Gone => Upstream::Gone,
    }
}

pub(super) fn state(record: &Record) -> State {
    match record.state {
        copy_status::State::Unknown | copy_status::State::Missing => State::Missing,
        copy_status::State::Copying => State::Copying,
        copy_status::State::Mirrored { .. } => State::Mirrored,
        copy_status::State::Failed { .. } | copy_status::State::Never { .. } => State::Failed,
    }
}

impl ClusterSources {
    /// Returns the first rows that pass the filters, at most `most`, in their order. `max_users` bounds the users of each that are
    /// listed with it.
    #[must_use]
    pub fn rows(
        &self,
        query: &ImageQuery,
        share: Share<'_>,
        most: usize,
        max_users: usize,
    ) -> Vec<Row> {
        let mut rows = Vec::new();
        for (name, statuses) in self.copy_status.iter() {
            if query.backup.as_ref().is_none_or(|wanted| wanted == name) {
                rows.extend(self.copies(name, statuses, query, share, most));
            }
        }
        if query.backup.is_none() && query.upstream.is_none() {
            rows.extend(self.rewritten(query, share, most));
            // All replicas know the same about them.
            if !matches!(share, Share::Own) {
                rows.extend(self.excluded(query, most, max_users));
            }
        }
        rows.sort_by(|one, other| one.key.cmp(&other.key));
        rows.truncate(most);
        rows
    }

    /// Returns the rows of one image, by its own name or by that of a copy that workloads use.
    #[must_use]
    pub fn rows_of(
        &self,
        image: &ImageRef<'static>,
        share: Share<'_>,
        max_users: usize,
    ) -> Vec<Row> {
        let mut found = Vec::new();
        for (name, statuses) in self.copy_status.iter() {
            let mut known = statuses.record(image).map(|record| (image.clone(), record));
            if known.is_none() {
                statuses.visit(Bound::Unbounded, |original, record| {
                    let mut copies = record.details.copies.iter();
                    if copies.any(|copy| **copy == *image) {
                        known = Some((ImageRef::clone(original), record.clone()));
                    }
                    known.is_none()
                });
            }
            if let Some((image, record)) = known {
                let image = Image::new(image);
                if self.is_in_share(&image, &record, share) {
                    found.push(Row {
                        key: RowKey {
                            image,
                            place: Place::Backup(name.clone()),
                        },
                        facts: Facts::Copy(Box::new(record)),
                    });
                }
            }
        }
        let of_text = ImageQuery {
            text: Some(image.to_string()),
            ..ImageQuery::default()
        };
        let mut beside = self.rewritten(&of_text, share, usize::MAX);
        if !matches!(share, Share::Own) {
            beside.extend(self.excluded(&of_text, usize::MAX, max_users));
        }
        beside.retain(|row| *row.key.image == *image);
        found.extend(beside);
        found
    }

    fn copies(
        &self,
        name: &BackupName<'static>,
        statuses: &CopyStatuses,
        query: &ImageQuery,
        share: Share<'_>,
        most: usize,
    ) -> Vec<Row> {
        let place = Place::Backup(name.clone());
        let mut rows = Vec::new();
        let mut start = first(query, &place);
        loop {
            let mut found = Vec::new();
            let (mut scanned, mut last) = (0, None);
            statuses.visit(start.as_ref().map(|image| &**image), |image, record| {
                scanned += 1;
                if query.has_record(image, record) {
                    found.push((Arc::clone(image), record.clone()));
                }
                last = Some(Arc::clone(image));
                scanned < STEP && found.len() < most
            });
            let found = found.into_iter();
            let found = found.filter(|(image, record)| {
                self.is_in_share(image, record, share)
                    && self.is_used_in(name, image, record, query)
            });
            rows.extend(found.map(|(image, record)| Row {
                key: RowKey {
                    image,
                    place: place.clone(),
                },
                facts: Facts::Copy(Box::new(record)),
            }));
            match last {
                Some(image) if rows.len() < most => start = Bound::Excluded(image),
                _ => return rows,
            }
        }
    }

    /// Returns the row of an image in a backup if it passes the filters.
    pub(super) fn row_of_copy(
        &self,
        name: &BackupName<'static>,
        image: &Image,
        query: &ImageQuery,
    ) -> Option<Row> {
        let record = self.copy_status.get(name)?.record(image)?;
        let is_wanted =
            query.has_record(image, &record) && self.is_used_in(name, image, &record, query);
        is_wanted.then(|| Row {
            key: RowKey {
                image: Arc::clone(image),
                place: Place::Backup(name.clone()),
            },
            facts: Facts::Copy(Box::new(record)),
        })
    }

    fn is_in_share(&self, image: &Image, record: &Record, share: Share<'_>) -> bool {
        match share {
            Share::All => true,
            Share::Own => record.is_own(),
            Share::Without(others) => {
                record.details.maintainer != Maintainer::Other
                    || !self.is_owned_by(&format!("image/{image}"), others)
            }
        }
    }

    fn is_owned_by(&self, key: &str, others: &BTreeSet<String>) -> bool {
        let owner = self.replicas.owner(key);
        owner.is_some_and(|owner| others.contains(&owner))
    }

    fn is_used_in(
        &self,
        backup: &BackupName<'static>,
        image: &Image,
        record: &Record,
        query: &ImageQuery,
    ) -> bool {
        let Some(namespace) = &query.namespace else {
            return true;
        };
        let index = self.indexes.by_backup().get(backup);
        index.is_some_and(|index| {
            index.read(|index| {
                let copies = record.details.copies.iter();
                let mut names = std::iter::once(image).chain(copies);
                names.any(|name| index.is_used_in(namespace, name))
            })
        })
    }

    fn rewritten(&self, query: &ImageQuery, share: Share<'_>, most: usize) -> Vec<Row> {
        let start = first(query, &Place::Rewritten);
        let found: Vec<_> = self.indexes.of_default().read(|index| {
            let images = index.rewritten_from(start.as_ref().map(|image| &**image));
            images
                .filter(|(image, ..)| {
                    let is_here = |namespace: &String| index.is_used_in(namespace, image);
                    query.has_text(image) && query.namespace.as_ref().is_none_or(is_here)
                })
                .map(|(image, user, target)| {
                    let uid = user.uid.to_owned();
                    (Arc::clone(image), user.key.clone(), uid, target)
                })
                .collect()
        });
        let found = found.into_iter().filter(|(_, _, uid, _)| {
            let key = format!("workload/{uid}");
            match share {
                Share::All => true,
                Share::Own => self.replicas.owns(&key),
                Share::Without(others) => !self.is_owned_by(&key, others),
            }
        });
        let rows = found.map(|(image, user, _, target)| {
            let state = target.as_ref();
            let state = state.and_then(|target| self.copy_status.of_default().target_state(target));
            Row {
                key: RowKey {
                    image,
                    place: Place::Rewritten,
                },
                facts: Facts::Rewritten {
                    user,
                    target: target.map(Box::new),
                    state,
                },
            }
        });
        let rows = rows.filter(|row| query.has_state(row.state()));
        rows.take(most).collect()
    }

    fn excluded(&self, query: &ImageQuery, most: usize, max_users: usize) -> Vec<Row> {
        let start = first(query, &Place::Excluded);
        self.indexes.of_default().read(|index| {
            let images = index.excluded_from(start.as_ref().map(|image| &**image));
            let rows = images.filter_map(|(image, users)| {
                let cause = *users.values().min()?;
                let row = Row {
                    key: RowKey {
                        image: Arc::clone(image),
                        place: Place::Excluded,
                    },
                    facts: Facts::Excluded {
                        cause,
                        total: users.len(),
                        users: Vec::new(),
                    },
                };
                let is_wanted = query.has_text(image)
                    && query.has_state(row.state())
                    && query.namespace.as_ref().is_none_or(|namespace| {
                        users.keys().any(|key| *key.namespace == **namespace)
                    });
                is_wanted.then(|| row.with_users(users, query, max_users))
            });
            rows.take(most).collect()
        })
    }

    /// Returns the images that rules rewrite, with their states.
    pub(super) fn all_rewritten(&self) -> impl Iterator<Item = (Image, State)> {
        let rows = self.rewritten(&ImageQuery::default(), Share::All, usize::MAX);
        rows.into_iter().map(|row| {
            let state = row.state();
            (row.key.image, state)
        })
    }

    /// Returns the numbers of the images that are in no backup.
    pub(super) fn totals_beside_backups(&self, share: Share<'_>) -> Totals {
        let all = ImageQuery::default();
        let mut totals = Totals::default();
        for row in self.rewritten(&all, share, usize::MAX) {
            *totals.of_mut(row.state()) += 1;
        }
        if !matches!(share, Share::Own) {
            for row in self.excluded(&all, usize::MAX, 0) {
                *totals.of_mut(row.state()) += 1;
            }
        }
        totals
    }

    /// Returns the numbers of the images in a backup.
    pub(super) fn totals_of_backup(&self, statuses: &CopyStatuses, share: Share<'_>) -> Totals {
        if let Share::Own = share {
            return Totals::of(statuses.own_counts());
        }
        let mut counts = Counts::default();
        let mut start = Bound::Unbounded;
        loop {
            let mut found = Vec::new();
            statuses.visit(
                start.as_ref().map(|image: &Image| &**image),
                |image, record| {
                    found.push((Arc::clone(image), record.clone()));
                    found.len() < STEP
                },
            );
            let Some((last, _)) = found.last() else {
                return Totals::of(counts);
            };
            start = Bound::Excluded(Arc::clone(last));
            let found = found.iter();
            for (_, record) in
                found.filter(|(image, record)| self.is_in_share(image, record, share))
            {
                counts.add(record);
            }
        }
    }
}

/// The position at which the rows of a place begin.
fn first(query: &ImageQuery, place: &Place) -> Bound<Image> {
    match &query.after {
        None => Bound::Unbounded,
        Some(after) if *place > after.place => Bound::Included(Arc::clone(&after.image)),
        Some(after) => Bound::Excluded(Arc::clone(&after.image)),
    }
}

impl ImageQuery {
    fn has_state(&self, state: State) -> bool {
        self.states.is_empty() || self.states.contains(&state)
    }

    fn has_record(&self, image: &ImageRef<'_>, record: &Record) -> bool {
        let upstream = upstream_of(record);
        self.upstream.is_none_or(|wanted| wanted == upstream)
            && self.has_state(state(record))
            && self.has_text(image)
    }

    fn has_text(&self, image: &ImageRef<'_>) -> bool {
        let text = self.text.as_ref();
        text.is_none_or(|text| image.to_string().contains(text))
    }
}

impl Row {
    fn with_users(
        mut self,
        users: &BTreeMap<Arc<Key>, Exclusion>,
        query: &ImageQuery,
        max_users: usize,
    ) -> Self {
        if let Facts::Excluded { users: listed, .. } = &mut self.facts {
            let namespace = query.namespace.as_deref();
            let is_here =
                |key: &&Arc<Key>| namespace.is_none_or(|namespace| *key.namespace == *namespace);
            let users = users.keys().filter(is_here);
            *listed = users.take(max_users).map(|key| Key::clone(key)).collect();
        }
        self
    }
}

impl Totals {
    fn of(counts: Counts) -> Self {
        Self {
            missing: counts.unknown + counts.missing,
            copying: counts.copying,
            mirrored: counts.mirrored,
            failed: counts.failed + counts.never,
            last_copies: counts.last_copies.saturating_sub(counts.lost),
            ..Self::default()
        }
    }
}

#[cfg(test)]
mod tests;
