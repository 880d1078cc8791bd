//! Two servers for one image with one large layer, which no memory could hold: the source makes the bytes up as it sends
//! them, the sink verifies them and forgets them. By plain HTTP, without a login.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::Response;
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use reqwest::{Method, StatusCode};
use serde_json::json;

use crate::digest;
use crate::image::media_type::{OCI_CONFIG, OCI_LAYER, OCI_MANIFEST};
use crate::server::Server;

/// The layer is this many bytes again and again.
const BLOCK: usize = 1 << 20;
/// Manifests and configs are much smaller.
const SMALL: usize = 1 << 20;

/// An image with one layer that is not in memory.
pub struct Endless {
    block: Bytes,
    blocks: u64,
    layer: String,
    config: Bytes,
    manifest: Bytes,
}

/// What the sink remembers.
#[derive(Default)]
pub struct Sink {
    /// Size of every blob whose digest was right.
    blobs: Mutex<BTreeMap<String, u64>>,
    /// Manifests by tag or digest.
    manifests: Mutex<BTreeMap<String, Bytes>>,
}

impl Endless {
    /// An image with a layer of this many MiB. Takes the time of hashing them.
    #[must_use]
    pub fn new(mebibytes: u64) -> Self {
        let mut block = Vec::with_capacity(BLOCK);
        for number in 0_u64.. {
            let rest = BLOCK - block.len();
            if rest == 0 {
                break;
            }
            let text = digest::of(&number.to_le_bytes());
            block.extend(text.bytes().take(rest));
        }
        let mut hasher = digest::Hasher::default();
        for _ in 0..mebibytes {
            hasher.update(&block);
        }
        let size = hasher.length();
        let layer = hasher.finish();
        let config = json!({
            "architecture": "amd64",
            "os": "linux",
            "rootfs": {"type": "layers", "diff_ids": [layer]},
        })
        .to_string();
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": {"mediaType": OCI_CONFIG, "digest": digest::of(config.as_bytes()), "size": config.len()},
            "layers": [{"mediaType": OCI_LAYER, "digest": layer, "size": size}],
        });
        Self {
            block: block.into(),
            blocks: mebibytes,
            layer,
            config: config.into(),
            manifest: manifest.to_string().into(),
        }
    }

    /// The digest of the image.
    #[must_use]
    pub fn digest(&self) -> String {
        digest::of(&self.manifest)
    }

    /// Serves the image under every repository and tag, except digest tags of referrers, which it does not have.
    ///
    /// # Errors
    /// When no port can be bound.
    pub fn serve(self: &Arc<Self>) -> anyhow::Result<Server> {
        let app = Router::new().fallback(source).with_state(Arc::clone(self));
        let listener = TcpListener::bind("127.0.0.1:0")?;
        Server::start("endless source", listener, None, app)
    }

    fn layer(&self) -> Body {
        let block = self.block.clone();
        let blocks = (0..self.blocks).map(move |_| Ok::<_, std::io::Error>(block.clone()));
        Body::from_stream(stream::iter(blocks))
    }
}

impl Sink {
    /// Takes whatever is pushed.
    ///
    /// # Errors
    /// When no port can be bound.
    pub fn serve(self: &Arc<Self>) -> anyhow::Result<Server> {
        let app = Router::new().fallback(sink).with_state(Arc::clone(self));
        let listener = TcpListener::bind("127.0.0.1:0")?;
        Server::start("sink", listener, None, app)
    }

    /// Whether a manifest with this digest was stored under a tag, and every blob of the image before.
    #[must_use]
    pub fn has(&self, image: &Endless, tag: &str) -> bool {
        let blobs = lock(&self.blobs);
        let wanted = [image.layer.clone(), digest::of(&image.config)];
        wanted.iter().all(|digest| blobs.contains_key(digest))
            && lock(&self.manifests)
                .get(tag)
                .is_some_and(|bytes| *bytes == image.manifest)
    }
}

