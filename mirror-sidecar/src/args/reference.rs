//! Generates docs/flags.md from `--help`. The test fails if the page is out of date.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;

use clap::{Arg, ArgAction, Command, CommandFactory as _};

use super::Cli;

const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/flags.md");

const INTRODUCTION: &str = "\
# Flags and variables of mirror-sidecar

This page is generated from the program's `--help`: `IMAGE_MIRROR_ACCEPT=1 cargo test --workspace --lib flags_page` writes it.

`mirror-sidecar man` prints the same as a manual page, `mirror-sidecar man FOLDER` writes one for each command, and `mirror-sidecar completion` prints a completion script for a shell. An empty variable counts as not set. A flag overrides its variable.
";

/// Pages that explain a flag further.
const SEE: [(&str, &str); 13] = [
    ("deep", "verify.md#read-every-layer"),
    (
        "private-registry",
        "registries.md#registries-in-private-networks",
    ),
    ("parallel-copies", "fairness.md"),
    ("config", "config.md"),
    ("kubernetes", "cluster.md"),
    ("facade-address", "rules.md#what-mirror-sidecar-copies"),
    ("policy-settings", "rules.md#what-mirror-sidecar-copies"),
    ("max-workloads", "cluster.md#limits"),
    (
        "reinvoke-policy",
        "injected-containers.md#call-the-policy-again",
    ),
    ("docker-config", "credentials.md"),
    ("max-image-size", "copying.md"),
    ("former-backup", "changing-the-backup.md"),
    (
        "former-pull-secret",
        "credentials.md#another-name-for-the-pull-secret",
    ),
];

/// One flag with everything that the commands say about it.
struct Flag {
    name: String,
    heading: String,
    variable: String,
    defaults: Vec<(String, String)>,
    meaning: String,
    commands: Vec<String>,
}

fn flags(root: &Command) -> Vec<Flag> {
    let mut flags: Vec<Flag> = Vec::new();
    for command in root.get_subcommands() {
        let name = command.get_name().to_owned();
        for arg in command.get_arguments() {
            let Some(long) = arg.get_long() else { continue };
            if ["help", "version"].contains(&long) || arg.is_global_set() {
                continue;
            }
            let default = default(arg);
            if let Some(flag) = flags.iter_mut().find(|flag| flag.name == long) {
                assert_eq!(flag.variable, variable(arg), "--{long} of {name}");
                flag.commands.push(name.clone());
                flag.defaults.push((name.clone(), default));
                continue;
            }
            flags.push(Flag {
                name: long.to_owned(),
                heading: arg.get_help_heading().unwrap_or("General").to_owned(),
                variable: variable(arg),
                defaults: vec![(name.clone(), default)],
                meaning: meaning(arg, long),
                commands: vec![name.clone()],
            });
        }
    }
    flags
}

fn variable(arg: &Arg) -> String {
    arg.get_env()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default()
}

fn default(arg: &Arg) -> String {
    if !arg.get_action().takes_values() || arg.is_hide_default_value_set() {
        return String::new();
    }
    let values = arg.get_default_values().iter();
    let values: Vec<_> = values.map(|value| value.to_string_lossy()).collect();
    values.join(",")
}

fn meaning(arg: &Arg, long: &str) -> String {
    let help = arg.get_long_help().or_else(|| arg.get_help()).unwrap();
    let help = help.to_string();
    let mut text = String::new();
    for paragraph in help.split("\n\n") {
        let words: Vec<_> = paragraph.split_whitespace().collect();
        if !text.is_empty() {
            text.push(' ');
        }
        text.push_str(&words.join(" "));
        if !text.ends_with('.') {
            text.push('.');
        }
    }
    let values = arg.get_possible_values();
    if arg.get_action().takes_values() && !values.is_empty() {
        let values: Vec<_> = values
            .iter()
            .map(|value| format!("`{}`", value.get_name()))
            .collect();
        write!(text, " One of {}.", values.join(", ")).unwrap();
    }
    if matches!(arg.get_action(), ArgAction::Append) && !text.contains("repeatable") {
        text.push_str(" Repeatable.");
    }
    if let Some((_, page)) = SEE.iter().find(|(flag, _)| *flag == long) {
        write!(text, " See [{page}]({page}).").unwrap();
    }
    // A bar would end the cell.
    text.replace('|', "\\|")
}

fn code(text: &str) -> String {
    if text.is_empty() {
        String::new()
    } else {
        format!("`{text}`")
    }
}

fn table(out: &mut String, flags: &[&Flag]) {
    out.push_str("\n| flag | variable | default | commands | meaning |\n|---|---|---|---|---|\n");
    for flag in flags {
        let different: BTreeSet<_> = flag.defaults.iter().map(|(_, default)| default).collect();
        let default = if different.len() == 1 {
            code(&flag.defaults[0].1)
        } else {
            let each = flag.defaults.iter();
            let each: Vec<_> = each
                .map(|(command, default)| format!("{} for {command}", code(default)))
                .collect();
            each.join(", ")
        };
        writeln!(
            out,
            "| `--{}` | {} | {default} | {} | {} |",
            flag.name,
            code(&flag.variable),
            flag.commands.join(", "),
            flag.meaning
        )
        .unwrap();
    }
}

fn page() -> String {
    let mut root = Cli::command().disable_help_subcommand(true);
    root.build();
    let mut out = INTRODUCTION.to_owned();
    out.push_str("\n| command | |\n|---|---|\n");
    for command in root.get_subcommands() {
        writeln!(
            out,
            "| `{}` | {} |",
            command.get_name(),
            command.get_about().unwrap()
        )
        .unwrap();
    }
    let flags = flags(&root);
    let mut headings: Vec<&str> = Vec::new();
    for flag in &flags {
        if !headings.contains(&flag.heading.as_str()) {
            headings.push(&flag.heading);
        }
    }
    for heading in headings {
        write!(out, "\n## {heading}\n").unwrap();
        let of: Vec<_> = flags
            .iter()
            .filter(|flag| flag.heading == heading)
            .collect();
        table(&mut out, &of);
    }
    out.push_str(
        "\n## Of all commands\n\n| flag | variable | default | meaning |\n|---|---|---|---|\n",
    );
    for arg in root.get_arguments().filter(|arg| arg.is_global_set()) {
        let long = arg.get_long().unwrap();
        writeln!(
            out,
            "| `--{long}` | {} | {} | {} |",
            code(&variable(arg)),
            code(&default(arg)),
            meaning(arg, long)
        )
        .unwrap();
    }
    out.push_str("\n## Exit codes\n\n| code | meaning |\n|---|---|\n");
    for line in super::EXIT_CODES.lines().skip(1) {
        if let Some(rest) = line.strip_prefix("     ") {
            let end = out.trim_end_matches([' ', '|', '\n']).len();
            out.truncate(end);
            writeln!(out, " {rest} |").unwrap();
        } else {
            let (code, meaning) = line.trim().split_once("  ").unwrap();
            writeln!(out, "| {code} | {meaning} |").unwrap();
        }
    }
    out
}

#[test]
fn the_flags_page_is_up_to_date() {
    let expected = page();
    if std::env::var_os("IMAGE_MIRROR_ACCEPT").is_some() {
        std::fs::write(PAGE, &expected).unwrap();
    }
    let written = std::fs::read_to_string(Path::new(PAGE)).unwrap_or_default();
    assert!(
        written == expected,
        "docs/flags.md is not what --help says: IMAGE_MIRROR_ACCEPT=1 cargo test --workspace --lib flags_page"
    );
}
