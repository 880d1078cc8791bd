//! The registries of the soak: small images, made from their numbers; of the backup only the tags and digests are kept.

use std::collections::{HashMap, HashSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::Router;
use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{Request, State};
use axum::http::{Method, Response};
use testkit::digest;
use testkit::scripted::{Image, image, noise};
use tokio::runtime::Runtime;

/// Bytes of a layer. The load is requests, not bytes.
const LAYER: usize = 2000;
/// The largest body that is pushed here.
const BODY: usize = 1 << 20;

pub struct Registries {
    upstream: String,
    backup: String,
    shared: Arc<Shared>,
}

struct Shared {
    faults_per_mille: u64,
    requests: AtomicU64,
    faults: AtomicUsize,
    store: Mutex<Store>,
}

/// What the backup holds.
#[derive(Default)]
struct Store {
    /// Digests by repository.
    blobs: HashSet<(String, String)>,
    manifests: HashMap<(String, String), (String, Bytes)>,
    /// Digests by repository and tag.
    tags: HashMap<(String, String), String>,
    sessions: u64,
}

impl Registries {
    pub fn start(runtime: &Runtime, faults_per_mille: u64) -> anyhow::Result<Self> {
        let shared = Arc::new(Shared {
            faults_per_mille,
            requests: AtomicU64::new(0),
            faults: AtomicUsize::new(0),
            store: Mutex::default(),
        });
        let upstream = Router::new()
            .fallback(upstream)
            .with_state(Arc::clone(&shared));
        let backup = Router::new()
            .fallback(backup)
            .with_state(Arc::clone(&shared));
        Ok(Self {
            upstream: listen(runtime, upstream)?.to_string(),
            backup: listen(runtime, backup)?.to_string(),
            shared,
        })
    }

    pub fn upstream(&self) -> &str {
        &self.upstream
    }

    pub fn backup(&self) -> &str {
        &self.backup
    }

    /// Images whose tag is in the backup with everything that its manifest names.
    pub fn copies(&self) -> usize {
        self.copied().len()
    }

    /// The numbers of these images.
    pub fn copied(&self) -> HashSet<usize> {
        let store = self.shared.store();
        let complete = store.tags.iter().filter_map(|((repository, tag), digest)| {
            let number: usize = repository.rsplit("app--").next()?.parse().ok()?;
            let app = app(u64::try_from(number).ok()?);
            let is_whole = tag == "v1"
                && *digest == app.digest().to_string()
                && app.blobs.iter().all(|blob| {
                    store
                        .blobs
                        .contains(&(repository.clone(), digest::of(blob)))
                });
            is_whole.then_some(number)
        });
        complete.collect()
    }

    /// Requests that were answered with a fault.
    pub fn faults(&self) -> usize {
        self.shared.faults.load(Ordering::Relaxed)
    }
}

impl Shared {
    fn store(&self) -> MutexGuard<'_, Store> {
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The fault of this request, spread evenly over all requests: a status, a truncated body, a late response.
    async fn fault(&self) -> Option<Response<Body>> {
        let number = self.requests.fetch_add(1, Ordering::Relaxed);
        // A prime step lets every kind of request meet every fault.
        if number.wrapping_mul(7919) % 1000 >= self.faults_per_mille {
            return None;
        }
        let kind = self.faults.fetch_add(1, Ordering::Relaxed);
        match kind % 4 {
            0 => Some(reply(500, &[], "")),
            1 => Some(reply(503, &[("retry-after", "1")], "")),
            2 => Some(reply(502, &[], "<html>Bad Gateway</html>")),
            _ => {
                tokio::time::sleep(std::time::Duration::from_secs(2)).await;
                None
            }
        }
    }
}

/// The image of this number.
fn app(number: u64) -> Image {
    image(number, &[noise(number, LAYER)])
}

async fn upstream(State(shared): State<Arc<Shared>>, request: Request) -> Response<Body> {
    if let Some(fault) = shared.fault().await {
        return fault;
    }
    let (path, is_head) = (request.uri().path(), request.method() == Method::HEAD);
    if path == "/v2/" {
        return reply(200, &[], "{}");
    }
    let Some((repository, rest)) = parts(path) else {
        return reply(404, &[], "{}");
    };
    let number = repository.trim_start_matches("team/app-").parse();
    let Ok(number) = number else {
        return reply(404, &[], "{}");
    };
    let app = app(number);
    let content = match rest {
        ("manifests", name) if name == "v1" || name == app.digest().to_string() => {
            Some((app.media_type.as_str(), &app.manifest))
        }
        ("blobs", name) => {
            let blob = app.blobs.iter().find(|blob| digest::of(blob) == name);
            blob.map(|blob| ("application/octet-stream", blob))
        }
        _ => None,
    };
    match content {
        Some((media_type, content)) => serve(media_type, content, is_head),
        None => reply(404, &[], "{}"),
    }
}

async fn backup(State(shared): State<Arc<Shared>>, request: Request) -> Response<Body> {
    let (head, body) = request.into_parts();
    let Ok(body) = to_bytes(body, BODY).await else {
        return reply(400, &[], "{}");
    };
    if let Some(fault) = shared.fault().await {
        return fault;
    }
    let path = head.uri.path();
    if path == "/v2/" {
        return reply(200, &[], "{}");
    }
    let Some((repository, rest)) = parts(path) else {
        return reply(404, &[], "{}");
    };
    let query = head.uri.query().unwrap_or_default();
    let parameter = |name: &str| {
        url::form_urlencoded::parse(query.as_bytes())
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.into_owned())
    };
    let mut store = shared.store();
    let repository = repository.to_owned();
    match (head.method.as_str(), rest) {
        ("POST", _) => {
            store.sessions += 1;
            let location = format!("/v2/{repository}/blobs/uploads/{}", store.sessions);
            reply(202, &[("location", &location)], "")
        }
        ("PUT", ("uploads", _)) => {
            let digest = digest::of(&body);
            if parameter("digest").as_deref() != Some(digest.as_str()) {
                return reply(400, &[], r#"{"errors":[{"code":"DIGEST_INVALID"}]}"#);
            }
            store.blobs.insert((repository, digest));
            reply(201, &[], "")
        }
        ("PUT", ("manifests", name)) => {
            let digest = digest::of(&body);
            let media_type = head
                .headers
                .get("content-type")
                .and_then(|value| value.to_str().ok());
            let media_type = media_type.unwrap_or_default().to_owned();
            if !name.starts_with("sha256:") {
                store
                    .tags
                    .insert((repository.clone(), name.to_owned()), digest.clone());
            }
            store
                .manifests
                .insert((repository, digest.clone()), (media_type, body));
            reply(201, &[("docker-content-digest", &digest)], "")
        }
        ("GET" | "HEAD", ("manifests", name)) => {
            let digest = store
                .tags
                .get(&(repository.clone(), name.to_owned()))
                .cloned();
            let digest = digest.unwrap_or_else(|| name.to_owned());
            match store.manifests.get(&(repository, digest)) {
                Some((media_type, content)) => {
                    serve(media_type, content, head.method == Method::HEAD)
                }
                None => reply(404, &[], r#"{"errors":[{"code":"MANIFEST_UNKNOWN"}]}"#),
            }
        }
        ("GET" | "HEAD", ("blobs", name))
            if store.blobs.contains(&(repository.clone(), name.to_owned())) =>
        {
            reply(200, &[], "")
        }
        ("DELETE", _) => reply(204, &[], ""),
        _ => reply(404, &[], "{}"),
    }
}

/// Repository, kind and last part of a path.
fn parts(path: &str) -> Option<(&str, (&str, &str))> {
    let rest = path.strip_prefix("/v2/")?;
    let split = |marker, kind| {
        let (repository, name): (&str, &str) = rest.rsplit_once(marker)?;
        Some((repository, (kind, name)))
    };
    split("/blobs/uploads/", "uploads")
        .or_else(|| split("/blobs/", "blobs"))
        .or_else(|| split("/manifests/", "manifests"))
}

fn serve(media_type: &str, content: &Bytes, is_head: bool) -> Response<Body> {
    let headers = [
        ("content-type", media_type),
        ("docker-content-digest", &digest::of(content)),
        ("content-length", &content.len().to_string()),
    ];
    let body = if is_head {
        Body::empty()
    } else {
        Body::from(content.clone())
    };
    reply(200, &headers, body)
}

fn reply(status: u16, headers: &[(&str, &str)], body: impl Into<Body>) -> Response<Body> {
    let mut builder = Response::builder().status(status);
    for (name, value) in headers {
        builder = builder.header(*name, *value);
    }
    builder.body(body.into()).unwrap_or_default()
}

fn listen(runtime: &Runtime, app: Router) -> anyhow::Result<SocketAddr> {
    let listener = runtime.block_on(tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))?;
    let address = listener.local_addr()?;
    runtime.spawn(async move { axum::serve(listener, app).await });
    Ok(address)
}
