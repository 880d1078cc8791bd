//! The cells of the Kubernetes API: the sidecar's watches and its pull Secrets against a scripted API server.
//!
//! The fault stays until it has met two requests; then it is over, and what was missed has to be there.

use super::Run;
use super::fault::{Fault, UNKNOWN_HOST};
use super::log::shows_secret;
use super::request::Request;
use crate::support::PASSWORD;
use axum::body::Body;
use axum::http::{Method, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use kube::{Client, Config};
use mirror_contract::{Backup, BackupName, Mode, Naming};
use mirror_copy::{Credentials, Login};
use mirror_sidecar::cluster::pull_locations::LoginOwner;
use mirror_sidecar::cluster::pull_secrets::{PullLogin, PullLogins, ReadLogins, SecretMetrics};
use mirror_sidecar::cluster::watch::watch;
use mirror_sidecar::cluster::{
    Events, ExcludedNamespaces, Index, Kind, ManagedSecrets, Replicas, Rules, SharedIndex,
    SyncState, WorkloadKind,
};
use mirror_sidecar::metrics::Metrics;
use serde_json::{Value, json};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use testkit::scripted::{Fake, Other};
use testkit::tls::Tls;
use tokio_util::sync::CancellationToken;

/// Requests that the fault meets before it is over.
const MEETS: usize = 2;
/// How long a watch of the scripted server stays open.
const WATCH: Duration = Duration::from_millis(300);
/// The longest wait for something to come right: pauses grow to several seconds.
const WITHIN: Duration = Duration::from_secs(25);
const LOOK: Duration = Duration::from_millis(20);

const NAME: &str = "image-mirror-pull";
const BACKUP: &str = "backup.example";
const POD: Kind = Kind::Workload(WorkloadKind::Pod);

/// What the scripted API server stores: one Pod that is listed, another one that is only told by a watch, one Secret.
struct World {
    server: Fake,
    secret: Arc<Mutex<Value>>,
    cluster: Arc<SharedIndex>,
    client: Client,
    stop: CancellationToken,
}

pub async fn run(request: Request, fault: Fault) -> Run {
    let world = World::start(fault).await;
    let _stopped = world.stop.clone().drop_guard();
    let (method, part) = request.pattern();
    if !is_of_connection(fault) {
        let address = world.server.address;
        let lasts = fault != Fault::Refused;
        let action = fault.action(request, address, address, lasts);
        world.server.fault(method.clone(), part, usize::MAX, action);
    }
    let outcome = match request {
        Request::ApiPatch => world.patch(fault, &method, part).await,
        _ => world.watch(request, fault, &method, part).await,
    };
    match outcome {
        Ok(outcome) => Run {
            outcome: outcome.to_owned(),
            violations: Vec::new(),
        },
        Err(violation) => Run {
            outcome: String::new(),
            violations: vec![violation],
        },
    }
}

/// A fault that no response can show: the server is reached by another address from the beginning, and stays so.
fn is_of_connection(fault: Fault) -> bool {
    matches!(fault, Fault::Tls | Fault::Dns)
}

impl World {
    async fn start(fault: Fault) -> Self {
        let secret = Arc::new(Mutex::new(outdated_secret()));
        let server = match fault {
            Fault::Tls => Fake::start_tls(&Tls::generate().unwrap()).await,
            _ => Fake::start().await,
        };
        let other = api(Arc::clone(&secret));
        server.set(|knobs| knobs.other = Some(other));
        let url = match fault {
            Fault::Tls => format!("https://{}", server.host()),
            Fault::Dns => UNKNOWN_HOST.to_owned(),
            _ => format!("http://{}", server.host()),
        };
        let mut config = Config::new(url.parse().unwrap());
        let idle = if fault.is_about_time() { 700 } else { 10_000 };
        config.read_timeout = Some(Duration::from_millis(idle));
        config.connect_timeout = Some(Duration::from_secs(5));
        let cluster = SharedIndex::new(Index::new(Rules {
            backup: Backup::new(BACKUP, "mirror", Naming::Flat).unwrap(),
            excluded_namespaces: ExcludedNamespaces::default(),
            pull_secret: Some(NAME.into()),
            former_backups: mirror_sidecar::former_backups::FormerBackups::default(),
            other_backups: mirror_sidecar::backups::OtherBackups::default(),
            former_pull_secrets: Vec::new(),
            skip_owners: Vec::new(),
        }));
        Self {
            server,
            secret,
            cluster: Arc::new(cluster),
            client: Client::try_from(config).unwrap(),
            stop: CancellationToken::new(),
        }
    }

    /// Watches all kinds. The Pod of the list and the Pod of the watch must both be seen after the fault, and a kind whose
    /// list fails must not count as known.
    async fn watch(
        &self,
        request: Request,
        fault: Fault,
        method: &Method,
        part: &str,
    ) -> Result<&'static str, String> {
        let watching = watch(
            self.client.clone(),
            Arc::clone(&self.cluster),
            self.stop.clone(),
        );
        tokio::spawn(watching);
        if is_of_connection(fault) {
            // Long enough for several attempts.
            tokio::time::sleep(Duration::from_secs(4)).await;
            return match self.state() {
                SyncState::Complete => Err("the list is complete without a server".into()),
                _ => Ok("waits"),
            };
        }
        let met = if matches!(fault, Fault::Refused | Fault::Slow | Fault::Extra) {
            1
        } else {
            MEETS
        };
        self.until("the fault", || self.server.count(method, part) >= met)
            .await?;
        let delivers = matches!(fault, Fault::Slow | Fault::Extra | Fault::Truncated);
        if request == Request::ApiList && !delivers && self.state() == SyncState::Complete {
            return Err("a list that failed counts as complete".into());
        }
        self.server.forget_faults();
        self.until("both Pods", || {
            self.state() == SyncState::Complete
                && self.images() == ["library/listed", "library/watched"]
        })
        .await?;
        Ok("read")
    }

    fn state(&self) -> SyncState {
        self.cluster.read(|index| index.sync_state(POD))
    }

    fn images(&self) -> Vec<String> {
        let mut images: Vec<_> = self.cluster.read(|index| {
            index
                .images()
                .map(|used| used.image.path().to_owned())
                .collect()
        });
        images.sort_unstable();
        images
    }

    /// Brings a pull Secret up to date, which holds a former password.
    async fn patch(
        &self,
        fault: Fault,
        method: &Method,
        part: &str,
    ) -> Result<&'static str, String> {
        let login = Login {
            username: "user".into(),
            password: PASSWORD.to_owned().into(),
        };
        let logins = PullLogins::new(vec![PullLogin {
            owner: LoginOwner::Backup(BackupName::DEFAULT),
            origin: "--pull-username".into(),
            registry: BACKUP.into(),
            path: String::new(),
            former_paths: Vec::new(),
            credentials: Credentials::anonymous().with_login(BACKUP, login),
        }]);
        let logins = logins.map_err(|conflicts| conflicts.join("; "))?;
        let logins = ReadLogins::read(logins).await;
        let setup = mirror_sidecar::cluster::pull_secrets::Setup {
            name: NAME.into(),
            former_names: Vec::new(),
            logins: logins.map_err(|error| error.to_string())?,
            followed: None,
            excluded_namespaces: ExcludedNamespaces::default(),
            cluster: Arc::clone(&self.cluster),
            replicas: Replicas::alone(),
            events: Events::none(),
            metrics: SecretMetrics::register(&mut Metrics::new()),
        };
        let secrets = ManagedSecrets::start(setup, self.client.clone(), self.stop.clone());
        // The first answer may come before the fault was met.
        let started = Instant::now();
        while !is_of_connection(fault) && self.server.count(method, part) == 0 {
            if let Err(refusal) = secrets.request("shop", Mode::Ensure).await
                && shows_secret(&format!("{refusal:?} {refusal}"))
            {
                return Err(format!("secret in the refusal: {refusal}"));
            }
            if started.elapsed() > WITHIN {
                return Err("nothing was patched".into());
            }
            tokio::time::sleep(LOOK).await;
        }
        if is_of_connection(fault) {
            return match secrets.request("shop", Mode::Ensure).await {
                Ok(()) => Err("the Secret counts as written without a server".into()),
                Err(_) => Ok("waits"),
            };
        }
        self.server.forget_faults();
        let started = Instant::now();
        loop {
            let answer = secrets.request("shop", Mode::Ensure).await;
            let is_written = holds_password(&self.secret.lock().unwrap());
            match answer {
                Ok(()) if is_written => return Ok("written"),
                Ok(()) => return Err("the Secret counts as written and is not".into()),
                Err(refusal) if started.elapsed() > WITHIN => {
                    return Err(format!("not written after the fault: {refusal}"));
                }
                Err(_) => tokio::time::sleep(LOOK).await,
            }
        }
    }

    async fn until(&self, what: &str, is_so: impl Fn() -> bool) -> Result<(), String> {
        let started = Instant::now();
        while !is_so() {
            if started.elapsed() > WITHIN {
                return Err(format!(
                    "no {what} within {} s: {:?} {:?}",
                    WITHIN.as_secs(),
                    self.state(),
                    self.images()
                ));
            }
            tokio::time::sleep(LOOK).await;
        }
        Ok(())
    }
}

