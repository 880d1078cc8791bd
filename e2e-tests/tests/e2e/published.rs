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

/// The form offers exactly the settings that there are, and its defaults are valid.
#[test]
fn the_settings_form_fits_the_policy() {
    let form = yaml("questions-ui.yml");
    let questions = form["questions"].as_array().unwrap();
    let defaults: serde_json::Map<_, _> = questions
        .iter()
        .map(|question| {
            let name = question["variable"].as_str().unwrap();
            (name.to_owned(), question["default"].clone())
        })
        .collect();
    let host = policy_builder().build().unwrap();
    let verdict = host.validate_settings(&Value::Object(defaults.clone()));
    assert!(verdict.valid, "{verdict:?}");

    let complaint = host.validate_settings(&json!({ "sidecar": "a.b:1", "surprise": 1 }));
    let complaint = complaint.message.unwrap();
    assert!(complaint.contains("surprise"), "{complaint}");
    let readme = read("README.md");
    for name in defaults.keys() {
        assert!(complaint.contains(name.as_str()), "{name}: {complaint}");
        assert!(readme.contains(&format!("| `{name}` |")), "{name}");
    }
    let offered = complaint.split_once("there are ").unwrap().1;
    let offered = offered.split_once(')').unwrap().0;
    assert_eq!(offered.split(", ").count(), defaults.len(), "{offered}");
}

/// Every flag of the commands is in the README's table, and every flag there exists.
#[test]
fn the_readme_knows_all_flags() {
    let flags = |text: &str| -> BTreeSet<String> {
        let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '-');
        let flags = words.filter(|word| word.starts_with("--") && word.len() > 3);
        flags.map(ToOwned::to_owned).collect()
    };
    let mut built = BTreeSet::new();
    for command in ["serve", "copy", "name"] {
        let help = Command::new(artifacts::sidecar_program().unwrap())
            .args([command, "--help"])
            .env_clear()
            .output()
            .unwrap();
        let help = String::from_utf8(help.stdout).unwrap();
        let lines = help.lines().map(str::trim_start);
        let lines = lines.filter(|line| line.starts_with('-'));
        built.extend(lines.flat_map(flags));
    }
    built.remove("--help");
    let readme = read("README.md");
    let table = readme.lines().filter(|line| line.starts_with("| `--"));
    let documented: BTreeSet<_> = table
        .flat_map(|line| flags(line.split('|').nth(1).unwrap()))
        .collect();
    assert_eq!(built, documented);
}
