use super::super::testing::{Log, registry, respond};
use super::super::{Access, Registry};
use super::*;
use crate::hash::Hasher;
use axum::http::request::Parts;
use axum::response::Response as RegistryResponse;
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use std::sync::{Arc, Mutex};

const MIB: usize = 1024 * 1024;

/// How the target misbehaves.
#[derive(Clone, Copy, PartialEq)]
enum Way {
    Fine,
    /// No response has a `Range`, and that to the first PATCH is 201.
    Vague,
    /// The second chunk is kept, and the response is 416.
    LostResponse,
    /// The second chunk is not kept, and the response is 416.
    LostChunk,
    /// The response to the second chunk has fewer bytes than were sent.
    Forgetful,
    WantsLargeChunks,
    WantsHugeChunks,
}

/// A target that refuses blobs over 5 MiB in one request.
fn target(
    way: Way,
) -> (
    impl Fn(Parts, Bytes) -> RegistryResponse + Clone,
    Arc<Mutex<Vec<u8>>>,
) {
    let kept: Arc<Mutex<Vec<u8>>> = Arc::default();
    let seen = Arc::clone(&kept);
    let answer = move |parts: Parts, body: Bytes| {
        let mut kept = kept.lock().unwrap();
        let range = |kept: &Vec<u8>| format!("0-{}", kept.len().saturating_sub(1));
        let header = |name: &str| {
            parts
                .headers
                .get(name)
                .map(|value| value.to_str().unwrap().to_owned())
        };
        match parts.method.as_str() {
            "POST" => {
                kept.clear();
                let min = match way {
                    Way::WantsLargeChunks => "6291456",
                    Way::WantsHugeChunks => "67108865",
                    _ => "100",
                };
                let headers = [
                    ("location", "/up?state=a%2Fb&step=0"),
                    ("oci-chunk-min-length", min),
                ];
                respond(202, &headers, "")
            }
            "PUT" if body.len() > 5 * MIB => respond(413, &[], "too large"),
            "PUT" => {
                kept.extend(&body);
                let digest = parts
                    .uri
                    .query()
                    .unwrap()
                    .split("digest=")
                    .nth(1)
                    .unwrap()
                    .to_owned();
                let is_right = Hasher::sha256().of(&kept).replace(':', "%3A") == digest;
                respond(if is_right { 201 } else { 400 }, &[], "")
            }
            "PATCH" => {
                let at = kept.len();
                assert_eq!(
                    header("content-range"),
                    Some(format!("{at}-{}", at + body.len() - 1))
                );
                assert_eq!(
                    header("content-type").as_deref(),
                    Some("application/octet-stream")
                );
                assert_eq!(header("content-length"), Some(body.len().to_string()));
                if at > 0 && way == Way::LostChunk {
                    return respond(416, &[], "");
                }
                kept.extend(&body);
                let location = format!("/up?state=a%2Fb&step={}", kept.len());
                match way {
                    Way::LostResponse if at > 0 => respond(416, &[], ""),
                    Way::Forgetful if at > 0 => {
                        respond(202, &[("location", &location), ("range", "0-9")], "")
                    }
                    Way::Vague => respond(201, &[("location", &location)], ""),
                    _ => respond(
                        202,
                        &[("location", &location), ("range", &range(&kept))],
                        "",
                    ),
                }
            }
            "GET" => respond(
                204,
                &[("location", "/up?state=c"), ("range", &range(&kept))],
                "",
            ),
            "HEAD" => respond(200, &[], ""),
            other => unreachable!("{other}"),
        }
    };
    (answer, seen)
}

fn blob(size: usize) -> (Digest, Vec<u8>) {
    let bytes: Vec<u8> = (0_u8..251).cycle().take(size).collect();
    (Hasher::sha256().of(&bytes).parse().unwrap(), bytes)
}

/// Sends a blob in odd pieces until it succeeds or fails permanently.
async fn send(registry: &Registry, size: usize) -> (usize, Result<(), RegistryError>) {
    let repository = registry.repository("a/b", Access::Push).unwrap();
    let (digest, bytes) = blob(size);
    for attempt in 1.. {
        let session = repository.start_upload(&digest).await.unwrap();
        let pieces: Vec<_> = bytes
            .chunks(100_003)
            .map(|piece| Ok(Bytes::copy_from_slice(piece)))
            .collect();
        let content = Box::pin(stream::iter(pieces));
        let sent = repository
            .put_blob(&session, &digest, size as u64, content)
            .await;
        match sent {
            Err(error) if error.retry().is_transient() && attempt < 3 => {}
            other => return (attempt, other),
        }
    }
    unreachable!()
}

async fn run(
    way: Way,
    size: usize,
) -> (
    Registry,
    Log,
    Arc<Mutex<Vec<u8>>>,
    usize,
    Result<(), RegistryError>,
) {
    let (answer, kept) = target(way);
    let (registry, log) = registry(answer).await;
    let (attempts, result) = send(&registry, size).await;
    (registry, log, kept, attempts, result)
}

