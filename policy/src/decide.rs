//! What becomes of each image, and of the pull Secrets.
//!
//! A copy can only be pulled with its pull Secret. So if that Secret is not certain, or cannot be added to this object, every
//! image keeps its upstream, and the same settings decide as for an image that has no copy.

use mirror_contract::{Digest, ImageRef};

use crate::host::Host;
use crate::images::{Place, Slot};
use crate::mirror::{Known, Mirror};
use crate::pull_secrets::{PullSecrets, SecretChange};
use crate::settings::Settings;
use crate::why::Why;

/// What becomes of an image.
#[derive(Debug, PartialEq, Eq)]
pub enum Fate {
    /// It is replaced by its copy.
    Rewrite(Copy),
    /// It has a copy, but the pull Secrets of the template stay as they are: it is replaced in the Pods.
    RewriteInPods(Copy),
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
    /// Its digest, which is that of the original.
    pub digest: String,
    /// The pull Secret that it is known to need.
    pub secret: Option<String>,
}

/// An image and what becomes of it.
#[derive(Debug)]
pub struct Decision {
    /// Where it is named.
    pub place: Place,
    /// As it was written.
    pub image: String,
    /// What becomes of it.
    pub fate: Fate,
}

/// All decisions about an object.
#[derive(Debug)]
pub struct Plan {
    /// One for each place that names an image.
    pub decisions: Vec<Decision>,
    /// What becomes of the pull Secrets.
    pub secret: SecretChange,
}

/// An object, as far as it matters for decisions.
pub struct Workload<'a> {
    /// The images that may change.
    pub slots: &'a [Slot<'a>],
    /// Where the object is.
    pub namespace: &'a str,
    /// The pull Secrets that it lists.
    pub secrets: PullSecrets<'a>,
    /// The pull Secret that the policy gave to this template before.
    pub given_secret: Option<&'a str>,
    /// Whether an image was in the object that this one replaces.
    pub was_there: &'a dyn Fn(&str) -> bool,
}

/// Decides about a workload.
pub fn decide<H: Host>(
    workload: &Workload<'_>,
    mirror: &mut Mirror<'_, H>,
    settings: &Settings<'_>,
) -> Plan {
    // Asked as soon as it matters: were it asked last, images that took up all the time would cost the others their copy.
    let mut missing = None;
    let decisions = workload
        .slots
        .iter()
        .map(|slot| {
            let fate = fate(slot.image, mirror, settings);
            if missing.is_none() && fate.needs_secret() {
                missing = Some(workload.missing_secret(mirror, fate.known_secret()));
            }
            Decision {
                place: slot.place,
                image: slot.image.to_owned(),
                fate,
            }
        })
        .collect();
    let mut plan = Plan {
        decisions,
        secret: SecretChange::None,
    };
    match missing {
        None | Some(Ok(None)) => {}
        Some(Ok(Some(name))) => plan.secret = SecretChange::Add(name),
        Some(Err(why)) => plan.take_back_rewrites(|_| Fate::Keep(why.clone())),
    }
    workload.spare_service_account(&mut plan);
    plan
}

impl Workload<'_> {
    /// The pull Secret that must be added, if any; `known` is the one that is known to be needed.
    fn missing_secret<H: Host>(
        &self,
        mirror: &mut Mirror<'_, H>,
        known: Option<&str>,
    ) -> Result<Option<String>, Why> {
        if let Some(name) = known
            && !self.secrets.lack(name)?
        {
            return Ok(None);
        }
        let name = mirror
            .pull_secret(self.namespace)
            .map_err(|why| Why::NoSecret(Box::new(why)))?;
        let Some(name) = name else { return Ok(None) };
        Ok(self.secrets.lack(&name)?.then_some(name))
    }

    /// Leaves the pull Secrets of a template to the `ServiceAccount` while an image of it stays upstream, and the copies to
    /// the Pods.
    fn spare_service_account(&self, plan: &mut Plan) {
        let mut upstream = plan
            .decisions
            .iter()
            .filter(|decision| decision.fate.stays_upstream())
            .peekable();
        if upstream.peek().is_none() {
            return;
        }
        if self.secrets.are_left_to_service_account() {
            if plan.secret != SecretChange::None {
                plan.secret = SecretChange::None;
                plan.take_back_rewrites(Fate::RewriteInPods);
            }
            return;
        }
        // An image that was there before came with these Secrets; without a new one, a change here would start a rollout
        // for nothing.
        if self.given_secret.is_some()
            && self.secrets.sole() == self.given_secret
            && upstream.any(|decision| !(self.was_there)(&decision.image))
        {
            plan.secret = SecretChange::Remove;
            plan.take_back_rewrites(Fate::RewriteInPods);
        }
    }
}

impl Plan {
    fn take_back_rewrites(&mut self, instead: impl Fn(Copy) -> Fate) {
        for decision in &mut self.decisions {
            decision.fate = match std::mem::replace(&mut decision.fate, Fate::Unwanted) {
                Fate::Rewrite(copy) => instead(copy),
                fate => fate,
            };
        }
    }
}

impl Fate {
    fn needs_secret(&self) -> bool {
        matches!(self, Self::Rewrite(_) | Self::InBackup { secret: Some(_) })
    }

    fn known_secret(&self) -> Option<&str> {
        match self {
            Self::Rewrite(Copy { secret, .. }) | Self::InBackup { secret } => secret.as_deref(),
            _ => None,
        }
    }

    fn stays_upstream(&self) -> bool {
        matches!(self, Self::Unwanted | Self::Keep(_))
    }
}

fn fate<H: Host>(text: &str, mirror: &mut Mirror<'_, H>, settings: &Settings<'_>) -> Fate {
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
                digest: digest.to_string(),
                secret,
            }),
            None => Fate::Keep(Why::Unusable),
        },
        Err(why) => Fate::Keep(why),
    }
}

/// How the copy is written where `original` was: tag and digest as they were there, and the digest always if `pin`.
/// `None` if the copy is not one of what was asked for.
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
