//! One entry of `auths`.

use super::super::login::{Credential, Login};
use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde::Deserialize;
use serde_json::value::RawValue;

/// Base64 as lenient as Go's, which wrote most of these files.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

/// The fields that hold a credential. Others are ignored, and empty ones count as absent.
#[derive(Default, Deserialize)]
pub(super) struct Entry {
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
    identitytoken: Option<String>,
}

impl Entry {
    /// The credential of an entry, `None` if it holds none. An identity token goes before `auth`, and `auth` before user
    /// name and password, as in docker.
    pub(super) fn credential(raw: &RawValue) -> Result<Option<Credential>, &'static str> {
        let entry: Option<Self> = serde_json::from_str(raw.get())
            .map_err(|_| "it is not an object of texts as docker login writes it")?;
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
    // Old docker clients filled up the password with NUL.
    let password = password.trim_matches('\0');
    Some((username.to_owned(), password.to_owned()))
}
