//! What is published agrees with what was built: metadata, the settings form.

use std::collections::BTreeSet;

use crate::support::policy_builder;
use serde_json::{Value, json};
use testkit::artifacts;

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
    assert!(read("docs/policy-settings.md").contains(&format!("policies/image-mirror:v{version}")));
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
        complaint.contains("unknown setting `surprise`"),
        "{complaint}"
    );
}
