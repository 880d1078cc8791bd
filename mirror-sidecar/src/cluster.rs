//! What the Kubernetes cluster runs, and what follows from it.
//!
//! - [`workload_kind`]: the kinds that are watched;
//! - [`workload`]: a watched object, trimmed to what matters here;
//! - [`index`]: who uses which image where, in memory; images to copy, pull Secrets and re-admissions are read from it;
//! - [`readmission`]: which workloads to send through admission again now, and what comes of it;
//! - `loop_guard`: workloads whose Pods are re-created again and again after a rewrite, which are left alone;
//! - [`registry_usage`]: from which registries the images come;
//! - [`excluded`]: which namespaces are left alone;
//! - [`shared_index`]: the index that one side writes and others read;
//! - [`watch`]: the API server's watch streams, which keep the index up to date;
//! - `api_server`: the client, and whether there is an outage;
//! - `api_response`, `json_filter`: its responses, read as they arrive, of which only what matters is kept;
//! - [`reconciler`]: keeps a copy of every image that is used;
//! - `injected`: reports injected containers whose images are not rewritten;
//! - `reinvocation`: registers the policy's webhook once more, after those that inject containers;
//! - [`config`]: the settings of all this;
//! - [`copy_status`]: what is known about these copies;
//! - [`pull_secrets`]: makes the pull Secrets;
//! - [`replicas`]: which share of the work is this replica's;
//! - [`events`]: tells people what happened;
//! - `own_workload`, `trouble_events`: Events about this service, at its own Deployment;
//! - `supervision`: tasks that are started again when they break off;
//! - [`run`]: sets all this to work.

mod api_response;
pub mod api_server;
pub mod config;
pub mod copy_status;
pub mod events;
pub mod excluded;
pub mod index;
mod injected;
mod json_filter;
mod lenient;
mod loop_guard;
mod own_workload;
pub mod pull_secrets;
pub mod readmission;
pub mod reconciler;
pub mod registry_usage;
mod reinvocation;
pub mod replicas;
pub mod run;
pub mod shared_index;
mod supervision;
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
pub use pull_secrets::{ManagedSecrets, Provision, PullSecrets};
pub use readmission::{News, Outcome, Readmissions, Readmit};
pub use reconciler::Reconciler;
pub use replicas::Replicas;
pub use shared_index::SharedIndex;
pub use workload::{Key, Life, NamespaceObject, Object, Watched, Workload};
pub use workload_kind::{Kind, WorkloadKind};
