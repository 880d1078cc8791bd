//! Upstream and backup: every image is in both, with the same digest.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::extract::State;
use axum::http::{Method, StatusCode, Uri, header};
use axum::response::{IntoResponse as _, Response};
use tokio::runtime::Runtime;

use super::listen::listen;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

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

/// Serves one of the two on a free port.
pub fn serve(
    runtime: &Runtime,
    registry: Arc<ScriptedRegistry>,
    role: &'static str,
) -> anyhow::Result<SocketAddr> {
    listen(
        runtime,
        Router::new().fallback(answer).with_state((registry, role)),
    )
}

/// The bytes of a manifest depend on the name of the image only, which ends the repository in both registries.
async fn answer(
    State((registry, role)): State<(Arc<ScriptedRegistry>, &'static str)>,
    method: Method,
    uri: Uri,
) -> Response {
    let path = uri.path();
    let Some((repository, _)) = path.split_once("/manifests/") else {
        let is_ping = path == "/v2/" || path == "/v2";
        return if is_ping {
            StatusCode::OK
        } else {
            StatusCode::NOT_FOUND
        }
        .into_response();
    };
    let image = repository.rsplit('-').next().unwrap_or_default();
    registry.see(role, image);
    let manifest = format!(
        r#"{{"schemaVersion":2,"mediaType":"{MANIFEST}","config":{{"mediaType":"application/vnd.oci.empty.v1+json","digest":"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a","size":2}},"layers":[],"annotations":{{"image":"{image}"}}}}"#
    );
    let headers = [
        (header::CONTENT_TYPE.as_str(), MANIFEST.to_owned()),
        (
            "docker-content-digest",
            testkit::digest::of(manifest.as_bytes()),
        ),
        (header::CONTENT_LENGTH.as_str(), manifest.len().to_string()),
    ];
    let body = if method == Method::HEAD {
        String::new()
    } else {
        manifest
    };
    (headers, body).into_response()
}
