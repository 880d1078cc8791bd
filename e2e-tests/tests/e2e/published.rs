//! What is published agrees with what was built: metadata, the settings form, the README.

use std::collections::BTreeSet;
use std::process::Command;

use crate::support::policy_builder;
use e2e_tests::artifacts;
use serde_json::{Value, json};

fn read(name: &str) -> String {
    std::fs::read_to_string(artifacts::workspace().join(name)).unwrap()
}

fn yaml(name: &str) -> Value {
    yaml_serde::from_str(&read(name)).unwrap()
}

#[test]
fn the_metadata_names_every_workload_and_the_one_capability() {
    let metadata = yaml("metadata.yml");
    assert_eq!(metadata["mutating"], true);
    assert_eq!(metadata["backgroundAudit"], false);
    assert_eq!(metadata["hostCapabilities"], json!(["oci/v1/oci_manifest"]));
    let rules = metadata["rules"].as_array().unwrap();
    let resources: BTreeSet<_> = rules
        .iter()
        .flat_map(|rule| rule["resources"].as_array().unwrap())
        .map(|resource| resource.as_str().unwrap())
        .collect();
    let expected = [
        "cronjobs",
        "daemonsets",
        "deployments",
        "jobs",
        "pods",
        "pods/ephemeralcontainers",
        "replicasets",
        "replicationcontrollers",
        "statefulsets",
    ];
    assert_eq!(resources, BTreeSet::from(expected));
}

#[test]
fn the_version_is_the_same_everywhere() {
    let version = env!("CARGO_PKG_VERSION");
    let metadata = yaml("metadata.yml");
    assert_eq!(
        metadata["annotations"]["io.kubewarden.policy.version"],
        version
    );
    let package = yaml("artifacthub-pkg.yml");
    assert_eq!(package["version"], version);
    assert_eq!(
        package["annotations"]["kubewarden/questions-ui"],
        read("questions-ui.yml")
    );
    assert!(read("README.md").contains(&format!("policies/image-mirror:v{version}")));
}

/// What the form offers is what the module takes; that all settings are in it is a test of the policy's own.
#[test]
fn the_defaults_of_the_form_are_valid() {
    let form = yaml("questions-ui.yml");
    let mut defaults = json!({});
    for question in form["questions"].as_array().unwrap() {
        let parts = question["subquestions"].as_array();
        for part in parts.unwrap_or(&vec![question.clone()]) {
            let variable = part["variable"].as_str().unwrap();
            match variable.split_once('.') {
                Some((group, key)) => defaults[group][key] = part["default"].clone(),
                None => defaults[variable] = part["default"].clone(),
            }
        }
    }
    let host = policy_builder().build().unwrap();
    let verdict = host.validate_settings(&defaults);
    assert!(verdict.valid, "{verdict:?}");
    defaults["surprise"] = true.into();
    let complaint = host.validate_settings(&defaults).message.unwrap();
    assert!(
        complaint.contains("`surprise` is not a setting"),
        "{complaint}"
    );
}

/// A flag as a command's help tells of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Flag {
    name: String,
    variable: String,
    default: String,
}

/// The flags of a command, out of its help.
fn flags(command: &str) -> Vec<Flag> {
    let help = Command::new(artifacts::sidecar_program().unwrap())
        .args([command, "--help"])
        .env_clear()
        .output()
        .unwrap();
    let mut flags: Vec<Flag> = Vec::new();
    for line in String::from_utf8(help.stdout).unwrap().lines() {
        let line = line.trim_start();
        let note = |key: &str| {
            let rest = line.strip_prefix(key)?.strip_suffix(']')?;
            Some(rest.trim_end_matches('=').to_owned())
        };
        if let Some(name) = line.strip_prefix("--") {
            let name = name.split_whitespace().next().unwrap();
            flags.push(Flag {
                name: format!("--{name}"),
                ..Flag::default()
            });
        } else if let Some(variable) = note("[env: ") {
            flags.last_mut().unwrap().variable = variable;
        } else if let Some(default) = note("[default: ") {
            flags.last_mut().unwrap().default = default;
        }
    }
    flags
}

/// The words in backticks.
fn code(cell: &str) -> Vec<&str> {
    cell.split('`').skip(1).step_by(2).collect()
}

/// The README's table has every flag of the commands, and no other, with its variable, its default, and the commands that
/// have it. Defaults in words are not compared.
#[test]
fn the_readme_knows_all_flags() {
    let commands = ["serve", "copy", "name"].map(|command| (command, flags(command)));
    let readme = read("README.md");
    let mut documented = BTreeSet::new();
    for line in readme.lines().filter(|line| line.starts_with("| `--")) {
        let cells: Vec<_> = line.split('|').map(str::trim).collect();
        let (names, variables, defaults) = (code(cells[1]), code(cells[2]), code(cells[3]));
        for (number, name) in names.iter().enumerate() {
            assert!(documented.insert((*name).to_owned()), "{name} twice");
            let having = commands.iter().filter_map(|(command, flags)| {
                let flag = flags.iter().find(|flag| flag.name == *name)?;
                Some((*command, flag))
            });
            let having: Vec<_> = having.collect();
            let of: Vec<_> = having.iter().map(|(command, _)| *command).collect();
            let all = if of.len() == commands.len() {
                "all"
            } else {
                ""
            };
            assert!(
                cells[4] == of.join(", ") || cells[4] == all,
                "{name}: {of:?}"
            );
            let mut built = BTreeSet::new();
            for (command, flag) in having {
                let variable = variables.get(number).copied().unwrap_or_default();
                assert_eq!(variable, flag.variable, "{name} of {command}");
                if !flag.default.is_empty() {
                    built.insert(flag.default.as_str());
                }
            }
            // Words, files and conditions are not compared.
            let is_plain = cells[3].is_empty() || cells[3].starts_with('`');
            if is_plain && !cells[3].contains(['$', '/']) && !cells[3].contains(" with ") {
                let told = match names.as_slice() {
                    [_] => defaults.as_slice(),
                    // One for each.
                    _ => defaults.get(number..=number).unwrap_or_default(),
                };
                assert_eq!(
                    told.iter().copied().collect::<BTreeSet<_>>(),
                    built,
                    "{name}"
                );
            }
        }
    }
    let built = commands.iter().flat_map(|(_, flags)| flags);
    let built: BTreeSet<_> = built.map(|flag| flag.name.clone()).collect();
    assert_eq!(documented, built);
}
