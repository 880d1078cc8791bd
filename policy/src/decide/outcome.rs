//! What becomes of one image.

use std::rc::Rc;

use mirror_contract::{Digest, ImageRef, placeholder};

use super::workload::Workload;
use crate::host::Host;
use crate::images::Slot;
use crate::originals_annotation::OriginalsAnnotation;
use crate::reason::Reason;
use crate::settings::Settings;
use crate::sidecar_client::{KnownStatus, SidecarClient};

/// What becomes of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is replaced by its copy.
    Rewrite(Rc<Copy>),
    /// It has a copy, but the pull Secrets of the template stay as they are: it is replaced in the Pods.
    RewriteInPods(Rc<Copy>),
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
    Keep(Rc<Reason>),
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
    pub reason: Option<Reason>,
}

impl Outcome {
    /// Whether an annotation decides because nobody responds.
    pub(super) fn is_silence(&self) -> bool {
        let Self::Remembered(remembered) = self else {
            return false;
        };
        let reason = remembered.reason.as_ref();
        reason.is_some_and(|reason| reason.is_silence() || *reason == Reason::TooMany)
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
            Self::Keep(reason) => !reason.is_silence(),
            _ => false,
        }
    }
}

impl Workload<'_> {
    pub(super) fn outcome<H: Host>(
        &self,
        slot: &Slot<'_>,
        sidecar: &mut SidecarClient<'_, H>,
        settings: &Settings<'_>,
    ) -> Outcome {
        let text = &*slot.image;
        // It cannot change any more, so nobody needs to be asked.
        if slot.is_volume() && self.secrets.are_of_running_pod() {
            return self.remembered(slot, None).unwrap_or(Outcome::Unwanted);
        }
        if placeholder::is_placeholder(text, self.is_injected) {
            return Outcome::Unwanted;
        }
        let original = match ImageRef::parse(text) {
            Ok(original) => original,
            Err(error) => return Outcome::Keep(Rc::new(Reason::Unparseable(error))),
        };
        if let Some(annotated) = self.annotation_of_copy(text) {
            let annotated = annotated.original(text).unwrap_or_default();
            return self.outcome_of_copy(slot, &original, annotated, sidecar, settings);
        }
        // The patterns are about originals.
        if !settings.images.takes(&original) {
            // The copy in use stays: the original may be gone.
            return self
                .remembered_in_use(slot, None)
                .unwrap_or(Outcome::Unwanted);
        }
        match sidecar.image(&original) {
            Ok(KnownStatus::InBackup { secret, .. }) => Outcome::InBackup {
                secret: secret.map(Rc::from),
            },
            // It keeps the copy that it has until there is another one, and until it is its turn.
            Ok(KnownStatus::Excluded) => self
                .remembered_in_use(slot, None)
                .unwrap_or(Outcome::Unwanted),
            Ok(KnownStatus::Mirrored {
                copy,
                digest,
                secret,
            }) => {
                let rewrite = rewrite(&original, &copy, &digest, secret, settings);
                let kept = match &rewrite {
                    Ok(copy) if !self.is_renamed(slot, copy) || (self.may_rename)() => None,
                    Ok(_) => self.remembered_in_use(slot, None),
                    Err(reason) => self.remembered_in_use(slot, Some(reason)),
                };
                kept.unwrap_or_else(|| match rewrite {
                    Ok(copy) if *copy.image == *text => Outcome::InBackup {
                        secret: copy.secret.map(Rc::from),
                    },
                    Ok(copy) => Outcome::Rewrite(Rc::new(copy)),
                    Err(reason) => Outcome::Keep(Rc::new(reason)),
                })
            }
            Err(reason) if reason.is_silence() || reason == Reason::TooMany => self
                .remembered(slot, Some(&reason))
                .unwrap_or_else(|| Outcome::Keep(Rc::new(reason))),
            Err(reason) => self
                .remembered_in_use(slot, Some(&reason))
                .unwrap_or_else(|| Outcome::Keep(Rc::new(reason))),
        }
    }

    /// What becomes of `image`, a copy that is annotated with its original. It is used until there is a copy of another name.
    fn outcome_of_copy<H: Host>(
        &self,
        slot: &Slot<'_>,
        image: &ImageRef<'_>,
        original: &str,
        sidecar: &mut SidecarClient<'_, H>,
        settings: &Settings<'_>,
    ) -> Outcome {
        let secret = match sidecar.image(image) {
            Ok(KnownStatus::InBackup { secret, is_former }) => {
                let secret = secret.map(Rc::from);
                if !is_former {
                    return Outcome::InBackup { secret };
                }
                secret
            }
            // The sidecar does not know where copies were before.
            Ok(KnownStatus::Mirrored { secret, .. }) => secret.map(Rc::from),
            Ok(KnownStatus::Excluded) => None,
            Err(reason) => {
                // A copy that cannot be asked about is one all the same.
                return self
                    .remembered(slot, Some(&reason))
                    .unwrap_or_else(|| Outcome::Keep(Rc::new(reason)));
            }
        };
        let copy = (self.may_rename)()
            .then(|| copy_of_original(original, sidecar, settings))
            .flatten();
        match copy {
            Some(copy) if repository(&copy.image) != repository(&slot.image) => {
                Outcome::Rewrite(Rc::new(copy))
            }
            // The pull Secret of now may have no login for where it is.
            _ => Outcome::InBackup {
                secret: self.annotated_secret().map(Rc::from).or(secret),
            },
        }
    }

    /// Whether the old object uses a copy of the image in `slot` that is in another repository than `copy`.
    fn is_renamed(&self, slot: &Slot<'_>, copy: &Copy) -> bool {
        let in_use = self.old_object.copy_in_use(slot);
        in_use.is_some_and(|in_use| repository(in_use) != repository(&copy.image))
    }

    /// The copy that the old object uses for the image in `slot`: it stays until there is another one. There may be no
    /// original any more, whatever is known about the copy that there should be by now.
    pub(super) fn remembered_in_use(
        &self,
        slot: &Slot<'_>,
        reason: Option<&Reason>,
    ) -> Option<Outcome> {
        let copy = self.old_object.copy_in_use(slot)?;
        Some(Outcome::Remembered(Rc::new(Remembered {
            copy: Some(copy.into()),
            secret: self.old_object.annotation().secret.clone(),
            reason: reason.cloned(),
        })))
    }

    /// What the annotations say about an image about which nobody says anything. Without them, whatever is applied or rolled
    /// back during an outage would go back to the upstream that may be gone for good.
    pub(super) fn remembered(&self, slot: &Slot<'_>, reason: Option<&Reason>) -> Option<Outcome> {
        let (copy, annotation) = if let Some(annotation) = self.annotation_of_copy(&slot.image) {
            (None, annotation)
        } else {
            let copy = self.old_object.copy_of(slot)?;
            (Some(copy.into()), self.old_object.annotation())
        };
        Some(Outcome::Remembered(Rc::new(Remembered {
            copy,
            secret: annotation.secret.clone(),
            reason: reason.cloned(),
        })))
    }

    /// The annotation that says that `image` is a copy.
    pub(super) fn annotation_of_copy(&self, image: &str) -> Option<&OriginalsAnnotation> {
        // The old object is read only if there is one.
        let is_copy = |annotation: &&OriginalsAnnotation| annotation.original(image).is_some();
        Some(self.annotation)
            .filter(is_copy)
            .or_else(|| Some(self.old_object.annotation()).filter(is_copy))
    }
}

