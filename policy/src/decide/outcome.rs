//! The outcome for one image.

use std::rc::Rc;

use mirror_contract::rules::{Action, Decider};
use mirror_contract::settings::Failover;
use mirror_contract::{BackupName, Digest, ImageRef, Place, Settings, placeholder};

use crate::host::Host;
use crate::images::Slot;
use crate::old_object::OldObject;
use crate::originals_annotation::OriginalsAnnotation;
use crate::pull_secrets::PullSecrets;
use crate::reason::Reason;
use crate::sidecar_client::{KnownStatus, SidecarClient};

/// An object, as far as it matters for decisions.
pub struct Workload<'a> {
    /// The images that may change.
    pub slots: &'a [&'a Slot<'a>],
    pub namespace: &'a str,
    pub secrets: PullSecrets<'a>,
    pub annotation: &'a OriginalsAnnotation,
    /// Istio injects containers into its Pods.
    pub is_injected: bool,
    pub old_object: &'a OldObject<'a>,
    /// Whether its pod spec is new or differs from the old one.
    pub is_new: &'a dyn Fn() -> bool,
    /// Whether its copies may get other names: its Pods are replaced anyway, or the sidecar readmits it.
    pub may_rename: &'a dyn Fn() -> bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Replaced by its copy.
    Rewrite(Rc<Copy>),
    /// Replaced by its copy in the Pods only: the pull Secrets of the template must not change.
    RewriteInPods(Rc<Copy>),
    /// Kept, since it is in the backup already.
    InBackup {
        /// The pull Secret that it is known to need.
        secret: Option<Rc<str>>,
    },
    /// A copy, replaced by its original in a new Pod while the backup is unavailable.
    Original(Rc<Copy>),
    /// Decided by the annotation, since the sidecar does not decide.
    Annotated(Rc<Annotated>),
    /// Kept, since it is not to be mirrored.
    Excluded,
    /// Kept, since the settings say so.
    KeptByRule(Decider),
    /// Kept, although it should be a copy.
    Keep(Rc<Reason>),
}

/// The image that replaces another one with the same content.
#[derive(Debug, PartialEq, Eq)]
pub struct Copy {
    /// As it is written into the object.
    pub image: Rc<str>,
    /// The digest of copy and original.
    pub digest: String,
    /// The pull Secret that it is known to need.
    pub secret: Option<String>,
    /// It is in a backup, whose pull Secret may be unknown, and not in the target of a rewrite.
    pub is_in_backup: bool,
}

/// An image that the annotation decides about.
#[derive(Debug, PartialEq, Eq)]
pub struct Annotated {
    /// The copy that replaces the image; `None` if the image is a copy.
    pub copy: Option<Rc<str>>,
    /// The annotated pull Secret.
    pub secret: Option<String>,
    /// Why the sidecar did not decide; `None` if it was not asked, since the image is immutable or excluded.
    pub reason: Option<Reason>,
}

impl Outcome {
    /// Whether the annotation decides because the sidecar does not respond.
    pub(super) fn is_outage(&self) -> bool {
        let Self::Annotated(annotated) = self else {
            return false;
        };
        let reason = annotated.reason.as_ref();
        reason.is_some_and(|reason| reason.is_unknown() || *reason == Reason::TooManyImages)
    }

    pub(super) fn is_rewritten(&self) -> bool {
        matches!(self, Self::Rewrite(_) | Self::Original(_))
    }

    pub(super) fn keeps_original(&self) -> bool {
        matches!(self, Self::Excluded | Self::KeptByRule(_) | Self::Keep(_))
    }

    pub(super) fn is_original(&self) -> bool {
        matches!(self, Self::Original(_))
    }

    pub(super) fn uses_copy(&self) -> bool {
        !self.is_original() && !self.keeps_original()
    }

