//! The referrers API (distribution-spec, "Listing Referrers").

use super::capabilities::ReferrersApi;
use super::referrer_list::{MAX_REFERRERS, ReferrerList};
use super::repository::Repository;
use super::response::first_error;
use crate::error::{Operation, RegistryError, Subject};
use crate::hash::Hasher;
use crate::manifest::OCI_INDEX;
use oci_spec::image::Digest;
use std::sync::atomic::AtomicBool;
use std::time::Duration;
use tokio::time::timeout;

/// Maximum number of pages of one list, and maximum size of all of them in bytes.
const MAX_PAGES: usize = 64;
const MAX_BYTES: usize = 8 * 1024 * 1024;

/// Timeout of a whole list, as a multiple of that of its first page.
const PAGES_TIMEOUT: u32 = 3;

/// Statuses of registries without the API, or without this manifest.
const UNSUPPORTED: &[u16] = &[400, 404, 405, 406, 410, 415, 501];

impl Repository {
    /// Lists the manifests whose `subject` is this digest: the first 1000 entries of all pages. Returns `None` if the
    /// registry does not have the API, so that the referrers tag must be read ("Referrers Tag Schema"). That is remembered
    /// for an hour, and so is a host that does not respond in time: no image waits for that twice.
    pub(crate) async fn referrers(
        &self,
        digest: &Digest,
    ) -> Result<Option<ReferrerList>, RegistryError> {
        let capabilities = &self.registry.shared.capabilities;
        let subject = self.subject(Operation::ListReferrers, &format!("@{digest}"));
        loop {
            // A pause that the host requested is no failure.
            self.registry
                .shared
                .limits
                .pauses
                .wait(subject.operation)
                .await;
            let limit = self.registry.timeouts().list;
            let no_response = |after| RegistryError::Timeout {
                subject: subject.clone(),
                after,
            };
            match capabilities.referrers_api() {
                ReferrersApi::Usable => {}
                ReferrersApi::Absent => return Ok(None),
                ReferrersApi::Silent => return Err(no_response(limit)),
            }
            let has_responded = AtomicBool::new(false);
            let listing = self.list_referrers(&subject, digest, limit, &has_responded);
            let error = match timeout(limit * PAGES_TIMEOUT, listing).await {
                Ok(Err(error @ RegistryError::Timeout { .. })) => error,
                Ok(done) => return done,
                Err(_) => no_response(limit * PAGES_TIMEOUT),
            };
            if has_responded.into_inner() {
                return Err(error);
            }
            if !self.registry.is_paused() {
                capabilities.referrers_hang();
                return Err(error);
            }
        }
    }

    async fn list_referrers(
        &self,
        subject: &Subject,
        digest: &Digest,
        limit: Duration,
        has_responded: &AtomicBool,
    ) -> Result<Option<ReferrerList>, RegistryError> {
        let capabilities = &self.registry.shared.capabilities;
        let (mut found, mut bytes) = (ReferrerList::default(), 0);
        let mut next = Some(self.url(&format!("referrers/{digest}")));
        for page_number in 0..MAX_PAGES {
            let Some(url) = next else {
                return Ok(Some(found));
            };
            let page = self.page(subject, url, OCI_INDEX, UNSUPPORTED, Some(has_responded));
            let page = timeout(limit, page).await;
            let page = page.map_err(|_| RegistryError::Timeout {
                subject: subject.clone(),
                after: limit,
            })??;
            let body = page.body.as_ref();
            let list = match ReferrerList::of_api(body) {
                Some(list) if page.status.is_success() && !is_subject_itself(digest, body) => list,
                _ if page_number > 0 => {
                    return Err(RegistryError::protocol(
                        subject,
                        "a further page of the list is not an index",
                    ));
                }
                _ => {
                    if !is_about_repository(page.status.as_u16(), body) {
                        capabilities.has_no_referrers();
                    }
                    return Ok(None);
                }
            };
            capabilities.has_referrers();
            bytes += body.len();
            found.append(list);
            next = page.next;
            found.is_cut |= page.is_cut;
            if found.is_cut || found.count() == MAX_REFERRERS || bytes > MAX_BYTES {
                break;
            }
        }
        found.is_cut |= next.is_some();
        Ok(Some(found))
    }
}

