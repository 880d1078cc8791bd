//! What refers to a manifest (distribution-spec, "Listing Referrers").

use super::answer::first_error;
use super::pages::MAX_PAGES;
use super::repository::Repository;
use crate::error::{Operation, RegistryError};
use crate::manifest::{Descriptor, OCI_INDEX};
use oci_spec::image::Digest;
use serde::Deserialize;
use serde_json::Value;

/// Most referrers of one manifest. An image has a handful: signatures, attestations, bills of materials.
const MAX_REFERRERS: usize = 1000;

/// Answers of registries that do not know the API, or not for this manifest.
const NOT_KNOWN: &[u16] = &[400, 404, 405, 406, 410, 415, 501];

/// An index as this API gives it. Any other JSON lacks the version.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Answer {
    schema_version: u8,
    /// Some registries write null for none.
    manifests: Option<Vec<Referrer>>,
}

/// An entry of a list of referrers.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(try_from = "Value")]
pub(crate) struct Referrer {
    pub(crate) descriptor: Descriptor,
    /// The entry as it came, to be put into another list.
    pub(crate) raw: Value,
}

impl TryFrom<Value> for Referrer {
    type Error = serde_json::Error;

    fn try_from(raw: Value) -> Result<Self, Self::Error> {
        Ok(Self {
            descriptor: Descriptor::deserialize(&raw)?,
            raw,
        })
    }
}

impl Repository {
    /// The manifests whose `subject` is this digest, page by page; at most 1000. `None` if the registry
    /// has no such API, so that the tag `<algorithm>-<hex>` is to be looked at ("Referrers Tag Schema").
    /// That is remembered for a while: nothing is asked in vain.
    pub(crate) async fn referrers(
        &self,
        digest: &Digest,
    ) -> Result<Option<Vec<Referrer>>, RegistryError> {
        let abilities = &self.registry.shared.abilities;
        if !abilities.may_have_referrers() {
            return Ok(None);
        }
        let subject = self.subject(Operation::ListReferrers, &format!("@{digest}"));
        let mut found = Vec::new();
        let mut next = Some(self.url(&format!("referrers/{digest}")));
        for page_number in 0..MAX_PAGES {
            let Some(url) = next else {
                return Ok(Some(found));
            };
            let page = self.page(&subject, url, OCI_INDEX, NOT_KNOWN).await?;
            let answer = match serde_json::from_slice::<Answer>(&page.body) {
                Ok(answer) if page.status.is_success() && answer.schema_version == 2 => answer,
                _ if page_number > 0 => {
                    return Err(RegistryError::protocol(
                        &subject,
                        "a further page is not an index",
                    ));
                }
                _ => {
                    if !is_about_repository(page.status.as_u16(), &page.body) {
                        abilities.has_no_referrers();
                    }
                    return Ok(None);
                }
            };
            abilities.has_referrers();
            found.extend(answer.manifests.unwrap_or_default());
            if found.len() > MAX_REFERRERS {
                break;
            }
            next = page.next;
        }
        let reason =
            format!("it has more than {MAX_REFERRERS} referrers or {MAX_PAGES} pages of them");
        Err(RegistryError::protocol(&subject, reason))
    }
}

/// Whether a refusal says nothing of the API: the repository or the manifest is what it does not like.
fn is_about_repository(status: u16, body: &[u8]) -> bool {
    let about_it =
        |code: &str| matches!(code, "NAME_UNKNOWN" | "MANIFEST_UNKNOWN" | "DIGEST_INVALID");
    status == 400 || first_error(body).is_some_and(|(code, _)| about_it(&code))
}

#[cfg(test)]
mod tests {
    use super::super::Access;
    use super::super::testing::{registry, respond};
    use super::*;

    fn digest(number: u8) -> Digest {
        format!("sha256:{number:064x}").parse().unwrap()
    }

    fn index(numbers: std::ops::Range<u8>) -> String {
        let manifests: Vec<_> = numbers
            .map(|n| serde_json::json!({"mediaType": "x/y", "digest": digest(n).to_string(), "size": 7, "artifactType": "a/b"}))
            .collect();
        serde_json::json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": manifests})
            .to_string()
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
        assert_eq!(
            found
                .iter()
                .map(|found| found.descriptor.digest.clone())
                .collect::<Vec<_>>(),
            (1..6).map(digest).collect::<Vec<_>>()
        );
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
            Some(vec![])
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
}
