//! Lists of tags (distribution-spec, "Listing Tags").

use super::pages::MAX_PAGES;
use super::repository::Repository;
use crate::error::{Operation, RegistryError, Subject};
use crate::json::{self, Bounded};
use crate::reference::{MAX_TAG, is_tag};
use reqwest::Url;
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

/// Most tags of one repository: some 10 MiB of names.
const MAX_TAGS: usize = 100_000;

/// Tags asked for at once; what most registries allow at most.
const PAGE: usize = 1000;

/// Most tags with one prefix that are found by one request: below 1 MiB of names.
pub(super) const MAX_WITH_PREFIX: usize = 4096;

#[derive(Deserialize)]
struct TagList {
    /// Some registries write null for none.
    tags: Option<Bounded<Tag, MAX_TAGS>>,
}

/// A tag of the list; `None` for what is no tag and could not be asked for.
struct Tag(Option<String>);

impl<'de> Deserialize<'de> for Tag {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw = <&RawValue>::deserialize(deserializer)?;
        let text = json::text(raw, MAX_TAG).ok();
        Ok(Self(text.filter(|text| is_tag(text))))
    }
}

/// What one answer lists.
struct TagsPage {
    tags: Vec<String>,
    next: Option<Url>,
}

impl Repository {
    /// All tags in the registry's order, page by page. More than 100 000 are an error.
    pub(crate) async fn tags(&self) -> Result<Vec<String>, RegistryError> {
        let subject = self.subject(Operation::ListTags, "");
        let mut tags = Vec::new();
        let mut next = Some(self.tags_url(None));
        for _ in 0..MAX_PAGES {
            let Some(url) = next else { return Ok(tags) };
            let page = self.tags_page(&subject, url).await?;
            tags.extend(page.tags);
            if tags.len() > MAX_TAGS {
                break;
            }
            next = page.next;
        }
        Err(too_many(&subject))
    }

