//! The Kubewarden policy of image-mirror: workloads use the copies of their images.
//!
//! [`evaluate()`] is a function of the admission request and of the responses of the sidecar through the [`Host`]:
//!
//! 1. [`request`]: parse the request, and find what may change; [`exclusions`]: objects that are not rewritten;
//! 2. [`object`]: read the object; [`images`]: its images; [`sidecar_client`]: their status; [`originals_annotation`]: the copies
//!    that are known without the sidecar;
//! 3. [`decide`]: the outcome for each image and the [`pull_secrets`]; [`rewrite`]: the edit of the object's text;
//! 4. [`response`]: the response, with warnings and audit annotations.
//!
//! Time and memory are at most linear in the size of the request: no search is repeated for each of many items.
//!
//! The policy never fails: the host would turn an error, a panic or a timeout into a denial, whatever the `failurePolicy`.
//! Invalid input is accepted unchanged, with a warning.

// No panic is reachable from outside. An exception gives its reason: `#[expect(..., reason = "...")]`.
#![deny(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used
)]

mod decide;
mod evaluate;
mod exclusions;
#[cfg(any(fuzzing, test))]
#[path = "../fuzz/src/fuzzing.rs"]
pub mod fuzzing;
#[cfg(target_arch = "wasm32")]
mod guest;
mod host;
mod images;
mod json;
mod log;
mod object;
mod old_object;
mod originals_annotation;
mod pull_secrets;
mod reason;
mod request;
mod response;
mod rewrite;
mod rollout;
mod sidecar_client;
mod truncate;
mod validate_settings;

pub use evaluate::evaluate;
pub use host::{Host, HostError};
pub use response::Response;
pub use validate_settings::validate_settings;

#[cfg(test)]
mod tests;
