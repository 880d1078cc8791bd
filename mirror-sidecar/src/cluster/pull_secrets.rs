//! The pull Secret controller: creates the Secret where the policy requests it or a workload names it, keeps the current
//! credentials in it, and removes it where no workload needs it any more.
//!
//! A Secret is managed here if it has the label `app.kubernetes.io/managed-by: image-mirror`. Another one of the same name
//! is never changed.
//!
//! - [`provider`]: the interface, and the credentials;
//! - [`controller`]: requests, watches and rounds over all namespaces;
//! - [`apply`]: one namespace, with requests to the API server;
//! - [`plan`]: the next step for a Secret, as pure functions;
//! - [`desired`]: the logins that a Secret must have, may have, and must not have;
//! - [`pull_login`]: the logins of the configuration, which kubelets can tell apart;
//! - [`keyring`]: their keys, and their current values;
//! - [`cache`]: the Secrets that exist;
//! - [`dockerconfigjson`]: the logins in them;
//! - [`error`]: the reason why a namespace has no usable Secret.

mod apply;
mod cache;
mod controller;
mod desired;
mod dockerconfigjson;
mod error;
mod keyring;
mod metrics;
mod plan;
mod provider;
mod pull_login;
#[cfg(test)]
mod tests;

pub use metrics::SecretMetrics;
pub use provider::{ManagedSecrets, Provision, PullSecrets, ReadLogins, Setup};
pub use pull_login::{PullLogin, PullLogins};
