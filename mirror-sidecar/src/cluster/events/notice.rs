//! The text of Events.

use mirror_contract::text::on_one_line;

use crate::backup_health::TroubleKind;
use crate::server::CertificateTroubleKind;

/// The object of an Event.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct About {
    /// For example `apps/v1`.
    pub api_version: String,
    pub kind: String,
    /// Empty for cluster-scoped objects, whose Events are in `default`.
    pub namespace: String,
    pub name: String,
    /// Empty if not known.
    pub uid: String,
}

/// The content of an Event. Image references and reasons are short texts without secrets.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Notice {
    Mirrored {
        image: String,
    },
    NotMirrored {
        image: String,
        reason: String,
    },
    /// The original is gone; there is only the copy.
    LastCopy {
        image: String,
    },
    /// Copies of images of the workload exist, but the policy does not use them.
    NotRewritten {
        /// The originals that the workload still names.
        images: Vec<String>,
    },
    /// Injected containers of the workload's Pods run originals although copies exist.
    InjectedNotRewritten {
        images: Vec<String>,
    },
    /// The namespace exceeds the limits of the index.
    TooMuch {
        /// Images of its workloads that are not tracked.
        images: usize,
        /// Whole workloads are not tracked.
        has_workloads: bool,
    },
    /// The namespace has used up its budget of new images.
    NoBudget,
    /// Both the original and the copy are gone.
    ImageLost {
        image: String,
    },
    /// The API server refuses the pull Secret, by a quota or an admission policy.
    SecretRefused {
        reason: String,
    },
    /// The API server refuses the update that would make the workload use its copies.
    ReadmissionRefused {
        reason: String,
    },
    /// Another installation of image-mirror rewrites workloads of the namespace.
    OtherInstallation {
        /// A copy in the other installation's backup.
        copy: String,
    },
    /// The Pods of the workload are re-created repeatedly after a rewrite, so the workload is skipped.
    RewriteLoop,
    BackupTrouble {
        /// `None` for the default backup.
        backup: Option<String>,
        kind: TroubleKind,
        next_step: String,
        reason: String,
    },
    BackupRecovered {
        backup: Option<String>,
    },
    /// Clients refuse the certificate of the facade, or soon will.
    FacadeCertificate {
        kind: CertificateTroubleKind,
        /// The period of validity.
        reason: String,
    },
    /// The certificate of the facade is valid again.
    FacadeCertificateRenewed,
    /// A policy cannot be parsed.
    PolicyInvalid {
        reason: String,
    },
    /// A rule of a policy names a backup that is not defined.
    BackupUnknown {
        reason: String,
    },
    /// A rule of a policy does not fit the locations of backups, or another rule.
    RuleConflict {
        reason: String,
    },
    /// A Secret with the name of the pull Secret exists that image-mirror does not manage; it stays unchanged.
    ForeignSecret,
}

/// Longest note that an API server accepts, in bytes.
pub(super) const MAX_NOTE: usize = 1024;

/// Longest reason within a note: registries may respond with whole pages.
const MAX_REASON: usize = 400;

/// Longest sentence about a rule within a note: it may list the names of all backups, and ends with the next step.
const MAX_RULE: usize = 900;

/// Longest image reference within a note. Valid ones are shorter.
const MAX_IMAGE: usize = 260;

/// Images that are named in a note.
const MAX_IMAGES: usize = 2;

/// Images that are counted in a note.
const MAX_LISTED: usize = 10;

