//! The Kubewarden policy of image-mirror: workloads use the copies of their images.
//!
//! [`validate`] is a function of the admission request and of what the sidecar says through the [`Host`]:
//!
//! 1. [`request`]: read the request; [`pod_template`]: what of it may be changed; [`exempt`]: whether nothing is to be;
//! 2. [`object`]: read what matters of the object; [`images`]: which images it names; [`sidecar_client`]: what the sidecar knows
//!    about them; [`originals_annotation`]: what is known without it;
//! 3. [`decide`]: what becomes of each image and of the [`pull_secrets`]; [`rewrite`]: the edit of the object's text;
//! 4. [`response`]: the response, with warnings and audit annotations.
//!
//! Time and memory are at most linear in the size of the request: nothing is searched once for each of many.
//!
//! It never fails: the host would turn an error, a panic or a timeout into a denial that no `failurePolicy` rescues. What
//! cannot be understood is accepted as it is, with a warning.

// No panic is reachable from outside: code that cannot avoid one says why with `#[expect(..., reason = "...")]`.
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
pub mod fuzzing;
#[cfg(target_arch = "wasm32")]
mod guest;
mod host;
mod images;
mod job_update;
mod json;
mod listed_secrets;
mod log;
mod object;
mod old_object;
mod originals_annotation;
mod other_installation;
mod pod_template;
mod pull_secrets;
mod reason;
mod request;
mod response;
mod rewrite;
mod rollout;
mod settings;
mod sidecar_client;
mod truncate;

pub use evaluate::evaluate;
pub use host::{Host, HostError};
pub use response::Response;
pub use settings::validate_settings;

#[cfg(test)]
mod tests;