async fn source(State(image): State<Arc<Endless>>, request: Request) -> Response {
    let path = request.uri().path();
    let name = path.rsplit('/').next().unwrap_or_default();
    let is_head = request.method() == Method::HEAD;
    let is_of_referrer = name.starts_with("sha256-") && !name.ends_with(".mirror");
    let (media_type, size, body) = if path == "/v2/" {
        return answer(StatusCode::OK, &[]);
    } else if is_of_referrer {
        return answer(StatusCode::NOT_FOUND, &[]);
    } else if path.contains("/manifests/") && (!name.contains(':') || name == image.digest()) {
        (
            OCI_MANIFEST,
            image.manifest.len() as u64,
            Body::from(image.manifest.clone()),
        )
    } else if name == image.layer {
        let size = image.blocks * BLOCK as u64;
        (OCI_LAYER, size, image.layer())
    } else if name == digest::of(&image.config) {
        (
            OCI_CONFIG,
            image.config.len() as u64,
            Body::from(image.config.clone()),
        )
    } else {
        return answer(StatusCode::NOT_FOUND, &[]);
    };
    let digest = match media_type {
        OCI_MANIFEST => image.digest(),
        _ => name.to_owned(),
    };
    Response::builder()
        .header("Content-Type", media_type)
        .header("Content-Length", size)
        .header("Docker-Content-Digest", digest)
        .body(if is_head { Body::empty() } else { body })
        .unwrap_or_default()
}

async fn sink(State(sink): State<Arc<Sink>>, request: Request) -> Response {
    let path = request.uri().path().to_owned();
    let name = path.rsplit('/').next().unwrap_or_default();
    let method = request.method().clone();
    match method.as_str() {
        "GET" if path == "/v2/" => answer(StatusCode::OK, &[]),
        "POST" => answer(StatusCode::ACCEPTED, &[("Location", &format!("{path}1"))]),
        "PUT" if path.contains("/manifests/") => {
            let Ok(bytes) = axum::body::to_bytes(request.into_body(), SMALL).await else {
                return answer(StatusCode::BAD_REQUEST, &[]);
            };
            let digest = digest::of(&bytes);
            lock(&sink.manifests).insert(name.to_owned(), bytes);
            answer(
                StatusCode::CREATED,
                &[("Docker-Content-Digest", &digest), ("Location", &path)],
            )
        }
        "PUT" => store(&sink, request).await,
        "GET" if lock(&sink.manifests).contains_key(name) => {
            let bytes = lock(&sink.manifests).get(name).cloned();
            Response::builder()
                .header("Content-Type", OCI_MANIFEST)
                .body(Body::from(bytes.unwrap_or_default()))
                .unwrap_or_default()
        }
        "HEAD" | "GET" => {
            let blob = path
                .contains("/blobs/")
                .then(|| lock(&sink.blobs).get(name).copied());
            match blob.flatten() {
                Some(size) => answer(StatusCode::OK, &[("Content-Length", &size.to_string())]),
                None => answer(StatusCode::NOT_FOUND, &[]),
            }
        }
        _ => answer(StatusCode::METHOD_NOT_ALLOWED, &[]),
    }
}

/// The end of an upload: the whole blob is in this request.
async fn store(sink: &Sink, request: Request) -> Response {
    let query = request.uri().query().unwrap_or_default();
    let wanted = url::form_urlencoded::parse(query.as_bytes())
        .find(|(key, _)| key == "digest")
        .map(|(_, value)| value.into_owned());
    let mut hasher = digest::Hasher::default();
    let mut body = request.into_body().into_data_stream();
    while let Some(chunk) = body.next().await {
        match chunk {
            Ok(chunk) => hasher.update(&chunk),
            Err(_) => return answer(StatusCode::BAD_REQUEST, &[]),
        }
    }
    let size = hasher.length();
    let found = hasher.finish();
    if wanted.as_deref() != Some(found.as_str()) {
        return answer(StatusCode::BAD_REQUEST, &[]);
    }
    lock(&sink.blobs).insert(found.clone(), size);
    answer(StatusCode::CREATED, &[("Docker-Content-Digest", &found)])
}

fn answer(status: StatusCode, headers: &[(&str, &str)]) -> Response {
    let mut builder = Response::builder().status(status);
    for (name, value) in headers {
        builder = builder.header(*name, *value);
    }
    builder.body(Body::empty()).unwrap_or_default()
}

/// A handler that panicked leaves maps that are still good.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
