//! Lists of tags (distribution-spec, "Listing Tags").

use super::pages::MAX_PAGES;
use super::repository::Repository;
use crate::error::{Operation, RegistryError, Subject};
use crate::json::{self, Bounded};
use crate::reference::{MAX_TAG, is_tag};
use reqwest::Url;
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

/// Maximum number of tags of one repository: about 10 MiB of names.
const MAX_TAGS: usize = 100_000;

/// Page size that is requested: the maximum of most registries.
const PAGE: usize = 1000;

/// Minimum size of a page that may be incomplete without a link to the next one. No registry is known to have shorter ones.
const SHORTEST_FULL_PAGE: usize = 50;

/// Maximum number of tags with one prefix: below 1 MiB of names.
pub(super) const MAX_WITH_PREFIX: usize = 4096;

#[derive(Deserialize)]
struct TagList {
    /// Some registries return null for an empty list.
    tags: Option<Bounded<Tag, MAX_TAGS>>,
}

/// An entry of the list; `None` if it is not a valid tag.
struct Tag(Option<String>);

impl<'de> Deserialize<'de> for Tag {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw = <&RawValue>::deserialize(deserializer)?;
        let text = json::text(raw, MAX_TAG).ok();
        Ok(Self(text.filter(|text| is_tag(text))))
    }
}

struct TagsPage {
    tags: Vec<String>,
    next: Option<Url>,
    is_cut: bool,
}

impl Repository {
    /// Returns all tags in the order of the registry. More than 100 000 are an error, and so is a list that cannot be read
    /// to its end: after a page that may be full and has no link, the next one is requested with the last tag.
    pub(crate) async fn tags(&self) -> Result<Vec<String>, RegistryError> {
        let subject = self.subject(Operation::ListTags, "");
        let mut tags: Vec<String> = Vec::new();
        let mut next = Some(self.tags_url(None));
        let (mut is_linked, mut is_continued, mut was_full) = (false, false, false);
        for _ in 0..MAX_PAGES {
            let Some(url) = next else { return Ok(tags) };
            let read = self.tags_page(&subject, url).await;
            let is_refused = matches!(&read, Err(error) if knows_no_parameters(error));
            let begins_again = matches!(&read, Ok(page) if page.tags.first() == tags.first());
            if is_continued && (is_refused || begins_again) {
                // The registry does not continue the list.
                return if was_full {
                    Err(cut_off(&subject))
                } else {
                    Ok(tags)
                };
            }
            let mut page = read?;
            if page.is_cut {
                let reason = "its Link header cannot be parsed, so that the list may be incomplete; check any proxy before the \
                              registry";
                return Err(RegistryError::protocol(&subject, reason));
            }
            is_linked |= page.next.is_some();
            if page
                .tags
                .first()
                .is_some_and(|tag| tags.last() == Some(tag))
            {
                page.tags.remove(0);
            }
            was_full = is_full(&page.tags);
            let may_continue = !is_linked && page.tags.len() >= SHORTEST_FULL_PAGE;
            tags.append(&mut page.tags);
            if tags.len() > MAX_TAGS {
                break;
            }
            is_continued = page.next.is_none() && may_continue;
            next = match tags.last() {
                Some(last) if is_continued => Some(self.tags_url(Some(last))),
                _ => page.next,
            };
        }
        Err(too_many(&subject))
    }

