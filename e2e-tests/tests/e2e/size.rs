//! What the policy must not depend on, so that it stays small. Its size is checked by `make policy-size`.

use std::collections::BTreeSet;
use std::process::Command;

use testkit::artifacts;

/// Crates that would make the module several times as large, or bring such ones along.
const UNWANTED: [&str; 11] = [
    "anyhow",
    "chrono",
    "k8s-openapi",
    "kube",
    "lazy_static",
    "oci-spec",
    "regex",
    "serde_yaml",
    "slog",
    "tokio",
    "url",
];
/// The SDK depends on some of them whether or not they are used. What of them is linked, `make policy-size` says.
const SDK: &str = "kubewarden-policy-sdk";
/// Those that the SDK brings only with features that the policy does not ask for.
const OPTIONAL_IN_SDK: [&str; 3] = ["k8s-openapi", "kube", "tokio"];

/// The names of the crates that the policy is built from, without what `pruned` brings along.
fn crates(pruned: Option<&str>) -> BTreeSet<String> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command
        .args(["tree", "--locked", "--offline", "--prefix", "none"])
        .args(["--package", "image-mirror-policy", "--edges", "normal"])
        .args(["--target", "wasm32-wasip1", "--format", "{p}"])
        .current_dir(artifacts::workspace());
    if let Some(pruned) = pruned {
        command.args(["--prune", pruned]);
    }
    let output = command.output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    let names: BTreeSet<_> = String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .filter_map(|line| line.split_whitespace().next())
        .map(ToOwned::to_owned)
        .collect();
    // Nothing would be found in an empty tree.
    assert!(names.contains("serde_json"), "{names:?}");
    names
}

/// The unwanted ones among `crates`, and the parts that they are split into.
fn slipped_in<'a>(crates: &'a BTreeSet<String>, unwanted: &[&str]) -> Vec<&'a str> {
    let is = |name: &str, unwanted: &str| {
        let rest = name.strip_prefix(unwanted);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
    };
    let is_unwanted = |name: &&str| unwanted.iter().any(|unwanted| is(name, unwanted));
    crates
        .iter()
        .map(String::as_str)
        .filter(is_unwanted)
        .collect()
}

#[test]
fn the_policy_depends_on_nothing_large() {
    let all = crates(None);
    assert!(all.contains(SDK), "{all:?}");
    assert_eq!(slipped_in(&all, &OPTIONAL_IN_SDK), [""; 0]);
    let own = crates(Some(SDK));
    assert!(!own.contains(SDK), "{own:?}");
    assert_eq!(slipped_in(&own, &UNWANTED), [""; 0]);
}

/// The check finds what is there: the SDK does bring slog along.
#[test]
fn what_slips_in_is_named() {
    assert_eq!(slipped_in(&crates(None), &["slog"]), ["slog"]);
}
