//! The value of a pull Secret: a docker configuration with logins by registry.
//!
//! A Secret may hold logins that this service does not know: of another installation, or for a former backup, which workloads
//! that still name its copies need. These are kept as long as the Secret exists, if they have the form of those that are
//! written here: any other entry could hide ours from kubelets, or make them refuse the whole configuration.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use mirror_contract::ImageRef;
use mirror_contract::reference::DOCKER_HUB;
use mirror_copy::Credential;
use secrecy::{ExposeSecret as _, SecretString};
use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

use crate::cluster::login_access::MAX_LOGINS;

/// The key under which kubelets look up Docker Hub, as docker itself does.
const DOCKER_HUB_KEY: &str = "https://index.docker.io/v1/";
/// The user name that a registry expects with an identity token as password (Azure Container Registry). Kubelets send
/// nothing but a user and a password.
const TOKEN_USER: &str = "00000000-0000-0000-0000-000000000000";
/// Limit of kept logins that are not in the configuration. An installation that moves to yet another backup does not use the
/// copies of the first one any more.
pub(super) const MAX_OTHERS: usize = 4;
/// Longest kept login of others, in bytes. Tokens have some thousand.
const MAX_OTHER: usize = 64 * 1024;
/// Longest login that is written, in bytes.
pub(super) const MAX_LOGIN: usize = 256 * 1024;
/// Longest configuration that is written, in bytes. In Base64 it is short enough to be read again, and a Secret has at most
/// 1 MiB.
pub(super) const MAX_CONFIGURATION: usize = 360 * 1024;
/// Bytes of an entry besides its key and its login: quotes, colon, comma.
const ENTRY_OVERHEAD: usize = 4;
/// Logins of a configuration that are read. A configuration with more is always rewritten.
const MAX_READ: usize = MAX_LOGINS + 32;

/// The SHA-256 of a login in a Secret, compared and kept instead of the login.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Fingerprint([u8; 32]);

/// A login as it is written.
#[derive(Debug)]
pub(super) struct DesiredLogin {
    /// JSON.
    login: SecretString,
    fingerprint: Fingerprint,
}

/// The logins in a configuration. Only their hashes are kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct HeldLogins {
    logins: Box<[(Box<str>, Fingerprint)]>,
    /// The configuration holds nothing else, and not too many.
    is_clean: bool,
}

/// The logins in a configuration, with their passwords.
#[derive(Default)]
pub(super) struct StoredLogins(Vec<(String, Value)>);

/// A configuration that is being composed.
#[derive(Default)]
pub(super) struct Configuration {
    logins: Map<String, Value>,
    bytes: usize,
}

impl Fingerprint {
    pub(super) fn of(text: &[u8]) -> Self {
        Self(Sha256::digest(text).into())
    }

    pub(super) fn of_login(login: &Value) -> Self {
        Self::of(login.to_string().as_bytes())
    }

    /// Returns one fingerprint for several logins with their keys.
    pub(super) fn of_all<'a>(logins: impl Iterator<Item = (&'a str, Self)>) -> Self {
        let mut hash = Sha256::new();
        for (key, Self(fingerprint)) in logins {
            hash.update(key.as_bytes());
            // Ends the key.
            hash.update([0]);
            hash.update(fingerprint);
        }
        Self(hash.finalize().into())
    }
}

/// Hidden, since the hash of a short password can be reversed.
impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Fingerprint(..)")
    }
}

impl DesiredLogin {
    pub(super) fn new(credential: &Credential) -> Self {
        let login = match credential {
            Credential::Login(found) => {
                login(&found.username, found.password.expose_secret(), None)
            }
            Credential::IdentityToken(token) => {
                let token = token.expose_secret();
                login(TOKEN_USER, token, Some(token))
            }
        };
        Self {
            fingerprint: Fingerprint::of_login(&login),
            login: login.to_string().into(),
        }
    }

