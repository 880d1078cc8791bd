//! What the policy needs from the machine that runs it. The one seam to the outside.

use std::time::Duration;

/// The machine that runs the policy: Kubewarden's host, or a script in tests.
pub trait Host {
    /// The manifest (JSON) that `reference` names, as Kubewarden's capability `oci/v1/oci_manifest` gives it.
    ///
    /// # Errors
    /// The host's error text. A refusal of the sidecar is somewhere inside it.
    fn manifest(&mut self, reference: &str) -> Result<String, HostError>;

    /// Hands over a log event (JSON). Whether it arrives is no concern of the policy.
    fn log(&mut self, event: &[u8]);

    /// Time since the evaluation began.
    fn elapsed(&self) -> Duration;
}

/// The text of the host for a call that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostError(pub String);
