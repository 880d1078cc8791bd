use super::descriptor::EMPTY_JSON;
use super::media_type::OCI_ARTIFACT;
use super::*;
use bytes::Bytes;
use proptest::prelude::*;

const D: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

fn descriptor(media_type: &str) -> String {
    format!(r#"{{"mediaType":"{media_type}","digest":"{D}","size":7}}"#)
}

fn descriptor_of(json: &str) -> Descriptor {
    Descriptor::read(serde_json::from_str(json).unwrap()).unwrap()
}

fn foreign(media_type: &str, url: &str) -> String {
    format!(r#"{{"mediaType":"{media_type}","digest":"{D}","size":7,"urls":["{url}"]}}"#)
}

#[test]
fn an_image_names_its_config_and_layers() {
    let body = format!(
        r#"{{"schemaVersion":2,"config":{0},"layers":[{0},{1}]}}"#,
        descriptor("a"),
        foreign(
            "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
            "https://a.example/"
        ),
    );
    let contents = read(body.as_bytes(), OCI_MANIFEST).unwrap();
    assert_eq!(contents.blobs.len(), 3);
    assert!(contents.children.is_empty());
    assert_eq!(contents.blobs.iter().filter(|b| b.is_foreign()).count(), 1);
    assert_eq!(contents.media_type, OCI_MANIFEST);
}

#[test]
fn a_generic_content_type_is_inferred_from_the_body() {
    let index = format!(r#"{{"manifests":[{}]}}"#, descriptor(OCI_MANIFEST));
    let contents = read(index.as_bytes(), "text/plain").unwrap();
    assert_eq!(contents.media_type, OCI_INDEX);
    let said = format!(r#"{{"mediaType":"{DOCKER_LIST}","manifests":[]}}"#);
    assert_eq!(
        read(said.as_bytes(), "application/json")
            .unwrap()
            .media_type,
        DOCKER_LIST
    );
}

#[rstest::rstest]
#[case::header_against_body(format!(r#"{{"mediaType":"{OCI_INDEX}","manifests":[]}}"#), OCI_MANIFEST)]
#[case::both(r#"{"manifests":[],"layers":[]}"#.to_owned(), OCI_INDEX)]
#[case::image_called_index(r#"{"layers":[]}"#.to_owned(), OCI_INDEX)]
#[case::index_called_image(r#"{"manifests":[]}"#.to_owned(), DOCKER_MANIFEST)]
#[case::artifact_called_index(r#"{"blobs":[]}"#.to_owned(), OCI_INDEX)]
#[case::nothing_said("{}".to_owned(), "application/json")]
fn ambiguous_manifests_are_refused(#[case] body: String, #[case] content_type: &str) {
    let error = read(body.as_bytes(), content_type).unwrap_err();
    assert!(matches!(error, ManifestError::Ambiguous(_)), "{error}");
}

#[test]
fn a_repeated_field_is_refused() {
    let error = read(br#"{"layers":[],"layers":[]}"#, OCI_MANIFEST).unwrap_err();
    assert!(matches!(error, ManifestError::Malformed { .. }));
}

#[rstest::rstest]
#[case(r#"{"schemaVersion":1,"fsLayers":[]}"#, "application/json")]
#[case("{}", "application/vnd.docker.distribution.manifest.v1+prettyjws")]
fn schema_1_is_refused_with_its_reason(#[case] body: &str, #[case] content_type: &str) {
    let error = read(body.as_bytes(), content_type).unwrap_err();
    assert!(error.to_string().contains("schema 1"), "{error}");
}

#[test]
fn an_unknown_type_is_taken_if_it_is_a_manifest() {
    let bare = read(br#"{"schemaVersion":2}"#, "application/vnd.example").unwrap();
    assert!(bare.blobs.is_empty() && bare.children.is_empty());
    let body = format!(r#"{{"blobs":[{}]}}"#, descriptor("x"));
    let named = read(body.as_bytes(), "application/vnd.example").unwrap();
    assert_eq!(named.blobs.len(), 1);
}

/// A registry that responds 200 with another document, such as the login page of a proxy.
#[rstest::rstest]
#[case("<html>log in</html>", "text/html")]
#[case("not json", "application/vnd.example")]
#[case(r#"{"status":503,"title":"down"}"#, "application/problem+json")]
#[case("{}", "application/vnd.oci.image.manifest.v1+json")]
#[case("[2,null,null,[]]", "application/vnd.oci.image.manifest.v1+json")]
fn what_is_no_manifest_is_refused(#[case] body: &str, #[case] content_type: &str) {
    assert!(read(body.as_bytes(), content_type).is_err());
}

#[test]
fn the_number_of_descriptors_is_bounded() {
    let many = vec![descriptor("x"); MAX_DESCRIPTORS + 1].join(",");
    let error = read(format!(r#"{{"layers":[{many}]}}"#).as_bytes(), OCI_MANIFEST).unwrap_err();
    assert!(matches!(error, ManifestError::TooManyDescriptors));
}

/// Otherwise it would be sent as the well-known content, and be stored under an unusable descriptor.
#[test]
fn known_content_of_another_size_is_asked_for() {
    let config = |size: u8| -> Descriptor {
        let text = format!(r#"{{"digest":"{EMPTY_JSON}","size":{size}}}"#);
        descriptor_of(&text)
    };
    assert_eq!(config(2).inline(), Some(Bytes::from_static(b"{}")));
    assert_eq!(config(5).inline(), None);
}

/// Entries beyond the limit are not parsed as descriptors.
#[rstest::rstest]
#[case("layers", OCI_MANIFEST)]
#[case("blobs", OCI_ARTIFACT)]
#[case("manifests", OCI_INDEX)]
fn the_rest_of_a_list_beyond_the_limit_is_skipped(#[case] list: &str, #[case] media_type: &str) {
    let many = vec![descriptor("x"); MAX_DESCRIPTORS].join(",");
    let body = |rest: &str| format!(r#"{{"{list}":[{many}{rest}]}}"#);
    assert!(read(body("").as_bytes(), media_type).is_ok());
    let error = read(body(r#",{"no":"descriptor"}"#).as_bytes(), media_type).unwrap_err();
    assert!(matches!(error, ManifestError::TooManyDescriptors));
}

#[rstest::rstest]
#[case::layer("layers", OCI_MANIFEST)]
#[case::blob("blobs", OCI_ARTIFACT)]
#[case::child("manifests", OCI_INDEX)]
fn what_could_not_be_verified_is_refused(#[case] list: &str, #[case] media_type: &str) {
    let with = |digest: &str| {
        let body = format!(r#"{{"{list}":[{{"digest":"{digest}","size":7}}]}}"#);
        read(body.as_bytes(), media_type)
    };
    assert!(with(D).is_ok());
    assert!(with(&format!("sha512:{}", "0".repeat(128))).is_ok());
    let error = with("1.27:alpine").unwrap_err();
    assert!(matches!(error, ManifestError::UnknownAlgorithm(_)));
    assert!(error.to_string().contains("1.27:alpine"), "{error}");
    for bad in [
        "sha256:abcd",
        "sha512:",
        "sha384:zz",
        &D.to_uppercase(),
        &format!("{D}0"),
    ] {
        let error = with(bad).unwrap_err();
        assert!(matches!(error, ManifestError::Field { .. }), "{bad}");
    }
}

#[rstest::rstest]
#[case(D, true)]
#[case("1.27:alpine", false)]
fn a_subject_that_no_manifest_can_be_is_none(#[case] digest: &str, #[case] kept: bool) {
    let body = format!(r#"{{"layers":[],"subject":{{"digest":"{digest}","size":7}}}}"#);
    let contents = read(body.as_bytes(), OCI_MANIFEST).unwrap();
    assert_eq!(contents.subject.is_some(), kept);
}

#[rstest::rstest]
#[case("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", true)]
#[case("application/vnd.oci.image.layer.nondistributable.v1.tar", true)]
#[case("application/vnd.oci.image.layer.nondistributable.v1.tar+zstd", true)]
#[case("application/vnd.oci.image.layer.nondistributable.v1.tar+evil", false)]
#[case("application/vnd.example.foreign.layer", false)]
#[case("application/vnd.oci.image.layer.v1.tar+gzip", false)]
fn foreign_layers(#[case] media_type: &str, #[case] expected: bool) {
    let with_url = descriptor_of(&foreign(media_type, "https://a.example/"));
    assert_eq!(with_url.is_foreign(), expected);
    assert!(
        !descriptor_of(&descriptor(media_type)).is_foreign(),
        "nowhere to get it from"
    );
}

proptest! {
    #[test]
    fn no_bytes_make_the_reader_panic(bytes in any::<Vec<u8>>(), content_type in ".{0,40}") {
        let _ = read(&bytes, &bare_type(&content_type));
    }
}
