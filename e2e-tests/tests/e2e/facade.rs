//! The facade as an HTTP server: who may ask, what is answered, and that nothing odd brings it down.

use crate::support::{COPY_DEADLINE, REPOSITORY, World};
use mirror_contract::{ImageStatus, PullSecretStatus};
use reqwest::Method;
use rstest::rstest;
use serde_json::{Value, json};
use testkit::blocking;
use testkit::image::Image;
use testkit::registry::{Credential, RegistryClient, start_registry, start_registry_with};
use testkit::sidecar::Sidecar;

struct Answer {
    status: u16,
    challenge: Option<String>,
    body: Value,
}

fn ask(client: &RegistryClient, method: Method, path: &str) -> Answer {
    blocking::run(async {
        let response = client.request(method, path).send().await.unwrap();
        let challenge = response.headers().get("www-authenticate");
        Answer {
            status: response.status().as_u16(),
            challenge: challenge.map(|value| value.to_str().unwrap().to_owned()),
            body: serde_json::from_slice(&response.bytes().await.unwrap()).unwrap_or_default(),
        }
    })
}

fn client(sidecar: &Sidecar) -> RegistryClient {
    let credential = sidecar.facade_credential().clone();
    RegistryClient::new(
        &sidecar.facade(),
        Some(credential),
        Some(sidecar.tls().ca_pem()),
    )
}

#[test]
fn only_the_policy_server_may_ask() {
    let world = World::start();
    let path = "/v2/tag/docker.io/library/nginx/manifests/1";
    let ca = Some(world.sidecar.tls().ca_pem());
    let anonymous = RegistryClient::new(&world.sidecar.facade(), None, ca);
    for path in ["/v2/", path] {
        let answer = ask(&anonymous, Method::GET, path);
        assert_eq!(answer.status, 401, "{path}");
        assert!(answer.challenge.unwrap().starts_with("Basic realm="));
        assert_eq!(answer.body["errors"][0]["code"], "UNAUTHORIZED");
    }
    assert_eq!(
        ask(&client(&world.sidecar), Method::GET, "/v2/").status,
        200
    );
    assert!(world.upstream.requests().is_empty());
    // The challenge is asked for before each question, and is no refusal.
    let (_, figures) = world.sidecar.admin_get("/metrics").unwrap();
    let line = "image_mirror_facade_responses_total{status=\"refused_request\"} 1";
    assert!(figures.lines().any(|found| found == line), "{figures}");
}

#[rstest]
#[case::not_a_query("/v2/library/nginx/manifests/1", 400, "NAME_INVALID")]
#[case::not_normalised("/v2/tag/docker.io/nginx/manifests/1", 400, "NAME_INVALID")]
#[case::no_registry("/v2/tag/nginx/manifests/1", 400, "NAME_INVALID")]
#[case::bad_digest("/v2/digest/ghcr.io/app/manifests/sha256-1", 400, "NAME_INVALID")]
#[case::bad_namespace("/v2/pull-secret/a/b/manifests/latest", 400, "NAME_INVALID")]
#[case::encoded("/v2/tag/ghcr.io/%2e%2e/manifests/1", 400, "NAME_INVALID")]
#[case::a_blob("/v2/tag/ghcr.io/app/blobs/sha256:aa", 404, "NAME_UNKNOWN")]
#[case::tags("/v2/tag/ghcr.io/app/tags/list", 404, "NAME_UNKNOWN")]
#[case::catalog("/v2/_catalog", 404, "NAME_UNKNOWN")]
#[case::root("/", 404, "NAME_UNKNOWN")]
fn a_bad_question_gets_an_error_envelope(
    #[case] path: &str,
    #[case] status: u16,
    #[case] code: &str,
) {
    let world = World::start();
    let answer = ask(&client(&world.sidecar), Method::GET, path);
    assert_eq!(
        (answer.status, answer.body["errors"][0]["code"].as_str()),
        (status, Some(code))
    );
    assert!(answer.body["errors"][0]["message"].as_str().unwrap().len() > 10);
}

