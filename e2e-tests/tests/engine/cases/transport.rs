//! Cases 27 to 39: redirects, upload locations, chunks, mounts, resets, limits and pressure.

use crate::child;
use crate::support::{
    PASSWORD, arrived, copy_app, nothing_tagged, options, pair_with, registries,
    registries_with_login, source, target,
};
use axum::http::{Method, Version, header};
use bytes::Bytes;
use mirror_copy::{
    CopyError, CopyOptions, CopyReport, Event, Progress, Registries, Registry, RegistryError,
    RegistryOptions, Retry, Source, TagOrDigest, Target, Timeouts, copy,
};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};
use testkit::scripted::{
    Action, Auth, Fake, Image, Latch, LocationStyle, PatchStyle, digest_of, image, noise,
};
use testkit::tls::Tls;

const USER: &str = "robot";
const MIB: usize = 1024 * 1024;

fn basic() -> Auth {
    Auth::Basic {
        user: USER.into(),
        password: PASSWORD.into(),
    }
}

/// An image with one layer of this size.
fn with_layer(size: usize) -> Image {
    image(1, &[noise(7, size)])
}

fn layer_path(image: &Image) -> String {
    format!("/blobs/{}", digest_of(&image.blobs[1]))
}

#[tokio::test]
async fn case_27_signed_addresses_get_no_credentials_and_are_used_once() {
    let app = with_layer(3 * MIB);
    let (from, to) = pair_with(std::slice::from_ref(&app)).await;
    let store = Fake::start().await;
    store.put("app", &app);
    store.set(|knobs| knobs.signed = true);
    from.set(|knobs| {
        knobs.auth = basic();
        knobs.redirect_blobs = Some(store.host());
    });
    // The body breaks off, and by then the address has expired.
    store.fault(Method::GET, &layer_path(&app), 1, Action::Cut(MIB));
    let registries = registries_with_login(&[&from, &to, &store], USER);
    copy_app(&registries, &from, &to).await.unwrap();
    assert!(arrived(&to, &[app]));
    let log = store.log();
    assert_eq!(log.len(), 3, "the config, the layer, and the rest of it");
    assert!(log.iter().all(|entry| entry.status < 400));
    for entry in &log {
        assert_eq!(entry.authorization, None);
        assert_eq!(entry.headers.get(header::COOKIE), None);
        assert_eq!(entry.headers.get(header::REFERER), None);
    }
}

#[tokio::test]
async fn case_27_redirects_end_and_their_secrets_stay_out_of_errors() {
    let (from, to) = pair_with(&[with_layer(1000)]).await;
    let cdn = Fake::start().await;
    let round = format!("http://{}/round?sig=s1gnature", cdn.address);
    let round = Action::Status(302, vec![("location", round)], "");
    from.fault(Method::GET, "/blobs/", usize::MAX, round.clone());
    cdn.fault(Method::GET, "/round", usize::MAX, round);
    let error = copy_app(&registries(&[&from, &to]), &from, &to)
        .await
        .unwrap_err();
    let text = error.to_string();
    assert!(text.contains("redirected more than"), "{text}");
    assert!(!format!("{error} {error:?}").contains("s1gnature"));
}

async fn behind_tls() -> (Fake, RegistryOptions) {
    let tls = Tls::generate().unwrap();
    let options = RegistryOptions {
        extra_root_certificates_pem: vec![tls.ca_pem().as_bytes().to_vec()],
        ..RegistryOptions::default()
    };
    (Fake::start_tls(&tls).await, options)
}

#[tokio::test]
async fn case_27_a_redirect_out_of_tls_is_not_followed() {
    let (fake, options) = behind_tls().await;
    let plain = Fake::start().await;
    let location = vec![("location", format!("http://{}/x", plain.address))];
    let redirect = Action::Status(307, location, "");
    fake.fault(Method::GET, "/v2/", usize::MAX, redirect);
    let registry = Registries::new(options).unwrap().get(&fake.host()).unwrap();
    let error = registry.ping().await.unwrap_err();
    assert!(matches!(error, RegistryError::Redirect { .. }), "{error}");
    assert!(plain.log().is_empty());
}

/// A public name reaches the fake through a proxy; the fake then sends the client into its own network.
#[rstest::rstest]
#[case("http://10.0.0.1")]
#[case("http://169.254.169.254")]
#[case("http://[::1]")]
#[case("http://[::ffff:127.0.0.1]")]
#[case("http://localhost")]
#[tokio::test]
async fn case_27_a_public_registry_cannot_send_us_into_a_private_network(#[case] inside: &str) {
    let app = with_layer(1000);
    let fake = Fake::start().await;
    fake.put_tagged("app", "1", &app);
    fake.set(|knobs| knobs.mount = false);
    let there = vec![("location", format!("{inside}/v2/app/blobs/x"))];
    let redirect = Action::Status(307, there, "");
    fake.fault(Method::GET, "/v2/app/blobs/", usize::MAX, redirect);
    let answer = child::copy_by_proxy(&fake, "registry.example.com", "app", &[]).await;
    assert!(child::is_kept_out(&answer), "{answer}");
    let inside = inside.trim_start_matches("http://");
    let asked = |entry: &testkit::scripted::Entry| entry.headers[header::HOST] == inside;
    assert!(!fake.log().iter().any(asked));
}

#[rstest::rstest]
#[case(LocationStyle::Absolute)]
#[case(LocationStyle::Relative)]
#[case(LocationStyle::WithQuery)]
#[tokio::test]
async fn case_28_upload_locations_of_all_shapes_work(#[case] style: LocationStyle) {
    let app = with_layer(1000);
    let (from, to) = pair_with(std::slice::from_ref(&app)).await;
    to.set(|knobs| knobs.location = style.clone());
    copy_app(&registries(&[&from, &to]), &from, &to)
        .await
        .unwrap();
    assert!(arrived(&to, &[app]));
    let puts = to.asked(&Method::PUT, "/uploads/");
    assert!(
        puts.iter()
            .all(|put| put.query.contains("digest=sha256%3A"))
    );
    if matches!(style, LocationStyle::WithQuery) {
        let kept = "_state=a%2Fb%3D%3D&nonce=1&digest=";
        assert!(puts.iter().all(|put| put.query.starts_with(kept)));
    }
}

