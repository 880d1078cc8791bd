//! Templates that leave their pull Secrets to the `ServiceAccount`.
//!
//! Such a template is rewritten as a whole or not at all: either all its images are copies and it lists the backup's Secret
//! alone, or all are upstream and it lists none. In between, an image upstream would miss the Secrets of the account, or a
//! copy the one of the backup. While it is upstream, its Pods are rewritten.

use super::{Fate, Plan, Workload};
use crate::pull_secrets::SecretChange;

impl Workload<'_> {
    pub(super) fn spare_service_account(&self, plan: &mut Plan<'_>) {
        if self.secrets.are_left_to_service_account() {
            if plan.secret != SecretChange::None && plan.any(Fate::stays_upstream) {
                plan.secret = SecretChange::None;
                plan.take_back_rewrites(Fate::RewriteInPods);
            }
            return;
        }
        let Some(name) = self.secrets.sole() else {
            return;
        };
        // Where the pod spec would stay as it is, a change would start a rollout for nothing.
        if self.annotation.secret.as_deref() == Some(name)
            && plan.any(Fate::stays_for_a_reason)
            && (plan.any(Fate::is_rewritten) || (self.is_new)())
        {
            plan.secret = SecretChange::Remove {
                name: name.to_owned(),
            };
            plan.take_back_rewrites(Fate::RewriteInPods);
            self.restore(plan);
        }
    }

    fn restore(&self, plan: &mut Plan<'_>) {
        for decision in &mut plan.decisions {
            if let Some(original) = self.annotation.original(&decision.slot.image) {
                let original = original.into();
                decision.fate = Fate::Restore { original };
            }
        }
    }
}
