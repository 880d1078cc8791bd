//! Asks the registries about one image in use.

use mirror_contract::{Digest, ImageRef, ImageStatus, Mode, RefusalKind};
use mirror_copy::Completeness;

use super::item::Look;
use crate::catalog::{Catalog, LookError, PartsPlan, Presence, Turn, Upstream, UpstreamReferrers};
use crate::cluster::model::Image;

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
pub(super) async fn look(catalog: Catalog, question: Question) -> Answer {
    let Question {
        image,
        subject,
        look,
        plan,
        known_referrers,
    } = question;
    match look {
        Look::Backup => Answer::Backup(look_in_backup(&catalog, &image, &subject).await),
        Look::Upstream => {
            let upstream = catalog.look_upstream(&image).await;
            let referrers = match (&upstream, &subject) {
                (
                    Upstream::Is(original),
                    Subject::Ours {
                        copy,
                        known: Some(known),
                        ..
                    },
                ) if original == known => {
                    catalog
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
                } => catalog.check_parts(&image, copy, digest, plan).await,
                _ => Ok(Completeness::Complete { next: None }),
            };
            Answer::Parts(plan, found.map_err(|error| Blind::of_parts(&error)))
        }
    }
}

async fn look_in_backup(
    catalog: &Catalog,
    image: &Image,
    subject: &Subject,
) -> Result<Presence, Blind> {
    let found = match subject {
        Subject::Ours {
            copy,
            known: Some(known),
            is_to_put_back: true,
        } => catalog.reset(image, copy, known).await,
        Subject::Ours { copy, known, .. } => catalog.inspect(image, copy, known.as_ref()).await,
        Subject::Foreign => catalog.look_for(image).await,
        Subject::Others => return peek(catalog, image).await,
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

async fn peek(catalog: &Catalog, image: &Image) -> Result<Presence, Blind> {
    match catalog.image(image, Mode::Peek).await {
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
