//! All I/O of the policy.

use std::time::Duration;

/// Kubewarden's host, or a script in tests.
pub trait Host {
    /// Returns the manifest (JSON) that `reference` names, from Kubewarden's capability `oci/v1/oci_manifest`. The text of an
    /// error contains the refusal of the sidecar, if any.
    fn manifest(&mut self, reference: &str) -> Result<String, HostError>;

    /// Writes a log event (JSON). Failures are ignored.
    fn log(&mut self, event: &[u8]);

    /// Time since the evaluation began.
    fn elapsed(&self) -> Duration;
}

/// The error text of the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostError(pub String);
