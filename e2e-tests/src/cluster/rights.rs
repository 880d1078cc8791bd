//! The rights that the chart gives to the sidecar.

use anyhow::Context as _;
use k8s_openapi::api::rbac::v1::PolicyRule;

use crate::artifacts;

/// What the sidecar may do: everywhere, and in its own namespace.
#[derive(Clone, Debug)]
pub struct Rights {
    /// In all namespaces.
    pub everywhere: Vec<PolicyRule>,
    /// In its own namespace.
    pub at_home: Vec<PolicyRule>,
}

impl Rights {
    /// Those that are published.
    ///
    /// # Errors
    /// When the files are not there or are no rules.
    pub fn published() -> anyhow::Result<Self> {
        Ok(Self {
            everywhere: rules("cluster-rules.yaml")?,
            at_home: rules("namespace-rules.yaml")?,
        })
    }
}

fn rules(file: &str) -> anyhow::Result<Vec<PolicyRule>> {
    let path = artifacts::workspace()
        .join("charts/image-mirror/files")
        .join(file);
    let text =
        std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    yaml_serde::from_str(&text).with_context(|| format!("reading {}", path.display()))
}
