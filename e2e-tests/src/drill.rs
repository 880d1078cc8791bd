//! A cluster full of workloads with all that belongs to it, for the blackout drill and for chaos.
//!
//! - [`plan`]: which workloads use which images; the same for the same seed;
//! - [`estate`]: the API server, both registries, the policy behind its webhook and the replicas of the sidecar;
//! - [`state`]: what is stored and what is wrong with it;
//! - [`pull`]: pulls what workloads name, as a node would;
//! - [`blackout`]: the drill, and [`report`] what came of it.

pub mod blackout;
pub mod estate;
mod owned;
pub mod plan;
pub mod pull;
pub mod report;
pub mod state;

pub use estate::{Estate, Options};
pub use plan::{Plan, Scale};
pub use report::Report;
