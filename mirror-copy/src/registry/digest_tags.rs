//! The tags of a repository that are made of digests, asked for once however many images need them.

use super::repository::Repository;
use crate::error::RegistryError;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::OnceCell;
use tokio::time::Instant;

/// Where digest tags begin. Only this algorithm is in use for them.
const DIGEST_TAG: &str = "sha256-";

/// How long a list is used: as long as copying the tags of one repository takes, and short enough that a
/// signature made since is seen by the next round.
const LIFE: Duration = Duration::from_secs(30);

/// Repositories whose lists are kept at the same time.
const MAX_LISTS: usize = 64;

/// The tags that begin with a digest, and maybe others; `None` if they cannot be listed by one request.
pub(crate) type DigestTags = Option<Arc<[String]>>;

/// The lists of one host.
#[derive(Default)]
pub(super) struct Lists(Mutex<HashMap<Arc<str>, (Instant, Slot)>>);

type Slot = Arc<OnceCell<DigestTags>>;

impl Repository {
    /// The digest tags of this repository, not older than half a minute.
    pub(crate) async fn digest_tags(&self) -> Result<DigestTags, RegistryError> {
        let slot = self.registry.shared.digest_tags.slot(&self.name);
        let list = slot.get_or_try_init(|| async {
            match self.tags_after(DIGEST_TAG).await {
                Ok(tags) => Ok(tags.map(Arc::from)),
                Err(error) if error.retry().is_transient() => Err(error),
                Err(error) => {
                    tracing::debug!(%error, "tags cannot be listed");
                    Ok(None)
                }
            }
        });
        list.await.cloned()
    }
}

impl Lists {
    fn slot(&self, repository: &Arc<str>) -> Slot {
        let mut lists = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        lists.retain(|_, (since, _)| since.elapsed() < LIFE);
        if lists.len() >= MAX_LISTS {
            lists.clear();
        }
        let fresh = || (Instant::now(), Slot::default());
        let (_, slot) = lists.entry(Arc::clone(repository)).or_insert_with(fresh);
        Arc::clone(slot)
    }
}
