//! The plan as data. `--output json` and `--output yaml` are this structure; docs/plan.md describes it.

use std::collections::HashSet;
use std::fmt::Write as _;
use std::num::NonZeroU64;

use mirror_copy::{Presence, Preview};
use serde::Serialize;

use super::backups::{Backups, PARALLEL_COPIES};
use super::credentials::Credentials;
use super::survey::{Finding, Survey};
use super::usage::{Usage, UsedImage, Users, Verdict};
use crate::cluster::policies::decision::{KeepReason, Outcome};
use crate::manifests::ObjectName;
use crate::output::{count, human_bytes};

/// Changes when a field is removed or means something else.
const VERSION: u32 = 1;

const DOCKER_HUB: &str = "docker.io/";

/// Window of the pull limit of Docker Hub in seconds (Docker Hub, "Usage and limits").
const DOCKER_HUB_WINDOW: u64 = 6 * 60 * 60;

#[derive(Debug, Serialize)]
pub(super) struct Plan {
    pub(super) version: u32,
    pub(super) images: Vec<Image>,
    /// Images in fields that the policy does not rewrite.
    pub(super) fields: Vec<Field>,
    pub(super) totals: Totals,
    /// `None` if nothing would be copied, and with `--offline`.
    pub(super) estimate: Option<Estimate>,
    pub(super) warnings: Vec<String>,
    /// What could not be planned for.
    pub(super) problems: Vec<String>,
}

#[derive(Debug, Serialize)]
#[expect(clippy::struct_field_names, reason = "the name in the output")]
pub(super) struct Image {
    /// The canonical reference of the original.
    pub(super) image: String,
    pub(super) status: Status,
    /// Why it would not be protected.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) reason: Option<String>,
    /// The rules, selectors or workloads leave the image alone on purpose.
    pub(super) excluded: bool,
    pub(super) action: &'static str,
    pub(super) rule: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) backup: Option<String>,
    /// The copy, or the image in the target of a rewrite.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) target: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) digest: Option<String>,
    pub(super) platforms: Vec<String>,
    /// Bytes that the backup repository lacks.
    pub(super) bytes: u64,
    /// Manifests that are read from Docker Hub and count against its limit.
    pub(super) docker_hub_reads: u64,
    pub(super) credentials: UsedCredentials,
    pub(super) users: Vec<User>,
    pub(super) user_count: u64,
}

/// Names of logins; their values are never part of a plan.
#[derive(Debug, Default, Serialize)]
pub(super) struct UsedCredentials {
    #[serde(skip_serializing_if = "Option::is_none")]
    original: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    push: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pull: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Status {
    /// The backup has it.
    Present,
    WouldCopy,
    /// The tag of the copy moves to another image.
    WouldReplace,
    /// The target of the rewrite has it.
    InTarget,
    NotProtected,
    /// With `--offline`.
    Unknown,
}

#[derive(Debug, Serialize)]
pub(super) struct User {
    pub(super) kind: Box<str>,
    pub(super) namespace: Box<str>,
    pub(super) name: Box<str>,
}

#[derive(Debug, Serialize)]
#[expect(clippy::struct_field_names, reason = "the name in the output")]
pub(super) struct Field {
    pub(super) image: Box<str>,
    pub(super) field: Box<str>,
    pub(super) object: User,
}

#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Totals {
    pub(super) images: u64,
    pub(super) present: u64,
    pub(super) would_copy: u64,
    pub(super) in_target: u64,
    pub(super) not_protected: u64,
    pub(super) excluded: u64,
    pub(super) unknown: u64,
    /// Blobs that several images of a backup share count once.
    pub(super) bytes: u64,
    pub(super) docker_hub_reads: u64,
    /// Images and fields that are not listed, because there are too many.
    pub(super) left_out: u64,
}

#[derive(Debug, Serialize)]
pub(super) struct Estimate {
    pub(super) seconds: u64,
    /// What it is computed from.
    pub(super) basis: String,
}

