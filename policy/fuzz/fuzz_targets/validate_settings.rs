//! Fuzzes the policy's settings.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| image_mirror_policy::fuzzing::validate_settings(data));
