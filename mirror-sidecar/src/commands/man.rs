//! `man`: manual pages.

use std::path::Path;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::CommandFactory as _;
use clap_mangen::Man;

use crate::args::{Cli, ManArgs};
use crate::output;

/// Prints the page of the program, or writes the pages of all commands to a folder.
///
/// # Errors
/// When a page cannot be written.
pub fn run(args: &ManArgs) -> anyhow::Result<ExitCode> {
    let mut command = Cli::command().disable_help_subcommand(true);
    command.build();
    match &args.folder {
        None => output::raw(&String::from_utf8_lossy(&render(command)?)),
        Some(folder) => {
            write(folder, command.clone())?;
            for subcommand in command.get_subcommands() {
                write(folder, subcommand.clone())?;
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn write(folder: &Path, command: clap::Command) -> anyhow::Result<()> {
    let name = command.get_display_name().unwrap_or(command.get_name());
    let file = folder.join(format!("{name}.1"));
    let page = render(command)?;
    std::fs::write(&file, page).with_context(|| format!("cannot write {}", file.display()))
}

fn render(command: clap::Command) -> anyhow::Result<Vec<u8>> {
    let mut page = Vec::new();
    Man::new(command).render(&mut page)?;
    Ok(page)
}
