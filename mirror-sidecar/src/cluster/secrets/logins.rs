//! The logins that a docker configuration holds, by registry.
//!
//! A Secret may hold logins for other registries than ours: another installation's, or the one for a former backup, which
//! workloads that still name its copies need. These stay as long as the Secret does, if they are just like those that are
//! written here: any other entry could hide ours from kubelets, or make them refuse the whole configuration.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use mirror_contract::ImageRef;
use serde_json::{Map, Value, json};

use super::content::Fingerprint;

/// The key under which kubelets look up Docker Hub, as docker itself does.
const DOCKER_HUB_KEY: &str = "https://index.docker.io/v1/";
/// Logins for other registries that stay. Who moves to yet another backup has the copies of the first one long behind.
const MAX_OTHERS: usize = 4;
/// Bytes of a login that stays. Tokens have some thousand; a Secret has at most a million, and ours must fit in.
const MAX_OTHER: usize = 64 * 1024;

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
    let auth = STANDARD.encode(format!("{username}:{password}"));
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
    let Ok(Value::Object(mut config)) = serde_json::from_slice(config) else {
        return (Vec::new(), false);
    };
    let Some(Value::Object(logins)) = config.remove("auths") else {
        return (Vec::new(), false);
    };
    let all = logins.len();
    let like_ours = |(key, login): &(String, Value)| is_key(key) && is_login(login);
    let logins: Vec<_> = logins.into_iter().filter(like_ours).collect();
    let is_clean = config.is_empty() && logins.len() == all;
    (logins, is_clean)
}

/// No pattern, no part of a registry, no second name of the same one: of two keys that match, kubelets choose one.
fn is_key(key: &str) -> bool {
    let names_registry = |image: ImageRef<'_>| key_of(image.host()) == key;
    key == DOCKER_HUB_KEY || ImageRef::parse(&format!("{key}/any")).is_ok_and(names_registry)
}

/// A kubelet refuses the whole configuration if one `auth` in it cannot be read.
fn is_login(value: &Value) -> bool {
    let text = |name| value.get(name).and_then(Value::as_str);
    let (Some(username), Some(password)) = (text("username"), text("password")) else {
        return false;
    };
    *value == login(username, password, text("identitytoken"))
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
