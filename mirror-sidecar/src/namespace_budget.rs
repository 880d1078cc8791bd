//! Daily budgets of namespaces: new images, and their bytes.
//!
//! Anybody who may create workloads in a namespace can name images of any number and size that nobody needs. The budget bounds
//! what this costs the backup registry and the network. It refills evenly, and images that wait for it are copied then.
//!
//! Budgets are kept in memory: a restart begins with full ones. Replicas share the work by image, so each replica allows its
//! share of a budget. Requests of the policy have no namespace and share one budget, [`REQUEST_SHARE`] times as large.

mod metrics;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use mirror_contract::{BackupName, ImageRef};
use mirror_copy::{Event, Progress};
use tokio::time::Instant;

use metrics::BudgetGroup;
pub use metrics::BudgetMetrics;

/// Time in which an empty budget refills.
const DAY: Duration = Duration::from_hours(24);

/// Longest time in days until a budget is full: one image may be larger than the budget.
const MAX_DAYS: u32 = 2;

/// The budget for requests of the policy, in budgets of a namespace: the policy requests every new image of every namespace
/// first.
const REQUEST_SHARE: u32 = 10;

/// The budget of a namespace for a day; 0 is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DailyBudget {
    /// New images.
    pub images: u64,
    /// Bytes sent to the backup registry.
    pub bytes: u64,
}

/// The budgets of all namespaces. Clones share them.
#[derive(Clone)]
pub struct NamespaceBudgets {
    /// The backup to which images are copied. An image is paid once for each backup.
    backup: BackupName<'static>,
    state: Arc<Mutex<State>>,
    metrics: BudgetMetrics,
}

#[derive(Default)]
struct State {
    daily: DailyBudget,
    /// Replicas that share the budgets.
    replicas: u32,
    namespaces: HashMap<Arc<str>, Bucket>,
    requested: Bucket,
    /// The namespace that pays for the bytes of an image, by backup.
    payers: HashMap<BackupName<'static>, Payers>,
}

type Payers = HashMap<Arc<ImageRef<'static>>, Arc<str>>;

/// When both parts of a budget are full again. A part that is full a day or more later is exhausted.
#[derive(Clone, Copy, Debug, Default)]
struct Bucket {
    images: Option<Instant>,
    bytes: Option<Instant>,
}

/// Charges the bytes of a copy when it is dropped, so that failed and stopped copies count too.
pub struct Charging<'a> {
    budgets: &'a NamespaceBudgets,
    image: &'a ImageRef<'static>,
    progress: &'a dyn Progress,
    bytes: AtomicU64,
}

impl NamespaceBudgets {
    #[must_use]
    pub fn new(metrics: BudgetMetrics) -> Self {
        Self {
            backup: BackupName::DEFAULT,
            state: Arc::default(),
            metrics,
        }
    }

    /// Returns the same budgets for copies to another backup.
    #[must_use]
    pub fn of_backup(&self, backup: BackupName<'static>) -> Self {
        Self {
            backup,
            ..self.clone()
        }
    }

    pub fn set(&self, daily: DailyBudget) {
        self.lock().daily = daily;
    }

    pub fn share(&self, replicas: usize) {
        self.lock().replicas = u32::try_from(replicas).unwrap_or(u32::MAX);
    }

