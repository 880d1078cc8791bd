//! What a request shows of a credential.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::header::HeaderValue;

/// What goes into `Authorization`.
pub(super) struct Proof {
    pub(super) header: HeaderValue,
    /// Whose it is; `None` for an anonymous token.
    pub(super) user: Option<String>,
    /// Whether the header is the password itself, so that a 401 means that it is wrong.
    pub(super) is_password: bool,
    /// Whether it is a token for several callers' scopes.
    pub(super) batched: bool,
}

pub(super) fn basic(user: &str, password: &str) -> Option<HeaderValue> {
    let encoded = STANDARD.encode(format!("{user}:{password}"));
    let mut header = HeaderValue::try_from(format!("Basic {encoded}")).ok()?;
    header.set_sensitive(true);
    Some(header)
}
