//! Cases 49 to 53: one registry or two, odd host names, interrupted copies, full targets.

use crate::child;
use crate::support::{
    PASSWORD, arrived, copy_app, nothing_tagged, options, pair_with, registries, source, target,
};
use axum::http::Method;
use mirror_copy::{
    CopyError, CopyOptions, Registries, RegistryOptions, Retry, Source, TagOrDigest, Target, copy,
};
use testkit::scripted::{Action, Fake, Image, digest_of, image, noise};
use testkit::tls::Tls;

fn app() -> Image {
    image(1, &[noise(1, 5000), noise(2, 5000)])
}

async fn one_registry() -> (Fake, Registries) {
    let registry = Fake::start().await;
    registry.put_tagged("app", "1", &app());
    let registries = registries(&[&registry]);
    (registry, registries)
}

#[tokio::test]
async fn case_49_within_one_registry_every_blob_is_mounted() {
    let (registry, registries) = one_registry().await;
    let report = copy_app(&registries, &registry, &registry).await.unwrap();
    assert!(arrived(&registry, &[app()]));
    assert_eq!(
        (report.blobs_mounted, report.blobs_copied, report.bytes),
        (3, 0, 0)
    );
}

#[tokio::test]
async fn case_49_no_blob_that_is_mounted_is_read() {
    let (registry, registries) = one_registry().await;
    copy_app(&registries, &registry, &registry).await.unwrap();
    assert_eq!(registry.count(&Method::GET, "/blobs/"), 0);
}

#[tokio::test]
async fn case_49_within_one_repository_only_the_tag_is_written() {
    let (registry, registries) = one_registry().await;
    let mut target = target(&registries, &registry, "app", "2");
    target.anchor = None;
    let source = source(&registries, &registry, "app", "1");
    let report = copy(&source, &target, &CopyOptions::default(), &())
        .await
        .unwrap();
    assert_eq!(registry.tag("app", "2"), Some(app().digest().to_string()));
    assert_eq!(report.blobs_copied, 0);
    assert_eq!(registry.count(&Method::POST, ""), 0);
    assert_eq!(registry.count(&Method::PUT, ""), 1);
}

#[tokio::test]
async fn case_49_a_copy_onto_itself_does_nothing() {
    let (registry, registries) = one_registry().await;
    let mut target = target(&registries, &registry, "app", "1");
    target.anchor = None;
    let source = source(&registries, &registry, "app", "1");
    let report = copy(&source, &target, &CopyOptions::default(), &())
        .await
        .unwrap();
    assert_eq!(report.digest, app().digest());
    let writes = |method: &Method| registry.count(method, "");
    assert_eq!(writes(&Method::PUT) + writes(&Method::POST), 0);
    assert!(registry.log().len() <= 3);
}

#[rstest::rstest]
#[case(404)]
#[case(401)]
#[case(403)]
#[tokio::test]
async fn case_50_a_repository_that_is_not_to_be_seen_is_tried(#[case] status: u16) {
    let (from, to) = pair_with(&[app()]).await;
    // Until something was pushed, nobody may know whether it exists.
    let hidden = Action::Status(status, vec![], "");
    to.fault(Method::HEAD, "", usize::MAX, hidden);
    copy_app(&registries(&[&from, &to]), &from, &to)
        .await
        .unwrap();
    assert!(arrived(&to, &[app()]));
}

#[rstest::rstest]
#[case::ipv6("[::1]:0")]
#[case::another_loopback("127.0.0.2:0")]
#[tokio::test]
async fn case_51_addresses_of_all_kinds_work(#[case] address: &str) {
    let from = Fake::start_at(address).await;
    from.put_tagged("deep/er/app", "1", &app());
    let to = Fake::start_at(address).await;
    let registries = registries(&[&from, &to]);
    copy(
        &source(&registries, &from, "deep/er/app", "1"),
        &target(&registries, &to, "a/b/c/d", "1"),
        &CopyOptions::default(),
        &(),
    )
    .await
    .unwrap();
    assert!(to.has("a/b/c/d", &app()));
}

#[tokio::test]
async fn case_51_upper_case_in_a_host_name_does_not_matter() {
    let (from, to) = pair_with(&[app()]).await;
    let named = |fake: &Fake, name: &str| format!("{name}:{}", fake.address.port());
    let options = RegistryOptions {
        insecure_hosts: [named(&from, "LocalHost"), named(&to, "localhost")].into(),
        ..RegistryOptions::default()
    };
    let registries = Registries::new(options).unwrap();
    let source = Source {
        registry: registries.get(&named(&from, "localhost")).unwrap(),
        repository: "app".into(),
        reference: TagOrDigest::parse("1"),
    };
    let target = Target {
        registry: registries.get(&named(&to, "LOCALHOST")).unwrap(),
        repository: "copy".into(),
        tag: Some("1".into()),
        anchor: None,
    };
    copy(&source, &target, &CopyOptions::default(), &())
        .await
        .unwrap();
    assert!(arrived(&to, &[app()]));
}

#[tokio::test]
async fn case_51_plain_http_is_a_choice_for_each_host() {
    let (from, to) = pair_with(&[app()]).await;
    // Only the source may be spoken to without TLS.
    let registries = Registries::new(options(&[&from])).unwrap();
    let error = copy_app(&registries, &from, &to).await.unwrap_err();
    assert!(matches!(error, CopyError::Target(_)), "{error}");
    assert!(error.to_string().contains("insecure hosts"), "{error}");
    assert_eq!(to.log().len(), 0);
}

