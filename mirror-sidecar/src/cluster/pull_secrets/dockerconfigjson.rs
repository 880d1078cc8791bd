//! The logins that a docker configuration holds, by registry.
//!
//! A Secret may hold logins for other registries than ours: another installation's, or the one for a former backup, which
//! workloads that still name its copies need. These stay as long as the Secret does, if they are just like those that are
//! written here: any other entry could hide ours from kubelets, or make them refuse the whole configuration.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use mirror_contract::ImageRef;
use serde::de::MapAccess;
use serde_json::{Map, Value, json};

use super::login::Fingerprint;
use crate::cluster::lenient::{self, Lenient, skip, value};

/// The key under which kubelets look up Docker Hub, as docker itself does.
const DOCKER_HUB_KEY: &str = "https://index.docker.io/v1/";
/// Logins for other registries that stay. Who moves to yet another backup has the copies of the first one long behind.
const MAX_OTHERS: usize = 4;
/// Bytes of a login that stays. Tokens have some thousand; a Secret has at most a million, and ours must fit in.
const MAX_OTHER: usize = 64 * 1024;

/// Logins of a configuration that are read. One with more is not as it should be, whatever is in it.
const MAX_READ: usize = 32;

/// Which logins a configuration holds. Only their hashes are kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Held {
    logins: Box<[(Box<str>, Fingerprint)]>,
    /// Whether it holds nothing else, and not too much.
    is_clean: bool,
}

/// The logins for other registries that stay.
#[derive(Default)]
pub(super) struct Others(Map<String, Value>);

/// The key of the login for a registry, which is named as in references.
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

impl Held {
    /// What is in a configuration. One that cannot be read holds nothing.
    pub(super) fn of(config: &[u8]) -> Self {
        let (logins, is_clean) = read(config);
        let hashed = |(key, login): (String, Value)| {
            let fingerprint = Fingerprint::of(login.to_string().as_bytes());
            (key.into_boxed_str(), fingerprint)
        };
        Self {
            is_clean: is_clean && logins.len() <= MAX_OTHERS + 1,
            // With more than that it is not as it should be, whichever they are.
            logins: logins
                .into_iter()
                .take(MAX_OTHERS + 1)
                .map(hashed)
                .collect(),
        }
    }

    /// The login with this key, if kubelets can be relied on to use it.
    pub(super) fn usable(&self, key: &str) -> Option<Fingerprint> {
        let login = self.logins.iter().find(|(held, _)| **held == *key);
        login
            .filter(|_| self.is_clean)
            .map(|(_, fingerprint)| *fingerprint)
    }

    /// Whether there is a login with this key.
    pub(super) fn has(&self, key: &str) -> bool {
        self.logins.iter().any(|(held, _)| **held == *key)
    }

    /// Whether there are logins with other keys.
    pub(super) fn has_others(&self, key: &str) -> bool {
        self.logins.iter().any(|(held, _)| **held != *key)
    }
}