    /// Whether the original is kept for good, and not only because the status of the image is unknown.
    pub(super) fn certainly_keeps_original(&self) -> bool {
        match self {
            Self::Excluded | Self::KeptByRule(_) => true,
            Self::Keep(reason) => !reason.is_unknown(),
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
        // Volumes of a running Pod are immutable.
        if slot.is_volume() && self.secrets.are_of_running_pod() {
            return self.annotated(slot, None).unwrap_or(Outcome::Excluded);
        }
        if placeholder::is_placeholder(text, self.is_injected) {
            return Outcome::Excluded;
        }
        let original = match ImageRef::parse(text) {
            Ok(original) => original,
            Err(error) => return Outcome::Keep(Rc::new(Reason::Unparseable(error))),
        };
        if let Some(annotated) = self.annotation_of_copy(text) {
            let annotated = annotated.original(text).unwrap_or_default();
            return self.outcome_of_copy(slot, &original, annotated, sidecar, settings);
        }
        // The policy was called again for the same Pod.
        if self.secrets.are_of_new_pod() && self.annotation.replaces_copy(text) {
            return Outcome::Excluded;
        }
        // The rules apply to originals.
        let decision = settings.rules.decide(self.namespace, &original);
        if let (Action::Keep, Some(decider)) = (decision.action, decision.decider) {
            // The copy in use stays: the original may be gone.
            return self
                .annotated_copy_in_use(slot, None)
                .unwrap_or(Outcome::KeptByRule(decider));
        }
        let status = replacement(decision.action, &original, sidecar);
        let status = match (decision.action, decision.decider) {
            (Action::Rewrite { .. }, Some(rule)) => status.map_err(|reason| reason.of_rule(rule)),
            _ => status,
        };
        match status {
            Ok(KnownStatus::InBackup { secret, .. }) => Outcome::InBackup {
                secret: secret.map(Rc::from),
            },
            // The copy in use stays until there is another one and the workload may restart.
            Ok(KnownStatus::Excluded | KnownStatus::Original) => self
                .annotated_copy_in_use(slot, None)
                .unwrap_or(Outcome::Excluded),
            Ok(KnownStatus::Mirrored {
                copy,
                digest,
                secret,
            }) => {
                let rewrite = rewrite(&original, &copy, &digest, secret, decision.action, settings);
                let kept = match &rewrite {
                    Ok(copy) if !self.is_renamed(slot, copy) || (self.may_rename)() => None,
                    Ok(_) => self.annotated_copy_in_use(slot, None),
                    Err(reason) => self.annotated_copy_in_use(slot, Some(reason)),
                };
                kept.unwrap_or_else(|| match rewrite {
                    Ok(copy) if *copy.image == *text => Outcome::InBackup {
                        secret: copy.secret.map(Rc::from),
                    },
                    Ok(copy) => Outcome::Rewrite(Rc::new(copy)),
                    Err(reason) => Outcome::Keep(Rc::new(reason)),
                })
            }
            Err(reason) if reason.is_unknown() || reason == Reason::TooManyImages => self
                .annotated(slot, Some(&reason))
                .unwrap_or_else(|| Outcome::Keep(Rc::new(reason))),
            Err(reason) => self
                .annotated_copy_in_use(slot, Some(&reason))
                .unwrap_or_else(|| Outcome::Keep(Rc::new(reason))),
        }
    }

    /// The outcome for an annotated copy. It is used until its original has a copy of another name.
    fn outcome_of_copy<H: Host>(
        &self,
        slot: &Slot<'_>,
        image: &ImageRef<'_>,
        original: &str,
        sidecar: &mut SidecarClient<'_, H>,
        settings: &Settings<'_>,
    ) -> Outcome {
        let original = ImageRef::parse(original).ok();
        let decision = original
            .as_ref()
            .map(|original| settings.rules.decide(self.namespace, original));
        let action = decision.map_or(&Action::Keep, |decision| decision.action);
        let is_target = settings.rules.target_with(image).is_some();
        let is_rewrite = matches!(action, Action::Rewrite { target } if target.contains(image));
        let place = match action {
            _ if is_rewrite => Place::Target,
            Action::Mirror { backup } => Place::Backup(backup.clone()),
            Action::Rewrite { .. } | Action::Keep => Place::Backup(BackupName::DEFAULT),
        };
        let status = if is_target && !is_rewrite {
            // No rule puts it there in this namespace: the response must not show whether the target has it.
            Ok(KnownStatus::Excluded)
        } else {
            sidecar.image(&place, image)
        };
        let secret = match status {
            Ok(KnownStatus::InBackup {
                secret,
                is_former,
                is_unavailable,
            }) => {
                if is_unavailable
                    && settings.when_backup_unavailable == Failover::Original
                    && let Some(original) =
                        self.original_of(slot, original.as_ref(), place, sidecar)
                {
                    return Outcome::Original(Rc::new(original));
                }
                let secret = secret.map(Rc::from);
                // A copy is former as well if a rewrite has replaced the rule that made it.
                if !is_former && !matches!(action, Action::Rewrite { .. }) {
                    return Outcome::InBackup { secret };
                }
                secret
            }
            // The sidecar does not know the former location of the backup.
            Ok(KnownStatus::Mirrored { secret, .. }) => secret.map(Rc::from),
            Ok(KnownStatus::Excluded | KnownStatus::Original) => None,
            Err(reason) => {
                return self
                    .annotated(slot, Some(&reason))
                    .unwrap_or_else(|| Outcome::Keep(Rc::new(reason)));
            }
        };
        let copy = (self.may_rename)()
            .then(|| copy_of_original(original.as_ref()?, action, sidecar, settings))
            .flatten();
        match copy {
            Some(copy) if repository(&copy.image) != repository(&slot.image) => {
                Outcome::Rewrite(Rc::new(copy))
            }
            _ if is_rewrite => Outcome::InBackup { secret },
            // The current pull Secret may lack the login for the former location.
            _ => Outcome::InBackup {
                secret: self.annotated_secret().map(Rc::from).or(secret),
            },
        }
    }

    /// The original that replaces the copy in `slot` while the backup at `place` is unavailable, by the digest of the copy.
    /// `None` except for a new Pod: a template would start a rollout now, and another one when the backup is back.
    fn original_of<H: Host>(
        &self,
        slot: &Slot<'_>,
        original: Option<&ImageRef<'_>>,
        place: Place<'_>,
        sidecar: &mut SidecarClient<'_, H>,
    ) -> Option<Copy> {
        let Place::Backup(backup) = place else {
            return None;
        };
        let digest = self.annotation.digest(&slot.image)?;
        let original = original.filter(|_| self.secrets.are_of_new_pod())?;
        let original = original.clone().with_digest(digest.clone());
        let place = Place::Original(backup);
        let mut status = sidecar.image(&place, &original);
        if let Err(Reason::Pending(_)) = status {
            // The lookup continues, and may need little longer than one request may take.
            status = sidecar.image(&place, &original);
        }
        (status == Ok(KnownStatus::Original)).then(|| Copy {
            image: original.to_string().into(),
            digest: digest.to_string(),
            secret: None,
            is_in_backup: false,
        })
    }

    /// Whether the old object uses a copy of the image in `slot` that is in another repository than `copy`.
    fn is_renamed(&self, slot: &Slot<'_>, copy: &Copy) -> bool {
        let in_use = self.old_object.copy_in_use(slot);
        in_use.is_some_and(|in_use| repository(in_use) != repository(&copy.image))
    }

    /// The copy that the old object uses for the image in `slot`. It stays until there is another one, since the original may
    /// be gone.
    pub(super) fn annotated_copy_in_use(
        &self,
        slot: &Slot<'_>,
        reason: Option<&Reason>,
    ) -> Option<Outcome> {
        let copy = self.old_object.copy_in_use(slot)?;
        Some(Outcome::Annotated(Rc::new(Annotated {
            copy: Some(copy.into()),
            secret: self.old_object.annotation().secret.clone(),
            reason: reason.cloned(),
        })))
    }

    /// The outcome from the annotations while the sidecar does not decide. Without it, a workload that is applied or rolled
    /// back during an outage would return to originals that may be gone.
    pub(super) fn annotated(&self, slot: &Slot<'_>, reason: Option<&Reason>) -> Option<Outcome> {
        let (copy, annotation) = if let Some(annotation) = self.annotation_of_copy(&slot.image) {
            (None, annotation)
        } else {
            let copy = self.old_object.copy_of(slot)?;
            (Some(copy.into()), self.old_object.annotation())
        };
        Some(Outcome::Annotated(Rc::new(Annotated {
            copy,
            secret: annotation.secret.clone(),
            reason: reason.cloned(),
        })))
    }

    /// The annotation that has an original for `image`.
    pub(super) fn annotation_of_copy(&self, image: &str) -> Option<&OriginalsAnnotation> {
        // The old object is parsed only if it is needed.
        let is_copy = |annotation: &&OriginalsAnnotation| annotation.original(image).is_some();
        Some(self.annotation)
            .filter(is_copy)
            .or_else(|| Some(self.old_object.annotation()).filter(is_copy))
    }
}

/// The status of what `action` puts in place of `original`.
fn replacement<H: Host>(
    action: &Action<'_>,
    original: &ImageRef<'_>,
    sidecar: &mut SidecarClient<'_, H>,
) -> Result<KnownStatus, Reason> {
    match action {
        Action::Mirror { backup } => sidecar.image(&Place::Backup(backup.clone()), original),
        Action::Rewrite { target } => {
            let rewritten = target.rewrite(original).map_err(Reason::Unsupported)?;
            sidecar.image(&Place::Target, &rewritten)
        }
        Action::Keep => Ok(KnownStatus::Excluded),
    }
}

/// The copy of an annotated original, if `action` replaces it and the sidecar knows it.
fn copy_of_original<H: Host>(
    original: &ImageRef<'_>,
    action: &Action<'_>,
    sidecar: &mut SidecarClient<'_, H>,
    settings: &Settings<'_>,
) -> Option<Copy> {
    match replacement(action, original, sidecar) {
        Ok(KnownStatus::Mirrored {
            copy,
            digest,
            secret,
        }) => rewrite(original, &copy, &digest, secret, action, settings).ok(),
        _ => None,
    }
}

fn rewrite(
    original: &ImageRef<'_>,
    copy: &ImageRef<'_>,
    digest: &Digest<'_>,
    secret: Option<String>,
    action: &Action<'_>,
    settings: &Settings<'_>,
) -> Result<Copy, Reason> {
    let image =
        name_of_copy(original, copy, digest, settings.pin_digest).ok_or(Reason::InvalidResponse)?;
    Ok(Copy {
        image: image.into(),
        digest: digest.to_string(),
        secret,
        is_in_backup: matches!(action, Action::Mirror { .. }),
    })
}

/// The host and the path of a copy, which is in normal form.
fn repository(copy: &str) -> &str {
    let name = copy.split_once('@').map_or(copy, |(name, _)| name);
    let path = name.rfind('/').map_or(0, |slash| slash + 1);
    let tag = name.get(path..).and_then(|last| last.find(':'));
    tag.and_then(|tag| name.get(..path + tag)).unwrap_or(name)
}

/// The reference of the copy, with tag and digest as in `original`, and always with the digest if `pin`. Returns `None` if it
/// cannot be a copy of `original`: it has another digest, or no tag.
fn name_of_copy(
    original: &ImageRef<'_>,
    copy: &ImageRef<'_>,
    digest: &Digest<'_>,
    pin: bool,
) -> Option<String> {
    let mut name = format!("{}/{}", copy.host(), copy.path());
    let tag = match original.digest() {
        Some(pinned) if pinned != digest => return None,
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
