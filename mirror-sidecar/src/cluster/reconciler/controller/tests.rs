//! What is told about images in use, and how often, with a clock that jumps.

use std::num::NonZeroUsize;
use std::sync::Mutex;

use axum::http::Method;
use kube::Client;
use mirror_contract::{Backup, Naming};
use mirror_copy::{Registries, RegistryOptions};
use serde_json::json;
use tokio::time::advance;

use super::*;
use crate::cluster::config::OnMovedTag;
use crate::cluster::events::EventMetrics;
use crate::cluster::index::tests::{deployment, seen};
use crate::cluster::reconciler::ReconcilerMetrics;
use crate::cluster::reconciler::image_checks::Presence;
use crate::cluster::reconciler::image_state::ImageState;
use crate::cluster::testing::{api_server, found, refusal};
use crate::cluster::{
    CopyStatuses, Events, ExcludedNamespaces, Index, Replicas, Rules, SharedIndex,
};
use crate::copy_queue::CopyMetrics;
use crate::locations::Locations;
use crate::lookup::Lookup;
use crate::metrics::Metrics;
use crate::namespace_budget::{BudgetMetrics, NamespaceBudgets};

const IMAGE: &str = "quay.io/a/b:1";

/// An API server for Events that is in order or not; and the reasons of those that it was asked to create.
#[derive(Clone, Default)]
struct Server(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    is_away: bool,
    reasons: Vec<String>,
}

impl Server {
    fn client(&self) -> Client {
        let server = self.clone();
        let (client, _) = api_server(move |asked| {
            let mut state = server.0.lock().unwrap();
            if state.is_away {
                return Some(refusal(503, "ServiceUnavailable", None));
            }
            if asked.method == Method::POST {
                let reason = asked.body["reason"].as_str().unwrap();
                state.reasons.push(reason.to_owned());
            }
            Some(found(&json!({ "metadata": {} })))
        });
        client
    }

    fn set_away(&self, is_away: bool) {
        self.0.lock().unwrap().is_away = is_away;
    }

    fn count(&self, reason: &str) -> usize {
        let state = self.0.lock().unwrap();
        state.reasons.iter().filter(|told| *told == reason).count()
    }
}

/// A controller of one image, which a Deployment uses. Nothing looks at a registry here.
fn event_metrics() -> EventMetrics {
    EventMetrics::register(&mut Metrics::new())
}

fn controller(events: Events) -> Controller {
    let backup = Backup::new("backup.test:5000", "acme", Naming::Flat).unwrap();
    let cluster = Arc::new(SharedIndex::new(Index::new(Rules {
        backup: backup.clone(),
        former_backups: crate::former_backups::FormerBackups::default(),
        excluded_namespaces: ExcludedNamespaces::default(),
        pull_secret: None,
        former_pull_secrets: Vec::new(),
        skip_owners: Vec::new(),
    })));
    cluster.apply(seen(deployment("web", &[IMAGE])));
    let registries = || Registries::new(RegistryOptions::default()).unwrap();
    let images = Locations::new(backup, &registries(), registries()).unwrap();
    let metrics = &mut Metrics::new();
    let budgets = NamespaceBudgets::new(BudgetMetrics::register(metrics));
    let copies = CopyMetrics::register(metrics);
    Controller::new(Reconciler {
        cluster,
        lookup: Lookup::new(Arc::new(images), NonZeroUsize::MIN, budgets, copies),
        copy_status: CopyStatuses::new(),
        replicas: Replicas::alone(),
        events,
        metrics: ReconcilerMetrics::register(metrics),
        interval: Duration::from_hours(24),
        on_moved_tag: OnMovedTag::Update,
    })
}