impl Plan {
    pub(super) fn new(
        usage: Usage,
        survey: &Survey,
        backups: &Backups,
        credentials: &Credentials,
        bandwidth: NonZeroU64,
    ) -> Self {
        let mut totals = Totals {
            left_out: usage.left_out,
            ..Totals::default()
        };
        let mut sent = HashSet::new();
        let mut copies = HashSet::new();
        let mut images = Vec::new();
        for (used, users) in usage.images {
            let finding = survey.get(&used.image, &used.verdict);
            let image = Image::new(used, users, finding, backups, credentials);
            // Namespaces with different rules can share a copy.
            let is_new = copies.insert((image.backup.clone(), image.target.clone()));
            if is_new && let Some(Finding::Copy(Ok(preview))) = finding {
                totals.docker_hub_reads += image.docker_hub_reads;
                totals.would_copy += u64::from(image.would_copy());
                let blobs = preview.missing.iter();
                let registry = image.backup.clone().unwrap_or_default();
                totals.bytes += blobs
                    .filter(|blob| sent.insert((registry.clone(), blob.digest.clone())))
                    .map(|blob| blob.size)
                    .sum::<u64>();
            }
            totals.add(&image);
            images.push(image);
        }
        let problems = usage.problems.iter().map(ToString::to_string);
        let mut problems: Vec<_> = problems.collect();
        if usage.more_problems > 0 {
            problems.push(format!("{} more", count(usage.more_problems, "problem")));
        }
        let fields = usage.fields.into_iter().map(|(field, object)| Field {
            image: field.image,
            field: field.field,
            object: User::of(object),
        });
        Self {
            version: VERSION,
            fields: fields.collect(),
            estimate: Estimate::of(&totals, survey, bandwidth),
            images,
            totals,
            warnings: Vec::new(),
            problems,
        }
    }

    /// Returns whether all images are protected, or would be. Excluded images are not, unless they are `allowed`.
    pub(super) fn is_protected(&self, allows_excluded: bool) -> bool {
        let excluded = if allows_excluded {
            self.totals.excluded
        } else {
            0
        };
        self.totals.not_protected <= excluded
    }
}

impl Totals {
    fn add(&mut self, image: &Image) {
        self.images += 1;
        self.excluded += u64::from(image.excluded);
        match image.status {
            Status::Present => self.present += 1,
            Status::InTarget => self.in_target += 1,
            Status::NotProtected => self.not_protected += 1,
            Status::Unknown => self.unknown += 1,
            // Each copy once, which the caller knows.
            Status::WouldCopy | Status::WouldReplace => {}
        }
    }
}

impl Image {
    fn new(
        used: UsedImage,
        users: Users,
        finding: Option<&Finding>,
        backups: &Backups,
        credentials: &Credentials,
    ) -> Self {
        let UsedImage { image, verdict } = used;
        let (named, user_count) = users.into_named();
        let mut planned = Self {
            status: Status::NotProtected,
            reason: None,
            excluded: false,
            action: "keep",
            rule: String::new(),
            backup: None,
            target: None,
            digest: None,
            platforms: Vec::new(),
            bytes: 0,
            docker_hub_reads: 0,
            credentials: UsedCredentials::default(),
            users: named.into_iter().map(User::of).collect(),
            user_count,
            image,
        };
        match verdict {
            Verdict::Decided(decision) => {
                planned.action = decision.outcome.action();
                planned.rule = decision.rule();
                match decision.outcome {
                    Outcome::Mirror { backup } => {
                        let backup = backup.to_string();
                        planned.credentials = UsedCredentials {
                            original: credentials.original(&planned.image).map(str::to_owned),
                            push: credentials.push(&backup).map(str::to_owned),
                            pull: credentials.pull(&backup).map(str::to_owned),
                        };
                        planned.target = backups.copy_name(&backup, &planned.image);
                        planned.backup = Some(backup);
                    }
                    Outcome::Rewrite { image } => planned.target = Some(image.to_string()),
                    Outcome::Keep(reason) => {
                        planned.excluded = reason != KeepReason::NoTargetName;
                        planned.reason = Some(reason.to_string());
                    }
                }
            }
            Verdict::NeverPulled => {
                "imagePullPolicy: Never".clone_into(&mut planned.rule);
                planned.excluded = true;
                let reason = "the workload never pulls it, so it must be on the nodes already";
                planned.reason = Some(reason.to_owned());
            }
            Verdict::NotAnImage(reason) => {
                planned.reason = Some(format!("it is not a valid image reference: {reason}"));
            }
            Verdict::UnknownCopy(backup) => {
                planned.action = "mirror";
                "the workload uses a copy".clone_into(&mut planned.rule);
                planned.target = Some(planned.image.clone());
                planned.backup = Some(backup.to_string());
            }
        }
        planned.apply(finding);
        planned
    }

