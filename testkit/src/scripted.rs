//! A scripted registry: in this process, and it can do every misbehaviour that is known of registries.
//!
//! [`Fake`] answers like the distribution specification says, unless its [`Knobs`] make it another kind of registry,
//! or a fault ([`Fake::fault`], [`Action`]) spoils the next requests of one kind. It logs every request, so that a test
//! can say who asked for what, in which order, and what they showed. [`Image`]s are made from seeded noise.
//!
//! It must not be lenient by itself: what a client forgets (a scope, a query, a length, a type that it accepts) is
//! refused.

#![allow(
    clippy::missing_panics_doc,
    reason = "a double panics where a test uses it wrongly, and the message says how"
)]

mod fake;
mod fault;
mod handlers;
mod http2;
mod images;
mod knobs;
mod start;
mod state;
#[cfg(test)]
mod tests;

pub use fake::Fake;
pub use fault::{Action, Latch};
pub use images::{
    Image, OCI_INDEX, OCI_MANIFEST, blob, descriptor, digest_of, image, index, noise, referrer,
};
pub use knobs::{Auth, Knobs, LocationStyle, Other, PatchStyle};
pub use state::{Entry, State, Upload};