#[rstest]
#[case(Method::PUT)]
#[case(Method::POST)]
#[case(Method::DELETE)]
#[case(Method::PATCH)]
fn nothing_can_be_pushed(#[case] method: Method) {
    let world = World::start();
    let path = "/v2/tag/docker.io/library/nginx/manifests/1";
    let answer = ask(&client(&world.sidecar), method, path);
    assert_eq!(answer.status, 405);
    assert_eq!(answer.body["errors"][0]["code"], "UNSUPPORTED");
}

#[test]
fn lasting_answers_are_manifests_and_others_are_errors() {
    let world = World::start();
    let client = client(&world.sidecar);
    let image = Image::index(5);
    image
        .push(&world.upstream.client(), "team/app", "v1")
        .unwrap();
    let port = world.upstream.localhost().replace(':', "_");
    let path = format!("/v2/tag/{port}/team/app/manifests/v1");

    let pending = ask(&client, Method::GET, &path);
    assert_eq!(pending.status, 404);
    assert_eq!(pending.body["errors"][0]["code"], "MANIFEST_UNKNOWN");
    let message = pending.body["errors"][0]["message"].as_str().unwrap();
    assert!(message.starts_with("image-mirror/pending:"), "{message}");

    let reference = format!("{}/team/app:v1", world.upstream.localhost());
    world.wait_until_copied([&reference]);
    let mirrored = ask(&client, Method::GET, &path);
    assert_eq!(mirrored.status, 200);
    let annotations = mirrored.body["annotations"].as_object().unwrap();
    let answer = ImageStatus::from_annotations(|key| annotations.get(key)?.as_str()).unwrap();
    let ImageStatus::Mirrored {
        image: copy,
        digest,
        secret: None,
    } = answer
    else {
        panic!("{answer:?}");
    };
    assert_eq!(digest.to_string(), image.digest());
    assert_eq!(world.pull_copy(&copy.to_string()), image.expected());

    // The same by digest, without a copy being made: it is anchored already.
    let by_digest = image.digest().replace(':', "-");
    let pinned = ask(
        &client,
        Method::GET,
        &format!("/v2/digest/{port}/team/app/manifests/{by_digest}"),
    );
    assert_eq!(pinned.status, 200);
    assert_eq!(
        pinned.body["annotations"]["image-mirror.dev/digest"],
        image.digest()
    );

    // What is in the backup is never copied again.
    let backup = world.backup.address().replace(':', "_");
    let own = format!("/v2/tag/{backup}/{REPOSITORY}/anything/manifests/v1");
    let own = ask(&client, Method::GET, &own);
    assert_eq!(
        own.body["annotations"]["image-mirror.dev/state"],
        "in-backup"
    );
}

/// Copies are made one at a time here, in the order in which they were asked for. So if peeking had asked for one, it
/// would have begun before the other.
#[test]
fn peeking_starts_no_copy() {
    let world = World::with(|sidecar| {
        let one_at_a_time = sidecar.argument("--parallel-copies").argument("1");
        one_at_a_time.environment("LOG_LEVEL", "debug")
    });
    let upstream = world.upstream.localhost();
    for name in ["team/peeked", "team/asked"] {
        Image::single(6)
            .push(&world.upstream.client(), name, "v1")
            .unwrap();
    }
    let port = upstream.replace(':', "_");
    let client = client(&world.sidecar);
    let peek = format!("/v2/peek/tag/{port}/team/peeked/manifests/v1");
    assert_eq!(ask(&client, Method::GET, &peek).status, 404);
    let asked = format!("/v2/tag/{port}/team/asked/manifests/v1");
    assert_eq!(ask(&client, Method::GET, &asked).status, 404);
    world.wait_until_copied([format!("{upstream}/team/asked:v1")]);
    let events = world.sidecar.events();
    let begun: Vec<_> = events
        .iter()
        .filter(|event| event["message"] == "copying image")
        .map(|event| event["image"].as_str().unwrap())
        .collect();
    assert_eq!(begun, [format!("{upstream}/team/asked:v1")]);
}

