//! The host against small guests and real registries.

mod callbacks;
mod evaluation;
mod guest;
mod kwctl;
mod registries;
