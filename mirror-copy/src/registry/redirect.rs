//! Which redirects are followed.

use crate::error::{RegistryError, Subject};
use crate::text::public_url;
use reqwest::header::{HeaderMap, LOCATION};
use reqwest::{Response, Url};

/// Where a redirect points to; `None` if this is no redirect.
pub(super) fn redirect_target(response: &Response) -> Option<Url> {
    if !matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
        return None;
    }
    target(response.url(), response.headers())
}

/// Where the `Location` of an answer from this address points to, relative or absolute.
pub(super) fn target(from: &Url, headers: &HeaderMap) -> Option<Url> {
    let location = headers.get(LOCATION)?.to_str().ok()?;
    from.join(location).ok()
}

/// Refuses a hop that leaves HTTPS. Where it may lead is up to the address policy.
pub(super) fn checked_hop(subject: &Subject, from: &Url, to: Url) -> Result<Url, RegistryError> {
    let refused = |reason: &str| {
        let reason = format!("its redirect to {} {reason}", public_url(&to));
        Err(RegistryError::Redirect {
            subject: subject.clone(),
            reason,
        })
    };
    match (from.scheme(), to.scheme()) {
        ("https" | "http", "https") | ("http", "http") => Ok(to),
        ("https", "http") => refused("would leave HTTPS"),
        _ => refused("is neither HTTPS nor HTTP"),
    }
}