impl Notice {
    /// The machine-readable reason.
    pub(super) fn reason(&self) -> &'static str {
        match self {
            Self::Mirrored { .. } => "Mirrored",
            Self::NotMirrored { .. } => "NotMirrored",
            Self::LastCopy { .. } => "LastCopy",
            Self::NotRewritten { .. } => "NotRewritten",
            Self::InjectedNotRewritten { .. } => "InjectedNotRewritten",
            Self::TooMuch { .. } => "LimitExceeded",
            Self::NoBudget => "BudgetExceeded",
            Self::ForeignSecret => "ForeignSecret",
            Self::ImageLost { .. } => "ImageLost",
            Self::SecretRefused { .. } => "PullSecretRefused",
            Self::ReadmissionRefused { .. } => "ReadmissionRefused",
            Self::OtherInstallation { .. } => "OtherInstallation",
            Self::BackupTrouble { kind, .. } => match kind {
                TroubleKind::Unavailable => "BackupUnavailable",
                TroubleKind::Certificate => "BackupCertificateRejected",
                TroubleKind::Login => "BackupLoginRefused",
                TroubleKind::Uploads => "BackupUploadsDenied",
            },
            Self::BackupRecovered { .. } => "BackupRecovered",
            Self::FacadeCertificate { kind, .. } => match kind {
                CertificateTroubleKind::ExpiresSoon => "FacadeCertificateExpiresSoon",
                CertificateTroubleKind::NotValidYet => "FacadeCertificateNotValidYet",
                CertificateTroubleKind::Expired => "FacadeCertificateExpired",
            },
            Self::FacadeCertificateRenewed => "FacadeCertificateRenewed",
            Self::RewriteLoop => "RewriteLoop",
            Self::PolicyInvalid { .. } => "PolicyInvalid",
            Self::BackupUnknown { .. } => "BackupUnknown",
            Self::RuleConflict { .. } => "RuleConflict",
        }
    }

    pub(super) fn action(&self) -> &'static str {
        match self {
            Self::Mirrored { .. }
            | Self::NotMirrored { .. }
            | Self::TooMuch { .. }
            | Self::NoBudget
            | Self::InjectedNotRewritten { .. }
            | Self::RewriteLoop
            | Self::OtherInstallation { .. } => "Mirror",
            Self::LastCopy { .. }
            | Self::ImageLost { .. }
            | Self::BackupTrouble { .. }
            | Self::BackupRecovered { .. }
            | Self::FacadeCertificate { .. }
            | Self::FacadeCertificateRenewed
            | Self::PolicyInvalid { .. }
            | Self::BackupUnknown { .. }
            | Self::RuleConflict { .. } => "Check",
            Self::NotRewritten { .. } | Self::ReadmissionRefused { .. } => "Readmit",
            Self::ForeignSecret | Self::SecretRefused { .. } => "ProvidePullSecret",
        }
    }

    /// Returns whether somebody should act.
    pub(super) fn is_warning(&self) -> bool {
        !matches!(
            self,
            Self::Mirrored { .. } | Self::BackupRecovered { .. } | Self::FacadeCertificateRenewed
        )
    }

    /// Returns whether the notice is about the namespace as a whole, rather than one of many objects in it.
    pub(super) fn is_of_namespace(&self) -> bool {
        matches!(
            self,
            Self::TooMuch { .. }
                | Self::NoBudget
                | Self::SecretRefused { .. }
                | Self::OtherInstallation { .. }
        )
    }

    /// Limits the text, since many notices may wait to be written.
    pub(super) fn shortened(self) -> Self {
        let image = |image: String| tidy_image(&image);
        match self {
            Self::Mirrored { image: text } => Self::Mirrored { image: image(text) },
            Self::LastCopy { image: text } => Self::LastCopy { image: image(text) },
            Self::NotMirrored {
                image: text,
                reason,
            } => Self::NotMirrored {
                image: image(text),
                reason: tidy(&reason, MAX_REASON),
            },
            Self::ImageLost { image: text } => Self::ImageLost { image: image(text) },
            Self::OtherInstallation { copy: text } => Self::OtherInstallation { copy: image(text) },
            Self::SecretRefused { reason } => Self::SecretRefused {
                reason: tidy(&reason, MAX_REASON),
            },
            Self::ReadmissionRefused { reason } => Self::ReadmissionRefused {
                reason: tidy(&reason, MAX_REASON),
            },
            Self::NotRewritten { images } => Self::NotRewritten {
                images: images.into_iter().take(MAX_LISTED).map(image).collect(),
            },
            Self::InjectedNotRewritten { images } => Self::InjectedNotRewritten {
                images: images.into_iter().take(MAX_LISTED).map(image).collect(),
            },
            Self::BackupTrouble {
                backup,
                kind,
                next_step,
                reason,
            } => Self::BackupTrouble {
                backup,
                kind,
                next_step,
                reason: tidy(&reason, MAX_REASON),
            },
            Self::PolicyInvalid { reason } => Self::PolicyInvalid {
                reason: tidy(&reason, MAX_REASON),
            },
            Self::BackupUnknown { reason } => Self::BackupUnknown {
                reason: tidy(&reason, MAX_RULE),
            },
            Self::RuleConflict { reason } => Self::RuleConflict {
                reason: tidy(&reason, MAX_RULE),
            },
            other @ (Self::TooMuch { .. }
            | Self::NoBudget
            | Self::ForeignSecret
            | Self::RewriteLoop
            | Self::BackupRecovered { .. }
            | Self::FacadeCertificate { .. }
            | Self::FacadeCertificateRenewed) => other,
        }
    }

    /// A sentence for people, at most [`MAX_NOTE`] bytes in one line.
    pub(super) fn note(&self) -> String {
        let note = match self {
            Self::Mirrored { image } => {
                format!("{} is mirrored in the backup registry.", tidy_image(image))
            }
            Self::NotMirrored { image, reason } => format!(
                "{} cannot be mirrored, so it is not protected against the loss of its registry: {}. \
                 It is retried automatically; make sure that the image exists and that mirror-sidecar may pull it.",
                tidy_image(image),
                part(reason, MAX_REASON)
            ),
            Self::LastCopy { image } => format!(
                "{} is gone from its registry: the copy in the backup registry is the last one. \
                 Keep it there until this workload uses another image.",
                tidy_image(image)
            ),
            Self::ImageLost { image } => format!(
                "{} is gone from its registry, and its copy is gone from the backup registry: the next Pod that has to \
                 pull it cannot start. Restore the copy in the backup registry, push the image to its registry again, or \
                 change the image of this workload.",
                tidy_image(image)
            ),
            Self::SecretRefused { reason } => format!(
                "The API server refuses the pull Secret of image-mirror, so workloads here keep their original images and \
                 Pods cannot pull copies: {}. Raise the quota of the namespace or change the admission policy; it is retried \
                 automatically.",
                part(reason, MAX_REASON)
            ),
            Self::ReadmissionRefused { reason } => format!(
                "There are copies of the images of this workload, but it keeps the originals, because its update is \
                 refused: {}. Raise the quota or change the admission policy that refuses it; it is retried automatically.",
                part(reason, MAX_REASON)
            ),
            Self::OtherInstallation { copy } => format!(
                "Another installation of image-mirror has rewritten workloads of this namespace, for example to {}, so this \
                 one skips them. Exclude the namespace from one of the two, or move to one of them as \
                 docs/migrating.md describes.",
                tidy_image(copy)
            ),
            Self::NotRewritten { images } => format!(
                "There are copies of these images, but the policy does not use them: {}. \
                 Check that the image-mirror policy is active and covers this kind and namespace.",
                list(images)
            ),
            Self::InjectedNotRewritten { images } => format!(
                "Containers that another webhook injects into Pods of this workload run original images although there are \
                 copies: {}. If new Pods do so too, the injector runs after the policy: set the image in the injector's own \
                 settings, or set policy.reinvocation in the chart.",
                list(images)
            ),
            Self::TooMuch {
                images,
                has_workloads,
            } => too_much(*images, *has_workloads),
            Self::NoBudget => {
                "This namespace has used up its budget of new images for a day, so some of its images are mirrored later. \
                 The budget refills by itself; the operator can raise --max-new-images-per-namespace and \
                 --max-new-bytes-per-namespace."
                    .to_owned()
            }
            Self::BackupTrouble {
                backup,
                kind,
                next_step,
                reason,
            } => backup_trouble(backup.as_deref(), *kind, next_step, reason),
            Self::PolicyInvalid { reason } => format!(
                "mirror-sidecar cannot use this policy: {}. Its last valid rules stay in force until mirror-sidecar restarts. Then \
                 all images in use are copied, or none if there are several backups. Correct spec.settings, or upgrade \
                 mirror-sidecar if the policy is newer.",
                part(reason, MAX_REASON)
            ),
            Self::BackupUnknown { reason } => format!(
                "Images of a rule are not copied: {}.",
                part(reason, MAX_RULE)
            ),
            Self::RuleConflict { reason } => format!(
                "A rule cannot be followed: {}.",
                part(reason, MAX_RULE)
            ),
            Self::RewriteLoop => REWRITE_LOOP.to_owned(),
            Self::BackupRecovered { backup } => format!(
                "{}the backup registry can be used again, and new Pods use copies.",
                of_backup(backup.as_deref())
            ),
            Self::FacadeCertificate { kind, reason } => format!(
                "{kind}: {reason}. Policy servers accept it only within this time; otherwise new workloads keep their original \
                 images or are rejected, as whenUnavailable says."
            ),
            Self::FacadeCertificateRenewed => "the certificate of the facade is valid.".to_owned(),
            Self::ForeignSecret => {
                "There is a Secret of this name that image-mirror does not manage, so Pods here cannot pull copies: \
                 delete it, or remove what creates it. Another name with --pull-secret needs other RBAC rules as well."
                    .to_owned()
            }
        };
        tidy(&note, MAX_NOTE)
    }
}

