//! Decides about each image of a workload and about its pull Secrets.
//!
//! A copy can only be pulled with its pull Secret. If that Secret is not certain to exist, or cannot be added to the object,
//! all images keep their originals, and the same settings apply as for an image without a copy.
//!
//! A template that lists the backup's Secret must have copies only: its other images would miss the Secrets of the
//! `ServiceAccount`. While an image of such a template keeps its original, the template lists no Secret. Its other images are
//! rewritten in the Pods, which get the Secret as well. Copies that it already uses stay: their originals may be gone.

mod outcome;

use std::collections::HashMap;
use std::rc::Rc;

use mirror_contract::Settings;

use crate::host::Host;
use crate::images::Slot;
use crate::pull_secrets::SecretChange;
use crate::reason::Reason;
use crate::sidecar_client::SidecarClient;

pub use outcome::{Annotated, Copy, Outcome, Workload};

#[derive(Debug)]
pub struct Decision<'a> {
    pub slot: &'a Slot<'a>,
    pub outcome: Outcome,
    /// An earlier slot has the same image and outcome.
    pub is_repeated: bool,
}

#[derive(Debug)]
pub struct Plan<'a> {
    pub decisions: Vec<Decision<'a>>,
    pub secret: SecretChange,
}

pub fn decide<'a, H: Host>(
    workload: &Workload<'a>,
    sidecar: &mut SidecarClient<'_, H>,
    settings: &Settings<'_>,
) -> Plan<'a> {
    // Requested with the first copy: requested last, slow images could leave no time for it, and all copies would be lost.
    let mut missing = Ok(None);
    // Outcomes that do not depend on the name of the container or volume.
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
                Outcome::Annotated(_) => true,
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
            plan.replace_rewrites(|slot, _| {
                // A former copy has its Secret already, so it does not keep an original.
                let annotated = match workload.annotation_of_copy(&slot.image) {
                    Some(_) => workload.annotated(slot, Some(&reason)),
                    None => workload.annotated_copy_in_use(slot, Some(&reason)),
                };
                annotated.unwrap_or_else(|| Outcome::Keep(Rc::clone(&reason)))
            });
            plan.secret = workload.add_annotated(&plan);
        }
    }
    // In an outage no Secret is removed, whatever happens to the other images.
    let is_outage = plan.any(Outcome::is_outage);
    if workload.secrets.are_of_template() && !is_outage {
        workload.keep_secrets_of_service_account(&mut plan);
    }
    // The originals may need the Secrets of the `ServiceAccount`, which a Pod gets if it lists none.
    if let Some(name) = workload.secrets.only()
        && plan.any(Outcome::is_original)
        && !plan.any(Outcome::uses_copy)
        && settings.known_copies.is_pull_secret(name)
    {
        plan.secret = SecretChange::Remove {
            name: name.to_owned(),
        };
    }
    plan
}

