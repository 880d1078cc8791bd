//! How the program ends: exit codes, and the error that stands for one of them.

/// Something could not be done: a copy failed, a port is taken.
pub const FAILURE: u8 = 1;

/// The command line, the environment or a file it names is wrong. The same code that clap uses.
pub const USAGE: u8 = 2;

/// A signal ended the command: this and its number, as shells report it.
pub const SIGNAL: u8 = 128;

/// The user can mend this: a flag, a variable or a file that one of them names is wrong.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct UsageError(pub String);