/// Lists, watches, and one Secret.
fn api(secret: Arc<Mutex<Value>>) -> Other {
    Arc::new(
        move |method: &Method, path: &str, query: &str, body: &Bytes| {
            let is_watch = query.contains("watch=true");
            let is_secret = path.contains("/secrets/");
            if is_secret && *method == Method::PATCH {
                let mut stored = secret.lock().unwrap();
                // Server-side apply sends YAML, of which JSON is a part.
                if let Ok(patch) = serde_json::from_slice::<Value>(body) {
                    stored["data"] = patch["data"].clone();
                    stored["metadata"]["resourceVersion"] = json!("8");
                }
                return Response::new(stored.to_string().into());
            }
            if is_secret {
                return Response::new(secret.lock().unwrap().to_string().into());
            }
            if is_watch {
                let event = match path {
                    "/api/v1/pods" => {
                        json!({"type": "ADDED", "object": pod("watched", "6")}).to_string() + "\n"
                    }
                    _ => String::new(),
                };
                let end = stream::once(async {
                    tokio::time::sleep(WATCH).await;
                    Ok::<_, std::io::Error>(String::new())
                });
                return Response::new(Body::from_stream(stream::iter([Ok(event)]).chain(end)));
            }
            let items = match path {
                "/api/v1/pods" => vec![pod("listed", "5")],
                _ if path.ends_with("/secrets") => vec![secret.lock().unwrap().clone()],
                _ => Vec::new(),
            };
            let list = json!({
                "kind": "List", "apiVersion": "v1", "items": items, "metadata": {"resourceVersion": "5"},
            });
            Response::new(list.to_string().into())
        },
    )
}

fn pod(name: &str, version: &str) -> Value {
    json!({
        "kind": "Pod", "apiVersion": "v1",
        "metadata": {"name": name, "namespace": "shop", "uid": name, "resourceVersion": version},
        "spec": {"containers": [{"name": "app", "image": name}]},
    })
}

fn outdated_secret() -> Value {
    let login = json!({"auths": {BACKUP: {"username": "user", "password": "former", "auth": "dXNlcjpmb3JtZXI="}}});
    json!({
        "kind": "Secret", "apiVersion": "v1", "type": "kubernetes.io/dockerconfigjson",
        "metadata": {
            "name": NAME, "namespace": "shop", "uid": "secret", "resourceVersion": "7",
            "labels": {"app.kubernetes.io/managed-by": "image-mirror"},
        },
        "data": {".dockerconfigjson": STANDARD.encode(login.to_string())},
    })
}

fn holds_password(secret: &Value) -> bool {
    let data = secret["data"][".dockerconfigjson"].as_str();
    let config = data.and_then(|data| STANDARD.decode(data).ok());
    String::from_utf8_lossy(&config.unwrap_or_default()).contains(PASSWORD)
}
