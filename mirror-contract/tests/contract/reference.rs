//! Image references: what is accepted, how it is normalised, and that another implementation agrees.

use mirror_contract::reference::ParseError;
use mirror_contract::{Digest, ImageRef};
use oci_spec::distribution::Reference;
use proptest::prelude::*;
use rstest::rstest;

const SHA256: &str = "sha256:4cb2b9019f1757be8482419002cb7afe028fdba35d47958829e4cfeaf6246d80";

#[rstest]
#[case::short("nginx", "docker.io/library/nginx:latest")]
#[case::short_with_tag("nginx:1.27", "docker.io/library/nginx:1.27")]
#[case::official("library/nginx:1.27", "docker.io/library/nginx:1.27")]
#[case::account("acme/app:v1", "docker.io/acme/app:v1")]
#[case::hub("docker.io/nginx", "docker.io/library/nginx:latest")]
#[case::hub_account("docker.io/acme/app", "docker.io/acme/app:latest")]
#[case::legacy_hub("index.docker.io/nginx:1", "docker.io/library/nginx:1")]
#[case::legacy_hub_account("index.docker.io/acme/app:1", "docker.io/acme/app:1")]
#[case::traffic_of_the_hub("registry-1.docker.io/acme/app:1", "docker.io/acme/app:1")]
#[case::api_of_the_hub("registry.hub.docker.com/library/nginx:1", "docker.io/library/nginx:1")]
#[case::hub_with_its_port("index.docker.io:443/nginx:1", "docker.io/library/nginx:1")]
#[case::no_hub("registry-1.docker.io:444/a/b:1", "registry-1.docker.io:444/a/b:1")]
#[case::no_hub_either(
    "registry.hub.docker.com.example/a:1",
    "registry.hub.docker.com.example/a:1"
)]
#[case::other_registry("quay.io/app", "quay.io/app:latest")]
#[case::localhost("localhost/app:1", "localhost/app:1")]
#[case::localhost_with_port("localhost:5000/app:1", "localhost:5000/app:1")]
#[case::port_without_dot("registry:5000/a/b/c", "registry:5000/a/b/c:latest")]
#[case::tag_and_port("reg.example.com:443/app:8443", "reg.example.com:443/app:8443")]
#[case::upper_case_host("REG.Example.com/app:V1", "reg.example.com/app:V1")]
#[case::upper_case_localhost("LOCALHOST:5000/app:1", "localhost:5000/app:1")]
#[case::ipv4("10.0.0.1:5000/app:1", "10.0.0.1:5000/app:1")]
#[case::ipv6("[2001:db8::1]:5000/app:1", "[2001:db8::1]:5000/app:1")]
#[case::ipv6_without_port("[::1]/app:1", "[::1]/app:1")]
#[case::hyphens("ghcr.io/a--b/c---d:1", "ghcr.io/a--b/c---d:1")]
#[case::underscores("ghcr.io/a__b/c_d:1", "ghcr.io/a__b/c_d:1")]
#[case::dots("ghcr.io/a.b:1", "ghcr.io/a.b:1")]
#[case::account_like_a_host("my-account/app", "docker.io/my-account/app:latest")]
fn is_normalised(#[case] text: &str, #[case] canonical: &str) {
    let image = ImageRef::parse(text).unwrap();
    assert_eq!(image.to_string(), canonical);
    assert_eq!(ImageRef::parse(canonical).unwrap(), image);
}

#[test]
fn tag_and_digest_are_both_kept() {
    let text = format!("nginx:1.27@{SHA256}");
    let image = ImageRef::parse(&text).unwrap();
    assert_eq!(image.tag(), Some("1.27"));
    assert_eq!(image.digest().unwrap().to_string(), SHA256);
    assert_eq!(
        image.to_string(),
        format!("docker.io/library/nginx:1.27@{SHA256}")
    );
}

#[test]
fn a_digest_alone_implies_no_tag() {
    let text = format!("quay.io/app@{SHA256}");
    assert_eq!(ImageRef::parse(&text).unwrap().tag(), None);
}

#[rstest]
#[case("sha256", 64, true)]
#[case("sha256", 63, false)]
#[case("sha256", 65, false)]
#[case("sha384", 96, true)]
#[case("sha512", 128, true)]
#[case("sha512", 64, false)]
#[case("md5", 32, false)]
fn digests_have_the_length_of_their_algorithm(
    #[case] algorithm: &str,
    #[case] length: usize,
    #[case] valid: bool,
) {
    let text = format!("quay.io/app@{algorithm}:{}", "a".repeat(length));
    assert_eq!(ImageRef::parse(&text).is_ok(), valid);
}

