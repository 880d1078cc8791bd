//! Sources of credentials. They are looked up here, never sent, stored or logged.

mod docker_config;
mod error;
mod helper;
mod host_logins;
mod login;

pub use docker_config::DockerConfig;
pub use error::CredentialError;
pub(crate) use host_logins::HostLogins;
pub use login::{Credential, Login};

use crate::registries::host;
use secrecy::SecretString;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

#[derive(Clone, Debug)]
enum Explicit {
    Login(Login),
    File { username: String, password: PathBuf },
}

/// Sources of credentials by registry host. Explicit logins precede the docker configuration; a host that is in neither, or
/// was removed with [`Credentials::without`], is accessed anonymously.
#[derive(Clone, Debug, Default)]
pub struct Credentials {
    logins: BTreeMap<String, Explicit>,
    docker_config: Option<DockerConfig>,
    /// Hosts that the docker configuration is for; `None` for all.
    docker_config_hosts: Option<BTreeSet<String>>,
    /// Hosts that are accessed anonymously, even if there is a login for them.
    anonymous: BTreeSet<String>,
}

impl Credentials {
    /// Accesses all hosts anonymously.
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

    /// Uses this user for one host, with the password in a file. The file is read for each lookup, so that it can be
    /// replaced. A trailing line break is not part of the password.
    #[must_use]
    pub fn with_login_file(mut self, host: &str, username: &str, password: PathBuf) -> Self {
        let login = Explicit::File {
            username: username.to_owned(),
            password,
        };
        self.logins.insert(host::canonical(host), login);
        self
    }

    /// Uses a docker configuration for hosts without a login.
    #[must_use]
    pub fn with_docker_config(mut self, config: DockerConfig) -> Self {
        self.docker_config = Some(config);
        self.docker_config_hosts = None;
        self
    }

    /// Uses a docker configuration for those of these hosts that have no login. Has no effect if there is one already.
    #[must_use]
    pub fn with_docker_config_for<'h>(
        mut self,
        hosts: impl IntoIterator<Item = &'h str>,
        config: DockerConfig,
    ) -> Self {
        if self.docker_config.is_none() {
            let hosts = hosts.into_iter().map(host::canonical);
            self.docker_config_hosts = Some(hosts.collect());
            self.docker_config = Some(config);
        }
        self
    }

    /// Accesses one host anonymously under all its names, even if there is a login for it, here or in the docker
    /// configuration. No credential helper is run for it either.
    #[must_use]
    pub fn without(mut self, host: &str) -> Self {
        self.anonymous.insert(host::canonical(host));
        self
    }

    /// Returns the credential for a whole host, for use outside of this crate; `None` for anonymous access. Reads files
    /// again and may run a credential helper, for at most 30 s.
    ///
    /// # Errors
    /// [`CredentialError`] if a file cannot be read or parsed, or a helper fails.
    pub async fn find(&self, host: &str) -> Result<Option<Credential>, CredentialError> {
        self.lookup(&host::canonical(host)).await?.find("").await
    }

    /// Returns whether a credential helper is run for this host. The credential of a helper may expire at any time: its
    /// protocol has no expiry.
    ///
    /// # Errors
    /// [`CredentialError`] if the docker configuration cannot be read or parsed.
    pub async fn asks_helper(&self, host: &str) -> Result<bool, CredentialError> {
        let host = host::canonical(host);
        match self.docker_config(&host) {
            Some(config) if !self.logins.contains_key(&host) && !self.anonymous.contains(&host) => {
                Ok(config.lookup(&host).await?.asks_helper())
            }
            _ => Ok(false),
        }
    }

    /// Returns the logins of a host in canonical form; none means anonymous. Reads files again; helpers are not run yet.
    pub(crate) async fn lookup(&self, host: &str) -> Result<HostLogins, CredentialError> {
        // A host with plain HTTP may keep port 443 in its name.
        let name = host::canonical(host);
        if self.anonymous.contains(&name) {
            return Ok(HostLogins::default());
        }
        if let Some(login) = self.logins.get(&name) {
            let login = login.read().await?;
            return Ok(HostLogins::one(Credential::Login(login)));
        }
        match self.docker_config(&name) {
            Some(config) => config.lookup(host).await,
            None => Ok(HostLogins::default()),
        }
    }

    /// Returns the docker configuration for a host in canonical form.
    fn docker_config(&self, host: &str) -> Option<&DockerConfig> {
        let hosts = self.docker_config_hosts.as_ref();
        let is_for_host = hosts.is_none_or(|hosts| hosts.contains(host));
        self.docker_config.as_ref().filter(|_| is_for_host)
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
    let file = path.to_owned();
    let password = tokio::task::spawn_blocking(move || read_password_file(&file)).await;
    let password = password.unwrap_or_else(|error| Err(error.into()));
    password.map_err(|source| CredentialError::Password {
        path: path.to_owned(),
        source: Arc::new(source),
    })
}

