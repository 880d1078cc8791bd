use super::super::testing::{Log, registry, respond};
use super::*;
use crate::hash::Hasher;
use crate::manifest::OCI_MANIFEST;
use reqwest::Method;
use std::sync::atomic::{AtomicUsize, Ordering};

const INDEX: &str = "application/vnd.oci.image.index.v1+json";

fn digest(text: &str) -> String {
    Hasher::sha256().of(text.as_bytes())
}

fn image(seed: &str, layers: usize) -> String {
    let blob = |name: String| {
        format!(
            r#"{{"mediaType":"x/y","digest":"{}","size":5}}"#,
            digest(&name)
        )
    };
    let layers: Vec<_> = (0..layers)
        .map(|layer| blob(format!("{seed}{layer}")))
        .collect();
    format!(
        r#"{{"schemaVersion":2,"mediaType":"{OCI_MANIFEST}","config":{},"layers":[{}]}}"#,
        blob(format!("{seed}-config")),
        layers.join(",")
    )
}

/// An index of two images with three layers each, at a registry that lacks the parts in `lost`.
async fn two_platforms(lost: &str) -> (Registry, Log, Resolved) {
    let images = [image("a", 3), image("b", 3)];
    let entry = |image: &String, architecture: &str| {
        let (digest, size) = (digest(image), image.len());
        format!(
            r#"{{"mediaType":"{OCI_MANIFEST}","digest":"{digest}","size":{size},"platform":{{"os":"linux","architecture":"{architecture}"}}}}"#
        )
    };
    let entries = [entry(&images[0], "amd64"), entry(&images[1], "arm64")].join(",");
    let index = format!(r#"{{"schemaVersion":2,"mediaType":"{INDEX}","manifests":[{entries}]}}"#);
    let root = Resolved {
        digest: digest(&index).parse().unwrap(),
        media_type: INDEX.to_owned(),
        size: index.len() as u64,
    };
    let lost = if lost == "platform" {
        digest(&images[1])
    } else {
        digest(lost)
    };
    let (registry, log) = registry(move |parts, _| {
        let path = parts.uri.path();
        let manifests = images.iter().chain([&index]);
        let mut manifests = manifests.filter(|text| path.ends_with(&digest(text)));
        match manifests.next() {
            _ if path.ends_with(&lost) => respond(404, &[], ""),
            Some(text) => {
                let media_type = if *text == index { INDEX } else { OCI_MANIFEST };
                respond(200, &[("content-type", media_type)], text.clone())
            }
            None if path.contains("/blobs/") && parts.method == Method::HEAD => {
                respond(200, &[], "")
            }
            None => respond(400, &[], ""),
        }
    })
    .await;
    (registry, log, root)
}

async fn check(
    registry: &Registry,
    root: &Resolved,
    blobs_of: impl Fn(&Digest) -> bool + Sync,
    skip: usize,
) -> Completeness {
    let waits = AtomicUsize::new(0);
    let query = PartsQuery {
        blobs_of,
        skip,
        excused: Arc::default(),
        wait: || {
            waits.fetch_add(1, Ordering::Relaxed);
            std::future::ready(true)
        },
        contents: OnceLock::new(),
    };
    let before = registry.requests();
    let found = registry.check_parts("a", root, &query).await.unwrap();
    assert_eq!(registry.requests() - before, waits.into_inner() as u64);
    found
}

/// A check that is cancelled returns the position at which the next one continues.
#[tokio::test]
async fn a_check_that_is_ended_keeps_its_progress() {
    let (registry, log, root) = two_platforms("").await;
    let end_after = async |requests: usize, skip| {
        let waits = AtomicUsize::new(0);
        let query = PartsQuery {
            blobs_of: |_: &Digest| true,
            skip,
            excused: Arc::default(),
            wait: || std::future::ready(waits.fetch_add(1, Ordering::Relaxed) < requests),
            contents: OnceLock::new(),
        };
        registry.check_parts("a", &root, &query).await.unwrap()
    };
    assert_eq!(end_after(0, 0).await, Completeness::Unfinished { next: 0 });
    // Three manifests are read first.
    let cut = end_after(3 + 5, 0).await;
    assert_eq!(cut, Completeness::Unfinished { next: 5 });
    let before = log.count("HEAD");
    assert_eq!(end_after(usize::MAX, 5).await, COMPLETE);
    assert_eq!(log.count("HEAD") - before, 3);
}

/// Parts that the original lacks are not reported as missing.
#[rstest::rstest]
#[case("a0", "a0", None)]
#[case("a0", "b0", Some("a0"))]
#[case("platform", "a0", Some("platform"))]
#[tokio::test]
async fn excused_parts_are_passed_over(
    #[case] lost: &str,
    #[case] excused: &str,
    #[case] missing: Option<&str>,
) {
    let (registry, _, root) = two_platforms(lost).await;
    let query = PartsQuery {
        blobs_of: |_: &Digest| true,
        skip: 0,
        excused: Arc::new(HashSet::from([digest(excused).parse().unwrap()])),
        wait: || std::future::ready(true),
        contents: OnceLock::new(),
    };
    let found = registry.check_parts("a", &root, &query).await.unwrap();
    let expected = missing.map_or(COMPLETE, |missing| {
        let missing = match missing {
            "platform" => digest(&image("b", 3)),
            other => digest(other),
        };
        Completeness::Missing(missing.parse().unwrap())
    });
    assert_eq!(found, expected);
}

const COMPLETE: Completeness = Completeness::Complete { next: None };

#[rstest::rstest]
#[case::nothing("", None)]
#[case::a_platform("platform", None)]
#[case::a_config("b-config", Some("b-config"))]
#[case::a_layer("a2", Some("a2"))]
#[tokio::test]
async fn everything_that_an_image_names_is_looked_for(
    #[case] lost: &str,
    #[case] missing: Option<&str>,
) {
    let (registry, log, root) = two_platforms(lost).await;
    let missing = match (lost, missing) {
        ("platform", _) => Some(digest(&image("b", 3))),
        (_, missing) => missing.map(digest),
    };
    let expected = missing.map_or(COMPLETE, |missing| {
        Completeness::Missing(missing.parse().unwrap())
    });
    assert_eq!(check(&registry, &root, |_| true, 0).await, expected);
    if lost.is_empty() {
        assert_eq!((log.count("GET"), log.count("HEAD")), (3, 8));
    }
}

/// With the index known from an earlier check, too.
#[tokio::test]
async fn a_check_of_everything_reports_the_contents() {
    let (registry, _, root) = two_platforms("").await;
    let contents = async |of_all: bool| {
        let query = PartsQuery {
            blobs_of: move |_: &Digest| of_all,
            skip: 0,
            excused: Arc::default(),
            wait: || std::future::ready(true),
            contents: OnceLock::new(),
        };
        registry.check_parts("a", &root, &query).await.unwrap();
        query.contents.into_inner()
    };
    assert_eq!(contents(false).await, None);
    let expected = ImageContents {
        bytes: 40,
        platforms: ["linux/amd64".into(), "linux/arm64".into()].into(),
    };
    assert_eq!(contents(true).await.as_ref(), Some(&expected));
    assert_eq!(contents(true).await.as_ref(), Some(&expected));
}

/// The platforms are checked each time, and their blobs in turns.
#[tokio::test]
async fn blobs_of_other_manifests_are_left_to_their_turn() {
    let (registry, log, root) = two_platforms("a0").await;
    let other = digest(&image("b", 3));
    let found = check(&registry, &root, |digest| digest.as_ref() == other, 0).await;
    assert_eq!(found, COMPLETE);
    assert_eq!((log.count("GET"), log.count("HEAD")), (2, 5));
    for _ in 0..3 {
        assert_eq!(check(&registry, &root, |_| false, 0).await, COMPLETE);
    }
    assert_eq!(
        (log.count("GET"), log.count("HEAD")),
        (2, 11),
        "the index is known"
    );
}

#[tokio::test]
async fn many_blobs_are_looked_for_in_several_checks() {
    let layers = 2 * MAX_BLOBS + 99;
    let text = image("x", layers);
    let root = Resolved {
        digest: digest(&text).parse().unwrap(),
        media_type: OCI_MANIFEST.to_owned(),
        size: 0,
    };
    let last = digest(&format!("x{}", layers - 1));
    let (registry, log) = registry(move |parts, _| match parts.method {
        Method::GET => respond(200, &[("content-type", OCI_MANIFEST)], text.clone()),
        _ if parts.uri.path().ends_with(&last) => respond(404, &[], ""),
        _ => respond(200, &[], ""),
    })
    .await;
    let mut skip = 0;
    for next in [MAX_BLOBS, 2 * MAX_BLOBS] {
        let found = check(&registry, &root, |_| true, skip).await;
        assert_eq!(found, Completeness::Complete { next: Some(next) });
        skip = next;
    }
    let found = check(&registry, &root, |_| true, skip).await;
    assert!(matches!(found, Completeness::Missing(_)));
    assert!(log.count("HEAD") <= layers + 2);
    let images_only = check(&registry, &root, |_| false, 0).await;
    assert_eq!(images_only, COMPLETE);
}
