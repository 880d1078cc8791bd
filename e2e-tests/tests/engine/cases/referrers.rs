//! Cases 6 and 7 where it gets difficult: lists of referrers that fail half-way, hang, lie or never end.

use crate::support::{
    arrived, copy_app, nothing_tagged, options, pair_with, raw, registries, source, target,
};
use axum::http::Method;
use mirror_copy::{CopyOptions, Digest, Event, Progress, Registries, copy};
use std::time::Duration;
use testkit::scripted::{
    Action, Fake, Image, Latch, OCI_INDEX, blob, digest_of, image, index, noise, referrer,
};

fn fallback_tag(subject: &Image) -> String {
    subject.digest().to_string().replace(':', "-")
}

/// Whether the target's list of what refers to `subject` names exactly these, each once.
fn lists(to: &Fake, subject: &Image, referrers: &[&Image]) -> bool {
    let Some(digest) = to.tag("copy", &fallback_tag(subject)) else {
        return referrers.is_empty();
    };
    let (_, bytes) = to.state().manifests[&("copy".to_owned(), digest)].clone();
    let list: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
    let mut listed: Vec<_> = list["manifests"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| entry["digest"].as_str().unwrap().to_owned())
        .collect();
    listed.sort();
    let mut expected: Vec<_> = referrers.iter().map(|r| r.digest().to_string()).collect();
    expected.sort();
    listed == expected
}

/// Opens the latch as soon as this manifest was copied as a referrer.
struct OpensAfter(Digest, Latch);

impl Progress for OpensAfter {
    fn event(&self, event: Event<'_>) {
        if let Event::ReferrerCopied { digest, .. } = event
            && *digest == self.0
        {
            self.1.open();
        }
    }
}

/// The copy fails after one signature has arrived. The next one finds it there, and it still is in no list.
#[tokio::test]
async fn case_06_what_a_failed_copy_left_behind_is_listed_by_the_next_one() {
    let app = image(1, &[noise(1, 10)]);
    let [a, b] = ["a", "b"].map(|text| referrer(&app, "example/signature", &blob(text)));
    let (from, to) = pair_with(std::slice::from_ref(&app)).await;
    from.put("app", &a);
    from.put("app", &b);
    to.set(|knobs| knobs.referrers = false);
    // With an older image there, the engine looks what of the new one is there.
    let old = image(2, &[noise(2, 10)]);
    to.put_tagged("copy", "1", &old);
    let latch = Latch::closed();
    let ill = Action::Status(503, vec![], "");
    from.fault(
        Method::GET,
        &format!("/blobs/{}", digest_of(b"b")),
        usize::MAX,
        Action::Late(latch.clone(), Some(Box::new(ill))),
    );
    let registries = registries(&[&from, &to]);
    let error = copy(
        &source(&registries, &from, "app", "1"),
        &target(&registries, &to, "copy", "1"),
        &CopyOptions::default(),
        &OpensAfter(a.digest(), latch),
    )
    .await
    .unwrap_err();
    assert!(error.retry().is_transient(), "{error}");
    assert!(to.has("copy", &a) && !to.has("copy", &b));
    assert_eq!(to.tag("copy", "1"), Some(old.digest().to_string()));

    from.forget_faults();
    copy_app(&registries, &from, &to).await.unwrap();
    assert!(arrived(&to, &[a.clone(), b.clone(), app.clone()]));
    assert!(lists(&to, &app, &[&a, &b]));
}

