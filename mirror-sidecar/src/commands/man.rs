//! `man`: manual pages.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Arg, Command, CommandFactory as _};
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};

use crate::args::{Cli, EXIT_CODES, ManArgs};
use crate::output;

const VARIABLES: &str = "An empty variable counts as not set. A flag overrides its variable.";

/// Prints one page for all commands, or writes a page for each command to a folder.
pub fn run(args: &ManArgs) -> anyhow::Result<ExitCode> {
    let mut command = Cli::command().disable_help_subcommand(true);
    command.build();
    match &args.folder {
        None => output::raw(&page(&command, true)?),
        Some(folder) => {
            write(folder, &command)?;
            for subcommand in command.get_subcommands() {
                write(folder, subcommand)?;
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn write(folder: &Path, command: &Command) -> anyhow::Result<()> {
    let name = command.get_display_name().unwrap_or(command.get_name());
    let file = folder.join(format!("{name}.1"));
    std::fs::write(&file, page(command, false)?)
        .with_context(|| format!("cannot write {}", file.display()))
}

/// Returns the page of a command; `with_commands` adds the flags of its subcommands.
fn page(command: &Command, with_commands: bool) -> anyhow::Result<String> {
    let man = Man::new(command.clone());
    let mut page = Vec::new();
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    man.render_options_section(&mut page)?;
    if command.has_subcommands() {
        man.render_subcommands_section(&mut page)?;
    }
    examples(command).to_writer(&mut page)?;
    let mut described = vec![command];
    if with_commands {
        for subcommand in command.get_subcommands() {
            described.push(subcommand);
            page.extend(section_of(command, subcommand)?.into_bytes());
        }
    }
    environment(&described).to_writer(&mut page)?;
    exit_status().to_writer(&mut page)?;
    if command.get_version().is_some() {
        man.render_version_section(&mut page)?;
    }
    Ok(with_one_preamble(&String::from_utf8_lossy(&page)))
}

/// Returns a section about a subcommand for the page of its parent, without the flags of the parent.
fn section_of(parent: &Command, command: &Command) -> anyhow::Result<String> {
    let is_of_all = |arg: &Arg| arg.is_global_set() || arg.get_id() == "help";
    let own = command.clone().mut_args(|arg| {
        let hidden = is_of_all(&arg);
        arg.hide(hidden)
    });
    let man = Man::new(own);
    let mut section = Vec::new();
    man.render_synopsis_section(&mut section)?;
    man.render_description_section(&mut section)?;
    if command.get_arguments().any(|arg| !is_of_all(arg)) {
        man.render_options_section(&mut section)?;
    }
    examples(command).to_writer(&mut section)?;
    let heading = format!("{} {}", parent.get_name(), command.get_name()).to_uppercase();
    let mut start = Vec::new();
    Roff::default()
        .control("SH", [heading.as_str()])
        .to_writer(&mut start)?;
    let section = String::from_utf8_lossy(&section).replace("\n.SH ", "\n.SS ");
    Ok(format!("{}{section}", String::from_utf8_lossy(&start)))
}

/// The examples at the end of `--help`.
fn examples(command: &Command) -> Roff {
    let mut section = Roff::default();
    let text = command.get_after_help().map(ToString::to_string);
    if let Some(lines) = text.as_deref().and_then(|t| t.strip_prefix("Examples:\n")) {
        section.control("SH", ["EXAMPLES"]);
        verbatim(&mut section, lines);
    }
    section
}

/// The environment variables of these commands, with their flags.
fn environment(commands: &[&Command]) -> Roff {
    let mut flags = BTreeMap::new();
    for arg in commands.iter().flat_map(|command| command.get_arguments()) {
        if let (Some(variable), Some(flag)) = (arg.get_env(), arg.get_long()) {
            flags.insert(variable.to_string_lossy().into_owned(), flag);
        }
    }
    let mut section = Roff::default();
    if flags.is_empty() {
        return section;
    }
    section.control("SH", ["ENVIRONMENT"]);
    section.text([roman(VARIABLES)]);
    for (variable, flag) in flags {
        section.control("TP", []);
        section.text([bold(variable)]);
        section.text([roman("as "), bold(format!("--{flag}"))]);
    }
    section
}

fn exit_status() -> Roff {
    let mut section = Roff::default();
    section.control("SH", ["EXIT STATUS"]);
    let lines = EXIT_CODES.split_once('\n').map_or("", |(_, lines)| lines);
    verbatim(&mut section, lines);
    section
}

fn verbatim(section: &mut Roff, lines: &str) {
    section.control("nf", []);
    for line in lines.lines() {
        section.text([roman(line)]);
    }
    section.control("fi", []);
}

/// Removes the definition of the apostrophe, with which each section begins, except the first.
fn with_one_preamble(page: &str) -> String {
    let is_definition = |line: &str| line.starts_with(".ie ") || line.starts_with(".el ");
    let lines = page.lines().enumerate();
    lines
        .filter(|(number, line)| *number < 2 || !is_definition(line))
        .flat_map(|(_, line)| [line, "\n"])
        .collect()
}