#[tokio::test]
async fn case_28_an_upload_to_another_host_goes_without_authorization() {
    let (from, to) = pair_with(&[with_layer(1000)]).await;
    let store = Fake::start().await;
    for fake in [&from, &to] {
        fake.set(|knobs| knobs.auth = basic());
    }
    to.set(|knobs| {
        knobs.location = LocationStyle::Elsewhere(store.host());
        knobs.verify = false;
    });
    let registries = registries_with_login(&[&from, &to, &store], USER);
    copy_app(&registries, &from, &to).await.unwrap();
    let puts = store.log();
    assert_eq!(puts.len(), 2);
    assert!(puts.iter().all(|entry| entry.authorization.is_none()));
    assert_eq!(to.count(&Method::PUT, "/blobs/"), 0);
}

#[tokio::test]
async fn case_28_the_newest_location_is_taken_after_every_chunk() {
    let app = with_layer(9 * MIB);
    let (from, to) = pair_with(std::slice::from_ref(&app)).await;
    to.set(|knobs| {
        knobs.location = LocationStyle::Rotating;
        knobs.max_body = 4 * MIB;
    });
    copy_app(&registries(&[&from, &to]), &from, &to)
        .await
        .unwrap();
    assert!(arrived(&to, &[app]));
    let put = to.asked(&Method::PUT, "step=3");
    assert_eq!(put.len(), 1, "three chunks, then the end");
}

#[tokio::test]
async fn case_28_a_missing_location_is_an_error_where_it_is_needed_only() {
    let app = with_layer(1000);
    let (from, to) = pair_with(std::slice::from_ref(&app)).await;
    to.fault(Method::PUT, "", usize::MAX, Action::Without("location"));
    copy_app(&registries(&[&from, &to]), &from, &to)
        .await
        .unwrap();
    assert!(arrived(&to, &[app]));

    let (from, to) = pair_with(&[with_layer(1000)]).await;
    to.fault(Method::POST, "", usize::MAX, Action::Without("location"));
    let error = copy_app(&registries(&[&from, &to]), &from, &to)
        .await
        .unwrap_err();
    assert!(error.to_string().contains("no upload location"), "{error}");
}

/// Copies within one registry that mounts nothing.
async fn within(fake: &Fake, options: RegistryOptions) -> Result<CopyReport, CopyError> {
    fake.set(|knobs| knobs.mount = false);
    let registry = Registries::new(options).unwrap().get(&fake.host()).unwrap();
    let source = Source {
        registry: registry.clone(),
        repository: "app".into(),
        reference: TagOrDigest::parse("1"),
    };
    let target = Target {
        registry,
        repository: "copy".into(),
        tag: Some("1".into()),
        anchor: None,
    };
    copy(&source, &target, &CopyOptions::default(), &()).await
}

#[tokio::test]
async fn case_29_an_http_location_behind_tls_is_upgraded() {
    let (fake, options) = behind_tls().await;
    let app = with_layer(100_000);
    fake.put_tagged("app", "1", &app);
    // It thinks that it is spoken to by plain HTTP, like many behind a proxy.
    fake.set(|knobs| knobs.location = LocationStyle::Absolute);
    within(&fake, options).await.unwrap();
    assert!(arrived(&fake, &[app]));
}

#[tokio::test]
async fn case_29_a_location_that_leaves_tls_for_another_host_is_refused() {
    let (fake, options) = behind_tls().await;
    fake.put_tagged("app", "1", &with_layer(100));
    let plain = Fake::start().await;
    let elsewhere = LocationStyle::Base(format!("http://localhost:{}", plain.address.port()));
    fake.set(|knobs| knobs.location = elsewhere);
    let error = within(&fake, options).await.unwrap_err();
    assert!(matches!(error, CopyError::Target(_)), "{error}");
    assert!(plain.log().is_empty());
}

/// The default port is named in one address and not in the other: still the same registry, so the password goes along.
#[tokio::test]
async fn case_29_a_dropped_default_port_is_still_the_same_registry() {
    let app = with_layer(1000);
    let fake = Fake::start().await;
    fake.put_tagged("app", "1", &app);
    fake.set(|knobs| {
        knobs.auth = basic();
        knobs.mount = false;
        knobs.location = LocationStyle::Base("http://registry.example.com".into());
    });
    let login = [("registry.example.com:80", USER, PASSWORD)];
    let answer = child::copy_by_proxy(&fake, "registry.example.com:80", "app", &login).await;
    assert_eq!(answer, "ok");
    assert!(fake.has("acme/copy", &app));
}

#[tokio::test]
async fn case_30_a_blob_is_sent_in_one_put_first() {
    let app = with_layer(9 * MIB);
    let (from, to) = pair_with(std::slice::from_ref(&app)).await;
    // ECR: every chunk but the first is thrown away, with a friendly answer.
    to.set(|knobs| knobs.patch = PatchStyle::FirstOnly);
    copy_app(&registries(&[&from, &to]), &from, &to)
        .await
        .unwrap();
    assert!(arrived(&to, &[app]));
    assert_eq!(to.count(&Method::PATCH, ""), 0);
}

