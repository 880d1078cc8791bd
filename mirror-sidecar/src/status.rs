//! The status of the installation: what is protected, what is not and why, what is being copied, and which copies are the last
//! ones.
//!
//! - [`model`]: the types of the API, for everything that shows them;
//! - [`sources`]: where the status of the running process comes from;
//! - [`pages`]: the status of the running process;
//! - [`rows`]: the images in use in their order, as this replica knows them;
//! - [`query`]: filters and pages;
//! - [`describe`]: one row in the words of the model;
//! - [`explain`]: which rule decides about an image;
//! - [`api`]: the HTTP API on the admin port;
//! - [`peers`], [`combine`], [`http`]: the parts of the other replicas;
//! - [`namespaces`]: the totals of each namespace;
//! - [`page`]: the page for browsers;
//! - [`endpoints`]: what of these is served.
//!
//! A replica knows every image in use and whether it is mirrored. It knows the reasons for its own share only: for the others,
//! their owners are asked.

pub mod api;
mod combine;
pub mod describe;
pub mod endpoints;
pub mod explain;
pub mod http;
pub mod model;
mod namespaces;
mod page;
pub mod pages;
mod peers;
pub mod query;
pub mod rows;
pub mod sources;
