//! What each command does: it joins the parts and turns their results into output and an exit code.

pub mod copy;
pub mod name;
pub mod serve;
