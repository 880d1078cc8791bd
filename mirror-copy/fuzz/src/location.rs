//! Checks of `Location`: of upload sessions, and of redirects.

use super::{check_address, check_text, chosen, headers, subject};
use crate::registry::request::{checked_hop, target};
use crate::registry::uploads::closing_url;
use crate::registry::{Access, Registry};
use crate::text::public_url;
use oci_spec::image::Digest;
use reqwest::Url;
use reqwest::header::HeaderMap;
use std::sync::LazyLock;

static DIGEST: LazyLock<Digest> = LazyLock::new(|| {
    let text = format!("sha256:{}", "5".repeat(64));
    text.parse().expect("it is a digest")
});

/// The data is a first line that selects a registry, then the `Location` of consecutive responses.
///
/// # Panics
/// If an invariant is violated.
pub fn location(data: &[u8]) {
    let mut lines = data.split(|byte| *byte == b'\n');
    let registry = chosen(lines.next().unwrap_or_default());
    let responses: Vec<HeaderMap> = lines
        .take(8)
        .map(|line| headers([(&b"location"[..], line)]))
        .collect();
    upload(registry, &responses);
    redirects(registry, &responses);
}

fn upload(registry: &Registry, responses: &[HeaderMap]) {
    let repository = registry
        .repository("team/app", Access::Push)
        .expect("it is a name");
    let mut session = repository.url("blobs/uploads/");
    for headers in responses {
        match repository.location(&subject(), &session, headers) {
            Ok(Some(url)) => session = url,
            Ok(None) => {}
            Err(error) => return check_text(&error),
        }
        check_address(registry, &session);
        check_closing(&session);
        check_public(&session);
    }
}

/// The digest is appended once, to a URL that is otherwise unchanged.
fn check_closing(session: &Url) {
    let closing = closing_url(session, &DIGEST);
    let pairs = |url: &Url| -> Vec<_> { url.query_pairs().into_owned().collect() };
    let (before, after) = (pairs(session), pairs(&closing));
    let (last, rest) = after.split_last().expect("the digest is there");
    assert_eq!(*last, ("digest".to_owned(), DIGEST.to_string()));
    assert_eq!(rest, before, "{session} became {closing}");
    let kept = session.query().unwrap_or_default();
    let query = closing.query().unwrap_or_default();
    assert!(query.starts_with(kept), "{session} became {closing}");
    let (mut one, mut other) = (session.clone(), closing);
    one.set_query(None);
    other.set_query(None);
    assert_eq!(one, other, "only the query changes");
}

/// The public text of a URL has no part with secrets, and may be cut.
fn check_public(url: &Url) {
    let mut bare = url.clone();
    bare.set_query(None);
    bare.set_fragment(None);
    let _ = bare.set_username("");
    let _ = bare.set_password(None);
    let shown = public_url(url);
    match shown.strip_suffix('…') {
        Some(kept) => assert!(bare.as_str().starts_with(kept), "{shown}"),
        None => assert_eq!(shown, bare.as_str()),
    }
}

fn redirects(registry: &Registry, responses: &[HeaderMap]) {
    let endpoint = &registry.shared.endpoint;
    let mut at = endpoint.base.clone();
    for headers in responses {
        let Some(to) = target(&at, headers) else {
            return;
        };
        let checked = checked_hop(&subject(), &at, to);
        let beyond = registry.beyond();
        let checked = checked.and_then(|to| {
            registry
                .check_redirect(&subject(), &to, beyond)
                .map(|()| to)
        });
        match checked {
            Ok(to) => {
                check_address(registry, &to);
                assert!(at.scheme() == "http" || to.scheme() == "https");
                if endpoint.owns(&to) {
                    assert_eq!(
                        (to.scheme(), to.host()),
                        (endpoint.base.scheme(), endpoint.base.host())
                    );
                }
                check_public(&to);
                at = to;
            }
            Err(error) => return check_text(&error),
        }
    }
}
