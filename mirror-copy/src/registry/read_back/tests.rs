use super::super::Access;
use super::super::testing::{Log, registry, respond};
use super::*;
use crate::hash::Hasher;
use crate::manifest::OCI_MANIFEST;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

const BODY: &str = r#"{"schemaVersion":2,"config":{},"layers":[]}"#;
const OLD: &str = r#"{"schemaVersion":2,"layers":[],"annotations":{}}"#;

fn digest_of(body: &str) -> Digest {
    Hasher::sha256().of(body.as_bytes()).parse().unwrap()
}

fn written() -> Manifest {
    Manifest {
        bytes: BODY.into(),
        media_type: OCI_MANIFEST.to_owned(),
        digest: digest_of(BODY),
    }
}

/// Reads back from a registry that shows these bodies and media types one after the other, and then the last one again. An
/// empty body stands for 404.
async fn read_back(shown: &'static [(&str, &str)]) -> (Result<(), RegistryError>, Log) {
    let place = Arc::new(AtomicUsize::new(0));
    let (registry, log) = registry(move |_, _| {
        let place = place.fetch_add(1, Ordering::Relaxed).min(shown.len() - 1);
        let (body, media_type) = shown[place];
        let digest = digest_of(body).to_string();
        match media_type {
            "" => respond(404, &[], ""),
            "text/html" => respond(200, &[("content-type", media_type)], body),
            _ => respond(
                200,
                &[
                    ("content-type", media_type),
                    ("docker-content-digest", &digest),
                ],
                body,
            ),
        }
    })
    .await;
    let repository = registry.repository("a", Access::Push).unwrap();
    let tag = TagOrDigest::Tag("1".to_owned());
    let is_older = |digest: &Digest| *digest == digest_of(OLD);
    let result = repository
        .read_back(&tag, OCI_MANIFEST, &written(), is_older)
        .await;
    (result, log)
}

#[rstest::rstest]
#[case::at_once(&[(BODY, OCI_MANIFEST)], 1)]
#[case::a_type_that_says_nothing(&[(BODY, "application/json; charset=utf-8")], 1)]
#[case::later(&[("", ""), ("", ""), (BODY, OCI_MANIFEST)], 3)]
#[case::the_older_one_for_a_while(&[(OLD, OCI_MANIFEST), (BODY, OCI_MANIFEST)], 2)]
#[tokio::test]
async fn what_is_shown_was_kept(#[case] shown: &'static [(&str, &str)], #[case] requests: usize) {
    let (result, log) = read_back(shown).await;
    result.unwrap();
    assert_eq!(log.lines(), vec!["GET /v2/a/manifests/1"; requests]);
}

#[rstest::rstest]
#[case::nothing(&[("", "")], "has no such manifest", true)]
#[case::still_the_older_one(&[(OLD, OCI_MANIFEST)], "still returns sha256:", true)]
#[case::rewritten(&[(r#"{"schemaVersion":2,"layers":[] }"#, OCI_MANIFEST)], "has the digest", false)]
#[case::a_page(&[("<html>log in</html>", "text/html")], "of type text/html", false)]
#[case::as_another_kind(&[(BODY, "application/vnd.oci.image.index.v1+json")], "other content", false)]
#[case::with_more_at_the_end(&[("", ""), (concat!(r#"{"schemaVersion":2,"config":{},"layers":[]}"#, "\n"), OCI_MANIFEST)], "has the digest", false)]
#[tokio::test]
async fn what_is_not_shown_was_not_kept(
    #[case] shown: &'static [(&str, &str)],
    #[case] says: &str,
    #[case] is_transient: bool,
) {
    let (result, log) = read_back(shown).await;
    let error = result.unwrap_err();
    assert!(error.to_string().contains(says), "{error}");
    assert_eq!(error.retry().is_transient(), is_transient, "{error}");
    assert!(log.lines().len() <= 12);
}

#[test]
fn the_pauses_grow_and_end() {
    let pauses: Vec<_> = visibility_pauses(&RetryPolicy::default())
        .map(|pause| pause.as_millis())
        .collect();
    assert_eq!(pauses, [200, 400, 800, 1600, 3200, 6400, 3400]);
}
