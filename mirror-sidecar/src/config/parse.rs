//! The keys of the configuration file.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use mirror_contract::naming::{BackupError, NamingError};
use mirror_contract::{Backup, BackupName, Naming, RewriteTarget};
use mirror_copy::{Credentials, DockerConfig, read_password_file};
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::Value;

use super::reader::Reader;
use super::{BackupConfig, Config, FlagDefaults, TargetConfig};
use crate::args::{check_docker_config, is_username, size_limit};
use crate::backups::ByBackup;
use crate::origin::BackupOrigin;
use crate::yaml;

/// Maximum number of backups, including the default.
pub(super) const MAX_BACKUPS: usize = 16;

/// Maximum number of targets.
pub(super) const MAX_TARGETS: usize = 64;

/// Maximum number of former locations of one backup.
pub(super) const MAX_FORMER: usize = 16;

/// A configuration, and the content of files that it holds. If neither the file nor these change, it is the same.
#[derive(Debug)]
pub(super) struct Parsed {
    pub config: Config,
    pub usernames: Vec<String>,
}

struct Parser<'d> {
    defaults: &'d FlagDefaults,
    usernames: Vec<String>,
}

/// Parses a configuration in YAML or JSON.
///
/// # Errors
/// All errors, each a sentence that begins with the path of its key.
pub(super) fn parse(text: &str, defaults: &FlagDefaults) -> Result<Parsed, Vec<String>> {
    let document = document(text).map_err(|error| vec![error])?;
    let mut errors = Vec::new();
    let mut parser = Parser {
        defaults,
        usernames: Vec::new(),
    };
    let config =
        Reader::new(&document, String::new(), &mut errors).and_then(|reader| parser.config(reader));
    match config {
        Some((backups, targets)) if errors.is_empty() => Ok(Parsed {
            config: Config::new(backups, targets, defaults.manages_pull_secrets)?,
            usernames: parser.usernames,
        }),
        _ => Err(errors),
    }
}

fn document(text: &str) -> Result<Value, String> {
    let document = yaml::parse(text)?;
    if document.is_null() {
        return Err("the file is empty".to_owned());
    }
    Ok(document)
}