#[tokio::test]
async fn case_51_a_private_authority_is_trusted_by_choice() {
    let tls = Tls::generate().unwrap();
    let (from, to) = (Fake::start_tls(&tls).await, Fake::start_tls(&tls).await);
    from.put_tagged("app", "1", &app());
    let trusting = RegistryOptions {
        extra_root_certificates_pem: vec![tls.ca_pem().as_bytes().to_vec()],
        ..RegistryOptions::default()
    };
    copy_app(&Registries::new(trusting).unwrap(), &from, &to)
        .await
        .unwrap();
    assert!(arrived(&to, &[app()]));
    let error = copy_app(
        &Registries::new(RegistryOptions::default()).unwrap(),
        &from,
        &to,
    )
    .await
    .unwrap_err();
    assert_eq!(error.retry(), Retry::Permanent, "{error}");
    assert!(error.to_string().contains("add its CA"), "{error}");
}

#[tokio::test]
async fn case_51_what_is_no_certificate_is_refused_at_setup() {
    let options = RegistryOptions {
        extra_root_certificates_pem: vec![b"hello".to_vec()],
        ..RegistryOptions::default()
    };
    let error = Registries::new(options).unwrap_err();
    assert!(error.to_string().contains("certificate 1"), "{error}");
}

#[tokio::test]
async fn case_51_proxies_of_the_environment_are_used_and_spared() {
    let fake = Fake::start().await;
    fake.put_tagged("app", "1", &app());
    // No such host exists: only the proxy can know where it is.
    let answer = child::copy_by_proxy(&fake, "registry.example.com", "app", &[]).await;
    assert_eq!(answer, "ok");
    // A proxy that nobody runs, and hosts that are not asked through it.
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let proxy = format!("http://{}", nobody.local_addr().unwrap());
    drop(nobody);
    let proxied = [("HTTP_PROXY", proxy.as_str())];
    let answer = child::run(&fake.host(), "app", &[], &proxied).await;
    assert_ne!(answer, "ok");
    for no_proxy in ["127.0.0.1", "*", &fake.host()] {
        let spared = [proxied[0], ("NO_PROXY", no_proxy)];
        let answer = child::run(&fake.host(), "app", &[], &spared).await;
        assert_eq!(answer, "ok", "{no_proxy}");
    }
}

#[tokio::test]
async fn case_52_a_dropped_copy_stops_and_leaves_no_tag() {
    let (from, to) = pair_with(&[app()]).await;
    let layer = format!("/blobs/{}", digest_of(&noise(1, 5000)));
    from.fault(Method::GET, &layer, usize::MAX, Action::Hang);
    let registries = registries(&[&from, &to]);
    let copying = tokio::spawn({
        let (from, to) = (from.clone(), to.clone());
        async move { copy_app(&registries, &from, &to).await }
    });
    while from.count(&Method::GET, &layer) == 0 {
        tokio::task::yield_now().await;
    }
    copying.abort();
    assert!(copying.await.unwrap_err().is_cancelled());
    assert!(nothing_tagged(&to) && to.state().manifests.is_empty());
    // The next one goes on where this one stopped.
    from.forget_faults();
    let registries = crate::support::registries(&[&from, &to]);
    copy_app(&registries, &from, &to).await.unwrap();
    assert!(arrived(&to, &[app()]));
}

#[tokio::test]
async fn case_52_a_failed_copy_leaves_no_open_session() {
    let (from, to) = pair_with(&[app()]).await;
    let layer = format!("/blobs/{}", digest_of(&noise(1, 5000)));
    from.fault(Method::GET, &layer, usize::MAX, Action::Corrupt);
    copy_app(&registries(&[&from, &to]), &from, &to)
        .await
        .unwrap_err();
    let left: Vec<_> = to.state().sessions.keys().cloned().collect();
    // Blobs that were on their way when the copy failed may leave theirs; the failed one must not.
    assert!(left.len() < 3, "{left:?}");
    assert!(to.count(&Method::DELETE, "/uploads/") > 0);
}

#[rstest::rstest]
#[case::disk_full(507, Method::PUT, "/uploads/", "no space left on device")]
#[case::quota(403, Method::POST, "/uploads/", "exceed the configured upper limit")]
#[case::quota_of_the_manifest(413, Method::PUT, "/manifests/", "quota")]
#[case::broken(500, Method::PUT, "/uploads/", "no space left on device")]
#[tokio::test]
async fn case_53_a_full_target_is_quoted_and_not_asked_for_ever(
    #[case] status: u16,
    #[case] method: Method,
    #[case] part: &str,
    #[case] says: &str,
) {
    let (from, to) = pair_with(&[app()]).await;
    let body = match status {
        403 => {
            r#"{"errors":[{"code":"DENIED","message":"adding 5.0 MiB of storage resource will exceed the configured upper limit of 1.0 GiB"}]}"#
        }
        413 => r#"{"errors":[{"code":"TOOMANYREQUESTS","message":"no\u0007 quota\nleft"}]}"#,
        _ => r#"{"errors":[{"code":"UNKNOWN","message":"no space left on device"}]}"#,
    };
    let full = Action::Status(status, vec![], body);
    to.fault(method.clone(), part, usize::MAX, full);
    let error = copy_app(&registries(&[&from, &to]), &from, &to)
        .await
        .unwrap_err();
    let text = error.to_string();
    assert!(text.contains(&status.to_string()), "{text}");
    assert!(text.contains(says), "{text}");
    assert!(!text.contains('\u{7}'), "{text:?}");
    if status != 500 {
        assert_eq!(error.retry(), Retry::Permanent, "{text}");
    }
    // Three blobs, and each may first be asked for as a mount; an error of the server may pass.
    let most = if status == 500 { 3 * 5 } else { 6 };
    assert!(to.count(&method, part) <= most);
    assert!(nothing_tagged(&to));
    assert!(!text.contains(PASSWORD));
}
