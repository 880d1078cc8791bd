//! The real process beside a scripted API server whose objects are a tenant's: large ones, many images, invented copies.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{Method, StatusCode, Uri};
use axum::response::{IntoResponse as _, Response};
use futures_util::{StreamExt as _, stream};
use mirror_contract::{Backup, ImageRef, Naming};
use serde_json::{Value, json};

const REPLICA_SETS: &str = "/apis/apps/v1/replicasets";

/// Objects with an environment variable of 1.4 MB each.
const LARGE: usize = 50;
/// Objects with [`IMAGES`] invented images each.
const CROWDED: usize = 400;
const IMAGES: usize = 256;

/// New images that the namespace may have copied in a day.
const BUDGET: usize = 20;

/// Resident memory of an idle process of a debug build, and what the objects may add to it: they have 70 MB, and the
/// images that they name another 10 MB.
const MAX_PEAK_MIB: u64 = 56;

/// How long everything may take on a busy machine.
const DEADLINE: Duration = Duration::from_mins(2);

/// An API server and a registry in one.
#[derive(Clone, Default)]
struct Server {
    seen: Arc<Mutex<Seen>>,
}

#[derive(Default)]
struct Seen {
    address: String,
    /// Manifests that were asked for of the registry that the images name.
    fetched: BTreeSet<String>,
    /// The reasons and namespaces of Events.
    events: Vec<(String, String)>,
    /// Bytes of the pages of the large list.
    pages: Vec<usize>,
    is_listed: bool,
}

/// The process, which ends with the test.
struct Sidecar(Child);

impl Drop for Sidecar {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

async fn answer(State(server): State<Server>, method: Method, uri: Uri, body: Bytes) -> Response {
    let path = uri.path();
    let query = uri.query().unwrap_or_default();
    let mut seen = server.seen.lock().unwrap();
    if path.starts_with("/v2/") {
        if let Some((repository, reference)) = path.split_once("/manifests/")
            && repository.starts_with("/v2/evil/")
        {
            seen.fetched.insert(format!("{repository}:{reference}"));
        }
        let is_ping = path == "/v2/";
        return if is_ping {
            StatusCode::OK
        } else {
            StatusCode::NOT_FOUND
        }
        .into_response();
    }
    if method != Method::GET {
        if path.ends_with("/events") {
            let event: Value = serde_json::from_slice(&body).unwrap();
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            seen.events.push((
                text(&event["reason"]),
                text(&event["regarding"]["namespace"]),
            ));
        }
        return (StatusCode::CREATED, body).into_response();
    }
    if query.contains("watch=true") {
        seen.is_listed |= path == REPLICA_SETS;
        return Body::from_stream(stream::pending::<Result<Bytes, std::io::Error>>())
            .into_response();
    }
    let number = |name: &str| {
        let value = query.split('&').find_map(|pair| pair.strip_prefix(name));
        value.map(|value| value.parse::<usize>().unwrap())
    };
    let count = if path == REPLICA_SETS {
        LARGE + CROWDED
    } else {
        0
    };
    let from = number("continue=").unwrap_or(0);
    let end = count.min(from + number("limit=").unwrap_or(count));
    let address = seen.address.clone();
    if path == REPLICA_SETS {
        let sizes = (from..end).map(|number| replica_set(number, &address).len());
        seen.pages.push(sizes.sum());
    }
    let next = if end < count {
        end.to_string()
    } else {
        String::new()
    };
    let head = format!(r#"{{"metadata":{{"resourceVersion":"5","continue":"{next}"}},"items":["#);
    let objects = (from..end).map(move |number| {
        let comma = if number > from { "," } else { "" };
        format!("{comma}{}", replica_set(number, &address))
    });
    let pieces = std::iter::once(head)
        .chain(objects)
        .chain(["]}".to_owned()]);
    Body::from_stream(stream::iter(pieces).map(Ok::<_, std::io::Error>)).into_response()
}

/// The large objects come between the others.
fn replica_set(number: usize, address: &str) -> String {
    let is_large = number % 9 == 8;
    let env = if is_large {
        "x".repeat(1_400_000)
    } else {
        String::new()
    };
    let images = if is_large { 1 } else { IMAGES };
    let containers: Vec<_> = (0..images)
        .map(|image| json!({"name": "a", "image": spelling(number * IMAGES + image, address)}))
        .collect();
    json!({
        "metadata": {"name": format!("crowd-{number}"), "namespace": "shop", "uid": number.to_string(), "resourceVersion": "5"},
        "spec": {"replicas": 1, "template": {"spec": {
            "containers": containers, "initContainers": [{"name": "b", "env": [{"name": "A", "value": env}]}],
        }}},
    })
    .to_string()
}

/// An image, or a copy that somebody invented, in one of the ways to write it.
fn spelling(number: usize, address: &str) -> String {
    let digest = format!("sha256:{number:064x}");
    let original = match number % 3 {
        0 => format!("{address}/evil/a:{number}"),
        1 => format!("{address}/evil/a@{digest}"),
        _ => format!("{address}/evil/a:{number}@{digest}"),
    };
    if number.is_multiple_of(2) {
        return original;
    }
    let backup = Backup::new(address, "acme", Naming::Flat).unwrap();
    backup
        .target(&ImageRef::parse(&original).unwrap())
        .unwrap()
        .to_string()
}

fn start(address: &str, folder: &std::path::Path) -> Sidecar {
    let kubeconfig = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "test",
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
        "clusters": [{"name": "test", "cluster": {"server": format!("http://{address}")}}],
        "users": [{"name": "test", "user": {}}],
    });
    let file = folder.join("kubeconfig");
    std::fs::write(&file, kubeconfig.to_string()).unwrap();
    let child = Command::new(env!("CARGO_BIN_EXE_mirror-sidecar"))
        .env_clear()
        .env("KUBECONFIG", file)
        .args([
            "serve",
            "--insecure-http",
            "--listen=127.0.0.1:0",
            "--admin-listen=127.0.0.1:0",
        ])
        .args([
            "--kubernetes=on",
            "--readmit=off",
            "--repository=acme",
            "--registry",
            address,
        ])
        .args([
            "--insecure-registry",
            address,
            "--private-registry",
            address,
        ])
        .arg(format!("--max-new-images-per-namespace={BUDGET}"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    Sidecar(child.unwrap())
}

/// The most that the process had in memory, in MiB (proc(5)).
fn peak(process: &Child) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.id())).unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() / 1024
}

