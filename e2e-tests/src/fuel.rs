//! How much work an evaluation is: the same cases for the bench, which takes the time, and for the test that counts.
//!
//! - [`Case`] is a request and all that the host has to say to it;
//! - [`Meter`] runs a policy in a host of its own that counts instructions and nothing else;
//! - [`Figures`] are counts that were accepted, and what has become worse since.
//!
//! A count does not depend on the machine, so a test can rely on it. It is not a time: an instruction that moves a
//! mebibyte counts as one, and calls of the host, memory that is touched for the first time and caches do not count.

mod cases;
mod figures;
mod imports;
mod meter;

pub use cases::{Case, Expected, SIDECAR};
pub use figures::{Figures, rustc_version};
pub use meter::{Meter, Spent};