fn backup_trouble(
    backup: Option<&str>,
    kind: TroubleKind,
    next_step: &str,
    reason: &str,
) -> String {
    let originals = match kind {
        TroubleKind::Unavailable => {
            " New Pods of templates with copies use the originals instead, if whenBackupUnavailable is `original` and their \
             registries have them."
        }
        TroubleKind::Certificate | TroubleKind::Login | TroubleKind::Uploads => "",
    };
    format!(
        "{}{kind}; {next_step}: {}. Until then nothing is copied{}, and workloads keep the images that they have.{originals} The registry \
         is checked every few seconds.",
        of_backup(backup),
        part(reason, MAX_REASON),
        if backup.is_some() { " to it" } else { "" }
    )
}

const REWRITE_LOOP: &str = "Pods of this workload are repeatedly deleted and re-created after their images were replaced by copies, as \
    operators do that compare images. Its Pods keep their original images for a day. Keep it so with the label \
    or annotation image-mirror.dev/skip: \"true\" on the Pod template, or add its owner to \
    policy.settings.skipOwners.";

fn too_much(images: usize, has_workloads: bool) -> String {
    let workloads = if has_workloads {
        "more workloads than the limits allow, and "
    } else {
        ""
    };
    format!(
        "This namespace has {workloads}more images than the limits allow: {images} of its workloads are not mirrored until \
         they are admitted again. Remove workloads and images that nobody needs."
    )
}