#[rstest::rstest]
#[case::ghcr(4 * MIB, 413)]
#[case::cloudflare(8 * MIB, 413)]
#[tokio::test]
async fn case_30_chunks_are_sent_after_the_whole_was_too_large(
    #[case] limit: usize,
    #[case] refusal: u16,
) {
    let app = with_layer(9 * MIB + 1);
    let (from, to) = pair_with(std::slice::from_ref(&app)).await;
    to.set(|knobs| knobs.max_body = limit);
    copy_app(&registries(&[&from, &to]), &from, &to)
        .await
        .unwrap();
    assert!(arrived(&to, &[app]));
    let refused = to.log().iter().filter(|e| e.status == refusal).count();
    assert_eq!(refused, 1, "it is learned");
    let chunks = to.asked(&Method::PATCH, "/uploads/");
    let mut next = 0;
    for chunk in chunks {
        let range = chunk.headers[header::CONTENT_RANGE].to_str().unwrap();
        assert_eq!(range, format!("{next}-{}", next + chunk.length - 1));
        assert!(chunk.length <= limit);
        next += chunk.length;
    }
    assert_eq!(next, 9 * MIB + 1);
}

/// nginx refuses bodies of more than 1 MiB by default.
#[tokio::test]
async fn case_30_chunks_are_halved_where_they_are_too_large() {
    let app = with_layer(9 * MIB + 1);
    let (from, to) = pair_with(std::slice::from_ref(&app)).await;
    to.set(|knobs| knobs.max_body = MIB);
    let registries = registries(&[&from, &to]);
    copy_app(&registries, &from, &to).await.unwrap();
    assert!(arrived(&to, std::slice::from_ref(&app)));
    let refused = |to: &Fake| to.log().iter().filter(|e| e.status == 413).count();
    assert_eq!(refused(&to), 3, "the whole, 4 MiB and 2 MiB");
    // It is learned for the host: neither large nor medium blobs are refused again.
    from.put_tagged(
        "app",
        "2",
        &image(2, &[noise(8, 3 * MIB), noise(9, MIB + 1)]),
    );
    let source = source(&registries, &from, "app", "2");
    let target = target(&registries, &to, "copy", "2");
    copy(&source, &target, &CopyOptions::default(), &())
        .await
        .unwrap();
    assert_eq!(refused(&to), 3);
}

#[tokio::test]
async fn case_30_a_limit_below_every_chunk_is_a_final_error() {
    let app = with_layer(MIB);
    let (from, to) = pair_with(std::slice::from_ref(&app)).await;
    to.set(|knobs| knobs.max_body = 1000);
    let error = copy_app(&registries(&[&from, &to]), &from, &to)
        .await
        .unwrap_err();
    assert!(error.to_string().contains("413"), "{error}");
    assert!(!error.retry().is_transient(), "{error}");
    assert!(to.log().len() < 40, "bounded");
}

#[tokio::test]
async fn case_30_every_request_of_an_upload_says_its_length() {
    let app = with_layer(5 * MIB);
    for limit in [usize::MAX, 4 * MIB] {
        let (from, to) = pair_with(std::slice::from_ref(&app)).await;
        to.set(|knobs| {
            knobs.needs_length = true;
            knobs.max_body = limit;
        });
        copy_app(&registries(&[&from, &to]), &from, &to)
            .await
            .unwrap();
        assert!(arrived(&to, std::slice::from_ref(&app)));
        assert!(to.log().iter().all(|entry| entry.status != 411));
    }
}

#[tokio::test]
async fn case_30_chunks_that_are_thrown_away_are_noticed() {
    let (from, to) = pair_with(&[with_layer(9 * MIB)]).await;
    to.set(|knobs| {
        knobs.max_body = 4 * MIB;
        knobs.patch = PatchStyle::FirstOnly;
        knobs.verify = false;
    });
    let error = copy_app(&registries(&[&from, &to]), &from, &to)
        .await
        .unwrap_err();
    assert!(matches!(error, CopyError::Target(_)), "{error}");
    assert!(nothing_tagged(&to));
}

#[tokio::test]
async fn case_31_chunks_are_as_large_as_the_registry_wants_them() {
    let app = with_layer(20 * MIB);
    let (from, to) = pair_with(std::slice::from_ref(&app)).await;
    to.set(|knobs| {
        knobs.max_body = 8 * MIB;
        knobs.min_chunk = Some(6 * MIB);
    });
    copy_app(&registries(&[&from, &to]), &from, &to)
        .await
        .unwrap();
    assert!(arrived(&to, &[app]));
    let chunks = to.asked(&Method::PATCH, "/uploads/");
    let (last, others) = chunks.split_last().unwrap();
    assert!(others.iter().all(|chunk| chunk.length >= 6 * MIB));
    assert!(last.length > 0);
}

#[tokio::test]
async fn case_31_a_minimum_beyond_reason_is_refused() {
    let (from, to) = pair_with(&[with_layer(9 * MIB)]).await;
    to.set(|knobs| {
        knobs.max_body = 8 * MIB;
        knobs.min_chunk = Some(1024 * MIB);
    });
    let error = copy_app(&registries(&[&from, &to]), &from, &to)
        .await
        .unwrap_err();
    assert!(error.to_string().contains("chunks"), "{error}");
    assert_eq!(error.retry(), Retry::Permanent);
    assert_eq!(to.count(&Method::PATCH, ""), 0);
}

/// The chunk arrived, but what came back is 416: a proxy sent it twice. The session says how far it really is.
#[tokio::test]
async fn case_32_a_416_is_cleared_up_by_asking_the_session() {
    let app = with_layer(9 * MIB);
    let (from, to) = pair_with(std::slice::from_ref(&app)).await;
    to.set(|knobs| knobs.max_body = 4 * MIB);
    to.fault(Method::PATCH, "", 1, Action::Disguise(416));
    copy_app(&registries(&[&from, &to]), &from, &to)
        .await
        .unwrap();
    assert!(arrived(&to, std::slice::from_ref(&app)));
    assert_eq!(to.count(&Method::GET, "/uploads/"), 1);
    // The refused whole, and the chunks: nothing was started again for it.
    assert_eq!(from.count(&Method::GET, &layer_path(&app)), 2);
}

