//! The waPC guest: exports for Kubewarden's host, and calls to it.
//!
//! The host is called without the SDK's wrappers: `get_manifest` parses the response with the types of oci-spec, which adds a
//! fifth to the module for annotations alone, and the logger panics if the host refuses an event.

use std::fmt;
use std::mem::ManuallyDrop;
use std::time::{Duration, Instant};

use kubewarden_policy_sdk::protocol_version_guest;
use wapc_guest::{CallResult, host_call, register_function};

use crate::host::{Host, HostError};

const BINDING: &str = "kubewarden";

/// Registers the functions for the host, which calls this first.
// `no_mangle` is unsafe because a second symbol of this name would be undefined behaviour. The host requires this name, and
// it occurs once.
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
    // The instance ends with this call, so nothing needs to be freed.
    let response = ManuallyDrop::new(crate::evaluate(payload, &mut host));
    Ok(response.to_json()?)
}

struct Kubewarden {
    started: Instant,
}

impl Host for Kubewarden {
    fn manifest(&mut self, reference: &str) -> Result<String, HostError> {
        let payload = serde_json::to_vec(reference).map_err(host_error)?;
        let response =
            host_call(BINDING, "oci", "v1/oci_manifest", &payload).map_err(host_error)?;
        String::from_utf8(response).map_err(host_error)
    }

    fn log(&mut self, event: &[u8]) {
        // A lost log event must not deny a workload.
        let _ = host_call(BINDING, "tracing", "log", event);
    }

    fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }
}

fn host_error(error: impl fmt::Display) -> HostError {
    HostError(error.to_string())
}
