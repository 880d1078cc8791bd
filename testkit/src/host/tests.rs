//! The host against small guests and real registries.

mod callbacks;
mod engines;
mod evaluation;
mod guest;
mod kwctl;
mod registries;