    /// All tags that begin with `prefix`, by one request. `None` if one request cannot tell, or if they are
    /// more than 4096.
    pub(crate) async fn tags_with_prefix(
        &self,
        prefix: &str,
    ) -> Result<Option<Vec<String>>, RegistryError> {
        let subject = self.subject(Operation::ListTags, "");
        let url = self.tags_url(Some(prefix));
        let TagsPage { mut tags, next } = match self.tags_page(&subject, url).await {
            Ok(page) => page,
            // A few registries do not take a `last` that is no tag of theirs, or no parameter at all.
            Err(error) if matches!(error.status(), Some(400 | 404 | 405 | 422 | 501)) => {
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        // A full page without a next one may be all that this registry ever gives.
        let is_last_page = next.is_none() && tags.len() < PAGE;
        if !is_last_page && !is_past(&tags, prefix) {
            return Ok(None);
        }
        tags.retain(|tag| tag.starts_with(prefix));
        tags.shrink_to_fit();
        Ok((tags.len() <= MAX_WITH_PREFIX).then_some(tags))
    }

    async fn tags_page(&self, subject: &Subject, url: Url) -> Result<TagsPage, RegistryError> {
        let page = self.page(subject, url, "application/json", &[]).await?;
        let list: TagList = json::from_slice(page.body.as_ref())
            .map_err(|_| RegistryError::protocol(subject, "the answer is not a list of tags"))?;
        let list = list.tags.unwrap_or_default();
        if list.is_cut {
            return Err(too_many(subject));
        }
        Ok(TagsPage {
            tags: list.items.into_iter().filter_map(|tag| tag.0).collect(),
            next: page.next,
        })
    }

    fn tags_url(&self, last: Option<&str>) -> Url {
        let mut url = self.url("tags/list");
        {
            let mut query = url.query_pairs_mut();
            query.append_pair("n", &PAGE.to_string());
            if let Some(last) = last {
                query.append_pair("last", last);
            }
        }
        url
    }
}

fn too_many(subject: &Subject) -> RegistryError {
    let reason = format!("it has more than {MAX_TAGS} tags or {MAX_PAGES} pages of them");
    RegistryError::protocol(subject, reason)
}

/// Whether an ordered page begins after `last` and ends behind everything that begins with it.
fn is_past(tags: &[String], last: &str) -> bool {
    let starts_behind = tags.first().is_some_and(|tag| tag.as_str() > last);
    let ends_past = tags
        .last()
        .is_some_and(|tag| tag.as_str() > last && !tag.starts_with(last));
    starts_behind && ends_past && tags.is_sorted()
}

#[cfg(test)]
mod tests {
    use super::super::Access;
    use super::super::testing::{registry, respond};
    use super::*;

    fn list(tags: &[&str]) -> String {
        serde_json::json!({ "name": "a/b", "tags": tags }).to_string()
    }

    async fn tags_of(
        link: &'static str,
        first: &'static [&'static str],
    ) -> (
        Result<Vec<String>, RegistryError>,
        Result<Option<Vec<String>>, RegistryError>,
    ) {
        let (registry, _) = registry(move |parts, _| {
            if parts
                .uri
                .query()
                .is_some_and(|query| query.contains("page=2"))
            {
                respond(200, &[], r#"{"tags":["z", "not/a/tag"]}"#)
            } else if link.is_empty() {
                respond(200, &[], list(first))
            } else {
                respond(200, &[("link", link)], list(first))
            }
        })
        .await;
        let repository = registry.repository("a/b", Access::Pull).unwrap();
        (
            repository.tags().await,
            repository.tags_with_prefix("sha256-").await,
        )
    }

    #[tokio::test]
    async fn pages_are_followed_on_the_same_host() {
        let (all, after) = tags_of(
            r#"</v2/a/b/tags/list?page=2>; rel="next""#,
            &["sha256-b", "sha256-c"],
        )
        .await;
        assert_eq!(all.unwrap(), ["sha256-b", "sha256-c", "z"]);
        assert_eq!(after.unwrap(), None, "there may be more of them");
    }

    #[tokio::test]
    async fn a_page_that_ends_past_the_prefix_is_enough() {
        let link = r#"</v2/a/b/tags/list?page=2>; rel="next""#;
        let (_, after) = tags_of(link, &["sha256-b", "v1"]).await;
        assert_eq!(after.unwrap().unwrap(), ["sha256-b"]);
        let (_, after) = tags_of(link, &["sha256-b", "v1", "sha256-c"]).await;
        assert_eq!(
            after.unwrap(),
            None,
            "this registry has an order of its own"
        );
        let (_, after) = tags_of(link, &["a", "v1"]).await;
        assert_eq!(after.unwrap(), None, "this registry began where it liked");
        let (_, after) = tags_of("", &["a", "sha256-b"]).await;
        assert_eq!(after.unwrap().unwrap(), ["sha256-b"]);
    }

    #[tokio::test]
    async fn another_host_is_not_followed() {
        let (all, _) = tags_of(
            r#"<http://other.example/v2/a/b/tags/list?x=s3cret>; rel="next""#,
            &["a"],
        )
        .await;
        let error = all.unwrap_err().to_string();
        assert!(
            error.contains("on another host: http://other.example/v2/"),
            "{error}"
        );
        assert!(!error.contains("s3cret"));
    }

    #[tokio::test]
    async fn a_list_without_an_end_is_given_up() {
        let (all, _) = tags_of(r#"<?n=1>; rel="next""#, &["a"]).await;
        assert!(all.unwrap_err().to_string().contains("1000 pages"));
    }

    #[rstest::rstest]
    #[case(r#"{"tags":null}"#, Some(0))]
    #[case(r#"{"name":"a/b"}"#, Some(0))]
    #[case("<html>", None)]
    #[tokio::test]
    async fn answers_without_tags(#[case] body: &'static str, #[case] expected: Option<usize>) {
        let (registry, _) = registry(move |_, _| respond(200, &[], body)).await;
        let tags = registry.tags("a/b").await;
        assert_eq!(tags.ok().map(|tags| tags.len()), expected);
    }

    /// A list of this many tags with the prefix, and of one behind them if `past`.
    fn long_list(count: usize, past: bool) -> String {
        let mut tags: Vec<_> = (0..count).map(|n| format!("sha256-{n:064x}.sig")).collect();
        tags.extend(past.then(|| "v1".to_owned()));
        serde_json::json!({ "tags": tags }).to_string()
    }

    #[rstest::rstest]
    #[case::a_short_page(PAGE - 1, false, Some(PAGE - 1))]
    #[case::there_may_be_more(PAGE, false, None)]
    #[case::the_whole_list_at_once(MAX_WITH_PREFIX, true, Some(MAX_WITH_PREFIX))]
    #[case::more_than_are_kept(MAX_WITH_PREFIX + 1, true, None)]
    #[tokio::test]
    async fn long_lists(#[case] count: usize, #[case] past: bool, #[case] found: Option<usize>) {
        let (registry, _) = registry(move |_, _| respond(200, &[], long_list(count, past))).await;
        let repository = registry.repository("a/b", Access::Pull).unwrap();
        let tags = repository.tags_with_prefix("sha256-").await.unwrap();
        assert_eq!(tags.map(|tags| tags.len()), found);
    }

    #[tokio::test]
    async fn a_page_beyond_the_limit_is_not_read() {
        let body = format!(r#"{{"tags":["{}"]}}"#, "a".repeat(4 * 1024 * 1024));
        let (registry, _) = registry(move |_, _| respond(200, &[], body.clone())).await;
        let error = registry.tags("a/b").await.unwrap_err();
        assert!(matches!(error, RegistryError::TooLarge { .. }), "{error}");
    }

    #[tokio::test]
    async fn more_tags_than_any_repository_has_are_refused_in_one_page_too() {
        let body = format!(r#"{{"tags":["a"{}]}}"#, r#","a""#.repeat(MAX_TAGS));
        let (registry, _) = registry(move |_, _| respond(200, &[], body.clone())).await;
        let error = registry.tags("a/b").await.unwrap_err().to_string();
        assert!(error.contains("100000 tags"), "{error}");
    }
}
