//! Both registries, with the same demands.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use reqwest::header::{CONTENT_RANGE, CONTENT_TYPE, LOCATION, RANGE};
use reqwest::{Method, StatusCode};
use rstest::rstest;

use super::*;
use crate::image::{Image, media_type, pull_all};
use crate::tls::Tls;
use crate::{blocking, digest};

/// Every implementation that this machine has, each asking for the credential if there is one.
fn registries(credential: Option<&Credential>) -> Vec<Box<dyn Registry>> {
    let mut registries: Vec<Box<dyn Registry>> = vec![Box::new(
        EmbeddedRegistry::start(EmbeddedOptions {
            credential: credential.cloned(),
            tls: None,
        })
        .unwrap(),
    )];
    if DebianRegistry::is_installed() {
        let debian = DebianRegistry::start(credential.cloned()).unwrap();
        registries.push(Box::new(debian));
    }
    registries
}

/// Status, one header and body of a request.
fn send(
    client: &RegistryClient,
    method: Method,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> (StatusCode, reqwest::header::HeaderMap, Vec<u8>) {
    blocking::run(async {
        let mut request = client.request(method, path).body(body.to_vec());
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = request.send().await.unwrap();
        let (status, headers) = (response.status(), response.headers().clone());
        (status, headers, response.bytes().await.unwrap().to_vec())
    })
}

#[rstest]
#[case::index(Image::index(1))]
#[case::single(Image::single(2))]
#[case::docker(Image::docker(3))]
#[case::docker_list(Image::docker_list(4))]
#[case::attestations(Image::with_attestations(5))]
#[case::big(Image::with_big_layer(6, 8))]
fn an_image_comes_back_byte_for_byte(#[case] image: Image) {
    for registry in registries(None) {
        let client = registry.client();
        let digest = image.push(&client, "team/app", "1.0").unwrap();
        assert_eq!(digest, image.digest());
        for reference in ["1.0", &digest] {
            let pulled = pull_all(&client, "team/app", reference).unwrap();
            assert_eq!(pulled, image.expected(), "{}", registry.name());
        }
        assert_eq!(client.tags("team/app").unwrap(), ["1.0"]);
    }
}

#[test]
fn what_an_image_is_made_of() {
    let image = Image::index(1);
    assert_eq!(image.manifests().len(), 4, "three platforms and the index");
    assert_eq!(
        image.blobs().count(),
        7,
        "a shared base, and three configs and layers"
    );
    assert_eq!(Image::with_attestations(1).manifests().len(), 7);
    assert_eq!(
        image.digest(),
        Image::index(1).digest(),
        "the same seed gives the same image"
    );
    assert_ne!(image.digest(), Image::index(2).digest());
    let big = Image::with_big_layer(1, 3);
    let largest = big.blobs().map(|(_, size)| size).max().unwrap();
    assert!((3 << 20..4 << 20).contains(&largest), "{largest}");
}

#[test]
fn a_stopped_registry_refuses_and_a_restarted_one_remembers() {
    for mut registry in registries(None) {
        let image = Image::single(1);
        image.push(&registry.client(), "a", "1").unwrap();
        let mut open = TcpStream::connect(registry.address()).unwrap();
        open.write_all(b"GET /v2/ HTTP/1.1\r\nHost: x\r\n\r\n")
            .unwrap();
        assert_ne!(
            open.read(&mut [0; 64]).unwrap(),
            0,
            "the connection is in use"
        );

        registry.stop();
        let name = registry.name();
        assert!(TcpStream::connect(registry.address()).is_err(), "{name}");
        let mut rest = Vec::new();
        // Either an end or a reset: what counts is that it does not hang.
        let _ = open.read_to_end(&mut rest);
        assert!(registry.client().manifest("a", "1").is_err(), "{name}");

        registry.restart().unwrap();
        let pulled = pull_all(&registry.client(), "a", "1").unwrap();
        assert_eq!(pulled, image.expected(), "{name}");
    }
}

#[test]
fn other_users_come_and_go_while_it_runs() {
    let main = Credential::new("pusher", "p4ss word");
    let [old, new] = ["old", "new"].map(|password| Credential::new("puller", password));
    for registry in registries(Some(&main)) {
        let enters = |credential: &Credential| {
            let client = RegistryClient::new(&registry.address(), Some(credential.clone()), None);
            send(&client, Method::GET, "/v2/", &[], b"").0 == StatusCode::OK
        };
        assert!(!enters(&old), "{}", registry.name());
        registry
            .set_other_users(std::slice::from_ref(&old))
            .unwrap();
        assert!(enters(&old) && enters(&main), "{}", registry.name());
        registry
            .set_other_users(std::slice::from_ref(&new))
            .unwrap();
        assert!(enters(&new) && enters(&main), "{}", registry.name());
        assert!(!enters(&old), "{}", registry.name());
    }
    for registry in registries(None) {
        registry
            .set_other_users(std::slice::from_ref(&old))
            .unwrap_err();
    }
}

#[test]
fn a_credential_is_asked_for() {
    let right = Credential::new("robot", "p:a ss");
    for registry in registries(Some(&right)) {
        let image = Image::single(1);
        image.push(&registry.client(), "a", "1").unwrap();
        let address = registry.address();
        let wrong = Credential::new("robot", "other");
        for credential in [None, Some(wrong)] {
            let client = RegistryClient::new(&address, credential, None);
            let (status, headers, _) = send(&client, Method::GET, "/v2/", &[], b"");
            assert_eq!(status, StatusCode::UNAUTHORIZED, "{}", registry.name());
            let challenge = headers["www-authenticate"].to_str().unwrap();
            assert!(challenge.starts_with("Basic realm="), "{challenge}");
            assert!(client.manifest("a", "1").is_err());
        }
    }
}

#[test]
fn a_secret_is_not_shown() {
    let text = format!("{:?}", Credential::new("robot", "hidden"));
    assert!(!text.contains("hidden"), "{text}");
}

#[test]
fn a_blob_with_another_digest_is_refused() {
    for registry in registries(None) {
        let client = registry.client();
        let wrong = digest::of(b"other");
        let result = blocking::run(client.put_blob("a", &wrong, 4, "data".into()));
        let error = result.unwrap_err().to_string();
        assert!(
            error.contains("DIGEST_INVALID"),
            "{}: {error}",
            registry.name()
        );
        assert!(!client.has_blob("a", &wrong).unwrap());
    }
}

#[rstest]
#[case::image(Image::single(1))]
#[case::index(Image::index(1))]
fn a_manifest_whose_parts_are_missing_is_refused(#[case] image: Image) {
    for registry in registries(None) {
        let error = registry
            .client()
            .push_manifest("a", "1", image.root())
            .unwrap_err()
            .to_string();
        assert!(error.contains("400"), "{}: {error}", registry.name());
        assert!(
            error.contains("BLOB_UNKNOWN"),
            "{}: {error}",
            registry.name()
        );
    }
}

#[test]
fn a_manifest_under_another_digest_is_refused() {
    for registry in registries(None) {
        let client = registry.client();
        let image = Image::single(1);
        image.push(&client, "a", "1").unwrap();
        let wrong = digest::of(b"other");
        assert!(client.push_manifest("a", &wrong, image.root()).is_err());
    }
}

#[test]
fn a_blob_can_be_mounted_from_where_it_is() {
    for registry in registries(None) {
        let client = registry.client();
        let image = Image::single(1);
        image.push(&client, "from", "1").unwrap();
        let (digest, _) = image.blobs().next().unwrap();
        let mount = |from: &str| {
            let path = format!("/v2/to/blobs/uploads/?mount={digest}&from={from}");
            send(&client, Method::POST, &path, &[], b"").0
        };
        assert_eq!(
            mount("nowhere"),
            StatusCode::ACCEPTED,
            "{}",
            registry.name()
        );
        assert!(!client.has_blob("to", digest).unwrap());
        assert_eq!(mount("from"), StatusCode::CREATED, "{}", registry.name());
        assert!(client.has_blob("to", digest).unwrap());
    }
}

#[test]
fn a_range_of_a_blob_can_be_read() {
    for registry in registries(None) {
        let client = registry.client();
        let blob = b"0123456789";
        let digest = digest::of(blob);
        blocking::run(client.put_blob("a", &digest, 10, blob.to_vec().into())).unwrap();
        let path = format!("/v2/a/blobs/{digest}");
        let range = [(RANGE.as_str(), "bytes=4-")];
        let (status, headers, body) = send(&client, Method::GET, &path, &range, b"");
        assert_eq!(status, StatusCode::PARTIAL_CONTENT, "{}", registry.name());
        assert_eq!(headers[CONTENT_RANGE], "bytes 4-9/10");
        assert_eq!(body, b"456789");
    }
}

#[test]
fn a_head_has_all_headers_and_no_body() {
    for registry in registries(None) {
        let client = registry.client();
        let image = Image::index(1);
        image.push(&client, "a", "1").unwrap();
        let accept = [("accept", media_type::OCI_INDEX)];
        let path = "/v2/a/manifests/1";
        let (status, headers, body) = send(&client, Method::HEAD, path, &accept, b"");
        assert_eq!(status, StatusCode::OK);
        assert_eq!(headers["docker-content-digest"], *image.digest());
        assert_eq!(headers[CONTENT_TYPE], media_type::OCI_INDEX);
        assert_eq!(
            headers["content-length"],
            *image.root().bytes.len().to_string()
        );
        assert!(body.is_empty());
    }
}

#[test]
fn an_upload_can_come_in_chunks() {
    for registry in registries(None) {
        let client = registry.client();
        let path_of = |headers: &reqwest::header::HeaderMap| {
            let location = headers[LOCATION].to_str().unwrap().to_owned();
            let base = format!("http://{}", registry.address());
            location.trim_start_matches(&base).to_owned()
        };
        let (_, headers, _) = send(&client, Method::POST, "/v2/a/blobs/uploads/", &[], b"");
        let chunk = [
            (CONTENT_TYPE.as_str(), "application/octet-stream"),
            (CONTENT_RANGE.as_str(), "0-4"),
        ];
        let (status, headers, _) =
            send(&client, Method::PATCH, &path_of(&headers), &chunk, b"01234");
        assert_eq!(status, StatusCode::ACCEPTED, "{}", registry.name());
        assert_eq!(headers[RANGE], "0-4");
        let path = path_of(&headers);
        let digest = digest::of(b"0123456789");
        let separator = if path.contains('?') { '&' } else { '?' };
        let path = format!("{path}{separator}digest={digest}");
        let (status, ..) = send(&client, Method::PUT, &path, &[], b"56789");
        assert_eq!(status, StatusCode::CREATED, "{}", registry.name());
        assert!(client.has_blob("a", &digest).unwrap());
    }
}

/// The reference implementation takes such a chunk as if it were the next one; the specification says 416.
#[test]
fn the_embedded_registry_refuses_a_chunk_out_of_order() {
    let registry = EmbeddedRegistry::start(EmbeddedOptions::default()).unwrap();
    let client = registry.client();
    let (_, headers, _) = send(&client, Method::POST, "/v2/a/blobs/uploads/", &[], b"");
    let path = headers[LOCATION].to_str().unwrap();
    let range = [(CONTENT_RANGE.as_str(), "7-9")];
    let (status, ..) = send(&client, Method::PATCH, path, &range, b"789");
    assert_eq!(status, StatusCode::RANGE_NOT_SATISFIABLE);
}

#[test]
fn a_manifest_can_be_deleted() {
    for registry in registries(None) {
        let client = registry.client();
        let image = Image::single(1);
        let digest = image.push(&client, "a", "1").unwrap();
        client.delete_manifest("a", &digest).unwrap();
        assert_eq!(
            client.manifest("a", "1").unwrap(),
            None,
            "{}",
            registry.name()
        );
        assert_eq!(client.manifest("a", &digest).unwrap(), None);
    }
}

#[test]
fn all_tags_are_listed() {
    for registry in registries(None) {
        let client = registry.client();
        let image = Image::single(1);
        for tag in ["c", "a", "b"] {
            image.push(&client, "x/y", tag).unwrap();
        }
        assert_eq!(client.tags("x/y").unwrap(), ["a", "b", "c"]);
        assert!(client.tags("unknown").unwrap().is_empty());
    }
}

#[test]
fn the_embedded_registry_links_tag_pages() {
    let registry = EmbeddedRegistry::start(EmbeddedOptions::default()).unwrap();
    let client = registry.client();
    for tag in ["c", "a", "b"] {
        Image::single(1).push(&client, "x", tag).unwrap();
    }
    let (_, headers, body) = send(&client, Method::GET, "/v2/x/tags/list?n=2", &[], b"");
    assert_eq!(
        headers["link"],
        "</v2/x/tags/list?n=2&last=b>; rel=\"next\""
    );
    assert!(body.ends_with(br#""tags":["a","b"]}"#));
    let (_, headers, body) = send(&client, Method::GET, "/v2/x/tags/list?n=2&last=b", &[], b"");
    assert!(!headers.contains_key("link"));
    assert!(body.ends_with(br#""tags":["c"]}"#));
}

#[test]
fn requests_are_recorded() {
    for registry in registries(None) {
        let client = registry.client();
        assert_eq!(client.manifest("a/b", "gone").unwrap(), None);
        let expected = Request {
            method: "GET".to_owned(),
            path: "/v2/a/b/manifests/gone".to_owned(),
            status: 404,
        };
        assert!(
            registry.requests().contains(&expected),
            "{}",
            registry.name()
        );
    }
}

#[test]
fn the_embedded_registry_knows_referrers() {
    let registry = EmbeddedRegistry::start(EmbeddedOptions::default()).unwrap();
    let client = registry.client();
    let image = Image::single(1);
    let digest = image.push(&client, "a", "1").unwrap();
    let signature = Image::referrer(image.root(), "application/x.signature", b"signed");
    signature.push(&client, "a", "signature").unwrap();
    let path = format!("/v2/a/referrers/{digest}");
    let (status, _, body) = send(&client, Method::GET, &path, &[], b"");
    assert_eq!(status, StatusCode::OK);
    let index: serde_json::Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(index["manifests"][0]["digest"], signature.digest());
    assert_eq!(
        index["manifests"][0]["artifactType"],
        "application/x.signature"
    );
}

#[test]
fn the_embedded_registry_speaks_tls() {
    let registry = EmbeddedRegistry::start(EmbeddedOptions {
        credential: Some(Credential::new("u", "p")),
        tls: Some(Tls::generate().unwrap()),
    })
    .unwrap();
    let image = Image::index(1);
    image.push(&registry.client(), "a", "1").unwrap();
    let by_name = RegistryClient::new(
        &registry.localhost(),
        registry.credential().cloned(),
        registry.ca_pem(),
    );
    assert_eq!(pull_all(&by_name, "a", "1").unwrap(), image.expected());
    let other = Tls::generate().unwrap();
    let distrusting = RegistryClient::new(&registry.address(), None, Some(other.ca_pem()));
    assert!(distrusting.manifest("a", "1").is_err());
}

#[test]
fn the_certificate_can_be_renewed() {
    let tls = Tls::generate().unwrap();
    let before = std::fs::read(tls.cert_path()).unwrap();
    tls.renew().unwrap();
    assert_ne!(before, std::fs::read(tls.cert_path()).unwrap());
    tls.server_config().unwrap();
}
