//! Custom kinds.

use std::thread;
use std::time::Duration;

use kube::Client;
use serde_json::{Value, json};

use super::Cluster;
use super::namespace::{Namespace, create_global, delete_global};

/// How often the API server is asked whether it serves a new kind: a minute in all.
pub(super) const PROBES: usize = 600;
pub(super) const PROBE_INTERVAL: Duration = Duration::from_millis(100);

/// A kind of its own group. Its definition is removed when this is dropped.
pub struct CustomKind {
    definition: Value,
    admin: Client,
    group: String,
    kind: &'static str,
}

impl Cluster {
    /// Defines a kind with this structural schema, in a group that no other namespace uses, and waits until it is served.
    ///
    /// # Errors
    /// When the API server refuses, or does not serve it in time.
    pub fn define(
        &self,
        namespace: &Namespace,
        kind: &'static str,
        schema: &Value,
    ) -> anyhow::Result<CustomKind> {
        let group = format!("{}.example.com", namespace.name());
        let singular = kind.to_lowercase();
        let plural = format!("{singular}s");
        let definition = json!({
            "apiVersion": "apiextensions.k8s.io/v1",
            "kind": "CustomResourceDefinition",
            "metadata": { "name": format!("{plural}.{group}") },
            "spec": {
                "group": group,
                "names": { "kind": kind, "singular": singular, "plural": plural },
                "scope": "Namespaced",
                "versions": [{
                    "name": "v1", "served": true, "storage": true,
                    "schema": { "openAPIV3Schema": schema },
                }],
            },
        });
        create_global(&self.admin(), &definition)?;
        let custom = CustomKind {
            definition,
            admin: self.admin(),
            group,
            kind,
        };
        for _ in 0..PROBES {
            if self.serves(&custom.api_version(), kind)?
                && namespace.list(&custom.api_version(), kind).is_ok()
            {
                return Ok(custom);
            }
            thread::sleep(PROBE_INTERVAL);
        }
        anyhow::bail!("the API server does not serve {kind}")
    }
}

impl CustomKind {
    /// `<group>/v1`.
    #[must_use]
    pub fn api_version(&self) -> String {
        format!("{}/v1", self.group)
    }

    /// The group.
    #[must_use]
    pub fn group(&self) -> &str {
        &self.group
    }

    /// The plural of the kind, as webhooks name it.
    #[must_use]
    pub fn resource(&self) -> String {
        format!("{}s", self.kind.to_lowercase())
    }
}

impl Drop for CustomKind {
    fn drop(&mut self) {
        // The API server may be gone already.
        let _ = delete_global(&self.admin, &self.definition);
    }
}
