//! The pull Secret controller: creates the Secret where the policy asks for it or a workload names it, keeps the current
//! credentials in it, and removes it where no workload needs it any more.
//!
//! A Secret is ours if it has the label `app.kubernetes.io/managed-by: image-mirror`. Another one of the same name is
//! never touched.
//!
//! - [`provider`]: the interface, and the credentials;
//! - [`controller`]: requests, watches and rounds over all namespaces;
//! - [`apply`]: one namespace, with calls to the API server;
//! - [`plan`]: what is to be done, as pure functions;
//! - [`cache`]: the Secrets that exist;
//! - [`dockerconfigjson`]: the logins in them;
//! - [`error`]: why a namespace has none.

mod apply;
mod cache;
mod controller;
mod dockerconfigjson;
mod error;
mod metrics;
mod plan;
mod provider;
#[cfg(test)]
mod tests;

pub use metrics::SecretMetrics;
pub use provider::{ManagedSecrets, Provision, PullSecrets, Setup};