impl Workload<'_> {
    /// The pull Secret that must be added, if any, so that an image with this outcome can be pulled.
    ///
    /// A template that merely names copies need not list it: its Pods get it, and it is not worth a rollout.
    fn missing_secret<H: Host>(
        &self,
        sidecar: &mut SidecarClient<'_, H>,
        slot: &Slot<'_>,
        outcome: &Outcome,
    ) -> Result<Option<String>, Reason> {
        let is_pod = !self.secrets.are_of_template();
        let known = match outcome {
            // The target of a rewrite needs none without credentials in the configuration of the sidecar.
            Outcome::Rewrite(copy) if !copy.is_in_backup && copy.secret.is_none() => {
                return Ok(None);
            }
            Outcome::Rewrite(copy) => {
                // The template lists the Secret under a former name, and may not restart for the new one yet.
                if let Some(name) = self.secret_in_use(slot)
                    && copy.secret.as_deref() != Some(name)
                    && !(self.may_rename)()
                {
                    return Ok(self.secrets.lacks(name)?.then(|| name.to_owned()));
                }
                copy.secret.as_deref()
            }
            Outcome::InBackup { secret: Some(name) } if is_pod || self.is_to_list(name) => {
                Some(&**name)
            }
            // A running Pod has already pulled it.
            Outcome::Annotated(_) if self.secrets.are_of_running_pod() => return Ok(None),
            // The sidecar does not respond, so the annotated Secret must do.
            Outcome::Annotated(annotated) if is_pod || annotated.copy.is_some() => {
                let name = annotated.secret.as_deref();
                let Some(name) = name.filter(|name| self.had_secret(name)) else {
                    return Ok(None);
                };
                return Ok(self.secrets.lacks(name)?.then(|| name.to_owned()));
            }
            _ => return Ok(None),
        };
        if let Some(name) = known
            && !self.secrets.lacks(name)?
        {
            return Ok(None);
        }
        let name = sidecar
            .pull_secret(self.namespace)
            .map_err(|reason| Reason::NoSecret(Box::new(reason)))?;
        let Some(name) = name else { return Ok(None) };
        Ok(self.secrets.lacks(&name)?.then_some(name))
    }

    /// The annotated pull Secret of a template, if the old template lists it and uses a copy in `slot`.
    fn secret_in_use(&self, slot: &Slot<'_>) -> Option<&str> {
        let name = self.old_object.annotation().secret.as_deref()?;
        let is_listed = self.secrets.are_of_template() && self.old_object.lists(name);
        (is_listed && self.old_object.copy_in_use(slot).is_some()).then_some(name)
    }

    /// Whether a template with an annotated pull Secret must list `name`, because it listed another one or left it to its Pods.
    fn is_to_list(&self, name: &str) -> bool {
        self.secrets.lacks(name) == Ok(true)
            && self.annotated_secret().is_some()
            && (self.may_rename)()
    }

    /// Whether annotated copies had the pull Secret. A template may have left it to its Pods.
    fn had_secret(&self, name: &str) -> bool {
        let old_object = self.old_object;
        !self.secrets.are_of_template() || old_object.lists(name) || !old_object.uses_copies()
    }

    fn annotated_secret(&self) -> Option<&str> {
        let secret = self.annotation.secret.as_deref();
        secret.or_else(|| self.old_object.annotation().secret.as_deref())
    }

    /// The change that adds the annotated pull Secret of annotated copies.
    fn add_annotated(&self, plan: &Plan<'_>) -> SecretChange {
        let is_pod = !self.secrets.are_of_template();
        let missing = plan.decisions.iter().find_map(|decision| {
            let name = match &decision.outcome {
                Outcome::Annotated(annotated) if is_pod || annotated.copy.is_some() => {
                    annotated.secret.as_deref()?
                }
                Outcome::InBackup { .. } if is_pod => self
                    .annotation_of_copy(&decision.slot.image)?
                    .secret
                    .as_deref()?,
                _ => return None,
            };
            let is_missing = self.had_secret(name) && self.secrets.lacks(name) == Ok(true);
            is_missing.then(|| name.to_owned())
        });
        missing.map_or(SecretChange::None, |name| SecretChange::Add {
            name,
            former: None,
        })
    }

    /// The change that adds `name`, and removes the annotated Secret if no image needs that any more.
    fn add(&self, name: String, plan: &Plan<'_>) -> SecretChange {
        let needs_it = |decision: &Decision<'_>| match &decision.outcome {
            Outcome::Rewrite(_) => true,
            Outcome::InBackup { secret } => secret.as_deref() == Some(name.as_str()),
            _ => false,
        };
        let former = self.annotation.secret.clone();
        let former = former.filter(|_| plan.decisions.iter().all(needs_it));
        SecretChange::Add { name, former }
    }

    fn keep_secrets_of_service_account(&self, plan: &mut Plan<'_>) {
        if self.secrets.are_left_to_service_account() {
            if plan.secret != SecretChange::None && plan.any(Outcome::keeps_original) {
                plan.secret = SecretChange::None;
                self.leave_to_pods(plan);
            }
            return;
        }
        let Some(name) = self.secrets.only() else {
            return;
        };
        // If the rest of the pod spec stays the same, the change would start a rollout for nothing.
        if self.annotated_secret() == Some(name)
            && plan.any(Outcome::certainly_keeps_original)
            && (plan.any(Outcome::is_rewritten) || (self.is_new)())
        {
            plan.secret = SecretChange::Remove {
                name: name.to_owned(),
            };
            self.leave_to_pods(plan);
        }
    }

    fn leave_to_pods(&self, plan: &mut Plan<'_>) {
        plan.replace_rewrites(|slot, copy| {
            let is_copy = self.annotation_of_copy(&slot.image).is_some()
                || self.old_object.copy_in_use(slot).is_some();
            if is_copy {
                Outcome::Rewrite(Rc::clone(&copy))
            } else {
                Outcome::RewriteInPods(copy)
            }
        });
    }
}

impl Plan<'_> {
    pub fn rewrites_anything(&self) -> bool {
        self.any(Outcome::is_rewritten)
    }

    fn any(&self, is: fn(&Outcome) -> bool) -> bool {
        self.decisions.iter().any(|decision| is(&decision.outcome))
    }

    fn replace_rewrites(&mut self, instead: impl Fn(&Slot<'_>, Rc<Copy>) -> Outcome) {
        for decision in &mut self.decisions {
            decision.outcome = match std::mem::replace(&mut decision.outcome, Outcome::Excluded) {
                Outcome::Rewrite(copy) => instead(decision.slot, copy),
                outcome => outcome,
            };
        }
    }
}
