//! Workloads of every kind; the drill makes the same.

pub use e2e_tests::manifests::*;
