//! Registries that claim what is not so: the service never says that an image is mirrored when it is not, and a list of
//! tags is never taken for a complete one when it is not.

use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::http::{Method, Response, header};
use e2e_tests::attack::Setup;
use e2e_tests::attack::site::Site;
use testkit::scripted::{Action, Fake, image, noise};
use testkit::{artifacts, blocking};

use crate::support::COPY_DEADLINE;

const PAGE: &str = "<html>please log in</html>";

fn source() -> (Fake, String) {
    let source = blocking::run(Fake::start());
    source.put_tagged("app", "1", &image(1, &[noise(1, 100)]));
    let name = format!("{}/app:1", source.host());
    (source, name)
}

/// Calls `ask` until it gives a result.
fn until<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(result) = ask() {
            return result;
        }
        assert!(started.elapsed() < COPY_DEADLINE, "{what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn behind_a_login_page_nothing_is_mirrored_and_the_service_is_not_ready() {
    let (source, name) = source();
    let site = Site::start(Setup::DEBUG, &[&source]).unwrap();
    site.backup.set(|knobs| {
        knobs.other = Some(Arc::new(|_, _, _, _| {
            let page = Response::builder().header(header::CONTENT_TYPE, "text/html");
            page.body(PAGE.into()).unwrap()
        }));
    });
    for _ in 0..5 {
        let reply = site.ask(&name).unwrap();
        assert_eq!(reply.status, 404, "{reply:?}");
        assert!(reply.message.contains("unavailable"), "{reply:?}");
    }
    let reason = until("not ready", || match site.sidecar.admin_get("/readyz") {
        Ok((503, reason)) => Some(reason),
        _ => None,
    });
    assert!(reason.contains("of type text/html"), "{reason}");
    let warned = |line: &String| line.contains("WARN") && line.contains("text/html");
    until("a warning", || {
        site.sidecar.lines().iter().any(warned).then_some(())
    });
    // The page is gone, and everything is as it should be.
    site.backup.set(|knobs| knobs.other = None);
    site.wait_until_mirrored(&name, COPY_DEADLINE).unwrap();
    assert!(site.backup.tags() > 0);
}

/// The registry accepts manifests and stores them only after a while.
#[test]
fn a_copy_that_is_not_kept_is_not_mirrored() {
    let (source, name) = source();
    let site = Site::start(Setup::DEBUG, &[&source]).unwrap();
    let claim = Action::Status(201, vec![], "");
    site.backup
        .fault(Method::PUT, "/manifests/", usize::MAX, claim);
    until("the copy failed", || {
        let reply = site.ask(&name).unwrap();
        assert_eq!(reply.status, 404, "{reply:?}");
        reply
            .message
            .contains("does not keep what it accepts")
            .then_some(())
    });
    let copied = |line: &String| line.contains("copied image");
    assert!(!site.sidecar.lines().iter().any(copied));
    site.backup.forget_faults();
    site.wait_until_mirrored(&name, COPY_DEADLINE).unwrap();
}

/// No page names the next one.
#[test]
fn all_tags_are_copied_from_full_pages_without_links() {
    let (source, _) = source();
    let backup = blocking::run(Fake::start());
    for n in 0..120 {
        let tag = format!("1.{n}");
        source.put_tagged("app", &tag, &image(1, &[noise(1, 100)]));
    }
    source.set(|knobs| knobs.page = 50);
    let no_link = Action::Without("link");
    source.fault(Method::GET, "/tags/list", usize::MAX, no_link);
    let copied = Command::new(artifacts::sidecar_program().unwrap())
        .args(["copy", "--all-tags", "--no-referrers"])
        .arg(format!("{}/app", source.host()))
        .arg(format!("--to={}/copy", backup.host()))
        .arg(format!("--insecure-registry={}", source.host()))
        .arg(format!("--insecure-registry={}", backup.host()))
        .env_clear()
        .output()
        .unwrap();
    assert_eq!(copied.status.code(), Some(0), "{copied:?}");
    let expected = source.state().tags.clone();
    assert_eq!(expected.len(), 121);
    for ((_, tag), digest) in expected {
        assert_eq!(backup.tag("copy", &tag), Some(digest), "{tag}");
    }
}