    pub(super) fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    /// The login in a configuration.
    pub(super) fn value(&self) -> Value {
        // It was serialized from a value, so it can be parsed.
        serde_json::from_str(self.login.expose_secret()).unwrap_or_default()
    }

    /// Bytes in a configuration.
    pub(super) fn bytes(&self, key: &str) -> usize {
        entry_bytes(key, self.login.expose_secret().len())
    }
}

impl HeldLogins {
    /// The logins in a configuration; none if it cannot be read.
    pub(super) fn of(config: &[u8]) -> Self {
        const MAX_HELD: usize = MAX_LOGINS + MAX_OTHERS;
        let (logins, is_clean) = read(config);
        let hashed = |(key, login): (String, Value)| {
            let fingerprint = Fingerprint::of_login(&login);
            (key.into_boxed_str(), fingerprint)
        };
        Self {
            is_clean: is_clean && logins.len() <= MAX_HELD,
            logins: logins.into_iter().take(MAX_HELD).map(hashed).collect(),
        }
    }

    pub(super) fn get(&self, key: &str) -> Option<Fingerprint> {
        let (_, fingerprint) = self.iter().find(|(held, _)| *held == key)?;
        Some(fingerprint)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, Fingerprint)> {
        let logins = self.logins.iter();
        logins.map(|(key, fingerprint)| (&**key, *fingerprint))
    }

    /// Returns whether the configuration holds nothing but these logins.
    pub(super) fn is_clean(&self) -> bool {
        self.is_clean
    }
}

impl StoredLogins {
    /// The logins in a configuration that have the form of those that are written here, ordered by key.
    pub(super) fn of(config: &[u8]) -> Self {
        let (mut logins, _) = read(config);
        logins.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
        Self(logins)
    }

    pub(super) fn get(&self, key: &str) -> Option<&Value> {
        let (_, login) = self.0.iter().find(|(stored, _)| stored == key)?;
        Some(login)
    }

    /// Returns the logins that are short enough to be kept for others.
    pub(super) fn short(&self) -> impl Iterator<Item = (&str, &Value, Fingerprint)> {
        self.0.iter().filter_map(|(key, login)| {
            let text = login.to_string();
            let fingerprint = Fingerprint::of(text.as_bytes());
            (text.len() <= MAX_OTHER).then_some((key.as_str(), login, fingerprint))
        })
    }
}

impl Configuration {
    /// Adds a login, if the configuration does not get too long.
    pub(super) fn add(&mut self, key: &str, login: Value) -> bool {
        let bytes = self.bytes + entry_bytes(key, login.to_string().len());
        let fits = bytes <= MAX_CONFIGURATION;
        if fits {
            self.bytes = bytes;
            self.logins.insert(key.to_owned(), login);
        }
        fits
    }

    pub(super) fn held(&self) -> HeldLogins {
        HeldLogins::of(self.text().as_bytes())
    }

    /// The value of the Secret's `.dockerconfigjson`.
    pub(super) fn encoded(&self) -> SecretString {
        STANDARD.encode(self.text()).into()
    }

    fn text(&self) -> String {
        json!({ "auths": self.logins }).to_string()
    }
}

fn entry_bytes(key: &str, login: usize) -> usize {
    key.len()
        .saturating_add(login)
        .saturating_add(ENTRY_OVERHEAD)
}

/// The key of the login for a part of a registry, which is named as in image references. Kubelets find it for all images whose
/// repository begins with this path, and try longer keys first. Docker Hub has one key.
pub(super) fn key_for(registry: &str, path: &str) -> String {
    match key_of(registry) {
        DOCKER_HUB_KEY => DOCKER_HUB_KEY.to_owned(),
        key if path.is_empty() => key.to_owned(),
        key => format!("{key}/{path}"),
    }
}