#[test]
fn a_pull_secret_is_named_where_there_is_one() {
    let get = |world: &World, path: &str| ask(&client(&world.sidecar), Method::GET, path);
    let secret = |world: &World, namespace: &str| {
        let path = format!("pull-secret/{namespace}/manifests/latest");
        let answer = get(world, &format!("/v2/{path}"));
        let peeked = get(world, &format!("/v2/peek/{path}"));
        assert_eq!((answer.status, &answer.body), (peeked.status, &peeked.body));
        answer
    };
    let answer = secret(&World::start(), "shop");
    let annotations = answer.body["annotations"].as_object().unwrap();
    let parsed = PullSecretStatus::from_annotations(|key| annotations.get(key)?.as_str());
    assert_eq!(parsed, Some(PullSecretStatus::NotNeeded));

    let world = World::with(|sidecar| {
        let sidecar = sidecar.argument("--pull-secret").argument("backup-pull");
        sidecar.environment("EXCLUDE_NAMESPACES", "kube-system, team-*")
    });
    let answer = secret(&world, "shop");
    assert_eq!(
        answer.body["annotations"]["image-mirror.dev/secret"],
        "backup-pull"
    );
    for excluded in ["kube-system", "team-a"] {
        assert_eq!(secret(&world, excluded).status, 404, "{excluded}");
    }
    // Answers about images name it too: where it is listed already, it need not be asked for.
    let backup = world.backup.address().replace(':', "_");
    let own = format!("/v2/tag/{backup}/{REPOSITORY}/anything/manifests/v1");
    assert_eq!(
        get(&world, &own).body["annotations"],
        // No copy has this name now.
        json!({
            "image-mirror.dev/state": "in-backup", "image-mirror.dev/name": "former",
            "image-mirror.dev/secret": "backup-pull",
        })
    );
}

