//! The value of a pull Secret: a docker configuration with logins by registry.
//!
//! A Secret may hold logins for other registries: of another installation, or for a former backup, which workloads that still
//! name its copies need. These are kept as long as the Secret exists, if they have the form of those that are written here:
//! any other entry could hide ours from kubelets, or make them refuse the whole configuration.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use mirror_contract::ImageRef;
use mirror_copy::Credential;
use secrecy::{ExposeSecret as _, SecretString};
use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

/// The key under which kubelets look up Docker Hub, as docker itself does.
const DOCKER_HUB_KEY: &str = "https://index.docker.io/v1/";
/// The user name that a registry expects with an identity token as password (Azure Container Registry). Kubelets send
/// nothing but a user and a password.
const TOKEN_USER: &str = "00000000-0000-0000-0000-000000000000";
/// Limit of kept logins for other registries. An installation that moves to yet another backup does not use the copies of
/// the first one any more.
const MAX_OTHERS: usize = 4;
/// Longest kept login, in bytes. Tokens have some thousand; a Secret has at most a million, and ours must fit in.
const MAX_OTHER: usize = 64 * 1024;
/// Logins of a configuration that are read. A configuration with more is always rewritten.
const MAX_READ: usize = 32;

/// The SHA-256 of a login in a Secret, compared and kept instead of the login.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Fingerprint([u8; 32]);

/// The login for the registry that keeps the copies.
#[derive(Debug)]
pub(super) struct DesiredLogin {
    key: Box<str>,
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

/// The logins for other registries that are kept.
#[derive(Default)]
pub(super) struct OtherLogins(Map<String, Value>);

impl Fingerprint {
    pub(super) fn of(text: &[u8]) -> Self {
        Self(Sha256::digest(text).into())
    }
}

/// Hidden, since the hash of a short password can be reversed.
impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Fingerprint(..)")
    }
}

impl DesiredLogin {
    /// `registry` is named as in image references.
    pub(super) fn new(registry: &str, credential: &Credential) -> Self {
        let login = match credential {
            Credential::Login(found) => {
                login(&found.username, found.password.expose_secret(), None)
            }
            Credential::IdentityToken(token) => {
                let token = token.expose_secret();
                login(TOKEN_USER, token, Some(token))
            }
        };
        let login = login.to_string();
        Self {
            key: key_of(registry).into(),
            fingerprint: Fingerprint::of(login.as_bytes()),
            login: login.into(),
        }
    }

    pub(super) fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    /// The value of the Secret's `.dockerconfigjson`.
    pub(super) fn encoded(&self, others: OtherLogins) -> SecretString {
        // It was serialized from a value, so it can be parsed.
        let login: Value = serde_json::from_str(self.login.expose_secret()).unwrap_or_default();
        STANDARD
            .encode(others.with(&self.key, login).to_string())
            .into()
    }
}

impl HeldLogins {
    /// The logins in a configuration; none if it cannot be read.
    pub(super) fn of(config: &[u8]) -> Self {
        let (logins, is_clean) = read(config);
        let hashed = |(key, login): (String, Value)| {
            let fingerprint = Fingerprint::of(login.to_string().as_bytes());
            (key.into_boxed_str(), fingerprint)
        };
        Self {
            is_clean: is_clean && logins.len() <= MAX_OTHERS + 1,
            logins: logins
                .into_iter()
                .take(MAX_OTHERS + 1)
                .map(hashed)
                .collect(),
        }
    }

    /// The login with this key, if nothing in the configuration can hide it from kubelets.
    pub(super) fn usable(&self, key: &str) -> Option<Fingerprint> {
        let login = self.logins.iter().find(|(held, _)| **held == *key);
        login
            .filter(|_| self.is_clean)
            .map(|(_, fingerprint)| *fingerprint)
    }

    pub(super) fn has(&self, key: &str) -> bool {
        self.logins.iter().any(|(held, _)| **held == *key)
    }

    pub(super) fn has_others(&self, key: &str) -> bool {
        self.logins.iter().any(|(held, _)| **held != *key)
    }
}

impl OtherLogins {
    /// The logins of a configuration that are kept beside the one with this key: the first few, ordered by key.
    pub(super) fn of(config: &[u8], key: &str) -> Self {
        let (mut logins, _) = read(config);
        logins.retain(|(other, login)| other != key && login.to_string().len() <= MAX_OTHER);
        logins.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
        logins.truncate(MAX_OTHERS);
        Self(logins.into_iter().collect())
    }

    /// A configuration with these and one more.
    pub(super) fn with(self, key: &str, login: Value) -> Value {
        let mut logins = self.0;
        logins.insert(key.to_owned(), login);
        json!({ "auths": logins })
    }
}

/// The key of the login for a registry, which is named as in image references.
pub(super) fn key_of(registry: &str) -> &str {
    if registry == mirror_contract::reference::DOCKER_HUB {
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
            Some(login) if is_new && logins.len() < MAX_READ && is_key(&key) => {
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

/// Returns whether a key names a whole registry in the form of [`key_of`]. Where two keys name the same registry, a kubelet
/// may use either.
fn is_key(key: &str) -> bool {
    let names_registry = |image: ImageRef<'_>| key_of(image.host()) == key;
    key == DOCKER_HUB_KEY || ImageRef::parse(&format!("{key}/any")).is_ok_and(names_registry)
}

#[cfg(test)]
mod tests;
