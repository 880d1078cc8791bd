//! The tags of a repository that are made of digests: their list, asked for once however many images need it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::OnceCell;
use tokio::time::Instant;

/// Where digest tags begin. Only this algorithm is in use for them.
pub(super) const DIGEST_TAG: &str = "sha256-";

/// How long a list is used: as long as copying the tags of one repository takes, and short enough that a
/// signature made since is seen by the next round.
const LIFE: Duration = Duration::from_secs(30);

/// Repositories whose lists are kept at the same time.
const MAX_LISTS: usize = 64;

/// Most bytes that the lists of all hosts take together. The longest possible list fits.
const MAX_BYTES: usize = 1024 * 1024;

/// The tags that begin with a digest; `None` if they cannot be listed by one request.
pub(crate) type DigestTags = Option<Arc<[String]>>;

/// The lists of all hosts, by `host/repository`.
#[derive(Default)]
pub(crate) struct DigestTagLists(Mutex<HashMap<String, (Instant, Slot)>>);

pub(super) type Slot = Arc<OnceCell<DigestTags>>;

impl DigestTagLists {
    pub(super) fn slot(&self, repository: String) -> Slot {
        let mut lists = self.lock();
        lists.retain(|_, (since, _)| since.elapsed() < LIFE);
        if lists.len() >= MAX_LISTS {
            lists.clear();
        }
        let fresh = || (Instant::now(), Slot::default());
        let (_, slot) = lists.entry(repository).or_insert_with(fresh);
        Arc::clone(slot)
    }

    /// Forgets all other lists that were received if they are too much together with this one.
    pub(super) fn make_room(&self, own: &Slot) {
        let mut lists = self.lock();
        if lists.values().map(|(_, slot)| bytes(slot)).sum::<usize>() > MAX_BYTES {
            lists.retain(|_, (_, slot)| Arc::ptr_eq(slot, own) || bytes(slot) == 0);
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, HashMap<String, (Instant, Slot)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a list takes, in bytes.
fn bytes(slot: &Slot) -> usize {
    let tags = slot.get().and_then(Option::as_deref).unwrap_or_default();
    let each = tags.iter().map(|tag| tag.len() + size_of::<String>());
    each.sum()
}

#[cfg(test)]
mod tests {
    use super::super::repository::Access;
    use super::super::tags::MAX_WITH_PREFIX;
    use super::super::testing::{registry, respond};
    use super::*;
    use crate::error::RegistryError;

    #[test]
    fn the_longest_list_fits() {
        let longest_tag = 128;
        assert!(MAX_WITH_PREFIX * (longest_tag + size_of::<String>()) <= MAX_BYTES);
    }

    #[tokio::test]
    async fn lists_are_asked_for_once_and_failures_too() {
        let (registry, log) = registry(|parts, _| match parts.uri.path() {
            "/v2/good/tags/list" => respond(200, &[], r#"{"tags":["a","sha256-b"]}"#),
            _ => respond(500, &[], ""),
        })
        .await;
        let good = registry.repository("good", Access::Pull).unwrap();
        let bad = registry.repository("bad", Access::Pull).unwrap();
        for _ in 0..3 {
            let tags = good.digest_tags().await.unwrap();
            assert_eq!(*tags, ["sha256-b".to_owned()]);
            assert_eq!(bad.digest_tags().await, None);
        }
        assert_eq!((log.count("/good/"), log.count("/bad/")), (1, 3));
        registry.forget_digest_tags("good");
        assert!(good.digest_tags().await.is_some());
        assert_eq!(log.count("/good/"), 2);
    }

    #[rstest::rstest]
    #[case::absent(404, true)]
    #[case::refused(403, false)]
    #[case::broken(500, false)]
    #[tokio::test]
    async fn a_tag_costs_one_request(#[case] status: u16, #[case] is_certain: bool) {
        let (registry, log) = registry(move |_, _| respond(status, &[], "")).await;
        let repository = registry.repository("a", Access::Pull).unwrap();
        let found = repository.digest_tag("sha256-b.sig").await;
        assert_eq!(matches!(found, Ok(None)), is_certain, "{found:?}");
        assert_eq!(log.lines(), ["HEAD /v2/a/manifests/sha256-b.sig"]);
    }

    /// A host that does not respond costs one wait.
    #[tokio::test]
    async fn a_tag_that_does_not_come_is_waited_for_once() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let options = crate::RegistryOptions {
            insecure_hosts: [host.clone()].into(),
            timeouts: crate::Timeouts {
                list: Duration::from_millis(200),
                ..crate::Timeouts::default()
            },
            ..crate::RegistryOptions::default()
        };
        let registry = crate::Registries::new(options).unwrap().get(&host).unwrap();
        let repository = registry.repository("a/b", Access::Pull).unwrap();
        let error = repository.digest_tag("sha256-b").await.unwrap_err();
        assert!(matches!(error, RegistryError::Timeout { .. }), "{error}");
        // Nothing is sent for the next one.
        drop(listener);
        let error = repository.digest_tag("sha256-c").await.unwrap_err();
        assert!(matches!(error, RegistryError::Timeout { .. }), "{error}");
    }

    #[tokio::test]
    async fn all_lists_together_are_bounded() {
        let mut tags: Vec<_> = (0..4000).map(|n| format!("sha256-{n:0121}")).collect();
        tags.push("v".to_owned());
        let body = serde_json::json!({ "tags": tags }).to_string();
        let (registry, log) = registry(move |_, _| respond(200, &[], body.clone())).await;
        for name in ["a", "b", "b", "a"] {
            let repository = registry.repository(name, Access::Pull).unwrap();
            assert_eq!(repository.digest_tags().await.unwrap().len(), 4000);
            let kept = registry.shared.common.digest_tags.lock();
            let kept: usize = kept.values().map(|(_, slot)| bytes(slot)).sum();
            assert!((1..=MAX_BYTES).contains(&kept), "{kept}");
        }
        assert_eq!(log.lines().len(), 3, "the second b was kept");
    }
}
