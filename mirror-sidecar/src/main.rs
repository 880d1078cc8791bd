//! Copies the images of a Kubernetes cluster to a backup registry and answers the image-mirror policy.

use std::process::ExitCode;

fn main() -> ExitCode {
    mirror_sidecar::run()
}
