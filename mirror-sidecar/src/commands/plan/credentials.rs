//! The names of the logins that are used for each image. Their values are never read into the plan.

use std::collections::BTreeMap;

use mirror_copy::CredentialError;

use super::backups::Backups;
use super::usage::{Usage, Verdict};
use crate::args::PlanArgs;

/// Access without a login.
const ANONYMOUS: &str = "anonymous";

/// Where logins come from, by registry host and by backup.
#[derive(Debug, Default)]
pub(super) struct Credentials {
    originals: BTreeMap<String, String>,
    push: BTreeMap<String, String>,
    pull: BTreeMap<String, String>,
}

impl Credentials {
    pub(super) async fn of(
        usage: &Usage,
        backups: &Backups,
        args: &PlanArgs,
    ) -> anyhow::Result<Self> {
        let locations = backups.config.locations();
        let logins = args
            .sources
            .original_credentials(&args.originals, locations.values())?;
        let docker_config = args.sources.docker_config_name();
        let mut found = Self::default();
        for used in usage.images.keys() {
            if !matches!(used.verdict, Verdict::Decided(_)) {
                continue;
            }
            let host = host(&used.image);
            if !found.originals.contains_key(host) {
                let name = named(&logins, host, &docker_config).await;
                found.originals.insert(host.to_owned(), name);
            }
        }
        for (name, backup) in backups.config.backups.iter() {
            let host = backup.backup.registry();
            let push = named(&backup.push, host, &backup.origin.push()).await;
            found.push.insert(name.to_string(), push);
            if backup.pull.is_some() {
                found.pull.insert(name.to_string(), backup.origin.pull());
            }
        }
        Ok(found)
    }

    /// Returns the source of the login for an original.
    pub(super) fn original(&self, image: &str) -> Option<&str> {
        self.originals.get(host(image)).map(String::as_str)
    }

    /// Returns the source of the login that pushes to a backup.
    pub(super) fn push(&self, backup: &str) -> Option<&str> {
        self.push.get(backup).map(String::as_str)
    }

    /// Returns the source of the login that Pods get for a backup, if the configuration has one.
    pub(super) fn pull(&self, backup: &str) -> Option<&str> {
        self.pull.get(backup).map(String::as_str)
    }
}

fn host(image: &str) -> &str {
    image.split('/').next().unwrap_or(image)
}

/// Helpers are not run: only the registries of the plan should be asked.
async fn named(logins: &mirror_copy::Credentials, host: &str, source: &str) -> String {
    let named = async {
        if logins.asks_helper(host).await? {
            return Ok::<_, CredentialError>(format!("credential helper of {source}"));
        }
        let login = logins.find(host).await?;
        Ok(login.map_or(ANONYMOUS, |_| source).to_owned())
    };
    named
        .await
        .unwrap_or_else(|error| format!("{source}: {error}"))
}