#[tokio::test]
async fn case_32_a_chunk_that_really_is_lost_starts_the_blob_again() {
    let app = with_layer(9 * MIB);
    for lost in [Action::Status(416, vec![], ""), Action::LoseAnswer] {
        let (from, to) = pair_with(std::slice::from_ref(&app)).await;
        to.set(|knobs| knobs.max_body = 4 * MIB);
        to.fault(Method::PATCH, "", 1, lost);
        copy_app(&registries(&[&from, &to]), &from, &to)
            .await
            .unwrap();
        assert!(arrived(&to, std::slice::from_ref(&app)));
    }
}

#[tokio::test]
async fn case_32_a_session_that_cannot_be_asked_for_starts_again() {
    let app = with_layer(9 * MIB);
    for status in [404, 405, 501] {
        let (from, to) = pair_with(std::slice::from_ref(&app)).await;
        to.set(|knobs| knobs.max_body = 4 * MIB);
        to.fault(Method::PATCH, "", 1, Action::Status(416, vec![], ""));
        let no_status = Action::Status(status, vec![], "");
        to.fault(Method::GET, "/uploads/", usize::MAX, no_status);
        copy_app(&registries(&[&from, &to]), &from, &to)
            .await
            .unwrap();
        assert!(arrived(&to, std::slice::from_ref(&app)));
    }
}

/// Two images that share a base layer go to two repositories; answers with the report of the second copy.
async fn two_with_a_shared_base(to: &Fake) -> (Fake, CopyReport) {
    let from = Fake::start().await;
    let base = noise(1, 50_000);
    from.put_tagged("a", "1", &image(1, &[base.clone(), noise(2, 10)]));
    let second = image(2, &[base, noise(3, 10)]);
    from.put_tagged("b", "1", &second);
    let registries = registries(&[&from, to]);
    let mut last = None;
    for name in ["a", "b"] {
        let source = source(&registries, &from, name, "1");
        let target = target(&registries, to, &format!("copy-{name}"), "1");
        let report = copy(&source, &target, &CopyOptions::default(), &()).await;
        last = Some(report.unwrap());
    }
    assert!(to.has("copy-b", &second));
    (from, last.unwrap())
}

#[tokio::test]
async fn case_33_a_mounted_base_layer_crosses_the_wire_once_per_registry() {
    let to = Fake::start().await;
    let (_from, second) = two_with_a_shared_base(&to).await;
    assert_eq!((second.blobs_mounted, second.blobs_copied), (1, 2));
    assert!(second.bytes < 50_000, "the base was not sent again");
}

#[tokio::test]
async fn case_33_the_source_of_a_mounted_blob_is_not_even_opened() {
    let to = Fake::start().await;
    let (from, _) = two_with_a_shared_base(&to).await;
    let base = digest_of(&noise(1, 50_000));
    assert_eq!(from.count(&Method::GET, base.as_ref()), 1);
}

#[tokio::test]
async fn case_33_the_session_of_a_refused_mount_is_used() {
    let to = Fake::start().await;
    to.set(|knobs| knobs.mount = false);
    let (_from, second) = two_with_a_shared_base(&to).await;
    assert_eq!((second.blobs_mounted, second.blobs_copied), (0, 3));
    assert_eq!(
        to.count(&Method::POST, "/blobs/uploads/"),
        6,
        "three blobs for either image, one POST each"
    );
}

#[rstest::rstest]
#[case(400)]
#[case(401)]
#[case(403)]
#[case(404)]
#[case(405)]
#[tokio::test]
async fn case_33_a_registry_that_knows_no_mount_gets_the_blob(#[case] status: u16) {
    let to = Fake::start().await;
    let refusal = Action::Status(status, vec![], "no");
    to.fault(Method::POST, "mount=", usize::MAX, refusal);
    let (_from, second) = two_with_a_shared_base(&to).await;
    assert_eq!((second.blobs_mounted, second.blobs_copied), (0, 3));
}

#[tokio::test]
async fn case_33_a_large_blob_is_not_sent_to_a_registry_that_has_it_and_never_mounts() {
    let app = with_layer(9 * MIB);
    let (from, to) = pair_with(std::slice::from_ref(&app)).await;
    to.set(|knobs| knobs.mount = false);
    to.put_blob("copy", &app.blobs[1]);
    let report = copy_app(&registries(&[&from, &to]), &from, &to)
        .await
        .unwrap();
    assert!(report.bytes < 9 * MIB as u64, "{report:?}");
    assert!(arrived(&to, &[app]));
}

#[tokio::test]
async fn case_33_a_registry_that_knows_no_mount_is_not_asked_again() {
    let (from, to) = (Fake::start().await, Fake::start().await);
    let bases: Vec<_> = (1..=4).map(|seed| noise(seed, 1000)).collect();
    from.put_tagged("a", "1", &image(1, &bases));
    from.put_tagged("b", "1", &image(2, &bases));
    let refusal = Action::Status(405, vec![], "no");
    to.fault(Method::POST, "mount=", usize::MAX, refusal);
    let registries = registries(&[&from, &to]);
    for (name, most) in [("a", 8), ("b", 8), ("a", 0)] {
        let source = source(&registries, &from, name, "1");
        let target = target(&registries, &to, &format!("{name}-{most}"), "1");
        to.clear_log();
        copy(&source, &target, &CopyOptions::default(), &())
            .await
            .unwrap();
        // What runs at the same time may ask once each; after that it is known.
        assert!(to.count(&Method::POST, "mount=") <= most, "{name}");
    }
}

