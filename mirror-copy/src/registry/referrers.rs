//! What refers to a manifest (distribution-spec, "Listing Referrers").

use super::answer::first_error;
use super::pages::MAX_PAGES;
use super::repository::Repository;
use crate::bounded::Bounded;
use crate::error::{Operation, RegistryError, Subject};
use crate::manifest::{Descriptor, OCI_INDEX, is_verifiable};
use oci_spec::image::Digest;
use serde::Deserialize;
use serde_json::{Map, Value};

/// Most referrers of one manifest that are looked at; the first ones of the registry's list. An image has a
/// handful: signatures, attestations, bills of materials.
const MAX_REFERRERS: usize = 1000;

/// Answers of registries that do not know the API, or not for this manifest.
const NOT_KNOWN: &[u16] = &[400, 404, 405, 406, 410, 415, 501];

/// An index as this API gives it. Any other JSON lacks the version.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Answer {
    schema_version: u8,
    /// Some registries write null for none.
    manifests: Option<Bounded<Value, MAX_REFERRERS>>,
}

/// What a list of referrers says of each (distribution-spec, "Listing Referrers").
const FIELDS: [&str; 5] = ["mediaType", "digest", "size", "artifactType", "annotations"];

/// An entry of a list of referrers. Its digest can be verified.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(try_from = "Value")]
pub(crate) struct Referrer {
    pub(crate) descriptor: Descriptor,
    /// The part of the entry that may be put into another list. Nothing that would make others fetch
    /// content from elsewhere, or choose this manifest as an image, is taken over.
    pub(crate) raw: Value,
}

impl TryFrom<Value> for Referrer {
    type Error = serde_json::Error;

    fn try_from(raw: Value) -> Result<Self, Self::Error> {
        let own = |name: &str| Some((name.to_owned(), raw.get(name)?.clone()));
        let raw = Value::Object(FIELDS.into_iter().filter_map(own).collect::<Map<_, _>>());
        let descriptor = Descriptor::deserialize(&raw)?;
        if !is_verifiable(&descriptor.digest) {
            return Err(serde::de::Error::custom("unknown digest algorithm"));
        }
        Ok(Self { descriptor, raw })
    }
}

impl Repository {
    /// The manifests whose `subject` is this digest, page by page; of more than 1000 the first ones, and
    /// without entries that are unusable. `None` if the registry has no such API, so that the tag `<algorithm>-<hex>` is to be looked at ("Referrers Tag Schema").
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
            let listed = answer.manifests.unwrap_or_default();
            let is_cut = listed.is_cut || found.len() + listed.items.len() > MAX_REFERRERS;
            let room = MAX_REFERRERS.saturating_sub(found.len());
            found.extend(usable(&subject, listed.items).take(room));
            if is_cut || found.len() == MAX_REFERRERS && page.next.is_some() {
                tracing::warn!(%subject, "it may have more than {MAX_REFERRERS} referrers; the others are left out");
                return Ok(Some(found));
            }
            next = page.next;
        }
        let reason = format!("it has more than {MAX_PAGES} pages of referrers");
        Err(RegistryError::protocol(&subject, reason))
    }
}

/// The entries that name a manifest. One that does not must not hide the others.
fn usable(subject: &Subject, entries: Vec<Value>) -> impl Iterator<Item = Referrer> {
    entries.into_iter().filter_map(move |entry| {
        let referrer = Referrer::try_from(entry);
        referrer
            .inspect_err(|error| tracing::warn!(%subject, %error, "an unusable entry is left out"))
            .ok()
    })
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

    fn digest(number: u16) -> Digest {
        format!("sha256:{number:064x}").parse().unwrap()
    }

    fn entry(number: u16) -> Value {
        let digest = digest(number).to_string();
        serde_json::json!({"mediaType": "x/y", "digest": digest, "size": 7, "artifactType": "a/b"})
    }

    fn index(numbers: std::ops::Range<u16>) -> String {
        let manifests: Vec<_> = numbers.map(entry).collect();
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

    /// One more than are looked at, in one page or in several.
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
        assert_eq!(found.len(), MAX_REFERRERS);
        assert_eq!(found[999].descriptor.digest, digest(999));
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
            let found: Vec<_> = found.into_iter().map(|one| one.descriptor.digest).collect();
            assert_eq!(found, [digest(1), digest(2)]);
        }
        assert_eq!(log.lines().len(), 2, "the API is there");
    }

    #[test]
    fn only_what_describes_a_referrer_goes_into_another_list() {
        let mut full = entry(1);
        full["annotations"] = serde_json::json!({"a": "b"});
        let kept = full.clone();
        full["platform"] = serde_json::json!({"os": "linux", "architecture": "amd64"});
        full["urls"] = serde_json::json!(["https://elsewhere.example/"]);
        full["data"] = "e30=".into();
        let referrer = Referrer::try_from(full).unwrap();
        assert_eq!(referrer.raw, kept);
        assert_eq!(referrer.descriptor.platform, None);
        assert!(referrer.descriptor.urls.is_empty() && referrer.descriptor.data.is_none());
    }
}
