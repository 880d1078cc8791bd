//! The engine against registries that behave and that do not.

mod addresses;
mod auth;
mod cases;
mod child;
mod client_certificates;
mod closure;
mod copying;
mod docker_config;
mod fault_matrix;
mod faults;
mod lookup;
mod support;
mod target_lookup;
