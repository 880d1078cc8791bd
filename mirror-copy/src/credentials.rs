//! Where credentials come from. Looks them up; never sends, stores or prints them.

mod docker_config;

pub use docker_config::DockerConfig;

use crate::error::Retry;
use crate::registries::host;
use secrecy::SecretString;
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
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

/// A login that was given for one host.
#[derive(Clone, Debug)]
enum Explicit {
    Login(Login),
    File { username: String, password: PathBuf },
}

/// Where credentials come from, looked up by registry host. Explicit logins win over the docker
/// configuration; a host that is in neither is spoken to anonymously.
#[derive(Clone, Debug, Default)]
pub struct Credentials {
    logins: BTreeMap<String, Explicit>,
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
        self.logins
            .insert(host::canonical(host), Explicit::Login(login));
        self
    }

    /// Uses this user for one host, with the password in a file, which is read again each time: it may be replaced. One
    /// final line break does not belong to the password.
    #[must_use]
    pub fn with_login_file(mut self, host: &str, username: &str, password: PathBuf) -> Self {
        let login = Explicit::File {
            username: username.to_owned(),
            password,
        };
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
        // A host spoken to by plain HTTP may keep port 443 in its name.
        if let Some(login) = self.logins.get(&host::canonical(host)) {
            return login
                .read()
                .await
                .map(|login| Some(Credential::Login(login)));
        }
        match &self.docker_config {
            Some(config) => config.lookup(host).await,
            None => Ok(None),
        }
    }
}

impl Explicit {
    async fn read(&self) -> Result<Login, CredentialError> {
        match self {
            Self::Login(login) => Ok(login.clone()),
            Self::File { username, password } => Ok(Login {
                username: username.clone(),
                password: read_password(password).await?,
            }),
        }
    }
}

async fn read_password(path: &Path) -> Result<SecretString, CredentialError> {
    let text = tokio::fs::read_to_string(path).await;
    let text = text.map_err(|source| CredentialError::Password {
        path: path.to_owned(),
        source: Arc::new(source),
    })?;
    let text = text.strip_suffix('\n').unwrap_or(&text);
    Ok(SecretString::from(text.strip_suffix('\r').unwrap_or(text)))
}

/// The credentials of a host could not be looked up. A broken configuration is never read as "no
/// credentials".
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CredentialError {
    /// The file with a password cannot be read.
    #[error("cannot read the password file {}: {source}", .path.display())]
    Password {
        /// The file.
        path: PathBuf,
        /// Why; shared, because the error is handed to every waiting caller.
        source: Arc<std::io::Error>,
    },
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
            Self::Helper { .. } | Self::Password { .. } => Retry::SOON,
            _ => Retry::Permanent,
        }
    }
}
