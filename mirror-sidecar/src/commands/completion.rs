//! `completion`: completion scripts for shells.

use std::process::ExitCode;

use clap::CommandFactory as _;

use crate::args::{Cli, CompletionArgs};
use crate::output;

pub fn run(args: &CompletionArgs) -> ExitCode {
    let mut command = Cli::command();
    let name = command.get_name().to_owned();
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut command, name, &mut script);
    output::raw(&String::from_utf8_lossy(&script));
    ExitCode::SUCCESS
}
