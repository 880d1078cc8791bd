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
