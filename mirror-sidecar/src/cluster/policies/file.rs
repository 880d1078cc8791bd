//! The policy's settings in a file, for clusters without Kubewarden.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::sleep;

use mirror_contract::Settings;

use super::{MAX_SETTINGS, Policies, Policy};
use crate::config::Config;
use crate::exit::UsageError;
use crate::yaml;

/// Interval between reads of the file.
const READ_INTERVAL: Duration = Duration::from_secs(5);

/// A file with the settings, in YAML or JSON.
#[derive(Debug)]
pub struct SettingsFile {
    path: PathBuf,
    policies: Policies,
    /// The configuration in force, whose backups the rules may name.
    config: watch::Receiver<Arc<Config>>,
    /// The error that was logged last.
    reported: Option<String>,
}

impl SettingsFile {
    /// Reads the file and puts its settings into force.
    ///
    /// # Errors
    /// The file cannot be read or parsed, or its rules do not fit `config`.
    pub fn load(
        path: PathBuf,
        policies: Policies,
        config: watch::Receiver<Arc<Config>>,
    ) -> Result<Self, UsageError> {
        let first = Arc::clone(&config.borrow());
        let policy = read(&path, &first).map_err(|error| {
            UsageError(format!("--policy-settings {}: {error}", path.display()))
        })?;
        policies.publish(vec![Arc::new(policy)]);
        Ok(Self {
            path,
            policies,
            config,
            reported: None,
        })
    }

    /// Follows changes of the file until it is dropped. The last valid settings stay in force.
    pub async fn follow(mut self) {
        loop {
            sleep(READ_INTERVAL).await;
            let path = self.path.clone();
            let config = Arc::clone(&self.config.borrow());
            if let Ok(result) = tokio::task::spawn_blocking(move || read(&path, &config)).await {
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

/// Reads the settings. They are refused for all errors that the policy server would report, and for rules that do not fit the
/// backups.
fn read(path: &Path, config: &Config) -> Result<Policy, String> {
    let file = std::fs::File::open(path).map_err(|error| error.to_string())?;
    let mut text = String::new();
    let mut limited = file.take(MAX_SETTINGS as u64 + 1);
    limited
        .read_to_string(&mut text)
        .map_err(|error| error.to_string())?;
    if text.len() > MAX_SETTINGS {
        return Err(format!("is longer than {MAX_SETTINGS} bytes"));
    }
    let settings = yaml::parse(&text)?;
    let mut errors = Settings::check(&settings);
    if errors.is_empty() {
        let policy = Policy::of_settings(&settings)?;
        let unusable = policy.unusable_rules(&config.locations()).into_iter();
        errors.extend(unusable.map(|rule| rule.reason));
        if errors.is_empty() {
            return Ok(policy);
        }
    }
    Err(errors.join("; "))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use mirror_contract::{Backup, BackupName, Naming};
    use mirror_copy::Credentials;

    use super::*;
    use crate::backups::ByBackup;
    use crate::config::BackupConfig;
    use crate::origin::BackupOrigin;

    /// The configuration with these backups.
    fn config(named: &[&'static str]) -> Arc<Config> {
        let backup = |name: &'static str| {
            let name = BackupName::parse(name).unwrap();
            let config = BackupConfig {
                backup: Backup::new("harbor.test", name.as_str(), Naming::Flat).unwrap(),
                origin: BackupOrigin::File(name.clone()),
                former: Vec::new(),
                push: Credentials::anonymous(),
                pull: None,
                max_image_size: None,
                parallel_copies: std::num::NonZeroUsize::MIN,
                definition: String::new(),
            };
            (name, config)
        };
        let (_, default) = backup("default");
        let mut backups = ByBackup::new(default);
        for (name, backup) in named.iter().map(|name| backup(name)) {
            backups.insert(name, backup);
        }
        let config = Config::new(backups, Vec::new(), true).unwrap();
        Arc::new(config)
    }

    #[test]
    fn an_invalid_file_keeps_the_last_settings() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("policy.yaml");
        let policies = Policies::default();
        let (_sender, configs) = watch::channel(config(&[]));
        let load = || SettingsFile::load(path.clone(), policies.clone(), configs.clone());
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
        file.update(read(&path, &config(&[])));
        assert!(excludes() && file.reported.is_some());
        fs::write(&path, r#"{"sidecar": "a.b:1", "excludedNamespaces": []}"#).unwrap();
        file.update(read(&path, &config(&[])));
        assert!(!excludes() && file.reported.is_none());
    }

    #[test]
    fn rules_that_could_not_match_or_overlap_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("policy.yaml");
        let error = |rules: &str| {
            fs::write(&path, format!("sidecar: a.b:1\nrules: {rules}\n")).unwrap();
            read(&path, &config(&["team-a"])).unwrap_err()
        };
        assert!(error("[{action: keep}, {action: mirror}]").contains("can never match"));
        let target =
            error("[{images: ['quay.io/*'], action: rewrite, target: harbor.test/team-a/quay}]");
        assert!(target.contains("overlaps backup team-a"), "{target}");
    }

    #[tokio::test(start_paused = true)]
    async fn the_backups_of_rules_are_those_of_the_configuration_in_force() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("policy.yaml");
        fs::write(
            &path,
            "sidecar: a.b:1\nrules: [{action: mirror, backup: team-a}]\n",
        )
        .unwrap();
        let (sender, configs) = watch::channel(config(&["team-b"]));
        let policies = Policies::default();
        let load = || SettingsFile::load(path.clone(), policies.clone(), configs.clone());
        let error = load().unwrap_err().to_string();
        let reason = "`rules[0].backup` is team-a, and mirror-sidecar defines only default, team-b; add team-a";
        assert!(
            error.contains("policy.yaml") && error.contains(reason),
            "{error}"
        );
        assert!(policies.current().is_empty());

        sender.send_replace(config(&["team-a"]));
        tokio::spawn(load().unwrap().follow());
        let mut in_force = policies.subscribe();
        let rules = "[{images: ['a.b/*'], action: mirror, backup: team-b}]";
        fs::write(&path, format!("sidecar: a.b:1\nrules: {rules}\n")).unwrap();
        sleep(4 * READ_INTERVAL).await;
        assert!(!in_force.has_changed().unwrap(), "team-b is not defined");
        // The configuration alone changes.
        sender.send_replace(config(&["team-a", "team-b"]));
        in_force.changed().await.unwrap();
    }

    #[test]
    fn the_length_of_the_file_is_bounded() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("policy.yaml");
        let long = "#".repeat(MAX_SETTINGS + 1);
        fs::write(&path, long).unwrap();
        assert!(read(&path, &config(&[])).unwrap_err().contains("longer"));
    }
}