/// Each of the refused mounts says something of one repository only, and nothing of what another one has.
#[tokio::test]
async fn case_33_refused_mounts_do_not_make_us_forget_what_a_repository_has() {
    let (from, to) = (Fake::start().await, Fake::start().await);
    to.set(|knobs| knobs.mount = false);
    let base = noise(1, 2 * MIB);
    for seed in 1..=3 {
        let app = image(seed, &[base.clone(), noise(100 + seed, 10)]);
        from.put_tagged("app", &seed.to_string(), &app);
    }
    let registries = registries(&[&from, &to]);
    let mut last = None;
    for (tag, repository) in [("1", "x"), ("2", "y"), ("3", "x")] {
        let source = source(&registries, &from, "app", tag);
        let target = target(&registries, &to, repository, tag);
        let report = copy(&source, &target, &CopyOptions::default(), &()).await;
        last = Some(report.unwrap());
    }
    let bytes = last.unwrap().bytes;
    assert!(bytes < MIB as u64, "{bytes} bytes were sent");
    let name = digest_of(&base).to_string().replace(':', "%3A");
    assert_eq!(to.count(&Method::PUT, &name), 2, "once to either one");
}

/// It has mounted before, and what it was asked for is gone from there: it still is a registry that mounts.
#[tokio::test]
async fn case_33_a_lost_blob_does_not_end_all_mounts() {
    let (from, to) = (Fake::start().await, Fake::start().await);
    let bases = [noise(1, 2 * MIB), noise(2, 2 * MIB)];
    for (tag, base) in ["1", "2"].into_iter().zip(&bases) {
        from.put_tagged("app", tag, &image(1, std::slice::from_ref(base)));
    }
    let registries = registries(&[&from, &to]);
    let mut last = None;
    for (tag, repository) in [("1", "x"), ("1", "y"), ("2", "y"), ("2", "z")] {
        let source = source(&registries, &from, "app", tag);
        let target = target(&registries, &to, repository, tag);
        let report = copy(&source, &target, &CopyOptions::default(), &()).await;
        last = Some(report.unwrap());
        to.lose_blob("x", &digest_of(&bases[0]));
    }
    assert_eq!(last.unwrap().blobs_mounted, 2, "the base and the config");
}

#[tokio::test]
async fn case_33_an_ill_registry_is_not_one_without_mounts() {
    let (from, to) = (Fake::start().await, Fake::start().await);
    let ill = noise(1, 1000);
    from.put_tagged("app", "1", &image(1, std::slice::from_ref(&ill)));
    from.put_tagged("app", "2", &image(2, &[noise(2, 1000)]));
    let registries = registries(&[&from, &to]);
    let name = digest_of(&ill).to_string().replace(':', "%3A");
    let refusal = Action::Status(503, vec![], "");
    to.fault(Method::POST, &format!("mount={name}"), usize::MAX, refusal);
    // Whether the plain upload makes up for it does not matter here.
    let _ = copy(
        &source(&registries, &from, "app", "1"),
        &target(&registries, &to, "copy", "1"),
        &CopyOptions::default(),
        &(),
    )
    .await;
    assert!(to.count(&Method::POST, &name) > 0);
    to.forget_faults();
    to.clear_log();
    copy(
        &source(&registries, &from, "app", "2"),
        &target(&registries, &to, "copy", "2"),
        &CopyOptions::default(),
        &(),
    )
    .await
    .unwrap();
    assert!(to.count(&Method::POST, "mount=") > 0);
}

#[rstest::rstest]
#[case(200)]
#[case(202)]
#[case(204)]
#[tokio::test]
async fn case_34_another_success_than_201_is_believed_after_a_look(#[case] status: u16) {
    let app = with_layer(1000);
    let (from, to) = pair_with(std::slice::from_ref(&app)).await;
    to.set(|knobs| knobs.put_status = status);
    copy_app(&registries(&[&from, &to]), &from, &to)
        .await
        .unwrap();
    assert!(arrived(&to, std::slice::from_ref(&app)));
    let log = to.log();
    let name = digest_of(&app.blobs[1]).to_string();
    let put = log
        .iter()
        .position(|e| e.method == Method::PUT && e.query.contains(&name.replace(':', "%3A")));
    let looked = log
        .iter()
        .rposition(|e| e.method == Method::HEAD && e.path.ends_with(&name));
    assert!(looked > put, "{looked:?} {put:?}");
}

#[tokio::test]
async fn case_34_a_success_without_the_blob_is_an_error() {
    let (from, to) = pair_with(&[with_layer(1000)]).await;
    let nothing = Action::Status(204, vec![], "");
    to.fault(Method::PUT, "/uploads/", usize::MAX, nothing);
    let error = copy_app(&registries(&[&from, &to]), &from, &to)
        .await
        .unwrap_err();
    assert!(matches!(error, CopyError::Target(_)), "{error}");
    assert!(nothing_tagged(&to));
}

#[tokio::test]
async fn case_35_a_lost_session_is_replaced_and_the_source_read_again() {
    let app = with_layer(MIB);
    let (from, to) = pair_with(std::slice::from_ref(&app)).await;
    let body = r#"{"errors":[{"code":"BLOB_UPLOAD_UNKNOWN","message":"who?"}]}"#;
    let digest = digest_of(&app.blobs[1]).to_string().replace(':', "%3A");
    to.fault(Method::PUT, &digest, 1, Action::Status(404, vec![], body));
    copy_app(&registries(&[&from, &to]), &from, &to)
        .await
        .unwrap();
    assert!(arrived(&to, std::slice::from_ref(&app)));
    assert_eq!(from.count(&Method::GET, &layer_path(&app)), 2);
    assert_eq!(to.state().sessions.len(), 0);
}