#[test]
fn a_tenant_can_neither_fill_the_memory_nor_choose_the_work() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let server = Server::default();
    let listener = runtime
        .block_on(tokio::net::TcpListener::bind("127.0.0.1:0"))
        .unwrap();
    let address = listener.local_addr().unwrap().to_string();
    server.seen.lock().unwrap().address.clone_from(&address);
    let router = Router::new().fallback(answer).with_state(server.clone());
    runtime.spawn(async move { axum::serve(listener, router).await });
    let folder = tempfile::tempdir().unwrap();
    let sidecar = start(&address, folder.path());

    let told = |seen: &Seen, reason: &str| {
        let events = seen.events.iter();
        events
            .filter(|event| event.0 == reason && event.1 == "shop")
            .count()
    };
    let start = Instant::now();
    loop {
        let seen = server.seen.lock().unwrap();
        let is_over = seen.is_listed
            && seen.fetched.len() >= BUDGET
            && told(&seen, "LimitExceeded") > 0
            && told(&seen, "BudgetExceeded") > 0;
        let state = (seen.is_listed, seen.fetched.len(), seen.events.clone());
        drop(seen);
        if is_over {
            break;
        }
        assert!(start.elapsed() < DEADLINE, "{state:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
    let peak = peak(&sidecar.0);
    drop(sidecar);
    let seen = server.seen.lock().unwrap();
    let report = format!(
        "peak {peak} MiB, largest page {:?} bytes\n",
        seen.pages.iter().max()
    );
    std::io::stdout().write_all(report.as_bytes()).unwrap();
    assert!(peak < MAX_PEAK_MIB, "{peak} MiB");
    // The budget refills while the test runs, but hardly.
    assert!(
        seen.fetched.len() <= BUDGET + 1,
        "{} images were fetched",
        seen.fetched.len()
    );
    assert_eq!(told(&seen, "LimitExceeded"), 1);
    assert_eq!(told(&seen, "BudgetExceeded"), 1);
}
