//! Keeps a copy of every image that the cluster uses, whether or not anybody asks for it.
//!
//! Each image in use is looked for in the backup as soon as it is in use, and copied at once if it is not there. From then
//! on it is looked at once in every interval, at a moment of its own: is the copy still there, does the tag still stand for
//! the same, does the original still exist? One replica owns each image and does all that; the others only look whether
//! its copy is there, because their own re-admissions depend on it.
//!
//! - [`used`]: what is in use, from the model;
//! - [`item`]: one image in use, and what follows from what was seen of it; no I/O;
//! - [`rhythm`]: when each image has its turn;
//! - [`agenda`]: which image is next;
//! - [`limits`]: how much may be asked of the registries;
//! - [`budget`]: what namespaces may have;
//! - [`look`]: asks the registries;
//! - [`notices`]: what is to be told, and to whom;
//! - [`keeper`]: puts all that together.
//!
//! What is copied when, and what a registry is asked how, is the matter of the copy queue and the catalog.

mod agenda;
mod budget;
mod item;
mod keeper;
mod limits;
mod look;
mod notices;
mod rhythm;
#[cfg(test)]
mod tests;
mod used;

use std::sync::Arc;
use std::time::Duration;

use super::events::Events;
use super::inventory::Inventory;
use super::replicas::Replicas;
use super::shared::Cluster;
use crate::args::OnMovedTag;
use crate::catalog::Catalog;
use crate::metrics::Metrics;

/// What the upkeep works with.
#[derive(Clone)]
pub struct Upkeep {
    /// What is in use.
    pub cluster: Arc<Cluster>,
    /// Looks for copies and has them made.
    pub catalog: Catalog,
    /// Where what is known about the copies goes.
    pub inventory: Inventory,
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

impl Upkeep {
    /// Does all that, for ever.
    pub async fn run(self) {
        keeper::Keeper::new(self).run().await;
    }
}
