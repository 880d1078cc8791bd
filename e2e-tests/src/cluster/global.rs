//! Objects that live in no namespace.

use kube::Client;
use serde_json::Value;

use super::Cluster;
use super::namespace::{create_global, delete_global, get_global, merge_global};

/// An object in no namespace. It is removed when this is dropped.
pub struct GlobalObject {
    manifest: Value,
    admin: Client,
}

impl GlobalObject {
    /// Creates it.
    ///
    /// # Errors
    /// When the API server refuses.
    pub fn create(cluster: &Cluster, manifest: Value) -> anyhow::Result<Self> {
        create_global(&cluster.admin(), &manifest)?;
        Ok(Self {
            manifest,
            admin: cluster.admin(),
        })
    }

    /// What is stored of it.
    ///
    /// # Errors
    /// What the API server answers.
    pub fn get(&self) -> Result<Value, kube::Error> {
        get_global(&self.admin, &self.manifest)
    }
}

impl Drop for GlobalObject {
    fn drop(&mut self) {
        // The API server may be gone already.
        let _ = delete_global(&self.admin, &self.manifest);
    }
}

impl Cluster {
    /// What is stored of an object in no namespace.
    ///
    /// # Errors
    /// What the API server answers.
    pub fn get_global(&self, manifest: &Value) -> Result<Value, kube::Error> {
        get_global(&self.admin(), manifest)
    }

    /// Merges fields into an object in no namespace (RFC 7386).
    ///
    /// # Errors
    /// What the API server answers.
    pub fn merge_global(&self, manifest: &Value, fields: &Value) -> Result<Value, kube::Error> {
        merge_global(&self.admin(), manifest, fields)
    }
}
