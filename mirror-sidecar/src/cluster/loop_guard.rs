//! Workloads whose Pods are deleted and re-created in a loop after a rewrite.
//!
//! Some operators compare the image of a Pod with the one in their own resource, and replace the Pod if these differ. The
//! replacement is rewritten again, and so on. A loop is detected when, several times in a row, a rewritten Pod of a controller
//! is deleted before it ended, and its successor, with the same images and template, is rewritten too within minutes. The
//! workload is then left alone for a day: the policy keeps the images of its Pods, and readmission skips it. After that it is
//! tried again.
//!
//! Only creation times of the API server are compared, so neither clock skew nor a busy machine looks like a loop. There is no
//! I/O and nothing is stored: after a restart, loops are detected again.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use tokio::time::Instant;

use super::workload::{Owner, Workload};
use super::workload_kind::WorkloadKind;

/// Consecutive replacements that count as a loop.
const REPLACEMENTS: u32 = 5;

/// Longest time from the creation of a Pod to that of its successor, in seconds, that counts as a replacement. Autoscalers wait
/// that long before they remove Pods.
const LONGEST_LIFE: i64 = 300;

const LEFT_ALONE_FOR: Duration = Duration::from_hours(24);

/// Controllers that are kept, each with about 300 bytes.
const MAX_CONTROLLERS: usize = 2_000;
/// The same for one namespace.
const MAX_IN_NAMESPACE: usize = 200;

/// A controller whose Pods are not replaced may be dropped after this time.
const FORGET_AFTER: Duration = Duration::from_mins(15);

#[derive(Debug, Default)]
pub(super) struct LoopGuard {
    /// By uid.
    controllers: HashMap<Box<str>, Controller>,
    in_namespace: HashMap<Arc<str>, usize>,
}

/// A controller with a Pod that was deleted before it ended.
#[derive(Debug)]
struct Controller {
    namespace: Arc<str>,
    owner: Owner,
    /// A hash of the images and the template of its Pods.
    pod_hash: u64,
    /// Creation of the newest rewritten Pod.
    newest: Timestamp,
    /// Creation of a deleted Pod that has no successor yet.
    deleted: Option<Timestamp>,
    replacements: u32,
    touched: Instant,
    left_alone_until: Option<Instant>,
}

/// A workload that is left alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Loop {
    pub(super) namespace: Arc<str>,
    pub(super) owner: Owner,
}

impl LoopGuard {
    pub(super) fn observe(&mut self, workload: &Workload, now: Instant) {
        let Some((owner, created)) = rewritten_pod(workload) else {
            return;
        };
        if workload.is_deleted {
            self.record_deletion(workload, owner, created, now);
            return;
        }
        let Some(controller) = self.controllers.get_mut(&owner.uid) else {
            return;
        };
        if created <= controller.newest {
            return;
        }
        controller.newest = created;
        controller.touched = now;
        let hash = pod_hash(workload);
        let is_same = std::mem::replace(&mut controller.pod_hash, hash) == hash;
        let Some(deleted) = controller.deleted.take() else {
            return;
        };
        let is_early = created.as_second() - deleted.as_second() <= LONGEST_LIFE;
        controller.replacements = if is_same && is_early {
            controller.replacements.saturating_add(1)
        } else {
            0
        };
        if controller.replacements >= REPLACEMENTS {
            controller.replacements = 0;
            controller.left_alone_until = Some(now + LEFT_ALONE_FOR);
        }
    }

    pub(super) fn delete(&mut self, workload: &Workload, now: Instant) {
        if workload.key.kind != WorkloadKind::Pod {
            self.remove(&workload.uid);
        } else if let Some((owner, created)) = rewritten_pod(workload) {
            self.record_deletion(workload, owner, created, now);
        }
    }

    pub(super) fn of_namespace(&self, namespace: &str, now: Instant) -> Vec<Loop> {
        self.left_alone(now)
            .filter(|found| &*found.namespace == namespace)
            .map(Controller::to_loop)
            .collect()
    }

    pub(super) fn all(&self, now: Instant) -> Vec<Loop> {
        self.left_alone(now).map(Controller::to_loop).collect()
    }

