//! Credentials.

use secrecy::SecretString;
use std::fmt;

/// A user name and its password, or a robot account and its token.
#[derive(Clone)]
pub struct Login {
    /// The user name. It may be part of errors.
    pub username: String,
    /// The password. It is never part of errors or logs.
    pub password: SecretString,
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Login")
            .field("username", &self.username)
            .finish_non_exhaustive()
    }
}

/// A credential for a registry.
#[derive(Clone, Debug)]
pub enum Credential {
    /// A login, sent by Basic authentication to the registry or to its token service.
    Login(Login),
    /// An OAuth 2 refresh token, sent to the token service only.
    IdentityToken(SecretString),
}
