//! What the service did, in figures: counted here, shown as `OpenMetrics` text at `/metrics`.
//!
//! Each concern has a module of its own, whose figures register themselves. No label has a value that comes from outside
//! without a bound, so their number never grows. A figure that is not there is something else than zero, and who watches
//! for growth needs both ends: so each one is shown from the start.

mod copying;
mod events;
mod facade;
mod hosts;
mod limits;
mod readmissions;
mod reconciler;
mod replicas;
mod secrets;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;

use prometheus_client::encoding::text;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

use copying::Copying;
pub use copying::{Counting, Jobs};
pub use events::EventResult;
use events::Events;
use facade::FacadeMetrics;
pub use facade::FacadeStatus;
use hosts::Hosts;
pub use limits::BudgetGroup;
use limits::Limits;
use readmissions::Readmissions;
use reconciler::Reconciler;
pub use reconciler::{BackupCheck, UpstreamCheck};
use replicas::Replicas;
pub use secrets::SecretWrite;
use secrets::Secrets;

/// The media type of what [`Metrics::encode`] gives (`OpenMetrics` 1.0, "Protocol Negotiation").
pub const MEDIA_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The figures. Clones count together.
#[derive(Clone)]
pub struct Metrics(Arc<Inner>);

struct Inner {
    registry: Registry,
    answers: FacadeMetrics,
    copying: Copying,
    events: Events,
    replicas: Replicas,
    hosts: Hosts,
    limits: Limits,
    readmissions: Readmissions,
    reconciler: Reconciler,
    secrets: Secrets,
}

/// One label: a name and one of a module's values.
type Label = [(&'static str, &'static str); 1];

impl Metrics {
    /// All figures at zero.
    #[must_use]
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix("image_mirror");
        registry.register(
            "build",
            "The running program",
            Info::new([("version", env!("CARGO_PKG_VERSION"))]),
        );
        Self(Arc::new(Inner {
            answers: FacadeMetrics::register(&mut registry),
            copying: Copying::register(&mut registry),
            events: Events::register(&mut registry),
            replicas: Replicas::register(&mut registry),
            hosts: Hosts::register(&mut registry),
            limits: Limits::register(&mut registry),
            readmissions: Readmissions::register(&mut registry),
            reconciler: Reconciler::register(&mut registry),
            secrets: Secrets::register(&mut registry),
            registry,
        }))
    }

    /// All figures as `OpenMetrics` text; `jobs` is the state at this moment.
    ///
    /// # Errors
    /// Never for a reason that a caller could mend.
    pub fn encode(&self, jobs: Jobs) -> Result<String, fmt::Error> {
        self.0.copying.set_jobs(jobs);
        self.0.hosts.update();
        let mut body = String::new();
        text::encode(&mut body, &self.0.registry)?;
        Ok(body)
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}