#[test]
fn health_and_readiness_are_told_apart() {
    let mut world = World::start();
    assert_eq!(world.sidecar.admin_get("/readyz").unwrap().0, 200);
    world.backup.stop();
    let unready = || world.sidecar.admin_get("/readyz").unwrap();
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
    // An answer counts for a few seconds.
    while unready().0 == 200 {
        assert!(
            std::time::Instant::now() < deadline,
            "it stays ready without a backup registry"
        );
        // No synchronisation, only politeness: the answer is what decides.
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    let reason = unready().1;
    assert!(reason.starts_with("not ready: "), "{reason}");
    assert!(reason.contains("Connection refused"), "{reason}");
    assert_eq!(
        world.sidecar.admin_get("/healthz").unwrap(),
        (200, "ok\n".into())
    );
}

/// Connections that send nothing or nonsense take no place from those that ask.
#[test]
fn odd_connections_do_no_harm() {
    use std::io::Write as _;
    use std::net::TcpStream;
    let world = World::start();
    let address = world.sidecar.facade();
    let silent: Vec<_> = (0..100)
        .map(|_| TcpStream::connect(&address).unwrap())
        .collect();
    for _ in 0..20 {
        let mut stream = TcpStream::connect(&address).unwrap();
        stream
            .write_all(b"GET / HTTP/1.1\r\n\r\n\0\xff\xfe")
            .unwrap();
    }
    assert_eq!(
        ask(&client(&world.sidecar), Method::GET, "/v2/").status,
        200
    );
    drop(silent);
}

#[test]
fn it_stops_when_told_to() {
    let world = World::start();
    assert!(world.sidecar.stop().unwrap().success());
}

/// Asks for `private/app:v1` of the registry `host`, and waits for what becomes of it: `None` when it was copied, or why it
/// was not.
fn outcome(sidecar: &Sidecar, host: &str) -> Option<String> {
    let host = host.replace(':', "_");
    let path = format!("/v2/tag/{host}/private/app/manifests/v1");
    assert_eq!(ask(&client(sidecar), Method::GET, &path).status, 404);
    let event = sidecar.wait_for(COPY_DEADLINE, |event| {
        event["message"] == "copied image" || event["message"] == "copy failed"
    });
    Some(event.unwrap()["reason"].as_str()?.to_owned())
}

/// The docker config often holds the login that may push as well. Whoever can create a Pod names the images, and could
/// have private ones of the backup's host copied to where everybody can read them.
#[rstest]
#[case(false)]
#[case(true)]
fn the_docker_configs_login_for_the_backup_reads_no_originals(#[case] allowed: bool) {
    let registry = start_registry_with(Some(Credential::new("pusher", "s3cret"))).unwrap();
    Image::single(8)
        .push(&registry.client(), "private/app", "v1")
        .unwrap();
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("config.json");
    // pusher:s3cret
    let auth = json!({ "auth": "cHVzaGVyOnMzY3JldA==" });
    let auths = json!({ "auths": { registry.address(): auth } });
    std::fs::write(&config, auths.to_string()).unwrap();
    let mut builder = Sidecar::builder()
        .registry(registry.as_ref(), REPOSITORY)
        .argument("--docker-config")
        .argument(&config);
    if allowed {
        builder = builder.argument("--docker-config-reads-backup-host");
    }
    let reason = outcome(&builder.start().unwrap(), &registry.address());
    match reason {
        None => assert!(allowed),
        Some(reason) => assert!(!allowed && reason.contains("requires a login"), "{reason}"),
    }
}

/// What only the sidecar can reach is not reached through it, however the image is called.
#[test]
fn originals_are_not_read_from_the_machine_itself_unless_it_is_allowed() {
    let upstream = start_registry().unwrap();
    let backup = start_registry().unwrap();
    Image::single(8)
        .push(&upstream.client(), "private/app", "v1")
        .unwrap();
    let builder = || Sidecar::builder().registry(backup.as_ref(), REPOSITORY);
    let before = upstream.requests().len();
    let reason = outcome(&builder().start().unwrap(), &upstream.localhost()).unwrap();
    let hint = format!("--private-registry {}", upstream.localhost());
    assert!(reason.contains(&hint), "{reason}");
    assert_eq!(upstream.requests().len(), before);

    // Allowed, it is spoken to, by HTTPS: which this one does not know.
    let sidecar = builder()
        .argument("--private-registry")
        .argument(upstream.localhost())
        .start()
        .unwrap();
    let reason = outcome(&sidecar, &upstream.localhost()).unwrap();
    assert!(!reason.contains("--private-registry"), "{reason}");

    let sidecar = builder()
        .insecure_registry(&upstream.localhost())
        .argument("--max-image-size=10")
        .start()
        .unwrap();
    let reason = outcome(&sidecar, &upstream.localhost()).unwrap();
    assert!(reason.contains("limit of 10 bytes"), "{reason}");
}

/// Whoever may create a Pod could scan a network otherwise. The operator allowed this one, so it is connected to.
#[rstest]
#[case::open(true)]
#[case::closed(false)]
fn an_asker_cannot_tell_an_open_port_from_a_closed_one(#[case] is_open: bool) {
    let backup = start_registry().unwrap();
    // It speaks plain HTTP, where HTTPS is expected.
    let other = start_registry().unwrap();
    let host = other.address();
    let _other = is_open.then_some(other);
    let sidecar = Sidecar::builder()
        .registry(backup.as_ref(), REPOSITORY)
        .argument("--private-registry=127.0.0.0/8")
        .start()
        .unwrap();
    let detail = outcome(&sidecar, &host).unwrap();
    assert!(detail.contains(&host), "{detail}");
    let path = format!(
        "/v2/tag/{}/private/app/manifests/v1",
        host.replace(':', "_")
    );
    // Between two attempts it says that the image is being copied.
    let answers = std::iter::repeat_with(|| {
        std::thread::sleep(std::time::Duration::from_millis(50));
        let answer = ask(&client(&sidecar), Method::GET, &path);
        answer.body["errors"][0]["message"].to_string()
    });
    let refusal = answers
        .take(600)
        .find(|message| message.contains("image-mirror/failed"))
        .unwrap();
    assert!(
        refusal.contains("the registry cannot be reached"),
        "{refusal}"
    );
    assert!(!refusal.contains("127.0.0.1"), "{refusal}");
}

/// Neither a Service that the Pod's search domain finds nor an address in another spelling is connected to.
#[rstest]
#[case("vault:8200")]
#[case("service.namespace")]
#[case("0x7f.0.0.1:8443")]
#[case("169.254.169.254")]
fn private_names_and_addresses_are_refused_by_what_they_say(#[case] host: &str) {
    let backup = start_registry().unwrap();
    let sidecar = Sidecar::builder()
        .registry(backup.as_ref(), REPOSITORY)
        .start()
        .unwrap();
    let reason = outcome(&sidecar, host).unwrap();
    assert!(
        reason.contains(&format!("--private-registry {host}")),
        "{reason}"
    );
}
