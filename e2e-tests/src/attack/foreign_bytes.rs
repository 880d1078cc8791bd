//! Bytes of a foreign registry that become memory.

use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::ensure;
use axum::body::Body;
use axum::http::{Method, Response};
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};

use super::documents::{self, Document, MANIFEST, PAGE};
use super::site::{Site, hostile, response, wait};
use super::{Attack, Measured, Setup};
use testkit::scripted::{Fake, Image, blob, image, noise};

/// How long the sidecar is watched after the hostile responses were sent.
const AFTER: Duration = Duration::from_secs(2);
/// How long the first requests may take.
const WITHIN: Duration = Duration::from_secs(20);

const MEMORY: &str = "128 MiB, process alive";

pub const ATTACKS: &[Attack] = &[
    Attack {
        name: "Manifests of 8 MiB in 14 shapes (lists as scalars, a million entries, deep, duplicate keys)",
        bound: MEMORY,
        is_short: true,
        run: hostile_manifests,
    },
    Attack {
        name: "Referrers lists of 4 MiB in 4 shapes",
        bound: MEMORY,
        is_short: true,
        run: hostile_referrers,
    },
    Attack {
        name: "Token answers: nested, huge, endless",
        bound: MEMORY,
        is_short: false,
        run: hostile_tokens,
    },
    Attack {
        name: "Tag lists: pages of 4 MiB without end",
        bound: MEMORY,
        is_short: false,
        run: hostile_tags,
    },
    Attack {
        name: "Error bodies of 64 MiB",
        bound: MEMORY,
        is_short: false,
        run: error_bodies,
    },
    Attack {
        name: "Manifest bodies without end",
        bound: MEMORY,
        is_short: false,
        run: endless_bodies,
    },
    Attack {
        name: "Response headers without end",
        bound: MEMORY,
        is_short: false,
        run: endless_headers,
    },
];

/// Asks for images at all hostile registries, waits until each of `parts` was requested often enough, and measures.
fn flood(setup: Setup, sources: &[Fake], part: &str) -> anyhow::Result<Measured> {
    let all: Vec<&Fake> = sources.iter().collect();
    let mut site = Site::start(setup, &all)?;
    for number in 0..setup.images {
        let source = &sources[number % sources.len()];
        // A sidecar that is killed refuses the rest; that is what is measured.
        let _ = site.ask(&format!("{}/team/app-{number}:1", source.host()));
    }
    let requested = || -> usize {
        sources
            .iter()
            .map(|source| source.count(&Method::GET, part))
            .sum()
    };
    let is_met = wait(WITHIN, || {
        requested() >= setup.images.min(2 * setup.parallel_copies)
    });
    std::thread::sleep(AFTER);
    let measured = site.memory()?;
    ensure!(
        is_met || !measured.is_within_bound,
        "only {} requests for {part}",
        requested()
    );
    Ok(measured)
}

/// Runs one flood for each document; the worst one counts.
fn worst(
    documents: Vec<Document>,
    attack: impl Fn(Document) -> anyhow::Result<Measured>,
) -> anyhow::Result<Measured> {
    let mut values = Vec::new();
    let mut is_within_bound = true;
    for document in documents {
        let name = document.name;
        let measured = attack(document)?;
        is_within_bound &= measured.is_within_bound;
        values.push((measured.is_within_bound, measured.value, name));
    }
    // Failures first, then the largest number of MiB.
    values.sort_by_key(|(is_within, value, _)| {
        let mebibytes: u64 = value
            .split(' ')
            .next()
            .and_then(|text| text.parse().ok())
            .unwrap_or(0);
        (*is_within, std::cmp::Reverse(mebibytes))
    });
    let value = match values.first() {
        Some((_, value, name)) => format!("{value} ({name})"),
        None => "nothing".to_owned(),
    };
    Ok(Measured {
        value,
        is_within_bound,
    })
}

fn hostile_manifests(setup: Setup) -> anyhow::Result<Measured> {
    let documents = documents::manifests(MANIFEST.min(setup.document));
    worst(documents, |document| {
        let sources = hostile(move |method, path, _| manifest(&document, method, path));
        flood(setup, &sources, "/manifests/")
    })
}

