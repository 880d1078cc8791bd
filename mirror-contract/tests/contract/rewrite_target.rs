//! Targets of rewrites: images keep their repository, tag and digest.

use mirror_contract::{ImageRef, RewriteTarget, Unsupported};
use proptest::prelude::*;
use rstest::rstest;

use super::support;

const DIGEST: &str = "sha256:4cb2b9019f1757be8482419002cb7afe028fdba35d47958829e4cfeaf6246d80";

fn target(text: &str) -> RewriteTarget<'_> {
    RewriteTarget::parse(text).unwrap_or_else(|| panic!("{text}"))
}

fn rewrite(to: &str, image: &str) -> Result<String, Unsupported> {
    let image = target(to).rewrite(&ImageRef::parse(image).unwrap())?;
    Ok(image.to_string())
}

#[rstest]
#[case::official(
    "harbor.example.com/hub",
    "nginx",
    "harbor.example.com/hub/library/nginx:latest"
)]
#[case::tag(
    "harbor.example.com/quay",
    "quay.io/acme/app:1",
    "harbor.example.com/quay/acme/app:1"
)]
#[case::digest("harbor.example.com/quay", &format!("quay.io/app@{DIGEST}"), &format!("harbor.example.com/quay/app@{DIGEST}"))]
#[case::both("harbor.example.com/quay", &format!("quay.io/app:1@{DIGEST}"), &format!("harbor.example.com/quay/app:1@{DIGEST}"))]
#[case::deep(
    "gitlab.example.com:5050/a/b/c",
    "ghcr.io/d/e:1",
    "gitlab.example.com:5050/a/b/c/d/e:1"
)]
#[case::host_alone("localhost:5000", "ghcr.io/d/e:1", "localhost:5000/d/e:1")]
#[case::port_of_the_source(
    "mirror.example.com/x",
    "localhost:5000/app:1",
    "mirror.example.com/x/app:1"
)]
fn is_rewritten_to(#[case] to: &str, #[case] image: &str, #[case] expected: &str) {
    assert_eq!(rewrite(to, image).as_deref(), Ok(expected));
}

#[rstest]
#[case::empty("")]
#[case::no_host("hub/library")]
#[case::name("harbor")]
#[case::scheme("https://harbor.example.com/hub")]
#[case::upper_case("Harbor.example.com/hub")]
#[case::upper_case_path("harbor.example.com/Hub")]
#[case::trailing_slash("harbor.example.com/")]
#[case::tag("harbor.example.com/hub:1")]
#[case::wildcard("harbor.example.com/*")]
#[case::docker_hub("docker.io")]
#[case::docker_hub_by_its_host("registry-1.docker.io")]
#[case::account_on_docker_hub_by_its_host("registry-1.docker.io/acme")]
#[case::no_room(&format!("harbor.example.com/{}", "a".repeat(200)))]
fn is_no_target(#[case] text: &str) {
    assert_eq!(RewriteTarget::parse(text), None);
}

#[test]
fn a_name_that_is_too_long_is_an_error() {
    let image = format!("quay.io/{}:1", "a".repeat(251));
    assert_eq!(
        rewrite("harbor.example.com/quay", &image),
        Err(Unsupported::TooLong)
    );
}

#[rstest]
#[case::same("ghcr.io/acme", true)]
#[case::inside("ghcr.io", true)]
#[case::around("ghcr.io/acme/mirror", true)]
#[case::beside("ghcr.io/acme-2", false)]
#[case::another_registry("quay.io/acme", false)]
#[case::default_port("ghcr.io:443/acme/mirror", true)]
#[case::another_port("ghcr.io:5000/acme/mirror", false)]
#[case::longer_host("ghcr.io.example.com", false)]
fn overlaps_with_backups(#[case] backup: &str, #[case] overlaps: bool) {
    assert_eq!(target("ghcr.io/acme").overlaps(backup), overlaps);
}

fn any_target() -> impl Strategy<Value = String> {
    let host =
        support::host().prop_filter("Docker Hub has accounts only", |host| host != "docker.io");
    (host, prop::option::of(support::path())).prop_filter_map("too long", |(host, path)| {
        let text = path.map_or(host.clone(), |path| format!("{host}/{path}"));
        RewriteTarget::parse(&text).is_some().then_some(text)
    })
}

proptest! {
    #[test]
    fn repository_tag_and_digest_stay(to in any_target(), image in support::image()) {
        let (to, image) = (target(&to), ImageRef::parse(&image).unwrap());
        let rewritten = to.rewrite(&image).unwrap();
        prop_assert!(to.contains(&rewritten));
        prop_assert!(rewritten.path().ends_with(image.path()));
        prop_assert_eq!((rewritten.tag(), rewritten.digest()), (image.tag(), image.digest()));
        let text = rewritten.to_string();
        prop_assert_eq!(&ImageRef::parse(&text).unwrap(), &rewritten);
        prop_assert_eq!(to.original(&rewritten, image.host()), Some(image));
    }

    #[test]
    fn images_of_one_registry_stay_different(to in any_target(), images in (support::image(), support::image())) {
        let (to, first, second) = (target(&to), ImageRef::parse(&images.0).unwrap(), ImageRef::parse(&images.1).unwrap());
        if first.host() == second.host() {
            prop_assert_eq!(to.rewrite(&first) == to.rewrite(&second), first == second);
        }
    }

    #[test]
    fn no_target_panics(text in support::near_miss(), image in support::image()) {
        if let Some(to) = RewriteTarget::parse(&text) {
            let _ = to.rewrite(&ImageRef::parse(&image).unwrap());
        }
    }
}
