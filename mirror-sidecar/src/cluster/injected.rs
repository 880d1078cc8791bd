//! Reports injected containers whose images the policy does not rewrite.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;

use super::copy_status::CopyStatuses;
use super::events::{About, Events, Notice};
use super::index::{CopyState, Index, InjectedImages};
use super::replicas::Replicas;
use super::shared_index::SharedIndex;

/// Pause after each pass: the first list of a cluster is thousands of changes.
const PAUSE: Duration = Duration::from_secs(5);

#[derive(Clone)]
pub(super) struct InjectedContainers {
    pub cluster: Arc<SharedIndex>,
    pub copy_status: CopyStatuses,
    pub replicas: Replicas,
    pub events: Events,
}

impl InjectedContainers {
    /// Reports by Events until it is dropped.
    pub(super) async fn run(self) {
        let mut index = self.cluster.subscribe();
        let mut copies = self.copy_status.subscribe();
        let mut shares = self.replicas.subscribe();
        loop {
            self.report();
            tokio::select! {
                _ = index.changed() => {}
                _ = copies.changed() => {}
                _ = shares.changed() => {}
            }
            sleep(PAUSE).await;
        }
    }

    fn report(&self) {
        for InjectedImages { key, uid, images } in self.cluster.read(Index::injected) {
            if !self.replicas.owns(&format!("workload/{uid}")) {
                continue;
            }
            let images = images.into_iter();
            let images =
                images.filter(|image| self.copy_status.copy_state(image) == CopyState::Mirrored);
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