impl Parser<'_> {
    fn config(
        &mut self,
        mut reader: Reader<'_, '_>,
    ) -> Option<(ByBackup<BackupConfig>, Vec<TargetConfig>)> {
        let (mut default, mut named) = (None, BTreeMap::new());
        let mut is_default_in_file = false;
        reader.entries("backups", MAX_BACKUPS, |name, reader| {
            let parsed = BackupName::parse(name).map(BackupName::into_owned);
            let backup = self.backup(parsed.as_ref().unwrap_or(&BackupName::DEFAULT), reader);
            let Some(name) = parsed else {
                reader.refuse_all(
                    "the name of a backup must be lower-case letters, digits and inner hyphens, at most 63 characters",
                );
                return;
            };
            if name.is_default() {
                is_default_in_file = true;
                default = backup;
            } else if let Some(backup) = backup {
                named.insert(name, backup);
            }
        });
        match (&self.defaults.backup, is_default_in_file) {
            (Some(_), true) => reader.refuse(
                "backups.default",
                "--registry defines the default backup already; remove the key, or --registry and all other flags of the \
                 backup and its pull credentials",
            ),
            (None, false) => reader.refuse(
                "backups.default",
                "is required, because --registry defines no default backup",
            ),
            (Some(flags), false) => default = Some(flags.clone()),
            (None, true) => {}
        }
        if named.len() >= MAX_BACKUPS && default.is_some() {
            let count = named.len() + 1;
            let error = format!("has {count} entries with the default, more than {MAX_BACKUPS}");
            reader.refuse("backups", &error);
        }
        let mut targets = Vec::new();
        reader.entries("targets", MAX_TARGETS, |location, reader| {
            targets.extend(self.target(location, reader));
        });
        reader.finish();
        let mut backups = ByBackup::new(default?);
        for (name, backup) in named {
            backups.insert(name, backup);
        }
        Some((backups, targets))
    }

    fn backup(
        &mut self,
        name: &BackupName<'static>,
        reader: &mut Reader<'_, '_>,
    ) -> Option<BackupConfig> {
        let other_usernames = self.usernames.len();
        let registry = reader.required("registry", "the host that stores the copies");
        let repository = reader.text("repository").unwrap_or_default();
        let naming = naming(reader, registry.unwrap_or_default());
        let max_image_size = self.max_image_size(reader);
        let parallel_copies = self.parallel_copies(reader);
        let former = former(reader);
        let backup = registry.and_then(|registry| location(reader, registry, repository, naming));
        // Without a valid registry nothing is returned, but errors of the logins are reported.
        let host = backup.as_ref().map_or("", Backup::registry);
        let push = reader.nested("push", |reader| self.credentials(reader, host));
        let pull = reader.nested("pull", |reader| self.credentials(reader, host));
        if pull.is_some() && !self.defaults.manages_pull_secrets {
            reader.refuse(
                "pull",
                "needs --kubernetes=on, because pull Secrets are only created there",
            );
        }
        Some(BackupConfig {
            origin: BackupOrigin::File(name.clone()),
            backup: backup?,
            former,
            push: push.unwrap_or_default(),
            pull,
            max_image_size,
            parallel_copies,
            definition: format!(
                "{} {:?}",
                reader.json(),
                self.usernames.get(other_usernames..)
            ),
        })
    }

    fn target(&mut self, text: &str, reader: &mut Reader<'_, '_>) -> Option<TargetConfig> {
        let location = RewriteTarget::parse(text);
        let host = text.split_once('/').map_or(text, |(host, _)| host);
        if location.is_none() {
            reader.refuse_all(
                "must be a registry with an optional path, in lower case, such as harbor.example.com/hub",
            );
        }
        if !reader.has("pull") {
            reader.refuse(
                "pull",
                "is required; a target without a login needs no entry",
            );
        }
        let pull = reader.nested("pull", |reader| self.credentials(reader, host))?;
        Some(TargetConfig {
            location: location?.into_owned(),
            pull,
        })
    }

    fn max_image_size(&self, reader: &mut Reader<'_, '_>) -> Option<u64> {
        const KEY: &str = "maxImageSize";
        let text = match reader.value(KEY) {
            None => return self.defaults.max_image_size,
            Some(Value::Number(number)) => number.to_string(),
            Some(Value::String(text)) => text.clone(),
            Some(_) => String::new(),
        };
        match size_limit(&text) {
            Ok(limit) => limit.0,
            Err(error) => {
                reader.refuse(KEY, error);
                None
            }
        }
    }

    fn parallel_copies(&self, reader: &mut Reader<'_, '_>) -> NonZeroUsize {
        const KEY: &str = "parallelCopies";
        let Some(value) = reader.value(KEY) else {
            return self.defaults.parallel_copies;
        };
        let number = value
            .as_u64()
            .and_then(|number| usize::try_from(number).ok());
        number.and_then(NonZeroUsize::new).unwrap_or_else(|| {
            reader.refuse(KEY, "must be a whole number, 1 or more");
            self.defaults.parallel_copies
        })
    }

    /// A login for `host`, or the logins of a docker config. Anonymous after an error.
    fn credentials(&mut self, reader: &mut Reader<'_, '_>, host: &str) -> Credentials {
        let none = Credentials::anonymous();
        let has_inline_password = reader.forbid(
            "password",
            "a password is only read from a file; set passwordFile instead",
        );
        let username = self.username(reader);
        let password_file = path(reader, "passwordFile");
        let docker_config = path(reader, "dockerConfig");
        let has_user = reader.has("username") || reader.has("usernameFile");
        let has_password = reader.has("passwordFile") || has_inline_password;
        if reader.has("dockerConfig") {
            if has_user || has_password {
                reader.refuse(
                    "dockerConfig",
                    "cannot be combined with a user and a password",
                );
            }
            return docker_config.map_or(none.clone(), |file| {
                let label = format!("{}:", reader.path_of("dockerConfig"));
                if let Err(error) = check_docker_config(&file, &label) {
                    reader.push(error.0);
                }
                none.with_docker_config(DockerConfig::File(file))
            });
        }
        match (has_user, has_password) {
            (true, true) => {}
            (true, false) => reader.refuse("passwordFile", "is required"),
            (false, true) => reader.refuse("username", "is required, or usernameFile"),
            (false, false) => {
                reader.refuse_all("must have username and passwordFile, or dockerConfig");
            }
        }
        let Some(file) = password_file else {
            return none;
        };
        // Read only to report errors early; the login is read from the file whenever it is needed.
        read_file(reader, "passwordFile", &file);
        match username {
            Some(username) => none.with_login_file(host, &username, file),
            None => none,
        }
    }

    fn username(&mut self, reader: &mut Reader<'_, '_>) -> Option<String> {
        let text = reader.text("username");
        let (key, username) = match path(reader, "usernameFile") {
            None => ("username", text?.to_owned()),
            Some(_) if text.is_some() => {
                reader.refuse("usernameFile", "cannot be combined with username");
                return None;
            }
            Some(file) => {
                let username = read_file(reader, "usernameFile", &file)?;
                let username = username.expose_secret().to_owned();
                self.usernames.push(username.clone());
                ("usernameFile", username)
            }
        };
        if !is_username(&username) {
            reader.refuse(
                key,
                "must not be empty and cannot contain a colon (RFC 7617)",
            );
            return None;
        }
        Some(username)
    }
}

