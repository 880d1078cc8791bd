//! Logging in: which scheme the registry wants, and the proof that goes with a request.
//!
//! Nothing is asked in advance. A request goes out with what is known, a 401 teaches the scheme,
//! and from then on requests carry their proof at once. Credentials go to the registry that
//! challenged, or to the token service that it names, and nowhere else.

use super::Registry;
use super::challenge::Challenge;
use super::token::{Scopes, Token};
use super::token_service::TokenService;
use crate::credentials::Credential;
use crate::error::{RegistryError, Subject};
use crate::text::clean;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::header::HeaderValue;
use secrecy::ExposeSecret as _;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::Mutex as AsyncMutex;
use tokio::time::Instant;

/// Scope sets whose tokens are remembered per host. Over this all are forgotten: they are cheap.
const MAX_TOKENS: usize = 1024;

type TokenSlot = Arc<AsyncMutex<Option<Token>>>;

/// What is known about logging in to one registry.
#[derive(Default)]
pub(super) struct Auth {
    scheme: Mutex<Option<Scheme>>,
    /// By joined scopes. The slot's lock is held while a token is fetched: single flight.
    tokens: Mutex<HashMap<String, TokenSlot>>,
    credential: AsyncMutex<Option<(Instant, Option<Credential>)>>,
}

#[derive(Clone)]
enum Scheme {
    Basic,
    Bearer(Arc<TokenService>),
}

/// What goes into `Authorization`.
pub(super) struct Proof {
    pub(super) header: HeaderValue,
    /// Whose it is; `None` for an anonymous token.
    pub(super) user: Option<String>,
    /// Whether the header is the password itself, so that a 401 means that it is wrong.
    pub(super) is_password: bool,
}

impl Registry {
    /// The proof for a request, if it is known yet that one is wanted.
    pub(super) async fn proof(
        &self,
        subject: &Subject,
        scopes: &Scopes,
    ) -> Result<Option<Proof>, RegistryError> {
        match self.scheme() {
            None => Ok(None),
            Some(Scheme::Basic) => self.password(subject, false).await.map(Some),
            Some(Scheme::Bearer(service)) => self
                .token(&service, subject, scopes, &Scopes::default(), None)
                .await
                .map(Some),
        }
    }

    /// A proof that answers this challenge, other than the one that was just refused.
    pub(super) async fn renewed(
        &self,
        subject: &Subject,
        scopes: &Scopes,
        challenge: Challenge,
        refused: Option<&Proof>,
    ) -> Result<Proof, RegistryError> {
        match challenge {
            Challenge::Basic => {
                self.learn(Scheme::Basic);
                // The file may have been rotated since it was read.
                let proof = self.password(subject, refused.is_some()).await?;
                match refused {
                    Some(old) if old.header == proof.header => Err(self.refused(proof.user)),
                    _ => Ok(proof),
                }
            }
            Challenge::Bearer {
                realm,
                service,
                scope,
            } => {
                let realm = self.checked_realm(&realm)?;
                let service = Arc::new(TokenService { realm, service });
                self.learn(Scheme::Bearer(Arc::clone(&service)));
                let extra = scopes.missing_from(scope.as_deref());
                let old = refused.map(|proof| &proof.header);
                self.token(&service, subject, scopes, &extra, old).await
            }
        }
    }

    /// The error for a proof that does not help, even fresh.
    pub(super) fn not_enough(&self, subject: &Subject, proof: &Proof) -> Option<RegistryError> {
        match &proof.user {
            None => Some(self.login_needed(subject)),
            Some(user) if proof.is_password => Some(self.refused(Some(user.clone()))),
            // A valid user without the right to this: the registry's own words say it best.
            Some(_) => None,
        }
    }

    fn scheme(&self) -> Option<Scheme> {
        self.shared
            .auth
            .scheme
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn learn(&self, scheme: Scheme) {
        *self
            .shared
            .auth
            .scheme
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Some(scheme);
    }

    async fn password(&self, subject: &Subject, anew: bool) -> Result<Proof, RegistryError> {
        match self.credential(anew).await? {
            None => Err(self.login_needed(subject)),
            Some(Credential::Login(login)) => {
                let header = basic(&login.username, login.password.expose_secret())
                    .ok_or_else(|| self.challenge_error("the user name cannot be sent"))?;
                Ok(Proof {
                    header,
                    user: Some(login.username),
                    is_password: true,
                })
            }
            Some(Credential::IdentityToken(_)) => Err(self.challenge_error(
                "it wants a user name and password, the docker configuration has an identity token",
            )),
        }
    }

    pub(super) async fn credential(&self, anew: bool) -> Result<Option<Credential>, RegistryError> {
        let options = &self.shared.common.options;
        let mut cached = self.shared.auth.credential.lock().await;
        if let Some((read, credential)) = &*cached
            && !anew
            && read.elapsed() < options.credential_life
        {
            return Ok(credential.clone());
        }
        let credential = options.credentials.lookup(self.host()).await?;
        *cached = Some((Instant::now(), credential.clone()));
        Ok(credential)
    }

    /// The token for these scopes: the cached one if it is fresh and not `refused`, else a new one,
    /// fetched once however many wait for it.
    async fn token(
        &self,
        service: &TokenService,
        subject: &Subject,
        scopes: &Scopes,
        extra: &Scopes,
        refused: Option<&HeaderValue>,
    ) -> Result<Proof, RegistryError> {
        let slot = self.token_slot(scopes);
        let mut slot = slot.lock().await;
        slot.take_if(|token| Some(&token.header) == refused || token.renew_at <= Instant::now());
        let token = if let Some(token) = &*slot {
            token.clone()
        } else {
            let wanted = scopes.union(extra);
            let token = self
                .fetch_token(service, subject, &wanted, refused.is_some())
                .await?;
            slot.insert(token).clone()
        };
        Ok(Proof {
            header: token.header,
            user: token.user,
            is_password: false,
        })
    }

    fn token_slot(&self, scopes: &Scopes) -> TokenSlot {
        let mut tokens = self
            .shared
            .auth
            .tokens
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if tokens.len() >= MAX_TOKENS {
            tokens.clear();
        }
        Arc::clone(tokens.entry(scopes.joined()).or_default())
    }

    pub(super) fn refused(&self, user: Option<String>) -> RegistryError {
        let user = clean(&user.unwrap_or_default());
        RegistryError::Credentials {
            host: self.host().to_owned(),
            user,
        }
    }

    pub(super) fn login_needed(&self, subject: &Subject) -> RegistryError {
        RegistryError::LoginNeeded {
            host: self.host().to_owned(),
            subject: subject.clone(),
        }
    }

    pub(super) fn challenge_error(&self, reason: &str) -> RegistryError {
        RegistryError::Challenge {
            host: self.host().to_owned(),
            reason: reason.to_owned(),
        }
    }
}

pub(super) fn basic(user: &str, password: &str) -> Option<HeaderValue> {
    let encoded = STANDARD.encode(format!("{user}:{password}"));
    let mut header = HeaderValue::try_from(format!("Basic {encoded}")).ok()?;
    header.set_sensitive(true);
    Some(header)
}