    fn apply(&mut self, finding: Option<&Finding>) {
        match finding {
            None => {}
            Some(Finding::Offline) => self.status = Status::Unknown,
            Some(Finding::Copy(Ok(preview))) => self.apply_preview(preview),
            Some(Finding::Present(Ok(digest))) => {
                self.digest = Some(digest.to_string());
                self.status = if self.backup.is_some() {
                    Status::Present
                } else {
                    Status::InTarget
                };
            }
            Some(Finding::Copy(Err(reason)) | Finding::Present(Err(reason))) => {
                self.reason = Some(reason.clone());
            }
        }
    }

    fn apply_preview(&mut self, preview: &Preview) {
        self.status = match preview.presence {
            Presence::Complete => Status::Present,
            Presence::Other(_) => Status::WouldReplace,
            Presence::Untagged | Presence::Absent => Status::WouldCopy,
        };
        self.digest = Some(preview.digest.to_string());
        let platforms = preview.platforms.iter();
        self.platforms = platforms.map(ToString::to_string).collect();
        self.bytes = preview.missing.iter().map(|blob| blob.size).sum();
        if self.image.starts_with(DOCKER_HUB) {
            self.docker_hub_reads = preview.manifest_reads;
        }
    }

    fn would_copy(&self) -> bool {
        matches!(self.status, Status::WouldCopy | Status::WouldReplace)
    }
}

impl User {
    fn of(object: ObjectName) -> Self {
        let ObjectName {
            kind,
            namespace,
            name,
        } = object;
        Self {
            kind,
            namespace,
            name,
        }
    }
}

impl Estimate {
    /// One second for the requests of a copy is what a public registry takes. The time grows by whole windows if Docker Hub does
    /// not allow all reads at once.
    fn of(totals: &Totals, survey: &Survey, bandwidth: NonZeroU64) -> Option<Self> {
        if totals.would_copy == 0 {
            return None;
        }
        let parallel = PARALLEL_COPIES.get() as u64;
        let copying = totals.bytes.div_ceil(bandwidth.get()) + totals.would_copy.div_ceil(parallel);
        let mut basis = format!(
            "{} at {} per second (--bandwidth), and 1 s for each of {}, {parallel} at a time",
            human_bytes(totals.bytes),
            human_bytes(bandwidth.get()),
            count(totals.would_copy, "copy").replace("copys", "copies"),
        );
        let mut waiting = 0;
        if let Some(hub) = survey.docker_hub
            && let Some(limit) = hub.limit.filter(|limit| *limit > 0)
        {
            let beyond = totals.docker_hub_reads.saturating_sub(hub.remaining);
            waiting = beyond.div_ceil(limit).saturating_mul(DOCKER_HUB_WINDOW);
            // Writing to a string cannot fail.
            let _ = write!(
                basis,
                "; Docker Hub allows {limit} reads in 6 hours, and {} are left",
                hub.remaining
            );
        }
        Some(Self {
            seconds: copying.saturating_add(waiting),
            basis,
        })
    }
}

impl Status {
    /// The status for people.
    pub(super) const fn words(self) -> &'static str {
        match self {
            Self::Present => "in the backup",
            Self::WouldCopy => "would be copied",
            Self::WouldReplace => "would be replaced",
            Self::InTarget => "in the target",
            Self::NotProtected => "NOT PROTECTED",
            Self::Unknown => "unknown (offline)",
        }
    }
}
