//! Which addresses may be connected to, and how hosts are grouped by their owner.

mod public_suffix;

pub use public_suffix::registrable_domain;