#[tokio::test]
async fn case_06_an_artifact_that_could_not_be_listed_gets_no_tag_yet() {
    let subject = image(1, &[noise(1, 10)]);
    let artifact = referrer(&subject, "example/sbom", &blob("sbom"));
    let (from, to) = pair_with(std::slice::from_ref(&artifact)).await;
    to.set(|knobs| knobs.referrers = false);
    let list = format!("/manifests/{}?", fallback_tag(&subject));
    let ill = Action::Status(500, vec![], "");
    to.fault(Method::PUT, &list, usize::MAX, ill);
    let registries = registries(&[&from, &to]);
    let error = copy_app(&registries, &from, &to).await.unwrap_err();
    assert!(error.retry().is_transient(), "{error}");
    assert!(to.count(&Method::PUT, &list) > 0);
    assert!(nothing_tagged(&to), "else the next copy has nothing to do");

    to.forget_faults();
    copy_app(&registries, &from, &to).await.unwrap();
    assert!(arrived(&to, std::slice::from_ref(&artifact)));
    assert!(lists(&to, &subject, &[&artifact]));
}

/// Puts `app:1` into a registry without a referrers API, whose fallback tag says this.
async fn with_list(app: &Image, list: &Image) -> (Fake, Fake) {
    let (from, to) = pair_with(std::slice::from_ref(app)).await;
    from.set(|knobs| knobs.referrers = false);
    from.put_tagged("app", &fallback_tag(app), list);
    (from, to)
}

#[tokio::test]
async fn case_07_a_list_without_an_end_is_bounded() {
    let app = image(1, &[noise(1, 10)]);
    let signature = blob("signature");
    let many: Vec<_> = (0..3000)
        .map(|n| referrer(&app, &format!("example/{n}"), &signature))
        .collect();
    let (from, to) = with_list(&app, &index(&many.iter().collect::<Vec<_>>())).await;
    for referrer in &many {
        from.put("app", referrer);
    }
    let report = copy_app(&registries(&[&from, &to]), &from, &to)
        .await
        .unwrap();
    assert!(arrived(&to, &[app]));
    assert!(report.referrers <= 1000, "{}", report.referrers);
    let brought = many.iter().filter(|image| to.has("copy", image)).count();
    assert!(brought <= 1000, "{brought}");
    assert!(from.count(&Method::GET, "/manifests/") < 1100);
}

#[tokio::test]
async fn case_07_what_a_list_names_often_is_brought_once() {
    let app = image(1, &[noise(1, 10)]);
    let referrers = ["a", "b"].map(|text| referrer(&app, "example/x", &blob(text)));
    let often: Vec<_> = referrers.iter().cycle().take(100).collect();
    let (from, to) = with_list(&app, &index(&often)).await;
    for referrer in &referrers {
        from.put("app", referrer);
    }
    let report = copy_app(&registries(&[&from, &to]), &from, &to)
        .await
        .unwrap();
    assert!(arrived(&to, &[app]));
    assert_eq!(report.referrers, 2);
    for referrer in &referrers {
        let name = format!("/manifests/{}", referrer.digest());
        assert!(to.has("copy", referrer));
        assert_eq!(from.count(&Method::GET, &name), 1);
        assert_eq!(to.count(&Method::PUT, &name), 1);
    }
}

/// The list names the image itself, and one of its referrers names the image as its own referrer in turn.
#[tokio::test]
async fn case_07_an_image_does_not_refer_to_itself() {
    let app = image(1, &[noise(1, 10)]);
    let sbom = referrer(&app, "example/sbom", &blob("sbom"));
    let (from, to) = with_list(&app, &index(&[&app, &sbom])).await;
    from.put("app", &sbom);
    from.put_tagged("app", &fallback_tag(&sbom), &index(&[&app, &sbom]));
    let report = copy_app(&registries(&[&from, &to]), &from, &to)
        .await
        .unwrap();
    assert!(arrived(&to, std::slice::from_ref(&app)));
    assert_eq!(report.referrers, 1);
    let reads = |image: &Image| {
        let name = format!("/manifests/{}", image.digest());
        from.count(&Method::GET, &name)
    };
    // The image was read by its tag.
    assert_eq!((reads(&app), reads(&sbom)), (0, 1));
    let name = format!("/manifests/{}", app.digest());
    assert_eq!(to.count(&Method::PUT, &name), 0);
}

