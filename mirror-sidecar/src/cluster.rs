//! What the Kubernetes cluster runs, and what follows from it.
//!
//! - [`kind`]: the kinds that are watched;
//! - [`workload`]: a watched object, trimmed to what matters here;
//! - [`model`]: who uses which image where, in memory; images to copy, pull Secrets and re-admissions are read from it;
//! - [`readmission`]: which workloads to send through admission again now, and whether it helped;
//! - [`readmitting`]: sends them, and tells what came of it;
//! - `loop_guard`: workloads whose Pods are re-created again and again after a rewrite, which are left alone;
//! - [`hosts`]: from which registries the images come;
//! - [`excluded`]: which namespaces are left alone;
//! - [`namespace_budget`]: how many new images a namespace may have copied in a day;
//! - `pace`: how fast things may follow each other;
//! - [`shared`]: the model that one side writes and others read;
//! - [`watch`]: the API server's watch streams, which keep the model true;
//! - `api_server`: the client, and whether there is an outage;
//! - `api_response`, `json_filter`: its responses, read as they arrive, of which only what matters is kept;
//! - [`upkeep`]: keeps a copy of every image that is used;
//! - `injected`: reports injected containers whose images are not rewritten;
//! - `reinvocation`: registers the policy's webhook once more, after those that inject containers;
//! - [`inventory`]: what is known about these copies;
//! - [`secrets`]: makes the pull Secrets;
//! - [`replicas`]: which share of the work is this replica's;
//! - [`events`]: tells people what happened;
//! - `own_workload`, `backup_events`: Events about this service, at its own Deployment;
//! - `supervision`: tasks that are started again when they break off;
//! - [`run`]: sets all this to work.

mod api_response;
pub mod api_server;
mod backup_events;
pub mod events;
pub mod excluded;
pub mod hosts;
mod injected;
pub mod inventory;
mod json_filter;
pub mod kind;
mod lenient;
mod loop_guard;
pub mod model;
pub mod namespace_budget;
mod own_workload;
pub mod readmission;
pub mod readmitting;
mod reinvocation;
pub mod replicas;
pub mod run;
pub mod secrets;
pub mod shared;
mod supervision;
#[cfg(test)]
mod testing;
pub mod upkeep;
pub mod watch;
pub mod workload;

pub use events::{About, Events, Notice};
pub use excluded::ExcludedNamespaces;
pub use inventory::Inventory;
pub use kind::{Kind, WorkloadKind};
pub use model::{Change, CopyState, Due, ListState, Model, NamespaceState, Rules};
pub use namespace_budget::{DailyBudget, NamespaceBudgets};
pub use readmission::{News, Outcome, Readmissions, Readmit};
pub use replicas::Replicas;
pub use secrets::{ManagedSecrets, Provision, PullSecrets};
pub use shared::Cluster;
pub use upkeep::Upkeep;
pub use workload::{Key, Life, NamespaceObject, Object, Watched, Workload};
