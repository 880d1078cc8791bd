//! One `MirroredImage` object for each image in use: the status of images for kubectl and for everything else that shows objects
//! of the cluster.
//!
//! The objects are written from the status and never read back into it: whoever edits or deletes one changes nothing but what
//! is shown, until it is restored. Each replica writes those of the images that it owns, and watches all of its installation,
//! so that it can take over those of another replica.
//!
//! - [`resource`]: the kind and its fields;
//! - [`name`]: the names of objects and of installations;
//! - [`plan`]: which object needs a write;
//! - [`pace`]: when it gets it;
//! - [`store`]: the objects that exist, from a watch;
//! - [`controller`]: the loop and its requests.

mod controller;
pub mod name;
mod pace;
mod plan;
pub mod resource;
mod store;

use tokio_util::sync::CancellationToken;

use super::api_server::ApiServer;
use super::supervision::supervise;
use crate::status::sources::Sources;
pub use name::Installation;

/// What the objects are written from, and where.
#[derive(Clone)]
pub struct MirroredImages {
    pub server: ApiServer,
    pub sources: Sources,
    pub installation: Installation,
}

impl MirroredImages {
    /// Keeps the objects up to date until `stop`.
    pub fn start(self, stop: CancellationToken) {
        let task = supervise(&["mirrored images"], move |_| self.clone().run());
        tokio::spawn(stop.run_until_cancelled_owned(task));
    }
}