/// Returns the copy of an annotated original, if the sidecar knows it.
fn copy_of_original<H: Host>(
    original: &str,
    sidecar: &mut SidecarClient<'_, H>,
    settings: &Settings<'_>,
) -> Option<Copy> {
    let original = ImageRef::parse(original).ok()?;
    match sidecar.image(&original) {
        Ok(KnownStatus::Mirrored {
            copy,
            digest,
            secret,
        }) => rewrite(&original, &copy, &digest, secret, settings).ok(),
        _ => None,
    }
}

/// The copy that replaces `original`.
fn rewrite(
    original: &ImageRef<'_>,
    copy: &ImageRef<'_>,
    digest: &Digest<'_>,
    secret: Option<String>,
    settings: &Settings<'_>,
) -> Result<Copy, Reason> {
    let image =
        name_of_copy(original, copy, digest, settings.pin_digest).ok_or(Reason::Unusable)?;
    Ok(Copy {
        image: image.into(),
        digest: digest.to_string(),
        secret,
    })
}

/// The host and the path of a copy, which are written in their normal form.
fn repository(copy: &str) -> &str {
    let name = copy.split_once('@').map_or(copy, |(name, _)| name);
    let path = name.rfind('/').map_or(0, |slash| slash + 1);
    let tag = name.get(path..).and_then(|last| last.find(':'));
    tag.and_then(|tag| name.get(..path + tag)).unwrap_or(name)
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
