//! Authentication: the scheme that the registry requires, and the proof that a request carries.
//!
//! The first request is sent without a proof; a 401 names the scheme, and further requests for the same repository carry
//! their proof from the start. When the registry has accepted a login, requests for its other repositories carry it too.
//! Without a login, requests carry a proof only for repositories that were challenged themselves. Credentials are sent to
//! the registry that challenged, or to the token service that it names, and nowhere else.

use super::Registry;
use super::auth_schemes::{Proof, basic};
use super::auth_schemes::{Scheme, TokenService};
use super::challenge::Challenge;
use super::repository::Access;
use super::token::{Scopes, Token};
use super::token_cache::Batch;
use crate::credentials::{Credential, Login};
use crate::error::{RegistryError, Subject};
use crate::lock::lock;
use crate::text::clean;
use reqwest::header::HeaderValue;
use secrecy::ExposeSecret as _;
use std::sync::Arc;
use tokio::time::Instant;

impl Registry {
    /// Announces that this access will be needed soon, so that it is part of the next token request, if the token service
    /// accepts that.
    pub(crate) fn expect(&self, repository: &str, access: Access) {
        // An invalid name is an error of the request that uses it.
        if let Ok(repository) = self.repository(repository, access) {
            lock(&self.shared.auth.tokens).announce(repository.scopes);
        }
    }

    /// Returns the proof for a request, if one is known to be required. A scheme without a proof is forgotten: the request
    /// is then sent without one, and the registry decides.
    pub(super) async fn proof(
        &self,
        subject: &Subject,
        scopes: &Scopes,
    ) -> Result<Option<Proof>, RegistryError> {
        let Some(scheme) = lock(&self.shared.auth.schemes).find(scopes) else {
            return Ok(None);
        };
        let error = match self.proof_by(&scheme, subject, scopes, None).await {
            Ok(proof) => return Ok(Some(proof)),
            Err(error) => error,
        };
        lock(&self.shared.auth.schemes).forget(scopes);
        let is_final = matches!(
            error,
            RegistryError::Credentials { .. } | RegistryError::Lookup(_)
        );
        if is_final || error.retry().is_transient() {
            return Err(error);
        }
        tracing::debug!(%subject, %error, "no proof by the known scheme; sending the request without one");
        Ok(None)
    }

    async fn proof_by(
        &self,
        scheme: &Scheme,
        subject: &Subject,
        scopes: &Scopes,
        refused: Option<&HeaderValue>,
    ) -> Result<Proof, RegistryError> {
        match scheme {
            Scheme::Basic => self.password(subject, scopes, refused).await,
            Scheme::Bearer(service) => {
                let extra = Scopes::default();
                self.token(service, subject, scopes, &extra, refused).await
            }
        }
    }

    /// Returns a proof for this challenge, other than the one that was just refused.
    pub(super) async fn renewed(
        &self,
        subject: &Subject,
        scopes: &Scopes,
        challenge: Challenge,
        refused: Option<&Proof>,
    ) -> Result<Proof, RegistryError> {
        match challenge {
            Challenge::Basic => {
                let old = refused.map(|proof| &proof.header);
                let proof = self.password(subject, scopes, old).await?;
                if old == Some(&proof.header) {
                    return Err(self.refused(proof.user));
                }
                lock(&self.shared.auth.schemes).learn(scopes, &Scheme::Basic);
                Ok(proof)
            }
            Challenge::Bearer {
                realm,
                service,
                scope,
            } => {
                let (realm, allowance) = self.checked_realm(&realm)?;
                let service = Arc::new(TokenService {
                    realm,
                    service,
                    allowance,
                });
                let extra = scopes.missing_from(scope.as_deref());
                let old = refused.map(|proof| &proof.header);
                let proof = self.token(&service, subject, scopes, &extra, old).await?;
                lock(&self.shared.auth.schemes).learn(scopes, &Scheme::Bearer(service));
                Ok(proof)
            }
        }
    }

    /// Returns another proof instead of one that was refused by 403, which is no challenge: some registries respond so to an
    /// expired one, and to a token with fewer scopes than requested. Returns `None` if neither is the case, or if there is
    /// no other proof.
    pub(super) async fn replaced(
        &self,
        subject: &Subject,
        scopes: &Scopes,
        refusal: &RegistryError,
        refused: &Proof,
    ) -> Result<Option<Proof>, RegistryError> {
        if !refusal.says_expired() && !refused.batched {
            return Ok(None);
        }
        let Some(scheme) = lock(&self.shared.auth.schemes).find(scopes) else {
            return Ok(None);
        };
        let old = Some(&refused.header);
        let proof = self.proof_by(&scheme, subject, scopes, old).await?;
        Ok(Some(proof).filter(|proof| proof.header != refused.header))
    }

    /// Returns the error for a new proof that was refused; `None` if the response explains it better.
    pub(super) fn not_enough(&self, subject: &Subject, proof: &Proof) -> Option<RegistryError> {
        match &proof.user {
            None => Some(self.login_needed(subject)),
            Some(user) if proof.is_password => Some(self.refused(Some(user.clone()))),
            // A valid user without this right: the message of the registry explains it.
            Some(_) => None,
        }
    }

    /// Records that the registry accepted this proof.
    pub(super) fn accepted(&self, scopes: &Scopes, proof: &Proof) {
        if proof.user.is_some() {
            lock(&self.shared.auth.schemes).accept_login(scopes);
        }
    }

