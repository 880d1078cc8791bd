//! What the sidecar's lookup believes about copies that lost parts, against scripted registries.

use crate::fault_matrix::log::Captured;
use crate::support::{anchor_of, registries};
use axum::http::Method;
use mirror_contract::{Backup, ImageRef, ImageStatus, Mode, Naming, RefusalKind};
use mirror_copy::Completeness;
use mirror_sidecar::backups::ByBackup;
use mirror_sidecar::copy_queue::CopyMetrics;
use mirror_sidecar::former_backups::FormerBackups;
use mirror_sidecar::locations::Locations;
use mirror_sidecar::lookup::{Lookup, PartsPlan, Turn};
use mirror_sidecar::metrics::Metrics;
use mirror_sidecar::namespace_budget::{BudgetMetrics, NamespaceBudgets};
use mirror_sidecar::original_lookup::OriginalLookup;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::{Duration, Instant};
use testkit::scripted::{Action, Fake, Image, Latch, digest_of, image, index, noise};

const DEADLINE: Duration = Duration::from_mins(1);

struct Scene {
    upstream: Fake,
    backup: Fake,
    /// The index, and its two platforms.
    images: [Image; 3],
}

fn lookup(images: Locations, parallel: NonZeroUsize) -> Lookup {
    let metrics = &mut Metrics::new();
    let budgets = NamespaceBudgets::new(BudgetMetrics::register(metrics));
    let copies = CopyMetrics::register(metrics);
    Lookup::new(Arc::new(images), parallel, &budgets, &copies)
}

impl Scene {
    async fn new() -> Self {
        let (upstream, backup) = (Fake::start().await, Fake::start().await);
        let platforms = [1, 2].map(|seed| image(seed, &[noise(seed, 3000)]));
        let root = index(&[&platforms[0], &platforms[1]]);
        for platform in &platforms {
            upstream.put("app", platform);
        }
        upstream.put_tagged("app", "v1", &root);
        let [first, second] = platforms;
        Self {
            upstream,
            backup,
            images: [root, first, second],
        }
    }

    fn place(&self) -> Backup {
        Backup::new(&self.backup.host(), "acme", Naming::Flat).unwrap()
    }

    fn image(&self) -> ImageRef<'static> {
        let name = format!("{}/app:v1", self.upstream.host());
        name.parse().unwrap()
    }

    /// A sidecar that has just started.
    fn lookup(&self) -> Lookup {
        let registries = registries(&[&self.upstream, &self.backup]);
        let images = Locations::new(self.place(), &registries, registries.clone()).unwrap();
        let parallel = NonZeroUsize::new(2).unwrap();
        lookup(images, parallel)
    }

    /// The same, after the backup was in the former one.
    fn catalog_after(&self, former: &Fake) -> Lookup {
        let registries = registries(&[&self.upstream, &self.backup, former]);
        let images = Locations::new(self.place(), &registries, registries.clone()).unwrap();
        let place = format!("{}/acme", former.host());
        let places = Backup::with_both_namings(&place);
        let former = FormerBackups::new(&self.place(), places);
        let parallel = NonZeroUsize::new(2).unwrap();
        lookup(images.with_former_backups(former), parallel)
    }

    fn repository(&self) -> String {
        let copy = self.place().target(&self.image()).unwrap();
        copy.path().to_owned()
    }

    /// A clean-up rule removes a manifest and everything that names it.
    fn lose_manifest(&self, image: &Image) {
        let digest = image.digest().to_string();
        let mut state = self.backup.state();
        state
            .manifests
            .retain(|(_, reference), _| *reference != digest);
        state.tags.retain(|_, found| *found != digest);
    }

    fn lose_tag(&self, tag: &str) {
        let key = (self.repository(), tag.to_owned());
        self.backup.state().tags.remove(&key);
    }

    fn lose_layer(&self, image: &Image) {
        let layer = digest_of(&image.blobs[1]);
        self.backup.lose_blob(&self.repository(), &layer);
    }

    fn is_whole(&self) -> bool {
        let repository = self.repository();
        let mut images = self.images.iter();
        images.all(|image| self.backup.has(&repository, image))
    }
}

async fn is_mirrored(lookup: &Lookup, image: &ImageRef<'static>) -> bool {
    let answer = lookup.image(image, Mode::Ensure).await;
    matches!(answer, Ok(ImageStatus::Mirrored { .. }))
}

