//! The reports about images in use, with a paused clock.

use std::num::NonZeroUsize;
use std::sync::Mutex;

use axum::http::Method;
use kube::Client;
use mirror_contract::{Backup, BackupName, Naming};
use mirror_copy::{Registries, RegistryOptions};
use serde_json::{Value, json};
use tokio::time::advance;

use super::*;
use crate::backups::{BackupLocations, ByBackup, OtherBackups};
use crate::cluster::config::OnMovedTag;
use crate::cluster::copy_status::Counts;
use crate::cluster::events::EventMetrics;
use crate::cluster::index::tests::{deployment, seen};
use crate::cluster::policies::{Policies, Policy};
use crate::cluster::reconciler::ReconcilerMetrics;
use crate::cluster::reconciler::UpstreamLimits;
use crate::cluster::reconciler::image_checks::Presence;
use crate::cluster::reconciler::image_state::ImageState;
use crate::cluster::reconciler::recheck_schedule::Clock;
use crate::cluster::testing::{api_server, found, refusal, rules};
use crate::cluster::{
    CopyStatuses, Events, ExcludedNamespaces, Index, Replicas, Rules, SharedIndex,
};
use crate::copy_queue::{CopyMetrics, SharedQueue};
use crate::former_backups::FormerBackups;
use crate::locations::Locations;
use crate::lookup::Lookup;
use crate::metrics::Metrics;
use crate::namespace_budget::{BudgetMetrics, NamespaceBudgets};
use crate::origin::BackupOrigin;

const IMAGE: &str = "quay.io/a/b:1";

/// An API server for Events, and the reasons of those that it created.
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
        state
            .reasons
            .iter()
            .filter(|reported| *reported == reason)
            .count()
    }
}

fn event_metrics() -> EventMetrics {
    EventMetrics::register(&mut Metrics::new())
}

/// A controller of one image, which a Deployment uses. No registry is checked here.
fn controller(events: Events) -> Controller {
    let backup = Backup::new("backup.test:5000", "acme", Naming::Flat).unwrap();
    let cluster = Arc::new(SharedIndex::new(Index::new(rules(backup.clone()))));
    cluster.apply(seen(deployment("web", &[IMAGE])));
    let registries = || Registries::new(RegistryOptions::default()).unwrap();
    let images = Locations::new(backup, &registries(), registries()).unwrap();
    let metrics = &mut Metrics::new();
    let budgets = NamespaceBudgets::new(BudgetMetrics::register(metrics));
    let copies = CopyMetrics::register(metrics);
    Controller::new(Reconciler {
        cluster,
        lookup: Lookup::new(Arc::new(images), NonZeroUsize::MIN, &budgets, &copies),
        copy_status: CopyStatuses::new(),
        replicas: Replicas::alone(),
        events,
        metrics: ReconcilerMetrics::register(metrics),
        upstream_limits: UpstreamLimits::default(),
        interval: Duration::from_hours(24),
        on_moved_tag: OnMovedTag::Update,
    })
}

