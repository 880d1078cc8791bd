//! Documents that cost their readers many times their size, and the registry that serves them.

use std::sync::Arc;

use axum::body::Body;
use axum::http::{Method, Response, header};
use bytes::Bytes;
use e2e_tests::attack::documents::{MANIFEST, PAGE, filled};
use testkit::scripted::{Action, Fake, OCI_INDEX, OCI_MANIFEST};
use testkit::{blocking, digest};

const SUM: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

/// The repository whose manifest, `v1`, is an image as large as can be copied. Its blobs never come.
pub const LARGE: &str = "large";

/// Repositories whose manifest, `v1`, cannot be used.
pub const UNUSABLE: [&str; 8] = [
    "schema-version",
    "config-urls",
    "brackets",
    "escapes",
    "long-name",
    "many-layers",
    "odd-layers",
    "odd-fields",
];

/// Repositories whose manifest, `v1`, is an image whose referrers cost much.
pub const REFERRERS: [&str; 3] = ["list-annotations", "entry-annotations", "odd-entries"];

/// Starts a registry with all of them.
pub fn registry() -> Fake {
    let registry = blocking::run(Fake::start());
    registry.fault(Method::GET, "/v2/large/blobs/", usize::MAX, Action::Hang);
    registry.set(|knobs| {
        knobs.other = Some(Arc::new(
            |method: &Method, path: &str, _: &str, _: &Bytes| answer(method, path),
        ));
    });
    registry
}

fn answer(method: &Method, path: &str) -> Response<Body> {
    let mut parts = path.trim_start_matches("/v2/").splitn(3, '/');
    let [repository, kind, name] = [(); 3].map(|()| parts.next().unwrap_or_default());
    let found = match kind {
        "manifests" => manifest(repository)
            .filter(|bytes| name == "v1" || name == digest::of(bytes))
            .map(|bytes| (OCI_MANIFEST, bytes)),
        "referrers" => referrers(repository).map(|bytes| (OCI_INDEX, bytes)),
        "blobs" if name == SUM => Some(("application/octet-stream", Bytes::new())),
        "" => Some(("application/json", Bytes::from_static(b"{}"))),
        _ => None,
    };
    let Some((media_type, body)) = found else {
        let answer = Response::builder().status(404);
        return answer.body(Body::empty()).unwrap_or_default();
    };
    let answer = Response::builder()
        .header(header::CONTENT_TYPE, media_type)
        .header(header::CONTENT_LENGTH, body.len());
    let answer = if kind == "manifests" {
        answer.header("Docker-Content-Digest", digest::of(&body))
    } else {
        answer
    };
    let body = if *method == Method::HEAD {
        Body::empty()
    } else {
        body.into()
    };
    answer.body(body).unwrap_or_default()
}

fn manifest(repository: &str) -> Option<Bytes> {
    let layer = format!(r#"{{"digest":"{SUM}","size":0}}"#);
    let body = match repository {
        "schema-version" => filled(r#"{"schemaVersion":["#, r#"{"":0}"#, "]}", MANIFEST),
        "config-urls" => filled(
            r#"{"schemaVersion":2,"config":{"urls":["#,
            r#"{"":0}"#,
            r#"],"size":"0"},"layers":[]}"#,
            MANIFEST,
        ),
        "brackets" => "[".repeat(MANIFEST).into(),
        "escapes" => format!(
            r#"{{"schemaVersion":2,"mediaType":"\n{}","layers":[]}}"#,
            r"\u00e9".repeat(MANIFEST / 6 - 20)
        )
        .into(),
        "long-name" => format!(r#"{{"\n{}":2}}"#, "x".repeat(MANIFEST - 20)).into(),
        "many-layers" => filled(r#"{"schemaVersion":2,"layers":["#, &layer, "]}", MANIFEST),
        "odd-layers" => filled(
            r#"{"schemaVersion":2,"layers":["#,
            r#"{"":0}"#,
            "]}",
            MANIFEST,
        ),
        "odd-fields" => filled(
            r#"{"schemaVersion":2,"layers":[{"annotations":["#,
            r#"{"":[{}]}"#,
            r#"],"mediaType":[]}]}"#,
            MANIFEST,
        ),
        LARGE => large().into(),
        name if REFERRERS.contains(&name) => {
            format!(r#"{{"schemaVersion":2,"layers":[],"annotations":{{"":"{name}"}}}}"#).into()
        }
        _ => return None,
    };
    Some(body)
}

/// 8,000 layers, each with addresses that nobody needs.
fn large() -> String {
    let media_type = "application/vnd.oci.image.layer.nondistributable.v1.tar";
    let url = format!(r#""https://layers.example/{}""#, "x".repeat(550));
    let layer = |number: usize| {
        format!(
            r#"{{"mediaType":"{media_type}","digest":"sha256:{number:064x}","size":9,"urls":[{url}]}}"#
        )
    };
    let plain = |number: usize| format!(r#"{{"digest":"sha256:{number:064x}","size":900000}}"#);
    let layers = (0..7000).map(layer).chain((7000..8000).map(plain));
    let layers = layers.collect::<Vec<_>>().join(",");
    format!(r#"{{"schemaVersion":2,"layers":[{layers}]}}"#)
}

fn referrers(repository: &str) -> Option<Bytes> {
    let empty = r#"{"":0}"#;
    let body = match repository {
        "list-annotations" => filled(
            r#"{"schemaVersion":2,"manifests":[],"annotations":["#,
            empty,
            "]}",
            PAGE,
        ),
        "entry-annotations" => filled(
            &format!(
                r#"{{"schemaVersion":2,"manifests":[{{"digest":"{SUM}","size":1,"annotations":["#
            ),
            empty,
            "]}]}",
            PAGE,
        ),
        "odd-entries" => filled(
            r#"{"schemaVersion":2,"manifests":["#,
            r#"{"digest":"sha256:\nERROR forged","size":1}"#,
            "]}",
            PAGE,
        ),
        _ => return None,
    };
    Some(body)
}