/// Sources whose manifests are as large as any that is accepted and keep as much memory as one can.
pub(super) fn manifest_bombs(setup: Setup) -> Vec<Fake> {
    let documents = documents::manifests(MANIFEST.min(setup.document));
    let mut documents = documents.into_iter();
    let largest = documents.find(|document| document.name == "small layers");
    let Some(document) = largest else {
        return Vec::new();
    };
    hostile(move |method, path, _| manifest(&document, method, path))
}

/// The same document for each manifest, and nothing else.
fn manifest(document: &Document, method: &Method, path: &str) -> Response<Body> {
    if path == "/v2/" {
        return response(200, "application/json", "{}");
    }
    if !path.contains("/manifests/") {
        return response(404, "application/json", "{}");
    }
    let is_head = *method == Method::HEAD;
    let body = if is_head {
        Bytes::new()
    } else {
        document.body.clone()
    };
    let mut answer = response(200, document.media_type, body);
    let headers = answer.headers_mut();
    if let Ok(digest) = document.digest_header() {
        headers.insert("docker-content-digest", digest);
    }
    if is_head {
        headers.insert("content-length", document.body.len().into());
    }
    answer
}

fn hostile_referrers(setup: Setup) -> anyhow::Result<Measured> {
    worst(documents::referrers(PAGE.min(setup.document)), |document| {
        let sources = hostile(move |method, path, _| {
            if path.contains("/referrers/") {
                return response(200, document.media_type, document.body.clone());
            }
            honest(&app(path), method, path)
        });
        flood(setup, &sources, "/referrers/")
    })
}

/// A small image of its own for each repository.
pub fn app(path: &str) -> Image {
    let repository = path.trim_start_matches("/v2/team/app-");
    let number: String = repository
        .chars()
        .take_while(char::is_ascii_digit)
        .collect();
    let number: u64 = number.parse().unwrap_or(0);
    image(number, &[noise(number, 1000)])
}

/// The responses of a registry that behaves and holds this image.
pub fn honest(image: &Image, method: &Method, path: &str) -> Response<Body> {
    let is_head = *method == Method::HEAD;
    let respond = |media_type: &str, content: &Bytes| {
        let body = if is_head {
            Bytes::new()
        } else {
            content.clone()
        };
        let mut answer = response(200, media_type, body);
        if let Ok(digest) = testkit::digest::of(content).parse() {
            answer.headers_mut().insert("docker-content-digest", digest);
        }
        if is_head {
            answer
                .headers_mut()
                .insert("content-length", content.len().into());
        }
        answer
    };
    if path == "/v2/" {
        return response(200, "application/json", "{}");
    }
    if path.contains("/manifests/") {
        let name = path.rsplit('/').next().unwrap_or_default();
        if name.starts_with("sha256") && name != image.digest().to_string() {
            return response(404, "application/json", "{}");
        }
        return respond(&image.media_type, &image.manifest);
    }
    let blob = image
        .blobs
        .iter()
        .find(|blob| path.ends_with(&testkit::digest::of(blob)));
    match blob {
        Some(content) if path.contains("/blobs/") => respond("application/octet-stream", content),
        _ => response(404, "application/json", "{}"),
    }
}

