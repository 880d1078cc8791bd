//! Flags of the backup, with the names of image-clone-controller.

use std::path::PathBuf;

use clap::Args;
use clap::builder::TypedValueParser as _;
use mirror_contract::{Backup, Naming};
use mirror_copy::Credentials;
use secrecy::SecretString;

use super::login::LoginFlags;
use crate::exit::UsageError;

/// The backup registry, and the naming of copies.
#[derive(Debug, Args)]
#[command(next_help_heading = "Backup registry")]
pub struct BackupArgs {
    /// Registry that stores the copies
    #[arg(long, env = "REGISTRY", value_name = "HOST[:PORT]")]
    registry: Option<String>,
    /// Repository that contains the copies, for example an account or a project
    #[arg(
        long,
        env = "REPOSITORY",
        default_value = "",
        value_name = "PATH",
        hide_default_value = true
    )]
    repository: String,
    /// Naming of copies: flat (one level below the repository), nested (the whole path of the original), or auto (depends on
    /// the registry)
    #[arg(long, env = "NAMING", value_enum, default_value = "auto")]
    naming: NamingArg,
    /// User with push permission for the registry; by default the login of the docker config
    ///
    /// Used only for the backup, never to read originals. `serve` does not read originals with the docker config's login for
    /// the backup's host either.
    #[arg(long, env = "REGISTRY_USERNAME", value_name = "NAME")]
    registry_username: Option<String>,
    /// Password of --registry-username; prefer the file, since other processes can see flags
    #[arg(
        long,
        env = "REGISTRY_PASSWORD",
        hide_env_values = true,
        value_name = "PASSWORD",
        value_parser = clap::builder::StringValueParser::new().map(SecretString::from),
        conflicts_with = "registry_password_file"
    )]
    registry_password: Option<SecretString>,
    /// File with the password of --registry-username
    #[arg(long, env = "REGISTRY_PASSWORD_FILE", value_name = "FILE")]
    registry_password_file: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum NamingArg {
    Auto,
    Flat,
    Nested,
}

impl BackupArgs {
    /// The backup that the flags describe.
    pub fn backup(&self) -> Result<Backup, UsageError> {
        let registry = self
            .registry()
            .ok_or_else(|| UsageError("no backup registry; set --registry or REGISTRY".into()))?;
        let naming = self.naming(registry);
        let backup = Backup::new(registry, &self.repository, naming).map_err(|error| {
            let repository = &self.repository;
            UsageError(match self.split_registry() {
                Some((host, path)) => format!(
                    "--registry {registry:?} is not a host; use --registry {host} --repository {path}"
                ),
                None if repository.is_empty() => format!("--registry {registry:?}: {error}"),
                None => {
                    format!("--registry {registry:?} with --repository {repository:?}: {error}")
                }
            })
        })?;
        backup.check_naming().map_err(|error| {
            UsageError(format!(
                "--registry {registry:?} with --repository {:?} and --naming {}: {error}",
                self.repository,
                naming_name(naming)
            ))
        })?;
        Ok(backup)
    }

    fn naming(&self, registry: &str) -> Naming {
        match self.naming {
            NamingArg::Auto => Naming::auto(registry),
            NamingArg::Flat => Naming::Flat,
            NamingArg::Nested => Naming::Nested,
        }
    }

    pub fn registry(&self) -> Option<&str> {
        self.registry.as_deref()
    }

    pub fn has_repository(&self) -> bool {
        !self.repository.is_empty()
    }

    pub fn has_login(&self) -> bool {
        self.registry_username.is_some()
    }

    /// The first flag besides --registry that is set.
    pub fn other_flags(&self) -> Option<&'static str> {
        let flags = [
            ("--repository", self.has_repository()),
            ("--registry-username", self.registry_username.is_some()),
            ("--registry-password", self.registry_password.is_some()),
            (
                "--registry-password-file",
                self.registry_password_file.is_some(),
            ),
        ];
        let mut given = flags.into_iter().filter(|(_, is_given)| *is_given);
        given.next().map(|(flag, _)| flag)
    }

    /// Splits a registry that includes the repository.
    fn split_registry(&self) -> Option<(&str, String)> {
        let registry = self.registry()?;
        let (_, address) = registry.split_once("://").unwrap_or(("", registry));
        let (host, path) = address.split_once('/')?;
        let parts = [path.trim_matches('/'), self.repository.trim_matches('/')];
        let parts: Vec<_> = parts.into_iter().filter(|part| !part.is_empty()).collect();
        (!host.is_empty() && !parts.is_empty()).then(|| (host, parts.join("/")))
    }

    /// Adds the login for `host` to `credentials`, if there is one.
    pub fn add_login(
        &self,
        credentials: Credentials,
        host: &str,
    ) -> Result<Credentials, UsageError> {
        let login = LoginFlags {
            prefix: "--registry",
            username: self.registry_username.as_ref(),
            password: self.registry_password.as_ref(),
            password_file: self.registry_password_file.as_ref(),
        };
        login.add_to(credentials, host)
    }
}

pub const fn naming_name(naming: Naming) -> &'static str {
    match naming {
        Naming::Flat => "flat",
        Naming::Nested => "nested",
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use rstest::rstest;

    use super::*;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        backup: BackupArgs,
    }

    const ECR: &str = "123456789012.dkr.ecr.eu-central-1.amazonaws.com";

    #[rstest]
    #[case("ghcr.io", "auto", Ok(Naming::Flat))]
    #[case("registry.hub.docker.com", "auto", Ok(Naming::Flat))]
    #[case("quay.io", "auto", Ok(Naming::Flat))]
    #[case(ECR, "auto", Ok(Naming::Nested))]
    #[case(ECR, "flat", Ok(Naming::Flat))]
    #[case("ghcr.io", "nested", Ok(Naming::Nested))]
    #[case("quay.io", "nested", Ok(Naming::Nested))]
    #[case(
        "registry-1.docker.io",
        "nested",
        Err(
            "--naming nested: this registry has no nested repositories; use the naming `auto` or `flat`"
        )
    )]
    fn a_naming_that_cannot_work_is_refused(
        #[case] registry: &str,
        #[case] naming: &str,
        #[case] expected: Result<Naming, &str>,
    ) {
        let flags = [
            "",
            "--registry",
            registry,
            "--repository",
            "acme",
            "--naming",
            naming,
        ];
        let backup = Command::try_parse_from(flags).unwrap().backup.backup();
        match (backup, expected) {
            (Ok(backup), expected) => assert_eq!(Ok(backup.naming()), expected),
            (Err(error), Err(words)) => assert!(error.to_string().contains(words), "{error}"),
            (Err(error), Ok(_)) => panic!("{error}"),
        }
    }
}
