//! Events about policies that cannot be parsed, and about their rules that cannot be followed.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;

use super::events::{About, Events, Notice};
use super::policies::follow::{self, Followed};
use super::policies::{Policies, PolicyId, UnusableKind};
use super::replicas::Replicas;
use crate::backups::{BackupLocations, ByBackup};

/// Interval between reports of a policy that stays as it is, since reports may be dropped. The Event is written once an hour.
const REPORT_INTERVAL: Duration = Duration::from_mins(2);

/// Reports policies until it is dropped.
#[derive(Clone)]
pub struct PolicyEvents {
    pub followed: Followed,
    pub policies: Policies,
    /// Of the configuration in force.
    pub backups: Arc<ByBackup<BackupLocations>>,
    pub replicas: Replicas,
    pub events: Events,
}

impl PolicyEvents {
    pub async fn run(self) {
        let mut invalid = self.followed.invalid();
        let mut policies = self.policies.subscribe();
        let mut shares = self.replicas.subscribe();
        loop {
            let current = invalid.borrow_and_update().clone();
            for policy in current {
                let reason = policy.error;
                self.report(&policy.id, Notice::PolicyInvalid { reason });
            }
            let current = Arc::clone(&policies.borrow_and_update());
            for rule in current.unusable_rules(&self.backups) {
                let reason = rule.reason;
                if let Some(policy) = &rule.policy {
                    let notice = match rule.kind {
                        UnusableKind::BackupUnknown => Notice::BackupUnknown { reason },
                        UnusableKind::Conflict => Notice::RuleConflict { reason },
                    };
                    self.report(policy, notice);
                }
            }
            tokio::select! {
                changed = invalid.changed() => if changed.is_err() {
                    return;
                },
                changed = policies.changed() => if changed.is_err() {
                    return;
                },
                () = sleep(REPORT_INTERVAL) => {}
                _ = shares.changed() => {}
            }
        }
    }

    fn report(&self, policy: &PolicyId, notice: Notice) {
        if self.replicas.owns(&format!("policy/{}", policy.name)) {
            self.events.report(about(policy), notice);
        }
    }
}

fn about(policy: &PolicyId) -> About {
    About {
        api_version: follow::API_VERSION.into(),
        kind: follow::KIND.into(),
        namespace: String::new(),
        name: policy.name.to_string(),
        uid: policy.uid.to_string(),
    }
}
