//! One image that ends the process must not end it again and again.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::ensure;
use axum::http::Method;
use serde_json::{Value, json};

use super::site::{Site, wait};
use super::{Attack, Measured, Setup};
use testkit::api_server::{ApiServer, Page};
use testkit::blocking;
use testkit::scripted::{Action, Fake, image, noise};

/// How long the suspect must not be tried again after a restart.
const ISOLATED: Duration = Duration::from_secs(10);

pub const ATTACKS: &[Attack] = &[Attack {
    name: "SIGKILL during a copy, and a restart: the other images, and the image whose copy was running",
    bound: "others copied, the suspect not requested within 10 s",
    is_short: false,
    run: killed_during_a_copy,
}];

fn killed_during_a_copy(setup: Setup) -> anyhow::Result<Measured> {
    let upstream = blocking::run(Fake::start());
    let suspect = blocking::run(Fake::start_at("127.0.0.2:0"));
    for (fake, seed) in [(&upstream, 1), (&suspect, 2)] {
        fake.put_tagged("shop/app", "1", &image(seed, &[noise(seed, 5000)]));
    }
    suspect.fault(Method::GET, "/blobs/", usize::MAX, Action::Hang);
    let images: Arc<Mutex<Vec<String>>> = Arc::default();
    let listed = Arc::clone(&images);
    let server = ApiServer::start(move |path, _, _| {
        let images = listed.lock().unwrap_or_else(PoisonError::into_inner);
        let pods = images.iter().enumerate();
        Some(match path {
            "/api/v1/pods" => Page::new(pods.map(|(number, image)| pod(number, image)), false),
            "/api/v1/namespaces" => Page::new([namespace()], false),
            _ => Page::default(),
        })
    });
    let kubeconfig = server.kubeconfig()?;
    let start = |backup: Fake| {
        Site::start_again(setup, &[&upstream, &suspect], backup, |mut sidecar| {
            for argument in [
                "--kubernetes=on",
                "--replica=one",
                "--own-namespace=image-mirror",
            ] {
                sidecar = sidecar.argument(argument);
            }
            sidecar.environment("KUBECONFIG", kubeconfig.path())
        })
    };
    let add = |fake: &Fake| {
        let image = format!("{}/shop/app:1", fake.host());
        images
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(image);
    };
    add(&suspect);
    let site = start(blocking::run(Fake::start()))?;
    let is_running = wait(Duration::from_secs(30), || {
        suspect.count(&Method::GET, "/blobs/") > 0
    });
    ensure!(is_running, "the copy of the suspect did not begin");
    // The Lease that lists it is renewed every five seconds.
    let renewals = || server.server.count(&Method::PUT, "/leases/");
    let before = renewals();
    let is_recorded = wait(Duration::from_secs(30), || renewals() >= before + 2);
    ensure!(is_recorded, "the Lease was not renewed");
    let backup = site.backup.clone();
    site.sidecar.kill()?;

    add(&upstream);
    suspect.clear_log();
    let site = start(backup.clone())?;
    let is_copied = wait(Duration::from_secs(30), || backup.tags() > 0);
    std::thread::sleep(ISOLATED);
    let again = suspect.log().len();
    drop(site);
    let others = if is_copied {
        "others copied"
    } else {
        "others **not** copied"
    };
    Ok(Measured {
        value: format!("{others}, {again} requests for the suspect"),
        is_within_bound: is_copied && again == 0,
    })
}

fn pod(number: usize, image: &str) -> Value {
    json!({
        "kind": "Pod", "apiVersion": "v1",
        "metadata": { "name": format!("pod-{number}"), "namespace": "shop", "uid": format!("pod-{number}"), "resourceVersion": "7" },
        "spec": { "containers": [{ "name": "app", "image": image }] },
    })
}

fn namespace() -> Value {
    json!({ "metadata": { "name": "shop", "uid": "shop", "resourceVersion": "1" }, "status": { "phase": "Active" } })
}
