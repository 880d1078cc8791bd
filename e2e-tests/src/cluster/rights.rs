//! The rights that the chart gives to the sidecar.

use anyhow::Context as _;
use k8s_openapi::api::rbac::v1::PolicyRule;
use serde::Deserialize;

use testkit::artifacts;

/// A reviewed render of the chart, in which the sidecar does all it can. The chart's tests hold it to what helm renders.
const RENDER: &str = "charts/image-mirror/tests/golden/everything.yaml";

/// What the sidecar may do: everywhere, and in its own namespace.
#[derive(Clone, Debug)]
pub struct Rights {
    /// In all namespaces.
    pub everywhere: Vec<PolicyRule>,
    /// In its own namespace.
    pub at_home: Vec<PolicyRule>,
}

impl Rights {
    /// Those that the chart renders.
    ///
    /// # Errors
    /// When the render is not there, or has no such roles.
    pub fn published() -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(artifacts::workspace().join(RENDER))
            .with_context(|| format!("reading {RENDER}"))?;
        Ok(Self {
            everywhere: rules(&text, "ClusterRole")?,
            at_home: rules(&text, "Role")?,
        })
    }
}

/// As much of a rendered role as is of interest.
#[derive(Deserialize)]
struct Role {
    rules: Vec<PolicyRule>,
}

/// The rules of the only role of this kind.
fn rules(render: &str, kind: &str) -> anyhow::Result<Vec<PolicyRule>> {
    let head = format!("kind: {kind}");
    let mut roles = render
        .split("\n---\n")
        .filter(|object| object.lines().any(|line| line == head));
    let (Some(role), None) = (roles.next(), roles.next()) else {
        anyhow::bail!("{RENDER} must have one {kind}");
    };
    let role: Role =
        yaml_serde::from_str(role).with_context(|| format!("reading the {kind} of {RENDER}"))?;
    Ok(role.rules)
}
