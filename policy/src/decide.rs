//! What becomes of each image, and of the pull Secrets.
//!
//! A copy can only be pulled with its pull Secret. So if that Secret is not certain, or cannot be added to this object, every
//! image keeps its upstream, and the same settings decide as for an image that has no copy.

mod outcome;
mod template;
mod workload;

use std::collections::HashMap;
use std::rc::Rc;

use crate::host::Host;
use crate::images::Slot;
use crate::pull_secrets::SecretChange;
use crate::reason::Reason;
use crate::settings::Settings;
use crate::sidecar_client::SidecarClient;

pub use outcome::{Copy, Outcome, Remembered};
pub use workload::Workload;

/// An image and what becomes of it.
#[derive(Debug)]
pub struct Decision<'a> {
    /// Where it is named, and as what.
    pub slot: &'a Slot<'a>,
    /// What becomes of it.
    pub outcome: Outcome,
    /// There was the same decision about the same image before.
    pub is_repeated: bool,
}

/// All decisions about an object.
#[derive(Debug)]
pub struct Plan<'a> {
    /// One for each place that names an image.
    pub decisions: Vec<Decision<'a>>,
    /// What becomes of the pull Secrets.
    pub secret: SecretChange,
}

/// Decides about a workload.
pub fn decide<'a, H: Host>(
    workload: &Workload<'a>,
    sidecar: &mut SidecarClient<'_, H>,
    settings: &Settings<'_>,
) -> Plan<'a> {
    // Asked as soon as it matters: were it asked last, images that took up all the time would cost the others their copy.
    let mut missing = Ok(None);
    // Outcomes that do not depend on what the entry of this name was before.
    let mut decided: HashMap<(&str, bool), Outcome> = HashMap::new();
    let decisions: Vec<_> = workload
        .slots
        .iter()
        .map(|&slot| {
            let key = (&*slot.image, slot.is_volume());
            if let Some(outcome) = decided.get(&key) {
                return Decision {
                    slot,
                    outcome: outcome.clone(),
                    is_repeated: true,
                };
            }
            let outcome = workload.outcome(slot, sidecar, settings);
            if missing == Ok(None) {
                missing = workload.missing_secret(sidecar, slot, &outcome);
            }
            let depends_on_name = match &outcome {
                Outcome::Remembered(_) => true,
                Outcome::InBackup { .. } => false,
                _ => !workload.old_object.annotation().is_empty(),
            };
            if !depends_on_name {
                decided.insert(key, outcome.clone());
            }
            Decision {
                slot,
                outcome,
                is_repeated: false,
            }
        })
        .collect();
    let mut plan = Plan {
        decisions,
        secret: SecretChange::None,
    };
    match missing {
        Ok(None) => {}
        Ok(Some(name)) => plan.secret = workload.add(name, &plan),
        Err(reason) => {
            let reason = Rc::new(reason);
            plan.take_back_rewrites(|slot, _| {
                // A former copy has a Secret already: it is no image that stays upstream.
                let remembered = match workload.annotation_of_copy(&slot.image) {
                    Some(_) => workload.remembered(slot, Some(&reason)),
                    None => workload.remembered_in_use(slot, Some(&reason)),
                };
                remembered.unwrap_or_else(|| Outcome::Keep(Rc::clone(&reason)))
            });
            plan.secret = workload.add_annotated(&plan);
        }
    }
    // While nobody responds, nothing is taken back, whatever becomes of the rest.
    let is_outage = plan.any(Outcome::is_silence);
    if workload.secrets.are_of_template() && !is_outage {
        workload.spare_service_account(&mut plan);
    }
    plan
}