#[test]
fn limits_are_inclusive() {
    let path = |length: usize| format!("ghcr.io/{}", "a".repeat(length));
    assert!(ImageRef::parse(&path(255)).is_ok());
    assert_eq!(
        ImageRef::parse(&path(256)),
        Err(ParseError::RepositoryTooLong)
    );
    let tag = |length: usize| format!("ghcr.io/app:{}", "t".repeat(length));
    assert!(ImageRef::parse(&tag(128)).is_ok());
    assert_eq!(ImageRef::parse(&tag(129)), Err(ParseError::Tag));
    let host = |length: usize| format!("{}.io/app", "h".repeat(length - ".io".len()));
    assert!(ImageRef::parse(&host(253)).is_ok());
    assert_eq!(ImageRef::parse(&host(254)), Err(ParseError::Host));
    // `library/` counts, since it is part of the repository's name.
    assert!(ImageRef::parse(&"a".repeat(247)).is_ok());
    assert_eq!(
        ImageRef::parse(&"a".repeat(248)),
        Err(ParseError::RepositoryTooLong)
    );
}

#[rstest]
#[case::empty("", ParseError::Empty)]
#[case::upper_case("Nginx", ParseError::Repository)]
#[case::upper_case_account("Acme/app", ParseError::AmbiguousHost)]
#[case::upper_case_path("ghcr.io/Acme/app", ParseError::Repository)]
#[case::empty_tag("nginx:", ParseError::Tag)]
#[case::two_tags("nginx:1:2", ParseError::Tag)]
#[case::tag_with_slash("ghcr.io/app:1/2", ParseError::Tag)]
#[case::leading_dot_in_tag("nginx:.1", ParseError::Tag)]
#[case::empty_digest("nginx@", ParseError::Digest)]
#[case::upper_case_digest(
    "nginx@sha256:4CB2B9019F1757BE8482419002CB7AFE028FDBA35D47958829E4CFEAF6246D80",
    ParseError::Digest
)]
#[case::two_digests("nginx@sha256:a@sha256:b", ParseError::Digest)]
#[case::leading_hyphen("-nginx", ParseError::Repository)]
#[case::trailing_hyphen("ghcr.io/nginx-", ParseError::Repository)]
#[case::two_dots("ghcr.io/a..b", ParseError::Repository)]
#[case::three_underscores("ghcr.io/a___b", ParseError::Repository)]
#[case::mixed_separators("ghcr.io/a-_b", ParseError::Repository)]
#[case::empty_component("ghcr.io/a//b", ParseError::Repository)]
#[case::no_path("ghcr.io/", ParseError::Repository)]
#[case::scheme("https://ghcr.io/app", ParseError::Host)]
#[case::empty_host("/app", ParseError::Repository)]
#[case::host_with_underscore("my_host.com/app", ParseError::Host)]
#[case::empty_port("ghcr.io:/app", ParseError::Host)]
#[case::port_not_a_number("ghcr.io:http/app", ParseError::Host)]
#[case::space("nginx 1", ParseError::Repository)]
#[case::not_ascii("ghcr.io/ä", ParseError::Repository)]
#[case::newline("nginx:1\n", ParseError::Tag)]
#[case::image_id(
    "4cb2b9019f1757be8482419002cb7afe028fdba35d47958829e4cfeaf6246d80",
    ParseError::ImageId
)]
fn is_refused(#[case] text: &str, #[case] error: ParseError) {
    assert_eq!(ImageRef::parse(text), Err(error));
}

proptest! {
    #[test]
    fn parse_and_print_are_inverse(text in crate::support::image()) {
        let image = ImageRef::parse(&text).unwrap();
        let printed = image.to_string();
        let again = ImageRef::parse(&printed).unwrap();
        prop_assert_eq!(&again, &image);
        prop_assert_eq!(again.to_string(), printed);
    }

    #[test]
    fn agrees_with_oci_spec(text in prop_oneof![crate::support::image(), crate::support::path(), crate::support::near_miss()]) {
        let (Ok(ours), Ok(theirs)) = (ImageRef::parse(&text), text.parse::<Reference>()) else {
            return Ok(());
        };
        prop_assert_eq!(ours.host(), theirs.registry().to_ascii_lowercase());
        prop_assert_eq!(ours.path(), theirs.repository());
        prop_assert_eq!(ours.tag(), theirs.tag());
        prop_assert_eq!(ours.digest().map(ToString::to_string), theirs.digest().map(ToOwned::to_owned));
    }

    #[test]
    fn accepts_what_oci_spec_accepts(text in crate::support::image()) {
        prop_assert!(text.parse::<Reference>().is_ok(), "the generator made something illegal");
        prop_assert!(ImageRef::parse(&text).is_ok());
    }

    #[test]
    fn no_text_panics(text in prop_oneof![crate::support::near_miss(), any::<String>()]) {
        if let Ok(image) = ImageRef::parse(&text) {
            let printed = image.to_string();
            prop_assert_eq!(ImageRef::parse(&printed).unwrap(), image);
        }
    }

    #[test]
    fn digests_survive_the_tag_form(text in crate::support::short_digest()) {
        let digest = Digest::parse(&text).unwrap();
        let tag = digest.to_tag_form();
        prop_assert_eq!(Digest::parse_tag_form(&tag), Some(digest));
    }
}
