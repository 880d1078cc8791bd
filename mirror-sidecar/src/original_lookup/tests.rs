//! Lookups of originals at registries that respond and at registries that do not.

use std::num::NonZeroUsize;

use axum::Router;
use axum::http::header::CONTENT_TYPE;
use mirror_contract::{Backup, Naming};
use mirror_copy::{Registries, RegistryOptions};
use tokio::net::TcpListener;

use super::*;
use crate::copy_queue::CopyMetrics;
use crate::metrics::Metrics;
use crate::namespace_budget::{BudgetMetrics, NamespaceBudgets};

const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

/// A registry that has every image, with one digest.
async fn honest_registry() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let host = listener.local_addr().unwrap().to_string();
    let manifest = || async {
        let media_type = "application/vnd.oci.image.manifest.v1+json";
        let digest = ("Docker-Content-Digest", DIGEST);
        ([(CONTENT_TYPE.as_str(), media_type), digest], "")
    };
    let router = Router::new().fallback(manifest);
    tokio::spawn(async move { axum::serve(listener, router).await });
    host
}

/// A lookup of originals in these registries. Those in `in_use` are known.
fn originals(hosts: Vec<String>, in_use: &[ImageRef<'static>]) -> OriginalLookup {
    let options = RegistryOptions {
        insecure_hosts: hosts.into_iter().collect(),
        ..RegistryOptions::default()
    };
    let registries = Registries::new(options).unwrap();
    let backup = Backup::new("backup.test", "acme", Naming::Flat).unwrap();
    let locations = Locations::new(backup, &registries, registries.clone()).unwrap();
    let metrics = &mut Metrics::new();
    let budgets = NamespaceBudgets::new(BudgetMetrics::register(metrics));
    let copies = CopyMetrics::register(metrics);
    let lookup = Lookup::new(Arc::new(locations), NonZeroUsize::MIN, &budgets, &copies);
    let in_use = vec![CopyStatuses::not_checked(in_use)];
    OriginalLookup::new(&ByBackup::new(lookup), in_use)
}

fn image(host: &str, path: &str) -> ImageRef<'static> {
    format!("{host}/{path}@{DIGEST}").parse().unwrap()
}

/// Registries of a tenant accept connections and never respond. Each address counts as a domain.
#[tokio::test]
async fn slow_registries_with_many_names_do_not_delay_others() {
    let slow = std::net::TcpListener::bind("0.0.0.0:0").unwrap();
    let port = slow.local_addr().unwrap().port();
    let slow = (0..600).map(|number| format!("127.1.{}.{}:{port}", number / 200, number % 200 + 1));
    let slow: Vec<_> = slow.collect();
    for is_slow_in_use in [false, true] {
        let honest = honest_registry().await;
        let first = image(&honest, "first");
        let apps = [1, 2, 3].map(|number| image(&honest, &format!("app{number}")));
        let hostile: Vec<_> = slow.iter().map(|host| image(host, "x")).collect();
        let mut in_use = apps.to_vec();
        in_use.push(first.clone());
        if is_slow_in_use {
            in_use.extend(hostile.iter().cloned());
        }
        let mut hosts = slow.clone();
        hosts.push(honest);
        let originals = originals(hosts, &in_use);
        // Among images in use, a registry is known by an earlier response.
        assert_eq!(originals.find(&first, Mode::Ensure).await, Ok(()));
        let lookups = hostile
            .iter()
            .map(|image| originals.find(image, Mode::Ensure));
        let found = futures_util::future::join_all(lookups).await;
        let is_pending = |found: &Found| {
            let refusal = found.as_ref().map_err(|refusal| refusal.kind);
            refusal == Err(RefusalKind::Pending)
        };
        assert!(found.iter().all(is_pending), "{found:?}");
        for app in &apps {
            assert_eq!(originals.find(app, Mode::Ensure).await, Ok(()));
        }
    }
}

/// A lookup without room is not refused: it waits, and the next request gets its result.
#[tokio::test(start_paused = true)]
async fn a_lookup_without_room_waits() {
    let room = Room::default();
    let request = || Request {
        domain: "quay.io".into(),
        class: Class::Untried,
        is_in_use: true,
    };
    let mut places = Vec::new();
    while places.len() < MAX_RUNNING {
        places.push(room.enter(request()).unwrap());
    }
    let mut last = places.pop().unwrap();
    let waits = tokio::spawn(async move { last.wait().await });
    tokio::task::yield_now().await;
    drop(places);
    assert!(waits.await.unwrap());
    let places: Vec<_> = (0..MAX_RUNNING).map(|_| room.enter(request())).collect();
    let mut last = room.enter(request()).unwrap();
    assert!(!last.wait().await, "not for ever");
    drop(places);
}