    /// Returns all tags with this prefix, by one or two requests. Returns `None` if they are more than 4096, or if two
    /// requests are not enough.
    ///
    /// The first page is enough if it is short, or if it is ordered and ends behind the prefix. Otherwise a page that begins
    /// at the prefix is requested, or the page behind the first one if the registry has another order.
    pub(crate) async fn tags_with_prefix(
        &self,
        prefix: &str,
    ) -> Result<Option<Vec<String>>, RegistryError> {
        let subject = self.subject(Operation::ListTags, "");
        let first = match self.tags_page(&subject, self.tags_url(None)).await {
            Ok(page) => page,
            Err(error) if knows_no_parameters(&error) => return Ok(None),
            Err(error) => return Err(error),
        };
        if first.is_cut {
            return Ok(None);
        }
        let is_ordered = first.tags.is_sorted();
        let mut tags = first.tags;
        let is_enough = first.next.is_none() && tags.len() < SHORTEST_FULL_PAGE
            || is_ordered && ends_past(&tags, prefix);
        if !is_enough {
            let behind = if is_ordered {
                Some(prefix)
            } else if first.next.is_none() {
                tags.last().map(String::as_str)
            } else {
                return Ok(None);
            };
            let second = match self.tags_page(&subject, self.tags_url(behind)).await {
                Ok(page) => page,
                Err(error) if knows_no_parameters(&error) => return Ok(None),
                Err(error) => return Err(error),
            };
            if second.is_cut {
                return Ok(None);
            }
            let begins_again = !second.tags.is_empty() && second.tags.first() == tags.first();
            let is_whole = if begins_again {
                first.next.is_none() && !is_full(&tags)
            } else if is_ordered {
                let begins_behind = second.tags.iter().all(|tag| tag.as_str() > prefix);
                let is_short = second.next.is_none() && second.tags.len() < SHORTEST_FULL_PAGE;
                begins_behind && (is_short || ends_past(&second.tags, prefix))
            } else {
                second.next.is_none() && second.tags.len() < SHORTEST_FULL_PAGE
            };
            if !is_whole {
                return Ok(None);
            }
            if !begins_again {
                tags.extend(second.tags);
            }
        }
        tags.retain(|tag| tag.starts_with(prefix));
        tags.sort_unstable();
        tags.dedup();
        tags.shrink_to_fit();
        Ok((tags.len() <= MAX_WITH_PREFIX).then_some(tags))
    }

