use std::collections::BTreeSet;
use std::time::Duration;

use axum::Router;
use axum::http::StatusCode;
use mirror_copy::{Registries, RegistryOptions, RetryPolicy};
use tokio::net::TcpListener;

use super::*;

/// A registry that answers everything with `status`; gives its address.
async fn registry(status: StatusCode) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let router = Router::new().fallback(move || async move { status });
    tokio::spawn(async move { axum::serve(listener, router).await });
    address
}

fn registries(hosts: &[&String]) -> Registries {
    Registries::new(RegistryOptions {
        insecure_hosts: hosts.iter().map(ToString::to_string).collect(),
        retry: RetryPolicy {
            attempts: 1,
            first_delay: Duration::from_millis(1),
            ..RetryPolicy::default()
        },
        ..RegistryOptions::default()
    })
    .unwrap()
}

fn line(metrics: &Metrics, name: &str, label: &str, value: &str) -> Option<String> {
    let start = format!("image_mirror_{name}{{{label}=\"{value}\"}} ");
    let text = metrics.encode().unwrap();
    let rest = text.lines().find_map(|line| line.strip_prefix(&start));
    rest.map(ToOwned::to_owned)
}

#[tokio::test]
async fn each_known_registry_is_shown_by_name_and_the_rest_as_one() {
    let ok = StatusCode::OK;
    let (backup, used, invented) = (registry(ok).await, registry(ok).await, registry(ok).await);
    let busy = registry(StatusCode::TOO_MANY_REQUESTS).await;
    let all = [&backup, &used, &invented, &busy];
    let (targets, sources) = (registries(&all), registries(&all));
    let mut metrics = Metrics::new();
    let registry_metrics = RegistryMetrics::register(&mut metrics);
    let requests = |host: &str| line(&metrics, "registry_requests_total", "host", host);
    let pauses = |host: &str| line(&metrics, "registry_pauses_total", "host", host);
    assert_eq!(requests("other").as_deref(), Some("0"));

    registry_metrics.follow([&*backup], vec![targets.clone(), sources.clone()]);
    let ping = async |set: &Registries, host: &str| {
        let _ = set.get(host).unwrap().ping().await;
    };
    ping(&targets, &backup).await;
    // As a source it is the same registry.
    ping(&sources, &backup).await;
    ping(&sources, &used).await;
    assert_eq!(requests(&backup).as_deref(), Some("2"));
    assert_eq!(requests("other").as_deref(), Some("1"));
    assert_eq!(requests(&used), None);

    let named = [used.clone(), busy.clone()];
    registry_metrics.name_used_hosts(move || named.to_vec());
    assert_eq!(
        requests(&used).as_deref(),
        Some("0"),
        "what came before is in `other`"
    );
    for _ in 0..3 {
        ping(&sources, &used).await;
        ping(&sources, &invented).await;
    }
    ping(&sources, &busy).await;
    assert_eq!(requests(&used).as_deref(), Some("3"));
    assert_eq!(requests("other").as_deref(), Some("4"));
    assert_eq!(requests(&busy).as_deref(), Some("1"));
    assert_eq!(pauses(&busy).as_deref(), Some("1"));
    assert_eq!(pauses(&used).as_deref(), Some("0"));
    assert_eq!(pauses("other").as_deref(), Some("0"));
}

/// Anybody who creates Pods can name a thousand registries.
#[tokio::test]
async fn invented_registries_do_not_get_figures_without_end() {
    let mut metrics = Metrics::new();
    let registry_metrics = RegistryMetrics::register(&mut metrics);
    registry_metrics.follow(["backup.test"], vec![registries(&[])]);
    for round in 0..3 {
        let hosts: Vec<_> = (0..1000)
            .map(|number| format!("r{round}-{number}.test"))
            .collect();
        registry_metrics.name_used_hosts(move || hosts.clone());
        metrics.encode().unwrap();
    }
    let text = metrics.encode().unwrap();
    let shown = text
        .lines()
        .filter(|line| line.starts_with("image_mirror_registry_requests_total{"));
    let shown: BTreeSet<_> = shown.collect();
    assert_eq!(shown.len(), 22, "{text}");
    for host in ["backup.test", "r0-0.test", "r0-19.test", "other"] {
        assert!(
            shown
                .iter()
                .any(|line| line.contains(&format!("\"{host}\""))),
            "{host}"
        );
    }
}