async fn wait(lookup: &Lookup, image: &ImageRef<'static>) {
    let start = Instant::now();
    while !is_mirrored(lookup, image).await {
        assert!(start.elapsed() < DEADLINE);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Waits until the response about a copy says whether the backup is unavailable.
async fn wait_for_outage(lookup: &Lookup, copy: &ImageRef<'static>, expected: bool) {
    let start = Instant::now();
    loop {
        let status = lookup.image(copy, Mode::Ensure).await;
        let Ok(ImageStatus::InBackup { is_unavailable, .. }) = status else {
            panic!("{status:?}");
        };
        if is_unavailable == expected {
            return;
        }
        assert!(start.elapsed() < DEADLINE);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn originals_are_looked_up_by_digest_while_the_backup_is_unavailable() {
    let scene = Scene::new().await;
    let lookup = scene.lookup();
    let originals = OriginalLookup::new(&ByBackup::new(lookup.clone()), Vec::new());
    let copy = scene.place().target(&scene.image()).unwrap();
    let with_digest = |image: &Image| -> ImageRef<'static> {
        let name = format!("{}/app@{}", scene.upstream.host(), image.digest());
        name.parse().unwrap()
    };
    let image = with_digest(&scene.images[0]);
    let missing = with_digest(&testkit::scripted::image(9, &[noise(9, 10)]));
    let refusal =
        async |image: &ImageRef<'static>| originals.image(image, Mode::Ensure).await.unwrap_err();

    tokio::spawn(lookup.health().clone().run());
    wait_for_outage(&lookup, &copy, false).await;
    assert_eq!(refusal(&image).await.reason, "the backup registry responds");
    assert!(scene.upstream.log().is_empty());

    let down = Action::Status(500, Vec::new(), "");
    scene.backup.fault(Method::GET, "/v2/", usize::MAX, down);
    // The next probe is seconds away.
    lookup.health().suspect();
    wait_for_outage(&lookup, &copy, true).await;
    let log = Captured::default();
    let _guard = log.subscribe();
    let responses = || log.count("responded that new pods may use an original");
    for mode in [Mode::Peek, Mode::Ensure, Mode::Peek] {
        let status = originals.image(&image, mode).await.unwrap();
        assert!(matches!(status, ImageStatus::Original { .. }));
    }
    assert_eq!(responses(), 1);
    assert_eq!(scene.upstream.count(&Method::HEAD, "/v2/app/"), 1);
    let refused = refusal(&missing).await;
    assert_eq!(refused.kind, RefusalKind::Failed);
    // A copy of a copy is none.
    assert_eq!(
        refusal(&copy.with_digest(image.digest().unwrap().clone()))
            .await
            .reason,
        "it is a copy itself"
    );

    scene.backup.forget_faults();
    let copy = scene.place().target(&scene.image()).unwrap();
    wait_for_outage(&lookup, &copy, false).await;
    assert_eq!(refusal(&image).await.kind, RefusalKind::Failed);
}

/// A registry that does not respond delays no response, and its lookups are bounded.
#[tokio::test]
async fn a_slow_registry_of_originals_is_pending_and_looked_up_once() {
    let scene = Scene::new().await;
    let lookup = scene.lookup();
    let originals = OriginalLookup::new(&ByBackup::new(lookup.clone()), Vec::new());
    let copy = scene.place().target(&scene.image()).unwrap();
    let down = Action::Status(500, Vec::new(), "");
    scene.backup.fault(Method::GET, "/v2/", usize::MAX, down);
    tokio::spawn(lookup.health().clone().run());
    wait_for_outage(&lookup, &copy, true).await;

    let latch = Latch::closed();
    let late = Action::Late(latch.clone(), None);
    scene
        .upstream
        .fault(Method::HEAD, "/v2/app/", usize::MAX, late);
    let name = |digest: String| -> ImageRef<'static> {
        format!("{}/app@{digest}", scene.upstream.host())
            .parse()
            .unwrap()
    };
    let image = name(scene.images[0].digest().to_string());
    // A dry run starts no lookup, so the next one sends a request of its own.
    for mode in [
        Mode::Peek,
        Mode::Peek,
        Mode::Ensure,
        Mode::Ensure,
        Mode::Peek,
    ] {
        let refusal = originals.image(&image, mode).await.unwrap_err();
        assert_eq!(refusal.kind, RefusalKind::Pending);
    }
    let known = scene.upstream.count(&Method::HEAD, "/v2/app/");
    assert_eq!(known, 3, "two for dry runs, one for the lookup");
    let invented = (0..20).map(|seed| name(format!("sha256:{seed:064x}")));
    let invented: Vec<_> = invented.collect();
    let lookups = invented
        .iter()
        .map(|image| originals.image(image, Mode::Ensure));
    let refused = futures_util::future::join_all(lookups).await;
    assert!(
        refused
            .iter()
            .all(|status| status.as_ref().unwrap_err().kind == RefusalKind::Pending)
    );
    latch.open();
    let start = Instant::now();
    while originals.image(&image, Mode::Ensure).await.is_err() {
        assert!(start.elapsed() < DEADLINE);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let requests = scene.upstream.count(&Method::HEAD, "/v2/app/");
    assert!(requests <= known + 7, "{requests} requests");
}

/// The tags are gone, a platform, and a layer of the other platform, which the copy believes to be complete.
#[tokio::test]
async fn what_a_copy_believes_is_checked_before_it_counts() {
    let scene = Scene::new().await;
    let image = scene.image();
    wait(&scene.lookup(), &image).await;
    let [root, first, second] = &scene.images;
    scene.lose_tag("v1");
    scene.lose_tag(&anchor_of(&root.digest()));
    scene.lose_layer(first);
    scene.lose_manifest(second);
    wait(&scene.lookup(), &image).await;
    assert!(scene.is_whole());
}

/// The tag is gone and a layer, and the anchor is there: the copy puts back the tag alone.
#[tokio::test]
async fn a_tag_that_is_put_back_does_not_count_as_a_copy() {
    let scene = Scene::new().await;
    let image = scene.image();
    wait(&scene.lookup(), &image).await;
    scene.lose_tag("v1");
    scene.lose_layer(&scene.images[1]);
    wait(&scene.lookup(), &image).await;
    assert!(scene.is_whole());
}

/// A lookup and the check of images in use find the same loss.
#[rstest::rstest]
#[case::lookup_first(true)]
#[case::check_first(false)]
#[tokio::test]
async fn a_loss_is_logged_once(#[case] is_lookup_first: bool) {
    let scene = Scene::new().await;
    let (image, copy) = (scene.image(), scene.place().target(&scene.image()).unwrap());
    wait(&scene.lookup(), &image).await;
    scene.lose_layer(&scene.images[1]);
    // The copy is not restored meanwhile.
    let reads = "/v2/app/manifests/";
    scene
        .upstream
        .fault(Method::HEAD, reads, usize::MAX, Action::Hang);
    let lookup = scene.lookup();
    let log = Captured::default();
    let _guard = log.subscribe();
    let digest = scene.images[0].digest().to_string();
    let digest = mirror_contract::Digest::parse(&digest)
        .unwrap()
        .into_owned();
    for is_lookup in [is_lookup_first, !is_lookup_first] {
        if is_lookup {
            assert!(!is_mirrored(&lookup, &image).await);
        } else {
            let (turn, skip) = (Turn::Everything, 0);
            let plan = PartsPlan { turn, skip };
            let found = lookup.check_parts(&image, &copy, &digest, plan).await;
            let found = found.map(|(found, _)| found);
            assert!(matches!(found, Ok(Completeness::Missing(_))));
        }
        assert_eq!(log.count("WARN"), 1);
    }
}

/// A copy whose original lacks a platform is as good as it gets; one that lacks a layer besides is not.
#[tokio::test]
async fn only_what_the_original_lacks_may_be_missing() {
    let scene = Scene::new().await;
    let (image, repository) = (scene.image(), scene.repository());
    let [root, first, second] = &scene.images;
    let key = ("app".to_owned(), second.digest().to_string());
    scene.upstream.state().manifests.remove(&key);
    let anchor = anchor_of(&root.digest());
    scene.backup.put(&repository, first);
    scene.backup.put_tagged(&repository, "v1", root);
    scene.backup.put_tagged(&repository, &anchor, root);
    wait(&scene.lookup(), &image).await;

    scene.lose_layer(first);
    let lookup = scene.lookup();
    let mut attempts = lookup.attempts();
    assert!(!is_mirrored(&lookup, &image).await);
    attempts.recv().await.unwrap();
    assert!(!is_mirrored(&lookup, &image).await || scene.backup.has(&repository, first));
}

/// The tag may have moved on since the former copy was made.
#[tokio::test]
async fn an_original_that_is_only_busy_is_not_replaced_by_its_former_copy() {
    let scene = Scene::new().await;
    let former = Fake::start().await;
    former.put_tagged(&scene.repository(), "v1", &image(7, &[noise(7, 100)]));
    for method in [Method::HEAD, Method::GET] {
        let busy = Action::Status(503, Vec::new(), "");
        scene.upstream.fault(method, "/v2/app/", usize::MAX, busy);
    }
    let lookup = scene.catalog_after(&former);
    let mut attempts = lookup.attempts();
    assert!(!is_mirrored(&lookup, &scene.image()).await);
    attempts.recv().await.unwrap();
    assert_eq!((former.log().len(), scene.backup.tags()), (0, 0));
}

/// Former backups that fail are left alone for a while, whatever else was in them.
#[tokio::test]
async fn a_former_backup_that_fails_is_not_asked_for_each_image() {
    let scene = Scene::new().await;
    let former = Fake::start().await;
    let busy = Action::Status(503, Vec::new(), "");
    former.fault(Method::HEAD, "/v2/", usize::MAX, busy);
    let lookup = scene.catalog_after(&former);
    let mut attempts = lookup.attempts();
    let mut requests = Vec::new();
    for name in ["gone/a:1", "gone/b:1"] {
        let image = format!("{}/{name}", scene.upstream.host());
        assert!(!is_mirrored(&lookup, &image.parse().unwrap()).await);
        attempts.recv().await.unwrap();
        requests.push(former.log().len());
    }
    assert!(requests[0] > 0);
    assert_eq!(requests[0], requests[1]);
}

#[tokio::test]
async fn an_original_that_is_gone_is_copied_from_a_former_backup() {
    let scene = Scene::new().await;
    let former = Fake::start().await;
    let copy = image(7, &[noise(7, 100)]);
    former.put_tagged(&scene.repository(), "v1", &copy);
    let key = ("app".to_owned(), "v1".to_owned());
    scene.upstream.state().tags.remove(&key);
    let lookup = scene.catalog_after(&former);
    wait(&lookup, &scene.image()).await;
    assert!(scene.backup.has(&scene.repository(), &copy));
}