impl Others {
    /// Those of a configuration that stay beside the login with this key: the first few in the order of their names.
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

/// The logins that are like ours, and whether there is nothing else.
fn read(config: &[u8]) -> (Vec<(String, Value)>, bool) {
    let mut deserializer = serde_json::Deserializer::from_slice(config);
    let read: Result<Config, _> = lenient::read(&mut deserializer);
    match read.and_then(|config| deserializer.end().map(|()| config)) {
        Ok(config) => (
            config.auths.logins,
            !config.has_more && !config.auths.has_more,
        ),
        Err(_) => (Vec::new(), false),
    }
}

/// A docker configuration, of which only what is like ours is kept: whoever may write a Secret is its author.
#[derive(Default)]
struct Config {
    auths: Auths,
    has_more: bool,
}

#[derive(Default)]
struct Auths {
    logins: Vec<(String, Value)>,
    has_more: bool,
}

#[derive(Default)]
struct Login {
    username: Text,
    password: Text,
    auth: Text,
    identity_token: Text,
    has_more: bool,
}

/// A text; `None` if it is anything else.
#[derive(Default)]
struct Text(Option<String>);

impl Lenient for Text {
    fn take_text(&mut self, text: &str) {
        self.0 = Some(text.to_owned());
    }
}

impl Lenient for Config {
    fn take_field<'de, A: MapAccess<'de>>(
        &mut self,
        name: &str,
        object: &mut A,
    ) -> Result<(), A::Error> {
        if name == "auths" {
            self.auths = value(object)?;
            Ok(())
        } else {
            self.has_more = true;
            skip(object)
        }
    }
}

impl Lenient for Auths {
    fn take_field<'de, A: MapAccess<'de>>(
        &mut self,
        name: &str,
        object: &mut A,
    ) -> Result<(), A::Error> {
        let login = value::<Login, A>(object)?.if_like_ours();
        let is_new = self.logins.iter().all(|(key, _)| key != name);
        match login.filter(|_| is_new && is_key(name)) {
            Some(login) if self.logins.len() < MAX_READ => {
                self.logins.push((name.to_owned(), login));
            }
            _ => self.has_more = true,
        }
        Ok(())
    }
}

impl Lenient for Login {
    fn take_field<'de, A: MapAccess<'de>>(
        &mut self,
        name: &str,
        object: &mut A,
    ) -> Result<(), A::Error> {
        let field = match name {
            "username" => &mut self.username,
            "password" => &mut self.password,
            "auth" => &mut self.auth,
            "identitytoken" => &mut self.identity_token,
            _ => {
                self.has_more = true;
                return skip(object);
            }
        };
        *field = value(object)?;
        self.has_more |= field.0.is_none();
        Ok(())
    }
}

impl Login {
    /// A kubelet refuses the whole configuration if one `auth` in it cannot be read.
    fn if_like_ours(self) -> Option<Value> {
        let Self {
            username: Text(Some(username)),
            password: Text(Some(password)),
            auth: Text(Some(auth)),
            identity_token,
            has_more: false,
        } = self
        else {
            return None;
        };
        if auth != auth_of(&username, &password) {
            return None;
        }
        Some(login(&username, &password, identity_token.0.as_deref()))
    }
}

/// No pattern, no part of a registry, no second name of the same one: of two keys that match, kubelets choose one.
fn is_key(key: &str) -> bool {
    let names_registry = |image: ImageRef<'_>| key_of(image.host()) == key;
    key == DOCKER_HUB_KEY || ImageRef::parse(&format!("{key}/any")).is_ok_and(names_registry)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn held(config: &Value) -> Held {
        Held::of(config.to_string().as_bytes())
    }

    #[rstest]
    #[case::one(json!({ "auths": { "a.example": login("u", "p", None) } }), true)]
    #[case::two(json!({ "auths": { "a.example": login("u", "p", None), "b.example:5000": login("u", "p", None) } }), true)]
    #[case::docker_hub(json!({ "auths": { "a.example": login("u", "p", None), DOCKER_HUB_KEY: login("u", "p", None) } }), true)]
    #[case::none(json!({ "auths": {} }), false)]
    #[case::nothing(json!({}), false)]
    #[case::a_list(json!([]), false)]
    #[case::something_else(json!({ "auths": { "a.example": login("u", "p", None) }, "credsStore": "x" }), false)]
    #[case::in_another_case(json!({ "auths": { "a.example": login("u", "p", None) }, "Auths": {} }), false)]
    #[case::a_broken_login(json!({ "auths": { "a.example": login("u", "p", None), "b.example": { "auth": "%" } } }), false)]
    #[case::two_passwords(json!({ "auths": { "a.example": { "username": "u", "password": "p", "auth": "dTpx" } } }), false)]
    #[case::a_part(json!({ "auths": { "a.example": login("u", "p", None), "a.example/b": login("u", "p", None) } }), false)]
    #[case::a_pattern(json!({ "auths": { "a.example": login("u", "p", None), "*.example": login("u", "p", None) } }), false)]
    #[case::upper_case(json!({ "auths": { "a.example": login("u", "p", None), "A.example": login("u", "p", None) } }), false)]
    #[case::docker_hub_by_its_name(json!({ "auths": { "a.example": login("u", "p", None), "docker.io": login("u", "p", None) } }), false)]
    #[case::nobodys(json!({ "auths": { "a.example": login("u", "p", None), "": login("u", "p", None) } }), false)]
    fn a_login_is_usable_if_nothing_can_hide_it(#[case] config: Value, #[case] is_usable: bool) {
        assert_eq!(held(&config).usable("a.example").is_some(), is_usable);
    }

    #[test]
    fn what_stays_is_small() {
        let mut logins = Map::new();
        for number in 0..9 {
            logins.insert(format!("{number}.example"), login("u", "p", None));
        }
        logins.insert(
            "0.example".to_owned(),
            login("u", &"p".repeat(MAX_OTHER), None),
        );
        let config = json!({ "auths": logins });
        let others = Others::of(config.to_string().as_bytes(), "2.example");
        let merged = others.with("2.example", login("u", "new", None));
        let keys: Vec<_> = merged["auths"].as_object().unwrap().keys().collect();
        assert_eq!(
            keys,
            [
                "1.example",
                "2.example",
                "3.example",
                "4.example",
                "5.example"
            ]
        );
        let expected = Fingerprint::of(login("u", "new", None).to_string().as_bytes());
        assert!(held(&merged).usable("2.example") == Some(expected));
        assert!(held(&config).usable("2.example").is_none());
    }

    #[test]
    fn a_password_is_never_shown() {
        let config = json!({ "auths": { "a.example": login("u", "s3cret", None) } });
        let printed = format!("{:?}", held(&config));
        assert!(printed.contains("a.example") && printed.contains("Fingerprint(..)"));
        assert!(!printed.contains("s3cret"), "{printed}");
    }
}
