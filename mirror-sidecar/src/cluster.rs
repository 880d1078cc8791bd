//! The images that a Kubernetes cluster uses, and the work that follows from them.
//!
//! The [`policies`] decide which images are copied, and the [`watch`] streams fill the [`index`] with these. The [`reconciler`]
//! keeps a copy of every image in use, [`pull_secrets`] creates pull Secrets, and [`readmission`] sends workloads through
//! admission again when copies are complete. [`replicas`] decides which replica does what, [`events`] reports to users, and
//! [`run`] starts all of this. [`snapshot`] reads the images in use once.

mod api_response;
pub mod api_server;
pub mod config;
pub mod copy_status;
pub mod events;
pub mod excluded;
pub mod index;
mod injected;
mod json_fields;
pub(crate) mod json_filter;
pub mod listing;
pub mod login_access;
mod loop_guard;
mod own_workload;
pub mod policies;
mod policy_events;
pub mod pull_locations;
pub mod pull_secrets;
pub mod readmission;
pub mod reconciler;
mod reinvocation;
pub mod replicas;
pub mod run;
pub mod shared_index;
pub mod snapshot;
mod supervision;
mod target_checks;
#[cfg(test)]
mod testing;
mod trouble_events;
pub mod watch;
pub mod workload;
pub mod workload_kind;

pub use copy_status::CopyStatuses;
pub use events::{About, Events, Notice};
pub use excluded::ExcludedNamespaces;
pub use index::{Candidate, Change, CopyState, Index, NamespaceState, Rules, SyncState};
pub use policies::Policies;
pub use pull_secrets::{ManagedSecrets, Provision, PullLogin, PullLogins, PullSecrets};
pub use readmission::{News, Outcome, Readmissions, Readmit};
pub use reconciler::Reconciler;
pub use replicas::Replicas;
pub use shared_index::SharedIndex;
pub use workload::{Key, Life, NamespaceObject, Object, Watched, Workload};
pub use workload_kind::{Kind, WorkloadKind};
