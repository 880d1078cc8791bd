//! What is in a pull Secret.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use mirror_copy::Credential;
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::dockerconfigjson::{Others, key_of, login};

/// Who a registry that takes an identity token as a password wants to see with it (Azure Container Registry). Kubelets
/// show nothing but a user and a password.
const TOKEN_USER: &str = "00000000-0000-0000-0000-000000000000";

/// The SHA-256 of a login in a Secret: what is compared and kept instead of the Secret.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Fingerprint([u8; 32]);

/// The login for one registry, as docker configurations hold it.
#[derive(Debug)]
pub(super) struct DesiredLogin {
    key: Box<str>,
    /// JSON.
    login: SecretString,
    fingerprint: Fingerprint,
}

impl Fingerprint {
    pub(super) fn of(text: &[u8]) -> Self {
        Self(Sha256::digest(text).into())
    }
}

/// Even the hash of a short password tells it, to who has time.
impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Fingerprint(..)")
    }
}

impl DesiredLogin {
    /// What lets `credential` be shown to `registry`, which is named as in references.
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

    /// The value of the Secret's `.dockerconfigjson`, with the logins that stay.
    pub(super) fn encoded(&self, others: Others) -> SecretString {
        // It was made from a value, so it is one.
        let login: Value = serde_json::from_str(self.login.expose_secret()).unwrap_or_default();
        STANDARD
            .encode(others.with(&self.key, login).to_string())
            .into()
    }
}

#[cfg(test)]
mod tests {
    use mirror_copy::Login;
    use rstest::rstest;
    use serde_json::json;

    use super::*;

    fn content(registry: &str, credential: &Credential) -> Value {
        let encoded = DesiredLogin::new(registry, credential).encoded(Others::default());
        let json = STANDARD.decode(encoded.expose_secret()).unwrap();
        serde_json::from_slice(&json).unwrap()
    }

    #[rstest]
    #[case("ghcr.io", "ghcr.io")]
    #[case("registry.local:5000", "registry.local:5000")]
    #[case("docker.io", "https://index.docker.io/v1/")]
    fn a_login_is_found_under_the_name_of_its_registry(#[case] registry: &str, #[case] key: &str) {
        let login = Credential::Login(Login {
            username: "robot".into(),
            password: "p:4".into(),
        });
        let expected = json!({ "auths": { key: {
            "username": "robot", "password": "p:4", "auth": "cm9ib3Q6cDo0",
        } } });
        assert_eq!(content(registry, &login), expected);
    }

    #[test]
    fn an_identity_token_is_a_password_too() {
        let token = Credential::IdentityToken("t0ken".into());
        let entry = &content("acme.azurecr.io", &token)["auths"]["acme.azurecr.io"];
        assert_eq!(entry["identitytoken"], "t0ken");
        assert_eq!(entry["password"], "t0ken");
        assert_eq!(entry["username"], TOKEN_USER);
    }

    #[test]
    fn nothing_of_it_can_be_printed() {
        let content = DesiredLogin::new("ghcr.io", &Credential::IdentityToken("t0ken".into()));
        let printed = format!("{content:?}");
        assert!(!printed.contains("t0ken"), "{printed}");
        assert!(printed.contains("Fingerprint(..)"), "{printed}");
    }
}
