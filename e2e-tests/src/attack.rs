//! Attacks on the sidecar.

pub mod connections;
