//! Fuzzes admission requests, and what the host and the sidecar answer on the way.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| image_mirror_policy::fuzzing::validate(data));
