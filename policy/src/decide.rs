//! What becomes of each image.
//!
//! A copy can only be pulled with its pull Secret. So if that Secret is not certain, or cannot be added to this object, every
//! image keeps its upstream, and the same settings decide as for an image that has no copy.

use mirror_contract::{Digest, ImageRef};

use crate::host::Host;
use crate::images::{Place, Slot};
use crate::mirror::{Known, Mirror};
use crate::pull_secrets::PullSecrets;
use crate::why::Why;

/// What becomes of an image.
#[derive(Debug, PartialEq, Eq)]
pub enum Fate {
    /// It is replaced by its copy.
    Rewrite(Copy),
    /// It stays, as it should.
    Leave,
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
    /// The pull Secret to add.
    pub add_secret: Option<String>,
}

/// Decides about all `slots` of an object in `namespace`.
pub fn decide<H: Host>(
    slots: &[Slot<'_>],
    mirror: &mut Mirror<'_, H>,
    namespace: &str,
    secrets: &PullSecrets<'_>,
    pin: bool,
) -> Plan {
    // Asked as soon as it matters: were it asked last, images that took up all the time would cost the others their copy.
    let mut secret = None;
    let mut decisions: Vec<_> = slots
        .iter()
        .map(|slot| {
            let fate = fate(slot.image, mirror, pin);
            if secret.is_none() && matches!(fate, Fate::Rewrite(_)) {
                secret = Some(missing_secret(mirror, namespace, secrets));
            }
            Decision {
                place: slot.place,
                image: slot.image.to_owned(),
                fate,
            }
        })
        .collect();
    let add_secret = match secret {
        None => None,
        Some(Ok(add)) => add,
        Some(Err(why)) => {
            for decision in &mut decisions {
                if matches!(decision.fate, Fate::Rewrite(_)) {
                    decision.fate = Fate::Keep(why.clone());
                }
            }
            None
        }
    };
    Plan {
        decisions,
        add_secret,
    }
}

fn fate<H: Host>(text: &str, mirror: &mut Mirror<'_, H>, pin: bool) -> Fate {
    let original = match ImageRef::parse(text) {
        Ok(original) => original,
        Err(error) => return Fate::Keep(Why::Unparseable(error)),
    };
    match mirror.image(&original) {
        Ok(Known::Excluded) => Fate::Leave,
        Ok(Known::Mirrored { copy, digest }) => {
            match name_of_copy(&original, &copy, &digest, pin) {
                Some(image) if image == text => Fate::Leave,
                Some(image) => Fate::Rewrite(Copy {
                    image,
                    digest: digest.to_string(),
                }),
                None => Fate::Keep(Why::Unusable),
            }
        }
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

/// The pull Secret that must be added, if any.
fn missing_secret<H: Host>(
    mirror: &mut Mirror<'_, H>,
    namespace: &str,
    secrets: &PullSecrets<'_>,
) -> Result<Option<String>, Why> {
    let name = mirror
        .pull_secret(namespace)
        .map_err(|why| Why::NoSecret(Box::new(why)))?;
    let Some(name) = name else { return Ok(None) };
    Ok(secrets.lack(&name)?.then_some(name))
}