#[rstest::rstest]
#[case::head(Method::HEAD, "/manifests/")]
#[case::read_manifest(Method::GET, "/manifests/")]
#[case::read_blob(Method::GET, "/blobs/")]
#[tokio::test]
async fn case_36_a_connection_that_ends_before_the_answer_is_replaced_at_the_source(
    #[case] method: Method,
    #[case] part: &str,
) {
    let app = with_layer(1000);
    let (from, to) = pair_with(std::slice::from_ref(&app)).await;
    from.fault(method, part, 1, Action::Reset);
    copy_app(&registries(&[&from, &to]), &from, &to)
        .await
        .unwrap();
    assert!(arrived(&to, &[app]));
}

#[rstest::rstest]
#[case::head(Method::HEAD, "/manifests/", Action::Reset)]
#[case::open(Method::POST, "/uploads/", Action::Reset)]
#[case::open_without_answer(Method::POST, "/uploads/", Action::LoseAnswer)]
#[case::write(Method::PUT, "/blobs/", Action::Reset)]
#[case::write_without_answer(Method::PUT, "/blobs/", Action::LoseAnswer)]
#[case::manifest(Method::PUT, "/manifests/", Action::Reset)]
#[case::manifest_without_answer(Method::PUT, "/manifests/", Action::LoseAnswer)]
#[tokio::test]
async fn case_36_a_connection_that_ends_before_the_answer_is_replaced_at_the_target(
    #[case] method: Method,
    #[case] part: &str,
    #[case] action: Action,
) {
    let app = with_layer(2 * MIB);
    let (from, to) = pair_with(std::slice::from_ref(&app)).await;
    to.fault(method, part, 1, action);
    copy_app(&registries(&[&from, &to]), &from, &to)
        .await
        .unwrap();
    assert!(arrived(&to, &[app]));
}

async fn after_a_429(retry_after: String) -> Duration {
    let (from, _) = pair_with(&[with_layer(1000)]).await;
    let registry = registries(&[&from]).get(&from.host()).unwrap();
    let wait = vec![("retry-after", retry_after)];
    let limited = Action::Status(429, wait, "");
    from.fault(Method::HEAD, "/manifests/1", 1, limited);
    let (one, other) = (TagOrDigest::parse("1"), TagOrDigest::parse("2"));
    registry.resolve("app", &one).await.unwrap();
    registry.resolve("app", &other).await.unwrap();
    let log = from.log();
    assert_eq!(log[0].status, 429);
    log[1].at - log[0].at
}

#[tokio::test]
async fn case_37_retry_after_in_seconds_is_obeyed() {
    assert!(after_a_429("1".to_owned()).await >= Duration::from_secs(1));
}

#[tokio::test]
async fn case_37_retry_after_as_a_date_is_obeyed() {
    // Dates have whole seconds, so two seconds ahead is more than one.
    let date = httpdate::fmt_http_date(SystemTime::now() + Duration::from_secs(2));
    assert!(after_a_429(date).await >= Duration::from_millis(500));
}

/// Asks once for a tag, which is answered with a pause of `retry_after`; returns for how long the error says to wait.
async fn refused_once(
    from: &Fake,
    mut options: RegistryOptions,
    retry_after: &str,
) -> (Registry, Duration) {
    options.retry.attempts = 1;
    let registry = Registries::new(options).unwrap().get(&from.host()).unwrap();
    let wait = vec![("retry-after", retry_after.to_owned())];
    from.fault(
        Method::HEAD,
        "/manifests/1",
        1,
        Action::Status(429, wait, ""),
    );
    let resolved = registry.resolve("app", &TagOrDigest::parse("1")).await;
    let Retry::Transient { after: Some(after) } = resolved.unwrap_err().retry() else {
        panic!("a pause is transient");
    };
    (registry, after)
}

#[tokio::test]
async fn case_37_a_retry_after_beyond_the_cap_is_cut() {
    let (from, _) = pair_with(&[with_layer(1000)]).await;
    let mut options = options(&[&from]);
    options.retry.max_retry_after = Duration::from_secs(7);
    let (_, after) = refused_once(&from, options, "86400").await;
    assert_eq!(after, Duration::from_secs(7));
}

#[tokio::test]
async fn case_37_a_pause_concerns_requests_that_were_never_refused() {
    let (from, _) = pair_with(&[with_layer(1000)]).await;
    let (registry, after) = refused_once(&from, options(&[&from]), "1").await;
    assert_eq!(after, Duration::from_secs(1));
    registry.ping().await.unwrap();
    let log = from.log();
    assert!(log[1].at - log[0].at >= Duration::from_secs(1));
}

/// A pause is longer than the patience with a target that takes nothing: who waits for its end is not stalled.
#[tokio::test]
async fn case_37_an_upload_that_waits_for_the_end_of_a_pause_is_not_stalled() {
    let app = with_layer(100_000);
    let (from, to) = pair_with(std::slice::from_ref(&app)).await;
    let mut options = patient(&[&from, &to], Duration::from_millis(300));
    options.timeouts.commit = Duration::from_mins(1);
    // With one attempt every mistake counts.
    options.retry.attempts = 1;
    let registries = Registries::new(options).unwrap();
    let latch = Latch::closed();
    let late = Action::Late(latch.clone(), None);
    to.fault(Method::POST, "/uploads/", usize::MAX, late);
    let wait = vec![("retry-after", "1".to_owned())];
    to.fault(Method::GET, "/v2/?", 1, Action::Status(429, wait, ""));
    let pausing = async {
        while to.count(&Method::POST, "/uploads/") < app.blobs.len() {
            tokio::task::yield_now().await;
        }
        let ping = registries.get(&to.host()).unwrap().ping().await;
        assert!(ping.unwrap_err().retry().is_transient());
        latch.open();
    };
    let (copied, ()) = tokio::join!(copy_app(&registries, &from, &to), pausing);
    let report = copied.unwrap();
    assert!(report.elapsed >= Duration::from_secs(1));
    assert!(arrived(&to, &[app]));
    assert_eq!(to.count(&Method::DELETE, "/uploads/"), 0);
}

