//! Blobs: whole, from a byte on, or somewhere else.

use super::exchange::{Answer, Asked, error, finish, plain};
use crate::scripted::fake::Fake;
use axum::body::Body;
use axum::http::{Method, Response, header};
use bytes::Bytes;

pub(super) fn read(fake: &Fake, asked: &Asked<'_>, repository: &str, name: &str) -> Answer {
    let mut state = fake.state();
    if let Some(store) = state.knobs.redirect_blobs.clone() {
        state.signatures_made += 1;
        let signature = state.signatures_made;
        let there = format!("http://{store}{}?X-Signature={signature}", asked.path);
        let answer = Response::builder()
            .status(307)
            .header(header::LOCATION, there)
            .header(header::SET_COOKIE, "tracking=yes; Path=/");
        return finish(answer, Body::empty());
    }
    let key = (repository.to_owned(), name.to_owned());
    let Some(content) = state.blobs.get(&key).cloned() else {
        return error(404, "BLOB_UNKNOWN");
    };
    let answer = Response::builder()
        .header(header::CONTENT_TYPE, "application/octet-stream")
        .header("Docker-Content-Digest", name);
    let total = content.len();
    let range = asked.header(&header::RANGE).filter(|_| state.knobs.ranges);
    let (answer, content) = match range.map(|range| parse_range(range, total)) {
        None => (answer, content),
        Some(Some((first, last))) => {
            let range = format!("bytes {first}-{last}/{total}");
            let answer = answer.status(206).header(header::CONTENT_RANGE, range);
            (answer, content.slice(first..=last))
        }
        Some(None) => {
            let range = format!("bytes */{total}");
            let answer = answer.status(416).header(header::CONTENT_RANGE, range);
            (answer, Bytes::new())
        }
    };
    let answer = answer.header(header::CONTENT_LENGTH, content.len());
    let body = if *asked.method == Method::HEAD {
        Body::empty()
    } else {
        Body::from(content)
    };
    finish(answer, body)
}

pub(super) fn delete(fake: &Fake, repository: &str, digest: &str) -> Answer {
    let key = (repository.to_owned(), digest.to_owned());
    match fake.state().blobs.remove(&key) {
        Some(_) => plain(202, ""),
        None => error(404, "BLOB_UNKNOWN"),
    }
}

/// One range of RFC 9110 section 14.1.2, as first and last byte; `None` when it cannot be satisfied.
fn parse_range(range: &str, total: usize) -> Option<(usize, usize)> {
    let (first, last) = range.strip_prefix("bytes=")?.split_once('-')?;
    let end = total.checked_sub(1)?;
    let (first, last) = if first.is_empty() {
        let suffix: usize = last.parse().ok()?;
        (total.saturating_sub(suffix), end)
    } else {
        let last = if last.is_empty() {
            end
        } else {
            last.parse().ok()?
        };
        (first.parse().ok()?, last.min(end))
    };
    (first <= last).then_some((first, last))
}

#[cfg(test)]
mod tests {
    use super::parse_range;
    use rstest::rstest;

    #[rstest]
    #[case::middle("bytes=2-4", Some((2, 4)))]
    #[case::open("bytes=7-", Some((7, 9)))]
    #[case::too_long("bytes=7-99", Some((7, 9)))]
    #[case::suffix("bytes=-3", Some((7, 9)))]
    #[case::beyond("bytes=10-", None)]
    #[case::backwards("bytes=4-2", None)]
    #[case::other_unit("lines=1-2", None)]
    fn ranges(#[case] range: &str, #[case] expected: Option<(usize, usize)>) {
        assert_eq!(parse_range(range, 10), expected);
    }
}
