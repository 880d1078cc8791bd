//! Fuzzes the reading of ranges, waits, quotas and pages.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| mirror_copy::fuzzing::range(data));
