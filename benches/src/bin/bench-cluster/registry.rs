//! Upstream and backup: every image is in both, with the same digest.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use axum::body::{Body, Bytes};
use axum::http::{Method, Response};
use testkit::scripted::{Fake, OCI_MANIFEST};
use testkit::{blocking, digest};

/// What was asked of both.
#[derive(Default)]
pub struct ScriptedRegistry {
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    backup: usize,
    upstream: usize,
    images: BTreeSet<String>,
}

/// How often was asked.
#[derive(Clone, Copy, Debug)]
pub struct Counts {
    /// The backup.
    pub backup: usize,
    /// The upstream registry.
    pub upstream: usize,
    /// For how many different images in the backup.
    pub images: usize,
}

impl ScriptedRegistry {
    pub fn counts(&self) -> Counts {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        Counts {
            backup: seen.backup,
            upstream: seen.upstream,
            images: seen.images.len(),
        }
    }

    fn see(&self, role: &str, image: &str) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if role == "backup" {
            seen.backup += 1;
            seen.images.insert(image.to_owned());
        } else {
            seen.upstream += 1;
        }
    }
}

/// Starts one of the two on a free port.
pub fn start(registry: &Arc<ScriptedRegistry>, role: &'static str) -> Fake {
    let fake = blocking::run(Fake::start());
    let registry = Arc::clone(registry);
    fake.set(|knobs| {
        knobs.other = Some(Arc::new(
            move |method: &Method, path: &str, _: &str, _: &Bytes| {
                respond(&registry, role, method, path)
            },
        ));
    });
    fake
}

/// The bytes of a manifest depend on the name of the image only, which ends the repository in both registries.
fn respond(registry: &ScriptedRegistry, role: &str, method: &Method, path: &str) -> Response<Body> {
    let Some((repository, _)) = path.split_once("/manifests/") else {
        let is_ping = path == "/v2/" || path == "/v2";
        let status = if is_ping { 200 } else { 404 };
        return Response::builder()
            .status(status)
            .body(Body::empty())
            .unwrap_or_default();
    };
    let image = repository.rsplit('-').next().unwrap_or_default();
    registry.see(role, image);
    let manifest = format!(
        r#"{{"schemaVersion":2,"mediaType":"{OCI_MANIFEST}","config":{{"mediaType":"application/vnd.oci.empty.v1+json","digest":"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a","size":2}},"layers":[],"annotations":{{"image":"{image}"}}}}"#
    );
    let response = Response::builder()
        .header("content-type", OCI_MANIFEST)
        .header("docker-content-digest", digest::of(manifest.as_bytes()))
        .header("content-length", manifest.len());
    let body = if *method == Method::HEAD {
        Body::empty()
    } else {
        Body::from(manifest)
    };
    response.body(body).unwrap_or_default()
}
