//! What becomes of one image.

use std::rc::Rc;

use mirror_contract::{Digest, ImageRef};

use super::Workload;
use crate::host::Host;
use crate::images::Slot;
use crate::mirror::{Known, Mirror};
use crate::originals_annotation::OriginalsAnnotation;
use crate::settings::Settings;
use crate::why::Why;

/// What becomes of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It is replaced by its copy.
    Rewrite(Rc<Copy>),
    /// It has a copy, but the pull Secrets of the template stay as they are: it is replaced in the Pods.
    RewriteInPods(Rc<Copy>),
    /// It is a copy, and becomes again what it was, since the pull Secret leaves the template.
    Restore {
        /// As it was written before the policy replaced it.
        original: Rc<str>,
    },
    /// It stays, since it is in the backup already.
    InBackup {
        /// The pull Secret that it is known to need.
        secret: Option<Rc<str>>,
    },
    /// The annotation decides, since the sidecar does not.
    Remembered(Rc<Remembered>),
    /// It stays, since it is not to be mirrored.
    Unwanted,
    /// It stays, though it should not.
    Keep(Rc<Why>),
}

/// The copy that an image is replaced by.
#[derive(Debug, PartialEq, Eq)]
pub struct Copy {
    /// As it is written into the object.
    pub image: Rc<str>,
    /// Its digest, which is that of the original.
    pub digest: String,
    /// The pull Secret that it is known to need.
    pub secret: Option<String>,
}

/// What an annotation says about an image.
#[derive(Debug, PartialEq, Eq)]
pub struct Remembered {
    /// The copy that replaces it; `None` if it is that copy.
    pub copy: Option<Rc<str>>,
    /// The pull Secret that was given with it.
    pub secret: Option<String>,
    /// Why the sidecar did not decide; `None` if it was not asked, since the image cannot change any more.
    pub reason: Option<Why>,
}

impl Fate {
    /// Whether there is no answer to rely on.
    pub(super) fn is_remembered(&self) -> bool {
        matches!(self, Self::Remembered(_))
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
        let text = &*slot.image;
        // It cannot change any more, so nobody needs to be asked.
        if slot.is_volume() && self.secrets.are_of_running_pod() {
            return self.remembered(slot, None).unwrap_or(Fate::Unwanted);
        }
        let original = match ImageRef::parse(text) {
            Ok(original) => original,
            Err(error) => return Fate::Keep(Rc::new(Why::Unparseable(error))),
        };
        let is_copy = self.annotation_of_copy(text).is_some();
        // The patterns are about originals.
        if !is_copy && !settings.images.takes(&original) {
            return Fate::Unwanted;
        }
        let known = mirror.image(&original).and_then(|known| match known {
            Known::Excluded => Ok(Fate::Unwanted),
            Known::InBackup { secret } => Ok(Fate::InBackup {
                secret: secret.map(Rc::from),
            }),
            Known::Mirrored {
                copy,
                digest,
                secret,
            } => match name_of_copy(&original, &copy, &digest, settings.pin_digest) {
                Some(image) if image == text => Ok(Fate::InBackup {
                    secret: secret.map(Rc::from),
                }),
                Some(image) => Ok(Fate::Rewrite(Rc::new(Copy {
                    image: image.into(),
                    digest: digest.to_string(),
                    secret,
                }))),
                None => Err(Why::Unusable),
            },
        });
        match known {
            Ok(fate) => fate,
            // A copy that cannot be asked about is one all the same.
            Err(why) if why.is_silence() || why == Why::TooMany || is_copy => self
                .remembered(slot, Some(&why))
                .unwrap_or_else(|| Fate::Keep(Rc::new(why))),
            Err(why) => Fate::Keep(Rc::new(why)),
        }
    }

    /// What the annotations say about an image about which nobody says anything. Without them, whatever is applied or rolled
    /// back during an outage would go back to the upstream that may be gone for good.
    fn remembered(&self, slot: &Slot<'_>, reason: Option<&Why>) -> Option<Fate> {
        let (copy, annotation) = if let Some(annotation) = self.annotation_of_copy(&slot.image) {
            (None, annotation)
        } else {
            let copy = self.old_object.copy_of(slot)?;
            (Some(copy.into()), self.old_object.annotation())
        };
        Some(Fate::Remembered(Rc::new(Remembered {
            copy,
            secret: annotation.secret.clone(),
            reason: reason.cloned(),
        })))
    }

    /// The annotation that says that `image` is a copy.
    fn annotation_of_copy(&self, image: &str) -> Option<&OriginalsAnnotation> {
        // The old object is read only if there is one.
        let is_copy = |annotation: &&OriginalsAnnotation| annotation.original(image).is_some();
        Some(self.annotation)
            .filter(is_copy)
            .or_else(|| Some(self.old_object.annotation()).filter(is_copy))
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
