//! What becomes of each image, and of the pull Secrets.
//!
//! A copy can only be pulled with its pull Secret. So if that Secret is not certain, or cannot be added to this object, every
//! image keeps its upstream, and the same settings decide as for an image that has no copy.

mod fate;
mod template;

use crate::before::Before;
use crate::host::Host;
use crate::images::{Place, Slot};
use crate::mirror::Mirror;
use crate::note::Note;
use crate::pull_secrets::{PullSecrets, SecretChange};
use crate::settings::Settings;
use crate::why::Why;

pub use fate::{Copy, Fate};

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
    /// What the policy noted on it.
    pub note: &'a Note,
    /// What it replaces.
    pub before: &'a Before<'a>,
    /// Whether its pod spec is new, or differs from what it replaces.
    pub is_new: &'a dyn Fn() -> bool,
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
            let fate = workload.fate(slot, mirror, settings);
            if missing.is_none() && workload.needs_secret(&fate) {
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
        Some(Ok(Some(name))) => {
            let given = workload.note.secret.clone();
            plan.secret = SecretChange::Add { name, given };
        }
        Some(Err(why)) => plan.take_back_rewrites(|_| Fate::Keep(why.clone())),
    }
    if workload.secrets.are_of_template() {
        workload.spare_service_account(&mut plan);
    }
    plan
}

impl Workload<'_> {
    /// Whether the image cannot be pulled without the Secret. A template that is not rewritten need not list it: its Pods
    /// get it, and no rollout is worth it.
    fn needs_secret(&self, fate: &Fate) -> bool {
        match fate {
            Fate::Rewrite(_) => true,
            Fate::InBackup { secret } => secret.is_some() && !self.secrets.are_of_template(),
            _ => false,
        }
    }

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
        let name = match mirror.pull_secret(self.namespace) {
            Ok(None) => return Ok(None),
            Ok(Some(name)) => name,
            // It was good enough for what this replaces.
            Err(why) => match &self.before.note().secret {
                Some(name) if why.is_silence() => name.clone(),
                _ => return Err(Why::NoSecret(Box::new(why))),
            },
        };
        Ok(self.secrets.lack(&name)?.then_some(name))
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
