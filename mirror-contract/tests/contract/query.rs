//! Queries: every one decodes back, and is itself a reference that the host can parse.

use mirror_contract::query::DecodeError;
use mirror_contract::{BackupName, Digest, ImageRef, Mode, Place, Query, Sidecar, Unsupported};
use oci_spec::distribution::Reference;
use proptest::prelude::*;
use rstest::rstest;

const SIDECAR: &str = "mirror-sidecar.kubewarden.svc:5000";
const HEX: &str = "4cb2b9019f1757be8482419002cb7afe028fdba35d47958829e4cfeaf6246d80";

fn encode(image: &str, mode: Mode) -> Result<String, Unsupported> {
    Query::image(ImageRef::parse(image).unwrap(), mode).encode(&Sidecar::parse(SIDECAR).unwrap())
}

#[rstest]
#[case::tag("nginx:1.27", "tag/docker.io/library/nginx:1.27")]
#[case::default_tag("nginx", "tag/docker.io/library/nginx:latest")]
#[case::port("localhost:5000/app:1", "tag/localhost_5000/app:1")]
#[case::digest(&format!("quay.io/app@sha256:{HEX}"), &format!("digest/quay.io/app:sha256-{HEX}"))]
#[case::tag_and_digest(&format!("quay.io/app:v1@sha256:{HEX}"), &format!("digest/quay.io/app:sha256-{HEX}"))]
fn is_written_as(#[case] image: &str, #[case] query: &str) {
    assert_eq!(
        encode(image, Mode::Ensure).unwrap(),
        format!("{SIDECAR}/{query}")
    );
    assert_eq!(
        encode(image, Mode::Peek).unwrap(),
        format!("{SIDECAR}/peek/{query}")
    );
}

#[rstest]
#[case::default_backup(Place::Backup(BackupName::DEFAULT), "")]
#[case::backup(Place::Backup(BackupName::parse("team-a").unwrap()), "backup/team-a/")]
#[case::backup_named_like_a_prefix(Place::Backup(BackupName::parse("tag").unwrap()), "backup/tag/")]
#[case::target(Place::Target, "target/")]
fn the_place_is_a_prefix(#[case] place: Place<'static>, #[case] prefix: &str) {
    for (mode, peek) in [(Mode::Ensure, ""), (Mode::Peek, "peek/")] {
        let query = Query::image_in(
            place.clone(),
            ImageRef::parse("quay.io/app:1").unwrap(),
            mode,
        );
        let text = query.encode(&Sidecar::parse(SIDECAR).unwrap()).unwrap();
        let repository = format!("{peek}{prefix}tag/quay.io/app");
        assert_eq!(text, format!("{SIDECAR}/{repository}:1"));
        assert_eq!(Query::decode(&repository, "1"), Ok(query));
    }
}

#[rstest]
#[case::default_backup(BackupName::DEFAULT, "original/")]
#[case::backup(BackupName::parse("team-a").unwrap(), "backup/team-a/original/")]
fn an_original_is_requested_by_digest(#[case] backup: BackupName<'static>, #[case] prefix: &str) {
    let hex = "a".repeat(64);
    let image = format!("quay.io/app:1@sha256:{hex}");
    let image = ImageRef::parse(&image).unwrap().into_owned();
    let query = Query::image_in(Place::Original(backup), image, Mode::Ensure);
    let text = query.encode(&Sidecar::parse(SIDECAR).unwrap()).unwrap();
    let (repository, tag) = (
        format!("{prefix}digest/quay.io/app"),
        format!("sha256-{hex}"),
    );
    assert_eq!(text, format!("{SIDECAR}/{repository}:{tag}"));
    assert_eq!(Query::decode(&repository, &tag), Ok(query));
}

#[test]
fn asks_for_a_pull_secret_by_namespace() {
    for (mode, repository) in [
        (Mode::Ensure, "pull-secret/team-a"),
        (Mode::Peek, "peek/pull-secret/team-a"),
    ] {
        let query = Query::pull_secret("team-a", mode).unwrap();
        let text = query.encode(&Sidecar::parse(SIDECAR).unwrap()).unwrap();
        assert_eq!(text, format!("{SIDECAR}/{repository}:latest"));
        assert_eq!(Query::decode(repository, "latest"), Ok(query));
    }
    assert_eq!(Query::pull_secret("Not_A_Namespace", Mode::Ensure), None);
}

#[rstest]
#[case::ipv6("[::1]:5000/app:1".to_owned(), Unsupported::Ipv6Host)]
#[case::long_digest(format!("ghcr.io/app@sha512:{}", "a".repeat(128)), Unsupported::LongDigest)]
#[case::too_long(format!("ghcr.io/{}:1", "a".repeat(250)), Unsupported::TooLong)]
fn cannot_be_asked(#[case] image: String, #[case] error: Unsupported) {
    assert_eq!(encode(&image, Mode::Ensure), Err(error));
}

