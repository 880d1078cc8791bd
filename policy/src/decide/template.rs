//! Templates that leave their pull Secrets to the `ServiceAccount`.
//!
//! A template that lists the backup's Secret alone has copies only: an image upstream would miss the Secrets of the account.
//! So while an image of it stays upstream, such a template lists none. Its other images become copies in its Pods, which get
//! the Secret as well. Copies that it has already stay: their originals may be gone.

use std::rc::Rc;

use super::{Outcome, Plan, Workload};
use crate::pull_secrets::SecretChange;

impl Workload<'_> {
    pub(super) fn spare_service_account(&self, plan: &mut Plan<'_>) {
        if self.secrets.are_left_to_service_account() {
            if plan.secret != SecretChange::None && plan.any(Outcome::stays_upstream) {
                plan.secret = SecretChange::None;
                self.leave_to_pods(plan);
            }
            return;
        }
        let Some(name) = self.secrets.sole() else {
            return;
        };
        // Where the pod spec would stay as it is, a change would start a rollout for nothing.
        if self.annotated_secret() == Some(name)
            && plan.any(Outcome::stays_for_a_reason)
            && (plan.any(Outcome::is_rewritten) || (self.is_new)())
        {
            plan.secret = SecretChange::Remove {
                name: name.to_owned(),
            };
            self.leave_to_pods(plan);
        }
    }

    /// Images that are not copies yet are rewritten in the Pods.
    fn leave_to_pods(&self, plan: &mut Plan<'_>) {
        plan.take_back_rewrites(|slot, copy| {
            let is_copy = self.annotation_of_copy(&slot.image).is_some()
                || self.old_object.copy_in_use(slot).is_some();
            if is_copy {
                Outcome::Rewrite(Rc::clone(&copy))
            } else {
                Outcome::RewriteInPods(copy)
            }
        });
    }

    /// The pull Secret that the template was given.
    pub(super) fn annotated_secret(&self) -> Option<&str> {
        let secret = self.annotation.secret.as_deref();
        secret.or_else(|| self.old_object.annotation().secret.as_deref())
    }
}