fn naming(reader: &mut Reader<'_, '_>, registry: &str) -> Naming {
    match reader.text("naming") {
        Some("flat") => Naming::Flat,
        Some("nested") => Naming::Nested,
        None | Some("auto") => Naming::auto(registry),
        Some(_) => {
            reader.refuse("naming", "must be auto, flat or nested");
            Naming::auto(registry)
        }
    }
}

fn location(
    reader: &mut Reader<'_, '_>,
    registry: &str,
    repository: &str,
    naming: Naming,
) -> Option<Backup> {
    let backup = Backup::new(registry, repository, naming);
    let (key, error) = match backup {
        Ok(backup) => match backup.check_naming() {
            Ok(()) => return Some(backup),
            Err(NamingError::Nested) => ("naming", NamingError::Nested.to_string()),
            Err(error) => ("repository", error.to_string()),
        },
        Err(BackupError::Registry) => ("registry", BackupError::Registry.to_string()),
        Err(BackupError::Repository) => ("repository", BackupError::Repository.to_string()),
    };
    reader.refuse(key, &error);
    None
}

fn former(reader: &mut Reader<'_, '_>) -> Vec<[Backup; 2]> {
    const KEY: &str = "formerLocations";
    let mut former = Vec::new();
    for (index, text) in reader.texts(KEY, MAX_FORMER) {
        match Backup::with_both_namings(text) {
            Some(backups) => former.push(backups),
            None => reader.refuse_entry(KEY, index, "must be registry/repository, in lower case"),
        }
    }
    former
}

/// A relative path would depend on the folder of the process; and a secret in the wrong key is no absolute path, so that no
/// error repeats it.
fn path(reader: &mut Reader<'_, '_>, key: &'static str) -> Option<PathBuf> {
    let path = PathBuf::from(reader.text(key)?);
    if !path.is_absolute() {
        reader.refuse(key, "must be the absolute path of a file");
        return None;
    }
    Some(path)
}

fn read_file(reader: &mut Reader<'_, '_>, key: &str, file: &Path) -> Option<SecretString> {
    let error = match read_password_file(file) {
        Ok(text) if text.expose_secret().is_empty() => "the file is empty".to_owned(),
        Ok(text) => return Some(text),
        Err(error) => error.to_string(),
    };
    reader.refuse(key, &format!("{}: {error}", file.display()));
    None
}
