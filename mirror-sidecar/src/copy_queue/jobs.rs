//! The jobs of all images, and how many there may be.

use std::collections::HashMap;
use std::sync::Arc;

use mirror_contract::ImageRef;

use super::job::{Job, JobProgress, Stage};
use super::{Priority, Status, Task};

/// Images asked for that are being copied, waiting or resting after a failure. A cluster has some thousand; the bound is
/// there so that a flood of invented names cannot exhaust memory. Images in use do not count: of those the model of the
/// cluster is the bound, and a cluster that uses many must not keep workloads from being admitted.
pub(super) const MAX_ASKED: usize = 10_000;

/// The jobs of all images.
#[derive(Default)]
pub(super) struct Jobs {
    by_image: HashMap<ImageRef<'static>, Job>,
    /// How many of them are only asked for.
    pub(super) asked: usize,
    next_id: u64,
}

impl Jobs {
    pub(super) fn get(&self, image: &ImageRef<'static>) -> Option<&Job> {
        self.by_image.get(image)
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &Job> {
        self.by_image.values()
    }

    /// Whether there is room for a job of `image` that is only asked for. Those that failed make room for those that nobody
    /// has tried yet; who needs them asks again.
    pub(super) fn make_room_for(&mut self, image: &ImageRef<'static>) -> bool {
        if self.asked < MAX_ASKED || self.by_image.contains_key(image) {
            return true;
        }
        self.by_image
            .retain(|_, job| job.is_active() || job.priority == Priority::InUse);
        let asked = |job: &&Job| job.priority == Priority::Asked;
        self.asked = self.by_image.values().filter(asked).count();
        self.asked < MAX_ASKED
    }

    /// From now on the job of `image` is one of those in use, if that is the `priority`.
    pub(super) fn raise(&mut self, image: &ImageRef<'static>, priority: Priority) {
        if let Some(job) = self.by_image.get_mut(image)
            && job.raise(priority)
        {
            self.asked -= 1;
        }
    }

    pub(super) fn begin(
        &mut self,
        image: &ImageRef<'static>,
        task: Task,
        priority: Priority,
        progress: &Arc<JobProgress>,
    ) -> (u64, Status) {
        let id = self.next_id;
        self.next_id += 1;
        let job = Job {
            id,
            task,
            priority,
            stage: Stage::Active(Arc::clone(progress)),
        };
        let status = job.status();
        self.remove(image);
        self.asked += usize::from(priority == Priority::Asked);
        self.by_image.insert(image.clone(), job);
        (id, status)
    }

    /// The job of `image`, if it still is this one.
    pub(super) fn own(&mut self, image: &ImageRef<'static>, id: u64) -> Option<&mut Job> {
        self.by_image.get_mut(image).filter(|job| job.id == id)
    }

    pub(super) fn forget(&mut self, image: &ImageRef<'static>, id: u64) {
        if self.own(image, id).is_some() {
            self.remove(image);
        }
    }

    pub(super) fn remove(&mut self, image: &ImageRef<'static>) {
        if let Some(job) = self.by_image.remove(image) {
            self.asked -= usize::from(job.priority == Priority::Asked);
        }
    }
}
