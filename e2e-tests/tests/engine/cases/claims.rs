//! Cases 54 to 60: what a registry, or something in its place, claims and does not keep.

use crate::support::{
    anchor_of, arrived, copy_app, copy_app_with, nothing_tagged, options, pair_with, registries,
    source, target,
};
use axum::body::Body;
use axum::http::{Method, Response, header};
use mirror_copy::{
    CopyError, CopyOptions, Registries, RegistryError, RegistryOptions, TagOrDigest, copy,
};
use std::sync::Arc;
use testkit::scripted::{Action, Fake, Image, digest_of, image, index, noise, referrer};
use testkit::tls::Tls;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

const PAGE: &str = "<html><h1>Please log in</h1></html>";

fn app() -> Image {
    image(1, &[noise(1, 100)])
}

/// Responds to everything like a login page that is shown with status 200.
fn login_page() -> Response<Body> {
    let page = Response::builder().header(header::CONTENT_TYPE, "text/html; charset=utf-8");
    page.body(PAGE.into()).unwrap()
}

#[rstest::rstest]
#[case::of_the_target(false)]
#[case::of_the_source(true)]
#[tokio::test]
async fn case_54_a_page_in_place_of_a_registry_is_an_error_with_its_type(#[case] at_source: bool) {
    let (from, to) = pair_with(&[app()]).await;
    let portal = if at_source { &from } else { &to };
    portal.set(|knobs| knobs.other = Some(Arc::new(|_, _, _, _| login_page())));
    let registries = registries(&[&from, &to]);
    let error = copy_app(&registries, &from, &to).await.unwrap_err();
    let text = error.to_string();
    assert!(text.contains("of type text/html, not a manifest"), "{text}");
    assert!(!text.contains("Please"), "{text}");
    // Neither a lookup nor the readiness of a service takes it for a registry.
    let registry = registries.get(&portal.host()).unwrap();
    for reference in ["1", app().digest().as_ref()] {
        let reference = TagOrDigest::parse(reference);
        let error = registry.resolve("app", &reference).await.unwrap_err();
        assert!(error.to_string().contains("text/html"), "{error}");
    }
    let error = registry.ping().await.unwrap_err();
    assert!(error.to_string().contains("text/html"), "{error}");
    assert!(nothing_tagged(&to));
}

/// The page is behind a redirect, or no HTML.
#[rstest::rstest]
#[case::redirected(None)]
#[case::json(Some(("application/json", r#"{"login":"https://sso.example.com"}"#)))]
#[case::text(Some(("text/plain", "please log in")))]
#[case::a_list(Some(("application/json", "[]")))]
#[tokio::test]
async fn case_54_pages_of_all_kinds_are_no_manifests(
    #[case] page: Option<(&'static str, &'static str)>,
) {
    let (from, to) = pair_with(&[app()]).await;
    to.set(|knobs| {
        knobs.other = Some(Arc::new(move |_, path, _, _| match page {
            Some((media_type, text)) => Response::builder()
                .header(header::CONTENT_TYPE, media_type)
                .body(text.into())
                .unwrap(),
            None if path.starts_with("/login") => login_page(),
            None => Response::builder()
                .status(302)
                .header(header::LOCATION, "/login")
                .body(Body::empty())
                .unwrap(),
        }));
    });
    let error = copy_app(&registries(&[&from, &to]), &from, &to)
        .await
        .unwrap_err();
    assert!(error.to_string().contains("not a manifest"), "{error}");
}

/// Only what writes meets the page.
#[tokio::test]
async fn case_54_a_page_in_response_to_writes_is_an_error() {
    let (from, to) = pair_with(&[app()]).await;
    for method in [Method::POST, Method::PUT] {
        let page = vec![("content-type", "text/html".to_owned())];
        to.fault(method, "", usize::MAX, Action::Status(200, page, PAGE));
    }
    copy_app(&registries(&[&from, &to]), &from, &to)
        .await
        .unwrap_err();
}

