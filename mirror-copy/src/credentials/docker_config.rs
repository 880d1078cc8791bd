//! The docker configuration file as docker, kubelets, crane and oras read it: `auths`, `credHelpers`, `credsStore` and
//! identity tokens. An entry is decoded only for the host that it belongs to, so a broken one affects no other host.

mod key;

use super::error::CredentialError;
use super::helper::Helper;
use super::host_logins::{HostLogins, ScopedLogin};
use super::login::{Credential, Login};
use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use key::Key;
use serde::Deserialize;
use serde_json::value::RawValue;
use std::collections::BTreeMap;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Maximum size of a configuration, in bytes: the limit of a Kubernetes Secret.
const MAX_CONFIG: u64 = 1024 * 1024;

/// Keys of Docker Hub in docker configurations, in order of preference. The first one is from the v1 API.
const DOCKER_HUB_KEYS: [&str; 3] = [
    "https://index.docker.io/v1/",
    "index.docker.io",
    "docker.io",
];

/// Maximum number of keys of one host that are requested from a credentials store.
const MAX_STORE_KEYS: usize = 4;

/// The docker configuration that credentials are read from.
#[derive(Clone, Debug)]
pub enum DockerConfig {
    /// `$DOCKER_CONFIG/config.json`, else `~/.docker/config.json`. An absent file means no credentials.
    Default,
    /// This file, such as a mounted Secret of type `kubernetes.io/dockerconfigjson`. It must exist.
    File(PathBuf),
}

/// The file. Values stay undecoded until their host is looked up.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Config {
    creds_store: Option<String>,
    cred_helpers: Option<BTreeMap<String, Box<RawValue>>>,
    auths: Option<BTreeMap<String, Box<RawValue>>>,
}

impl DockerConfig {
    /// Returns the logins of a host in canonical form. No helper is run yet.
    pub(super) async fn lookup(&self, host: &str) -> Result<HostLogins, CredentialError> {
        let Some((path, optional)) = self.path() else {
            return Ok(HostLogins::default());
        };
        let host = host.to_owned();
        let unreadable = CredentialError::Read {
            path: path.clone(),
            source: Arc::new(std::io::Error::other("reading it was interrupted")),
        };
        let work = tokio::task::spawn_blocking(move || {
            let config = read(&path, optional)?;
            Ok(config.map_or_else(HostLogins::default, |config| config.logins(&path, &host)))
        });
        work.await.unwrap_or(Err(unreadable))
    }

