//! Where credentials come from. Looks them up; never sends, stores or prints them.

mod docker_config;

pub use docker_config::DockerConfig;

use crate::error::Retry;
use crate::registries::host;
use secrecy::SecretString;
use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

/// A user name and its password, or a robot account and its token.
#[derive(Clone)]
pub struct Login {
    /// The user name. It may appear in errors.
    pub username: String,
    /// The password. It never appears anywhere.
    pub password: SecretString,
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Login")
            .field("username", &self.username)
            .finish_non_exhaustive()
    }
}

/// What a registry is shown.
#[derive(Clone, Debug)]
pub(crate) enum Credential {
    /// Sent by Basic authentication, to the registry or to its token service.
    Login(Login),
    /// An OAuth 2 refresh token, sent to the token service only.
    IdentityToken(SecretString),
}

/// Where credentials come from, looked up by registry host. Explicit logins win over the docker
/// configuration; a host that is in neither is spoken to anonymously.
#[derive(Clone, Debug, Default)]
pub struct Credentials {
    logins: BTreeMap<String, Login>,
    docker_config: Option<DockerConfig>,
}

impl Credentials {
    /// No credentials for any host.
    #[must_use]
    pub fn anonymous() -> Self {
        Self::default()
    }

    /// Uses this login for one host (`ghcr.io`, `registry.local:5000`; `docker.io` for Docker Hub).
    #[must_use]
    pub fn with_login(mut self, host: &str, login: Login) -> Self {
        self.logins.insert(host::canonical(host), login);
        self
    }

    /// Looks in a docker configuration for hosts without a login.
    #[must_use]
    pub fn with_docker_config(mut self, config: DockerConfig) -> Self {
        self.docker_config = Some(config);
        self
    }

    /// The credential for a host in canonical form, or `None` for anonymous. Reads the docker
    /// configuration anew and may run a credential helper.
    pub(crate) async fn lookup(&self, host: &str) -> Result<Option<Credential>, CredentialError> {
        if let Some(login) = self.logins.get(host) {
            return Ok(Some(Credential::Login(login.clone())));
        }
        match &self.docker_config {
            Some(config) => config.lookup(host).await,
            None => Ok(None),
        }
    }
}

/// The credentials of a host could not be looked up. A broken configuration is never read as "no
/// credentials".
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CredentialError {
    /// The file cannot be read.
    #[error("cannot read the docker configuration {}: {source}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why; shared, because the error is handed to every waiting caller.
        source: Arc<std::io::Error>,
    },
    /// The file is not a docker configuration.
    #[error(
        "the docker configuration {} is malformed at line {line}, column {column}",
        .path.display()
    )]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Where the reader stopped.
        line: usize,
        /// Where the reader stopped.
        column: usize,
    },
    /// The entry of this host cannot be used.
    #[error("the docker configuration {} has an unusable entry for {host}: {reason}", .path.display())]
    Entry {
        /// The file.
        path: PathBuf,
        /// The registry.
        host: String,
        /// Why.
        reason: &'static str,
    },
    /// A credential helper failed.
    #[error("the credential helper docker-credential-{helper} failed for {host}: {reason}")]
    Helper {
        /// The helper's name, as in the configuration.
        helper: String,
        /// The registry.
        host: String,
        /// What the helper said, cleaned and bounded.
        reason: String,
    },
}

impl CredentialError {
    /// Whether looking again may help: helpers talk to clouds, and files are replaced while read.
    pub(crate) fn retry(&self) -> Retry {
        match self {
            Self::Helper { .. } => Retry::SOON,
            _ => Retry::Permanent,
        }
    }
}
