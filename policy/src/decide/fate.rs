//! What becomes of one image.

use mirror_contract::{Digest, ImageRef};

use super::Workload;
use crate::host::Host;
use crate::images::Slot;
use crate::mirror::{Known, Mirror};
use crate::settings::Settings;
use crate::why::Why;

/// What becomes of an image.
#[derive(Debug, PartialEq, Eq)]
pub enum Fate {
    /// It is replaced by its copy.
    Rewrite(Copy),
    /// It has a copy, but the pull Secrets of the template stay as they are: it is replaced in the Pods.
    RewriteInPods(Copy),
    /// It is a copy, and becomes again what it was, since the pull Secret leaves the template.
    Restore {
        /// As it was written before the policy replaced it.
        original: String,
    },
    /// It stays, since it is in the backup already.
    InBackup {
        /// The pull Secret that it is known to need.
        secret: Option<String>,
    },
    /// It stays, since it is not to be mirrored.
    Unwanted,
    /// It stays, though it should not.
    Keep(Why),
}

/// The copy that an image is replaced by.
#[derive(Debug, PartialEq, Eq)]
pub struct Copy {
    /// As it is written into the object.
    pub image: String,
    /// Its digest, which is that of the original, if somebody said it.
    pub digest: Option<String>,
    /// The pull Secret that it is known to need.
    pub secret: Option<String>,
}

impl Fate {
    /// The pull Secret that the copy is known to need.
    pub(super) fn known_secret(&self) -> Option<&str> {
        match self {
            Self::Rewrite(Copy { secret, .. }) | Self::InBackup { secret } => secret.as_deref(),
            _ => None,
        }
    }

    pub(super) fn is_rewritten(&self) -> bool {
        matches!(self, Self::Rewrite(_))
    }

    /// Whether the image is pulled from upstream.
    pub(super) fn stays_upstream(&self) -> bool {
        matches!(self, Self::Unwanted | Self::Keep(_))
    }

    /// Whether it is pulled from there because somebody said so, and not because nobody said anything.
    pub(super) fn stays_for_a_reason(&self) -> bool {
        match self {
            Self::Unwanted => true,
            Self::Keep(why) => !why.is_silence(),
            _ => false,
        }
    }
}

impl Workload<'_> {
    pub(super) fn fate<H: Host>(
        &self,
        slot: &Slot<'_>,
        mirror: &mut Mirror<'_, H>,
        settings: &Settings<'_>,
    ) -> Fate {
        let text = slot.image;
        let original = match ImageRef::parse(text) {
            Ok(original) => original,
            Err(error) => return Fate::Keep(Why::Unparseable(error)),
        };
        if !settings.images.takes(&original) {
            return Fate::Unwanted;
        }
        match mirror.image(&original) {
            Ok(Known::Excluded) => Fate::Unwanted,
            Ok(Known::InBackup { secret }) => Fate::InBackup { secret },
            Ok(Known::Mirrored {
                copy,
                digest,
                secret,
            }) => match name_of_copy(&original, &copy, &digest, settings.pin_digest) {
                Some(image) if image == text => Fate::InBackup { secret },
                Some(image) => Fate::Rewrite(Copy {
                    image,
                    digest: Some(digest.to_string()),
                    secret,
                }),
                None => Fate::Keep(Why::Unusable),
            },
            Err(why) if why.is_silence() => self.remembered(slot).unwrap_or(Fate::Keep(why)),
            Err(why) => Fate::Keep(why),
        }
    }

    /// What the notes say about an image about which nobody says anything. Without them, whatever is applied or rolled back
    /// during an outage would go back to the upstream that may be gone for good.
    fn remembered(&self, slot: &Slot<'_>) -> Option<Fate> {
        for note in [self.note, self.before.note()] {
            if note.original(slot.image).is_some() {
                let secret = note.secret.clone();
                return Some(Fate::InBackup { secret });
            }
        }
        let copy = self.before.copy_at(slot)?;
        Some(Fate::Rewrite(Copy {
            image: copy.to_owned(),
            digest: None,
            secret: self.before.note().secret.clone(),
        }))
    }
}

/// How the copy is written where `original` was: tag and digest as they were there, and the digest always if `pin`.
/// `None` if the copy cannot be one of what was asked for: of another digest, or without a tag.
fn name_of_copy(
    original: &ImageRef<'_>,
    copy: &ImageRef<'_>,
    digest: &Digest<'_>,
    pin: bool,
) -> Option<String> {
    let mut name = format!("{}/{}", copy.host(), copy.path());
    let tag = match original.digest() {
        Some(asked) if asked != digest => return None,
        Some(_) => original.tag(),
        None => Some(copy.tag()?),
    };
    if let Some(tag) = tag {
        name.push(':');
        name.push_str(tag);
    }
    if pin || original.digest().is_some() {
        name.push('@');
        name.push_str(&digest.to_string());
    }
    Some(name)
}