#[rstest::rstest]
#[case(200)]
#[case(201)]
#[case(202)]
#[case(204)]
#[tokio::test]
async fn case_55_a_manifest_that_is_accepted_and_not_kept_is_an_error(
    #[case] status: u16,
    #[values(false, true)] has_platforms: bool,
) {
    let images = if has_platforms {
        vec![app(), index(&[&app()])]
    } else {
        vec![app()]
    };
    let (from, to) = pair_with(&images).await;
    let claim = Action::Status(status, vec![], "");
    to.fault(Method::PUT, "/manifests/", usize::MAX, claim);
    let error = copy_app(&registries(&[&from, &to]), &from, &to)
        .await
        .unwrap_err();
    assert!(
        matches!(error, CopyError::Target(RegistryError::NotKept { .. })),
        "{error}"
    );
    assert!(error.retry().is_transient());
    assert!(to.count(&Method::GET, "/manifests/1") <= 12, "bounded");
}

#[rstest::rstest]
#[case::nothing_before(None)]
#[case::another_image_before(Some(image(2, &[noise(2, 100)])))]
#[tokio::test]
async fn case_55_a_manifest_that_is_shown_later_is_waited_for(#[case] older: Option<Image>) {
    let (from, to) = pair_with(&[app()]).await;
    let stale = match &older {
        None => Action::Status(404, vec![], ""),
        Some(older) => {
            to.put_tagged("copy", "1", older);
            let headers = vec![
                ("content-type", older.media_type.clone()),
                ("docker-content-digest", older.digest().to_string()),
            ];
            let body = String::from_utf8(older.manifest.to_vec()).unwrap();
            Action::Status(200, headers, body.leak())
        }
    };
    to.fault(Method::GET, "/manifests/1", 3, stale);
    copy_app(&registries(&[&from, &to]), &from, &to)
        .await
        .unwrap();
    assert!(arrived(&to, &[app()]));
    assert_eq!(to.count(&Method::GET, "/manifests/"), 4);
}

#[tokio::test]
async fn case_55_a_manifest_that_is_rewritten_silently_is_an_error() {
    let (from, to) = pair_with(&[app()]).await;
    let rewritten = r#"{"schemaVersion":2,"layers":[]}"#;
    let headers = vec![(
        "docker-content-digest",
        digest_of(rewritten.as_bytes()).to_string(),
    )];
    let other = Action::Status(200, headers, rewritten);
    to.fault(Method::GET, "/manifests/1", usize::MAX, other);
    let error = copy_app(&registries(&[&from, &to]), &from, &to)
        .await
        .unwrap_err();
    assert!(
        matches!(error, CopyError::Target(RegistryError::Digest { .. })),
        "{error}"
    );
    assert!(!error.retry().is_transient());
}

/// One request tells that a copy is there, and none where nothing was written.
#[tokio::test]
async fn case_55_a_copy_is_read_back_with_one_request() {
    let (from, to) = pair_with(&[app()]).await;
    let registries = registries(&[&from, &to]);
    copy_app(&registries, &from, &to).await.unwrap();
    let log = to.log();
    let last = log.last().unwrap();
    assert_eq!(
        (&last.method, last.path.as_str()),
        (&Method::GET, "/v2/copy/manifests/1")
    );
    assert_eq!(to.count(&Method::GET, ""), 1);
    copy_app(&registries, &from, &to).await.unwrap();
    assert_eq!(to.count(&Method::GET, ""), 1);
    // A tag that is put back is read back as well.
    to.state().tags.clear();
    let registry = registries.get(&to.host()).unwrap();
    let digest = app().digest();
    assert!(registry.tag("copy", &digest, "1").await.unwrap());
    let missing = Action::Status(404, vec![], "");
    to.fault(Method::GET, "/manifests/2", usize::MAX, missing);
    let error = registry.tag("copy", &digest, "2").await.unwrap_err();
    assert!(matches!(error, RegistryError::NotKept { .. }), "{error}");
}

/// What a `HEAD` says of a child that is not there: nothing that could be about it.
#[rstest::rstest]
#[case::another_digest(vec![("docker-content-digest", digest_of(b"other").to_string())])]
#[case::another_algorithm(vec![("docker-content-digest", format!("sha512:{}", "0".repeat(128)))])]
#[case::a_page(vec![("content-type", "text/html".to_owned())])]
#[case::no_word(vec![])]
#[tokio::test]
async fn case_56_a_head_that_is_not_about_this_manifest_is_not_believed(
    #[case] headers: Vec<(&'static str, String)>,
) {
    let (child, root) = (app(), index(&[&app()]));
    let (from, to) = pair_with(&[child.clone(), root.clone()]).await;
    // An older image has the tag, so the engine looks what of the new one is there.
    to.put_tagged("copy", "1", &image(2, &[noise(2, 100)]));
    let claim = Action::Status(200, headers, "");
    to.fault(Method::HEAD, child.digest().as_ref(), usize::MAX, claim);
    copy_app(&registries(&[&from, &to]), &from, &to)
        .await
        .unwrap();
    assert!(arrived(&to, &[child, root]));
    let refused = to.asked(&Method::PUT, "/manifests/");
    assert!(refused.iter().all(|put| put.status == 201));
}

