//! Whole evaluations, from the bytes that the host sends to the answer that it gets, with a scripted sidecar.

mod fixtures;
mod images;
mod properties;
mod refusals;
mod robustness;
mod script;
mod settings;
mod workloads;