#[tokio::test]
async fn a_blob_refused_whole_goes_in_chunks_and_the_host_is_remembered() {
    let (registry, log, kept, attempts, result) = run(Way::Fine, 9 * MIB + 1).await;
    result.unwrap();
    assert_eq!(
        (attempts, kept.lock().unwrap().clone()),
        (2, blob(9 * MIB + 1).1)
    );
    let patches: Vec<_> = log
        .lines()
        .into_iter()
        .filter(|line| line.starts_with("PATCH"))
        .collect();
    assert_eq!(
        patches,
        [
            "PATCH /up?state=a%2Fb&step=0",
            "PATCH /up?state=a%2Fb&step=4194304",
            "PATCH /up?state=a%2Fb&step=8388608",
        ]
    );
    assert_eq!(
        log.count("PUT /up?state=a%2Fb&step=9437185&digest=sha256%3A"),
        1
    );
    assert_eq!(send(&registry, 5 * MIB).await.0, 1);
    assert_eq!(log.count("PATCH"), 5);
    assert_eq!(send(&registry, 4 * MIB).await.0, 1);
    assert_eq!(
        log.count("PATCH"),
        5,
        "small blobs go in one request as before"
    );
}

#[tokio::test]
async fn chunks_grow_to_what_the_registry_wants() {
    let (_, log, _, _, result) = run(Way::WantsLargeChunks, 7 * MIB).await;
    result.unwrap();
    assert_eq!(log.count("step=6291456"), 1);
    assert_eq!(log.count("PATCH"), 2);
}

#[tokio::test]
async fn chunks_do_not_grow_for_ever() {
    let (_, log, _, attempts, result) = run(Way::WantsHugeChunks, 7 * MIB).await;
    let error = result.unwrap_err();
    assert!(
        error
            .to_string()
            .contains("chunks of at least 67108865 bytes"),
        "{error}"
    );
    assert_eq!((attempts, log.count("PATCH")), (2, 0));
}

#[tokio::test]
async fn a_lost_answer_is_found_out() {
    let (_, log, kept, _, result) = run(Way::LostResponse, 7 * MIB).await;
    result.unwrap();
    assert_eq!(kept.lock().unwrap().len(), 7 * MIB);
    assert_eq!(log.count("PUT /up?state=c&digest="), 1);
}

#[rstest::rstest]
#[case(Way::LostChunk, "416")]
#[case(Way::Forgetful, "kept 10 of 7340032 bytes")]
#[tokio::test]
async fn a_lost_chunk_starts_the_blob_again(#[case] way: Way, #[case] said: &str) {
    let (_, log, _, attempts, result) = run(way, 7 * MIB).await;
    let error = result.unwrap_err();
    assert!(
        error.to_string().contains(said) && error.retry().is_transient(),
        "{error}"
    );
    assert_eq!(
        (attempts, log.count("digest=")),
        (3, 1),
        "only the first, whole one tried to commit"
    );
}

#[tokio::test]
async fn a_chunk_answered_with_201_is_believed_after_a_look() {
    let (_, log, _, _, result) = run(Way::Vague, 7 * MIB).await;
    result.unwrap();
    assert_eq!(log.count("HEAD /v2/a/b/blobs/sha256:"), 1);
}

#[tokio::test]
async fn a_content_that_breaks_is_never_committed() {
    let (answer, _) = target(Way::Fine);
    let (registry, log) = registry(answer).await;
    registry
        .shared
        .capabilities
        .refused_whole(1, StatusCode::NOT_IMPLEMENTED);
    let repository = registry.repository("a/b", Access::Push).unwrap();
    let (digest, bytes) = blob(5 * MIB);
    let session = repository.start_upload(&digest).await.unwrap();
    let pieces = [
        Ok(Bytes::from(bytes)),
        Err(std::io::Error::other("the source failed")),
    ];
    let content = Box::pin(stream::iter(pieces));
    let sent = repository
        .put_blob(&session, &digest, 6 * MIB as u64, content)
        .await;
    assert!(sent.unwrap_err().retry().is_transient());
    assert_eq!(log.count("digest="), 0);
}

#[test]
fn ranges() {
    let kept = |text: &str| {
        let mut headers = HeaderMap::new();
        headers.insert(RANGE, text.parse().unwrap());
        super::kept(&headers)
    };
    assert_eq!(kept("0-1023"), Some(1024));
    assert_eq!(kept("bytes=0-9"), Some(10));
    assert_eq!(kept("0-18446744073709551615"), Some(u64::MAX));
    for nonsense in ["", "0", "5-9", "0-x", "0--1"] {
        assert_eq!(kept(nonsense), None, "{nonsense}");
    }
}

fn content(pieces: &'static [&'static str]) -> Content {
    let pieces = pieces
        .iter()
        .map(|piece| Ok(Bytes::from_static(piece.as_bytes())));
    Box::pin(stream::iter(pieces))
}

async fn text(chunker: &Chunker, length: u64) -> Result<String, io::Error> {
    let mut body = Box::pin(chunker.body(length));
    let mut text = String::new();
    while let Some(piece) = body.next().await {
        text.push_str(std::str::from_utf8(&piece?).unwrap());
    }
    Ok(text)
}

#[tokio::test]
async fn bodies_are_cut_at_their_borders() {
    let chunker = Chunker::new(content(&["ab", "", "cdefg", "h"]));
    assert_eq!(text(&chunker, 3).await.unwrap(), "abc");
    assert_eq!(text(&chunker, 3).await.unwrap(), "def");
    assert_eq!(chunker.taken(), 6);
    assert_eq!(text(&chunker, 2).await.unwrap(), "gh");
    assert_eq!(text(&chunker, 0).await.unwrap(), "");
}

#[tokio::test]
async fn an_early_end_breaks_the_body() {
    let chunker = Chunker::new(content(&["ab"]));
    assert!(text(&chunker, 3).await.is_err());
    let chunker = Chunker::new(content(&["ab"]));
    chunker.cancel();
    assert!(text(&chunker, 1).await.is_err());
}
