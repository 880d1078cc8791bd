//! Events about policies that cannot be parsed.

use std::time::Duration;

use tokio::time::sleep;

use super::events::{About, Events, Notice};
use super::policies::follow::{self, Followed, InvalidPolicy};
use super::replicas::Replicas;

/// Interval between reports of a policy that stays invalid, since reports may be dropped. The Event is written once an hour.
const REPORT_INTERVAL: Duration = Duration::from_mins(2);

/// Reports policies until it is dropped.
#[derive(Clone)]
pub struct PolicyEvents {
    pub followed: Followed,
    pub replicas: Replicas,
    pub events: Events,
}

impl PolicyEvents {
    pub async fn run(self) {
        let mut invalid = self.followed.invalid();
        let mut shares = self.replicas.subscribe();
        loop {
            let current = invalid.borrow_and_update().clone();
            for policy in &current {
                if self.replicas.owns(&format!("policy/{}", policy.name)) {
                    let notice = Notice::PolicyInvalid {
                        reason: policy.error.clone(),
                    };
                    self.events.report(about(policy), notice);
                }
            }
            tokio::select! {
                changed = invalid.changed() => if changed.is_err() {
                    return;
                },
                () = sleep(REPORT_INTERVAL) => {}
                _ = shares.changed() => {}
            }
        }
    }
}

fn about(policy: &InvalidPolicy) -> About {
    About {
        api_version: follow::API_VERSION.into(),
        kind: follow::KIND.into(),
        namespace: String::new(),
        name: policy.name.to_string(),
        uid: policy.uid.to_string(),
    }
}
