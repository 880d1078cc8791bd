//! The commands: each connects modules, and turns their results into output and an exit code.

pub mod check;
pub mod completion;
pub mod copy;
mod list;
pub mod man;
pub mod name;
pub mod plan;
pub mod serve;
pub mod status;
pub mod verify;
