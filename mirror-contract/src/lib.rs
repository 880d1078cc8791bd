//! The rules that the policy and the sidecar must apply alike, each in one module:
//! - [`reference`]: parsing and normalising image references;
//! - [`digest`]: content digests, and their form in tags;
//! - [`query`]: requests of the policy, as the reference of a manifest;
//! - [`response`]: responses of the sidecar, as annotations of that manifest or as the message of an OCI error;
//! - [`naming`]: names of copies in the backup registry;
//! - [`unsupported`]: images that cannot be mirrored;
//! - [`settings`]: the settings of the policy, as one document for both sides;
//! - [`rules`], [`image_pattern`]: which images are mirrored;
//! - [`backup_name`], [`rewrite_target`]: where the images of rules are;
//! - [`namespace`], [`owners`], [`label_pattern`]: namespaces, owners and labels of workloads that are not rewritten;
//! - [`placeholder`]: images that another webhook or controller fills in;
//! - [`text`]: text from outside in messages;
//! - [`workload`]: the fields of a workload that hold images, and its annotations.
//!
//! The crate has no I/O and no regular expressions, and builds for `wasm32-wasip1` as well as natively: the policy runs it in
//! a new instance for every admission request.

#![warn(missing_docs)]
// No panic is reachable from outside. An exception gives its reason: `#[expect(..., reason = "...")]`.
#![deny(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used
)]
#![no_std]

extern crate alloc;

pub mod backup_name;
pub mod digest;
mod grammar;
pub mod image_pattern;
pub mod label_pattern;
pub mod namespace;
pub mod naming;
mod naming_scheme;
pub mod owners;
pub mod placeholder;
pub mod query;
pub mod reference;
mod registry_rules;
pub mod response;
pub mod rewrite_target;
pub mod rules;
pub mod settings;
pub mod text;
pub mod unsupported;
pub mod workload;

pub use backup_name::BackupName;
pub use digest::{Algorithm, Digest};
pub use image_pattern::ImagePattern;
pub use label_pattern::LabelPattern;
pub use namespace::NamespacePattern;
pub use naming::{Backup, Naming, Relation};
pub use owners::OwnerPattern;
pub use query::{Mode, Place, Query, Sidecar};
pub use reference::ImageRef;
pub use response::{ImageStatus, PullSecretStatus, Refusal, RefusalKind};
pub use rewrite_target::RewriteTarget;
pub use settings::Settings;
pub use unsupported::Unsupported;

/// Longest repository name, in characters (distribution specification, "Pulling manifests";
/// `RepositoryNameTotalLengthMax` of distribution/reference).
pub const MAX_REPOSITORY: usize = 255;

/// Longest tag, in characters (distribution specification, "Pulling manifests").
pub const MAX_TAG: usize = 128;