impl Workload<'_> {
    /// The pull Secret that must be added, if any, so that an image with this outcome can be pulled.
    ///
    /// A template that merely names copies need not list it: its Pods get it, and no rollout is worth it.
    fn missing_secret<H: Host>(
        &self,
        sidecar: &mut SidecarClient<'_, H>,
        slot: &Slot<'_>,
        outcome: &Outcome,
    ) -> Result<Option<String>, Reason> {
        let is_pod = !self.secrets.are_of_template();
        let known = match outcome {
            Outcome::Rewrite(copy) => {
                // It has one already. The one of another name waits for its turn.
                if let Some(name) = self.secret_in_use(slot)
                    && copy.secret.as_deref() != Some(name)
                    && !(self.may_rename)()
                {
                    return Ok(self.secrets.lack(name)?.then(|| name.to_owned()));
                }
                copy.secret.as_deref()
            }
            Outcome::InBackup { secret: Some(name) } if is_pod || self.is_to_list(name) => {
                Some(&**name)
            }
            // It ran there before.
            Outcome::Remembered(_) if self.secrets.are_of_running_pod() => return Ok(None),
            // Good enough for what was there before, and there is nobody to ask.
            Outcome::Remembered(remembered) if is_pod || remembered.copy.is_some() => {
                let name = remembered.secret.as_deref();
                let Some(name) = name.filter(|name| self.had_secret(name)) else {
                    return Ok(None);
                };
                return Ok(self.secrets.lack(name)?.then(|| name.to_owned()));
            }
            _ => return Ok(None),
        };
        if let Some(name) = known
            && !self.secrets.lack(name)?
        {
            return Ok(None);
        }
        let name = sidecar
            .pull_secret(self.namespace)
            .map_err(|reason| Reason::NoSecret(Box::new(reason)))?;
        let Some(name) = name else { return Ok(None) };
        Ok(self.secrets.lack(&name)?.then_some(name))
    }

    /// The pull Secret that a template was given for the copy that it uses in `slot`.
    fn secret_in_use(&self, slot: &Slot<'_>) -> Option<&str> {
        let name = self.old_object.annotation().secret.as_deref()?;
        let is_listed = self.secrets.are_of_template() && self.old_object.lists(name);
        (is_listed && self.old_object.copy_in_use(slot).is_some()).then_some(name)
    }

    /// Whether a template that was given a pull Secret before is to list the one of this `name`: it listed another, or left
    /// it to its Pods.
    fn is_to_list(&self, name: &str) -> bool {
        self.secrets.lack(name) == Ok(true)
            && self.annotated_secret().is_some()
            && (self.may_rename)()
    }

    /// Whether copies that are used again had the pull Secret. A template may have left it to its Pods.
    fn had_secret(&self, name: &str) -> bool {
        let old_object = self.old_object;
        !self.secrets.are_of_template() || old_object.lists(name) || !old_object.uses_copies()
    }

    /// The change that adds the annotated pull Secret of copies that are used again.
    fn add_annotated(&self, plan: &Plan<'_>) -> SecretChange {
        let is_pod = !self.secrets.are_of_template();
        let missing = plan.decisions.iter().find_map(|decision| {
            let name = match &decision.outcome {
                Outcome::Remembered(remembered) if is_pod || remembered.copy.is_some() => {
                    remembered.secret.as_deref()?
                }
                Outcome::InBackup { .. } if is_pod => self
                    .annotation_of_copy(&decision.slot.image)?
                    .secret
                    .as_deref()?,
                _ => return None,
            };
            let is_missing = self.had_secret(name) && self.secrets.lack(name) == Ok(true);
            is_missing.then(|| name.to_owned())
        });
        missing.map_or(SecretChange::None, |name| SecretChange::Add {
            name,
            given: None,
        })
    }

    /// The change that adds `name`. The Secret that was given before goes if no image needs it any more.
    fn add(&self, name: String, plan: &Plan<'_>) -> SecretChange {
        let needs_it = |decision: &Decision<'_>| match &decision.outcome {
            Outcome::Rewrite(_) => true,
            Outcome::InBackup { secret } => secret.as_deref() == Some(name.as_str()),
            _ => false,
        };
        let given = self.annotation.secret.clone();
        let given = given.filter(|_| plan.decisions.iter().all(needs_it));
        SecretChange::Add { name, given }
    }
}

impl Plan<'_> {
    /// Whether an image is replaced by its copy.
    pub fn rewrites_anything(&self) -> bool {
        self.any(Outcome::is_rewritten)
    }

    fn any(&self, is: fn(&Outcome) -> bool) -> bool {
        self.decisions.iter().any(|decision| is(&decision.outcome))
    }

    fn take_back_rewrites(&mut self, instead: impl Fn(&Slot<'_>, Rc<Copy>) -> Outcome) {
        for decision in &mut self.decisions {
            decision.outcome = match std::mem::replace(&mut decision.outcome, Outcome::Unwanted) {
                Outcome::Rewrite(copy) => instead(decision.slot, copy),
                outcome => outcome,
            };
        }
    }
}
