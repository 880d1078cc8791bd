//! Keeps a copy of every image that the cluster uses, whether or not anybody asks for it.
//!
//! Each image in use is looked for in the backup as soon as it is in use, and copied at once if it is not there. From then
//! on it is looked at once in every interval, at a moment of its own: is the copy still there, does the tag still stand for
//! the same, does the original still exist? One replica owns each image and does all that; the others only look whether
//! its copy is there, because their own re-admissions depend on it.
//!
//! - [`images_in_use`]: what is in use, from the index;
//! - [`item`]: one image in use, and what follows from what was seen of it; no I/O;
//! - [`recheck_schedule`]: when each image has its turn;
//! - [`work_queue`]: which image is next;
//! - [`limits`]: how much may be asked of the registries;
//! - [`budget`]: what namespaces may have;
//! - [`look`]: asks the registries;
//! - [`notices`]: what is to be told, and to whom;
//! - [`controller`]: puts all that together.
//!
//! What is copied when, and what a registry is asked how, is the matter of the copy queue and the lookup.

mod budget;
mod conditions;
mod controller;
mod image_state;
mod images_in_use;
mod probe;
mod rate_limits;
mod recheck_schedule;
#[cfg(test)]
mod tests;
mod work_queue;

use std::sync::Arc;
use std::time::Duration;

use super::copy_status::CopyStatuses;
use super::events::Events;
use super::replicas::Replicas;
use super::shared_index::SharedIndex;
use crate::args::OnMovedTag;
use crate::lookup::Lookup;
use crate::metrics::Metrics;

/// What the reconciler works with.
#[derive(Clone)]
pub struct Reconciler {
    /// What is in use.
    pub cluster: Arc<SharedIndex>,
    /// Looks for copies and has them made.
    pub lookup: Lookup,
    /// Where what is known about the copies goes.
    pub copy_status: CopyStatuses,
    /// Which images are this replica's.
    pub replicas: Replicas,
    /// Tells the users of an image what became of it.
    pub events: Events,
    /// Counts what looks found.
    pub metrics: Metrics,
    /// In which time every image is looked at once.
    pub interval: Duration,
    /// What becomes of the copy when a tag moved.
    pub on_moved_tag: OnMovedTag,
}

impl Reconciler {
    /// Does all that, for ever.
    pub async fn run(self) {
        controller::Controller::new(self).run().await;
    }
}