/// Ten images of one repository whose source answers this request with 504; answers with how often it was asked.
async fn asked_by_ten_copies(list: &str) -> usize {
    let (from, to) = (Fake::start().await, Fake::start().await);
    let ill = Action::Status(504, vec![], "");
    from.fault(Method::GET, list, usize::MAX, ill);
    let registries = registries(&[&from, &to]);
    for seed in 0..10 {
        let tag = seed.to_string();
        let app = image(seed, &[noise(seed, 10)]);
        from.put_tagged("app", &tag, &app);
        let source = source(&registries, &from, "app", &tag);
        let target = target(&registries, &to, "copy", &tag);
        copy(&source, &target, &CopyOptions::default(), &())
            .await
            .unwrap();
        assert!(to.has("copy", &app));
        assert_eq!(to.tag("copy", &tag), Some(app.digest().to_string()));
    }
    from.count(&Method::GET, list)
}

#[tokio::test]
async fn case_07_tags_that_cannot_be_listed_do_not_hold_images_up() {
    let asked = asked_by_ten_copies("/tags/list").await;
    // Five attempts are made of one call, and not every copy makes them all anew.
    assert!((1..30).contains(&asked), "{asked}");
}

#[tokio::test]
async fn case_07_referrers_that_cannot_be_listed_do_not_keep_an_image_back() {
    let asked = asked_by_ten_copies("/referrers/").await;
    // Each image has a list of its own.
    assert!((10..=50).contains(&asked), "{asked}");
}

/// A host that never responded to such a request is not asked again for a while, and each image says what it lacks. One that
/// did is asked for each image: one long list must not cost the signatures of all others.
#[rstest::rstest]
#[case::never_responded(false, 1, [1, 1])]
#[case::responded(true, 3, [1, 0])]
#[tokio::test]
async fn case_07_a_list_that_hangs_costs_other_images_nothing(
    #[case] has_responded: bool,
    #[case] lists_read: usize,
    #[case] left_out: [u64; 2],
) {
    let (from, to) = (Fake::start().await, Fake::start().await);
    let mut options = options(&[&from, &to]);
    options.timeouts.list = Duration::from_millis(300);
    let registries = Registries::new(options).unwrap();
    let copy_of = async |name: &str, seed| {
        let app = image(seed, &[noise(seed, 10)]);
        from.put_tagged(name, "1", &app);
        from.put(name, &referrer(&app, "example/signature", &blob(name)));
        let source = source(&registries, &from, name, "1");
        let target = target(&registries, &to, name, "1");
        let report = copy(&source, &target, &CopyOptions::default(), &()).await;
        report.unwrap()
    };
    if has_responded {
        copy_of("first", 1).await;
        from.clear_log();
    }
    from.fault(Method::GET, "/slow/referrers/", usize::MAX, Action::Hang);
    let reports = [copy_of("slow", 2).await, copy_of("other", 3).await];
    assert_eq!(reports.map(|report| report.referrers_left_out), left_out);
    assert_eq!(from.count(&Method::GET, "/referrers/"), lists_read);
}

/// A list may name anything. What says of itself that it is about another image is not attached to this one.
#[tokio::test]
async fn case_07_what_is_about_another_image_is_left_out() {
    let app = image(1, &[noise(1, 10)]);
    let other = image(2, &[noise(2, 10)]);
    let of_other = referrer(&other, "example/signature", &blob("other"));
    let (from, to) = with_list(&app, &index(&[&of_other])).await;
    from.put("app", &of_other);
    let report = copy_app(&registries(&[&from, &to]), &from, &to)
        .await
        .unwrap();
    assert!(arrived(&to, &[app]));
    assert_eq!((report.referrers, report.referrers_left_out), (0, 1));
    assert!(!to.has("copy", &of_other));
}