    /// Takes a new image from the budget of the first namespace that has some left. This namespace also pays for the bytes. An
    /// image that was taken before costs nothing, unless it `is_update`. `namespaces` may be long, with repetitions in a row.
    ///
    /// # Errors
    /// The time at which one of the budgets has some left again.
    pub fn take<'a>(
        &self,
        image: &Arc<ImageRef<'static>>,
        is_update: bool,
        namespaces: impl Iterator<Item = &'a Arc<str>>,
        now: Instant,
    ) -> Result<(), Instant> {
        let mut state = self.lock();
        let images = u64::from(is_update || state.payer(&self.backup, image).is_none());
        let mut open_at: Option<Instant> = None;
        let mut last: Option<&Arc<str>> = None;
        for namespace in namespaces {
            if last.replace(namespace) == Some(namespace) {
                continue;
            }
            let bucket = state.namespaces.get(namespace);
            let bucket = bucket.copied().unwrap_or_default();
            match state.opens(bucket, images, 1, now) {
                None => {
                    let bucket = state.with_images(bucket, images, 1, now);
                    state.namespaces.insert(Arc::clone(namespace), bucket);
                    let payers = state.payers.entry(self.backup.clone()).or_default();
                    payers.insert(Arc::clone(image), Arc::clone(namespace));
                    drop(state);
                    self.metrics.images.add(BudgetGroup::Namespace, images);
                    return Ok(());
                }
                Some(at) => open_at = Some(open_at.map_or(at, |open_at| open_at.min(at))),
            }
        }
        drop(state);
        // An image that nothing uses any more is free.
        open_at.map_or(Ok(()), |at| {
            self.metrics.refused.increment(BudgetGroup::Namespace);
            Err(at)
        })
    }

    /// Returns whether the budget for requests of the policy has some left. It is charged when the image is copied, so that
    /// invented names do not use it up.
    #[must_use]
    pub fn allows_request(&self, now: Instant) -> bool {
        let state = self.lock();
        let is_allowed = state
            .opens(state.requested, 1, REQUEST_SHARE, now)
            .is_none();
        drop(state);
        if !is_allowed {
            self.metrics.refused.increment(BudgetGroup::Requested);
        }
        is_allowed
    }

    /// Checks when a copy starts whether a namespace has paid for the image, or whether the budget for requests of the policy
    /// has some left: that one let many images into the queue.
    ///
    /// # Errors
    /// The time until the copy may start.
    pub fn allows(&self, image: &ImageRef<'static>, now: Instant) -> Result<(), Duration> {
        let state = self.lock();
        if state.payer(&self.backup, image).is_some() {
            return Ok(());
        }
        let opens_at = state.opens(state.requested, 1, REQUEST_SHARE, now);
        drop(state);
        opens_at.map_or(Ok(()), |at| {
            self.metrics.refused.increment(BudgetGroup::Requested);
            Err(at.duration_since(now))
        })
    }

    /// Charges a copied image to the budget for requests of the policy, unless a namespace has paid for it.
    pub fn copied(&self, image: &ImageRef<'static>, now: Instant) {
        let mut state = self.lock();
        if state.payer(&self.backup, image).is_none() {
            state.requested = state.with_images(state.requested, 1, REQUEST_SHARE, now);
            drop(state);
            self.metrics.images.increment(BudgetGroup::Requested);
        }
    }

    /// Returns a progress that counts the bytes of a copy and forwards to `progress`.
    #[must_use]
    pub fn charging<'a>(
        &'a self,
        image: &'a ImageRef<'static>,
        progress: &'a dyn Progress,
    ) -> Charging<'a> {
        Charging {
            budgets: self,
            image,
            progress,
            bytes: AtomicU64::new(0),
        }
    }

    /// Removes the payers of images that are not in use any more in this backup, and full budgets. Returns the number of
    /// namespaces with an exhausted budget.
    pub fn clean_up(
        &self,
        is_used: impl Fn(&Arc<ImageRef<'static>>) -> bool,
        now: Instant,
    ) -> usize {
        let mut state = self.lock();
        if let Some(payers) = state.payers.get_mut(&self.backup) {
            payers.retain(|image, _| is_used(image));
        }
        state.namespaces.retain(|_, bucket| !bucket.is_full(now));
        let buckets = state.namespaces.values();
        buckets
            .filter(|bucket| state.opens(**bucket, 1, 1, now).is_some())
            .count()
    }

    fn charge(&self, image: &ImageRef<'static>, bytes: u64, now: Instant) {
        let mut state = self.lock();
        let payer = state.payer(&self.backup, image).cloned();
        let group = if let Some(namespace) = payer {
            let bucket = state.namespaces.get(&namespace);
            let bucket = state.with_bytes(bucket.copied().unwrap_or_default(), 1, bytes, now);
            state.namespaces.insert(namespace, bucket);
            BudgetGroup::Namespace
        } else {
            state.requested = state.with_bytes(state.requested, REQUEST_SHARE, bytes, now);
            BudgetGroup::Requested
        };
        drop(state);
        self.metrics.bytes.add(group, bytes);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn payer(&self, backup: &BackupName<'static>, image: &ImageRef<'static>) -> Option<&Arc<str>> {
        self.payers.get(backup)?.get(image)
    }

    /// Returns when `images` can be taken from `bucket`, whose budget is `share` times that of a namespace; `None` if now.
    fn opens(&self, bucket: Bucket, images: u64, share: u32, now: Instant) -> Option<Instant> {
        let image = self.cost(images, self.daily.images, share);
        // Bytes are only known afterwards, so one that is left allows a copy.
        let byte = Duration::from_nanos(u64::from(self.daily.bytes > 0));
        [(bucket.images, image), (bucket.bytes, byte)]
            .into_iter()
            .filter(|(_, cost)| !cost.is_zero())
            .filter_map(|(full_at, cost)| (full_at? + cost).checked_sub(DAY))
            .filter(|opens_at| *opens_at > now)
            .max()
    }

    fn with_images(&self, bucket: Bucket, images: u64, share: u32, now: Instant) -> Bucket {
        Bucket {
            images: later(
                bucket.images,
                self.cost(images, self.daily.images, share),
                now,
            ),
            ..bucket
        }
    }

    fn with_bytes(&self, bucket: Bucket, share: u32, bytes: u64, now: Instant) -> Bucket {
        Bucket {
            bytes: later(bucket.bytes, self.cost(bytes, self.daily.bytes, share), now),
            ..bucket
        }
    }

    /// Returns the time in which `amount` is refilled.
    fn cost(&self, amount: u64, daily: u64, share: u32) -> Duration {
        if daily == 0 {
            return Duration::ZERO;
        }
        let replicas = u128::from(self.replicas.max(1));
        let daily = u128::from(daily).saturating_mul(u128::from(share));
        let nanos = DAY
            .as_nanos()
            .saturating_mul(u128::from(amount))
            .saturating_mul(replicas)
            / daily;
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX)).min(DAY * MAX_DAYS)
    }
}