/// Returns whether the response is the subject itself, as GitLab responds for an index.
fn is_subject_itself(subject: &Digest, body: &[u8]) -> bool {
    Hasher::for_digest(subject).is_some_and(|hasher| hasher.of(body) == subject.as_ref())
}

/// Returns whether a refusal is about the repository or the manifest, and not about the API.
fn is_about_repository(status: u16, body: &[u8]) -> bool {
    let about_it =
        |code: &str| matches!(code, "NAME_UNKNOWN" | "MANIFEST_UNKNOWN" | "DIGEST_INVALID");
    status == 400 || first_error(body).is_some_and(|(code, _)| about_it(&code))
}

#[cfg(test)]
mod tests {
    use super::super::Access;
    use super::super::testing::{registry, respond, silent_registry};
    use super::*;

    fn digest(number: u16) -> Digest {
        format!("sha256:{number:064x}").parse().unwrap()
    }

    fn entry(number: u16) -> serde_json::Value {
        let digest = digest(number).to_string();
        serde_json::json!({"mediaType": "x/y", "digest": digest, "size": 7, "artifactType": "a/b"})
    }

    fn index(numbers: std::ops::Range<u16>) -> String {
        let manifests: Vec<_> = numbers.map(entry).collect();
        serde_json::json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": manifests})
            .to_string()
    }

    fn digests(list: &ReferrerList) -> Vec<Digest> {
        let listed = list.referrers.iter();
        listed.map(|one| one.descriptor.digest.clone()).collect()
    }