    fn left_alone(&self, now: Instant) -> impl Iterator<Item = &Controller> {
        self.controllers
            .values()
            .filter(move |controller| controller.left_alone_until.is_some_and(|until| now < until))
    }

    /// Records that a rewritten Pod is deleted before it ended.
    fn record_deletion(&mut self, pod: &Workload, owner: &Owner, created: Timestamp, now: Instant) {
        if !self.controllers.contains_key(&owner.uid) && !self.make_room(&pod.key.namespace, now) {
            return;
        }
        let controller = self
            .controllers
            .entry(owner.uid.clone())
            .or_insert_with(|| {
                *self
                    .in_namespace
                    .entry(Arc::clone(&pod.key.namespace))
                    .or_default() += 1;
                Controller {
                    namespace: Arc::clone(&pod.key.namespace),
                    owner: owner.clone(),
                    pod_hash: pod_hash(pod),
                    newest: created,
                    deleted: None,
                    replacements: 0,
                    touched: now,
                    left_alone_until: None,
                }
            });
        controller.newest = controller.newest.max(created);
        // Of several Pods that are replaced together, the newest counts. A Pod that is replaced already may be reported again.
        if created >= controller.newest {
            controller.deleted = Some(created);
            controller.touched = now;
        }
    }

    fn make_room(&mut self, namespace: &Arc<str>, now: Instant) -> bool {
        let has_room = |guard: &Self| {
            let in_namespace = guard.in_namespace.get(namespace).copied();
            guard.controllers.len() < MAX_CONTROLLERS
                && in_namespace.unwrap_or_default() < MAX_IN_NAMESPACE
        };
        if has_room(self) {
            return true;
        }
        let is_over = |controller: &Controller| {
            let is_quiet = now.saturating_duration_since(controller.touched) >= FORGET_AFTER;
            is_quiet && controller.left_alone_until.is_none_or(|until| until <= now)
        };
        let over: Vec<_> = self
            .controllers
            .iter()
            .filter(|(_, controller)| is_over(controller))
            .map(|(uid, _)| uid.clone())
            .collect();
        for uid in over {
            self.remove(&uid);
        }
        has_room(self)
    }

    fn remove(&mut self, uid: &str) {
        let Some(controller) = self.controllers.remove(uid) else {
            return;
        };
        if let Some(count) = self.in_namespace.get_mut(&controller.namespace) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.in_namespace.remove(&controller.namespace);
            }
        }
    }
}

impl Controller {
    fn to_loop(&self) -> Loop {
        Loop {
            namespace: Arc::clone(&self.namespace),
            owner: self.owner.clone(),
        }
    }
}

/// Returns the controller and the creation time of a Pod that the policy has rewritten and that has not ended.
fn rewritten_pod(workload: &Workload) -> Option<(&Owner, Timestamp)> {
    let is_rewritten = workload.key.kind == WorkloadKind::Pod
        && !workload.has_ended
        && !workload.originals.is_empty();
    let owner = workload.controller.as_ref().filter(|_| is_rewritten)?;
    Some((owner, workload.created?))
}