/// A registry that reports sha512 digests, or wrong ones, for a tag: the digest is that of the content.
#[rstest::rstest]
#[case::another_algorithm(format!("sha512:{}", "0".repeat(128)), 2)]
#[case::wrong(digest_of(b"other").to_string(), 1)]
#[tokio::test]
async fn case_56_a_tag_stands_for_the_digest_of_its_content(
    #[case] claim: String,
    #[case] requests: usize,
) {
    let (from, _) = pair_with(&[app()]).await;
    for method in [Method::HEAD, Method::GET] {
        let claim = Action::With("docker-content-digest", claim.clone());
        from.fault(method, "/manifests/1", usize::MAX, claim);
    }
    let registry = registries(&[&from]).get(&from.host()).unwrap();
    let tag = TagOrDigest::parse("1");
    // Once its content was seen, the claims of this registry are not believed any more.
    assert_eq!(
        registry.manifest("app", &tag).await.unwrap().digest,
        app().digest()
    );
    from.clear_log();
    let resolved = registry.resolve("app", &tag).await.unwrap().unwrap();
    assert_eq!(resolved.digest, app().digest());
    assert!(from.log().len() <= requests + 1);
}

/// Tags made of digests are found where full pages have no link to the next one.
#[tokio::test]
async fn case_57_signatures_behind_a_full_page_without_a_link_come_along() {
    let (from, to) = pair_with(&[app()]).await;
    let signature = image(3, &[noise(3, 50)]);
    let tag = format!("{}.sig", app().digest().as_ref().replace(':', "-"));
    from.put_tagged("app", &tag, &signature);
    // More tags than a page has, all before the signature's.
    for n in 0..1100 {
        let key = ("app".to_owned(), format!("1.{n:04}"));
        from.state().tags.insert(key, app().digest().to_string());
    }
    for _ in 0..2 {
        from.fault(
            Method::GET,
            "/tags/list",
            usize::MAX,
            Action::Without("link"),
        );
    }
    copy_app(&registries(&[&from, &to]), &from, &to)
        .await
        .unwrap();
    assert!(to.has("copy", &signature));
    assert_eq!(from.count(&Method::GET, "/tags/list"), 2);
    let registry = registries(&[&from]).get(&from.host()).unwrap();
    assert_eq!(registry.tags("app").await.unwrap().len(), 1102);
}

#[tokio::test]
async fn case_58_a_registry_that_speaks_http2_only_is_spoken_to() {
    let tls = Tls::generate().unwrap();
    let (from, to) = (
        Fake::start_http2_only(&tls).await,
        Fake::start_http2_only(&tls).await,
    );
    let app = image(1, &[noise(1, 3_000_000), noise(2, 100)]);
    from.put_tagged("app", "1", &app);
    let options = RegistryOptions {
        extra_root_certificates_pem: vec![tls.ca_pem().as_bytes().to_vec()],
        ..options(&[])
    };
    let registries = Registries::new(options).unwrap();
    copy_app(&registries, &from, &to).await.unwrap();
    assert!(arrived(&to, &[app]));
}

/// A server that responds in HTTP/2 without TLS, whatever it is asked.
#[tokio::test]
async fn case_58_http2_without_tls_is_refused_with_a_sentence() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let host = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            // An empty SETTINGS frame (RFC 9113 section 6.5).
            let _ = stream.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await;
            let _ = stream.read(&mut [0; 1024]).await;
        }
    });
    let mut options = options(&[]);
    options.insecure_hosts = [host.clone()].into();
    let registry = Registries::new(options).unwrap().get(&host).unwrap();
    let error = registry.ping().await.unwrap_err();
    assert!(
        error.to_string().contains("only HTTP/2 without TLS"),
        "{error}"
    );
}

