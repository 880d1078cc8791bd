//! The double is a registry like others, and misbehaves as it is told. No engine here: plain requests.

use super::{
    Action, Auth, Fake, Latch, LocationStyle, PatchStyle, digest_of, image, noise, referrer,
};
use crate::closure;
use crate::image::{Image, pull_all};
use crate::registry::RegistryClient;
use crate::tls::install_crypto_provider;
use axum::http::Method;
use reqwest::header::{CONTENT_RANGE, LINK, LOCATION, RANGE};
use reqwest::{Client, Response};

fn http() -> Client {
    install_crypto_provider();
    let redirects = reqwest::redirect::Policy::none();
    let builder = Client::builder().no_proxy().redirect(redirects);
    builder.build().expect("an HTTP client can be built")
}

async fn send(fake: &Fake, method: Method, path: &str, body: Vec<u8>) -> Response {
    let url = format!("http://{}{path}", fake.address);
    let request = http().request(method, url).body(body);
    request.send().await.expect("an answer")
}

fn header(response: &Response, name: impl reqwest::header::AsHeaderName) -> &str {
    let value = response.headers().get(name);
    value.and_then(|value| value.to_str().ok()).unwrap_or("")
}

/// The client blocks its thread, and the fake needs one meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_is_pushed_can_be_pulled() {
    let fake = Fake::start().await;
    let image = Image::with_attestations(1);
    let client = RegistryClient::new(&fake.host(), None, None);
    image.push(&client, "a/b", "1").unwrap();
    assert_eq!(pull_all(&client, "a/b", "1").unwrap(), image.expected());
    assert_eq!(client.tags("a/b").unwrap(), ["1"]);
    let closure = closure::read(&fake.host(), "a/b", "1").await.unwrap();
    assert_eq!(closure.root, image.digest());
}

#[tokio::test]
async fn what_is_wrong_is_refused() {
    let fake = Fake::start().await;
    let incomplete = image(1, &[noise(1, 10)]);
    let path = format!("/v2/a/manifests/{}", incomplete.digest());
    let pushed = send(&fake, Method::PUT, &path, incomplete.manifest.to_vec()).await;
    assert_eq!(pushed.status(), 400);
    let opened = send(&fake, Method::POST, "/v2/a/blobs/uploads/", vec![]).await;
    let path = format!(
        "{}?digest={}",
        header(&opened, LOCATION),
        digest_of(b"other")
    );
    let pushed = send(&fake, Method::PUT, &path, b"content".to_vec()).await;
    assert_eq!(pushed.status(), 400);
    assert!(fake.state().blobs.is_empty());
}

/// Sends a chunk at a place; answers with status, received range and next location.
async fn chunk(fake: &Fake, path: &str, first: usize, bytes: &[u8]) -> (u16, String, String) {
    let url = format!("http://{}{path}", fake.address);
    let range = format!("{first}-{}", first + bytes.len() - 1);
    let request = http().patch(url).header(CONTENT_RANGE, range);
    let answer = request.body(bytes.to_vec()).send().await.unwrap();
    let text = |name| header(&answer, name).to_owned();
    (answer.status().as_u16(), text(RANGE), text(LOCATION))
}

#[tokio::test]
async fn chunks_have_an_order_a_size_and_a_newest_address() {
    let fake = Fake::start().await;
    fake.set(|knobs| {
        knobs.location = LocationStyle::Rotating;
        knobs.min_chunk = Some(3);
        knobs.max_body = 5;
    });
    let opened = send(&fake, Method::POST, "/v2/a/blobs/uploads/", vec![]).await;
    assert_eq!(header(&opened, "oci-chunk-min-length"), "3");
    let old = header(&opened, LOCATION).to_owned();
    assert_eq!(chunk(&fake, &old, 0, b"123456").await.0, 413);
    let (status, range, new) = chunk(&fake, &old, 0, b"123").await;
    assert_eq!((status, range.as_str()), (202, "0-2"));
    assert_eq!(chunk(&fake, &old, 3, b"456").await.0, 400);
    let (status, range, _) = chunk(&fake, &new, 4, b"567").await;
    assert_eq!((status, range.as_str()), (416, "0-2"));
    let (_, _, new) = chunk(&fake, &new, 3, b"45").await;
    assert_eq!(
        chunk(&fake, &new, 5, b"678").await.0,
        400,
        "45 was too small"
    );
    let path = format!("{new}&digest={}", digest_of(b"12345"));
    assert_eq!(send(&fake, Method::PUT, &path, vec![]).await.status(), 201);
}

