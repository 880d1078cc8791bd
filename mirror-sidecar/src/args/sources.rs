//! How registries are spoken to, and with which credentials.

use std::path::{Path, PathBuf};

use clap::Args;
use mirror_copy::{Credentials, DockerConfig, Registries, RegistryOptions};

use super::UsageError;

/// How registries are spoken to.
#[derive(Debug, Args)]
#[command(next_help_heading = "Registries")]
pub struct SourceArgs {
    /// Speak plain HTTP to this registry (repeatable)
    #[arg(
        long,
        env = "INSECURE_REGISTRIES",
        value_delimiter = ',',
        value_name = "HOST[:PORT]",
        value_parser = host
    )]
    insecure_registry: Vec<String>,
    /// Docker config with credentials for registries; by default that of docker itself
    #[arg(long, env = "DOCKER_CONFIG_FILE", value_name = "FILE")]
    docker_config: Option<PathBuf>,
    /// File of PEM certificates to trust besides the system's, for registries with a private authority (repeatable)
    #[arg(long, env = "CA_FILE", value_delimiter = ',', value_name = "FILE")]
    ca_file: Vec<PathBuf>,
    /// Follow a registry that is not in a private network when it sends us to an address that is: its redirects, upload
    /// addresses and token services
    #[arg(long, env = "ALLOW_PRIVATE_REDIRECTS", value_parser = clap::builder::FalseyValueParser::new())]
    allow_private_redirects: bool,
}

impl SourceArgs {
    /// The credentials that the docker config holds.
    ///
    /// # Errors
    /// [`UsageError`] when the config is named and cannot be read.
    pub fn credentials(&self) -> Result<Credentials, UsageError> {
        let config = match &self.docker_config {
            Some(file) => {
                check_docker_config(file)?;
                DockerConfig::File(file.clone())
            }
            None => DockerConfig::Default,
        };
        Ok(Credentials::anonymous().with_docker_config(config))
    }

    /// The registries, spoken to with `credentials`.
    ///
    /// # Errors
    /// [`UsageError`] when a named file cannot be read or understood.
    pub fn registries(&self, credentials: Credentials) -> Result<Registries, UsageError> {
        let certificates = self.ca_file.iter().map(|file| {
            std::fs::read(file)
                .map_err(|error| UsageError(format!("--ca-file {}: {error}", file.display())))
        });
        let options = RegistryOptions {
            credentials,
            insecure_hosts: self.insecure_registry.iter().cloned().collect(),
            extra_root_certificates_pem: certificates.collect::<Result<_, _>>()?,
            allow_private_redirects: self.allow_private_redirects,
            user_agent: concat!("mirror-sidecar/", env!("CARGO_PKG_VERSION")).into(),
            ..RegistryOptions::default()
        };
        Registries::new(options).map_err(|error| UsageError(error.to_string()))
    }
}

/// The engine reads the file when it needs it, since it may be replaced; a wrong path is better found at once.
fn check_docker_config(file: &Path) -> Result<(), UsageError> {
    let wrong =
        |reason: String| UsageError(format!("--docker-config {}: {reason}", file.display()));
    let text = std::fs::read(file).map_err(|error| wrong(error.to_string()))?;
    serde_json::from_slice::<serde_json::Map<String, serde_json::Value>>(&text)
        .map(|_| ())
        // Line and column, but nothing of the content.
        .map_err(|error| {
            wrong(format!(
                "not a JSON object at line {}, column {}",
                error.line(),
                error.column()
            ))
        })
}

fn host(text: &str) -> Result<String, &'static str> {
    let probe = format!("{text}/probe");
    match mirror_contract::ImageRef::parse(&probe) {
        Ok(image) if image.path() == "probe" => Ok(image.host().to_owned()),
        _ => Err("must be a registry's host name with its port, such as localhost:5000"),
    }
}