/// Anybody can push an index that says of itself what it likes.
#[tokio::test]
async fn case_07_a_list_that_is_no_list_is_left_out() {
    let app = image(1, &[noise(1, 10)]);
    let odd = raw(OCI_INDEX, r#"{"schemaVersion":2,"manifests":7}"#, vec![]);
    let (from, to) = with_list(&app, &odd).await;
    let report = copy_app(&registries(&[&from, &to]), &from, &to)
        .await
        .unwrap();
    assert!(arrived(&to, &[app]));
    assert_eq!((report.referrers, report.referrers_left_out), (0, 1));
}

/// A signature that was made after the first copy follows with the next one, with and without the API at either side.
#[rstest::rstest]
#[case(true, true)]
#[case(true, false)]
#[case(false, true)]
#[tokio::test]
async fn case_07_what_is_attached_later_follows_with_the_next_copy(
    #[case] source_has_api: bool,
    #[case] target_has_api: bool,
) {
    let app = image(1, &[noise(1, 10)]);
    let late = referrer(&app, "example/signature", &blob("late"));
    let (from, to) = pair_with(std::slice::from_ref(&app)).await;
    from.set(|knobs| knobs.referrers = source_has_api);
    to.set(|knobs| knobs.referrers = target_has_api);
    copy_app(&registries(&[&from, &to]), &from, &to)
        .await
        .unwrap();
    from.put("app", &late);
    if !source_has_api {
        from.put_tagged("app", &fallback_tag(&app), &index(&[&late]));
    }
    // Another process, which remembers nothing.
    let registries = registries(&[&from, &to]);
    let report = copy_app(&registries, &from, &to).await.unwrap();
    assert_eq!((report.referrers, report.manifests), (1, 0));
    assert!(to.has("copy", &late));
    assert!(target_has_api || lists(&to, &app, &[&late]));
}

/// Copying again what is complete costs one list at each side, however many signatures there are.
#[rstest::rstest]
#[tokio::test]
async fn case_07_referrers_that_are_there_cost_no_requests(
    #[values(true, false)] target_has_api: bool,
) {
    let app = image(1, &[noise(1, 10)]);
    let (from, to) = pair_with(std::slice::from_ref(&app)).await;
    to.set(|knobs| knobs.referrers = target_has_api);
    for number in 0..20 {
        let signature = referrer(&app, "example/signature", &blob(&number.to_string()));
        from.put("app", &signature);
    }
    copy_app(&registries(&[&from, &to]), &from, &to)
        .await
        .unwrap();
    for fake in [&from, &to] {
        fake.clear_log();
    }
    let report = copy_app(&registries(&[&from, &to]), &from, &to)
        .await
        .unwrap();
    assert_eq!((report.referrers, report.referrers_left_out), (0, 0));
    assert!(to.log().len() <= 5, "{:?}", to.log());
    assert!(from.log().len() <= 3, "{:?}", from.log());
}

/// Harbor before 2.8 responds with 404 to a signature whose image it does not have.
#[tokio::test]
async fn case_07_a_signature_that_needs_its_image_is_pushed_after_it() {
    let app = image(1, &[noise(1, 10)]);
    let signature = image(2, &[noise(2, 10)]);
    let tag = format!("{}.sig", fallback_tag(&app));
    let (from, to) = pair_with(std::slice::from_ref(&app)).await;
    from.put_tagged("app", &tag, &signature);
    let absent = r#"{"errors":[{"code":"NOT_FOUND","message":"artifact not found"}]}"#;
    let refused = Action::Status(404, vec![], absent);
    to.fault(Method::PUT, &format!("/manifests/{tag}"), 1, refused);
    let registries = registries(&[&from, &to]);
    let report = copy_app(&registries, &from, &to).await.unwrap();
    assert_eq!((report.referrers, report.referrers_left_out), (1, 0));
    assert!(to.tag("copy", "1").is_some());
    assert_eq!(
        to.tag("copy", &tag),
        Some(signature.digest().to_string()),
        "pushed after the image"
    );
}