#[tokio::test]
async fn case_37_an_image_that_is_there_costs_no_quota() {
    let app = with_layer(1000);
    let (from, to) = pair_with(&[app]).await;
    let registries = registries(&[&from, &to]);
    // It tells that reading is counted.
    let counted = Action::With("ratelimit", "limit=100, remaining=50, reset=21600".into());
    from.fault(Method::GET, "/manifests/", 1, counted);
    copy_app(&registries, &from, &to).await.unwrap();
    from.clear_log();
    copy_app(&registries, &from, &to).await.unwrap();
    assert_eq!(from.count(&Method::HEAD, "/manifests/"), 1);
    // Registries count reads of manifests, not of lists.
    assert_eq!(from.count(&Method::GET, "/referrers/"), 1);
    assert_eq!(from.count(&Method::GET, ""), 1);
}

#[tokio::test]
async fn case_37_a_used_up_quota_is_known_before_it_hits() {
    let (from, _) = pair_with(&[with_layer(1000)]).await;
    let registry = registries(&[&from]).get(&from.host()).unwrap();
    from.fault(
        Method::GET,
        "/manifests/",
        usize::MAX,
        Action::With("ratelimit", "limit=100, remaining=0, reset=21600".into()),
    );
    let tag = TagOrDigest::parse("1");
    registry.manifest("app", &tag).await.unwrap();
    let error = registry.manifest("app", &tag).await.unwrap_err();
    assert!(matches!(error, RegistryError::Quota { .. }), "{error}");
    assert!(error.retry().is_transient(), "{error}");
    assert_eq!(from.count(&Method::GET, "/manifests/"), 1);
    // Looking costs nothing and goes on.
    assert!(registry.resolve("app", &tag).await.unwrap().is_some());
}

/// Options with this patience.
fn patient(fakes: &[&Fake], idle: Duration) -> RegistryOptions {
    let mut options = options(fakes);
    options.timeouts = Timeouts {
        idle,
        first_byte: idle,
        list: idle,
        commit: idle,
        ..Timeouts::default()
    };
    options.retry.attempts = 2;
    options
}

#[tokio::test]
async fn case_38_a_body_that_does_not_begin_in_time_is_the_sources_failure() {
    let app = with_layer(MIB);
    let (from, to) = pair_with(std::slice::from_ref(&app)).await;
    let held_back = Action::Drip(1, Duration::from_hours(1));
    from.fault(Method::GET, &layer_path(&app), usize::MAX, held_back);
    let mut options = patient(&[&from, &to], Duration::from_mins(1));
    options.timeouts.first_byte = Duration::from_millis(300);
    let registries = Registries::new(options).unwrap();
    let error = copy_app(&registries, &from, &to).await.unwrap_err();
    assert!(
        matches!(error, CopyError::Source(RegistryError::Timeout { .. })),
        "{error}"
    );
    assert_eq!(from.count(&Method::GET, &layer_path(&app)), 1);
    assert!(nothing_tagged(&to));
}

#[tokio::test]
async fn case_38_slow_is_not_stalled() {
    let idle = Duration::from_millis(1500);
    let app = with_layer(MIB);
    let (from, to) = pair_with(std::slice::from_ref(&app)).await;
    // Every piece comes in time; all of them together take longer than the patience for one.
    let drip = Action::Drip(16, Duration::from_millis(120));
    from.fault(Method::GET, &layer_path(&app), 1, drip);
    let registries = Registries::new(patient(&[&from, &to], idle)).unwrap();
    let report = copy_app(&registries, &from, &to).await.unwrap();
    assert!(report.elapsed > idle, "{:?}", report.elapsed);
    assert_eq!(from.count(&Method::GET, &layer_path(&app)), 1);
    assert!(arrived(&to, &[app]));
}

#[tokio::test]
async fn case_38_a_slow_target_does_not_time_out_the_source() {
    let idle = Duration::from_millis(400);
    let app = with_layer(24 * MIB);
    let (from, to) = pair_with(std::slice::from_ref(&app)).await;
    let digest = digest_of(&app.blobs[1]).to_string().replace(':', "%3A");
    let sip = Action::Sip(MIB, Duration::from_millis(50));
    to.fault(Method::PUT, &digest, 1, sip);
    let mut options = patient(&[&from, &to], idle);
    options.timeouts.commit = Duration::from_mins(1);
    let registries = Registries::new(options).unwrap();
    let report = copy_app(&registries, &from, &to).await.unwrap();
    assert!(report.elapsed > idle, "{:?}", report.elapsed);
    assert_eq!(from.count(&Method::GET, &layer_path(&app)), 1);
    assert!(arrived(&to, &[app]));
}

/// Counts what went to the target.
#[derive(Default)]
struct Sent(AtomicU64);

impl Progress for Sent {
    fn event(&self, event: Event<'_>) {
        if let Event::Bytes { bytes, .. } = event {
            self.0.fetch_add(bytes, Ordering::Relaxed);
        }
    }
}

#[tokio::test]
async fn case_38_a_target_that_reads_nothing_stops_the_reading_of_the_source() {
    let layer: Bytes = noise(7, 64 * MIB);
    let app = image(1, &[layer]);
    let (from, to) = pair_with(&[app]).await;
    to.fault(Method::PUT, "/blobs/", usize::MAX, Action::Hang);
    let mut options = patient(&[&from, &to], Duration::from_millis(300));
    options.retry.attempts = 1;
    let registries = Registries::new(options).unwrap();
    let sent = Sent::default();
    let error = copy(
        &source(&registries, &from, "app", "1"),
        &target(&registries, &to, "copy", "1"),
        &CopyOptions::default(),
        &sent,
    )
    .await
    .unwrap_err();
    assert!(
        matches!(error, CopyError::Target(RegistryError::Timeout { .. })),
        "{error}"
    );
    // What the sockets' buffers hold is some MiB; the rest must not have been read.
    let sent = sent.0.into_inner();
    assert!(sent < 32 * MIB as u64, "{sent} bytes were pushed");
}