#[tokio::test]
async fn ecr_keeps_the_first_chunk_only() {
    let fake = Fake::start().await;
    fake.set(|knobs| knobs.patch = PatchStyle::FirstOnly);
    let opened = send(&fake, Method::POST, "/v2/a/blobs/uploads/", vec![]).await;
    let path = header(&opened, LOCATION).to_owned();
    assert_eq!(chunk(&fake, &path, 0, b"123").await.0, 201);
    let (status, range, _) = chunk(&fake, &path, 3, b"456").await;
    assert_eq!((status, range.as_str()), (201, "0-2"));
}

#[tokio::test]
async fn signed_addresses_are_good_for_one_use_without_credentials() {
    let (fake, store) = (Fake::start().await, Fake::start().await);
    let content = noise(1, 10);
    store.put_blob("a", &content);
    store.set(|knobs| knobs.signed = true);
    fake.set(|knobs| knobs.redirect_blobs = Some(store.host()));
    let path = format!("/v2/a/blobs/{}", digest_of(&content));
    let redirect = send(&fake, Method::GET, &path, vec![]).await;
    let there = header(&redirect, LOCATION).to_owned();
    let with_login = http().get(&there).basic_auth("user", Some("password"));
    assert_eq!(with_login.send().await.unwrap().status(), 400);
    for status in [200, 403] {
        assert_eq!(http().get(&there).send().await.unwrap().status(), status);
    }
}

#[tokio::test]
async fn lists_come_in_pages() {
    let fake = Fake::start().await;
    let app = image(1, &[noise(1, 10)]);
    for tag in ["1", "2", "3"] {
        fake.put_tagged("a", tag, &app);
    }
    for seed in 1..=3 {
        fake.put("a", &referrer(&app, "example/x", &noise(seed, 5)));
    }
    fake.set(|knobs| knobs.page = 2);
    for first in [
        "/v2/a/tags/list".to_owned(),
        format!("/v2/a/referrers/{}", app.digest()),
    ] {
        let mut pages = 0;
        let mut next = Some(first);
        while let Some(path) = next {
            let answer = send(&fake, Method::GET, &path, vec![]).await;
            let link = header(&answer, LINK).to_owned();
            next = link
                .split_once('>')
                .map(|(path, _)| path.trim_start_matches('<').to_owned());
            pages += 1;
        }
        assert_eq!(pages, 2);
    }
}

#[tokio::test]
async fn a_reset_ends_the_connection_before_and_after_the_work_is_done() {
    let fake = Fake::start().await;
    for (action, tags) in [(Action::Reset, 0), (Action::LoseAnswer, 1)] {
        fake.fault(Method::PUT, "/manifests/", 1, action);
        let url = format!("http://{}/v2/a/manifests/1", fake.address);
        let request = http().put(url).header("content-type", "application/x");
        assert!(request.body("{}").send().await.is_err());
        assert_eq!(fake.tags(), tags);
    }
}

#[tokio::test]
async fn a_latch_holds_answers_until_it_is_opened() {
    let fake = Fake::start().await;
    let latch = Latch::closed();
    let refusal = Action::Status(418, vec![], "");
    for then in [Some(Box::new(refusal)), None] {
        let late = Action::Late(latch.clone(), then);
        fake.fault(Method::GET, "/v2/", 1, late);
    }
    let mut held = Box::pin(send(&fake, Method::GET, "/v2/", vec![]));
    while fake.log().is_empty() {
        assert!(futures_util::poll!(&mut held).is_pending());
        tokio::task::yield_now().await;
    }
    assert_eq!(fake.log()[0].status, 0, "there is no answer yet");
    latch.open();
    assert_eq!(held.await.status(), 418);
    let next = send(&fake, Method::GET, "/v2/", vec![]).await;
    assert_eq!(next.status(), 200);
}

#[tokio::test]
async fn a_token_grants_what_it_was_asked_for() {
    let fake = Fake::start().await;
    fake.put_tagged("a", "1", &image(1, &[noise(1, 10)]));
    fake.set(|knobs| {
        knobs.auth = Auth::Bearer {
            user: None,
            expires_in: "60",
        }
    });
    let answer = send(&fake, Method::GET, "/token?scope=repository:b:pull", vec![]).await;
    assert!(answer.text().await.unwrap().contains("token-1"));
    for (repository, status) in [("a", 401), ("b", 404)] {
        let url = format!("http://{}/v2/{repository}/manifests/1", fake.address);
        let request = http().get(url).bearer_auth("token-1");
        assert_eq!(request.send().await.unwrap().status(), status);
    }
}
