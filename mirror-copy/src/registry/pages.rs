//! Paginated lists, each page with the next one in `Link` (RFC 8288; distribution-spec, "Listing Tags").

use super::repository::Repository;
use super::request::RegistryRequest;
use super::response::bounded_body;
use crate::error::{RegistryError, Subject};
use crate::registries::clients::Pool;
use crate::registries::metadata_budget::Leased;
use crate::text::public_url;
use reqwest::header::{ACCEPT, HeaderMap, LINK};
use reqwest::{Method, StatusCode, Url};
use std::sync::atomic::{AtomicBool, Ordering};

/// Maximum number of pages of one list. A longer list is assumed to be cyclic.
pub(super) const MAX_PAGES: usize = 1000;

/// Maximum size of a page in bytes. Some registries return the whole list, whatever the requested page size: this is enough
/// for about 50 000 digest tags.
const MAX_PAGE: u64 = 4 * 1024 * 1024;

/// Maximum number of links of one response that are parsed.
const MAX_LINKS: usize = 16;

/// One page of a list.
pub(super) struct Page {
    /// 2xx, or one of the accepted statuses.
    pub(super) status: StatusCode,
    pub(super) body: Leased,
    /// URL of the next page, on the same host; `None` on the last one.
    pub(super) next: Option<Url>,
    /// `Link` cannot be parsed and no next page is known, so that the list may be incomplete.
    pub(super) is_cut: bool,
}

impl Repository {
    /// Reads the page at this URL. `accepted`: statuses besides 2xx that are no errors. `has_responded` becomes true with
    /// the first response, also if the request is retried.
    pub(super) async fn page(
        &self,
        subject: &Subject,
        url: Url,
        accept: &str,
        accepted: &'static [u16],
        has_responded: Option<&AtomicBool>,
    ) -> Result<Page, RegistryError> {
        let request = RegistryRequest::new(subject, Method::GET, url, &self.scopes, Pool::Small)
            .header(ACCEPT, accept)
            .accept(accepted);
        let idle = self.registry.timeouts().idle;
        // The body is part of the attempt: the connection may break within it.
        super::retrying(self.registry.retry_policy(), || async {
            let _permit = self.metadata_permit().await;
            let response = self.registry.attempt(&request).await;
            let is_silent = matches!(
                response,
                Err(RegistryError::Timeout { .. } | RegistryError::Transport { .. })
            );
            if let (Some(has_responded), false) = (has_responded, is_silent) {
                has_responded.store(true, Ordering::Relaxed);
            }
            let response = response?;
            let status = response.status();
            let (next, is_cut) = if status.is_success() {
                let headers = response.headers();
                let next = self.next_page(subject, response.url(), headers)?;
                (next, next_link(headers).is_err())
            } else {
                (None, false)
            };
            let reservation = self.registry.reservation();
            let body = bounded_body(response, subject, MAX_PAGE, idle, &reservation).await?;
            Ok(Page {
                status,
                body,
                next,
                is_cut,
            })
        })
        .await
    }

