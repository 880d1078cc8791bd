//! Waits for what shall happen, and tells what the sidecars asked the API server to do.

use std::time::{Duration, Instant};

use anyhow::bail;

use super::Estate;
use super::replicas::Replica;
use crate::cluster::Request;
use testkit::sidecar::Sidecar;

/// How often it is looked whether something has happened.
const LOOK: Duration = Duration::from_millis(250);

impl Estate {
    /// The patches of workloads by the sidecars that the API server stored, as it logged them: resource, namespace, name.
    #[must_use]
    pub fn readmissions(&self) -> Vec<[String; 3]> {
        self.writes()
            .into_iter()
            .filter(|request| {
                let is_workload = matches!(request.group.as_str(), "" | "apps" | "batch")
                    && !matches!(request.resource.as_str(), "secrets" | "events");
                is_workload
                    && request.verb == "patch"
                    && request.status == 200
                    && !request.is_dry_run()
            })
            .map(|request| [request.resource, request.namespace, request.name])
            .collect()
    }

    /// What the sidecars asked the API server to write, but for Leases.
    #[must_use]
    pub fn writes(&self) -> Vec<Request> {
        let mut requests = self.cluster.requests();
        requests.retain(|request| {
            request.user == self.account.user()
                && !matches!(request.verb.as_str(), "get" | "list" | "watch")
                && request.resource != "leases"
        });
        requests
    }

    /// Waits until nothing is wrong.
    ///
    /// # Errors
    /// When something still is when the time is over; it is in the error then.
    pub fn settle(&mut self, within: Duration) -> anyhow::Result<()> {
        self.wait(within, Self::problems)
    }

    /// Waits until `look` finds no problem.
    ///
    /// # Errors
    /// When it finds one at the end, or when a sidecar died; the problems are in the error then.
    pub fn wait(
        &mut self,
        within: Duration,
        mut look: impl FnMut(&Self) -> anyhow::Result<Vec<String>>,
    ) -> anyhow::Result<()> {
        let start = Instant::now();
        loop {
            let problems = match look(self) {
                Ok(problems) if problems.is_empty() => return Ok(()),
                Ok(problems) => problems,
                Err(error) => vec![format!("{error:#}")],
            };
            if let Some(death) = self.replicas.iter_mut().find_map(Replica::death) {
                bail!(death);
            }
            if start.elapsed() > within {
                bail!(
                    "after {} s: {}\n{}",
                    within.as_secs(),
                    problems.join("\n"),
                    self.logs()
                );
            }
            std::thread::sleep(LOOK);
        }
    }

    /// The last lines of the sidecars' logs.
    #[must_use]
    pub fn logs(&self) -> String {
        let mut text = String::new();
        for replica in &self.replicas {
            let lines = replica.sidecar().map(Sidecar::lines).unwrap_or_default();
            let last = lines.len().saturating_sub(30);
            text = format!("{text}--- {}\n{}\n", replica.name, lines[last..].join("\n"));
        }
        text
    }

    /// What a watch that starts now goes on from.
    ///
    /// # Errors
    /// What the API server answers.
    pub fn resource_version(&self) -> anyhow::Result<String> {
        self.cluster.resource_version("/apis/apps/v1/deployments")
    }

    /// Whether a watch that goes on from there is refused.
    ///
    /// # Errors
    /// What the API server answers otherwise.
    pub fn is_too_old(&self, resource_version: &str) -> anyhow::Result<bool> {
        self.cluster
            .is_too_old("/apis/apps/v1/deployments", resource_version)
    }
}
