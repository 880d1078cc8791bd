//! Reports injected containers whose images the policy does not rewrite.

use std::time::Duration;

use tokio::time::sleep;

use super::copy_status::CopyStatuses;
use super::events::{About, Events, Notice};
use super::index::{CopyState, Index, InjectedImages};
use super::replicas::Replicas;
use super::shared_index::Indexes;
use crate::backups::ByBackup;

/// Pause after each pass: the first list of a cluster is thousands of changes.
const PAUSE: Duration = Duration::from_secs(5);

#[derive(Clone)]
pub(super) struct InjectedContainers {
    pub indexes: Indexes,
    pub copy_status: ByBackup<CopyStatuses>,
    pub replicas: Replicas,
    pub events: Events,
}

impl InjectedContainers {
    /// Reports by Events until it is dropped.
    pub(super) async fn run(self) {
        let mut index = self.indexes.of_default().subscribe_any();
        let mut copies = self.copy_status.of_default().subscribe();
        let mut shares = self.replicas.subscribe();
        loop {
            let injected = self.indexes.read(|indexes| {
                let templates = indexes.first();
                let injected = |index: &&Index| templates.map(|all| index.injected_into(all));
                indexes.iter().filter_map(injected).collect::<Vec<_>>()
            });
            for (injected, copy_status) in injected.into_iter().zip(self.copy_status.values()) {
                self.report(injected, copy_status);
            }
            tokio::select! {
                _ = index.changed() => {}
                _ = copies.changed() => {}
                _ = shares.changed() => {}
            }
            sleep(PAUSE).await;
        }
    }

    fn report(&self, injected: Vec<InjectedImages>, copy_status: &CopyStatuses) {
        for InjectedImages { key, uid, images } in injected {
            if !self.replicas.owns(&format!("workload/{uid}")) {
                continue;
            }
            let images = images.into_iter();
            let images =
                images.filter(|image| copy_status.copy_state(image) == CopyState::Mirrored);
            let images: Vec<_> = images.map(|image| image.to_string()).collect();
            let Some(image) = images.first().cloned() else {
                continue;
            };
            let notice = Notice::InjectedNotRewritten { images };
            if self.events.report(About::workload(&key, &uid), notice) {
                tracing::info!(
                    workload = %key,
                    image,
                    "image of an injected container is not rewritten; set the image in the injector's own settings, or set \
                     --reinvoke-policy"
                );
            }
        }
    }
}
