//! The docker configuration file: `auths`, `credNames`, `credsStore` and identity tokens.

use super::{Credential, CredentialError, Login};
use crate::text::clean;
use docker_credential::{CredentialRetrievalError, DockerCredential};
use serde::Deserialize;
use serde::de::IgnoredAny;
use std::collections::BTreeMap;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Largest configuration read, in bytes: a Kubernetes Secret's limit.
const MAX_CONFIG: u64 = 1024 * 1024;

/// How long a credential helper may take: cloud helpers fetch a token over the network.
const HELPER_TIMEOUT: Duration = Duration::from_secs(30);

/// Docker Hub's key in docker configurations since the days of the v1 API, then its other names.
const DOCKER_HUB_KEYS: [&str; 3] = [
    "https://index.docker.io/v1/",
    "index.docker.io",
    "docker.io",
];

/// Which docker configuration is read.
#[derive(Clone, Debug)]
pub enum DockerConfig {
    /// `$DOCKER_CONFIG/config.json`, else `~/.docker/config.json`. An absent file means no
    /// credentials.
    Default,
    /// This file, such as a mounted `kubernetes.io/dockerconfigjson` Secret. It must exist.
    File(PathBuf),
}

/// Only what is needed to name the helper in an error, and the names of hosts; `docker_credential` does the rest.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Names {
    creds_store: Option<String>,
    #[serde(default)]
    cred_helpers: Option<BTreeMap<String, String>>,
    #[serde(default)]
    #[allow(
        clippy::zero_sized_map_values,
        reason = "a set cannot be read from a JSON object"
    )]
    auths: Option<BTreeMap<String, IgnoredAny>>,
}

impl Names {
    fn for_key(&self, key: &str) -> Option<&String> {
        self.cred_helpers
            .as_ref()
            .and_then(|helpers| helpers.get(key))
            .or(self.creds_store.as_ref())
    }

    /// The names under which a host may be listed, the better ones first. Docker keeps a login under the name that was
    /// typed. A helper is not asked for what is not listed.
    fn keys_of(&self, host: &str) -> Vec<String> {
        if host == "docker.io" {
            return DOCKER_HUB_KEYS.map(str::to_owned).into();
        }
        let with_port = format!("{host}:443");
        let mut keys = vec![host.to_owned()];
        if self.lists(&with_port) {
            keys.push(with_port);
        }
        keys
    }

    /// Whether there is an entry under this name.
    fn lists(&self, key: &str) -> bool {
        let helpers = self.cred_helpers.as_ref();
        let auths = self.auths.as_ref();
        helpers.is_some_and(|helpers| helpers.contains_key(key))
            || auths.is_some_and(|auths| auths.contains_key(key))
    }
}

impl DockerConfig {
    /// The credential of a host in canonical form.
    pub(super) async fn lookup(&self, host: &str) -> Result<Option<Credential>, CredentialError> {
        let Some((path, optional)) = self.place() else {
            return Ok(None);
        };
        let name = host.to_owned();
        // Reading is quick; a helper is a child process and blocks.
        let work = tokio::task::spawn_blocking(move || lookup_in(&path, optional, &name));
        let failed = |reason: &str| CredentialError::Helper {
            helper: "*".to_owned(),
            host: host.to_owned(),
            reason: reason.to_owned(),
        };
        match tokio::time::timeout(HELPER_TIMEOUT, work).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(failed("the lookup was interrupted")),
            Err(_) => Err(failed("it did not answer within 30 s")),
        }
    }

    /// Whether a helper is asked for a host in canonical form.
    pub(super) async fn asks_helper(&self, host: &str) -> Result<bool, CredentialError> {
        let Some((path, optional)) = self.place() else {
            return Ok(false);
        };
        let name = host.to_owned();
        let work = tokio::task::spawn_blocking(move || asks_helper_in(&path, optional, &name));
        work.await.unwrap_or(Ok(false))
    }

    /// The file, and whether it may be absent.
    fn place(&self) -> Option<(PathBuf, bool)> {
        match self {
            Self::File(path) => Some((path.clone(), false)),
            Self::Default => {
                let folder = std::env::var_os("DOCKER_CONFIG")
                    .map(PathBuf::from)
                    .or_else(|| {
                        std::env::var_os("HOME").map(|home| Path::new(&home).join(".docker"))
                    })?;
                Some((folder.join("config.json"), true))
            }
        }
    }
}

fn lookup_in(
    path: &Path,
    optional: bool,
    host: &str,
) -> Result<Option<Credential>, CredentialError> {
    let Some((text, names)) = read(path, optional)? else {
        return Ok(None);
    };
    for key in &names.keys_of(host) {
        match docker_credential::get_credential_from_reader(text.as_slice(), key) {
            Ok(found) => return Ok(usable(found)),
            Err(error) if means_none(&error) => {}
            Err(error) => return Err(explain(error, path, host, names.for_key(key))),
        }
    }
    Ok(None)
}

fn asks_helper_in(path: &Path, optional: bool, host: &str) -> Result<bool, CredentialError> {
    let Some((_, names)) = read(path, optional)? else {
        return Ok(false);
    };
    let keys = names.keys_of(host);
    Ok(keys.iter().any(|key| names.for_key(key).is_some()))
}