/// Shows the image to the controller.
fn look(controller: &mut Controller, see: impl FnOnce(&mut ImageState, Clock<'_>)) {
    let now = Instant::now();
    if controller.images.is_empty() {
        controller.sync_images(now);
    }
    let clock = Clock {
        recheck_schedule: &controller.recheck_schedule,
        now,
    };
    let (image, entry) = controller.images.iter_mut().next().unwrap();
    see(&mut entry.state, clock);
    controller.changed.insert(Arc::clone(image));
}

fn complete() -> Presence {
    let digest = format!("sha256:{}", "a".repeat(64));
    Presence::Complete {
        digest: mirror_contract::Digest::parse(&digest)
            .unwrap()
            .into_owned(),
        repaired: false,
    }
}

fn is_last_copy(item: &mut ImageState, clock: Clock<'_>) {
    item.backup_checked(Ok(complete()), clock);
    for _ in 0..2 {
        item.upstream_checked(Upstream::Absent, OnMovedTag::Update, clock);
    }
}

fn is_made(item: &mut ImageState, clock: Clock<'_>) {
    item.backup_checked(Ok(Presence::Missing), clock);
    item.job_changed(None, clock);
    item.backup_checked(Ok(complete()), clock);
}

/// Lets the controller do what it does without news.
async fn pass(controller: &mut Controller, minutes: u32) {
    for _ in 0..minutes {
        controller.publish(Instant::now());
        // Time for the writer.
        for _ in 0..60 {
            advance(Duration::from_secs(1)).await;
            for _ in 0..20 {
                tokio::task::yield_now().await;
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_last_copy_is_told_each_hour_while_it_lasts() {
    let server = Server::default();
    let mut controller = controller(Events::start(server.client(), None, event_metrics()));
    look(&mut controller, is_last_copy);
    pass(&mut controller, 50).await;
    assert_eq!(server.count("LastCopy"), 1);
    pass(&mut controller, 150).await;
    assert_eq!(server.count("LastCopy"), 4);
    look(&mut controller, |item, clock| {
        item.upstream_checked(Upstream::Is(known(item)), OnMovedTag::Update, clock);
    });
    pass(&mut controller, 150).await;
    assert_eq!(server.count("LastCopy"), 4);
}

fn known(item: &ImageState) -> mirror_contract::Digest<'static> {
    item.known().unwrap().clone()
}

#[tokio::test(start_paused = true)]
async fn that_a_copy_was_made_is_told_once() {
    let server = Server::default();
    let mut controller = controller(Events::start(server.client(), None, event_metrics()));
    look(&mut controller, is_made);
    pass(&mut controller, 200).await;
    assert_eq!(server.count("Mirrored"), 1);
}

#[tokio::test(start_paused = true)]
async fn what_could_not_be_told_is_told_when_the_api_server_is_back() {
    for see in [is_made, is_last_copy] {
        let server = Server::default();
        server.set_away(true);
        let mut controller = controller(Events::start(server.client(), None, event_metrics()));
        look(&mut controller, see);
        pass(&mut controller, 10).await;
        server.set_away(false);
        pass(&mut controller, 10).await;
        let told = server.count("Mirrored") + server.count("LastCopy");
        assert_eq!(told, 1);
    }
}

/// The queue serves an image in the turns of all namespaces that use it, by its own name or by that of its copy.
#[tokio::test(start_paused = true)]
async fn a_copy_is_requested_for_the_namespaces_that_use_it() {
    let controller = controller(Events::none());
    let copy = "backup.test:5000/acme/quay.io-a-b:1";
    for (namespace, image) in [
        ("team-a", IMAGE),
        ("team-b", copy),
        ("team-b", IMAGE),
        ("team-c", "c:1"),
    ] {
        let mut workload = deployment("other", &[image]);
        workload.key.namespace = namespace.into();
        controller.ctx.cluster.apply(seen(workload));
    }
    let image = |name: &str| Arc::new(name.parse::<ImageRef<'static>>().unwrap());
    let found = namespaces(&controller.ctx, &image(IMAGE), &[image(copy)]);
    let mut found: Vec<_> = found.iter().map(|name| &**name).collect();
    found.sort_unstable();
    let own = deployment("web", &[]).key.namespace;
    let mut expected = [&*own, "team-a", "team-b"];
    expected.sort_unstable();
    assert_eq!(found, expected);
}
