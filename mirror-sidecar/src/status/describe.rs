//! One row in the words of the model.

use std::sync::Arc;

use mirror_contract::ImageRef;

use super::explain::rule;
use super::model::{ImageStatus, Progress, State, Upstream, User, Users};
use super::query::Place;
use super::rows::{Facts, Row, upstream_of};
use super::sources::{ClusterSources, Sources};
use crate::cluster::copy_status::{self, Record};
use crate::cluster::index::{CopyState, Exclusion, Image, Usage};
use crate::cluster::workload::Key;
use crate::copy_queue::Status;
use crate::lookup::Lookup;

/// Users of an image that are listed.
pub const MAX_USERS: usize = 10;

/// The same for the status of a single image.
pub const MAX_USERS_OF_ONE: usize = 100;

impl Sources {
    /// Returns the status of a row, with at most `max_users` users, those of a namespace if one is given.
    #[must_use]
    pub fn describe(
        &self,
        cluster: &ClusterSources,
        row: &Row,
        namespace: Option<&str>,
        max_users: usize,
    ) -> ImageStatus {
        let image = &row.key.image;
        let usage = match &row.facts {
            Facts::Copy(record) => {
                usage_of_copy(cluster, row, &record.details.copies, namespace, max_users)
            }
            Facts::Rewritten { .. } => cluster
                .indexes
                .of_default()
                .read(|index| index.usage(image, &[], namespace, max_users)),
            Facts::Excluded { total, users, .. } => Usage {
                total: *total,
                first: users.clone(),
            },
        };
        let first = usage.first.first().cloned();
        let rule = first
            .as_ref()
            .and_then(|key| rule(&cluster.excluded, &key.namespace, image, &row.key.place));
        let mut status = ImageStatus {
            original: image.to_string(),
            rule,
            backup: None,
            target: None,
            state: row.state(),
            reason: String::new(),
            digest: None,
            bytes: None,
            platforms: Vec::new(),
            users: users(&usage),
            first_seen: None,
            last_check: None,
            last_copy: None,
            upstream: Upstream::Unknown,
            progress: None,
        };
        match &row.facts {
            Facts::Copy(record) => self.describe_copy(&mut status, row, record),
            Facts::Rewritten { target, state, .. } => {
                status.target = target.as_ref().map(ToString::to_string);
                rewritten(*state).clone_into(&mut status.reason);
            }
            Facts::Excluded { cause, .. } => {
                if *cause == Exclusion::InTarget {
                    status.target = Some(image.to_string());
                }
                status.reason = excluded(*cause, &status, first.as_ref());
            }
        }
        status
    }

    fn describe_copy(&self, status: &mut ImageStatus, row: &Row, record: &Record) {
        let Place::Backup(name) = &row.key.place else {
            return;
        };
        let image = &row.key.image;
        let details = &record.details;
        status.backup = Some(name.to_string());
        if let copy_status::State::Mirrored { digest } = &record.state {
            status.digest = Some(digest.to_string());
        }
        if let Some(contents) = &details.contents {
            status.bytes = Some(contents.bytes);
            let platforms = contents.platforms.iter();
            status.platforms = platforms.map(ToString::to_string).collect();
        }
        let time = |instant| self.clock.time(instant);
        status.first_seen = details.first_seen.map(time);
        status.last_check = details.last_check.map(time);
        status.last_copy = details.last_copy.map(time);
        status.upstream = upstream_of(record);
        let Some(lookup) = self.backups.get(name) else {
            return;
        };
        status.target = target(lookup, image).map(|copy| copy.to_string());
        let job = lookup.job(image);
        status.progress = lookup.progress(image).map(|progress| Progress {
            bytes_done: progress.done,
            bytes_total: progress.total,
            bytes_per_second: progress.rate,
        });
        status.reason = reason(status.state, record, job.as_ref(), lookup);
    }
}

