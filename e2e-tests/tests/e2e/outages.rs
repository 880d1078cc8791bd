//! Whatever happens to the sidecar and the registries: the policy answers, within its budget, and loses nothing.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::time::{Duration, Instant};

use crate::support::{
    COPY_DEADLINE, REPOSITORY, World, assert_untouched, policy, policy_builder, warnings,
};
use rstest::rstest;
use serde_json::{Value, json};
use testkit::fixtures;
use testkit::host::{Evaluation, PolicyHost};
use testkit::sidecar::Sidecar;

/// What a peer does with each connection that it takes.
type Behaviour = fn(&mut std::net::TcpStream);

fn silent(stream: &mut std::net::TcpStream) {
    // Nothing is ever answered; the connection ends when the client goes away.
    let mut buffer = [0; 1024];
    while matches!(stream.read(&mut buffer), Ok(n) if n > 0) {}
}

fn answer(stream: &mut std::net::TcpStream, response: &str) {
    let mut buffer = [0; 4096];
    let _ = stream.read(&mut buffer);
    let _ = stream.write_all(response.as_bytes());
}

fn noise(stream: &mut std::net::TcpStream) {
    answer(stream, "\u{0}\u{1}\u{2} this is not HTTP at all \r\n\r\n");
}

fn server_error(stream: &mut std::net::TcpStream) {
    answer(
        stream,
        "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 5\r\nconnection: close\r\n\r\nsorry",
    );
}

fn wrong_json(stream: &mut std::net::TcpStream) {
    answer(
        stream,
        "HTTP/1.1 200 OK\r\ncontent-length: 7\r\nconnection: close\r\n\r\n[1,2,3]",
    );
}

fn foreign_manifest(stream: &mut std::net::TcpStream) {
    let manifest = json!({
        "schemaVersion": 2,
        "config": { "mediaType": "application/vnd.oci.empty.v1+json", "size": 2,
            "digest": format!("sha256:{}", "a".repeat(64)) },
        "layers": [],
        "annotations": { "image-mirror.dev/state": "mirrored", "image-mirror.dev/image": "../../etc", "image-mirror.dev/digest": "no" },
    })
    .to_string();
    answer(
        stream,
        &format!(
            "HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{manifest}",
            manifest.len()
        ),
    );
}

/// A peer on a port of its own; it lives as long as the test process.
fn peer(behaviour: Behaviour) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("localhost:{}", listener.local_addr().unwrap().port());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            std::thread::spawn(move || stream.map(|mut stream| behaviour(&mut stream)));
        }
    });
    address
}

/// The address of a port that nobody listens on.
fn nobody() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    format!("localhost:{}", listener.local_addr().unwrap().port())
}

/// With the deadline of docs/policy-settings.md: a host call cannot be interrupted, and on a busy machine the three
/// attempts that the host makes for an insecure source can outlast the default of two seconds.
fn plain_host(sidecar: &str) -> PolicyHost {
    let host = policy_builder().insecure_source(sidecar).epoch_ticks(10);
    host.build().unwrap()
}

fn admit(sidecar: &str, settings: Value) -> Evaluation {
    let mut settings = settings;
    settings["sidecar"] = json!(sidecar);
    let host = plain_host(sidecar);
    host.evaluate(&fixtures::load("deployment-create"), &settings)
        .unwrap()
}

#[rstest]
#[case::down(nobody())]
#[case::no_http(peer(noise))]
#[case::errors(peer(server_error))]
#[case::wrong_json(peer(wrong_json))]
#[case::foreign_manifest(peer(foreign_manifest))]
fn a_broken_sidecar_changes_nothing(#[case] sidecar: String) {
    let kept = admit(&sidecar, json!({}));
    assert_untouched(&kept);
    assert!(!warnings(&kept).is_empty());
    for line in warnings(&kept) {
        assert!(line.len() <= 120 && !line.contains('\n'), "{line:?}");
    }

    let rejected = admit(&sidecar, json!({ "whenUnavailable": "reject" }));
    assert!(!rejected.response.allowed);
    let message = rejected.response.status.unwrap().message.unwrap();
    assert!(message.contains("nginx:1.27"), "{message}");
}

/// An open port that never answers: Kubewarden's client has no timeout, so the policy server would hang for ever with
/// any policy. What the policy can do is to ask no further images.
#[test]
fn a_sidecar_that_hangs_costs_one_question() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let sidecar = format!("localhost:{}", listener.local_addr().unwrap().port());
    // Each connection is held for a while and then dropped: slow, but not for ever.
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let _ = stream.set_read_timeout(Some(Duration::from_millis(300)));
            std::thread::spawn(move || {
                let mut stream = stream;
                silent(&mut stream);
            });
        }
    });
    let start = Instant::now();
    let evaluation = admit(&sidecar, json!({ "timeBudgetMs": 200 }));
    assert_untouched(&evaluation);
    assert_eq!(evaluation.calls.len(), 1, "{:?}", evaluation.calls);
    assert!(start.elapsed() < Duration::from_secs(20));
}

