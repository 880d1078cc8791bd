//! The kind of Kubewarden's policies, without the controller.

use std::thread;

use serde_json::{Value, json};

use super::Cluster;
use super::custom::{PROBE_INTERVAL, PROBES};
use super::global::GlobalObject;

/// API version and kind of the policies.
const API_VERSION: &str = "policies.kubewarden.io/v1";
const KIND: &str = "ClusterAdmissionPolicy";

impl Cluster {
    /// Defines `ClusterAdmissionPolicies`, with any `spec`, until the guard is dropped.
    ///
    /// # Errors
    /// When the API server refuses, or does not serve them in time.
    pub fn define_policies(&self) -> anyhow::Result<GlobalObject> {
        let definition = json!({
            "apiVersion": "apiextensions.k8s.io/v1",
            "kind": "CustomResourceDefinition",
            "metadata": { "name": "clusteradmissionpolicies.policies.kubewarden.io" },
            "spec": {
                "group": "policies.kubewarden.io",
                "names": {
                    "kind": KIND, "singular": "clusteradmissionpolicy", "plural": "clusteradmissionpolicies",
                },
                "scope": "Cluster",
                "versions": [{
                    "name": "v1", "served": true, "storage": true,
                    "schema": { "openAPIV3Schema": { "type": "object", "properties": {
                        "spec": { "type": "object", "x-kubernetes-preserve-unknown-fields": true },
                    } } },
                }],
            },
        });
        // That of an earlier test may still be being deleted.
        let mut created = GlobalObject::create(self, definition.clone());
        for _ in 0..PROBES {
            if created.is_ok() {
                break;
            }
            thread::sleep(PROBE_INTERVAL);
            created = GlobalObject::create(self, definition.clone());
        }
        let definition = created?;
        for _ in 0..PROBES {
            if self.serves(API_VERSION, KIND)? && self.list(API_VERSION, KIND).is_ok() {
                return Ok(definition);
            }
            thread::sleep(PROBE_INTERVAL);
        }
        anyhow::bail!("the API server does not serve {KIND}")
    }
}

/// The manifest of a policy with these settings.
#[must_use]
pub fn policy(name: &str, settings: &Value) -> Value {
    json!({
        "apiVersion": API_VERSION, "kind": KIND, "metadata": { "name": name },
        "spec": { "settings": settings, "mode": "protect", "mutating": true, "rules": [] },
    })
}
