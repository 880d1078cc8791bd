//! Checks of headers with numbers (ranges, waits, rate limits, lengths), and of links to the next page.

use super::{check_text, chosen, headers, subject};
use crate::fuzzing::check_digest;
use crate::registry::Access;
use crate::registry::blobs::first_byte;
use crate::registry::capabilities::CHUNK;
use crate::registry::chunked::{MAX_CHUNK, chunk_size, kept};
use crate::registry::rate_limit::{MAX_WINDOW, Quota};
use crate::registry::response::{content_length, header_digest, retry_after};
use crate::registry::uploads::min_chunk;
use reqwest::header::HeaderMap;
use std::time::Duration;

/// The data is a first line that selects a registry, then the headers of one response, `name: value` per line.
///
/// # Panics
/// If an invariant is violated.
pub fn range(data: &[u8]) {
    let mut lines = data.split(|byte| *byte == b'\n');
    let first = lines.next().unwrap_or_default();
    let pairs = lines.filter_map(|line| {
        let colon = line.iter().position(|byte| *byte == b':')?;
        let (name, value) = line.split_at(colon);
        Some((name, value[1..].trim_ascii()))
    });
    let headers = headers(pairs);
    check_numbers(&headers);
    check_waits(&headers);
    check_pages(first, &headers);
}

fn check_numbers(headers: &HeaderMap) {
    if let Some(first) = first_byte(headers) {
        assert!(contains(headers, "content-range", first));
    }
    if let Some(kept) = kept(headers) {
        assert!(kept > 0);
        // The maximum number has no next one.
        assert!(kept == u64::MAX || contains(headers, "range", kept - 1));
    }
    if let Some(length) = content_length(headers) {
        assert!(contains(headers, "content-length", length));
    }
    match chunk_size(&subject(), min_chunk(headers).unwrap_or_default(), CHUNK) {
        Ok(size) => assert!(size > 0 && size <= MAX_CHUNK),
        Err(error) => check_text(&error),
    }
    if let Some(digest) = header_digest(headers) {
        check_digest(&digest);
    }
}

/// No response causes a longer wait than the maximum.
fn check_waits(headers: &HeaderMap) {
    let cap = Duration::from_mins(1);
    assert!(retry_after(headers, cap).is_none_or(|wait| wait <= cap));
    let quota = Quota::default();
    quota.record(headers);
    if let Err((_, wait)) = quota.take() {
        assert!(wait <= Duration::from_secs(MAX_WINDOW));
    }
}

/// The next page is on the same host, whatever the link is: the request has the login.
fn check_pages(first: &[u8], headers: &HeaderMap) {
    let registry = chosen(first);
    let repository = registry
        .repository("team/app", Access::Pull)
        .expect("it is a name");
    let page = repository.url("tags/list");
    match repository.next_page(&subject(), &page, headers) {
        Ok(Some(url)) => assert!(registry.shared.endpoint.owns(&url), "{url}"),
        Ok(None) => {}
        Err(error) => check_text(&error),
    }
}

fn contains(headers: &HeaderMap, name: &str, number: u64) -> bool {
    let value = headers.get(name).and_then(|value| value.to_str().ok());
    let numbers = value
        .unwrap_or_default()
        .split(|c: char| !c.is_ascii_digit());
    numbers
        .filter_map(|text| text.parse().ok())
        .any(|found: u64| found == number)
}
