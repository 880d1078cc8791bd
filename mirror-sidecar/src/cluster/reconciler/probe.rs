//! Asks the registries about one image in use.

use mirror_contract::{Digest, ImageRef, ImageStatus, Mode, RefusalKind};
use mirror_copy::Completeness;

use super::image_state::Look;
use crate::cluster::index::Image;
use crate::lookup::{LookError, Lookup, PartsPlan, Presence, Turn, Upstream, UpstreamReferrers};

/// What to find out, and what is known before.
pub(super) struct Question {
    pub(super) image: Image,
    pub(super) subject: Subject,
    pub(super) look: Look,
    /// Which parts to look for.
    pub(super) plan: PartsPlan,
    /// The list of referrers that the copy is known to have.
    pub(super) known_referrers: Option<u64>,
}

/// Which look at the backup it is to be.
#[derive(Clone, Debug)]
pub(super) enum Subject {
    /// At the whole copy, which is this replica's to keep; the tag was known to stand for a digest.
    Ours {
        copy: ImageRef<'static>,
        known: Option<Digest<'static>>,
        /// Whether the tag is to stand for that again.
        is_to_put_back: bool,
    },
    /// Only whether there is a copy; what was seen not long ago counts.
    Others,
    /// At an image that may be no copy.
    Foreign,
}

/// What was found out.
pub(super) enum Answer {
    Backup(Result<Presence, Blind>),
    Upstream(Upstream, Option<UpstreamReferrers>),
    Parts(PartsPlan, Result<Completeness, Blind>),
}

impl Answer {
    /// Nothing was found out.
    pub(super) fn of_nothing(look: Look) -> Self {
        let reason = "the look broke off".to_owned();
        let blind = |reason| Blind {
            reason,
            is_outage: false,
        };
        match look {
            Look::Backup => Self::Backup(Err(blind(reason))),
            Look::Parts => {
                let plan = PartsPlan {
                    turn: Turn::Nothing,
                    skip: 0,
                };
                Self::Parts(plan, Err(blind(reason)))
            }
            Look::Upstream => {
                let lasting = false;
                Self::Upstream(Upstream::Unknown { reason, lasting }, None)
            }
        }
    }
}

/// Nothing could be seen of the backup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Blind {
    pub(super) reason: String,
    /// Whether that goes for other images as well, most likely.
    pub(super) is_outage: bool,
}

/// Finds it out.
pub(super) async fn look(lookup: Lookup, question: Question) -> Answer {
    let Question {
        image,
        subject,
        look,
        plan,
        known_referrers,
    } = question;
    match look {
        Look::Backup => Answer::Backup(look_in_backup(&lookup, &image, &subject).await),
        Look::Upstream => {
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
                    lookup
                        .check_referrers(&image, copy, known, known_referrers)
                        .await
                }
                _ => None,
            };
            Answer::Upstream(upstream, referrers)
        }
        Look::Parts => {
            let found = match &subject {
                Subject::Ours {
                    copy,
                    known: Some(digest),
                    ..
                } => lookup.check_parts(&image, copy, digest, plan).await,
                _ => Ok(Completeness::Complete { next: None }),
            };
            Answer::Parts(plan, found.map_err(|error| Blind::of_parts(&error)))
        }
    }
}

async fn look_in_backup(
    lookup: &Lookup,
    image: &Image,
    subject: &Subject,
) -> Result<Presence, Blind> {
    let found = match subject {
        Subject::Ours {
            copy,
            known: Some(known),
            is_to_put_back: true,
        } => lookup.reset(image, copy, known).await,
        Subject::Ours { copy, known, .. } => lookup.inspect(image, copy, known.as_ref()).await,
        Subject::Foreign => lookup.look_for(image).await,
        Subject::Others => return peek(lookup, image).await,
    };
    found.map_err(|error| Blind::of(&error))
}

impl Blind {
    /// A check of parts waits for its turns, so a slow one says nothing about the registry.
    fn of_parts(error: &LookError) -> Self {
        let blind = Self::of(error);
        Self {
            is_outage: blind.is_outage && matches!(error, LookError::Registry(_)),
            ..blind
        }
    }

    fn of(error: &LookError) -> Self {
        Self {
            is_outage: match error {
                LookError::TooSlow(_) => true,
                LookError::Registry(error) => error.retry().is_transient(),
            },
            reason: error.to_string(),
        }
    }
}

async fn peek(lookup: &Lookup, image: &Image) -> Result<Presence, Blind> {
    match lookup.image(image, Mode::Peek).await {
        Ok(ImageStatus::Mirrored { digest, .. }) => Ok(Presence::Complete {
            digest,
            repaired: false,
        }),
        Err(refusal) if refusal.kind == RefusalKind::Unavailable => Err(Blind {
            reason: refusal.reason.to_string(),
            is_outage: true,
        }),
        _ => Ok(Presence::Missing),
    }
}
