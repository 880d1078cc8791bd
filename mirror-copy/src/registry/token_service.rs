//! Requests to a token service (the token specification of distribution, and its OAuth 2 variant).

use super::Registry;
use super::auth_schemes::TokenService;
use super::auth_schemes::basic;
use super::response::{bounded_body, error_text, retry_after};
use super::token::{Scopes, Token, TokenResponse};
use crate::address_policy::Allowance;
use crate::credentials::Credential;
use crate::error::{Operation, RegistryError, Subject};
use crate::registries::clients::Pool;
use crate::text::{clean, public_url};
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE};
use reqwest::{Method, Response, Url};
use secrecy::ExposeSecret as _;
use tokio::time::{Instant, timeout};

/// Maximum size of the response of a token service, in bytes: two tokens of the maximum size and other fields. A request may
/// hold as much without waiting.
const MAX_TOKEN_RESPONSE: u64 = 64 * 1024;

impl Registry {
    /// Fetches a token, with the login for the scopes `login_of` as it was last read.
    pub(super) async fn fetch_token(
        &self,
        service: &TokenService,
        subject: &Subject,
        scopes: &Scopes,
        login_of: &Scopes,
    ) -> Result<Token, RegistryError> {
        let requested = Instant::now();
        let credential = self.credential(login_of, |_| false).await?;
        let user = match &credential {
            None => None,
            Some(Credential::Login(login)) => Some(login.username.clone()),
            Some(Credential::IdentityToken(_)) => Some("<identity token>".to_owned()),
        };
        tracing::debug!(
            host = self.host(), realm = %public_url(&service.realm), scopes = scopes.joined(),
            user, "fetching a token"
        );
        let response = self
            .request_token(service, scopes, credential.as_ref())
            .await?;
        match response.status().as_u16() {
            200..=299 => {}
            401 | 403 if user.is_some() => return Err(self.refused(user)),
            401 | 403 => return Err(self.login_needed(subject)),
            _ => return Err(self.token_refused(response).await),
        }
        let idle = self.timeouts().idle;
        let subject = self.token_subject();
        let reservation = self.reservation();
        let body = bounded_body(response, &subject, MAX_TOKEN_RESPONSE, idle, &reservation).await?;
        TokenResponse::read(body.as_ref())
            .and_then(|response| response.into_token(requested, user))
            .ok_or_else(|| {
                self.challenge_error("its token service responds without a usable token")
            })
    }

    /// Sends GET, with Basic authentication if there is a login (token specification of distribution), or POST with the
    /// refresh grant for an identity token (its OAuth 2 variant).
    async fn request_token(
        &self,
        service: &TokenService,
        scopes: &Scopes,
        credential: Option<&Credential>,
    ) -> Result<Response, RegistryError> {
        let subject = self.token_subject();
        let mut url = service.realm.clone();
        let client = self.client_for(&subject, &url, Pool::Small, service.allowance)?;
        let request = if let Some(Credential::IdentityToken(secret)) = credential {
            let mut form = url::form_urlencoded::Serializer::new(String::new());
            form.append_pair("grant_type", "refresh_token")
                .append_pair("client_id", "image-mirror")
                .append_pair("service", service.service.as_deref().unwrap_or_default())
                .append_pair("scope", &scopes.joined())
                .append_pair("refresh_token", secret.expose_secret());
            let request = client.request(Method::POST, url);
            request
                .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
                .body(form.finish())
        } else {
            {
                let mut query = url.query_pairs_mut();
                if let Some(service) = &service.service {
                    query.append_pair("service", service);
                }
                for scope in scopes.iter() {
                    query.append_pair("scope", scope);
                }
            }
            let request = client.request(Method::GET, url);
            match credential {
                Some(Credential::Login(login)) => {
                    let header = basic(&login.username, login.password.expose_secret())
                        .ok_or_else(|| {
                            self.challenge_error("the user name cannot be part of a header")
                        })?;
                    request.header(AUTHORIZATION, header)
                }
                _ => request,
            }
        };
        self.count_request();
        let idle = self.timeouts().idle;
        match timeout(idle, request.send()).await {
            Ok(Ok(response)) => {
                self.record_peer(&service.realm, &response);
                Ok(response)
            }
            Ok(Err(error)) => Err(self.transport_error(&subject, &service.realm, error)),
            Err(_) => Err(RegistryError::Timeout {
                subject,
                after: idle,
            }),
        }
    }

    /// Parses and checks the realm of a challenge. Passwords are sent to it, so it must be HTTPS, unless the registry itself
    /// uses plain HTTP.
    pub(super) fn checked_realm(&self, realm: &str) -> Result<(Url, Allowance), RegistryError> {
        let url = Url::parse(realm).map_err(|_| self.challenge_error("its realm is not a URL"))?;
        let shown = clean(&public_url(&url));
        let bad = |why: &str| self.challenge_error(&format!("its realm {shown} {why}"));
        match url.scheme() {
            "https" => {}
            "http" if self.shared.endpoint.insecure => {}
            _ => return Err(bad("is not HTTPS")),
        }
        let allowance = self.allowance_for(&url);
        match self.barred(&url, allowance) {
            None => Ok((url, allowance)),
            Some(barred) => Err(bad(&self.barred_text(barred))),
        }
    }

    async fn token_refused(&self, response: Response) -> RegistryError {
        let status = response.status();
        let retry_after = retry_after(response.headers(), self.retry_policy().max_retry_after);
        let (code, message) = error_text(response).await;
        self.status_error(self.token_subject(), status, code, message, retry_after)
    }

    fn token_subject(&self) -> Subject {
        let object = format!("registry {}", self.host());
        Subject {
            operation: Operation::Token,
            object,
        }
    }
}
