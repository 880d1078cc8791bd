//! Keeps a copy of every image that the cluster uses.
//!
//! An image that comes into use is checked in the backup and copied if it is missing there. After that it is re-checked
//! once per interval: is the copy complete, does its tag still refer to the same digest, does the original still exist? One
//! replica owns each image and does this work; the others only check whether the copy exists, because their re-admissions
//! depend on it.
//!
//! - [`controller`]: the loop that connects the others, and the images in use, derived from the index;
//! - [`image_state`]: the state of one image and its transitions; no I/O;
//! - [`recheck_schedule`]: when each image has its turn;
//! - [`work_queue`]: which image is next;
//! - [`rate_limits`]: how often registries are checked;
//! - [`probe`], [`image_checks`], [`referrer_checks`]: the checks at the registries;
//! - [`users`]: reports to the users of images, and the limits of their namespaces.
//!
//! The copy queue decides when an image is copied; the lookup decides which requests a check sends.

mod controller;
mod image_checks;
mod image_state;
mod metrics;
mod probe;
mod rate_limits;
mod recheck_schedule;
mod referrer_checks;
#[cfg(test)]
mod tests;
mod users;
mod work_queue;

use std::sync::Arc;
use std::time::Duration;

use super::copy_status::CopyStatuses;
use super::events::Events;
use super::replicas::Replicas;
use super::shared_index::SharedIndex;
use crate::cluster::config::OnMovedTag;
use crate::lookup::Lookup;
pub(in crate::cluster) use controller::images_in_use::{Use, images_in_index};
pub use metrics::ReconcilerMetrics;
pub use rate_limits::UpstreamLimits;

#[derive(Clone)]
pub struct Reconciler {
    pub cluster: Arc<SharedIndex>,
    pub lookup: Lookup,
    pub copy_status: CopyStatuses,
    pub replicas: Replicas,
    pub events: Events,
    pub metrics: ReconcilerMetrics,
    /// Of the reconcilers of all backups.
    pub upstream_limits: UpstreamLimits,
    /// How often each image is re-checked.
    pub interval: Duration,
    /// What happens to a copy whose tag moved upstream.
    pub on_moved_tag: OnMovedTag,
}