    /// Returns the next page of a response from this URL; `None` also if the link cannot be parsed.
    pub(super) fn next_page(
        &self,
        subject: &Subject,
        from: &Url,
        headers: &HeaderMap,
    ) -> Result<Option<Url>, RegistryError> {
        let Ok(Some(next)) = next_link(headers) else {
            return Ok(None);
        };
        let url = from.join(next).map_err(|_| {
            RegistryError::protocol(subject, "the link to its next page is not a URL")
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

/// `Link` violates RFC 8288, so that it may or may not name a next page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Unreadable;

/// Returns the target of the link with the relation `next`.
///
/// A link without a relation must be ignored (RFC 8288, section 3.3). Without any parameter, or with an invalid relation, it
/// may be meant as the next page.
fn next_link(headers: &HeaderMap) -> Result<Option<&str>, Unreadable> {
    let mut number = 0;
    let mut is_unclear = false;
    for value in headers.get_all(LINK) {
        let mut rest = value.to_str().map_err(|_| Unreadable)?;
        loop {
            rest = rest.trim_start_matches([',', ' ', '\t']);
            if rest.is_empty() {
                break;
            }
            number += 1;
            if number > MAX_LINKS {
                return Err(Unreadable);
            }
            let target;
            (target, rest) = link_target(rest).ok_or(Unreadable)?;
            let mut relations = None;
            let mut has_parameters = false;
            while let Some(parameter) = rest.trim_start().strip_prefix(';') {
                has_parameters = true;
                let (name, value);
                (name, value, rest) = link_parameter(parameter).ok_or(Unreadable)?;
                if name.eq_ignore_ascii_case("rel") {
                    relations = relations.or(Some(value));
                }
            }
            let relations = relations.map(str::split_ascii_whitespace);
            is_unclear |= relations.is_none() && !has_parameters;
            for relation in relations.into_iter().flatten() {
                if relation.eq_ignore_ascii_case("next") {
                    return Ok(Some(target));
                }
                is_unclear |= !is_relation(relation);
            }
            rest = rest.trim_start();
            if !rest.is_empty() && !rest.starts_with(',') {
                return Err(Unreadable);
            }
        }
    }
    if is_unclear {
        Err(Unreadable)
    } else {
        Ok(None)
    }
}

/// Returns whether this can be a registered relation or a URI (RFC 8288, section 3.3), and not a word in other quotes.
fn is_relation(text: &str) -> bool {
    text.bytes()
        .all(|byte| byte.is_ascii_graphic() && !b"'`\"<>".contains(&byte))
}

/// Splits off `<target>`, or a path or URL without the brackets, as older versions of Quay write it.
fn link_target(text: &str) -> Option<(&str, &str)> {
    if let Some(text) = text.strip_prefix('<') {
        let (target, rest) = text.split_once('>')?;
        return Some((target.trim(), rest));
    }
    let (target, rest) = text.split_at_checked(text.find([';', ' ', '<', '>'])?)?;
    let is_address = ["/", "?", "http://", "https://"];
    let is_address = is_address.iter().any(|start| target.starts_with(start));
    is_address.then_some((target, rest))
}

/// Splits off `name=value` or `name="value"`. The value may be missing.
fn link_parameter(text: &str) -> Option<(&str, &str, &str)> {
    let (name, after) = text.split_at_checked(text.find(['=', ';', ',']).unwrap_or(text.len()))?;
    let name = name.trim();
    if name.contains(['<', '>', ' ', '\t', '"']) {
        return None;
    }
    let Some(value) = after.strip_prefix('=') else {
        return Some((name, "", after));
    };
    let value = value.trim_start();
    let Some(quoted) = value.strip_prefix('"') else {
        let end = value.find([';', ',', ' ', '\t']);
        let (value, rest) = value.split_at_checked(end.unwrap_or(value.len()))?;
        return Some((name, value, rest));
    };
    let mut escaped = false;
    let end = quoted.find(|c| {
        let is_end = c == '"' && !escaped;
        escaped = c == '\\' && !escaped;
        is_end
    })?;
    let (value, rest) = quoted.split_at_checked(end)?;
    Some((name, value, rest.strip_prefix('"')?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use reqwest::header::HeaderValue;

    #[rstest::rstest]
    #[case(
        r#"</v2/a/tags/list?last=b&n=2>; rel="next""#,
        Some("/v2/a/tags/list?last=b&n=2")
    )]
    #[case("<https://r/x?a,b;c>;REL=next", Some("https://r/x?a,b;c"))]
    #[case(r#"<a>; rel="prev", <b>; title="x"; rel="last next""#, Some("b"))]
    #[case(r#"<a>; rel="prev""#, None)]
    #[case("", None)]
    #[case(r#"<a>; title="x, \"<y>; rel=next"; rel=prev"#, None)]
    #[case(r#"<a>; rel = "help" , <b>; hreflang=en ; rel = next"#, Some("b"))]
    #[case(r#"</a>;rel=help,</b>;title="a, b";rel="prev next""#, Some("/b"))]
    #[case(
        r#"/v2/a/tags/list?n=2&last=b; rel="next""#,
        Some("/v2/a/tags/list?n=2&last=b")
    )]
    #[case("<a>; rel=next, <unfinished", Some("a"))]
    #[case("<x.css>; as=style, <b>; rel=next", Some("b"))]
    #[case("<x.css>; as=style", None)]
    #[case("<a>, <b>; rel=next", Some("b"))]
    fn links(#[case] header: &str, #[case] next: Option<&str>) {
        let mut headers = HeaderMap::new();
        headers.insert(LINK, header.parse().unwrap());
        assert_eq!(next_link(&headers), Ok(next));
    }

    #[rstest::rstest]
    #[case("a; rel=next")]
    #[case("<a; rel=next")]
    #[case("<a>")]
    #[case("<a>; rel=\"next")]
    #[case("<a>; rel=prev; <b>")]
    #[case("<a>; rel=prev <b>; rel=next")]
    #[case("next")]
    #[case("<a>; rel='next'")]
    #[case("<a>; rel=`next`")]
    #[case(&"<a>; rel=prev,".repeat(17))]
    fn malformed_links(#[case] header: &str) {
        let mut headers = HeaderMap::new();
        headers.insert(LINK, header.parse().unwrap());
        assert_eq!(next_link(&headers), Err(Unreadable));
    }

    #[test]
    fn a_link_that_is_no_text_is_malformed() {
        let mut headers = HeaderMap::new();
        headers.insert(LINK, HeaderValue::from_bytes(b"<\xff>; rel=next").unwrap());
        assert_eq!(next_link(&headers), Err(Unreadable));
    }
}
