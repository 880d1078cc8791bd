//! What is known about logging in to one registry.

use super::auth_schemes::AuthSchemes;
use super::token_cache::TokenCache;
use crate::credentials::HostLogins;
use std::sync::Mutex;
use tokio::sync::Mutex as AsyncMutex;
use tokio::time::Instant;

/// What is known about logging in to one registry.
#[derive(Default)]
pub(super) struct Auth {
    pub(super) schemes: Mutex<AuthSchemes>,
    pub(super) tokens: Mutex<TokenCache>,
    pub(super) logins: AsyncMutex<Option<(Instant, HostLogins)>>,
}
