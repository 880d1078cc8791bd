//! What the policy and the sidecar must agree on.
//!
//! This crate owns eight rules, each in one module:
//! - [`reference`]: what an image reference is and how it is normalised;
//! - [`query`]: how the policy asks the sidecar, as the reference of a manifest;
//! - [`response`]: what the sidecar replies, as annotations of that manifest or as an OCI error message;
//! - [`naming`]: what a copy is called in the backup registry;
//! - [`namespace`]: which namespaces are left alone;
//! - [`owners`]: which owners are;
//! - [`placeholder`]: which images are filled in by something else;
//! - [`text`]: how foreign text is shown;
//! - [`workload`]: where a workload keeps its images, and the annotations on it.
//!
//! It does no I/O, compiles no regular expression and builds for `wasm32-wasip1` as well as natively:
//! the policy runs it in a fresh instance for every admission request.

#![warn(missing_docs)]
// No panic is reachable from outside: code that cannot avoid one says why with `#[expect(..., reason = "...")]`.
#![deny(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used
)]
#![no_std]

extern crate alloc;

pub mod digest;
mod grammar;
pub mod namespace;
pub mod naming;
mod naming_scheme;
pub mod owners;
pub mod placeholder;
pub mod query;
pub mod reference;
mod registry_rules;
pub mod response;
pub mod text;
pub mod unsupported;
pub mod workload;

pub use digest::{Algorithm, Digest};
pub use namespace::NamespacePattern;
pub use naming::{Backup, Naming, Relation};
pub use owners::OwnerPattern;
pub use query::{Mode, Query, Sidecar};
pub use reference::ImageRef;
pub use response::{ImageStatus, PullSecretStatus, Refusal, RefusalKind};
pub use unsupported::Unsupported;

/// Longest repository name, in characters (distribution specification, "Pulling manifests";
/// `RepositoryNameTotalLengthMax` of distribution/reference).
pub const MAX_REPOSITORY: usize = 255;

/// Longest tag, in characters (distribution specification, "Pulling manifests").
pub const MAX_TAG: usize = 128;