/// Changes the state of the image.
fn observe(controller: &mut Controller, see: impl FnOnce(&mut ImageState, Clock<'_>)) {
    let now = Instant::now();
    if controller.images.is_empty() {
        controller.sync_images(now);
    }
    let clock = controller.recheck_schedule.at(now);
    let (image, state) = controller.images.iter_mut().next().unwrap();
    see(state, clock);
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

fn is_last_copy(state: &mut ImageState, clock: Clock<'_>) {
    state.backup_checked(Ok(complete()), clock);
    for _ in 0..2 {
        state.upstream_checked(Upstream::Absent, OnMovedTag::Update, clock);
    }
}

fn is_made(state: &mut ImageState, clock: Clock<'_>) {
    state.backup_checked(Ok(Presence::Missing), clock);
    state.job_changed(None, clock);
    state.backup_checked(Ok(complete()), clock);
}

/// Lets the controller repeat its reports.
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
async fn the_last_copy_is_reported_each_hour() {
    let server = Server::default();
    let mut controller = controller(Events::start(server.client(), None, event_metrics()));
    observe(&mut controller, is_last_copy);
    pass(&mut controller, 50).await;
    assert_eq!(server.count("LastCopy"), 1);
    pass(&mut controller, 150).await;
    assert_eq!(server.count("LastCopy"), 4);
    observe(&mut controller, |state, clock| {
        state.upstream_checked(Upstream::Is(known(state)), OnMovedTag::Update, clock);
    });
    pass(&mut controller, 150).await;
    assert_eq!(server.count("LastCopy"), 4);
}

fn known(state: &ImageState) -> mirror_contract::Digest<'static> {
    state.known().unwrap().clone()
}

#[tokio::test(start_paused = true)]
async fn a_new_copy_is_reported_once() {
    let server = Server::default();
    let mut controller = controller(Events::start(server.client(), None, event_metrics()));
    observe(&mut controller, is_made);
    pass(&mut controller, 200).await;
    assert_eq!(server.count("Mirrored"), 1);
}

#[tokio::test(start_paused = true)]
async fn reports_are_repeated_after_an_outage_of_the_api_server() {
    for see in [is_made, is_last_copy] {
        let server = Server::default();
        server.set_away(true);
        let mut controller = controller(Events::start(server.client(), None, event_metrics()));
        observe(&mut controller, see);
        pass(&mut controller, 10).await;
        server.set_away(false);
        pass(&mut controller, 10).await;
        let reports = server.count("Mirrored") + server.count("LastCopy");
        assert_eq!(reports, 1);
    }
}

#[test]
fn a_failing_backup_gets_one_check_at_a_time() {
    let limits = |failures| {
        [Check::Backup, Check::Upstream, Check::Parts].map(|check| max_in_flight(check, failures))
    };
    assert_eq!([0, 1, 2].map(limits), [[16, 8, 4], [1, 8, 0], [1, 8, 0]]);
}

#[tokio::test(start_paused = true)]
async fn no_parts_are_checked_while_the_backup_fails() {
    let mut controller = controller(Events::none());
    observe(&mut controller, |state, clock| {
        state.backup_checked(Ok(complete()), clock);
    });
    let (image, state) = controller.images.iter().next().unwrap();
    controller.work_queue.set(image, state);
    controller.backup.fail(Instant::now());
    // The backoff is over, but nobody has seen the backup since.
    advance(Duration::from_mins(1)).await;
    for has_succeeded in [false, true] {
        if has_succeeded {
            controller.backup.succeed();
        }
        let now = Instant::now();
        controller.begin_checks(now);
        let in_flight = *controller.in_flight.of(Check::Parts);
        assert_eq!(in_flight, usize::from(has_succeeded));
        assert!(controller.wake_at(now) > now, "not a busy loop");
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
    let found = controller.ctx.namespaces(&image(IMAGE), &[image(copy)]);
    let mut found: Vec<_> = found.iter().map(|name| &**name).collect();
    found.sort_unstable();
    let own = deployment("web", &[]).key.namespace;
    let mut expected = [&*own, "team-a", "team-b"];
    expected.sort_unstable();
    assert_eq!(found, expected);
}

/// The controller of one of the backups `default`, `team-a` and `team-b`, with these rules and images of a Deployment in the
/// namespace `team-a`.
fn controller_of_backup(
    own: &'static str,
    events: Events,
    rules_of_policy: &Value,
    images: &[String],
) -> Controller {
    let name = |text| BackupName::parse(text).unwrap();
    let backup = |repository| Backup::new("harbor.test", repository, Naming::Flat).unwrap();
    let mut backups = ByBackup::new(backup("main"));
    backups.insert(name("team-a"), backup("team-a"));
    backups.insert(name("team-b"), backup("team-b"));
    let locations =
        |backup: &Backup| BackupLocations::new(backup.clone(), FormerBackups::default());
    let locations = backups.map(|_, backup| locations(backup));
    let others = OtherBackups::of(&name(own), &locations);
    let backup = backups.get(&name(own)).unwrap().clone();
    let policies = Policies::default();
    let settings = json!({ "sidecar": "a.b:1", "rules": rules_of_policy });
    policies.publish(vec![Arc::new(Policy::of_settings(&settings).unwrap())]);
    let excluded = ExcludedNamespaces::default().with_policies(policies);
    let index = Index::new(Rules {
        other_backups: others.clone(),
        excluded_namespaces: excluded,
        ..rules(backup.clone())
    });
    let cluster = Arc::new(SharedIndex::new(index));
    let images: Vec<_> = images.iter().map(String::as_str).collect();
    let mut workload = deployment("web", &images);
    workload.key.namespace = "team-a".into();
    cluster.apply(seen(workload));
    let registries = || Registries::new(RegistryOptions::default()).unwrap();
    let locations = Locations::new(backup, &registries(), registries()).unwrap();
    let locations = Arc::new(locations.with_other_backups(others));
    let metrics = &mut Metrics::new();
    let budgets = NamespaceBudgets::new(BudgetMetrics::register(metrics));
    let copies = CopyMetrics::register(metrics);
    let queue = SharedQueue::new(NonZeroUsize::MIN);
    Controller::new(Reconciler {
        cluster,
        lookup: Lookup::of_backup(
            locations,
            BackupOrigin::File(name(own)),
            None,
            &queue,
            &budgets,
            &copies,
        ),
        copy_status: CopyStatuses::new(),
        replicas: Replicas::alone(),
        events,
        metrics: ReconcilerMetrics::register(metrics),
        interval: Duration::from_hours(24),
        on_moved_tag: OnMovedTag::Update,
        upstream_limits: UpstreamLimits::default(),
    })
}

fn only_team_a() -> Value {
    json!([
        { "namespaces": ["team-a"], "action": "mirror", "backup": "team-a" },
        { "action": "mirror", "backup": "team-b" },
    ])
}

/// A tenant can name any image of any backup. This must neither push anything there with the login of another team, nor
/// tell the tenant what is there, nor count as a failure of the backup. A copy that a rule left behind is named alike.
#[tokio::test(start_paused = true)]
async fn a_name_in_the_backup_of_another_team_does_nothing_there() {
    let images = ["evil.example.com-x:1", "quay.io-a-b:1", "tool:1"];
    let images = images.map(|image| format!("harbor.test/team-b/{image}"));
    let events = Events::none();
    let mut controller = controller_of_backup("team-b", events, &only_team_a(), &images);
    controller.sync_images(Instant::now());
    assert!(controller.images.is_empty());
    // The claim of its own users decides.
    controller
        .ctx
        .cluster
        .apply(seen(deployment("own", &[IMAGE])));
    controller.sync_images(Instant::now());
    let found: Vec<_> = controller.images.values().collect();
    assert!(matches!(found[..], [state] if state.copies().is_empty()));
    let found: Vec<_> = controller.images.keys().map(ToString::to_string).collect();
    assert_eq!(found, [IMAGE]);
}

/// Everybody may pull from the default backup who ever could. A copy that was there is restored for namespaces that the rules
/// have left behind, and nothing else is written for them, and alerts of the users of the backup do not count it.
#[tokio::test(start_paused = true)]
async fn in_the_default_backup_a_copy_that_a_rule_left_behind_is_only_restored() {
    let server = Server::default();
    let events = Events::start(server.client(), None, event_metrics());
    let images = ["harbor.test/main/quay.io-a-b:1".to_owned()];
    let mut controller = controller_of_backup("default", events, &only_team_a(), &images);
    let now = Instant::now();
    controller.sync_images(now);
    let image = controller.images.keys().next().unwrap().clone();
    for (presence, is_restored) in [
        (Presence::Missing, false),
        (complete(), false),
        (Presence::Missing, true),
    ] {
        controller.apply(&image, ProbeResult::Backup(Ok(presence)), now);
        controller.changed.insert(Arc::clone(&image));
        assert_eq!(controller.ctx.lookup.job(&image).is_some(), is_restored);
        pass(&mut controller, 5).await;
        assert_eq!(controller.ctx.copy_status.counts(), Counts::default());
    }
    assert!(server.0.lock().unwrap().reasons.is_empty());
    // Its users come back.
    let policies = controller
        .ctx
        .cluster
        .read(|index| index.policies().clone());
    policies.publish(Vec::new());
    let mut workload = deployment("own", &[&images[0]]);
    workload.key.namespace = "other".into();
    controller.ctx.cluster.apply(seen(workload));
    controller.sync_images(Instant::now());
    controller.publish(Instant::now());
    assert_ne!(controller.ctx.copy_status.counts(), Counts::default());
}
