//! The policy's settings in a file, for clusters without Kubewarden.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;

use super::{MAX_SETTINGS, Policies, Policy};
use crate::exit::UsageError;
use crate::yaml;

/// Interval between reads of the file.
const READ_INTERVAL: Duration = Duration::from_secs(5);

/// A file with the settings, in YAML or JSON.
#[derive(Debug)]
pub struct SettingsFile {
    path: PathBuf,
    policies: Policies,
    /// The error that was logged last.
    reported: Option<String>,
}

impl SettingsFile {
    /// Reads the file and puts its settings into force.
    ///
    /// # Errors
    /// The file cannot be read or parsed.
    pub fn load(path: PathBuf, policies: Policies) -> Result<Self, UsageError> {
        let policy = read(&path).map_err(|error| {
            UsageError(format!("--policy-settings {}: {error}", path.display()))
        })?;
        policies.publish(vec![Arc::new(policy)]);
        Ok(Self {
            path,
            policies,
            reported: None,
        })
    }

    /// Follows changes of the file until it is dropped. The last valid settings stay in force.
    pub async fn follow(mut self) {
        loop {
            sleep(READ_INTERVAL).await;
            let path = self.path.clone();
            if let Ok(result) = tokio::task::spawn_blocking(move || read(&path)).await {
                self.update(result);
            }
        }
    }

    fn update(&mut self, result: Result<Policy, String>) {
        let file = self.path.display();
        match result {
            Ok(policy) => {
                let before = self.policies.current();
                self.policies.publish(vec![Arc::new(policy)]);
                let is_new = !Arc::ptr_eq(&before, &self.policies.current());
                if self.reported.take().is_some() || is_new {
                    tracing::info!(%file, "read the policy settings again");
                }
            }
            Err(error) if self.reported.as_ref() != Some(&error) => {
                tracing::warn!(
                    %file,
                    error,
                    "cannot read the policy settings, the last valid ones stay in force; correct the file"
                );
                self.reported = Some(error);
            }
            Err(_) => {}
        }
    }
}

fn read(path: &Path) -> Result<Policy, String> {
    let file = std::fs::File::open(path).map_err(|error| error.to_string())?;
    let mut text = String::new();
    let mut limited = file.take(MAX_SETTINGS as u64 + 1);
    limited
        .read_to_string(&mut text)
        .map_err(|error| error.to_string())?;
    if text.len() > MAX_SETTINGS {
        return Err(format!("is longer than {MAX_SETTINGS} bytes"));
    }
    Policy::of_settings(&yaml::parse(&text)?)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn an_invalid_file_keeps_the_last_settings() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("policy.yaml");
        let policies = Policies::default();
        let load = || SettingsFile::load(path.clone(), policies.clone());
        let error = load().unwrap_err().to_string();
        assert!(
            error.contains("--policy-settings") && error.contains("policy.yaml"),
            "{error}"
        );
        fs::write(&path, "sidecar: a.b:1\nrulez: []\n").unwrap();
        assert!(load().unwrap_err().to_string().contains("`rulez`"));

        fs::write(
            &path,
            "# comment\nsidecar: a.b:1\nexcludedNamespaces: [shop]\n",
        )
        .unwrap();
        let mut file = load().unwrap();
        let excludes = || policies.current().excludes_namespace("shop");
        assert!(excludes());
        fs::write(&path, "sidecar: [").unwrap();
        file.update(read(&path));
        assert!(excludes() && file.reported.is_some());
        fs::write(&path, r#"{"sidecar": "a.b:1", "excludedNamespaces": []}"#).unwrap();
        file.update(read(&path));
        assert!(!excludes() && file.reported.is_none());
    }

    #[test]
    fn the_length_of_the_file_is_bounded() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("policy.yaml");
        let long = "#".repeat(MAX_SETTINGS + 1);
        fs::write(&path, long).unwrap();
        assert!(read(&path).unwrap_err().contains("longer"));
    }
}