    /// Pages that never end, without a usable entry or without any.
    #[rstest::rstest]
    #[case(
        r#"{"schemaVersion":2,"manifests":[{},{},{},{},{},{},{},{},{},{}]}"#,
        MAX_PAGES
    )]
    #[case(r#"{"schemaVersion":2,"manifests":[]}"#, MAX_PAGES)]
    #[case(&format!(r#"{{"schemaVersion":2,"x":"{}"}}"#, "x".repeat(3 << 20)), 3)]
    #[case(&format!(r#"{{"schemaVersion":2,"manifests":[7{}]}}"#, ",7".repeat(1000)), 1)]
    #[tokio::test]
    async fn pages_without_an_end_are_bounded(#[case] page: &str, #[case] requests: usize) {
        let page = page.to_owned();
        let (registry, log) =
            registry(move |_, _| respond(200, &[("link", "<?n=1>; rel=next")], page.clone())).await;
        let repository = registry.repository("a/b", Access::Pull).unwrap();
        let found = repository.referrers(&digest(9)).await.unwrap().unwrap();
        assert!(found.is_cut && found.referrers.is_empty());
        assert_eq!(log.lines().len(), requests);
    }

    #[tokio::test]
    async fn all_pages_are_read() {
        let (registry, log) = registry(|parts, _| match parts.uri.query() {
            None => respond(200, &[("link", "<?token=2>; rel=next")], index(1..4)),
            Some(_) => respond(200, &[], index(4..6)),
        })
        .await;
        let repository = registry.repository("a/b", Access::Pull).unwrap();
        let found = repository.referrers(&digest(9)).await.unwrap().unwrap();
        assert_eq!(digests(&found), (1..6).map(digest).collect::<Vec<_>>());
        assert_eq!(
            log.lines(),
            [
                format!("GET /v2/a/b/referrers/{}", digest(9)),
                format!("GET /v2/a/b/referrers/{}?token=2", digest(9)),
            ]
        );
    }

    #[rstest::rstest]
    #[case(404, "page not found", true)]
    #[case(404, r#"{"errors":[{"code":"UNSUPPORTED"}]}"#, true)]
    #[case(404, r#"{"errors":[{"code":"NAME_UNKNOWN"}]}"#, false)]
    #[case(400, "", false)]
    #[case(405, "", true)]
    #[case(501, "", true)]
    #[case(200, "<html>welcome</html>", true)]
    #[case(200, r#"{"name":"a/b","tags":[]}"#, true)]
    #[tokio::test]
    async fn a_registry_without_the_api_is_remembered(
        #[case] status: u16,
        #[case] body: &'static str,
        #[case] remembered: bool,
    ) {
        let (registry, log) = registry(move |_, _| respond(status, &[], body)).await;
        let repository = registry.repository("a/b", Access::Pull).unwrap();
        for _ in 0..2 {
            assert_eq!(repository.referrers(&digest(1)).await.unwrap(), None);
        }
        assert_eq!(log.lines().len(), if remembered { 1 } else { 2 });
    }

    #[rstest::rstest]
    #[case(r#"{"schemaVersion":2,"manifests":[]}"#)]
    #[case(r#"{"schemaVersion":2,"manifests":null}"#)]
    #[tokio::test]
    async fn none_is_an_answer(#[case] body: &'static str) {
        let (registry, _) = registry(move |_, _| respond(200, &[], body)).await;
        let repository = registry.repository("a/b", Access::Pull).unwrap();
        assert_eq!(
            repository.referrers(&digest(1)).await.unwrap(),
            Some(ReferrerList::default())
        );
    }

    #[rstest::rstest]
    #[case(403)]
    #[case(500)]
    #[tokio::test]
    async fn other_failures_are_failures(#[case] status: u16) {
        let (registry, _) = registry(move |_, _| respond(status, &[], "")).await;
        let repository = registry.repository("a/b", Access::Pull).unwrap();
        assert_eq!(
            repository.referrers(&digest(1)).await.unwrap_err().status(),
            Some(status)
        );
    }

    /// One more than are read, in one page or in several.
    #[rstest::rstest]
    #[case::one_page(1001, 1)]
    #[case::pages(600, 2)]
    #[case::no_more_than_wanted_are_asked_for(500, 2)]
    #[tokio::test]
    async fn of_too_many_the_first_ones_are_taken(#[case] per_page: u16, #[case] requests: usize) {
        let (registry, log) = registry(move |parts, _| {
            let page: u16 = parts
                .uri
                .query()
                .map_or(0, |query| query.trim_start_matches("p=").parse().unwrap());
            let next = format!("<?p={}>; rel=next", page + 1);
            let entries = index(page * per_page..(page + 1) * per_page);
            respond(200, &[("link", &next)], entries)
        })
        .await;
        let repository = registry.repository("a/b", Access::Pull).unwrap();
        let found = repository.referrers(&digest(9)).await.unwrap().unwrap();
        assert!(found.is_cut);
        assert_eq!(digests(&found), (0..1000).map(digest).collect::<Vec<_>>());
        assert_eq!(log.lines().len(), requests);
    }

    #[tokio::test]
    async fn an_odd_entry_hides_no_other() {
        let body = serde_json::json!({"schemaVersion": 2, "manifests": [
            entry(1),
            {"mediaType": "x/y", "digest": "1.27:alpine", "size": 7},
            {"mediaType": "x/y", "digest": "sha256:00", "size": 7},
            7,
            entry(2),
        ]});
        let (registry, log) = registry(move |_, _| respond(200, &[], body.to_string())).await;
        let repository = registry.repository("a/b", Access::Pull).unwrap();
        for _ in 0..2 {
            let found = repository.referrers(&digest(9)).await.unwrap().unwrap();
            assert_eq!(digests(&found), [digest(1), digest(2)]);
            assert_eq!((found.unusable, found.is_cut), (3, false));
        }
        assert_eq!(log.lines().len(), 2, "the API is there");
    }

    /// GitLab returns the image itself in place of a list of its referrers.
    #[tokio::test]
    async fn the_image_itself_is_no_list() {
        let body = index(1..3);
        let subject: Digest = Hasher::sha256().of(body.as_bytes()).parse().unwrap();
        let (registry, log) = registry(move |_, _| respond(200, &[], body.clone())).await;
        let repository = registry.repository("a/b", Access::Pull).unwrap();
        for _ in 0..2 {
            assert_eq!(repository.referrers(&subject).await.unwrap(), None);
        }
        assert_eq!(log.lines().len(), 1, "remembered");
    }

    /// A list that never comes costs one wait for the whole host, also if lists came before.
    #[tokio::test]
    async fn a_list_without_a_response_is_waited_for_once() {
        let (registry, listener) = silent_registry().await;
        let repository = registry.repository("a/b", Access::Pull).unwrap();
        let error = repository.referrers(&digest(9)).await.unwrap_err();
        assert!(matches!(error, RegistryError::Timeout { .. }), "{error}");
        // Nothing is sent for the next one.
        drop(listener);
        let error = repository.referrers(&digest(8)).await.unwrap_err();
        assert!(matches!(error, RegistryError::Timeout { .. }), "{error}");
    }
}