/// The start of a sentence about a backup, which names it unless it is the default one.
fn of_backup(name: Option<&str>) -> String {
    name.map_or_else(String::new, |name| format!("backup {name}: "))
}

/// A part of a sentence, which continues after it.
fn part(reason: &str, max: usize) -> String {
    tidy(reason, max).trim_end_matches(is_end).to_owned()
}

/// Punctuation that is removed before a sentence continues.
fn is_end(last: char) -> bool {
    last == '.' || last.is_whitespace()
}

fn list(images: &[String]) -> String {
    let named: Vec<_> = images
        .iter()
        .take(MAX_IMAGES)
        .map(|image| tidy_image(image))
        .collect();
    let named = named.join(", ");
    match images.len().saturating_sub(MAX_IMAGES) {
        0 => named,
        more if images.len() >= MAX_LISTED => format!("{named} and at least {more} more"),
        more => format!("{named} and {more} more"),
    }
}

fn tidy_image(image: &str) -> String {
    tidy(image, MAX_IMAGE)
}

/// The text in one line, cut to `limit` bytes.
fn tidy(text: &str, limit: usize) -> String {
    let mut tidy = String::with_capacity(text.len().min(limit));
    for part in text.chars().map(on_one_line) {
        if limit < tidy.len() + part.len_utf8() {
            // The ellipsis counts, too.
            while limit < tidy.len() + '…'.len_utf8() && tidy.pop().is_some() {}
            tidy.push('…');
            break;
        }
        tidy.push(part);
    }
    tidy
}