/// Returns the registry and the path of a key in the form of [`key_for`]. Where two keys name the same location, a kubelet may
/// use either.
pub(super) fn parse_key(key: &str) -> Option<(&str, &str)> {
    if key == DOCKER_HUB_KEY {
        return Some((DOCKER_HUB, ""));
    }
    let (host, path) = key.split_once('/').unwrap_or((key, ""));
    let text = format!("{key}/any");
    let image = ImageRef::parse(&text).ok()?;
    let found = image.path().strip_suffix("any")?;
    let is_same = key_of(image.host()) == host && found.strip_suffix('/').unwrap_or(found) == path;
    is_same.then_some((host, path))
}

/// The key of the login for a registry, which is named as in image references.
fn key_of(registry: &str) -> &str {
    if registry == DOCKER_HUB {
        DOCKER_HUB_KEY
    } else {
        registry
    }
}

/// Older kubelets read `username` and `password`, most other programs `auth`.
pub(super) fn login(username: &str, password: &str, identity_token: Option<&str>) -> Value {
    let auth = auth_of(username, password);
    let fields = [
        ("username", Some(username)),
        ("password", Some(password)),
        ("auth", Some(auth.as_str())),
        ("identitytoken", identity_token),
    ];
    let given = fields
        .into_iter()
        .filter_map(|(name, value)| Some((name.to_owned(), json!(value?))));
    Value::Object(given.collect())
}

fn auth_of(username: &str, password: &str) -> String {
    STANDARD.encode(format!("{username}:{password}"))
}

/// Returns the logins of the form that is written here, and whether there is nothing else.
fn read(config: &[u8]) -> (Vec<(String, Value)>, bool) {
    let fields = |text| serde_json::from_str::<Fields>(text);
    let Ok(Fields(config)) = serde_json::from_slice(config) else {
        return (Vec::new(), false);
    };
    let is_auths = |(name, _): &&(String, _)| name == "auths";
    let auths = config.iter().find(is_auths).map(|(_, auths)| auths.get());
    // A field that is given twice counts as another one: a kubelet merges both.
    let mut is_clean = config.len() == 1 && auths.is_some();
    let mut logins: Vec<(String, Value)> = Vec::new();
    let Ok(Fields(entries)) = auths.map_or(Ok(Fields::default()), fields) else {
        return (Vec::new(), false);
    };
    for (key, entry) in entries {
        let is_new = logins.iter().all(|(other, _)| *other != key);
        match well_formed(entry) {
            Some(login) if is_new && logins.len() < MAX_READ && parse_key(&key).is_some() => {
                logins.push((key, login));
            }
            _ => is_clean = false,
        }
    }
    (logins, is_clean)
}

/// The fields of an object, those with the same name too. Values stay text, because anybody who may write Secrets chooses
/// what is parsed here, and values take up to a hundred times the memory of their text.
#[derive(Default)]
struct Fields<'a>(Vec<(String, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for Fields<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct FieldsVisitor;

        impl<'de> Visitor<'de> for FieldsVisitor {
            type Value = Fields<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<Fields<'de>, A::Error> {
                let mut fields = Vec::new();
                while let Some(field) = object.next_entry()? {
                    fields.push(field);
                }
                Ok(Fields(fields))
            }
        }

        deserializer.deserialize_map(FieldsVisitor)
    }
}

/// The fields of a login, which are strings: parsed as values, they take little more than their text.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    username: String,
    password: String,
    #[serde(rename = "auth")]
    _auth: String,
    identitytoken: Option<String>,
}

/// Returns the login if it is what [`login`] returns. A kubelet refuses the whole configuration if it cannot read one `auth`.
fn well_formed(entry: &RawValue) -> Option<Value> {
    let read: Entry = serde_json::from_str(entry.get()).ok()?;
    let expected = login(
        &read.username,
        &read.password,
        read.identitytoken.as_deref(),
    );
    let held: Value = serde_json::from_str(entry.get()).ok()?;
    (held == expected).then_some(held)
}

#[cfg(test)]
mod tests;