/// The backup lost a platform or a layer, and one of the two names. The other one still says that all is there.
#[rstest::rstest]
#[tokio::test]
async fn case_59_a_copy_that_lost_parts_is_whole_again_after_the_next_one(
    #[values(false, true)] has_platforms: bool,
    #[values(false, true)] keeps_tag: bool,
    #[values("MANIFEST_BLOB_UNKNOWN", "MANIFEST_INVALID", "")] code: &str,
) {
    let app = app();
    let images = if has_platforms {
        vec![app.clone(), index(&[&app])]
    } else {
        vec![app.clone()]
    };
    let (from, to) = pair_with(&images).await;
    let registries = registries(&[&from, &to]);
    copy_app(&registries, &from, &to).await.unwrap();
    let root = images.last().unwrap().digest();
    if has_platforms {
        let key = ("copy".to_owned(), app.digest().to_string());
        to.state().manifests.remove(&key);
    }
    to.lose_blob("copy", &digest_of(&noise(1, 100)));
    let lost = if keeps_tag {
        anchor_of(&root)
    } else {
        "1".to_owned()
    };
    to.state().tags.remove(&("copy".to_owned(), lost.clone()));
    if code != "MANIFEST_BLOB_UNKNOWN" {
        // As other registries say it.
        let body = format!(r#"{{"errors":[{{"code":"{code}","message":"invalid"}}]}}"#);
        let refusal = Action::Status(400, vec![], body.leak());
        to.fault(Method::PUT, &lost, 1, refusal);
    }
    copy_app(&registries, &from, &to).await.unwrap();
    assert!(arrived(&to, &images));
    assert_eq!(to.tag("copy", &anchor_of(&root)), Some(root.to_string()));
}

/// Both names are there. Only a copy that looks at everything notices.
#[tokio::test]
async fn case_59_a_distrustful_copy_brings_back_what_is_below_both_names() {
    let images = [app(), index(&[&app()])];
    let (from, to) = pair_with(&images).await;
    let registries = registries(&[&from, &to]);
    copy_app(&registries, &from, &to).await.unwrap();
    let key = ("copy".to_owned(), app().digest().to_string());
    to.state().manifests.remove(&key);
    to.lose_blob("copy", &digest_of(&noise(1, 100)));
    let options = CopyOptions {
        trust_present: false,
        ..CopyOptions::default()
    };
    copy_app_with(&registries, &from, &to, &options)
        .await
        .unwrap();
    assert!(arrived(&to, &images));
}

/// Blobs that were just sent are shown a moment later. They are waited for, not sent again.
#[rstest::rstest]
#[case::image(400, "MANIFEST_BLOB_UNKNOWN", false)]
#[case::as_others_say_it(404, "BLOB_UNKNOWN", false)]
#[case::children(404, "MANIFEST_UNKNOWN", true)]
#[tokio::test]
async fn case_60_what_was_just_sent_is_waited_for(
    #[case] status: u16,
    #[case] code: &str,
    #[case] has_platforms: bool,
) {
    let images = if has_platforms {
        vec![app(), index(&[&app()])]
    } else {
        vec![app()]
    };
    let (from, to) = pair_with(&images).await;
    let body = format!(r#"{{"errors":[{{"code":"{code}","message":"not here"}}]}}"#);
    let refusal = Action::Status(status, vec![], body.leak());
    let root = images.last().unwrap().digest();
    to.fault(Method::PUT, &anchor_of(&root), 3, refusal);
    copy_app(&registries(&[&from, &to]), &from, &to)
        .await
        .unwrap();
    assert!(arrived(&to, &images));
    assert_eq!(to.count(&Method::PUT, "/uploads/"), 2, "sent once");
    assert_eq!(from.count(&Method::GET, "/blobs/"), 2, "read once");
}

/// A signature whose blobs the target never shows must not keep its image waiting.
#[tokio::test]
async fn case_60_a_referrer_that_is_never_complete_is_left_out() {
    let (from, to) = pair_with(&[app()]).await;
    let signature = referrer(&app(), "application/vnd.example.signature", &noise(2, 100));
    from.put("app", &signature);
    let body = r#"{"errors":[{"code":"MANIFEST_BLOB_UNKNOWN","message":"not here"}]}"#;
    to.fault(
        Method::PUT,
        signature.digest().as_ref(),
        usize::MAX,
        Action::Status(404, vec![], body),
    );
    let registries = registries(&[&from, &to]);
    let report = copy(
        &source(&registries, &from, "app", "1"),
        &target(&registries, &to, "copy", "1"),
        &CopyOptions::default(),
        &(),
    )
    .await
    .unwrap();
    assert_eq!((report.referrers, report.referrers_left_out), (0, 1));
    assert!(arrived(&to, &[app()]));
}