fn hostile_tokens(setup: Setup) -> anyhow::Result<Measured> {
    let bodies: Vec<(&'static str, Option<Bytes>)> = vec![
        (
            "nested",
            Some(documents::filled(
                r#"{"token":["#,
                r#"{"":0}"#,
                "]}",
                256 << 10,
            )),
        ),
        (
            "huge",
            Some(documents::filled(
                r#"{"token":"x","x":["#,
                r#"{"":0}"#,
                "]}",
                64 << 20,
            )),
        ),
        ("endless", None),
    ];
    let documents = bodies.into_iter().map(|(name, body)| Document {
        name,
        media_type: "application/json",
        body: body.unwrap_or_default(),
    });
    worst(documents.collect(), |document| {
        let realm: Arc<std::sync::Mutex<String>> = Arc::default();
        let seen = Arc::clone(&realm);
        let sources = hostile(move |_, path, _| {
            if path == "/token" {
                let body = if document.body.is_empty() {
                    endless("{\"token\":\"")
                } else {
                    Body::from(document.body.clone())
                };
                return response(200, document.media_type, body);
            }
            let mut answer = response(401, "application/json", "{}");
            let host = seen.lock().map(|host| host.clone()).unwrap_or_default();
            let challenge = format!(r#"Bearer realm="http://{host}/token",service="x""#);
            if let Ok(challenge) = challenge.parse() {
                answer.headers_mut().insert("www-authenticate", challenge);
            }
            answer
        });
        // One of them is the token service of all.
        if let (Ok(mut realm), Some(first)) = (realm.lock(), sources.first()) {
            *realm = first.host();
        }
        flood(setup, &sources, "/token")
    })
}

fn hostile_tags(setup: Setup) -> anyhow::Result<Measured> {
    let page = documents::filled(r#"{"name":"x","tags":["#, r#""a""#, "]}", PAGE);
    let sources = hostile(move |method, path, _| {
        if path.ends_with("/tags/list") {
            let mut answer = response(200, "application/json", page.clone());
            let next = format!("<{path}?n=1000&last=a>; rel=\"next\"");
            if let Ok(next) = next.parse() {
                answer.headers_mut().insert("link", next);
            }
            return answer;
        }
        honest(&app(path), method, path)
    });
    // Where no list of tags is asked for, the requests for manifests are what is counted.
    flood(setup, &sources, "/manifests/")
}

fn error_bodies(setup: Setup) -> anyhow::Result<Measured> {
    let body = Bytes::from(vec![b'x'; 64 << 20]);
    let sources = hostile(move |_, _, _| response(400, "application/json", body.clone()));
    flood_of_any(setup, &sources)
}

fn endless_bodies(setup: Setup) -> anyhow::Result<Measured> {
    let sources = hostile(|method, _, _| {
        let body = if *method == Method::HEAD {
            Body::empty()
        } else {
            endless("{\"schemaVersion\":2,")
        };
        response(200, testkit::scripted::OCI_MANIFEST, body)
    });
    flood_of_any(setup, &sources)
}

/// A flood after which any kind of request counts.
fn flood_of_any(setup: Setup, sources: &[Fake]) -> anyhow::Result<Measured> {
    let all: Vec<&Fake> = sources.iter().collect();
    let mut site = Site::start(setup, &all)?;
    for number in 0..setup.images {
        let source = &sources[number % sources.len()];
        let _ = site.ask(&format!("{}/team/app-{number}:1", source.host()));
    }
    let is_met = wait(WITHIN, || {
        sources
            .iter()
            .filter(|source| !source.log().is_empty())
            .count()
            >= setup.parallel_copies
    });
    std::thread::sleep(AFTER);
    ensure!(is_met, "too few requests came");
    site.memory()
}

/// A body that never ends.
fn endless(head: &'static str) -> Body {
    let piece = blob(&"x".repeat(64 << 10));
    let pieces = stream::iter([Bytes::from_static(head.as_bytes())]).chain(stream::repeat(piece));
    Body::from_stream(pieces.map(Ok::<_, std::io::Error>))
}

/// Servers that send headers for ever; plain sockets, since no HTTP server does that.
fn endless_headers(setup: Setup) -> anyhow::Result<Measured> {
    let met = Arc::new(AtomicUsize::new(0));
    let mut addresses: Vec<SocketAddr> = Vec::new();
    for host in 2..10_u8 {
        let listener = TcpListener::bind((Ipv4Addr::new(127, 0, 0, host), 0))?;
        addresses.push(listener.local_addr()?);
        let met = Arc::clone(&met);
        // The threads end with the process; a write to a client that is gone ends a connection.
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let met = Arc::clone(&met);
                std::thread::spawn(move || {
                    let mut stream = stream;
                    let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n");
                    met.fetch_add(1, Ordering::Relaxed);
                    let line = format!("x-{}: {}\r\n", "a".repeat(20), "b".repeat(4000));
                    while stream.write_all(line.as_bytes()).is_ok() {}
                });
            }
        });
    }
    let mut site = Site::start_with(setup, &[], |mut sidecar| {
        for address in &addresses {
            sidecar = sidecar.insecure_registry(&address.to_string());
        }
        sidecar
    })?;
    for (number, address) in addresses.iter().cycle().take(setup.images).enumerate() {
        let _ = site.ask(&format!("{address}/team/app-{number}:1"));
    }
    let is_met = wait(WITHIN, || {
        met.load(Ordering::Relaxed) >= setup.parallel_copies
    });
    std::thread::sleep(AFTER);
    ensure!(is_met, "too few connections came");
    site.memory()
}
