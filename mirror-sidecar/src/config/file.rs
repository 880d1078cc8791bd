//! Reads the configuration file, and follows its changes.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::sleep;

use super::parse::{Parsed, parse};
use super::{Config, FlagDefaults};
use crate::exit::UsageError;

/// Interval between reads of the file.
const READ_INTERVAL: Duration = Duration::from_secs(5);

/// Longest file. The largest configuration within the limits is shorter.
const MAX_BYTES: u64 = 256 * 1024;

/// The configuration file. The last valid configuration stays in force.
#[derive(Debug)]
pub struct ConfigFile {
    path: PathBuf,
    defaults: FlagDefaults,
    current: watch::Sender<Arc<Config>>,
    /// What the current configuration was read from.
    source: Source,
    /// The error that was logged last.
    reported: Option<String>,
}

/// The text of a configuration, and the user names in other files. Passwords are not part of it: they are read whenever they
/// are needed.
#[derive(Debug, PartialEq, Eq)]
struct Source {
    text: String,
    usernames: Vec<String>,
}

impl ConfigFile {
    /// Reads the file.
    ///
    /// # Errors
    /// All errors of the file, each with the path of its key.
    pub fn load(path: PathBuf, defaults: FlagDefaults) -> Result<Self, UsageError> {
        let (config, source) = read(&path, &defaults)
            .map_err(|error| UsageError(format!("--config {}: {error}", path.display())))?;
        Ok(Self {
            path,
            defaults,
            current: watch::Sender::new(Arc::new(config)),
            source,
            reported: None,
        })
    }

    /// Returns the last valid configuration, and the following ones.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<Arc<Config>> {
        self.current.subscribe()
    }

    /// Follows changes of the file until it is dropped. The content decides, because a mounted `ConfigMap` is replaced by
    /// renaming a link.
    pub async fn follow(mut self) {
        loop {
            sleep(READ_INTERVAL).await;
            let (path, defaults) = (self.path.clone(), self.defaults.clone());
            // A panic is logged by the runtime, and the next read comes soon.
            if let Ok(result) = tokio::task::spawn_blocking(move || read(&path, &defaults)).await {
                self.update(result);
            }
        }
    }

    fn update(&mut self, result: Result<(Config, Source), String>) {
        let file = self.path.display();
        match result {
            Ok((config, source)) => {
                let is_new = source != self.source;
                if is_new {
                    self.source = source;
                    self.current.send_replace(Arc::new(config));
                }
                if self.reported.take().is_some() || is_new {
                    tracing::info!(%file, "read the configuration file again");
                }
            }
            Err(error) if self.reported.as_ref() != Some(&error) => {
                tracing::warn!(
                    %file,
                    error,
                    "cannot read the configuration file, the last valid one stays in force; correct the file"
                );
                self.reported = Some(error);
            }
            Err(_) => {}
        }
    }
}

fn read(path: &Path, defaults: &FlagDefaults) -> Result<(Config, Source), String> {
    let file = std::fs::File::open(path).map_err(|error| error.to_string())?;
    let mut text = String::new();
    let mut limited = file.take(MAX_BYTES + 1);
    limited
        .read_to_string(&mut text)
        .map_err(|error| error.to_string())?;
    if text.len() as u64 > MAX_BYTES {
        return Err(format!("is longer than {MAX_BYTES} bytes"));
    }
    let Parsed { config, usernames } =
        parse(&text, defaults).map_err(|errors| sentence(&errors))?;
    Ok((config, Source { text, usernames }))
}

/// One error as it is, several with their number.
fn sentence(errors: &[String]) -> String {
    match errors {
        [error] => error.clone(),
        errors => format!("{} errors: {}", errors.len(), errors.join("; ")),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::num::NonZeroUsize;

    use super::*;

    fn flags() -> FlagDefaults {
        FlagDefaults {
            backup: None,
            max_image_size: None,
            parallel_copies: NonZeroUsize::MIN,
            manages_pull_secrets: true,
        }
    }

    fn location(current: &watch::Receiver<Arc<Config>>) -> String {
        current.borrow().backups.of_default().backup.location()
    }

    /// As the kubelet does: `..data` becomes another folder, and the file behind the same path has another content.
    #[tokio::test(start_paused = true)]
    async fn a_mounted_config_map_is_followed() {
        let folder = tempfile::tempdir().unwrap();
        let write = |version: &str, text: &str| {
            let target = folder.path().join(version);
            fs::create_dir(&target).unwrap();
            fs::write(target.join("config.yaml"), text).unwrap();
            let new = folder.path().join("..new");
            std::os::unix::fs::symlink(&target, &new).unwrap();
            fs::rename(&new, folder.path().join("..data")).unwrap();
        };
        write("1", "backups: {default: {registry: a.b, repository: one}}");
        let path = folder.path().join("..data").join("config.yaml");
        let file = ConfigFile::load(path, flags()).unwrap();
        let mut current = file.subscribe();
        tokio::spawn(file.follow());
        write("2", "backups: {default: {registry: a.b, repository: two}}");
        current.changed().await.unwrap();
        assert_eq!(location(&current), "a.b/two");
    }

    #[test]
    fn an_invalid_file_keeps_the_last_configuration() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.yaml");
        let error = ConfigFile::load(path.clone(), flags())
            .unwrap_err()
            .to_string();
        assert!(
            error.starts_with("--config ") && error.contains("config.yaml"),
            "{error}"
        );

        let user = folder.path().join("user");
        let text = format!(
            "backups: {{default: {{registry: a.b, push: {{usernameFile: {0}, passwordFile: {0}}}}}}}",
            user.display()
        );
        fs::write(&user, "bot").unwrap();
        fs::write(&path, &text).unwrap();
        let mut file = ConfigFile::load(path.clone(), flags()).unwrap();
        let mut current = file.subscribe();
        let mut update = |file: &mut ConfigFile| {
            file.update(read(&path, &flags()));
            let is_new = current.has_changed().unwrap();
            current.mark_unchanged();
            is_new
        };
        assert!(!update(&mut file), "nothing changed");
        for broken in ["backups: [", "", "backups: {}"] {
            fs::write(&path, broken).unwrap();
            assert!(!update(&mut file) && file.reported.is_some());
        }
        fs::write(&path, &text).unwrap();
        assert!(!update(&mut file) && file.reported.is_none());
        // A user name in a file is part of the configuration.
        fs::write(&user, "another").unwrap();
        assert!(update(&mut file));
        fs::write(&path, text.replace("a.b", "c.d")).unwrap();
        assert!(update(&mut file));
        assert_eq!(location(&current), "c.d");
    }

    #[test]
    fn the_length_of_the_file_is_bounded() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.yaml");
        fs::write(&path, "#".repeat(usize::try_from(MAX_BYTES).unwrap() + 1)).unwrap();
        assert!(read(&path, &flags()).unwrap_err().contains("longer"));
    }
}
