//! Sends workloads through admission again, so that they use copies that exist now.
//!
//! - [`policy`]: which workload is next, and what follows from the result; no I/O;
//! - [`controller`]: dry runs, patches, reports;
//! - `patch`: the request to the API server.

pub mod controller;
mod metrics;
mod patch;
pub mod policy;

pub use controller::ReadmissionController;
pub use metrics::ReadmissionMetrics;
pub use policy::{News, Outcome, Readmissions, Readmit};
