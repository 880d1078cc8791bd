//! What tests, benches and the demo share.
//!
//! - [`host`] runs the policy's WebAssembly the way Kubewarden's policy server does;
//! - [`registry`] starts real registries on loopback, and speaks plain HTTP to them;
//! - [`scripted`] is a registry in this process that misbehaves on demand;
//! - [`endless`] is a source and a sink for one layer that no memory could hold;
//! - [`api_server`] is an API server in this process;
//! - [`proxy`] is a network between processes that can be cut;
//! - [`image`] makes images on the fly, pushes them and reads them back;
//! - [`closure`] reads all that belongs to a tag with another client than ours;
//! - [`sidecar`] runs the real `mirror-sidecar` as a child process;
//! - [`fixtures`] are admission requests as an API server sent them;
//! - [`scratch`] finds folders and ports; [`server`] serves HTTP and HTTPS; [`tls`] issues certificates; [`blocking`] owns the runtime;
//! - [`machine`] describes the machine that figures come from; [`artifacts`] finds or builds what is tested.
//!
//! Everything can be called from plain `#[test]` functions. Nothing here copies images with the engine under test,
//! so that a fault of the engine cannot hide itself.

pub mod api_server;
pub mod artifacts;
pub mod blocking;
pub mod closure;
pub mod digest;
pub mod endless;
pub mod fixtures;
pub mod host;
pub mod image;
pub mod machine;
pub mod proxy;
pub mod registry;
pub mod scratch;
pub mod scripted;
pub mod server;
pub mod sidecar;
pub mod tls;