    async fn tags_page(&self, subject: &Subject, url: Url) -> Result<TagsPage, RegistryError> {
        let page = self
            .page(subject, url, "application/json", &[], None)
            .await?;
        let list: TagList = json::from_slice(page.body.as_ref())
            .map_err(|_| RegistryError::protocol(subject, "the response is not a list of tags"))?;
        let list = list.tags.unwrap_or_default();
        if list.is_cut {
            return Err(too_many(subject));
        }
        Ok(TagsPage {
            tags: list.items.into_iter().filter_map(|tag| tag.0).collect(),
            next: page.next,
            is_cut: page.is_cut,
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

fn cut_off(subject: &Subject) -> RegistryError {
    let reason = "the registry returns a full page of tags without a link, and does not continue behind the last tag, so \
                  that the list cannot be read to its end";
    RegistryError::protocol(subject, reason)
}

/// Returns whether the registry refused the parameters: a few accept no `last` that is not a tag, or no parameter at all.
fn knows_no_parameters(error: &RegistryError) -> bool {
    matches!(error.status(), Some(400 | 404 | 405 | 422 | 501))
}

/// Returns whether a page without a link may be incomplete: it has the requested size, or a usual size of pages in an order
/// that a continuation may not follow.
fn is_full(tags: &[String]) -> bool {
    let is_reversed = tags.len() > 1 && tags.is_sorted_by(|one, next| one > next);
    tags.len() == PAGE || is_reversed && !tags.is_empty() && tags.len().is_multiple_of(50)
}

/// Returns whether an ordered page ends behind all tags with `prefix`.
fn ends_past(tags: &[String], prefix: &str) -> bool {
    let is_past = |tag: &String| tag.as_str() > prefix && !tag.starts_with(prefix);
    tags.is_sorted() && tags.last().is_some_and(is_past)
}

#[cfg(test)]
mod tests {
    use super::super::Access;
    use super::super::testing::{Log, registry, respond};
    use super::*;
    use std::collections::HashMap;

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
    async fn a_link_that_cannot_be_read_is_an_error() {
        let (all, after) = tags_of("<unfinished; rel=next", &["sha256-b", "v1"]).await;
        let error = all.unwrap_err().to_string();
        assert!(
            error.contains("its Link header cannot be parsed"),
            "{error}"
        );
        assert_eq!(after.unwrap(), None);
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
        let (_, after) = tags_of("", &["v1", "sha256-b", "a"]).await;
        assert_eq!(after.unwrap().unwrap(), ["sha256-b"], "the list is short");
    }

    /// How a registry without links orders its tags, and what `last` means to it.
    #[derive(Clone, Copy, Debug, PartialEq)]
    enum Order {
        Ascending,
        /// The other way, and `last` is a place in that order.
        Descending,
        /// The other way, and `last` is compared with the names.
        DescendingByName,
        /// `last` is ignored.
        Ignorant,
        /// The same, and so is `n`.
        Whole,
    }

    /// A registry without links that has pages of at most `cap` tags, and its tags: versions, and one signature for each
    /// hundred.
    async fn unlinked(order: Order, cap: usize, versions: usize) -> (Repository, Log, Vec<String>) {
        let mut tags: Vec<_> = (0..versions).map(|n| format!("v{n:05}")).collect();
        tags.extend((0..versions / 100).map(|n| format!("sha256-{n:064x}.sig")));
        tags.sort();
        let all = tags.clone();
        let (registry, log) = registry(move |parts, _| {
            let query: HashMap<_, _> =
                url::form_urlencoded::parse(parts.uri.query().unwrap_or_default().as_bytes())
                    .into_owned()
                    .collect();
            let mut tags = tags.clone();
            if matches!(order, Order::Descending | Order::DescendingByName) {
                tags.reverse();
            }
            if let Some(last) = query.get("last") {
                match order {
                    Order::Ascending | Order::DescendingByName => tags.retain(|tag| tag > last),
                    Order::Descending => tags.retain(|tag| tag < last),
                    Order::Ignorant | Order::Whole => {}
                }
            }
            if order != Order::Whole {
                tags.truncate(cap.min(query["n"].parse().unwrap()));
            }
            respond(200, &[], serde_json::json!({ "tags": tags }).to_string())
        })
        .await;
        (registry.repository("a/b", Access::Pull).unwrap(), log, all)
    }

    /// All tags or an error, never a part of them: also where pages are full and no link leads to the next one.
    #[rstest::rstest]
    #[case::short(Order::Ascending, 1000, 20, Some(1))]
    #[case::one_page(Order::Ascending, 1000, 500, Some(2))]
    #[case::pages(Order::Ascending, 1000, 3001, Some(4))]
    #[case::smaller_pages(Order::Ascending, 100, 450, Some(6))]
    #[case::reversed(Order::Descending, 1000, 3001, Some(4))]
    #[case::reversed_in_smaller_pages(Order::Descending, 100, 450, Some(6))]
    #[case::reversed_without_continuation(Order::DescendingByName, 1000, 3001, None)]
    #[case::reversed_in_smaller_pages_without_continuation(Order::DescendingByName, 100, 450, None)]
    #[case::reversed_and_whole(Order::DescendingByName, 1000, 333, Some(2))]
    #[case::no_continuation(Order::Ignorant, 1000, 3001, None)]
    #[case::whole(Order::Whole, 1000, 3001, Some(2))]
    #[tokio::test]
    async fn a_list_without_links_is_read_to_its_end(
        #[case] order: Order,
        #[case] cap: usize,
        #[case] versions: usize,
        #[case] requests: Option<usize>,
    ) {
        let (repository, log, mut all) = unlinked(order, cap, versions).await;
        match (repository.tags().await, requests) {
            (Ok(mut tags), Some(requests)) => {
                tags.sort();
                all.sort();
                assert_eq!(tags, all);
                assert_eq!(log.lines().len(), requests);
            }
            (Err(error), None) => {
                assert!(error.to_string().contains("read to its end"), "{error}");
            }
            (tags, _) => panic!("{:?} of {} tags", tags.map(|tags| tags.len()), all.len()),
        }
    }

    /// No signature is missed: all of them, or `None`, so that they are requested one by one.
    #[rstest::rstest]
    #[case::short(Order::Ascending, 1000, 20, true)]
    #[case::ends_past(Order::Ascending, 1000, 3001, true)]
    #[case::smaller_pages(Order::Ascending, 100, 450, true)]
    #[case::reversed(Order::Descending, 1000, 3001, false)]
    #[case::reversed_on_two_pages(Order::Descending, 1000, 1001, true)]
    #[case::reversed_in_smaller_pages(Order::Descending, 100, 450, false)]
    #[case::reversed_without_continuation(Order::DescendingByName, 1000, 3001, false)]
    #[case::no_continuation(Order::Ignorant, 1000, 3001, true)]
    #[tokio::test]
    async fn no_tag_with_the_prefix_is_missed(
        #[case] order: Order,
        #[case] cap: usize,
        #[case] versions: usize,
        #[case] is_known: bool,
    ) {
        let (repository, log, all) = unlinked(order, cap, versions).await;
        let mut signatures = all;
        signatures.retain(|tag| tag.starts_with("sha256-"));
        let found = repository.tags_with_prefix("sha256-").await.unwrap();
        assert_eq!(found, is_known.then_some(signatures));
        assert!(log.lines().len() <= 2);
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
    #[case::a_page_that_is_not_full(PAGE - 1, false, Some(PAGE - 1))]
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
