//! What the end-to-end tests, drills and attacks are made of, beyond [`testkit`].
//!
//! - [`cluster`] is a real API server, and the webhook with which it calls the policy;
//! - [`manifests`] are workloads of every kind;
//! - [`drill`] is a cluster full of workloads with all that belongs to it, for the blackout drill and for chaos;
//! - [`session`] are recorded sessions between a policy and its host, and the table of cases made of them;
//! - [`attack`] is what tenants and registries may try, with the bound of each;
//! - [`fuel`] counts the instructions of the policy.
//!
//! Everything can be called from plain `#[test]` functions.

pub mod attack;
pub mod cluster;
pub mod drill;
pub mod fuel;
pub mod manifests;
pub mod session;