fn target(lookup: &Lookup, image: &ImageRef<'static>) -> Option<ImageRef<'static>> {
    if lookup.locations().contains(image) {
        return Some(image.clone());
    }
    lookup.backup().target(image).ok()
}

fn usage_of_copy(
    cluster: &ClusterSources,
    row: &Row,
    copies: &Arc<[Image]>,
    namespace: Option<&str>,
    max_users: usize,
) -> Usage {
    let Place::Backup(name) = &row.key.place else {
        return Usage::default();
    };
    let index = cluster.indexes.by_backup().get(name);
    let usage = index
        .map(|index| index.read(|index| index.usage(&row.key.image, copies, namespace, max_users)));
    usage.unwrap_or_default()
}

fn users(usage: &Usage) -> Users {
    let user = |key: &Key| User {
        namespace: key.namespace.to_string(),
        kind: key.kind.name().to_owned(),
        name: key.name.to_string(),
    };
    Users {
        total: usage.total,
        items: usage.first.iter().map(user).collect(),
    }
}

/// Returns one sentence about the copy.
fn reason(state: State, record: &Record, job: Option<&Status>, lookup: &Lookup) -> String {
    let is_updated = matches!(job, Some(Status::Pending(_)));
    let text = match (&record.state, job) {
        (copy_status::State::Mirrored { .. }, _) => mirrored(record, is_updated),
        (_, Some(Status::Pending(progress))) if state == State::Copying => {
            return match progress.as_str() {
                "queued" => "the copy waits for its turn in the queue".to_owned(),
                progress => progress.to_owned(),
            };
        }
        (copy_status::State::Copying, _) => "the copy is being made",
        (copy_status::State::Unknown, _) => {
            let trouble = lookup.health().subscribe().borrow().clone();
            return match trouble {
                Some(trouble) => format!("the copy was not checked yet: {}", trouble.kind),
                None => "the copy was not checked yet".to_owned(),
            };
        }
        (copy_status::State::Failed { reason } | copy_status::State::Never { reason }, _)
            if record.is_lost() =>
        {
            return format!(
                "neither the original nor the copy is there any more ({reason}); restore the copy or change the image"
            );
        }
        (copy_status::State::Failed { reason } | copy_status::State::Never { reason }, _) => {
            return reason.to_string();
        }
        (copy_status::State::Missing, _) => {
            record.details.why_missing.unwrap_or("there is no copy yet")
        }
    };
    text.to_owned()
}

fn mirrored(record: &Record, is_updated: bool) -> &'static str {
    if record.is_last_copy {
        "the backup has the last copy: the original is gone"
    } else if is_updated {
        "the backup has a complete copy, which is being updated"
    } else if record.is_kept {
        "the backup has a complete copy; the tag of the original moved since, and the copy stays as it is"
    } else if record.appeared_late {
        "the backup has a complete copy; the original did not exist when a workload first named it, so running workloads are \
         not moved to the copy"
    } else {
        "the backup has a complete copy"
    }
}

fn rewritten(state: Option<CopyState>) -> &'static str {
    match state {
        Some(CopyState::Mirrored | CopyState::Withheld) => {
            "the target of the rewrite has the image, and workloads use it from their next admission"
        }
        Some(CopyState::Missing) => {
            "the target of the rewrite does not have the image yet, so workloads use the original"
        }
        Some(CopyState::Never) => {
            "the target of the rewrite does not provide the image, so workloads use the original"
        }
        None => "the target of the rewrite was not checked yet",
    }
}

fn excluded(cause: Exclusion, status: &ImageStatus, user: Option<&Key>) -> String {
    let by = status.rule.as_ref().map(super::model::Rule::describe);
    match cause {
        Exclusion::Namespace => {
            let namespace = user.map_or("", |key| &key.namespace);
            match by {
                Some(by) => format!("the namespace {namespace} is excluded by {by}"),
                None => format!("the namespace {namespace} is excluded"),
            }
        }
        Exclusion::OptOut => {
            "the workload has opted out with image-mirror.dev/skip, or is a static Pod".to_owned()
        }
        Exclusion::OtherInstallation => {
            "another installation of image-mirror copies the images of the workload".to_owned()
        }
        Exclusion::Object => "no policy is for the workload".to_owned(),
        Exclusion::InTarget => "the image is in the target of a rewrite".to_owned(),
        Exclusion::Rule => match by {
            Some(by) => format!("{by} keeps the original"),
            None => "a rule keeps the original".to_owned(),
        },
    }
}
