//! The kind of the sidecar's own objects, as the chart defines it.

use anyhow::Context as _;
use serde_json::Value;

use testkit::artifacts;

use super::Cluster;
use super::global::GlobalObject;

/// The chart's definition.
const DEFINITION: &str = "charts/image-mirror/files/mirroredimages.yaml";

/// API version and kind of the objects.
const API_VERSION: &str = "image-mirror.dev/v1alpha1";
const KIND: &str = "MirroredImage";

impl Cluster {
    /// Defines `MirroredImages` as the chart does, until the guard is dropped.
    ///
    /// # Errors
    /// When the API server refuses, or does not serve them in time.
    pub fn define_mirrored_images(&self) -> anyhow::Result<GlobalObject> {
        let text = std::fs::read_to_string(artifacts::workspace().join(DEFINITION));
        let text = text.with_context(|| format!("reading {DEFINITION}"))?;
        let definition: Value = yaml_serde::from_str(&text)?;
        self.define_global(&definition, API_VERSION, KIND)
    }

    /// The `MirroredImages` that exist.
    ///
    /// # Errors
    /// What the API server answers.
    pub fn mirrored_images(&self) -> Result<Vec<Value>, kube::Error> {
        self.list(API_VERSION, KIND)
    }
}
