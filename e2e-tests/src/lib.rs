//! What the end-to-end tests and the demo are made of.
//!
//! - [`host`] runs the policy's WebAssembly the way Kubewarden's policy server does;
//! - [`registry`] starts real registries on loopback, and speaks plain HTTP to them;
//! - [`scripted`] is a registry in this process that misbehaves on demand;
//! - [`endless`] is a source and a sink for one layer that no memory could hold;
//! - [`cluster`] is a real API server, and the webhook with which it calls the policy;
//! - [`manifests`] are workloads of every kind; [`proxy`] is a network between processes that can be cut;
//! - [`drill`] is a cluster full of workloads with all that belongs to it, for the blackout drill and for chaos;
//! - [`image`] makes images on the fly, pushes them and reads them back;
//! - [`machine`] describes the machine that figures come from;
//! - [`closure`] reads all that belongs to a tag with another client than ours;
//! - [`sidecar`] runs the real `mirror-sidecar` as a child process;
//! - [`session`] are recorded talks between a policy and its host, and the table of cases made of them;
//! - [`attack`] is what tenants and registries may try, with the bound of each; [`api_store`] stores for scripted API servers;
//! - [`fixtures`] are admission requests as an API server sent them;
//! - [`fuel`] counts the instructions of the policy;
//! - [`tls`] issues certificates, [`artifacts`] finds or builds what is tested.
//!
//! Everything can be called from plain `#[test]` functions. Nothing here copies images with the engine under test,
//! so that a fault of the engine cannot hide itself.

pub mod api_store;
pub mod artifacts;
pub mod attack;
pub mod blocking;
pub mod closure;
pub mod cluster;
pub mod digest;
pub mod drill;
pub mod endless;
pub mod fixtures;
pub mod fuel;
pub mod host;
pub mod hostile_json;
pub mod image;
pub mod machine;
pub mod manifests;
pub mod proxy;
pub mod registry;
mod scratch;
pub mod scripted;
mod server;
pub mod session;
pub mod sidecar;
pub mod tls;
