//! The table of cases (`fixtures/cases.json`), which the test host and the real kwctl read alike.
//!
//! A case is a recorded admission request, settings, and what the sidecar knows. Its session is
//! `fixtures/sessions/<name>.yml`, and what must come of it is `fixtures/expected/<name>.json`.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::Answers;
use testkit::fixtures;
use testkit::host::AdmissionResponse;

/// A line of the table.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Case {
    /// Its name, and that of its files.
    pub name: String,
    /// The admission request: a name in `fixtures/admission`.
    request: String,
    /// What is different in the request: a JSON merge patch (RFC 7396) without null.
    #[serde(default)]
    with: Option<Value>,
    #[serde(default)]
    settings: Settings,
    /// What the sidecar knows.
    #[serde(default)]
    pub answers: Answers,
}

/// Settings as kwctl takes them.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
enum Settings {
    /// `--settings-path`: a file in `fixtures/settings`, YAML or JSON.
    File(PathBuf),
    /// `--settings-json`
    Inline(Map<String, Value>),
}

impl Default for Settings {
    fn default() -> Self {
        Self::File("default.yml".into())
    }
}

impl Case {
    /// The admission review.
    ///
    /// # Panics
    /// When there is no such fixture.
    #[must_use]
    pub fn review(&self) -> Value {
        let mut review = fixtures::load(&self.request);
        if let Some(with) = &self.with {
            json_patch::merge(&mut review["request"], with);
        }
        review
    }

    /// The settings as JSON.
    ///
    /// # Errors
    /// When their file cannot be read.
    pub fn settings(&self) -> anyhow::Result<Value> {
        match &self.settings {
            Settings::Inline(settings) => Ok(Value::Object(settings.clone())),
            Settings::File(file) => {
                let file = folder().join("settings").join(file);
                let text = fs::read_to_string(&file)
                    .with_context(|| format!("{} cannot be read", file.display()))?;
                yaml_serde::from_str(&text)
                    .with_context(|| format!("{} is not YAML", file.display()))
            }
        }
    }

    /// Whether this is a case of a fixture exactly as it was recorded.
    #[must_use]
    pub fn is_of(&self, fixture: &str) -> bool {
        self.request == fixture && self.with.is_none()
    }
}

/// All cases.
///
/// # Errors
/// When the table cannot be read, has a name twice, or a difference that both hosts would not understand alike.
pub fn table() -> anyhow::Result<Vec<Case>> {
    let text = fs::read_to_string(folder().join("cases.json"))
        .context("the table of cases cannot be read")?;
    let cases: Vec<Case> =
        serde_json::from_str(&text).context("cases.json is no table of cases")?;
    let mut names = BTreeSet::new();
    for case in &cases {
        if !names.insert(&case.name) {
            bail!("there are two cases named {}", case.name);
        }
        if case.with.as_ref().is_some_and(has_null) {
            bail!(
                "{}: jq does not take a null for a removal, as RFC 7396 does",
                case.name
            );
        }
    }
    Ok(cases)
}

/// The session of a case.
#[must_use]
pub fn session_file(case: &Case) -> PathBuf {
    folder().join("sessions").join(format!("{}.yml", case.name))
}

/// What must come of a case: an admission response whose patch is not in base64, or a verdict on its settings.
#[must_use]
pub fn expected_file(case: &Case) -> PathBuf {
    folder()
        .join("expected")
        .join(format!("{}.json", case.name))
}

/// Files that belong to no case.
///
/// # Errors
/// When the folders cannot be read.
pub fn orphans(cases: &[Case]) -> anyhow::Result<Vec<PathBuf>> {
    let owned: BTreeSet<_> = cases
        .iter()
        .flat_map(|case| [session_file(case), expected_file(case)])
        .collect();
    let mut orphans = Vec::new();
    for name in ["sessions", "expected"] {
        for entry in fs::read_dir(folder().join(name))? {
            let path = entry?.path();
            if !owned.contains(&path) {
                orphans.push(path);
            }
        }
    }
    Ok(orphans)
}

/// A response as people read it: its patch decoded.
///
/// # Errors
/// When the patch is none.
pub fn readable(response: &AdmissionResponse) -> anyhow::Result<Value> {
    let mut value = serde_json::to_value(response)?;
    if response.patch.is_some() {
        let patch = response
            .json_patch()
            .context("the patch is no JSON patch")?;
        value["patch"] = serde_json::to_value(patch)?;
    }
    Ok(value)
}

fn has_null(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(items) => items.iter().any(has_null),
        Value::Object(fields) => fields.values().any(has_null),
        _ => false,
    }
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures")
}