    /// Returns a proof of user and password. If they are the `refused` ones, they are looked up again: they may have been
    /// rotated since they were read.
    async fn password(
        &self,
        subject: &Subject,
        scopes: &Scopes,
        refused: Option<&HeaderValue>,
    ) -> Result<Proof, RegistryError> {
        let is_stale = |known: &Credential| match known {
            Credential::Login(login) => refused.is_some() && password_of(login).as_ref() == refused,
            Credential::IdentityToken(_) => false,
        };
        match self.credential(scopes, is_stale).await? {
            None => Err(self.login_needed(subject)),
            Some(Credential::Login(login)) => {
                let header = password_of(&login)
                    .ok_or_else(|| self.challenge_error("the user name cannot be part of a header"))?;
                Ok(Proof {
                    header,
                    user: Some(login.username),
                    is_password: true,
                    batched: false,
                })
            }
            Some(Credential::IdentityToken(_)) => Err(self.challenge_error(
                "it requires a user name and password, and the docker configuration has an identity token",
            )),
        }
    }

    /// Returns the credential for the repository of these scopes: the cached one, unless that is too old or `stale`.
    pub(super) async fn credential(
        &self,
        scopes: &Scopes,
        stale: impl Fn(&Credential) -> bool,
    ) -> Result<Option<Credential>, RegistryError> {
        let options = &self.shared.common.options;
        let repository = scopes.login_repository();
        let mut cached = self.shared.auth.logins.lock().await;
        if let Some((read, logins)) = cached.as_mut()
            && read.elapsed() < options.credential_life
        {
            let known = logins.find(repository).await;
            if let Ok(credential) = known
                && !credential.as_ref().is_some_and(stale)
            {
                return Ok(credential);
            }
        }
        let mut logins = options.credentials.lookup(self.host()).await?;
        let credential = logins.find(repository).await;
        if logins.has_paths() {
            // A token must not be requested with the login of one path and the scopes of another.
            lock(&self.shared.auth.tokens).stop_batching();
        }
        *cached = Some((Instant::now(), logins));
        Ok(credential?)
    }

    /// Returns a token for these scopes: a cached one if it is valid and not `refused`, else a new one, which is fetched
    /// once for all waiting requests.
    async fn token(
        &self,
        service: &Arc<TokenService>,
        subject: &Subject,
        scopes: &Scopes,
        extra: &Scopes,
        refused: Option<&HeaderValue>,
    ) -> Result<Proof, RegistryError> {
        let wanted = scopes.union(extra);
        let known = lock(&self.shared.auth.tokens).find(&wanted, refused);
        let token = match known {
            Some(token) => token,
            None => self.new_token(service, subject, &wanted, refused).await?,
        };
        Ok(Proof {
            header: token.header,
            user: token.user,
            is_password: false,
            batched: token.batched,
        })
    }

    async fn new_token(
        &self,
        service: &Arc<TokenService>,
        subject: &Subject,
        wanted: &Scopes,
        refused: Option<&HeaderValue>,
    ) -> Result<Token, RegistryError> {
        let fetch = lock(&self.shared.auth.tokens).fetch(wanted);
        let _fetching = fetch.lock().await;
        // Another request may have fetched it in the meantime.
        if let Some(token) = lock(&self.shared.auth.tokens).find(wanted, refused) {
            return Ok(token);
        }
        let must_reload = refused.is_some();
        // Reads the logins, of which there may be several, before scopes are combined.
        self.credential(wanted, |_| must_reload).await?;
        let mut batch = lock(&self.shared.auth.tokens).batch(wanted, &fetch);
        let mut fetched = self
            .fetch_token(service, subject, &batch.scopes, wanted)
            .await;
        if batch.batched && fetched.as_ref().is_err_and(is_refusal) {
            fetched = self.fetch_token(service, subject, wanted, wanted).await;
            if fetched.is_ok() {
                tracing::debug!(
                    host = self.host(),
                    "its token service accepts no scopes of several callers"
                );
                lock(&self.shared.auth.tokens).stop_batching();
            }
            batch = Batch {
                scopes: wanted.clone(),
                batched: false,
            };
        }
        let mut token = fetched.map_err(|error| self.not_about_content(error))?;
        token.batched = batch.batched;
        if batch.batched {
            // The other callers use it without a challenge of their own.
            let scheme = Scheme::Bearer(Arc::clone(service));
            lock(&self.shared.auth.schemes).learn(&batch.scopes, &scheme);
        }
        lock(&self.shared.auth.tokens).insert(batch.scopes, token.clone(), &fetch);
        Ok(token)
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

    /// A 404 of the token service is not about the image, whose absence has the same status.
    fn not_about_content(&self, error: RegistryError) -> RegistryError {
        match error.status() {
            Some(404) => self.challenge_error(&format!("its token service failed: {error}")),
            _ => error,
        }
    }

    pub(super) fn challenge_error(&self, reason: &str) -> RegistryError {
        RegistryError::Challenge {
            host: self.host().to_owned(),
            reason: reason.to_owned(),
        }
    }
}

/// Returns whether a token service refused these scopes, as opposed to a failure.
fn is_refusal(error: &RegistryError) -> bool {
    match error {
        RegistryError::Credentials { .. } | RegistryError::LoginNeeded { .. } => true,
        error => matches!(error.status(), Some(400..=499)) && !error.retry().is_transient(),
    }
}

fn password_of(login: &Login) -> Option<HeaderValue> {
    basic(&login.username, login.password.expose_secret())
}

#[cfg(test)]
mod tests;