/// The configuration, and the names in it; `None` if it is absent and may be.
fn read(path: &Path, optional: bool) -> Result<Option<(Vec<u8>, Names)>, CredentialError> {
    let text = match read_bounded(path) {
        Ok(text) => text,
        Err(error) if optional && error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(source) => {
            let (path, source) = (path.to_owned(), Arc::new(source));
            return Err(CredentialError::Read { path, source });
        }
    };
    // Only the place is shown: serde's own message may quote a value, and values are secrets here.
    let names = serde_json::from_slice(&text).map_err(|error| CredentialError::Malformed {
        path: path.to_owned(),
        line: error.line(),
        column: error.column(),
    })?;
    Ok(Some((text, names)))
}

fn read_bounded(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut text = Vec::new();
    std::fs::File::open(path)?
        .take(MAX_CONFIG + 1)
        .read_to_end(&mut text)?;
    if text.len() as u64 > MAX_CONFIG {
        return Err(std::io::Error::other("it is larger than 1 MiB"));
    }
    Ok(text)
}

/// Some helpers answer with empty fields instead of "not found".
fn usable(found: DockerCredential) -> Option<Credential> {
    match found {
        DockerCredential::IdentityToken(token) if token.is_empty() => None,
        DockerCredential::IdentityToken(token) => Some(Credential::IdentityToken(token.into())),
        DockerCredential::UsernamePassword(user, password)
            if user.is_empty() && password.is_empty() =>
        {
            None
        }
        DockerCredential::UsernamePassword(username, password) => Some(Credential::Login(Login {
            username,
            password: password.into(),
        })),
    }
}

/// The helpers' protocol has no code for "not found", only this message on standard output
/// (docker-credential-helpers, credentials/error.go).
fn means_none(error: &CredentialRetrievalError) -> bool {
    match error {
        CredentialRetrievalError::NoCredentialConfigured => true,
        CredentialRetrievalError::HelperFailure { stdout, stderr, .. } => [stdout, stderr]
            .iter()
            .any(|text| text.to_lowercase().contains("credentials not found")),
        _ => false,
    }
}

fn explain(
    error: CredentialRetrievalError,
    path: &Path,
    host: &str,
    helper: Option<&String>,
) -> CredentialError {
    let failed = |reason: String| CredentialError::Helper {
        helper: helper.map_or_else(|| "?".to_owned(), |name| clean(name)),
        host: host.to_owned(),
        reason,
    };
    let entry = |reason| CredentialError::Entry {
        path: path.to_owned(),
        host: host.to_owned(),
        reason,
    };
    match error {
        CredentialRetrievalError::HelperFailure { stdout, stderr, .. } => {
            // An answer in JSON may hold the secret; a message does not.
            let said = if stdout.contains('{') {
                ""
            } else {
                stdout.as_str()
            };
            failed(clean(&format!("{} {}", said.trim(), stderr.trim())))
        }
        CredentialRetrievalError::HelperCommunicationError => {
            failed("it could not be run; is it on the PATH?".to_owned())
        }
        CredentialRetrievalError::MalformedHelperResponse => {
            failed("its answer is malformed".to_owned())
        }
        CredentialRetrievalError::CredentialMismatchError => {
            entry("auth does not match username and password")
        }
        _ => entry("auth is not base64 of user:password"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[rstest::rstest]
    #[case(r#"{"auths":{"a.example:443":{"auth":"dTpw"}}}"#, true)]
    #[case(r#"{"auths":{"a.example":{"auth":"dTpw"}}}"#, true)]
    #[case(r#"{"auths":{"a.example:5000":{"auth":"dTpw"}}}"#, false)]
    #[tokio::test]
    async fn a_login_with_the_default_port_is_found(#[case] text: &str, #[case] found: bool) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.json");
        std::fs::write(&path, text).unwrap();
        let answer = DockerConfig::File(path).lookup("a.example").await.unwrap();
        assert_eq!(answer.is_some(), found);
    }

    #[rstest::rstest]
    #[case(r#"{"auths":{"a.example":{"auth":"dTpw"}}}"#, "a.example", false)]
    #[case(r#"{"credHelpers":{"a.example":"ecr-login"}}"#, "a.example", true)]
    #[case(r#"{"credHelpers":{"a.example:443":"ecr-login"}}"#, "a.example", true)]
    #[case(r#"{"credHelpers":{"b.example":"ecr-login"}}"#, "a.example", false)]
    #[case(r#"{"credHelpers":{"index.docker.io":"x"}}"#, "docker.io", true)]
    #[case(r#"{"credsStore":"pass"}"#, "a.example", true)]
    #[tokio::test]
    async fn who_is_asked_is_in_the_file(
        #[case] text: &str,
        #[case] host: &str,
        #[case] helper: bool,
    ) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.json");
        std::fs::write(&path, text).unwrap();
        let asks = DockerConfig::File(path).asks_helper(host).await.unwrap();
        assert_eq!(asks, helper);
    }
}