#[rstest]
#[case::nothing("", "latest", DecodeError::UnknownKind)]
#[case::other("v2/library/nginx", "1", DecodeError::UnknownKind)]
#[case::no_path("tag/docker.io", "1", DecodeError::Image)]
#[case::not_normal("tag/docker.io/nginx", "1", DecodeError::Image)]
#[case::not_a_host("tag/nginx/app", "1", DecodeError::Image)]
#[case::two_ports("tag/host_1_2/app", "1", DecodeError::Host)]
#[case::named_port("tag/host_http/app", "1", DecodeError::Host)]
#[case::upper_case_host("tag/Ghcr.io/app", "1", DecodeError::Image)]
#[case::not_a_tag("tag/ghcr.io/app", "-", DecodeError::Image)]
#[case::digest_reference("tag/ghcr.io/app", "1@sha256:aa", DecodeError::Image)]
#[case::tag_as_digest("digest/ghcr.io/app", "v1", DecodeError::Image)]
#[case::not_a_namespace("pull-secret/a/b", "latest", DecodeError::Namespace)]
#[case::versioned_secret("pull-secret/a", "v1", DecodeError::Namespace)]
#[case::peeked_twice("peek/peek/pull-secret/a", "latest", DecodeError::UnknownKind)]
#[case::named_default("backup/default/tag/quay.io/app", "1", DecodeError::Backup)]
#[case::backup_without_name("backup//tag/quay.io/app", "1", DecodeError::Backup)]
#[case::backup_alone("backup/team-a", "1", DecodeError::Backup)]
#[case::backup_is_no_label("backup/team.a/tag/quay.io/app", "1", DecodeError::Backup)]
#[case::two_backups("backup/a/backup/b/tag/quay.io/app", "1", DecodeError::UnknownKind)]
#[case::backup_and_target("backup/a/target/tag/quay.io/app", "1", DecodeError::UnknownKind)]
#[case::secret_of_a_backup("backup/a/pull-secret/shop", "latest", DecodeError::UnknownKind)]
#[case::peeked_after_the_backup("backup/a/peek/tag/quay.io/app", "1", DecodeError::UnknownKind)]
#[case::original_by_tag("original/tag/quay.io/app", "1", DecodeError::UnknownKind)]
#[case::original_of_a_target("target/original/digest/quay.io/app", "1", DecodeError::UnknownKind)]
#[case::original_before_the_backup(
    "original/backup/a/digest/quay.io/app",
    "1",
    DecodeError::UnknownKind
)]
#[case::target_without_kind("target/quay.io/app", "1", DecodeError::UnknownKind)]
#[case::traversal("tag/ghcr.io/../../etc", "1", DecodeError::Image)]
fn is_no_query(#[case] repository: &str, #[case] tag: &str, #[case] error: DecodeError) {
    assert_eq!(Query::decode(repository, tag), Err(error));
}

#[rstest]
#[case("mirror-sidecar.kubewarden.svc:5000", true)]
#[case("localhost", true)]
#[case("127.0.0.1:5000", true)]
#[case("mirror-sidecar", false)]
#[case("Mirror.svc:5000", false)]
#[case("https://mirror.svc", false)]
#[case("mirror.svc:https", false)]
#[case("mirror.svc/path", false)]
#[case("mirror.svc:99999", false)]
#[case("[::1]:5000", false)]
#[case("", false)]
fn a_sidecar_is_host_and_port(#[case] text: &str, #[case] valid: bool) {
    assert_eq!(Sidecar::parse(text).is_some(), valid);
}

fn place() -> impl Strategy<Value = Place<'static>> {
    let name = |name: String| Place::Backup(BackupName::parse(&name).unwrap().into_owned());
    prop_oneof![
        Just(Place::Target),
        Just(Place::Backup(BackupName::DEFAULT)),
        "[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?".prop_map(name),
    ]
}

proptest! {
    #[test]
    fn different_queries_have_different_references(
        places in (place(), place()),
        images in (crate::support::image(), crate::support::image()),
        is_same_image in any::<bool>(),
    ) {
        let second = if is_same_image { &images.0 } else { &images.1 };
        let query = |place, image| Query::image_in(place, ImageRef::parse(image).unwrap(), Mode::Ensure);
        let (first, second) = (query(places.0, &images.0), query(places.1, second));
        let encode = |query: &Query<'_>| query.encode(&Sidecar::parse(SIDECAR).unwrap()).unwrap();
        prop_assert_eq!(encode(&first) == encode(&second), first == second);
    }

    #[test]
    fn every_query_decodes_back_and_is_a_legal_reference(
        text in crate::support::image(),
        peek in any::<bool>(),
        place in place(),
    ) {
        let mode = if peek { Mode::Peek } else { Mode::Ensure };
        let query = Query::image_in(place, ImageRef::parse(&text).unwrap(), mode);
        let encoded = query.encode(&Sidecar::parse(SIDECAR).unwrap()).unwrap();
        prop_assert!(encoded.len() <= SIDECAR.len() + "/:".len() + 255 + 128);

        let reference: Reference = encoded.parse().unwrap();
        prop_assert_eq!(reference.registry(), SIDECAR);
        prop_assert_eq!(reference.digest(), None);
        let decoded = Query::decode(reference.repository(), reference.tag().unwrap());
        prop_assert_eq!(decoded, Ok(query));
    }

    #[test]
    fn what_decodes_encodes_to_the_same_text(
        repository in "(peek/)?(backup/[a-z0-9-]{0,5}/|target/)?(original/)?(tag|digest|pull-secret)/[a-z0-9._/-]{0,30}",
        tag in prop_oneof![crate::support::tag(), Just("latest".to_owned()), Just(format!("sha256-{HEX}"))],
    ) {
        if let Ok(query) = Query::decode(&repository, &tag) {
            let encoded = query.encode(&Sidecar::parse(SIDECAR).unwrap()).unwrap();
            prop_assert_eq!(encoded, format!("{SIDECAR}/{repository}:{tag}"));
        }
    }

    #[test]
    fn no_request_panics(repository in any::<String>(), tag in any::<String>()) {
        let _ = Query::decode(&repository, &tag);
    }

    #[test]
    fn digests_in_queries_are_the_digest(text in crate::support::short_digest()) {
        let image = format!("ghcr.io/app@{text}");
        let encoded = encode(&image, Mode::Ensure).unwrap();
        let (_, tag) = encoded.rsplit_once(':').unwrap();
        prop_assert_eq!(Digest::parse_tag_form(tag).unwrap().to_string(), text);
    }
}
