//! Lists that come page by page, each naming the next in `Link` (RFC 8288; distribution-spec, "Listing Tags").

use super::answer::bounded_body;
use super::call::{Call, Lane};
use super::repository::Repository;
use crate::error::{RegistryError, Subject};
use crate::registries::Leased;
use crate::text::public_url;
use reqwest::header::{ACCEPT, HeaderMap, LINK};
use reqwest::{Method, StatusCode, Url};

/// Most pages of one list. A list that goes on longer goes round in circles.
pub(super) const MAX_PAGES: usize = 1000;

/// Largest page in bytes. Some registries give the whole list at once, whatever was asked for: this is room
/// for some 50 000 tags made of digests.
const MAX_PAGE: u64 = 4 * 1024 * 1024;

/// Most links looked at in one answer.
const MAX_LINKS: usize = 16;

/// One page of a list.
pub(super) struct Page {
    /// A success, or one of the call's `answers`.
    pub(super) status: StatusCode,
    pub(super) body: Leased,
    /// The next page, on the same host; `None` on the last one.
    pub(super) next: Option<Url>,
}

impl Repository {
    /// Reads the page at this address. `answers`: statuses that are no errors, besides 2xx.
    pub(super) async fn page(
        &self,
        subject: &Subject,
        url: Url,
        accept: &str,
        answers: &'static [u16],
    ) -> Result<Page, RegistryError> {
        let call = Call::new(subject, Method::GET, url, &self.scopes, Lane::Small)
            .header(ACCEPT, accept)
            .answers(answers);
        let idle = self.registry.timeouts().idle;
        // The body is part of the attempt: a connection may break within it.
        super::retrying(self.registry.retry_policy(), || async {
            let _permit = self.metadata_permit().await;
            let response = self.registry.attempt(&call).await?;
            let status = response.status();
            let next = if status.is_success() {
                self.next_page(subject, response.url(), response.headers())?
            } else {
                None
            };
            let reservation = self.registry.reservation();
            let body = bounded_body(response, subject, MAX_PAGE, idle, &reservation).await?;
            Ok(Page { status, body, next })
        })
        .await
    }

    /// The page that an answer from this address names as the next one.
    pub(super) fn next_page(
        &self,
        subject: &Subject,
        from: &Url,
        headers: &HeaderMap,
    ) -> Result<Option<Url>, RegistryError> {
        let Some(next) = next_link(headers) else {
            return Ok(None);
        };
        let url = from.join(next).map_err(|_| {
            RegistryError::protocol(subject, "the address of its next page is not a URL")
        })?;
        let url = self.registry.seen_from_here(url);
        if self.registry.shared.endpoint.owns(&url) {
            return Ok(Some(url));
        }
        Err(RegistryError::Redirect {
            subject: subject.clone(),
            reason: format!("its next page is on another host: {}", public_url(&url)),
        })
    }
}

/// The target of the link with the relation `next`.
fn next_link(headers: &HeaderMap) -> Option<&str> {
    let values = headers
        .get_all(LINK)
        .iter()
        .filter_map(|value| value.to_str().ok());
    let links = values
        .flat_map(|value| value.split('<').skip(1))
        .take(MAX_LINKS);
    links
        .filter_map(|link| link.split_once('>'))
        .find(|(_, parameters)| parameters.split([';', ',']).any(is_next))
        .map(|(target, _)| target.trim())
}

fn is_next(parameter: &str) -> bool {
    let Some((name, value)) = parameter.split_once('=') else {
        return false;
    };
    let mut relations = value.trim().trim_matches('"').split_ascii_whitespace();
    name.trim().eq_ignore_ascii_case("rel")
        && relations.any(|relation| relation.eq_ignore_ascii_case("next"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[rstest::rstest]
    #[case(
        r#"</v2/a/tags/list?last=b&n=2>; rel="next""#,
        Some("/v2/a/tags/list?last=b&n=2")
    )]
    #[case("<https://r/x?a,b;c>;REL=next", Some("https://r/x?a,b;c"))]
    #[case(r#"<a>; rel="prev", <b>; title="x"; rel="last next""#, Some("b"))]
    #[case(r#"<a>; rel="prev""#, None)]
    #[case("a; rel=next", None)]
    #[case("<a", None)]
    #[case("", None)]
    fn links(#[case] header: &str, #[case] next: Option<&str>) {
        let mut headers = HeaderMap::new();
        headers.insert(LINK, header.parse().unwrap());
        assert_eq!(next_link(&headers), next);
    }
}