    /// Returns the file, and whether it may be absent.
    fn path(&self) -> Option<(PathBuf, bool)> {
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

impl Config {
    /// Returns the logins of the file for one host: its own helper precedes an entry for the whole host, which precedes the
    /// common store. A longer path precedes a shorter one, an exact name a wildcard.
    fn logins(&self, path: &Path, host: &str) -> HostLogins {
        let unusable = |key: &str, reason| CredentialError::Entry {
            path: path.to_owned(),
            host: key.to_owned(),
            reason,
        };
        let own_helper = self.own_helper(host);
        let mut matching: Vec<_> = self
            .auths
            .iter()
            .flatten()
            .filter_map(|(text, raw)| Some((Key::parse(text).of(host)?, text, raw)))
            .collect();
        // The reversed map puts the more specific wildcard first, as kubelets do.
        matching.reverse();
        matching.sort_by_key(|(key, text, _)| {
            let length = std::cmp::Reverse(key.path.len());
            (key.is_wildcard, length, preference(host, text))
        });
        let mut store_keys = preferred(host);
        let mut logins = Vec::new();
        for (key, text, raw) in matching {
            if !key.is_wildcard && key.path.is_empty() {
                if !store_keys.contains(text) {
                    store_keys.push(text.clone());
                }
                if matches!(own_helper, Some(Ok((_, name))) if !name.is_empty()) {
                    continue;
                }
            }
            let credential = Entry::credential(raw).map_err(|reason| unusable(text, reason));
            let path = key.path;
            logins.push(ScopedLogin { path, credential });
        }
        let helper = match own_helper {
            Some(Ok((_, ""))) => None,
            Some(Ok((key, name))) => Some(Helper::new(name, host, vec![key.to_owned()])),
            Some(Err(key)) => {
                let (path, reason) = (String::new(), "credHelpers names no helper");
                let credential = Err(unusable(key, reason));
                logins.push(ScopedLogin { path, credential });
                None
            }
            None => {
                store_keys.truncate(MAX_STORE_KEYS);
                let store = self.creds_store.as_deref().filter(|name| !name.is_empty());
                store.map(|name| Helper::new(name, host, store_keys))
            }
        };
        HostLogins::new(logins, helper)
    }

    /// Returns the helper of this host with its key; an empty name means that no helper is run, not even the common store.
    /// `Err` is the key of a value that is not a name.
    fn own_helper(&self, host: &str) -> Option<Result<(&str, &str), &str>> {
        let helpers = self.cred_helpers.as_ref()?;
        let is_of_host = |text: &str| matches!(Key::parse(text).of(host), Some(key) if !key.is_wildcard && key.path.is_empty());
        let keys = helpers.iter().filter(|(text, _)| is_of_host(text));
        let (key, raw) = keys.min_by_key(|(text, _)| preference(host, text))?;
        Some(match serde_json::from_str::<Option<&str>>(raw.get()) {
            Ok(name) => Ok((key, name.unwrap_or_default())),
            Err(_) => Err(key),
        })
    }
}

/// Returns the usual keys of a host, the preferred ones first.
fn preferred(host: &str) -> Vec<String> {
    match host {
        "docker.io" => DOCKER_HUB_KEYS.map(str::to_owned).into(),
        _ => vec![host.to_owned()],
    }
}

fn preference(host: &str, key: &str) -> usize {
    let preferred = preferred(host);
    let position = preferred.iter().position(|other| other == key);
    position.unwrap_or(preferred.len())
}

/// Returns the configuration; `None` if it is absent and optional.
fn read(path: &Path, optional: bool) -> Result<Option<Config>, CredentialError> {
    let text = match read_bounded(path) {
        Ok(text) => text,
        Err(error) if optional && error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(source) => {
            let (path, source) = (path.to_owned(), Arc::new(source));
            return Err(CredentialError::Read { path, source });
        }
    };
    // Only the position is shown: the message of serde may quote a value, and values are secrets here.
    let config = serde_json::from_slice(&text).map_err(|error| CredentialError::Malformed {
        path: path.to_owned(),
        line: error.line(),
        column: error.column(),
    })?;
    Ok(Some(config))
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

/// Base64 as lenient as Go's, which wrote most of these files.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

/// The fields of an entry of `auths` that have a credential. Others are ignored, and empty ones count as absent.
#[derive(Default, Deserialize)]
struct Entry {
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
    identitytoken: Option<String>,
}

impl Entry {
    /// Returns the credential of an entry, `None` if it has none. An identity token precedes `auth`, and `auth` precedes
    /// user name and password, as in docker.
    fn credential(raw: &RawValue) -> Result<Option<Credential>, &'static str> {
        let entry: Option<Self> = serde_json::from_str(raw.get())
            .map_err(|_| "it is not an object of strings as docker login writes it")?;
        let entry = entry.unwrap_or_default();
        if let Some(token) = entry.identitytoken.filter(|token| !token.is_empty()) {
            return Ok(Some(Credential::IdentityToken(token.into())));
        }
        let auth = entry.auth.unwrap_or_default();
        let auth: String = auth.split_ascii_whitespace().collect();
        let (username, password) = if auth.is_empty() {
            let absent = String::new;
            (
                entry.username.unwrap_or_else(absent),
                entry.password.unwrap_or_else(absent),
            )
        } else {
            decoded(&auth).ok_or("auth is not base64 of user:password")?
        };
        if username.is_empty() && password.is_empty() {
            return Ok(None);
        }
        let password = password.into();
        Ok(Some(Credential::Login(Login { username, password })))
    }
}

fn decoded(auth: &str) -> Option<(String, String)> {
    let text = String::from_utf8(LENIENT.decode(auth).ok()?).ok()?;
    let (username, password) = text.split_once(':')?;
    // Old docker clients padded the password with NUL.
    let password = password.trim_matches('\0');
    Some((username.to_owned(), password.to_owned()))
}

#[cfg(test)]
mod tests;
