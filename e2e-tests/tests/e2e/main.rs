//! The whole thing: the policy's wasm in a host like Kubewarden's, the real sidecar, real registries.

mod attack;
mod backup;
mod backup_health;
mod claims;
mod command_line;
mod connections;
mod copies;
mod facade;
mod failover;
mod fuel;
mod growth;
mod hostile;
mod hostile_json;
mod kill;
mod memory;
mod outages;
mod plan;
mod published;
mod rewrites;
mod sessions;
mod several_backups;
mod size;
mod support;
mod tenant_objects;
mod verify;
mod workloads;