/// Reads a password from a file. One final line break is not part of it.
///
/// # Errors
/// [`std::io::Error`] when the file cannot be read or is not UTF-8.
pub fn read_password_file(path: &Path) -> std::io::Result<SecretString> {
    let text = std::fs::read_to_string(path)?;
    let text = text.strip_suffix('\n').unwrap_or(&text);
    Ok(SecretString::from(text.strip_suffix('\r').unwrap_or(text)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn login() -> Login {
        Login {
            username: "bot".into(),
            password: "s3cret".into(),
        }
    }

    /// Under all names, and for all sources of the login.
    #[rstest::rstest]
    #[case("ghcr.io", "ghcr.io")]
    #[case("ghcr.io", "GHCR.io:443")]
    #[case("ghcr.io:0443", "ghcr.io")]
    #[case("docker.io", "registry-1.docker.io")]
    #[case("registry-1.docker.io", "index.docker.io:443")]
    #[tokio::test]
    async fn a_removed_host_is_accessed_anonymously(#[case] out: &str, #[case] asked: &str) {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("config.json");
        // bot:s3cret; the helper does not exist, so asking it would be an error.
        let config = r#"{"auths":{"ghcr.io":{"auth":"Ym90OnMzY3JldA=="},"quay.io":{"auth":"Ym90OnMzY3JldA=="},
            "https://index.docker.io/v1/":{"auth":"Ym90OnMzY3JldA=="}},"credHelpers":{"helped.example":"none-such"}}"#;
        std::fs::write(&file, config).unwrap();
        let all = Credentials::anonymous().with_docker_config(DockerConfig::File(file));
        assert!(all.find(asked).await.unwrap().is_some());
        let without = all
            .clone()
            .with_login(out, login())
            .without(out)
            .without("helped.example");
        assert!(without.find(asked).await.unwrap().is_none());
        assert!(without.find("quay.io").await.unwrap().is_some());
        assert!(all.asks_helper("helped.example").await.unwrap());
        assert!(!without.asks_helper("helped.example").await.unwrap());
        assert!(without.find("helped.example").await.unwrap().is_none());
    }

    #[tokio::test]
    async fn a_docker_config_may_be_for_some_hosts() {
        let folder = tempfile::tempdir().unwrap();
        let config = |name: &str, username: &str| {
            let file = folder.path().join(name);
            let auth = format!(r#"{{"username":"{username}","password":"s3cret"}}"#);
            let auths = ["ghcr.io", "quay.io"].map(|host| format!(r#""{host}":{auth}"#));
            let text = format!(
                r#"{{"auths":{{{}}},"credHelpers":{{"helped.example":"none-such"}}}}"#,
                auths.join(",")
            );
            std::fs::write(&file, text).unwrap();
            DockerConfig::File(file)
        };
        let user = async |credentials: &Credentials, host: &str| {
            let found = credentials.find(host).await.unwrap();
            found.map(|found| match found {
                Credential::Login(login) => login.username,
                Credential::IdentityToken(_) => unreachable!(),
            })
        };
        let some = |credentials: Credentials| {
            credentials.with_docker_config_for(["GHCR.io:443"], config("some", "other"))
        };
        let own = some(Credentials::anonymous().with_login("own.example", login()));
        assert_eq!(user(&own, "ghcr.io").await.as_deref(), Some("other"));
        assert_eq!(user(&own, "own.example").await.as_deref(), Some("bot"));
        assert_eq!(user(&own, "quay.io").await, None);
        assert!(!own.asks_helper("helped.example").await.unwrap());
        // One for all hosts has precedence.
        let all = some(Credentials::anonymous().with_docker_config(config("all", "all")));
        for host in ["ghcr.io", "quay.io"] {
            assert_eq!(user(&all, host).await.as_deref(), Some("all"));
        }
        assert!(all.asks_helper("helped.example").await.unwrap());
    }
}
