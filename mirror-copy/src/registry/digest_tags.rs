//! Requests for digest tags: single tags, and the cached list of all digest tags of a repository.

use super::Registry;
use super::repository::{Access, Repository};
use crate::error::{Operation, RegistryError};
use crate::reference::TagOrDigest;
use crate::registries::common::{DIGEST_TAG, DigestTags};
use oci_spec::image::Digest;
use std::sync::Arc;
use tokio::time::timeout;

impl Repository {
    /// Returns the digest of the manifest that has this tag, or `None` if there is none. Sends one `HEAD`, and a `GET` if
    /// the response names no digest, without retries.
    pub(crate) async fn digest_tag(&self, tag: &str) -> Result<Option<Digest>, RegistryError> {
        let reference = TagOrDigest::Tag(tag.to_owned());
        let located = self
            .within_list_timeout(tag, self.locate_once(&reference))
            .await?;
        Ok(located.map(|located| located.resolved.digest))
    }

    /// Waits for the response to a request for a digest tag with the timeout of lists. After a host that did not respond in
    /// time, no such request is sent to it for a while: no image waits for that twice.
    pub(crate) async fn within_list_timeout<T>(
        &self,
        tag: &str,
        request: impl Future<Output = Result<T, RegistryError>>,
    ) -> Result<T, RegistryError> {
        let subject = self.subject(Operation::ReadManifest, &format!(":{tag}"));
        let capabilities = &self.registry.shared.capabilities;
        // A pause that the host requested is no failure.
        self.registry
            .shared
            .limits
            .pauses
            .wait(subject.operation)
            .await;
        let after = self.registry.timeouts().list;
        if capabilities.shows_digest_tags() {
            if let Ok(done) = timeout(after, request).await {
                return done;
            }
            if !self.registry.is_paused() {
                capabilities.digest_tags_hang();
            }
        }
        Err(RegistryError::Timeout { subject, after })
    }

    /// Returns the digest tags of this repository, not older than half a minute. A failed list is cached as well: all copies
    /// that wait for it would only repeat the failure, each with all its retries.
    pub(crate) async fn digest_tags(&self) -> DigestTags {
        let lists = &self.registry.shared.common.digest_tags;
        let slot = lists.slot(self.object(""));
        let list = slot.get_or_init(|| async {
            let limit = self.registry.timeouts().list;
            let tags = timeout(limit, self.tags_with_prefix(DIGEST_TAG)).await;
            let tags = tags.map_err(|_| "the registry does not respond".to_owned());
            tags.and_then(|tags| tags.map_err(|error| error.to_string()))
                .unwrap_or_else(|error| {
                    tracing::debug!(error, "cannot list tags");
                    None
                })
                .map(Arc::from)
        });
        let list = list.await.clone();
        lists.make_room(&slot);
        list
    }
}

impl Registry {
    /// Drops the cached digest tags of a repository, so that the next copy from it lists them again. For a caller that found
    /// a new digest tag which copies are to include.
    pub fn forget_digest_tags(&self, repository: &str) {
        if let Ok(repository) = self.repository(repository, Access::Pull) {
            let lists = &self.shared.common.digest_tags;
            lists.lock().remove(&repository.object(""));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tags::MAX_WITH_PREFIX;
    use super::super::testing::{registry, respond, silent_registry};
    use super::*;
    use crate::registries::common::{MAX_LIST_BYTES, bytes};

    #[test]
    fn the_longest_list_fits() {
        let longest_tag = 128;
        assert!(MAX_WITH_PREFIX * (longest_tag + size_of::<String>()) <= MAX_LIST_BYTES);
    }

    #[tokio::test]
    async fn lists_are_requested_once_and_failures_too() {
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
    async fn a_tag_without_a_response_is_waited_for_once() {
        let (registry, listener) = silent_registry().await;
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
            assert!((1..=MAX_LIST_BYTES).contains(&kept), "{kept}");
        }
        assert_eq!(log.lines().len(), 3, "the second b was kept");
    }
}