#[tokio::test]
async fn case_38_a_stalled_source_is_given_up() {
    let app = with_layer(1000);
    let (from, to) = pair_with(std::slice::from_ref(&app)).await;
    from.fault(Method::GET, &layer_path(&app), usize::MAX, Action::Hang);
    let options = patient(&[&from, &to], Duration::from_millis(50));
    let registries = Registries::new(options).unwrap();
    let error = copy_app(&registries, &from, &to).await.unwrap_err();
    assert!(
        matches!(error, CopyError::Source(RegistryError::Timeout { .. })),
        "{error}"
    );
    assert!(nothing_tagged(&to));
}

/// Opens the latch after this much silence, and counts the upload sessions that are open then.
struct ScanEnds {
    after: tokio::time::Instant,
    latch: Latch,
    to: Fake,
    open_sessions: AtomicU64,
}

impl Progress for ScanEnds {
    fn event(&self, event: Event<'_>) {
        let is_silent = matches!(event, Event::WaitingForSource { .. });
        if is_silent && tokio::time::Instant::now() >= self.after {
            let open = self.to.state().sessions.len() as u64;
            self.open_sessions.fetch_add(open, Ordering::Relaxed);
            self.latch.open();
        }
    }
}

/// A proxy that scans a layer holds it back for minutes, longer than anything else may be silent.
#[tokio::test(start_paused = true)]
async fn case_38_a_blob_that_is_scanned_is_waited_for() {
    let app = with_layer(1000);
    let (from, to) = pair_with(std::slice::from_ref(&app)).await;
    let latch = Latch::closed();
    let late = Action::Late(latch.clone(), None);
    from.fault(Method::GET, &layer_path(&app), 1, late);
    let silence = 5 * Timeouts::default().idle;
    let progress = ScanEnds {
        after: tokio::time::Instant::now() + silence,
        latch,
        to: to.clone(),
        open_sessions: AtomicU64::new(0),
    };
    let registries = registries(&[&from, &to]);
    copy(
        &source(&registries, &from, "app", "1"),
        &target(&registries, &to, "copy", "1"),
        &CopyOptions::default(),
        &progress,
    )
    .await
    .unwrap();
    assert!(tokio::time::Instant::now() >= progress.after);
    assert_eq!(progress.open_sessions.into_inner(), 0);
    assert_eq!(from.count(&Method::GET, &layer_path(&app)), 1);
    assert!(arrived(&to, &[app]));
}

#[tokio::test]
async fn case_38_a_target_that_never_answers_the_upload_is_given_up() {
    let (from, to) = pair_with(&[with_layer(1000)]).await;
    to.fault(Method::PUT, "/blobs/", usize::MAX, Action::Hang);
    let options = patient(&[&from, &to], Duration::from_millis(100));
    let registries = Registries::new(options).unwrap();
    let error = copy_app(&registries, &from, &to).await.unwrap_err();
    assert!(
        matches!(error, CopyError::Target(RegistryError::Timeout { .. })),
        "{error}"
    );
}

#[tokio::test]
async fn case_38_blobs_that_are_there_do_not_wait_for_a_source_that_hangs() {
    let app = with_layer(2 * MIB);
    let (from, to) = pair_with(std::slice::from_ref(&app)).await;
    for blob in &app.blobs {
        to.put_blob("copy", blob);
    }
    from.fault(Method::GET, "/blobs/", usize::MAX, Action::Hang);
    let options = patient(&[&from, &to], Duration::from_hours(1));
    let registries = Registries::new(options).unwrap();
    let copying = copy_app(&registries, &from, &to);
    let copied = tokio::time::timeout(Duration::from_secs(10), copying).await;
    copied.expect("it does not wait").unwrap();
    assert!(arrived(&to, &[app]));
}

/// A source that speaks HTTP/2, and a target that does not.
async fn http2_source(app: &Image) -> (Fake, Fake, Registries) {
    let tls = Tls::generate().unwrap();
    let from = Fake::start_http2(&tls).await;
    from.put_tagged("app", "1", app);
    let to = Fake::start().await;
    let mut options = options(&[&to]);
    options.extra_root_certificates_pem = vec![tls.ca_pem().as_bytes().to_vec()];
    let registries = Registries::new(options).unwrap();
    (from, to, registries)
}

#[rstest::rstest]
#[case::refused(Action::RefuseStream)]
#[case::goaway(Action::GoAway)]
#[case::reset_in_the_body(Action::Cut(100))]
#[tokio::test]
async fn case_39_broken_http2_streams_of_requests_without_a_body_are_repeated(
    #[case] action: Action,
) {
    let app = with_layer(3 * MIB);
    let (from, to, registries) = http2_source(&app).await;
    from.fault(Method::GET, "/manifests/", 2, action);
    copy_app(&registries, &from, &to).await.unwrap();
    assert!(arrived(&to, &[app]));
    let version = |path: &str| from.asked(&Method::GET, path)[0].version;
    assert_eq!(version("/manifests/"), Version::HTTP_2);
}

#[tokio::test]
async fn case_39_a_blob_is_resumed_where_its_stream_was_reset() {
    let app = with_layer(3 * MIB);
    let (from, to, registries) = http2_source(&app).await;
    let layer = layer_path(&app);
    from.fault(Method::GET, &layer, 1, Action::Cut(2 * MIB));
    copy_app(&registries, &from, &to).await.unwrap();
    assert!(arrived(&to, std::slice::from_ref(&app)));
    let ranges: Vec<_> = from
        .asked(&Method::GET, &layer)
        .into_iter()
        .filter_map(|entry| entry.range)
        .collect();
    assert_eq!(ranges, [format!("bytes={}-", 2 * MIB)]);
}