fn pod_hash(pod: &Workload) -> u64 {
    let mut hasher = DefaultHasher::new();
    (&pod.images, &pod.revision).hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::index::tests::pod;

    const COPY: &str = "ghcr.io/acme/docker.io-library-db:1";

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_790_000_000 + second).unwrap()
    }

    fn owner(name: &str) -> Owner {
        Owner {
            api_version: "apps/v1".into(),
            kind: "StatefulSet".into(),
            name: name.into(),
            uid: format!("uid-{name}").into(),
        }
    }

    /// A Pod of the `StatefulSet` `db` that was created then, rewritten.
    fn pod_at(second: i64) -> Workload {
        Workload {
            created: Some(at(second)),
            controller: Some(owner("db")),
            originals: vec![(COPY.to_owned(), "docker.io/library/db:1".to_owned())],
            ..pod("db-0", &[COPY])
        }
    }

    fn deleted(pod: Workload) -> Workload {
        Workload {
            is_deleted: true,
            ..pod
        }
    }

    struct Scene {
        guard: LoopGuard,
        now: Instant,
    }

    impl Scene {
        fn new() -> Self {
            let now = Instant::now();
            let guard = LoopGuard::default();
            Self { guard, now }
        }

        /// Each Pod is created, and deleted before the next one.
        fn replace(&mut self, pods: impl IntoIterator<Item = Workload>) {
            for pod in pods {
                self.guard.observe(&pod, self.now);
                // Its status changes.
                self.guard.observe(&pod, self.now);
                let deleted = deleted(pod);
                self.guard.observe(&deleted, self.now);
                self.guard.delete(&deleted, self.now);
            }
        }

        fn is_left_alone(&self) -> bool {
            !self.guard.of_namespace("shop", self.now).is_empty()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn repeated_replacements_are_a_loop() {
        let mut scene = Scene::new();
        scene.replace((0..5).map(|round| pod_at(round * 10)));
        assert!(!scene.is_left_alone());
        scene.replace([pod_at(50)]);
        let expected = Loop {
            namespace: "shop".into(),
            owner: owner("db"),
        };
        assert_eq!(scene.guard.of_namespace("shop", scene.now), [expected]);
        assert!(scene.guard.of_namespace("other", scene.now).is_empty());
        // It is tried again after a day.
        scene.now += LEFT_ALONE_FOR;
        assert!(!scene.is_left_alone());
        scene.replace((0..6).map(|round| pod_at(100_000 + round * 10)));
        assert!(scene.is_left_alone());
        // The controller is gone.
        let gone = Workload {
            uid: "uid-db".into(),
            ..crate::cluster::index::tests::workload(WorkloadKind::StatefulSet, "db", &[])
        };
        scene.guard.delete(&gone, scene.now);
        assert!(!scene.is_left_alone() && scene.guard.in_namespace.is_empty());
    }

    #[rstest::rstest]
    #[case::old_pods(|round: i64| pod_at(round * 301))]
    #[case::another_template(|round: i64| Workload { revision: round.to_string().into(), ..pod_at(round) })]
    #[case::other_images(|round: i64| Workload { images: vec![format!("{COPY}.{round}")], ..pod_at(round) })]
    #[case::ended(|round: i64| Workload { has_ended: true, ..pod_at(round) })]
    #[case::not_rewritten(|round: i64| Workload { originals: Vec::new(), ..pod_at(round) })]
    #[case::other_controllers(|round: i64| {
        let controller = Some(owner(&format!("db-{round}")));
        Workload { controller, ..pod_at(round) }
    })]
    #[tokio::test(start_paused = true)]
    async fn other_replacements_are_no_loop(#[case] pod: fn(i64) -> Workload) {
        let mut scene = Scene::new();
        scene.replace((0..50).map(pod));
        assert!(!scene.is_left_alone());
    }

    /// Many replicas that are replaced in one rollout count once at most.
    #[tokio::test(start_paused = true)]
    async fn replicas_that_are_deleted_together_count_once() {
        let mut scene = Scene::new();
        for round in 0..4 {
            let replicas: Vec<_> = (0..50).map(|_| pod_at(round)).collect();
            for pod in &replicas {
                scene.guard.observe(pod, scene.now);
            }
            for pod in replicas {
                scene.guard.observe(&deleted(pod), scene.now);
            }
        }
        assert!(!scene.is_left_alone());
    }

    #[tokio::test(start_paused = true)]
    async fn a_tenant_cannot_fill_the_memory_of_others() {
        let mut scene = Scene::new();
        let many = |namespace: &str, count: usize| -> Vec<_> {
            let namespace: Arc<str> = namespace.into();
            let pods = (0..count).map(|number| {
                let mut pod = pod_at(0);
                pod.key.namespace = Arc::clone(&namespace);
                pod.controller = Some(owner(&format!("{namespace}-{number}")));
                pod
            });
            pods.collect()
        };
        scene.replace(many("evil", 10 * MAX_IN_NAMESPACE));
        assert_eq!(scene.guard.controllers.len(), MAX_IN_NAMESPACE);
        for number in 0..20 {
            scene.replace(many(&format!("evil-{number}"), MAX_IN_NAMESPACE));
        }
        assert_eq!(scene.guard.controllers.len(), MAX_CONTROLLERS);
        scene.now += FORGET_AFTER;
        scene.replace((0..6).map(|round| pod_at(round * 10)));
        assert!(scene.is_left_alone());
    }
}
