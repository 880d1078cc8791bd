//! Basic authentication of the facade.

use axum::http::HeaderValue;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use secrecy::ExposeSecret as _;
use sha2::{Digest as _, Sha256};

use crate::args::FacadeLogin;

/// The credentials that a request must present by Basic authentication (RFC 7617), kept as a hash.
pub struct FacadeAuth {
    expected: [u8; 32],
}

impl FacadeAuth {
    pub fn new(login: &FacadeLogin) -> Self {
        let pair = format!("{}:{}", login.username, login.password.expose_secret());
        Self {
            expected: Sha256::digest(pair).into(),
        }
    }

    /// Checks the value of an `Authorization` header. Hashes are compared, so the duration reveals nothing about the password.
    pub(super) fn allows(&self, authorization: Option<&HeaderValue>) -> bool {
        let presented = authorization
            .and_then(|value| value.to_str().ok())
            .and_then(|value| value.split_once(' '))
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("basic"))
            .and_then(|(_, encoded)| STANDARD.decode(encoded.trim()).ok());
        presented.is_some_and(|pair| <[u8; 32]>::from(Sha256::digest(pair)) == self.expected)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case::right(Some("Basic cG9saWN5OnM6M2NyZXQ="), true)]
    #[case::scheme_in_any_case(Some("basic cG9saWN5OnM6M2NyZXQ="), true)]
    #[case::wrong_password(Some("Basic cG9saWN5Ondyb25n"), false)]
    #[case::other_scheme(Some("Bearer cG9saWN5OnM6M2NyZXQ="), false)]
    #[case::not_base64(Some("Basic ???"), false)]
    #[case::empty(Some(""), false)]
    #[case::absent(None, false)]
    fn only_the_right_credentials(#[case] header: Option<&str>, #[case] allowed: bool) {
        let auth = FacadeAuth::new(&FacadeLogin {
            username: "policy".into(),
            password: "s:3cret".into(),
        });
        let header = header.map(|text| HeaderValue::from_str(text).unwrap());
        assert_eq!(auth.allows(header.as_ref()), allowed);
    }
}