/// The budget ends the questions, not the request: what was not asked counts as not mirrored.
#[test]
fn a_slow_sidecar_does_not_exceed_the_budget() {
    // Each answer takes a quarter of a second and is a proper refusal.
    let sidecar = peer(|stream| {
        let mut buffer = [0; 4096];
        let _ = stream.read(&mut buffer);
        std::thread::sleep(Duration::from_millis(250));
        let body = json!({ "errors": [{ "code": "MANIFEST_UNKNOWN", "message": "image-mirror/pending: copying" }] }).to_string();
        let _ = stream.write_all(
            format!(
                "HTTP/1.1 404 Not Found\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
                body.len()
            )
            .as_bytes(),
        );
    });
    let evaluation = admit(&sidecar, json!({ "timeBudgetMs": 400 }));
    assert_untouched(&evaluation);
    let asked = evaluation.calls.len();
    assert!(
        (1..5).contains(&asked),
        "{asked} questions were asked of five"
    );
    // The epoch deadline of the host, which would have denied the request, was not reached.
    assert_eq!(evaluation.response.status, None);
}

#[test]
fn a_backup_registry_that_is_down_is_no_reason_to_stop_working() {
    let mut world = World::start();
    let mut review = fixtures::load("deployment-create");
    let stock = world.stock(&mut review);
    world.backup.stop();
    let evaluation = world.admit(&review, &world.settings());
    assert_untouched(&evaluation);
    assert!(!warnings(&evaluation).is_empty());
    for call in &evaluation.calls {
        // Half a second by design; the rest is for a busy machine. Waiting for the registry itself would take longer.
        assert!(call.elapsed < Duration::from_secs(5), "{call:?}");
    }
    world.backup.restart().unwrap();
    world.admit(&review, &world.settings());
    world.wait_until_copied(stock.keys());
    let evaluation = world.admit(&review, &world.settings());
    assert!(evaluation.mutated.is_some(), "{:?}", evaluation.response);
}

/// What is mirrored stays usable when the original is gone, also for a sidecar that was started afterwards.
#[test]
fn a_restarted_sidecar_finds_the_copies_without_upstream() {
    let mut world = World::start();
    let mut review = fixtures::load("daemonset-create");
    let stock = world.stock(&mut review);
    world.admit(&review, &world.settings());
    world.wait_until_copied(stock.keys());
    let expected = world.admit(&review, &world.settings()).mutated.unwrap();
    world.upstream.stop();

    let World {
        upstream,
        backup,
        sidecar,
        ..
    } = world;
    assert!(sidecar.stop().unwrap().success());
    let sidecar = Sidecar::builder()
        .registry(backup.as_ref(), REPOSITORY)
        .insecure_registry(&upstream.localhost())
        .start()
        .unwrap();
    let host = policy(&sidecar);
    let evaluation = host
        .evaluate(
            &review,
            &json!({ "sidecar": sidecar.facade(), "timeBudgetMs": 20_000 }),
        )
        .unwrap();
    assert_eq!(evaluation.mutated.unwrap(), expected);
}

/// The copy of an image that is not there fails, the policy says why, and nothing gets a tag.
#[test]
fn a_missing_original_is_named() {
    let world = World::start();
    let mut review = fixtures::load("pod-create");
    fixtures::move_images(&mut review, &world.upstream.localhost());
    world.admit(&review, &world.settings());
    world
        .sidecar
        .wait_for(COPY_DEADLINE, |event| event["message"] == "copy failed")
        .unwrap();
    let evaluation = world.admit(&review, &world.settings());
    assert_untouched(&evaluation);
    let lines = warnings(&evaluation);
    assert!(
        lines
            .iter()
            .any(|line| line.contains("is not mirrored: the registry has no")),
        "{lines:?}"
    );
    let pushes = world.backup.requests();
    let pushes = pushes
        .iter()
        .filter(|request| request.method != "GET" && request.method != "HEAD");
    assert_eq!(pushes.count(), 0);
}

/// A backup registry that takes longer to say "missing" than an answer may take still gets its copies.
#[test]
fn a_slow_backup_registry_only_delays() {
    let backup = peer(|stream| {
        let mut buffer = [0; 4096];
        let length = stream.read(&mut buffer).unwrap_or_default();
        let status = if buffer[..length].starts_with(b"GET /v2/ ") {
            "200 OK"
        } else {
            std::thread::sleep(Duration::from_millis(700));
            "404 Not Found"
        };
        let head = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
        let _ = stream.write_all(head.as_bytes());
    });
    let sidecar = Sidecar::builder()
        .argument("--registry")
        .argument(&backup)
        .argument("--repository")
        .argument("acme")
        .insecure_registry(&backup)
        .environment("LOG_LEVEL", "debug")
        .start()
        .unwrap();
    let host = policy(&sidecar);
    let evaluation = host
        .evaluate(
            &fixtures::load("pod-create"),
            &json!({ "sidecar": sidecar.facade(), "timeBudgetMs": 20_000 }),
        )
        .unwrap();
    assert_untouched(&evaluation);
    let lines = warnings(&evaluation);
    assert!(
        lines
            .iter()
            .any(|line| line.contains("responds too slowly")),
        "{lines:?}"
    );
    sidecar
        .wait_for(COPY_DEADLINE, |event| event["message"] == "copying image")
        .unwrap();
}
