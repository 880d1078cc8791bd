//! The waPC guest: exports for Kubewarden's host, and calls to it.
//!
//! The host is called without the SDK's wrappers. `get_manifest` there reads the whole answer into oci-spec's types, a fifth
//! more wasm for annotations that are the only part that matters; and its logger panics when the host refuses an event.

use std::fmt;
use std::mem::ManuallyDrop;
use std::time::{Duration, Instant};

use kubewarden_policy_sdk::protocol_version_guest;
use wapc_guest::{CallResult, host_call, register_function};

use crate::host::{Host, HostError};

const BINDING: &str = "kubewarden";

/// Registers what the host may call. The host runs this before anything else.
// `no_mangle` counts as unsafe because another symbol of the same name would be undefined behaviour; the host
// demands this very name, and it occurs once.
#[allow(unsafe_code)]
#[unsafe(no_mangle)]
pub extern "C" fn wapc_init() {
    register_function("protocol_version", protocol_version_guest);
    register_function("validate_settings", validate_settings);
    register_function("validate", validate);
}

fn validate_settings(payload: &[u8]) -> CallResult {
    Ok(serde_json::to_vec(&crate::validate_settings(payload))?)
}

fn validate(payload: &[u8]) -> CallResult {
    let mut host = Kubewarden {
        started: Instant::now(),
    };
    // The instance ends with this call: to take the object apart again would be work for nothing.
    let response = ManuallyDrop::new(crate::evaluate(payload, &mut host));
    Ok(response.to_json()?)
}

struct Kubewarden {
    started: Instant,
}

impl Host for Kubewarden {
    fn manifest(&mut self, reference: &str) -> Result<String, HostError> {
        let payload = serde_json::to_vec(reference).map_err(said)?;
        let answer = host_call(BINDING, "oci", "v1/oci_manifest", &payload).map_err(said)?;
        String::from_utf8(answer).map_err(said)
    }

    fn log(&mut self, event: &[u8]) {
        // A lost log event is no reason to deny a workload.
        let _ = host_call(BINDING, "tracing", "log", event);
    }

    fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }
}

fn said(error: impl fmt::Display) -> HostError {
    HostError(error.to_string())
}
