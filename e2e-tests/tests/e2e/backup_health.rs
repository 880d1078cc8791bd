//! What an operator reads when the backup registry cannot be used: one line within seconds of the start or of the change,
//! with the next step, and one when it is well again.

use std::net::TcpListener;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rstest::rstest;
use serde_json::Value;
use testkit::blocking;
use testkit::scripted::{Auth, Fake};
use testkit::sidecar::{Sidecar, SidecarBuilder};
use testkit::tls::Tls;

use crate::support::REPOSITORY;

/// How long a line may take on a busy machine; usually it is three seconds.
const SOON: Duration = Duration::from_secs(30);

const RECOVERED: &str = "the backup registry can be used again";
const REFUSED: &str =
    "the backup registry refuses the login; correct --registry-username and its password";

fn serve(host: &str) -> SidecarBuilder {
    Sidecar::builder()
        .argument(format!("--registry={host}"))
        .argument(format!("--repository={REPOSITORY}"))
        .without_facade_credential()
}

fn with_login(host: &str, password: &str) -> SidecarBuilder {
    serve(host)
        .insecure_registry(host)
        .argument("--registry-username=pusher")
        .argument(format!("--registry-password={password}"))
}

/// The lines about the backup registry, once there are so many.
fn wait(sidecar: &Sidecar, count: usize) -> Vec<(String, String)> {
    let about_backup = |event: &Value| {
        let message = event["message"].as_str()?;
        let is_about = message.contains("backup registry");
        let level = event["level"].as_str()?;
        (is_about && level != "DEBUG").then(|| (level.to_owned(), message.to_owned()))
    };
    let start = Instant::now();
    loop {
        let lines: Vec<_> = sidecar.events().iter().filter_map(about_backup).collect();
        if lines.len() >= count {
            return lines;
        }
        let log = || sidecar.lines().join("\n");
        assert!(start.elapsed() < SOON, "{lines:?}:\n{}", log());
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn warning(text: &str) -> (String, String) {
    ("WARN".to_owned(), text.to_owned())
}

fn recovered() -> (String, String) {
    ("INFO".to_owned(), RECOVERED.to_owned())
}

fn basic(password: &str) -> Auth {
    Auth::Basic {
        user: "pusher".to_owned(),
        password: password.to_owned(),
    }
}

fn bearer(password: &str) -> Auth {
    Auth::Bearer {
        user: Some(("pusher".to_owned(), password.to_owned())),
        expires_in: "300",
    }
}

#[rstest]
#[case::basic(basic)]
#[case::bearer(bearer)]
fn a_wrong_login_is_reported_once_at_the_start_and_at_each_change(#[case] auth: fn(&str) -> Auth) {
    let backup = blocking::run(Fake::start());
    backup.set(|knobs| knobs.auth = auth("right"));
    let sidecar = with_login(&backup.host(), "wrong")
        .start_listening()
        .unwrap();
    let start = sidecar
        .wait_for(SOON, |event| event["message"] == "starting mirror-sidecar")
        .unwrap();
    let place = format!("{}/{REPOSITORY}", backup.host());
    assert_eq!(start["backup"], place.as_str());
    assert_eq!(
        (&start["naming"], &start["kubernetes"]),
        (&"flat".into(), &"off".into())
    );
    assert_eq!(start["version"], env!("CARGO_PKG_VERSION"));

    assert_eq!(wait(&sidecar, 1), [warning(REFUSED)]);
    backup.set(|knobs| knobs.auth = auth("wrong"));
    assert_eq!(wait(&sidecar, 2)[1..], [recovered()]);
    backup.revoke_tokens();
    backup.set(|knobs| knobs.auth = auth("right"));
    assert_eq!(wait(&sidecar, 3)[2..], [warning(REFUSED)]);
}

#[test]
fn a_registry_that_does_not_listen_is_reported_once_until_it_does() {
    let address = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .to_string();
    let sidecar = serve(&address)
        .insecure_registry(&address)
        .start_listening()
        .unwrap();
    let lines = wait(&sidecar, 1);
    let expected = "the backup registry cannot be reached or used; check the registry, --registry, and the network between \
                    it and mirror-sidecar";
    assert_eq!(lines, [warning(expected)]);
    let backup = blocking::run(Fake::start_at(&address));
    assert_eq!(wait(&sidecar, 2)[1..], [recovered()]);
    drop(backup);
}

#[test]
fn an_expired_certificate_is_reported_with_what_to_do() {
    let tls = Tls::generate().unwrap();
    tls.expire().unwrap();
    let backup = blocking::run(Fake::start_tls(&tls));
    let sidecar = serve(&backup.host())
        .argument(format!("--ca-file={}", tls.ca_path().display()))
        .start_listening()
        .unwrap();
    let lines = wait(&sidecar, 1);
    let expected = "the certificate of the backup registry is not accepted; renew it, or name the authority that signed it \
                    with --ca-file";
    assert_eq!(lines, [warning(expected)]);
    let events = sidecar.events();
    let reason = events.iter().find_map(|event| event["reason"].as_str());
    assert!(reason.unwrap().contains("has expired"), "{reason:?}");
}

#[test]
fn an_expired_certificate_of_the_facade_is_reported_until_it_is_renewed() {
    let backup = blocking::run(Fake::start());
    let host = backup.host();
    let tls = Arc::new(Tls::generate().unwrap());
    tls.expire().unwrap();
    let sidecar = serve(&host)
        .insecure_registry(&host)
        .tls(Arc::clone(&tls))
        .start_listening()
        .unwrap();
    let wait = |message: &str| {
        let is_it = |event: &Value| event["message"] == message;
        sidecar.wait_for(SOON, is_it).unwrap()
    };
    let expired =
        "the certificate of the facade has expired; renew the files of --tls-cert and --tls-key";
    let warning = wait(expired);
    assert_eq!(warning["level"], "WARN");
    let period = "it is valid from 2020-01-01T00:00:00Z to 2021-01-01T00:00:00Z";
    assert_eq!(warning["reason"], period);
    tls.renew().unwrap();
    wait("the certificate of the facade is valid");
    let events = sidecar.events();
    let warnings = events.iter().filter(|event| event["message"] == expired);
    assert_eq!(warnings.count(), 1);
}