impl Bucket {
    fn is_full(&self, now: Instant) -> bool {
        let is_full = |full_at: Option<Instant>| full_at.is_none_or(|full_at| full_at <= now);
        is_full(self.images) && is_full(self.bytes)
    }
}

fn later(full_at: Option<Instant>, cost: Duration, now: Instant) -> Option<Instant> {
    if cost.is_zero() {
        return full_at;
    }
    let full_at = full_at.map_or(now, |full_at| full_at.max(now));
    Some((full_at + cost).min(now + DAY * MAX_DAYS))
}

impl Progress for Charging<'_> {
    fn event(&self, event: Event<'_>) {
        if let Event::Bytes { bytes, .. } = event {
            self.bytes.fetch_add(bytes, Ordering::Relaxed);
        }
        self.progress.event(event);
    }
}

impl Drop for Charging<'_> {
    fn drop(&mut self) {
        let bytes = self.bytes.load(Ordering::Relaxed);
        if bytes > 0 {
            self.budgets.charge(self.image, bytes, Instant::now());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Metrics;

    const GIB: u64 = 1 << 30;

    fn budgets(images: u64, bytes: u64) -> NamespaceBudgets {
        let budgets = NamespaceBudgets::new(BudgetMetrics::register(&mut Metrics::new()));
        budgets.set(DailyBudget { images, bytes });
        budgets
    }

    fn image(number: usize) -> Arc<ImageRef<'static>> {
        Arc::new(format!("quay.io/a/b:{number}").parse().unwrap())
    }

    fn names(names: &[&str]) -> Vec<Arc<str>> {
        names.iter().map(|name| Arc::from(*name)).collect()
    }

    /// The number of images that are taken out of a hundred.
    fn taken(budgets: &NamespaceBudgets, namespaces: &[&str], now: Instant) -> usize {
        let namespaces = names(namespaces);
        (0..100)
            .filter(|number| {
                budgets
                    .take(&image(*number), true, namespaces.iter(), now)
                    .is_ok()
            })
            .count()
    }

    #[tokio::test]
    async fn a_flood_gets_the_budget_and_then_what_refills() {
        let budgets = budgets(24, 0);
        let now = Instant::now();
        assert_eq!(taken(&budgets, &["a"], now), 24);
        assert_eq!(taken(&budgets, &["b"], now), 24, "others have their own");
        assert_eq!(budgets.clean_up(|_| true, now), 2);
        let opens = budgets.take(&image(0), true, names(&["a"]).iter(), now);
        assert_eq!(opens, Err(now + Duration::from_hours(1)));
        assert_eq!(taken(&budgets, &["a"], now + Duration::from_hours(1)), 1);
        assert_eq!(taken(&budgets, &["a"], now + Duration::from_hours(4)), 3);
        let end = now + Duration::from_hours(48);
        assert_eq!(budgets.clean_up(|_| false, end), 0);
        let has_payers = budgets
            .lock()
            .payers
            .values()
            .any(|of_backup| !of_backup.is_empty());
        assert!(budgets.lock().namespaces.is_empty() && !has_payers);
        assert_eq!(taken(&budgets, &["a"], end), 24);
    }

    #[tokio::test]
    async fn an_image_that_cannot_be_copied_is_paid_once() {
        let budgets = budgets(1, GIB);
        let (now, image) = (Instant::now(), image(1));
        let take = |is_update| budgets.take(&image, is_update, names(&["a"]).iter(), now);
        for _ in 0..100 {
            assert_eq!(take(false), Ok(()));
        }
        assert!(take(true).is_err(), "a tag that moves again and again");
        budgets.charge(&image, 2 * GIB, now);
        assert!(take(false).is_err(), "bytes are paid each time");
    }

    /// A namespace without budget must not block images that it shares with others.
    #[tokio::test]
    async fn an_image_is_copied_if_one_of_its_namespaces_has_something_left() {
        let budgets = budgets(10, 0);
        let now = Instant::now();
        assert_eq!(taken(&budgets, &["bad"], now), 10);
        assert_eq!(taken(&budgets, &["bad", "bad", "good"], now), 10);
        assert_eq!(taken(&budgets, &[], now), 100, "nobody uses them any more");
    }

    #[tokio::test]
    async fn bytes_of_failed_copies_are_charged() {
        let budgets = budgets(0, 100 * GIB);
        let (now, image) = (Instant::now(), image(1));
        budgets
            .take(&image, false, names(&["a"]).iter(), now)
            .unwrap();
        let charging = budgets.charging(&image, &());
        charging.bytes.store(150 * GIB, Ordering::Relaxed);
        drop(charging);
        let opens = budgets
            .take(&image, false, names(&["a"]).iter(), now)
            .unwrap_err();
        let wait = opens.saturating_duration_since(now);
        assert_eq!(
            wait.as_secs().div_ceil(60),
            12 * 60,
            "the half that is too much"
        );
        assert_eq!(taken(&budgets, &["b"], now), 100);
        budgets.charge(&image, u64::MAX, now);
        let opens = budgets
            .take(&image, false, names(&["a"]).iter(), now)
            .unwrap_err();
        assert!(opens <= now + DAY, "one image does not block forever");
    }

    /// Namespaces share no image between backups, so that none pays for the copies of others.
    #[tokio::test]
    async fn an_image_is_paid_for_each_backup() {
        let budgets = budgets(1, GIB);
        let team = budgets.of_backup(BackupName::parse("team-b").unwrap());
        let (now, image) = (Instant::now(), image(1));
        let take = |budgets: &NamespaceBudgets, namespace| {
            budgets.take(&image, false, names(&[namespace]).iter(), now)
        };
        take(&budgets, "a").unwrap();
        take(&team, "a").unwrap_err();
        take(&team, "b").unwrap();
        team.charge(&image, 2 * GIB, now);
        take(&team, "b").unwrap_err();
        take(&budgets, "a").unwrap();
        assert_eq!(budgets.clean_up(|_| false, now), 2);
        assert_eq!(
            team.lock().payer(&team.backup, &image).map(|name| &**name),
            Some("b")
        );
    }

    #[tokio::test]
    async fn requests_of_the_policy_have_their_own_budget() {
        let budgets = budgets(1, 0);
        let now = Instant::now();
        for number in 0..10 {
            assert!(budgets.allows_request(now), "{number}");
            budgets.copied(&image(number), now);
        }
        assert!(!budgets.allows_request(now));
        assert!(budgets.allows_request(now + DAY));
        assert_eq!(taken(&budgets, &["a"], now), 1);
    }

    #[tokio::test]
    async fn replicas_share_a_budget() {
        let budgets = budgets(24, 0);
        budgets.share(3);
        assert_eq!(taken(&budgets, &["a"], Instant::now()), 8);
    }
}
