//! Whole evaluations, from the bytes that the host sends to the answer that it gets, with a scripted sidecar.

mod documented_rules;
mod exclusions;
mod failover;
mod fixtures;
mod forged_annotations;
mod images;
mod moves;
mod other_installation;
mod placeholders;
mod properties;
mod pull_secrets;
mod refusals;
mod robustness;
mod rules;
mod script;
mod sequences;
mod settings;
mod workloads;
