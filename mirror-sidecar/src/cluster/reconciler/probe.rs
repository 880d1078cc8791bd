//! Checks of one image in use at the registries.

use mirror_contract::{Digest, ImageRef, ImageStatus, Mode, RefusalKind};
use mirror_copy::{Completeness, ImageContents};

use super::image_checks::{CheckError, Presence, Upstream};
use super::referrer_checks::{ReferrersPlan, UpstreamReferrers};
use crate::cluster::index::Image;
use crate::lookup::{Lookup, PartsPlan, Turn};

/// A kind of check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Check {
    /// The copy in the backup.
    Backup,
    /// The original.
    Upstream,
    /// All manifests and blobs that the copy refers to.
    Parts,
}

/// A value for each kind of check.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ByCheck<T> {
    backup: T,
    upstream: T,
    parts: T,
}

impl<T> ByCheck<T> {
    pub(super) fn of(&self, check: Check) -> &T {
        match check {
            Check::Backup => &self.backup,
            Check::Upstream => &self.upstream,
            Check::Parts => &self.parts,
        }
    }

    pub(super) fn of_mut(&mut self, check: Check) -> &mut T {
        match check {
            Check::Backup => &mut self.backup,
            Check::Upstream => &mut self.upstream,
            Check::Parts => &mut self.parts,
        }
    }
}

pub(super) struct ProbeRequest {
    pub(super) image: Image,
    pub(super) subject: Subject,
    pub(super) check: Check,
    pub(super) parts: PartsPlan,
    pub(super) referrers: ReferrersPlan,
}

/// How the backup is checked.
#[derive(Clone, Debug)]
pub(super) enum Subject {
    /// The whole copy, which this replica maintains.
    Ours {
        copy: ImageRef<'static>,
        known: Option<Digest<'static>>,
        /// The tag must be reset to `known`.
        is_to_restore: bool,
    },
    /// Only whether there is a copy; a cached result counts.
    Others,
    /// An image that may be no copy.
    Foreign,
}

/// The result of a check.
pub(super) enum ProbeResult {
    Backup(Result<Presence, ProbeError>),
    Upstream(Upstream, Vec<UpstreamReferrers>),
    /// With the contents of the copy, if they were read.
    Parts(
        PartsPlan,
        Result<Completeness, ProbeError>,
        Option<ImageContents>,
    ),
}

impl ProbeResult {
    /// The result of a check that was aborted.
    pub(super) fn aborted(check: Check) -> Self {
        let reason = "the check was aborted".to_owned();
        let error = |reason| ProbeError {
            reason,
            is_outage: false,
        };
        let no_parts = PartsPlan {
            turn: Turn::Nothing,
            skip: 0,
        };
        match check {
            Check::Backup => Self::Backup(Err(error(reason))),
            Check::Parts => Self::Parts(no_parts, Err(error(reason)), None),
            Check::Upstream => {
                let lasting = false;
                Self::Upstream(Upstream::Unknown { reason, lasting }, Vec::new())
            }
        }
    }
}

/// The backup could not be checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ProbeError {
    pub(super) reason: String,
    /// Other images are most likely affected as well.
    pub(super) is_outage: bool,
}

/// Runs one check.
pub(super) async fn probe(lookup: Lookup, request: ProbeRequest) -> ProbeResult {
    let ProbeRequest {
        image,
        subject,
        check,
        parts,
        referrers,
    } = request;
    match check {
        Check::Backup => ProbeResult::Backup(probe_backup(&lookup, &image, &subject).await),
        Check::Upstream => {
            let upstream = lookup.look_upstream(&image).await;
            let referrers = match (&upstream, &subject) {
                (
                    Upstream::Is(original),
                    Subject::Ours {
                        copy,
                        known: Some(known),
                        ..
                    },
                ) if original == known => {
                    let check = lookup.check_referrers(&image, copy, known, referrers);
                    Box::pin(check).await
                }
                _ => Vec::new(),
            };
            ProbeResult::Upstream(upstream, referrers)
        }
        Check::Parts => {
            let found = match &subject {
                Subject::Ours {
                    copy,
                    known: Some(digest),
                    ..
                } => lookup.check_parts(&image, copy, digest, parts).await,
                _ => Ok((Completeness::Complete { next: None }, None)),
            };
            match found {
                Ok((found, contents)) => ProbeResult::Parts(parts, Ok(found), contents),
                Err(error) => ProbeResult::Parts(parts, Err(ProbeError::of_parts(&error)), None),
            }
        }
    }
}

async fn probe_backup(
    lookup: &Lookup,
    image: &Image,
    subject: &Subject,
) -> Result<Presence, ProbeError> {
    let found = match subject {
        Subject::Ours {
            copy,
            known: Some(known),
            is_to_restore: true,
        } => lookup.reset(image, copy, known).await,
        Subject::Ours { copy, known, .. } => lookup.inspect(image, copy, known.as_ref()).await,
        Subject::Foreign => lookup.look_for(image).await,
        Subject::Others => return probe_cached(lookup, image).await,
    };
    found.map_err(|error| ProbeError::of(&error))
}

impl ProbeError {
    /// A check of parts waits for its turns, so a timeout is no outage of the registry.
    fn of_parts(error: &CheckError) -> Self {
        let probe_error = Self::of(error);
        Self {
            is_outage: probe_error.is_outage && matches!(error, CheckError::Registry(_)),
            ..probe_error
        }
    }

    fn of(error: &CheckError) -> Self {
        Self {
            is_outage: match error {
                CheckError::TooSlow(_) => true,
                CheckError::Registry(error) => error.retry().is_transient(),
            },
            reason: error.to_string(),
        }
    }
}

async fn probe_cached(lookup: &Lookup, image: &Image) -> Result<Presence, ProbeError> {
    match lookup.image(image, Mode::Peek).await {
        Ok(ImageStatus::Mirrored { digest, .. }) => Ok(Presence::Complete {
            digest,
            repaired: false,
        }),
        Err(refusal) if refusal.kind == RefusalKind::Unavailable => Err(ProbeError {
            reason: refusal.reason.to_string(),
            is_outage: true,
        }),
        _ => Ok(Presence::Missing),
    }
}
