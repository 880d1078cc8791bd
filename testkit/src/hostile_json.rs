//! A registry whose JSON is made to cost its readers many times its size. By plain HTTP, without a login.

use std::net::TcpListener;
use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::http::{Method, Response, header};
use bytes::Bytes;

use crate::digest;
use crate::server::Server;

/// Largest manifest that is read.
const MANIFEST: usize = 8 << 20;
/// Largest page of a list that is read.
const PAGE: usize = 4 << 20;

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const IMAGE: &str = "application/vnd.oci.image.manifest.v1+json";
const SUM: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

/// A running registry. It stops when this is dropped.
pub struct HostileRegistry {
    address: String,
    requests: Arc<Mutex<Vec<String>>>,
    _server: Server,
}

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

impl HostileRegistry {
    /// Starts one on a free port of loopback.
    ///
    /// # Errors
    /// When there is no port.
    pub fn start() -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?.to_string();
        let requests = Arc::<Mutex<Vec<String>>>::default();
        let log = Arc::clone(&requests);
        let router = Router::new().fallback(move |request: Request| {
            let line = format!("{} {}", request.method(), request.uri().path());
            let mut lines = log.lock().unwrap_or_else(PoisonError::into_inner);
            lines.push(line);
            drop(lines);
            async move {
                if request.uri().path().starts_with("/v2/large/blobs/") {
                    std::future::pending::<()>().await;
                }
                answer(&request)
            }
        });
        let server = Server::start("hostile registry", listener, None, router)?;
        Ok(Self {
            address,
            requests,
            _server: server,
        })
    }

    /// How many requests for this method and beginning of a path have come.
    #[must_use]
    pub fn count(&self, beginning: &str) -> usize {
        let lines = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        lines
            .iter()
            .filter(|line| line.starts_with(beginning))
            .count()
    }

    /// `127.0.0.1:port`.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }
}

fn answer(request: &Request) -> Response<Body> {
    let path = request.uri().path().trim_start_matches("/v2/");
    let mut parts = path.splitn(3, '/');
    let [repository, kind, name] = [(); 3].map(|()| parts.next().unwrap_or_default());
    let found = match kind {
        "manifests" => manifest(repository)
            .filter(|bytes| name == "v1" || name == digest::of(bytes))
            .map(|bytes| (IMAGE, bytes)),
        "referrers" => referrers(repository).map(|bytes| (INDEX, bytes)),
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
    let body = if request.method() == Method::HEAD {
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
        "brackets" => "[".repeat(MANIFEST),
        "escapes" => format!(
            r#"{{"schemaVersion":2,"mediaType":"\n{}","layers":[]}}"#,
            r"\u00e9".repeat(MANIFEST / 6 - 20)
        ),
        "long-name" => format!(r#"{{"\n{}":2}}"#, "x".repeat(MANIFEST - 20)),
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
        LARGE => large(),
        name if REFERRERS.contains(&name) => {
            format!(r#"{{"schemaVersion":2,"layers":[],"annotations":{{"":"{name}"}}}}"#)
        }
        _ => return None,
    };
    Some(body.into())
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
    Some(body.into())
}

/// `start`, as many of `item` as fit into `size` bytes, and `end`.
fn filled(start: &str, item: &str, end: &str, size: usize) -> String {
    let count = (size - start.len() - end.len()) / (item.len() + 1);
    format!("{start}{}{end}", vec![item; count].join(","))
}
